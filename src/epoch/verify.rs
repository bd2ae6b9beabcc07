//! Proof by comparison: the same SQL in batch over everything the pipeline has read, held against what it wrote.
//!
//! The sources are read again from where they begin to where the pipeline's last epoch ended, so they must still have those
//! records. All rows are held in memory. Rows that operators hold back until their time is complete are not owed yet: they are what the
//! operators' state emits when time ends ([`withheld`]).

mod compare;
mod excuses;
mod hops;
mod orders;
mod reread;
mod withheld;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::UInt64Array;
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;

pub(super) use self::compare::{Withheld, compare};
use self::compare::{in_order, one_of_each_key, those_found};
use self::hops::mixed;
use self::orders::{Determined, Order};
use self::reread::{Letters, Marks, Reread, reread};
use self::withheld::withheld;
use self::written::Written;
use super::prepare::Surroundings;
use crate::catalog::{Catalog, PipelineDef};
use crate::delta::{Table, TableStore};
use crate::error::{Context, Result};
use crate::evaluate::{cause, is_of_row};
use crate::plan::{Batch, Dataflow, FunctionSet, Targets, batch, collect_computable, has_hops, volatile_functions};
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
    /// Rows of the table that are older than the pipeline's first epoch.
    pub before: u64,
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
    tables: BTreeMap<&'a str, Written>,
    withheld: BTreeMap<String, Withheld>,
}

/// Rows that the batch query reads.
#[derive(Debug, Clone, Copy)]
struct View {
    /// Rows with one of these are left out.
    without: Marks,
    order: Order,
}

impl View {
    fn without(marks: Marks) -> Self {
        Self { without: marks, order: Order::AsRead }
    }
}

/// Rows that the batch query gives for a table.
struct Answer {
    /// Those that the table takes, as it shows them.
    rows: Vec<RecordBatch>,
    /// The number of those that it refuses.
    refused: u64,
    volatile: BTreeSet<String>,
    /// Some row has a place in several windows.
    hops: bool,
    /// Why the query fails.
    failed: Option<String>,
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
    let mut tables: BTreeMap<&str, Written> = BTreeMap::new();
    for def in pipeline.inserts.iter().filter_map(|insert| catalog.tables.get(&insert.target)) {
        if !tables.contains_key(def.name.as_str()) {
            let store = TableStore::open(&around.table_location(def), &around.storage_of(def), &around.env)?;
            tables.insert(&def.name, Written::read(store, def, manifest).await?);
        }
    }
    let letters = Letters::of(manifest, around).await?;
    let mut sources: BTreeMap<&str, Reread> = BTreeMap::new();
    for source in &dataflow.sources {
        let ends = manifest.positions.get(&source.def.name).cloned().unwrap_or_default();
        let rows = reread(&source.def, &pipeline.name, &ends, &letters, around).await?;
        sources.insert(&source.def.name, rows);
    }
    let withheld = withheld(catalog, pipeline, dataflow, manifest, around).await?;
    let question = Question { catalog, pipeline, functions, dataflow, around, sources, tables, withheld };
    let mut compared = question.all(View::without(Marks::default())).await?;
    question.leave_out(&mut compared).await?;
    question.mix_late(&mut compared).await?;
    for comparison in compared.iter_mut().filter(|comparison| comparison.differs()) {
        comparison.incomparable = question.excuse(comparison).await?;
    }
    question.reorder(&mut compared).await?;
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

    /// The comparison, with the numbers of rows that were left out for it.
    fn having_left_out(&self, marks: Marks, comparison: Comparison) -> Comparison {
        let of = |mark: Marks| if marks.meets(mark) { self.count(mark) } else { 0 };
        let (late, without_time, not_computed) = (of(Marks::LATE), of(Marks::WITHOUT_TIME), of(Marks::NOT_COMPUTED));
        Comparison { late, without_time, not_computed, ..comparison }
    }

    /// Compares tables that differ without the rows of each mark.
    async fn leave_out(&self, compared: &mut [Comparison]) -> Result<()> {
        for marks in self.marks() {
            let open = open(compared, Comparison::agrees);
            for (name, answer) in self.answers(View::without(marks), &open).await? {
                let other = self.judge(&name, &answer, None)?;
                if other.agrees() {
                    replace(compared, self.having_left_out(marks, other));
                }
            }
        }
        Ok(())
    }

    /// Compares tables that differ, and whose rows count in several windows, with late rows left out of the windows that were closed.
    async fn mix_late(&self, compared: &mut [Comparison]) -> Result<()> {
        if self.count(Marks::LATE) == 0 {
            return Ok(());
        }
        for others in [Marks::default(), Marks::WITHOUT_TIME | Marks::NOT_COMPUTED] {
            let open = open(compared, Comparison::agrees);
            let mut without = self.answers(View::without(others | Marks::LATE), &open).await?;
            for (name, with) in self.answers(View::without(others), &open).await? {
                let Some(without) = without.remove(&name).filter(|_| with.hops) else { continue };
                let written = &self.tables[name.as_str()];
                let held = self.held(&name)?;
                let mixed =
                    mixed(&written.schema, &written.found, [with.rows.as_slice(), without.rows.as_slice()], &held)?;
                if let Some(pending) = mixed {
                    let mut other = self.judge(&name, &with, None)?;
                    (other.missing, other.surplus, other.pending) = (0, 0, pending);
                    other.examples.clear();
                    replace(compared, self.having_left_out(others | Marks::LATE, other));
                }
            }
        }
        Ok(())
    }

    /// Compares tables that differ with what the query gives over the sources' rows in other orders.
    async fn reorder(&self, compared: &mut [Comparison]) -> Result<()> {
        let all = self.marks().into_iter().fold(Marks::default(), |all, mark| all | mark);
        let views = if all == Marks::default() { vec![all] } else { vec![Marks::default(), all] };
        for without in views {
            let mut answers: BTreeMap<String, Vec<Answer>> = BTreeMap::new();
            for order in Order::TRIED {
                let open = open(compared, |comparison| !comparison.differs());
                for (name, answer) in self.answers(View { without, order }, &open).await? {
                    let other = self.judge(&name, &answer, None)?;
                    if other.agrees() {
                        replace(compared, self.having_left_out(without, other));
                    }
                    answers.entry(name).or_default().push(answer);
                }
            }
            for comparison in compared.iter_mut().filter(|comparison| comparison.differs()) {
                let Some(answers) = answers.get(&comparison.target) else { continue };
                if !self.is_determined(&comparison.target, answers)? {
                    comparison.incomparable = Some(self.about_order());
                }
            }
        }
        Ok(())
    }

    /// False if the table may have other rows for no other reason than their order. `answers` are those of all orders.
    fn is_determined(&self, name: &str, answers: &[Answer]) -> Result<bool> {
        let written = &self.tables[name];
        let rows: Vec<_> = answers.iter().map(|answer| answer.rows.as_slice()).collect();
        let columns = match Determined::of(&written.schema, &rows)? {
            Determined::All => return Ok(true),
            Determined::Columns(columns) => columns,
            Determined::Nothing => return Ok(false),
        };
        let keys = self.catalog.tables.get(name).map_or(&[][..], |def| def.primary_key.as_slice());
        let has_keys = keys.iter().all(|key| columns.index_of(key).is_ok());
        Ok(has_keys && !self.judge(name, &answers[0], Some(&columns))?.agrees())
    }

    /// Compares every table with what the batch query gives.
    async fn all(&self, view: View) -> Result<Vec<Comparison>> {
        let names = self.tables.keys().copied().map(str::to_owned).collect();
        let answers = self.answers(view, &names).await?;
        answers.iter().map(|(name, answer)| self.judge(name, answer, None)).collect()
    }

    /// The rows that the batch query gives for these tables.
    async fn answers(&self, view: View, names: &BTreeSet<String>) -> Result<BTreeMap<String, Answer>> {
        let mut answers = BTreeMap::new();
        if names.is_empty() {
            return Ok(answers);
        }
        let mut inputs = self.lookups().await?;
        for source in &self.dataflow.sources {
            let read = self.sources.get(source.def.name.as_str()).map(|read| read.without(view.without)).transpose()?;
            let read = view.order.of(read.unwrap_or_default())?;
            let table = MemTable::try_new(source.def.schema(), vec![read])?;
            inputs.insert(source.def.name.clone(), Arc::new(table));
        }
        let tables = self.tables.iter();
        let targets: Targets =
            tables.map(|(name, written)| ((*name).to_owned(), written.table.schema_with_expressions())).collect();
        let runtime = Arc::clone(&self.around.runtime);
        let planned = batch(self.catalog, self.pipeline, self.functions, &targets, inputs, runtime).await?;
        for name in names {
            answers.insert(name.clone(), self.answer(name, &planned).await?);
        }
        Ok(answers)
    }

    async fn answer(&self, name: &str, planned: &Batch) -> Result<Answer> {
        let Written { table, schema, found, .. } = &self.tables[name];
        let (mut expected, mut volatile, mut hops, mut failed) = (Vec::new(), BTreeSet::new(), false, None);
        for insert in planned.inserts.iter().filter(|insert| insert.target == name) {
            let optimized = planned.session.optimize(&insert.plan)?;
            volatile.extend(volatile_functions(&optimized)?);
            hops |= has_hops(&optimized)?;
            match collect_computable(&planned.session, &insert.plan, self.dataflow.on_row_error).await {
                Ok(rows) => expected.extend(rows),
                Err(error) if is_of_row(&error) => failed = Some(cause(&error)),
                Err(error) => return Err(error.into()),
            }
        }
        let (taken, refused) = accepted(table, expected)?;
        let shown = |rows: Vec<RecordBatch>| rows.iter().map(|rows| table.as_shown(rows)).collect::<Result<Vec<_>>>();
        let (mut rows, refused) = (shown(taken)?, shown(refused)?);
        // Rows that were written before the table refused such rows.
        let (written, refused) = those_found(schema, found, &refused)?;
        rows.extend(written);
        let refused = refused.iter().map(RecordBatch::num_rows).sum::<usize>() as u64;
        Ok(Answer { rows, refused, volatile, hops, failed })
    }

    /// Compares a table with an answer; some columns of it, if not all.
    fn judge(&self, name: &str, answer: &Answer, columns: Option<&SchemaRef>) -> Result<Comparison> {
        let Written { schema, found, others, unknown, .. } = &self.tables[name];
        let schema = columns.unwrap_or(schema);
        let picked = match self.catalog.tables.get(name).filter(|def| !def.primary_key.is_empty()) {
            Some(def) => Some(one_of_each_key(&def.primary_key, schema, found, &answer.rows)?),
            None => None,
        };
        let expected = picked.as_ref().unwrap_or(&answer.rows);
        let incomparable = match (unknown, &answer.failed, answer.volatile.first()) {
            (Some(reason), ..) => Some(reason.clone()),
            (_, Some(reason), _) => Some(format!("its query fails in batch ({reason})")),
            (.., Some(name)) => Some(format!("`{name}()` gives another answer on every call")),
            _ => None,
        };
        let (refused, before, failed) = (answer.refused, *others, answer.failed.is_some());
        let compared = compare(name, schema, found, expected, &self.held(name)?)?;
        Ok(Comparison { refused, before, incomparable, failed, ..compared })
    }

    /// Rows of a table that operators still hold back or are going to retract, as it shows them.
    fn held(&self, name: &str) -> Result<Withheld> {
        let Written { table, before, .. } = &self.tables[name];
        let held = self.withheld.get(name);
        let stored =
            |rows: fn(&Withheld) -> &Vec<RecordBatch>| held.map_or(Ok(Vec::new()), |held| stored(table, rows(held)));
        let mut retracted = stored(|held| &held.retracted)?;
        // A row that was there before is there until its key is written.
        retracted.extend(before.iter().cloned());
        Ok(Withheld { rows: stored(|held| &held.rows)?, retracted })
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

/// Rows of a branch as the table shows those that it takes.
fn stored(table: &Table, rows: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let schema = table.schema();
    let rows = rows.iter().filter(|rows| rows.num_rows() > 0).map(|rows| in_order(&schema, rows));
    let taken = accepted(table, rows.collect::<Result<_>>()?)?.0;
    taken.iter().map(|rows| table.as_shown(rows)).collect()
}

/// The tables whose comparison is not `done`.
fn open(compared: &[Comparison], done: fn(&Comparison) -> bool) -> BTreeSet<String> {
    let open = compared.iter().filter(|comparison| !done(comparison));
    open.map(|comparison| comparison.target.clone()).collect()
}

/// Puts a comparison in the place of that of the same table.
fn replace(compared: &mut [Comparison], other: Comparison) {
    if let Some(comparison) = compared.iter_mut().find(|comparison| comparison.target == other.target) {
        *comparison = other;
    }
}
