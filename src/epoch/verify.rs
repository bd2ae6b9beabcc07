//! Proof by comparison: the same SQL in batch over everything the pipeline has read, held against what it wrote.
//!
//! The sources are read again from where they begin to where the pipeline's last epoch ended, so they must still have those
//! records. All rows are held in memory. Rows that operators hold back until their time is complete are not owed yet: they are what the
//! operators' state emits when time ends ([`withheld`]).

mod compare;
mod excuses;
mod reread;
mod withheld;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::UInt64Array;
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;

pub(super) use self::compare::{Withheld, compare};
use self::compare::{in_order, one_of_each_key, those_found};
use self::reread::{Letters, Marks, Reread, reread};
use self::withheld::withheld;
use super::prepare::Surroundings;
use crate::catalog::{Catalog, PipelineDef};
use crate::delta::{Table, TableStore};
use crate::error::{Context, Result};
use crate::evaluate::{cause, is_of_row};
use crate::plan::{Batch, Dataflow, FunctionSet, Targets, batch, collect_computable, volatile_functions};
use crate::state::Manifest;

/// The result of comparing a target.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    pub target: String,
    /// Rows in the table.
    pub streamed: u64,
    /// Rows of the batch query.
    pub batch: u64,
    /// Batch rows that operators still hold back: the stream does not owe them yet.
    pub pending: u64,
    /// Batch rows that the table refuses (NOT NULL, CHECK): dead letters in the stream.
    pub refused: u64,
    /// Rows of the sources that dead letters call late and that the batch query leaves out, too.
    pub late: u64,
    /// Likewise rows whose event time is null.
    pub without_time: u64,
    /// Likewise rows of which dead letters say that an expression cannot be computed.
    pub not_computed: u64,
    /// Rows that only one side has.
    pub missing: u64,
    pub surplus: u64,
    /// Some of the differing rows, as text.
    pub examples: Vec<String>,
    /// Why the batch query need not give the rows of the stream.
    pub incomparable: Option<String>,
    /// The batch query has failed over some row.
    failed: bool,
}

impl Comparison {
    /// True when stream and batch say the same.
    pub fn agrees(&self) -> bool {
        self.missing == 0 && self.surplus == 0 && !self.failed
    }

    /// True when they do not, though they should.
    pub fn differs(&self) -> bool {
        !self.agrees() && self.incomparable.is_none()
    }
}

/// The two sides of a comparison.
struct Question<'a> {
    catalog: &'a Catalog,
    pipeline: &'a PipelineDef,
    functions: &'a FunctionSet,
    dataflow: &'a Dataflow,
    around: &'a Surroundings,
    /// The sources' rows, by name.
    sources: BTreeMap<&'a str, Reread>,
    /// The pipeline's tables.
    tables: BTreeMap<&'a str, Table>,
    withheld: BTreeMap<String, Withheld>,
}

/// Compares every Delta table that `pipeline` writes.
///
/// Errors: sources that cannot be read again, state or tables that cannot be opened, SQL without a batch form.
pub async fn verify(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    functions: &FunctionSet,
    dataflow: &Dataflow,
    manifest: &Manifest,
    around: &Surroundings,
) -> Result<Vec<Comparison>> {
    let letters = Letters::of(&pipeline.name, around).await?;
    let mut sources: BTreeMap<&str, Reread> = BTreeMap::new();
    for source in &dataflow.sources {
        let ends = manifest.positions.get(&source.def.name).cloned().unwrap_or_default();
        let rows = reread(&source.def, &pipeline.name, &ends, &letters, around).await?;
        sources.insert(&source.def.name, rows);
    }
    let mut tables: BTreeMap<&str, Table> = BTreeMap::new();
    for def in pipeline.inserts.iter().filter_map(|insert| catalog.tables.get(&insert.target)) {
        let store = TableStore::open(&around.table_location(def), &around.storage_of(def), &around.env)?;
        // With the CHECKs that only the declaration has.
        let table = match Table::open_declared(&store, def).await? {
            Some(table) => table,
            None => Table::open(store).await?,
        };
        tables.insert(&def.name, table);
    }
    let withheld = withheld(catalog, pipeline, dataflow, manifest, around).await?;
    let question = Question { catalog, pipeline, functions, dataflow, around, sources, tables, withheld };
    let mut compared = question.compare(Marks::default()).await?;
    for marks in question.marks() {
        if compared.iter().all(Comparison::agrees) {
            break;
        }
        let of = |mark: Marks| if marks.meets(mark) { question.count(mark) } else { 0 };
        let (late, without_time, not_computed) = (of(Marks::LATE), of(Marks::WITHOUT_TIME), of(Marks::NOT_COMPUTED));
        for (comparison, other) in compared.iter_mut().zip(question.compare(marks).await?) {
            if !comparison.agrees() && other.agrees() {
                *comparison = Comparison { late, without_time, not_computed, ..other };
            }
        }
    }
    for comparison in compared.iter_mut().filter(|comparison| comparison.differs()) {
        comparison.incomparable = question.excuse(comparison).await?;
    }
    Ok(compared)
}

impl Question<'_> {
    /// The rows that may not count: those of each mark, then those of all.
    fn marks(&self) -> Vec<Marks> {
        let all = [Marks::WITHOUT_TIME, Marks::LATE, Marks::NOT_COMPUTED];
        let mut marks: Vec<Marks> = all.into_iter().filter(|mark| self.count(*mark) > 0).collect();
        if marks.len() > 1 {
            marks.push(marks.iter().fold(Marks::default(), |all, mark| all | *mark));
        }
        marks
    }

    fn count(&self, marks: Marks) -> u64 {
        self.sources.values().map(|read| read.count(marks)).sum()
    }

    /// Compares every table with what the batch query gives over the sources' rows without those that have one of these marks.
    async fn compare(&self, marks: Marks) -> Result<Vec<Comparison>> {
        let mut inputs = self.lookups().await?;
        for source in &self.dataflow.sources {
            let read = self.sources.get(source.def.name.as_str()).map(|read| read.without(marks)).transpose()?;
            let table = MemTable::try_new(source.def.schema(), vec![read.unwrap_or_default()])?;
            inputs.insert(source.def.name.clone(), Arc::new(table));
        }
        let targets: Targets = self.tables.iter().map(|(name, table)| ((*name).to_owned(), table.schema())).collect();
        let runtime = Arc::clone(&self.around.runtime);
        let planned = batch(self.catalog, self.pipeline, self.functions, &targets, inputs, runtime).await?;
        let mut compared = Vec::new();
        for name in self.tables.keys() {
            compared.push(self.compare_table(name, &planned).await?);
        }
        Ok(compared)
    }

    async fn compare_table(&self, name: &str, planned: &Batch) -> Result<Comparison> {
        let table = &self.tables[name];
        let schema = table.schema();
        let (mut expected, mut volatile, mut failed) = (Vec::new(), BTreeSet::new(), None);
        for insert in planned.inserts.iter().filter(|insert| insert.target == name) {
            volatile.extend(volatile_functions(&planned.session.optimize(&insert.plan)?)?);
            match collect_computable(&planned.session, &insert.plan, self.dataflow.on_row_error).await {
                Ok(rows) => expected.extend(rows),
                Err(error) if is_of_row(&error) => failed = Some(cause(&error)),
                Err(error) => return Err(error.into()),
            }
        }
        let (mut expected, refused) = accepted(table, expected)?;
        let held = self.withheld.get(name);
        let stored =
            |rows: fn(&Withheld) -> &Vec<RecordBatch>| held.map_or(Ok(Vec::new()), |held| stored(table, rows(held)));
        let held = Withheld { rows: stored(|held| &held.rows)?, retracted: stored(|held| &held.retracted)? };
        let provider = table.provider(None).await?;
        let context = datafusion::prelude::SessionContext::new_with_state(planned.session.clone());
        let found = context.read_table(provider)?.collect().await?;
        // Rows that were written before the table refused such rows.
        let (written, refused) = those_found(&schema, &found, &refused)?;
        expected.extend(written);
        let expected = match self.catalog.tables.get(name).filter(|def| !def.primary_key.is_empty()) {
            Some(def) => one_of_each_key(&def.primary_key, &schema, &found, &expected)?,
            None => expected,
        };
        let incomparable = match (&failed, volatile.first()) {
            (Some(reason), _) => Some(format!("its query fails in batch ({reason})")),
            (_, Some(name)) => Some(format!("`{name}()` gives another answer on every call")),
            _ => None,
        };
        let failed = failed.is_some();
        Ok(Comparison { refused, incomparable, failed, ..compare(name, &schema, &found, &expected, &held)? })
    }

    /// The other tables, which the query may read.
    async fn lookups(&self) -> Result<BTreeMap<String, Arc<dyn TableProvider>>> {
        let mut inputs: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
        for def in self.catalog.tables.values().filter(|def| !self.tables.contains_key(def.name.as_str())) {
            let location = self.around.table_location(def);
            let store = TableStore::open(&location, &self.around.storage_of(def), &self.around.env)?;
            if !store.is_table().await? {
                continue;
            }
            if let Ok(table) = Table::open(store).await {
                inputs.insert(def.name.clone(), table.provider(None).await?);
            }
        }
        Ok(inputs)
    }
}

/// The rows that a table takes, as it stores them, and those that it refuses.
fn accepted(table: &Table, rows: Vec<RecordBatch>) -> Result<(Vec<RecordBatch>, Vec<RecordBatch>)> {
    let (mut taken, mut refused) = (Vec::with_capacity(rows.len()), Vec::new());
    for batch in rows {
        let good = match table.validator().check(&batch)? {
            Some(violations) => {
                let rows = violations.rows.iter().map(|row| *row as u64).collect::<Vec<_>>();
                let rows = take_record_batch(&batch, &UInt64Array::from(rows));
                refused.push(rows.internal(|| "refused rows cannot be taken".to_owned())?);
                violations.good
            }
            None => batch,
        };
        taken.push(table.as_stored(&good)?);
    }
    Ok((taken, refused))
}

/// Rows of a branch as the table stores those that it takes.
fn stored(table: &Table, rows: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let schema = table.schema();
    let rows = rows.iter().filter(|rows| rows.num_rows() > 0).map(|rows| in_order(&schema, rows));
    Ok(accepted(table, rows.collect::<Result<_>>()?)?.0)
}
