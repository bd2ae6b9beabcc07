//! Proof by comparison: the same SQL in batch over everything the pipeline has read, held against what it wrote.
//!
//! The sources are read again from where they begin to where the pipeline's last epoch ended, so they must still have those
//! records. All rows are held in memory. Rows that operators hold back until their time is complete are not owed yet: they are what the
//! operators' state emits when time ends ([`withheld`]).

mod compare;
mod reread;
mod withheld;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::execution::TaskContext;

pub(super) use self::compare::{Withheld, compare};
use self::compare::{in_order, one_of_each_key};
use self::reread::{Letters, Reread, reread};
use self::withheld::withheld;
use super::prepare::Surroundings;
use crate::catalog::{Catalog, PipelineDef};
use crate::delta::{Table, TableStore};
use crate::error::Result;
use crate::evaluate::{cause, is_of_row};
use crate::operator::spec::RollingEmit;
use crate::plan::{Dataflow, FunctionSet, OperatorSpec, Targets, batch, collect_computable, volatile_functions};
use crate::state::Manifest;

/// How a target compares.
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
    /// Rows that only one side has.
    pub missing: u64,
    pub surplus: u64,
    /// Some of the differing rows, as text.
    pub examples: Vec<String>,
    /// Why the batch query need not give the rows of the stream.
    pub incomparable: Option<String>,
}

impl Comparison {
    /// True when stream and batch say the same.
    pub fn agrees(&self) -> bool {
        self.missing == 0 && self.surplus == 0
    }

    /// True when they do not, though they should.
    pub fn differs(&self) -> bool {
        !self.agrees() && self.incomparable.is_none()
    }
}

/// The rows that are compared.
struct Question<'a> {
    catalog: &'a Catalog,
    pipeline: &'a PipelineDef,
    functions: &'a FunctionSet,
    dataflow: &'a Dataflow,
    around: &'a Surroundings,
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
        tables.insert(&def.name, Table::open(store).await?);
    }
    let withheld = withheld(catalog, pipeline, dataflow, manifest, around).await?;
    let question = Question { catalog, pipeline, functions, dataflow, around, tables, withheld };
    let mut compared = question.compare(&sources, |read| &read.rows).await?;
    let late: u64 = sources.values().map(|read| read.late).sum();
    if late > 0 && compared.iter().any(|comparison| !comparison.agrees()) {
        let in_time = question.compare(&sources, |read| &read.in_time).await?;
        for (comparison, in_time) in compared.iter_mut().zip(in_time) {
            if !comparison.agrees() && in_time.agrees() {
                *comparison = Comparison { late, ..in_time };
            }
        }
    }
    Ok(compared)
}

impl Question<'_> {
    /// Compares every table with what the batch query gives over `rows` of the sources.
    async fn compare(
        &self,
        sources: &BTreeMap<&str, Reread>,
        rows: impl Fn(&Reread) -> &Vec<RecordBatch>,
    ) -> Result<Vec<Comparison>> {
        let mut inputs = self.lookups().await?;
        for source in &self.dataflow.sources {
            let read = sources.get(source.def.name.as_str()).map(|read| rows(read).clone()).unwrap_or_default();
            let table = MemTable::try_new(source.def.schema(), vec![read])?;
            inputs.insert(source.def.name.clone(), Arc::new(table));
        }
        let targets: Targets = self.tables.iter().map(|(name, table)| ((*name).to_owned(), table.schema())).collect();
        let runtime = Arc::clone(&self.around.runtime);
        let planned = batch(self.catalog, self.pipeline, self.functions, &targets, inputs, runtime).await?;
        let none = Withheld::default();
        let mut compared = Vec::new();
        for (name, table) in &self.tables {
            let schema = table.schema();
            let (mut expected, mut volatile, mut failed) = (Vec::new(), BTreeSet::new(), None);
            for insert in planned.inserts.iter().filter(|insert| insert.target == *name) {
                volatile.extend(volatile_functions(&planned.session.optimize(&insert.plan)?)?);
                let plan = planned.session.create_physical_plan(&insert.plan).await?;
                let context = Arc::new(TaskContext::from(&planned.session));
                match collect_computable(plan, context, self.dataflow.on_row_error).await {
                    Ok(rows) => expected.extend(rows),
                    Err(error) if is_of_row(&error) => failed = Some(error),
                    Err(error) => return Err(error.into()),
                }
            }
            let (expected, refused) = accepted(table, expected)?;
            let held = self.withheld.get(*name).unwrap_or(&none);
            let held = Withheld { rows: stored(table, &held.rows)?, retracted: stored(table, &held.retracted)? };
            let provider = table.provider(None).await?;
            let context = datafusion::prelude::SessionContext::new_with_state(planned.session.clone());
            let found = context.read_table(provider)?.collect().await?;
            let expected = match self.catalog.tables.get(*name).filter(|def| !def.primary_key.is_empty()) {
                Some(def) => one_of_each_key(&def.primary_key, &schema, &found, &expected)?,
                None => expected,
            };
            let failed = failed.map(|error| format!("its query fails in batch ({})", cause(&error)));
            let incomparable = failed.or_else(|| self.incomparable(name, &volatile));
            compared.push(Comparison { refused, incomparable, ..compare(name, &schema, &found, &expected, &held)? });
        }
        Ok(compared)
    }

    /// The other tables, which the query may read.
    async fn lookups(&self) -> Result<BTreeMap<String, Arc<dyn TableProvider>>> {
        let mut inputs: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
        for def in self.catalog.tables.values().filter(|def| !self.tables.contains_key(def.name.as_str())) {
            let location = self.around.table_location(def);
            let store = TableStore::open(&location, &self.around.storage_of(def), &self.around.env)?;
            if let Ok(table) = Table::open(store).await {
                inputs.insert(def.name.clone(), table.provider(None).await?);
            }
        }
        Ok(inputs)
    }

    /// Why a target's rows need not be those of the batch query, if there is a reason in the SQL.
    fn incomparable(&self, target: &str, volatile: &BTreeSet<String>) -> Option<String> {
        if let Some(name) = volatile.first() {
            return Some(format!("`{name}()` gives another answer on every call"));
        }
        let branches = self.dataflow.branches.iter().filter(|branch| branch.target == target);
        let operators = branches.flat_map(|branch| self.dataflow.makers(branch.reads.iter().copied()).operators);
        operators.into_iter().find_map(|index| match &self.dataflow.operators[index].spec {
            OperatorSpec::Rolling(spec) if spec.emit == RollingEmit::OnArrival => {
                Some("with `rolling_emit = 'on_arrival'` rows see what arrived before them".to_owned())
            }
            OperatorSpec::Rolling(spec) if spec.emits_late => {
                Some("with `late = 'emit'` late rows see what was still in state".to_owned())
            }
            _ => None,
        })
    }
}

/// The rows that a table takes, as it stores them, and how many it refuses.
fn accepted(table: &Table, rows: Vec<RecordBatch>) -> Result<(Vec<RecordBatch>, u64)> {
    let (mut taken, mut refused) = (Vec::with_capacity(rows.len()), 0);
    for batch in rows {
        let batch = match table.validator().check(&batch)? {
            Some(violations) => {
                refused += violations.letters.len() as u64;
                violations.good
            }
            None => batch,
        };
        taken.push(table.as_stored(&batch)?);
    }
    Ok((taken, refused))
}

/// Rows of a branch as the table stores those that it takes.
fn stored(table: &Table, rows: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let schema = table.schema();
    let rows = rows.iter().filter(|rows| rows.num_rows() > 0).map(|rows| in_order(&schema, rows));
    Ok(accepted(table, rows.collect::<Result<_>>()?)?.0)
}
