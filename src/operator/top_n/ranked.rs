//! Partitions of several ranked rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use arrow::record_batch::RecordBatch;

use super::Shape;
use super::keyed::Keyed;
use super::lifetime::Lifetime;
use super::partition::{Entry, Limit, Partition, Place, RowKey, Shown, difference};
use crate::error::{Context, Error, Result};
use crate::operator::contract::{Operator, StateUsage, Stepped, Tick};
use crate::operator::keyed::{Encoder, Layout, RowStore, micros, pick};
use crate::operator::spec::TopNSpec;
use crate::state::{KeyEquality, StateChange, StateTable};
use crate::time::{EventTime, Watermark};

const WEIGHT: (&str, DataType) = ("__count", DataType::Int64);
const STAMP: (&str, DataType) = ("__stamp", DataType::Timestamp(TimeUnit::Microsecond, None));
/// Memory of a row besides its bytes: reference counts, its place in the tree, half-empty nodes.
const ROW_OVERHEAD: usize = 16 + (size_of::<RowKey>() + size_of::<Entry>()) * 3 / 2;

/// The number of a row whose columns are not stored.
const BYTES_ONLY: u32 = u32::MAX;

/// Keeps the rows of each partition in order.
#[derive(Debug)]
pub struct Ranked {
    shape: Shape,
    /// The name of the state table.
    table: &'static str,
    layout: Layout,
    limit: Limit,
    routing: usize,
    parts: Keyed<Partition>,
    full: Encoder,
    /// The columns of an append stream's rows, which are few. A retracting stream, which keeps all rows, has them only in
    /// their bytes: reading columns from these is slower.
    columns: RowStore,
    /// Numbers of rows that this step has dropped.
    dropped: Vec<u32>,
    /// Partitions touched in this step.
    touched: Vec<u32>,
    /// Changes to emit in this step.
    changes: Vec<Place>,
    /// Rows whose weight became 0 in this step.
    zeros: Vec<(u32, RowKey)>,
    /// Rows that must be written; some may have been removed.
    dirty: Vec<(u32, RowKey)>,
    /// Removed rows that are in state, with the number of their bytes that are order values.
    gone: BTreeMap<RowKey, u32>,
    rows: usize,
    row_bytes: usize,
    scratch: Vec<u8>,
}

impl Ranked {
    /// An operator with empty state.
    pub fn new(spec: &TopNSpec, table: &'static str) -> Result<Self> {
        let shape = Shape::new(spec);
        let life = Lifetime::new(spec)?;
        let added: &[_] = if life.stamped() { &[WEIGHT, STAMP] } else { &[WEIGHT] };
        let layout = Layout::new(&shape.rows, &spec.keys[..spec.routing], added);
        let all: Vec<usize> = (0..shape.rows.fields().len()).collect();
        Ok(Self {
            table,
            limit: Limit { function: spec.function, rows: spec.limit as u64, with_rank: spec.with_rank },
            routing: spec.routing,
            parts: Keyed::new(&shape.rows, spec, life)?,
            full: Encoder::of_rows(&shape.rows, &all)?,
            columns: RowStore::new(Arc::clone(&shape.rows)),
            dropped: Vec::new(),
            touched: Vec::new(),
            changes: Vec::new(),
            zeros: Vec::new(),
            dirty: Vec::new(),
            gone: BTreeMap::new(),
            rows: 0,
            row_bytes: 0,
            scratch: Vec::new(),
            shape,
            layout,
        })
    }

    /// Processes the rows of a batch, none of them late.
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let (batch, weights) = self.shape.split(batch)?;
        let numbers = self.parts.resolve(&batch)?;
        let moments = self.parts.life.moments(&batch)?;
        let mut candidates = Vec::with_capacity(numbers.len());
        for (row, &partition) in numbers.iter().enumerate() {
            if self.parts.life.visit(partition, &moments, row) {
                self.write_again(partition);
            }
            // Rows far beyond the limit are not encoded.
            let admitted = &self.parts.of[partition as usize];
            if self.shape.retract || admitted.admits(self.parts.order.row(row), self.limit) {
                candidates.push(row as u32);
            }
        }
        if candidates.len() == numbers.len() {
            self.full.encode(&batch)?;
        } else {
            self.full.encode(&pick(&batch, candidates.clone())?)?;
        }
        let mut kept = (Vec::new(), Vec::new());
        for (at, row) in candidates.into_iter().enumerate() {
            let weight = weights.as_ref().map_or(1, |weights| weights.value(row as usize));
            if let Some(number) = self.apply(numbers[row as usize], row as usize, at, weight) {
                kept.0.push(number);
                kept.1.push(row);
            }
        }
        if !kept.0.is_empty() {
            self.columns.fill(kept.0, pick(&batch, kept.1)?);
        }
        self.parts.give_back(numbers);
        Ok(())
    }

    /// Counts a row `weight` times; `row` is its index in the batch, `at` among the candidates. Returns the number for its
    /// columns, if they are to be stored.
    fn apply(&mut self, number: u32, row: usize, at: usize, weight: i64) -> Option<u32> {
        let order = self.parts.order.row(row);
        let partition = &mut self.parts.of[number as usize];
        if !self.shape.retract && !partition.admits(order, self.limit) {
            return None;
        }
        let limit = self.limit;
        if !std::mem::replace(&mut partition.touched, true) {
            self.touched.push(number);
            if std::mem::take(&mut partition.restored) {
                partition.show(limit, |_| {});
            }
        }
        let order_len = order.len() as u32;
        self.scratch.clear();
        self.scratch.extend_from_slice(order);
        self.scratch.extend_from_slice(self.full.row(at));
        let key = RowKey::new(&self.scratch);
        let mut new = false;
        let entry = partition.rows.entry(key.clone()).or_insert_with(|| {
            new = true;
            self.rows += 1;
            self.row_bytes += key.bytes.len() + ROW_OVERHEAD;
            let written = self.gone.remove(&key).is_some();
            let number = if self.shape.retract { BYTES_ONLY } else { self.columns.reserve() };
            Entry { weight: 0, order: order_len, number, written, dirty: false, shown: Shown::default() }
        });
        let kept = Some(entry.number).filter(|number| new && *number != BYTES_ONLY);
        entry.weight += weight;
        if entry.weight == 0 {
            self.zeros.push((number, key.clone()));
        }
        if !std::mem::replace(&mut entry.dirty, true) {
            self.dirty.push((number, key.clone()));
        }
        if !self.shape.retract {
            partition.count(&key, order_len, weight.unsigned_abs(), new, limit);
            while let Some((row, entry)) = self.parts.of[number as usize].pop_beyond(limit) {
                self.drop_row(number, row, entry);
            }
        }
        kept
    }

    /// Drops a row that was removed from its partition.
    fn drop_row(&mut self, number: u32, row: RowKey, entry: Entry) {
        self.rows -= 1;
        self.row_bytes -= row.bytes.len() + ROW_OVERHEAD;
        if entry.number != BYTES_ONLY {
            self.dropped.push(entry.number);
        }
        if entry.shown.count > 0 {
            self.parts.of[number as usize].shown -= 1;
            let changes = &mut self.changes;
            difference(&row, &entry, entry.shown, Shown::default(), self.limit, &mut |place| changes.push(place));
        }
        if entry.written {
            self.gone.insert(row, entry.order);
        }
    }

    /// The partition has a new stamp, so all its rows must be written again.
    fn write_again(&mut self, number: u32) {
        for (row, entry) in &mut self.parts.of[number as usize].rows {
            if !std::mem::replace(&mut entry.dirty, true) {
                self.dirty.push((number, row.clone()));
            }
        }
    }

    /// Ends the step for its touched partitions, and returns the changes within the limits.
    fn settle(&mut self) -> Vec<Place> {
        for (number, row) in std::mem::take(&mut self.zeros) {
            let rows = &mut self.parts.of[number as usize].rows;
            if rows.get(&row).is_some_and(|entry| entry.weight == 0)
                && let Some(entry) = rows.remove(&row)
            {
                self.drop_row(number, row, entry);
            }
        }
        let mut changes = std::mem::take(&mut self.changes);
        for number in std::mem::take(&mut self.touched) {
            let partition = &mut self.parts.of[number as usize];
            partition.touched = false;
            if self.shape.updating {
                partition.show(self.limit, |place| changes.push(place));
            }
        }
        changes
    }

    /// Removes empty partitions, so that their keys do not stay.
    fn sweep(&mut self, numbers: impl Iterator<Item = u32>) {
        for number in numbers {
            if self.parts.of[number as usize].rows.is_empty() {
                self.parts.take(number);
            }
        }
    }

    /// Removes partitions; their rows expire from state by time.
    fn end(&mut self, numbers: Vec<u32>) -> Vec<Place> {
        let mut places = Vec::new();
        for number in numbers {
            let mut partition = self.parts.take(number);
            if !self.shape.updating {
                partition.show(self.limit, |place| places.push(place));
            }
            self.rows -= partition.rows.len();
            self.row_bytes -= partition.rows.keys().map(|row| row.bytes.len() + ROW_OVERHEAD).sum::<usize>();
            let numbers = partition.rows.values().map(|entry| entry.number);
            self.dropped.extend(numbers.filter(|number| *number != BYTES_ONLY));
        }
        places
    }

    fn decode(&self, rows: &[(&RowKey, u32)]) -> Result<Vec<ArrayRef>> {
        self.full.decode(rows.iter().map(|(row, order)| &row.bytes[*order as usize..]))
    }

    /// The columns of rows that are still stored; `numbers` are the numbers of these columns.
    fn columns_of(&self, rows: &[(&RowKey, u32)], numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        if self.shape.retract { self.decode(rows) } else { Ok(self.columns.gather(numbers)?.columns().to_vec()) }
    }

    /// Places as output rows. An append stream repeats a row as often as it counts.
    fn output(&self, places: &[Place], out: &mut Vec<RecordBatch>) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let times = |place: &Place| if self.shape.updating { 1 } else { place.count.max(0) as usize };
        let each = places.iter().flat_map(|place| std::iter::repeat_n(place, times(place)));
        let places: Vec<&Place> = each.collect();
        let rows: Vec<_> = places.iter().map(|place| (&place.row, place.order)).collect();
        let numbers: Vec<u32> = places.iter().map(|place| place.number).collect();
        let ranks: UInt64Array = places.iter().map(|place| Some(place.rank)).collect();
        let weights: Int64Array = places.iter().map(|place| Some(place.count)).collect();
        out.push(self.shape.output(&self.columns_of(&rows, &numbers)?, ranks, weights)?);
        Ok(())
    }

    fn added(&self, weights: Vec<i64>, stamps: Vec<i64>) -> Vec<ArrayRef> {
        let mut added: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(weights))];
        if self.parts.life.stamped() {
            added.push(Arc::new(TimestampMicrosecondArray::from(stamps)));
        }
        added
    }
}

impl Operator for Ranked {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        let mut stepped = Stepped::default();
        self.parts.life.begin(tick);
        let mut visited = Vec::new();
        for batch in inputs.into_iter().flatten() {
            let (rows, late) = self.parts.life.split(&batch)?;
            stepped.late.extend(late.map(|late| (0, late)));
            if let Some(rows) = rows {
                self.take(&rows)?;
                visited.extend_from_slice(self.parts.resolved());
            }
        }
        let changes = self.settle();
        self.output(&changes, &mut stepped.rows)?;
        self.sweep(visited.into_iter());
        let closed = self.parts.life.closed(tick);
        let places = self.end(closed);
        self.output(&places, &mut stepped.rows)?;
        let expired = self.parts.life.expired(tick);
        self.end(expired);
        for number in std::mem::take(&mut self.dropped) {
            self.columns.remove(number);
        }
        self.columns.tidy()?;
        Ok(stepped)
    }

    fn state(&self) -> Vec<StateTable> {
        let width = self.layout.width();
        let time = self.parts.life.state_time(|column| self.layout.place(column), width + 1);
        let (schema, key) = (Arc::clone(self.layout.schema()), (0..width).collect());
        vec![StateTable {
            name: self.table,
            schema,
            routing: self.routing,
            key,
            time,
            equality: KeyEquality::Bits,
            append_only: false,
        }]
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        let (mut rows, mut numbers, mut weights, mut stamps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let dirty = std::mem::take(&mut self.dirty);
        for (number, bytes) in &dirty {
            let Some(entry) = self.parts.of[*number as usize].rows.get_mut(bytes) else { continue };
            if std::mem::take(&mut entry.dirty) {
                entry.written = true;
                rows.push((bytes, entry.order));
                numbers.push(entry.number);
                weights.push(entry.weight);
                stamps.push(self.parts.life.stamp_of(*number).0);
            }
        }
        let mut change = StateChange { table: 0, upserts: vec![], deletes: vec![], cutoff: self.parts.life.cutoff() };
        if !rows.is_empty() {
            let added = self.added(weights, stamps);
            change.upserts.push(self.layout.to_state(&self.columns_of(&rows, &numbers)?, added)?);
        }
        if !self.gone.is_empty() {
            // All columns identify a row, so a deleted one is a state row without the added columns.
            let gone: Vec<_> = self.gone.iter().map(|(bytes, order)| (bytes, *order)).collect();
            let none = vec![0; gone.len()];
            let state = self.layout.to_state(&self.decode(&gone)?, self.added(none.clone(), none))?;
            let key: Vec<usize> = (0..self.layout.width()).collect();
            change.deletes.push(state.project(&key).internal(|| "keys cannot be projected".to_owned())?);
            self.gone.clear();
        }
        Ok(vec![change])
    }

    fn restore(&mut self, _table: usize, rows: RecordBatch, _watermark: Watermark) -> Result<()> {
        let input = self.layout.to_input(&rows)?;
        let width = self.layout.width();
        let Some(weights) = rows.column(width).as_primitive_opt::<Int64Type>() else {
            return Err(Error::damaged("state rows of a top-n have no count"));
        };
        let stamps = if self.parts.life.stamped() { Some(micros(&rows, width + 1)?) } else { None };
        let numbers = self.parts.resolve(&input)?;
        let moments = self.parts.life.moments(&input)?;
        self.full.encode(&input)?;
        let kept: Vec<u32> = numbers.iter().filter(|_| !self.shape.retract).map(|_| self.columns.reserve()).collect();
        for (row, &number) in numbers.iter().enumerate() {
            self.parts.life.restore(number, &moments, row, stamps.as_ref().map(|stamps| EventTime(stamps.value(row))));
            let order = self.parts.order.row(row);
            let key = RowKey::new(&[order, self.full.row(row)].concat());
            let (order, weight) = (order.len() as u32, weights.value(row));
            let partition = &mut self.parts.of[number as usize];
            partition.restored = self.shape.updating;
            self.rows += 1;
            self.row_bytes += key.bytes.len() + ROW_OVERHEAD;
            let column = kept.get(row).copied().unwrap_or(BYTES_ONLY);
            let entry = Entry { weight, order, number: column, written: true, dirty: false, shown: Shown::default() };
            partition.rows.insert(key.clone(), entry);
            if !self.shape.retract {
                partition.count(&key, order, weight.unsigned_abs(), true, self.limit);
            }
        }
        self.parts.give_back(numbers);
        if !kept.is_empty() {
            self.columns.fill(kept, pick(&input, (0..input.num_rows() as u32).collect())?);
        }
        Ok(())
    }

    fn due(&self) -> Watermark {
        self.parts.life.due()
    }

    fn usage(&self) -> StateUsage {
        let pending = (self.dirty.capacity() + self.gone.len() * 2) * size_of::<(u32, RowKey)>();
        let rows = self.row_bytes + self.columns.bytes();
        let bytes = self.parts.bytes() + rows + pending;
        StateUsage { rows: self.rows as u64, bytes: bytes as u64, oldest: self.parts.life.oldest() }
    }
}
