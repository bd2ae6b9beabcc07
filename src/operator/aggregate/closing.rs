//! GROUP BY a key that gets complete (a window's start or end, say): groups come out once, when their window closes.
//!
//! There is one hash aggregation per value of the closing key, so that closing a window is emitting it and dropping it. Within a window,
//! rows go into `fresh` accumulators. DataFusion's accumulators give their state away as a whole, so at every snapshot the fresh part,
//! which holds just what came since the last one, is merged into the window's `settled` rows; those are what is written. Without
//! snapshots in between, a window costs what DataFusion's own GROUP BY costs.

use std::collections::BTreeMap;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;

use crate::error::Result;
use crate::operator::spec::AggregateSpec;
use crate::operator::{Operator, StateUsage, Stepped, Tick};
use crate::state::{KeyedTable, NO_WATERMARK, StateChange, StateTable};

use super::call::{Arguments, Call, Calls};
use super::groups::Groups;
use super::layout::{key_fields, state_schema};
use super::times::{ClosingKey, microseconds, raw_times, split};

/// The windowed GROUP BY.
pub(super) struct Closing {
    spec: AggregateSpec,
    calls: Calls,
    keys: Vec<Field>,
    closing: ClosingKey,
    table: StateTable,
    windows: BTreeMap<i64, Window>,
    /// Windows that have fresh rows.
    touched: Vec<i64>,
    cutoff: i64,
}

/// The groups of one value of the closing key.
#[derive(Default)]
struct Window {
    fresh: Option<Fresh>,
    settled: Option<KeyedTable>,
}

/// What came since the last snapshot. Key columns that have held the same value in every row are not hashed: the closing key is
/// one, and a window's other bound mostly.
struct Fresh {
    groups: Groups,
    hashed: Vec<usize>,
    constants: Vec<Option<ScalarValue>>,
}

impl Closing {
    /// The operator of a spec that closes and does not retract.
    pub fn new(spec: AggregateSpec, closing: ClosingKey) -> Result<Self> {
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
        let schema = state_schema(&keys, extra, &calls);
        let table = StateTable {
            name: "groups",
            schema,
            routing: spec.routing,
            key: (0..keys.len()).collect(),
            time: Some(time),
            append_only: false,
        };
        Ok(Self {
            spec,
            calls,
            keys,
            closing,
            table,
            windows: BTreeMap::new(),
            touched: Vec::new(),
            cutoff: NO_WATERMARK,
        })
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let keys: Vec<ArrayRef> = self.spec.keys.iter().map(|key| batch.column(*key).clone()).collect();
        let arguments = self.calls.arguments(batch)?;
        let times = microseconds(batch.column(self.closing.column))?;
        let parts = split(times.values());
        if let [(value, _)] = parts.as_slice() {
            return self.add_to(*value, &keys, &arguments, batch.num_rows());
        }
        for (value, rows) in parts {
            let keys = keys.iter().map(|key| rows.of(key)).collect::<Result<Vec<_>, _>>()?;
            self.add_to(value, &keys, &arguments.map(|column| rows.of(column))?, rows.len())?;
        }
        Ok(())
    }

    fn add_to(&mut self, value: i64, keys: &[ArrayRef], arguments: &Arguments, rows: usize) -> Result<()> {
        let window = self.windows.entry(value).or_default();
        let fresh = match &mut window.fresh {
            Some(fresh) => fresh,
            none => none.insert(Fresh::new(&self.keys, keys, &self.calls)?),
        };
        if fresh.groups.len() == 0 {
            self.touched.push(value);
        }
        fresh.admit(&self.keys, keys)?;
        let hashed: Vec<ArrayRef> = fresh.hashed.iter().map(|key| keys[*key].clone()).collect();
        Ok(fresh.groups.update(&hashed, arguments, rows)?)
    }

    /// Emits the windows that are complete.
    fn close(&mut self, watermark: i64) -> Result<Vec<RecordBatch>> {
        let mut rows = Vec::new();
        while let Some(entry) = self.windows.first_entry() {
            if !self.closing.is_complete(*entry.key(), watermark) {
                break;
            }
            let mut window = entry.remove();
            let (mut columns, results) = window.finish(&self.calls, &self.keys)?;
            columns.extend(results);
            if columns.first().is_some_and(|column| !column.is_empty()) {
                rows.push(RecordBatch::try_new(self.spec.output.clone(), columns).map_err(DataFusionError::from)?);
            }
        }
        Ok(rows)
    }

    fn state_rows(&self, window: i64, table: &KeyedTable, slots: &[u32]) -> Result<RecordBatch> {
        let mut columns = table.keys(slots)?;
        if self.table.time == Some(self.keys.len()) {
            columns.push(ScalarValue::TimestampMicrosecond(Some(window), None).to_array_of_size(slots.len())?);
        }
        columns.extend(table.gather(slots)?);
        Ok(RecordBatch::try_new(self.table.schema.clone(), columns).map_err(DataFusionError::from)?)
    }
}

impl Operator for Closing {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        let mut late = Vec::new();
        for batch in inputs.into_iter().flatten() {
            let (batch, too_late) = self.closing.part(batch, tick)?;
            late.extend(too_late.map(|rows| (0, rows)));
            self.add(&batch)?;
        }
        self.cutoff = self.cutoff.max(self.closing.complete_below(tick.watermark));
        Ok(Stepped { rows: self.close(tick.watermark)?, late })
    }

    fn state(&self) -> Vec<StateTable> {
        vec![self.table.clone()]
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        let mut upserts = Vec::new();
        for value in std::mem::take(&mut self.touched) {
            let Some(mut window) = self.windows.remove(&value) else { continue };
            window.settle(&self.calls, &self.keys)?;
            if let Some(settled) = &mut window.settled {
                let changes = settled.changes()?;
                upserts.push(self.state_rows(value, settled, &changes.upserts)?);
            }
            self.windows.insert(value, window);
        }
        Ok(vec![StateChange { table: 0, upserts, deletes: Vec::new(), cutoff: self.cutoff }])
    }

    fn restore(&mut self, _table: usize, rows: RecordBatch, watermark: i64) -> Result<()> {
        self.cutoff = self.cutoff.max(self.closing.complete_below(watermark));
        let times = microseconds(rows.column(self.closing.key))?;
        let states = self.table.schema.fields().len() - self.calls.state_types().len();
        for (value, part) in split(times.values()) {
            if self.closing.is_complete(value, watermark) {
                continue;
            }
            let columns = rows.columns().iter().map(|column| part.of(column)).collect::<Result<Vec<_>, _>>()?;
            let window = self.windows.entry(value).or_default();
            let settled = window.settled(&self.calls, &self.keys)?;
            settled.restore(&columns[..self.keys.len()], &columns[states..], part.len())?;
        }
        Ok(())
    }

    fn due(&self) -> i64 {
        self.closing.due(self.windows.keys().next().copied())
    }

    fn usage(&self) -> StateUsage {
        let mut usage = StateUsage { rows: 0, bytes: 0, oldest: self.windows.keys().next().copied() };
        for window in self.windows.values() {
            let settled = window.settled.as_ref().map_or((0, 0), |table| (table.len(), table.bytes()));
            let fresh = window.fresh.as_ref().map_or((0, 0), |fresh| (fresh.groups.len(), fresh.groups.bytes()));
            usage.rows += (settled.0 + fresh.0) as u64;
            usage.bytes += (settled.1 + fresh.1) as u64;
        }
        usage
    }
}

impl Window {
    fn settled(&mut self, calls: &Calls, keys: &[Field]) -> Result<&mut KeyedTable> {
        match &mut self.settled {
            Some(table) => Ok(table),
            none => {
                let keys: Vec<_> = keys.iter().map(|key| key.data_type().clone()).collect();
                Ok(none.insert(KeyedTable::new(&keys, &calls.state_types())?))
            }
        }
    }

    /// Merges the fresh part into the settled one.
    fn settle(&mut self, calls: &Calls, keys: &[Field]) -> Result<()> {
        let Some(fresh) = self.fresh.as_mut().filter(|fresh| fresh.groups.len() > 0) else { return Ok(()) };
        let groups = fresh.groups.len();
        let columns = fresh.take_keys()?;
        let mut states = fresh.groups.take_states(calls)?;
        let settled = self.settled(calls, keys)?;
        let slots = settled.intern(&columns, groups)?;
        let known: Vec<usize> = (0..groups).filter(|group| settled.is_live(slots[*group])).collect();
        if !known.is_empty() {
            let before: Vec<u32> = known.iter().map(|group| slots[*group]).collect();
            states = calls.merge(&settled.gather(&before)?, &known, &states, groups)?;
        }
        settled.put(&slots, &states)
    }

    /// The keys and results of all groups.
    fn finish(&mut self, calls: &Calls, keys: &[Field]) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)> {
        if self.settled.is_some() {
            self.settle(calls, keys)?;
        }
        if let Some(settled) = &self.settled {
            let slots = settled.live_slots();
            return Ok((settled.keys(&slots)?, calls.results_of(&settled.gather(&slots)?, slots.len())?));
        }
        match &mut self.fresh {
            Some(fresh) if fresh.groups.len() > 0 => {
                let results = fresh.groups.take_results(calls)?;
                Ok((fresh.take_keys()?, results))
            }
            _ => Ok((Vec::new(), Vec::new())),
        }
    }
}

impl Fresh {
    /// Finds out from the first rows which columns to take for constant.
    fn new(keys: &[Field], columns: &[ArrayRef], calls: &Calls) -> Result<Self> {
        let constants = columns.iter().map(constant).collect::<Result<Vec<_>>>()?;
        let hashed: Vec<usize> = (0..keys.len()).filter(|key| constants[*key].is_none()).collect();
        let fields: Vec<Field> = hashed.iter().map(|key| keys[*key].clone()).collect();
        Ok(Self { groups: Groups::new(&fields, calls)?, hashed, constants })
    }

    /// Hashes the columns from now on that turn out not to be constant.
    fn admit(&mut self, keys: &[Field], columns: &[ArrayRef]) -> Result<()> {
        let mut changed = false;
        let before: Vec<Option<ScalarValue>> = self.constants.clone();
        for (known, column) in self.constants.iter_mut().zip(columns) {
            if known.is_some() && constant(column)? != *known {
                *known = None;
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        let old = std::mem::take(&mut self.hashed);
        self.hashed = (0..keys.len()).filter(|key| self.constants[*key].is_none()).collect();
        let fields: Vec<Field> = self.hashed.iter().map(|key| keys[*key].clone()).collect();
        let groups = self.groups.len();
        let all = assemble(self.groups.take_keys()?, &old, &before, groups)?;
        let columns: Vec<ArrayRef> = self.hashed.iter().map(|key| all[*key].clone()).collect();
        Ok(self.groups.rekey(&fields, &columns, groups)?)
    }

    /// All key columns, of all groups.
    fn take_keys(&mut self) -> Result<Vec<ArrayRef>> {
        let groups = self.groups.len();
        assemble(self.groups.take_keys()?, &self.hashed, &self.constants, groups)
    }
}

/// Puts hashed and constant columns in the order of the keys.
fn assemble(
    columns: Vec<ArrayRef>,
    hashed: &[usize],
    constants: &[Option<ScalarValue>],
    groups: usize,
) -> Result<Vec<ArrayRef>> {
    let mut keys: Vec<Option<ArrayRef>> = vec![None; constants.len()];
    for (column, key) in columns.into_iter().zip(hashed) {
        keys[*key] = Some(column);
    }
    for (key, constant) in keys.iter_mut().zip(constants) {
        if let Some(constant) = constant {
            *key = Some(constant.to_array_of_size(groups)?);
        }
    }
    Ok(keys.into_iter().flatten().collect())
}

/// The value that all rows of a time column hold, if they do.
fn constant(column: &ArrayRef) -> Result<Option<ScalarValue>> {
    let Some(values) = raw_times(column) else { return Ok(None) };
    let Some(first) = values.first() else { return Ok(None) };
    if column.null_count() > 0 || !values.iter().all(|value| value == first) {
        return Ok(None);
    }
    Ok(Some(ScalarValue::try_from_array(column, 0)?))
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _))
}
