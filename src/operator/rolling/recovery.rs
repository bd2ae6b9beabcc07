//! Writes state and restores it.
//!
//! Table `waiting` has the rows that have not been emitted, whole; table `history` has the needed columns of rows whose time
//! is complete. A row is written to each at most once. Both expire by cutoff alone, unless frames count rows: then rows are
//! deleted by tombstones.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, PrimitiveArray};
use arrow::compute::{SortColumn, concat_batches, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

use super::Rolling;
use super::plan::Plan;
use super::waiting::{sequences, times};
use crate::error::{Context, Error, Result};
use crate::operator::spec::RollingEmit;
use crate::state::StateChange;
use crate::time::{EventTime, Watermark};

impl Rolling {
    pub(super) fn take_changes(&mut self) -> Result<Vec<StateChange>> {
        let mut changes = Vec::new();
        if self.plan.emit == RollingEmit::OnWatermark {
            changes.push(self.waiting_change()?);
        }
        let table = changes.len();
        changes.push(self.history_change(table)?);
        Ok(changes)
    }

    fn waiting_change(&mut self) -> Result<StateChange> {
        let schema = &self.plan.tables()[0].schema;
        let mut upserts = Vec::new();
        for waiting in [&self.early, &self.open] {
            for rows in waiting.since(self.journal.written)? {
                upserts.push(to_table(&self.plan, schema, &rows)?);
            }
        }
        let named = schema.fields()[..=self.plan.keys.len()].to_vec();
        let named: SchemaRef = Arc::new(Schema::new(named));
        let mut deletes = Vec::new();
        for rows in std::mem::take(&mut self.journal.left) {
            let written: BooleanArray =
                sequences(&rows).iter().map(|sequence| Some(*sequence < self.journal.written)).collect();
            let rows = filter_record_batch(&rows, &written).internal(failed)?;
            if rows.num_rows() > 0 {
                let table = to_table(&self.plan, schema, &rows)?;
                let columns = table.columns()[..=self.plan.keys.len()].to_vec();
                deletes.push(RecordBatch::try_new(Arc::clone(&named), columns).internal(failed)?);
            }
        }
        self.journal.written = self.sequence;
        Ok(StateChange { table: 0, upserts, deletes, cutoff: self.plan.waiting_cutoff(self.watermark) })
    }

    fn history_change(&mut self, table: usize) -> Result<StateChange> {
        let schema = self.plan.tables()[table].schema.clone();
        let placed = std::mem::take(&mut self.journal.placed);
        if self.plan.is_counted() {
            return self.counted_change(table, &schema, placed);
        }
        let cutoff = self.plan.needed(self.watermark).from;
        let time = self.plan.keys.len();
        let mut upserts = Vec::new();
        for (columns, _) in placed {
            let rows = RecordBatch::try_new(Arc::clone(&schema), columns).internal(failed)?;
            let alive = |time: &i64| !EventTime(*time).is_below(cutoff);
            if times(rows.column(time)).iter().all(alive) {
                upserts.push(rows);
            } else if times(rows.column(time)).iter().any(alive) {
                let mask: BooleanArray = times(rows.column(time)).iter().map(|time| Some(alive(time))).collect();
                upserts.push(filter_record_batch(&rows, &mask).internal(failed)?);
            }
        }
        Ok(StateChange { table, upserts, deletes: Vec::new(), cutoff })
    }

    /// The change of a history whose rows are deleted one by one.
    fn counted_change(
        &mut self,
        table: usize,
        schema: &SchemaRef,
        placed: VecDeque<(Vec<ArrayRef>, Vec<u32>)>,
    ) -> Result<StateChange> {
        let gone = self.store.take_gone();
        let gone_rows: HashSet<(u32, i64)> = gone.iter().map(|row| (row.key, row.ordinal as i64)).collect();
        let mut new_rows: HashSet<(u32, i64)> = HashSet::new();
        let mut upserts = Vec::new();
        for (columns, keys) in placed {
            let rows = RecordBatch::try_new(Arc::clone(schema), columns).internal(failed)?;
            let ordinals = rows.column(self.plan.keys.len() + 1).as_primitive::<Int64Type>().values();
            let names = keys.iter().copied().zip(ordinals.iter().copied());
            let mask: BooleanArray = names.clone().map(|name| Some(!gone_rows.contains(&name))).collect();
            new_rows.extend(names);
            if mask.true_count() > 0 {
                upserts.push(filter_record_batch(&rows, &mask).internal(failed)?);
            }
        }
        let mut deletes = Vec::new();
        let dead: Vec<_> = gone.iter().filter(|row| !new_rows.contains(&(row.key, row.ordinal as i64))).collect();
        if !dead.is_empty() {
            let mut columns = Vec::new();
            for key in &self.plan.keys {
                let expression = self.plan.column(*key);
                let reference = self.plan.references.iter().position(|known| known.as_ref() == expression.as_ref());
                let reference = reference.ok_or_else(|| Error::internal("a key is not referred to"))?;
                let none = arrow::array::new_null_array(self.plan.input.field(*key).data_type(), 1);
                columns.push(self.store.chunks.gather(reference, dead.iter().map(|row| Some(row.reference)), &none)?);
            }
            let time = PrimitiveArray::<TimestampMicrosecondType>::from_iter_values(dead.iter().map(|row| row.time.0));
            let of = self.plan.input.field(self.plan.time).data_type().clone();
            columns.push(Arc::new(time.with_data_type(of)));
            columns.push(Arc::new(Int64Array::from_iter_values(dead.iter().map(|row| row.ordinal as i64))));
            let named: Vec<Arc<Field>> = schema.fields()[..columns.len()].to_vec();
            deletes.push(RecordBatch::try_new(Arc::new(Schema::new(named)), columns).internal(failed)?);
        }
        for row in gone {
            self.store.chunks.release(row.reference);
        }
        self.store.tidy()?;
        Ok(StateChange { table, upserts, deletes, cutoff: Watermark::NONE })
    }

    /// Places the rows that [`super::Operator::restore`] was given.
    pub(super) fn take_restored(&mut self) -> Result<()> {
        let restored = std::mem::take(&mut self.journal.restored);
        if restored.is_empty() {
            return Ok(());
        }
        let tables = self.plan.tables();
        let all = |table: usize| {
            let parts: Vec<_> = restored.iter().filter(|(of, _)| *of == table).map(|(_, rows)| rows).collect();
            concat_batches(&tables[table].schema, parts).internal(failed)
        };
        let history = all(tables.len() - 1)?;
        self.restore_history(&history)?;
        if tables.len() > 1 {
            self.restore_waiting(&all(0)?)?;
        }
        Ok(())
    }

    fn restore_history(&mut self, rows: &RecordBatch) -> Result<()> {
        let width = self.plan.keys.len();
        let from = self.plan.needed(self.watermark).from;
        let rows =
            if self.plan.is_counted() { rows.clone() } else { filter(rows, width, |time| !time.is_below(from))? };
        let rows = sorted(&rows, &[width, width + 1])?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let keys = self.keys.numbers(&rows.columns()[..width], rows.num_rows())?;
        self.store.know(self.keys.bound());
        let ordinals = rows.column(width + 1).as_primitive::<Int64Type>().values();
        let (arguments, references) = rows.columns()[width + 2..].split_at(self.plan.arguments.len());
        self.place(&keys, rows.column(width), arguments, references, Some(ordinals))?;
        let mut ever: HashMap<u32, i64> = HashMap::new();
        for (key, ordinal) in keys.iter().zip(ordinals) {
            let last = ever.entry(*key).or_default();
            *last = (*last).max(*ordinal + 1);
        }
        for (key, rows) in ever {
            self.store.set_gone(key, rows as u64);
        }
        self.store.squeezed.clear();
        Ok(())
    }

    fn restore_waiting(&mut self, rows: &RecordBatch) -> Result<()> {
        let rows = from_table(&self.plan, &self.sequenced, &sorted(rows, &[self.plan.keys.len()])?)?;
        self.sequence = sequences(&rows).last().map_or(0, |last| last + 1);
        self.journal.written = self.sequence;
        let (time, watermark) = (self.plan.time, self.watermark);
        let (wait, by_time) = (&self.plan.wait, self.plan.wait.rows == 0);
        let rows = filter(&rows, time, |time| !(by_time && wait.is_over(time, watermark)))?;
        self.open.push(filter(&rows, time, |time| time.is_complete(watermark))?);
        self.early.push(filter(&rows, time, |time| !time.is_complete(watermark))?);
        Ok(())
    }
}

/// Converts rows of the input, with their sequence, to rows of the waiting table.
fn to_table(plan: &Plan, schema: &SchemaRef, rows: &RecordBatch) -> Result<RecordBatch> {
    let width = rows.num_columns() - 1;
    let rest = (0..width).filter(|column| !plan.keys.contains(column));
    let columns = plan.keys.iter().copied().chain([width]).chain(rest);
    let columns = columns.map(|column| Arc::clone(rows.column(column))).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).internal(failed)
}

fn from_table(plan: &Plan, sequenced: &SchemaRef, table: &RecordBatch) -> Result<RecordBatch> {
    let width = plan.input.fields().len();
    let mut rest = plan.keys.len() + 1;
    let mut columns = Vec::with_capacity(width + 1);
    for column in 0..width {
        let at = plan.keys.iter().position(|key| *key == column).unwrap_or_else(|| {
            rest += 1;
            rest - 1
        });
        columns.push(Arc::clone(table.column(at)));
    }
    columns.push(Arc::clone(table.column(plan.keys.len())));
    RecordBatch::try_new(Arc::clone(sequenced), columns).internal(failed)
}

fn sorted(rows: &RecordBatch, by: &[usize]) -> Result<RecordBatch> {
    let by: Vec<_> = by.iter().map(|at| SortColumn { values: Arc::clone(rows.column(*at)), options: None }).collect();
    let order = lexsort_to_indices(&by, None).internal(failed)?;
    take_record_batch(rows, &order).internal(failed)
}

fn filter(rows: &RecordBatch, time: usize, holds: impl Fn(EventTime) -> bool) -> Result<RecordBatch> {
    let mask: BooleanArray = times(rows.column(time)).iter().map(|time| Some(holds(EventTime(*time)))).collect();
    filter_record_batch(rows, &mask).internal(failed)
}

fn failed() -> String {
    "rolling state cannot be arranged".to_owned()
}
