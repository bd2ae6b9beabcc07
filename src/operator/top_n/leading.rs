//! The first few rows per partition of an append stream: `row_number() … <= n` for a small `n`.
//!
//! A partition is a short list of rows in order. For each row the list holds the first bytes of its encoded order values,
//! which usually suffice to compare, and the number of its columns; all bytes are encoded only for rows that tie.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;

use super::keyed::Keyed;
use super::lifetime::Lifetime;
use super::list::{Entry, Facts, Partition, Place, difference};
use super::ties::Ties;
use super::{Shape, prefix};
use crate::error::{Context, Error, Result};
use crate::operator::contract::{Operator, StateUsage, Stepped, Tick};
use crate::operator::keyed::{Layout, RowStore, micros, pick};
use crate::operator::spec::TopNSpec;
use crate::state::{KeyEquality, StateChange, StateTable};
use crate::time::{EventTime, Watermark};

/// Longer lists would be slow to insert into; small in tests, so that both kinds of partitions are tested.
pub const MOST: usize = if cfg!(test) { 5 } else { 1024 };

const WEIGHT: (&str, DataType) = ("__count", DataType::Int64);
const SEQ: (&str, DataType) = ("__seq", DataType::Int64);
const STAMP: (&str, DataType) = ("__stamp", DataType::Timestamp(TimeUnit::Microsecond, None));

/// The row must be written to state.
const DIRTY: u8 = 1;
/// The row is in state, perhaps with another weight.
const WRITTEN: u8 = 2;

/// Keeps the first rows of each partition.
#[derive(Debug)]
pub struct Leading {
    shape: Shape,
    /// The name of the state table.
    table: &'static str,
    layout: Layout,
    limit: u32,
    /// The columns that route.
    routing: Vec<usize>,
    deleted: SchemaRef,
    parts: Keyed<Partition>,
    ties: Ties,
    rows: RowStore,
    /// By row number.
    facts: Vec<Facts>,
    next_seq: i64,
    /// Numbers of rows that this step drops, and those of them that are in state.
    dropped: Vec<u32>,
    gone: Vec<u32>,
    deletes: Vec<RecordBatch>,
    /// Partitions touched in this step.
    touched: Vec<u32>,
    /// Changes to emit in this step.
    changes: Vec<Place>,
    /// Numbers of rows that must be written; some may have been dropped, or be listed twice.
    dirty: Vec<u32>,
}

impl Leading {
    /// An operator with empty state.
    pub fn new(spec: &TopNSpec, name: &'static str) -> Result<Self> {
        let shape = Shape::new(spec);
        let life = Lifetime::new(spec)?;
        let added: &[_] = if life.stamped() { &[WEIGHT, SEQ, STAMP] } else { &[WEIGHT, SEQ] };
        let routing = spec.keys[..spec.routing].to_vec();
        let layout = Layout::new(&shape.rows, &routing, added);
        let deleted = table(name, &layout, &life, routing.len()).delete_schema();
        Ok(Self {
            table: name,
            limit: spec.limit as u32,
            parts: Keyed::new(&shape.rows, spec, life)?,
            ties: Ties::new(&shape.rows, spec)?,
            rows: RowStore::new(Arc::clone(&shape.rows)),
            facts: Vec::new(),
            next_seq: 0,
            dropped: Vec::new(),
            gone: Vec::new(),
            deletes: Vec::new(),
            touched: Vec::new(),
            changes: Vec::new(),
            dirty: Vec::new(),
            shape,
            layout,
            routing,
            deleted,
        })
    }

    /// Processes the rows of a batch, none of them late.
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let (batch, _) = self.shape.split(batch)?;
        let partitions = self.parts.resolve(&batch)?;
        let moments = self.parts.life.moments(&batch)?;
        let mut candidates = Vec::with_capacity(partitions.len());
        for (row, &partition) in partitions.iter().enumerate() {
            if self.parts.life.visit(partition, &moments, row) {
                self.write_again(partition);
            }
            if self.parts.of[partition as usize].admits(prefix(self.parts.order.row(row)), self.limit) {
                candidates.push(row as u32);
            }
        }
        if !candidates.is_empty() {
            let picked = pick(&batch, candidates.clone())?;
            let numbers = self.keep(&picked);
            self.ties.begin(&picked)?;
            for (at, (number, row)) in numbers.into_iter().zip(candidates).enumerate() {
                if !self.rank(partitions[row as usize], row as usize, (&picked, at), number)? {
                    self.dropped.push(number);
                }
            }
        }
        self.parts.give_back(partitions);
        Ok(())
    }

    /// Stores rows and returns their numbers.
    fn keep(&mut self, rows: &RecordBatch) -> Vec<u32> {
        let numbers: Vec<u32> = (0..rows.num_rows()).map(|_| self.rows.reserve()).collect();
        self.rows.fill(numbers.clone(), rows.clone());
        let bound = numbers.iter().max().map_or(0, |&number| number as usize + 1);
        if self.facts.len() < bound {
            self.facts.resize_with(bound, Facts::default);
        }
        numbers
    }

    /// Inserts a row into its partition if it is within the limit, and drops rows beyond it; `row` is its index in the
    /// batch, `at` among the candidates. `true` if the row was inserted.
    fn rank(&mut self, partition: u32, row: usize, (picked, at): (&RecordBatch, usize), number: u32) -> Result<bool> {
        let order = self.parts.order.row(row);
        let prefix = prefix(order);
        let list = &self.parts.of[partition as usize];
        if !list.admits(prefix, self.limit) {
            return Ok(false);
        }
        self.ties.look_at(picked, at, order)?;
        let place = self.ties.find(&list.rows, (prefix, order), (picked, at), &self.rows, &mut self.facts)?;
        self.touch(partition);
        let of_partition = &mut self.parts.of[partition as usize];
        let new = match place {
            Ok(same) => {
                let entry = &mut of_partition.rows[same];
                if entry.weight < self.limit {
                    entry.weight += 1;
                    of_partition.total += 1;
                    let number = entry.number;
                    self.facts[number as usize].weight = entry.weight;
                    self.mark(number);
                }
                false
            }
            Err(place) if place == of_partition.rows.len() && of_partition.total >= self.limit => false,
            Err(place) => {
                of_partition.rows.insert(place, Entry { prefix, number, weight: 1, rank: 0, count: 0 });
                of_partition.total += 1;
                let (bytes, seq) = (self.ties.made(), self.next_seq);
                self.next_seq += 1;
                self.facts[number as usize] = Facts { bytes, seq, partition, weight: 1, flags: 0 };
                self.mark(number);
                true
            }
        };
        while let Some(entry) = self.parts.of[partition as usize].pop_beyond(self.limit) {
            self.drop_row(&entry);
        }
        Ok(new)
    }

    fn touch(&mut self, number: u32) {
        let partition = &mut self.parts.of[number as usize];
        if !std::mem::replace(&mut partition.touched, true) {
            self.touched.push(number);
            if std::mem::take(&mut partition.restored) {
                partition.show(self.limit, self.shape.with_rank, |_| {});
            }
        }
    }

    fn mark(&mut self, number: u32) {
        let facts = &mut self.facts[number as usize];
        if facts.flags & DIRTY == 0 {
            facts.flags |= DIRTY;
            self.dirty.push(number);
        }
    }

    /// The partition has a new stamp, so all its rows must be written again.
    fn write_again(&mut self, partition: u32) {
        let numbers: Vec<u32> = self.parts.of[partition as usize].rows.iter().map(|row| row.number).collect();
        numbers.into_iter().for_each(|number| self.mark(number));
    }

    /// Drops a row that was removed from its partition.
    fn drop_row(&mut self, entry: &Entry) {
        let changes = &mut self.changes;
        difference(entry.number, (entry.rank, entry.count), (0, 0), self.shape.with_rank, &mut |place| {
            changes.push(place);
        });
        self.dropped.push(entry.number);
        let facts = &mut self.facts[entry.number as usize];
        if facts.flags & WRITTEN != 0 {
            self.gone.push(entry.number);
        }
        self.ties.let_go(facts);
        *facts = Facts { seq: facts.seq, ..Facts::default() };
    }

    /// Ends the step for its touched partitions, and returns the changes within the limits.
    fn settle(&mut self) -> Vec<Place> {
        let mut changes = std::mem::take(&mut self.changes);
        for number in std::mem::take(&mut self.touched) {
            let partition = &mut self.parts.of[number as usize];
            partition.touched = false;
            if self.shape.updating {
                partition.show(self.limit, self.shape.with_rank, |place| changes.push(place));
            }
        }
        changes
    }

    /// Removes partitions; their rows expire from state by time.
    fn end(&mut self, numbers: Vec<u32>) -> Vec<Place> {
        let mut places = Vec::new();
        for number in numbers {
            let mut partition = self.parts.take(number);
            if !self.shape.updating {
                partition.show(self.limit, self.shape.with_rank, |place| places.push(place));
            }
            for row in partition.rows {
                self.dropped.push(row.number);
                let facts = &mut self.facts[row.number as usize];
                self.ties.let_go(facts);
                *facts = Facts::default();
            }
        }
        places
    }

    /// Frees the rows that this step has dropped.
    fn let_go(&mut self) -> Result<()> {
        if !self.gone.is_empty() {
            let mut columns = self.rows.gather_columns(&self.routing, &self.gone)?;
            let seqs = self.gone.iter().map(|&number| self.facts[number as usize].seq);
            columns.push(Arc::new(Int64Array::from_iter_values(seqs)));
            let deletes = RecordBatch::try_new(Arc::clone(&self.deleted), columns);
            self.deletes.push(deletes.internal(|| "deleted rows do not fit their table".to_owned())?);
            self.gone.clear();
        }
        for number in std::mem::take(&mut self.dropped) {
            self.rows.remove(number);
        }
        self.rows.tidy()
    }

    /// Places as output rows. A stream that is not updating repeats a row as often as it counts.
    fn output(&self, places: &[Place], out: &mut Vec<RecordBatch>) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let times = |place: &Place| if self.shape.updating { 1 } else { place.count.max(0) as usize };
        let places: Vec<&Place> = places.iter().flat_map(|place| std::iter::repeat_n(place, times(place))).collect();
        let numbers: Vec<u32> = places.iter().map(|place| place.number).collect();
        let ranks = UInt64Array::from_iter_values(places.iter().map(|place| u64::from(place.rank)));
        let weights = Int64Array::from_iter_values(places.iter().map(|place| place.count));
        out.push(self.shape.output(self.rows.gather(&numbers)?.columns(), ranks, weights)?);
        Ok(())
    }
}

fn table(name: &'static str, layout: &Layout, life: &Lifetime, routing: usize) -> StateTable {
    let width = layout.width();
    let time = life.state_time(|column| layout.place(column), width + 2);
    let key = (0..routing).chain([width + 1]).collect();
    StateTable {
        name,
        schema: Arc::clone(layout.schema()),
        routing,
        key,
        time,
        equality: KeyEquality::Bits,
        append_only: false,
    }
}

impl Operator for Leading {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        let mut stepped = Stepped::default();
        self.parts.life.begin(tick);
        for batch in inputs.into_iter().flatten() {
            let (rows, late) = self.parts.life.split(&batch)?;
            stepped.late.extend(late.map(|late| (0, late)));
            if let Some(rows) = rows {
                self.take(&rows)?;
            }
        }
        let changes = self.settle();
        self.output(&changes, &mut stepped.rows)?;
        let closed = self.parts.life.closed(tick);
        let places = self.end(closed);
        self.output(&places, &mut stepped.rows)?;
        let expired = self.parts.life.expired(tick);
        self.end(expired);
        self.let_go()?;
        Ok(stepped)
    }

    fn state(&self) -> Vec<StateTable> {
        vec![table(self.table, &self.layout, &self.parts.life, self.routing.len())]
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        let (mut numbers, mut weights, mut seqs, mut stamps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for number in std::mem::take(&mut self.dirty) {
            let facts = &mut self.facts[number as usize];
            if facts.flags & DIRTY != 0 {
                facts.flags = WRITTEN;
                numbers.push(number);
                weights.push(i64::from(facts.weight));
                seqs.push(facts.seq);
                stamps.push(self.parts.life.stamp_of(facts.partition).0);
            }
        }
        let mut upserts = Vec::new();
        if !numbers.is_empty() {
            let mut added: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(weights)), Arc::new(Int64Array::from(seqs))];
            if self.parts.life.stamped() {
                added.push(Arc::new(TimestampMicrosecondArray::from(stamps)));
            }
            upserts.push(self.layout.to_state(self.rows.gather(&numbers)?.columns(), added)?);
        }
        let deletes = std::mem::take(&mut self.deletes);
        Ok(vec![StateChange { table: 0, upserts, deletes, cutoff: self.parts.life.cutoff() }])
    }

    fn restore(&mut self, _table: usize, rows: RecordBatch, _watermark: Watermark) -> Result<()> {
        let input = self.layout.to_input(&rows)?;
        let width = self.layout.width();
        let numbers =
            |column: usize| rows.columns().get(column).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let (Some(weights), Some(seqs)) = (numbers(width), numbers(width + 1)) else {
            return Err(Error::damaged("state rows of a top-n have no count or number"));
        };
        let stamps = if self.parts.life.stamped() { Some(micros(&rows, width + 2)?) } else { None };
        let partitions = self.parts.resolve(&input)?;
        let moments = self.parts.life.moments(&input)?;
        let picked = pick(&input, (0..input.num_rows() as u32).collect())?;
        let numbers = self.keep(&picked);
        self.ties.begin(&picked)?;
        for (row, (&partition, number)) in partitions.iter().zip(numbers).enumerate() {
            self.parts.life.restore(
                partition,
                &moments,
                row,
                stamps.as_ref().map(|stamps| EventTime(stamps.value(row))),
            );
            let order = self.parts.order.row(row);
            let prefix = prefix(order);
            self.ties.look_at(&picked, row, order)?;
            let of_partition = &mut self.parts.of[partition as usize];
            let list = &of_partition.rows;
            let (Ok(place) | Err(place)) =
                self.ties.find(list, (prefix, order), (&picked, row), &self.rows, &mut self.facts)?;
            let (weight, seq) = (weights.value(row).clamp(1, self.limit.into()) as u32, seqs.value(row));
            of_partition.rows.insert(place, Entry { prefix, number, weight, rank: 0, count: 0 });
            of_partition.total += weight;
            of_partition.restored = self.shape.updating;
            self.facts[number as usize] = Facts { bytes: self.ties.made(), seq, partition, weight, flags: WRITTEN };
            self.next_seq = self.next_seq.max(seq + 1);
        }
        self.parts.give_back(partitions);
        Ok(())
    }

    fn due(&self) -> Watermark {
        self.parts.life.due()
    }

    fn usage(&self) -> StateUsage {
        let lists: usize = self.rows.len() * size_of::<Entry>() * 3 / 2;
        let facts = self.facts.capacity() * size_of::<Facts>() + self.dirty.capacity() * size_of::<u32>();
        let bytes = self.parts.bytes() + self.ties.bytes() + self.rows.bytes() + lists + facts;
        StateUsage { rows: self.rows.len() as u64, bytes: bytes as u64, oldest: self.parts.life.oldest() }
    }
}
