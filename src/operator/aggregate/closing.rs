//! GROUP BY a key that becomes complete, such as a window's start or end: groups are emitted once, when their window closes.
//!
//! Each value of the closing key with many rows has its own hash aggregation, so that closing a window means emitting it and
//! dropping it; windows of few rows share one ([`super::panes`]).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;

use crate::equality::key_values;
use crate::error::Result;
use crate::operator::spec::AggregateSpec;
use crate::operator::{Operator, StateUsage, Stepped, Tick};
use crate::state::{KeyEquality, StateChange, StateTable};
use crate::time::{EventTime, Watermark};

use super::call::{Arguments, Call, Calls};
use super::layout::{key_fields, state_schema};
use super::pane::Shape;
use super::panes::Panes;
use super::times::{ClosingKey, Rows, microseconds};

/// The windowed GROUP BY.
pub(super) struct Closing {
    spec: AggregateSpec,
    shape: Shape,
    table: StateTable,
    panes: Panes,
    cutoff: Watermark,
}

impl Closing {
    /// The operator of a spec that closes and does not retract. A window of at least `worthwhile` rows gets its own hash
    /// aggregation.
    pub fn new(spec: AggregateSpec, closing: ClosingKey, worthwhile: usize) -> Result<Self> {
        let calls =
            spec.aggregates.iter().zip(&spec.filters).map(|(function, filter)| Call::native(function, filter.clone()));
        let calls = Calls(calls.collect::<Result<_, DataFusionError>>()?);
        let keys = key_fields(&spec);
        let mut extra = Vec::new();
        let time = if is_time(keys[closing.key].data_type()) {
            closing.key
        } else {
            extra.push(Field::new("closing", DataType::Timestamp(TimeUnit::Microsecond, None), true));
            keys.len()
        };
        let table = StateTable {
            name: "groups",
            schema: state_schema(&keys, extra, &calls),
            routing: spec.routing,
            key: (0..keys.len()).collect(),
            time: Some(time),
            equality: KeyEquality::Bits,
            append_only: false,
        };
        let shape = Shape { calls, keys, closing };
        Ok(Self { spec, shape, table, panes: Panes::new(worthwhile), cutoff: Watermark::NONE })
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let keys: Vec<ArrayRef> = self.spec.keys.iter().map(|key| key_values(batch.column(*key))).collect();
        let arguments = self.shape.calls.arguments(batch)?;
        let times = microseconds(batch.column(self.shape.closing.time.column))?;
        let parts = self.panes.divide(times.values());
        if let [(first, _)] = parts.as_slice() {
            return self.add_to(*first, &times, &keys, &arguments);
        }
        let times: ArrayRef = Arc::new(times);
        for (first, rows) in parts {
            let keys = keys.iter().map(|key| rows.of(key)).collect::<Result<Vec<_>, _>>()?;
            let times = rows.of(&times)?;
            self.add_to(first, times.as_primitive(), &keys, &arguments.map(|column| rows.of(column))?)?;
        }
        Ok(())
    }

    fn add_to(&mut self, first: i64, times: &Int64Array, keys: &[ArrayRef], arguments: &Arguments) -> Result<()> {
        let entered = self.panes.enter(first, times);
        entered.touched = true;
        entered.pane.add(&self.shape, keys, arguments, times.len())
    }

    /// Emits the windows that are complete.
    fn close(&mut self, watermark: Watermark) -> Result<Vec<RecordBatch>> {
        let mut rows = Vec::new();
        for (mut columns, results) in self.panes.take_complete(&self.shape, watermark)? {
            columns.extend(results);
            if columns.first().is_some_and(|column| !column.is_empty()) {
                let columns = in_order(columns, self.shape.closing.key)?;
                rows.push(RecordBatch::try_new(self.spec.output.clone(), columns).map_err(DataFusionError::from)?);
            }
        }
        Ok(rows)
    }

    fn state_rows(&self, keys: Vec<ArrayRef>, states: Vec<ArrayRef>) -> Result<RecordBatch> {
        let mut columns = keys;
        if self.table.time == Some(columns.len()) {
            let closing = microseconds(&columns[self.shape.closing.key])?;
            columns.push(Arc::new(closing.reinterpret_cast::<TimestampMicrosecondType>()));
        }
        columns.extend(states);
        Ok(RecordBatch::try_new(self.table.schema.clone(), columns).map_err(DataFusionError::from)?)
    }
}

impl Operator for Closing {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        let mut late = Vec::new();
        for batch in inputs.into_iter().flatten() {
            let (batch, too_late) = self.shape.closing.part(batch, tick)?;
            late.extend(too_late.map(|rows| (0, rows)));
            self.add(&batch)?;
        }
        self.cutoff = self.cutoff.max(self.shape.closing.complete_below(tick.watermark));
        Ok(Stepped { rows: self.close(tick.watermark)?, late, ..Stepped::default() })
    }

    fn state(&self) -> Vec<StateTable> {
        vec![self.table.clone()]
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        let mut changed = Vec::new();
        for ranged in self.panes.touched() {
            ranged.touched = false;
            changed.push(ranged.pane.changes(&self.shape)?);
        }
        let rows = changed.into_iter().map(|(keys, states)| self.state_rows(keys, states));
        let upserts = rows.collect::<Result<_>>()?;
        Ok(vec![StateChange { table: 0, upserts, deletes: Vec::new(), cutoff: self.cutoff }])
    }

    fn restore(&mut self, _table: usize, rows: RecordBatch, watermark: Watermark) -> Result<()> {
        self.cutoff = self.cutoff.max(self.shape.closing.complete_below(watermark));
        let key = self.shape.closing.key;
        let times = microseconds(rows.column(key))?;
        let live: BooleanArray = times
            .iter()
            .map(|time| time.map(|time| !self.shape.closing.is_complete(EventTime(time), watermark)))
            .collect();
        let rows = filter_record_batch(&rows, &live).map_err(DataFusionError::from)?;
        let keys = self.shape.keys.len();
        let states = self.table.schema.fields().len() - self.shape.calls.state_types().len();
        let times = microseconds(rows.column(key))?;
        for (first, part) in self.panes.divide(times.values()) {
            let columns = rows.columns().iter().map(|column| part.of(column)).collect::<Result<Vec<_>, _>>()?;
            let entered = self.panes.enter(first, &microseconds(&columns[key])?);
            entered.pane.restore(&self.shape, &columns[..keys], &columns[states..], part.len())?;
        }
        Ok(())
    }

    fn due(&self) -> Watermark {
        self.shape.closing.due(self.panes.first())
    }

    fn usage(&self) -> StateUsage {
        let mut usage = StateUsage { rows: 0, bytes: 0, oldest: self.panes.first() };
        for pane in self.panes.iter() {
            usage.rows += pane.groups() as u64;
            usage.bytes += pane.bytes() as u64;
        }
        usage
    }
}

/// Keys and results, sorted by the closing value.
fn in_order(columns: Vec<ArrayRef>, closing: usize) -> Result<Vec<ArrayRef>> {
    let values = microseconds(&columns[closing])?;
    if values.values().is_sorted() {
        return Ok(columns);
    }
    let mut rows: Vec<u32> = (0..values.len() as u32).collect();
    rows.sort_by_key(|row| values.value(*row as usize));
    let rows = Rows::Picked(rows.into());
    Ok(columns.iter().map(|column| rows.of(column)).collect::<Result<_, _>>()?)
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _))
}
