//! The first row per partition of an append stream: `row_number() … = 1`.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::record_batch::RecordBatch;

use super::keyed::Keyed;
use super::lifetime::Lifetime;
use super::{Shape, prefix};
use crate::error::Result;
use crate::operator::contract::{Operator, StateUsage, Stepped, Tick};
use crate::operator::keyed::{Encoder, Layout, RowStore, micros, pick};
use crate::operator::spec::TopNSpec;
use crate::state::{KeyEquality, StateChange, StateTable};
use crate::time::{EventTime, Watermark};

/// Not a row, or not a change.
const NONE: u32 = u32::MAX;
const STAMP: (&str, DataType) = ("__stamp", DataType::Timestamp(TimeUnit::Microsecond, None));

/// Keeps the best row of each partition.
#[derive(Debug)]
pub struct Best {
    shape: Shape,
    layout: Layout,
    key_columns: Vec<usize>,
    routing: usize,
    parts: Keyed<Entry>,
    ties: Ties,
    rows: RowStore,
    /// Partitions that must be written.
    dirty: Vec<u32>,
}

/// The best row of a partition.
#[derive(Debug)]
struct Entry {
    /// The first 16 bytes of the encoded order values, usually all of them.
    prefix: u128,
    /// All of the order values if there are more than 16 bytes.
    rest: Vec<u8>,
    /// All columns encoded, once a tie needed them.
    tie: Option<Box<[u8]>>,
    row: u32,
    /// Index of this step's change of the partition.
    change: u32,
    dirty: bool,
}

/// A partition's row is replaced by a row of this step.
#[derive(Debug)]
struct Change {
    partition: u32,
    old: u32,
    batch: u32,
    row: u32,
}

/// All columns as bytes, for rows whose order values are equal.
#[derive(Debug)]
struct Ties {
    batch: Encoder,
    one: Encoder,
    /// `true` if `batch` holds the rows of the current batch.
    current: bool,
}

impl Default for Entry {
    fn default() -> Self {
        Self { prefix: 0, rest: Vec::new(), tie: None, row: NONE, change: NONE, dirty: false }
    }
}

impl Entry {
    fn is_vacant(&self) -> bool {
        self.row == NONE && self.change == NONE
    }

    /// Compares a row with these order values to this one.
    fn compare(&self, order: &[u8]) -> Ordering {
        prefix(order).cmp(&self.prefix).then_with(|| rest(order).cmp(&self.rest))
    }

    fn set_order(&mut self, order: &[u8]) {
        self.prefix = prefix(order);
        self.rest.clear();
        self.rest.extend_from_slice(rest(order));
        self.tie = None;
    }
}

fn rest(order: &[u8]) -> &[u8] {
    if order.len() > 16 { order } else { &[] }
}

impl Best {
    /// An operator with empty state.
    pub fn new(spec: TopNSpec) -> Result<Self> {
        let shape = Shape::new(&spec);
        let life = Lifetime::new(&spec)?;
        let added: &[_] = if life.stamped() { &[STAMP] } else { &[] };
        let layout = Layout::new(&shape.rows, &spec.keys[..spec.routing], added);
        let all: Vec<usize> = (0..shape.rows.fields().len()).collect();
        let ties = Ties {
            batch: Encoder::of_rows(&shape.rows, &all)?,
            one: Encoder::of_rows(&shape.rows, &all)?,
            current: false,
        };
        Ok(Self {
            routing: spec.routing,
            parts: Keyed::new(&shape.rows, &spec, life)?,
            rows: RowStore::new(Arc::clone(&shape.rows)),
            dirty: Vec::new(),
            key_columns: spec.keys,
            shape,
            layout,
            ties,
        })
    }

    /// Compares the rows of the last of `batches` with the best of their partitions.
    fn contest(&mut self, batches: &[RecordBatch], changes: &mut Vec<Change>) -> Result<()> {
        let Some((batch, at)) = batches.last().zip(batches.len().checked_sub(1)) else { return Ok(()) };
        let numbers = self.parts.resolve(batch)?;
        let moments = self.parts.life.moments(batch)?;
        self.ties.current = false;
        for (row, &partition) in numbers.iter().enumerate() {
            if self.parts.life.visit(partition, &moments, row) {
                self.mark(partition);
            }
            let entry = &self.parts.of[partition as usize];
            let ordering = if entry.is_vacant() { Ordering::Less } else { entry.compare(self.parts.order.row(row)) };
            let tie = match ordering {
                Ordering::Less => None,
                Ordering::Greater => continue,
                Ordering::Equal => match self.break_tie(partition, batches, row, changes)? {
                    None => continue,
                    better => better,
                },
            };
            let entry = &mut self.parts.of[partition as usize];
            entry.set_order(self.parts.order.row(row));
            entry.tie = tie;
            if entry.change == NONE {
                entry.change = changes.len() as u32;
                changes.push(Change { partition, old: entry.row, batch: at as u32, row: row as u32 });
            } else {
                let change = &mut changes[entry.change as usize];
                (change.batch, change.row) = (at as u32, row as u32);
            }
            self.mark(partition);
        }
        self.parts.give_back(numbers);
        Ok(())
    }

    fn mark(&mut self, partition: u32) {
        let entry = &mut self.parts.of[partition as usize];
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(partition);
        }
    }

    /// The encoded columns of a row of the last batch whose order values equal the best row's, if it is better by its other
    /// columns.
    fn break_tie(
        &mut self,
        partition: u32,
        batches: &[RecordBatch],
        row: usize,
        changes: &[Change],
    ) -> Result<Option<Box<[u8]>>> {
        let Some(batch) = batches.last() else { return Ok(None) };
        let ties = &mut self.ties;
        if !ties.current {
            ties.batch.encode(batch)?;
            ties.current = true;
        }
        let entry = &mut self.parts.of[partition as usize];
        if entry.tie.is_none() {
            let best = match changes.get(entry.change as usize) {
                Some(change) => batches[change.batch as usize].slice(change.row as usize, 1),
                None => self.rows.gather(&[entry.row])?,
            };
            ties.one.encode(&best)?;
            entry.tie = Some(ties.one.row(0).into());
        }
        let candidate = ties.batch.row(row);
        let better = entry.tie.as_deref().is_some_and(|best| candidate < best);
        Ok(better.then(|| candidate.into()))
    }

    /// Stores this step's best rows, and emits the changes.
    fn settle(&mut self, batches: &[RecordBatch], changes: &[Change], out: &mut Vec<RecordBatch>) -> Result<()> {
        let mut picked = vec![(Vec::new(), Vec::new()); batches.len()];
        let mut old = Vec::new();
        for change in changes {
            let number = self.rows.reserve();
            let (rows, numbers) = &mut picked[change.batch as usize];
            rows.push(change.row);
            numbers.push(number);
            let entry = &mut self.parts.of[change.partition as usize];
            (entry.row, entry.change) = (number, NONE);
            if change.old != NONE {
                old.push(change.old);
            }
        }
        if self.shape.updating && !old.is_empty() {
            out.push(self.output(&self.rows.gather(&old)?, -1)?);
        }
        for (batch, (rows, numbers)) in batches.iter().zip(picked) {
            if rows.is_empty() {
                continue;
            }
            let best = pick(batch, rows)?;
            if self.shape.updating {
                out.push(self.output(&best, 1)?);
            }
            self.rows.fill(numbers, best);
        }
        for row in old {
            self.rows.remove(row);
        }
        Ok(())
    }

    fn output(&self, rows: &RecordBatch, weight: i64) -> Result<RecordBatch> {
        let count = rows.num_rows();
        let (rank, weight) = (UInt64Array::from(vec![1; count]), Int64Array::from(vec![weight; count]));
        self.shape.output(rows.columns(), rank, weight)
    }

    /// Deletes partitions; returns the numbers of their rows, which are valid until the next row is stored.
    fn end(&mut self, partitions: &[u32]) -> Vec<u32> {
        let mut rows = Vec::with_capacity(partitions.len());
        for &partition in partitions {
            let entry = self.parts.take(partition);
            if entry.row != NONE {
                rows.push(entry.row);
            }
        }
        rows
    }
}

impl Operator for Best {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        let mut stepped = Stepped::default();
        self.parts.life.begin(tick);
        let mut batches = Vec::new();
        let mut changes = Vec::new();
        for batch in inputs.into_iter().flatten() {
            let (rows, late) = self.parts.life.split(&batch)?;
            stepped.late.extend(late.map(|late| (0, late)));
            if let Some(rows) = rows {
                batches.push(self.shape.split(&rows)?.0);
                self.contest(&batches, &mut changes)?;
            }
        }
        self.settle(&batches, &changes, &mut stepped.rows)?;
        let closed = self.parts.life.closed(tick);
        let rows = self.end(&closed);
        if !rows.is_empty() {
            stepped.rows.push(self.output(&self.rows.gather(&rows)?, 1)?);
        }
        let expired = self.parts.life.expired(tick);
        for row in self.end(&expired).into_iter().chain(rows) {
            self.rows.remove(row);
        }
        self.rows.tidy()?;
        Ok(stepped)
    }

    fn state(&self) -> Vec<StateTable> {
        let mut key: Vec<usize> = (0..self.routing).collect();
        key.extend(self.key_columns[self.routing..].iter().map(|&column| self.layout.place(column)));
        let time = self.parts.life.state_time(|column| self.layout.place(column), self.layout.width());
        let schema = Arc::clone(self.layout.schema());
        vec![StateTable {
            name: "best",
            schema,
            routing: self.routing,
            key,
            time,
            equality: KeyEquality::Values,
            append_only: false,
        }]
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        let mut numbers = Vec::new();
        let mut stamps = Vec::new();
        for partition in std::mem::take(&mut self.dirty) {
            let entry = &mut self.parts.of[partition as usize];
            if std::mem::take(&mut entry.dirty) && entry.row != NONE {
                numbers.push(entry.row);
                stamps.push(self.parts.life.stamp_of(partition).0);
            }
        }
        let mut upserts = Vec::new();
        if !numbers.is_empty() {
            let stamps: ArrayRef = Arc::new(TimestampMicrosecondArray::from(stamps));
            let added = if self.parts.life.stamped() { vec![stamps] } else { Vec::new() };
            upserts.push(self.layout.to_state(self.rows.gather(&numbers)?.columns(), added)?);
        }
        Ok(vec![StateChange { table: 0, upserts, deletes: Vec::new(), cutoff: self.parts.life.cutoff() }])
    }

    fn restore(&mut self, _table: usize, rows: RecordBatch, _watermark: Watermark) -> Result<()> {
        let input = self.layout.to_input(&rows)?;
        let stamps = if self.parts.life.stamped() { Some(micros(&rows, self.layout.width())?) } else { None };
        let partitions = self.parts.resolve(&input)?;
        let moments = self.parts.life.moments(&input)?;
        let mut numbers = Vec::with_capacity(partitions.len());
        for (row, &partition) in partitions.iter().enumerate() {
            let number = self.rows.reserve();
            let entry = &mut self.parts.of[partition as usize];
            entry.set_order(self.parts.order.row(row));
            entry.row = number;
            numbers.push(number);
            self.parts.life.restore(
                partition,
                &moments,
                row,
                stamps.as_ref().map(|stamps| EventTime(stamps.value(row))),
            );
        }
        self.parts.give_back(partitions);
        if !numbers.is_empty() {
            let all = (0..input.num_rows() as u32).collect();
            self.rows.fill(numbers, pick(&input, all)?);
        }
        Ok(())
    }

    fn due(&self) -> Watermark {
        self.parts.life.due()
    }

    fn usage(&self) -> StateUsage {
        let bytes = self.parts.bytes() + self.rows.bytes() + self.dirty.capacity() * size_of::<u32>();
        StateUsage { rows: self.rows.len() as u64, bytes: bytes as u64, oldest: self.parts.life.oldest() }
    }
}
