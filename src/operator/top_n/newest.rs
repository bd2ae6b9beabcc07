//! The newest row per key of a retracting stream: the rows that a target with a PRIMARY KEY holds where several rows may
//! have one key.
//!
//! Every row that has not been retracted is kept, under its key. The last one to arrive is shown; when it is retracted, the
//! one before it is shown, and when the last row is retracted, the key is deleted. A row that arrives again while it is kept
//! counts once more and becomes the newest. Flink calls this an upsert materializer.
//!
//! With a TTL a row expires that long after it arrived (up to an eighth longer). Retracting an expired row deletes its key,
//! if no other row of the key is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;

use super::lifetime::Lifetime;
use super::without_weight;
use crate::error::{Context, Error, Result};
use crate::operator::contract::{Operator, StateUsage, Stepped, Tick};
use crate::operator::keyed::{Encoder, KeyIndex, Layout, micros, with_columns};
use crate::operator::spec::NewestSpec;
use crate::state::{KeyEquality, KeySlots, StateChange, StateTable};
use crate::time::{EventTime, Watermark};

const COUNT: (&str, DataType) = ("__count", DataType::Int64);
const SEQ: (&str, DataType) = ("__seq", DataType::Int64);
const STAMP: (&str, DataType) = ("__stamp", DataType::Timestamp(TimeUnit::Microsecond, None));

/// No row.
const NONE: u32 = u32::MAX;

/// The data of a row.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    key: u32,
    /// Number of times that the row counts. Not positive only within a step, or when the retracted row had expired.
    count: i64,
    /// Of two rows the one with the greater number arrived later.
    seq: i64,
    /// The row is in state.
    written: bool,
    /// The row must be written.
    dirty: bool,
    /// Its TTL has passed: it is removed without a retraction.
    expired: bool,
}

/// The data of a key.
#[derive(Debug, Clone, Copy)]
struct OfKey {
    shown: u32,
    touched: bool,
}

impl Default for OfKey {
    fn default() -> Self {
        Self { shown: NONE, touched: false }
    }
}

/// Keeps the rows of each key.
#[derive(Debug)]
pub struct Newest {
    rows: SchemaRef,
    output: SchemaRef,
    layout: Layout,
    routing: usize,
    keys: KeyIndex,
    of_keys: Vec<OfKey>,
    full: Encoder,
    /// All columns of each row, as bytes.
    index: KeySlots,
    /// By row number, like `life`.
    facts: Vec<Facts>,
    life: Lifetime,
    /// Rows that count, by key and in the order of arrival.
    live: BTreeSet<(u32, i64, u32)>,
    next_seq: i64,
    /// Keys touched in this step, and rows that may have stopped counting.
    touched: Vec<u32>,
    ended: Vec<u32>,
    /// Rows that must be written; some may have been removed, or be listed twice.
    dirty: Vec<u32>,
    /// Removed rows that are in state.
    gone: BTreeSet<Box<[u8]>>,
    gone_bytes: usize,
    numbers: Vec<u32>,
}

impl Newest {
    /// An operator with empty state.
    pub fn new(spec: &NewestSpec) -> Result<Self> {
        let rows = without_weight(&spec.input);
        let life = Lifetime::of_rows(spec.ttl, spec.time);
        let added: &[_] = if life.stamped() { &[COUNT, SEQ, STAMP] } else { &[COUNT, SEQ] };
        let all: Vec<usize> = (0..rows.fields().len()).collect();
        Ok(Self {
            layout: Layout::new(&rows, &spec.keys, added),
            routing: spec.keys.len(),
            keys: KeyIndex::new(&rows, &spec.keys)?,
            of_keys: Vec::new(),
            full: Encoder::of_rows(&rows, &all)?,
            index: KeySlots::default(),
            facts: Vec::new(),
            life,
            live: BTreeSet::new(),
            next_seq: 0,
            touched: Vec::new(),
            ended: Vec::new(),
            dirty: Vec::new(),
            gone: BTreeSet::new(),
            gone_bytes: 0,
            numbers: Vec::new(),
            output: Arc::clone(&spec.input),
            rows,
        })
    }

    /// Processes the rows of a batch in their order.
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let width = self.rows.fields().len();
        let weights = batch.columns().get(width).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let weights = weights.ok_or_else(|| Error::internal("a retracting stream has no weight"))?.clone();
        let columns: Vec<usize> = (0..width).collect();
        let batch = batch.project(&columns).internal(|| "input rows do not fit the operator".to_owned())?;
        let mut keys = std::mem::take(&mut self.numbers);
        self.keys.resolve(&batch, &mut keys)?;
        self.of_keys.resize_with(self.keys.bound(), OfKey::default);
        self.full.encode(&batch)?;
        let moments = self.life.moments(&batch)?;
        for (row, &key) in keys.iter().enumerate() {
            let number = self.number(row, key);
            self.count(number, weights.value(row));
            if weights.value(row) > 0 && self.life.visit(number, &moments, row) {
                self.write(number);
            }
        }
        self.numbers = keys;
        Ok(())
    }

    /// The number of the row at index `row` of the last encoded batch.
    fn number(&mut self, row: usize, key: u32) -> u32 {
        let bytes = self.full.row(row);
        let known = self.index.len();
        let number = self.index.intern(bytes);
        if self.index.len() > known {
            let written = self.gone.remove(bytes);
            self.gone_bytes -= if written { bytes.len() } else { 0 };
            self.facts.resize_with(self.index.slots(), Facts::default);
            self.life.grow(self.index.slots());
            self.facts[number as usize] = Facts { key, written, ..Facts::default() };
        }
        number
    }

    /// Adds `weight` to a row's count.
    fn count(&mut self, number: u32, weight: i64) {
        let facts = &mut self.facts[number as usize];
        let key = facts.key;
        let counted = facts.count > 0;
        facts.count += weight;
        let counts = facts.count > 0;
        if counted && (!counts || weight > 0) {
            self.live.remove(&(key, facts.seq, number));
        }
        if counts && (!counted || weight > 0) {
            facts.seq = self.next_seq;
            self.next_seq += 1;
            self.live.insert((key, facts.seq, number));
        }
        if !counts {
            self.ended.push(number);
        }
        self.write(number);
        self.touch(key);
    }

    fn touch(&mut self, key: u32) {
        if !std::mem::replace(&mut self.of_keys[key as usize].touched, true) {
            self.touched.push(key);
        }
    }

    fn write(&mut self, number: u32) {
        if !std::mem::replace(&mut self.facts[number as usize].dirty, true) {
            self.dirty.push(number);
        }
    }

    /// The last row of a key to arrive.
    fn newest(&self, key: u32) -> u32 {
        self.live.range((key, i64::MIN, 0)..=(key, i64::MAX, NONE)).next_back().map_or(NONE, |(_, _, number)| *number)
    }

    /// Expires the rows whose TTL has passed.
    fn expire(&mut self, tick: Tick) {
        for number in self.life.expired(tick) {
            let facts = &mut self.facts[number as usize];
            facts.expired = true;
            let place = (facts.key, facts.seq, number);
            self.live.remove(&place);
            self.ended.push(number);
            self.touch(place.0);
        }
    }

    /// The changes to what the step's keys show: rows by number, with weights.
    fn settle(&mut self) -> Vec<(u32, i64)> {
        let mut changes = Vec::new();
        // The retraction of an unknown row deletes its key, if no other row of the key is known.
        let mut unknown: BTreeMap<u32, u32> = BTreeMap::new();
        for &number in &self.ended {
            let facts = self.facts[number as usize];
            if facts.count < 0 {
                unknown.entry(facts.key).or_insert(number);
            }
        }
        for key in std::mem::take(&mut self.touched) {
            let now = self.newest(key);
            let then = std::mem::replace(&mut self.of_keys[key as usize], OfKey { shown: now, touched: false }).shown;
            let forgotten = then != NONE && now == NONE && self.facts[then as usize].expired;
            if then != now && !forgotten {
                changes.extend((then != NONE).then_some((then, -1)));
                changes.extend((now != NONE).then_some((now, 1)));
            }
            if let (NONE, NONE, Some(taken)) = (then, now, unknown.get(&key)) {
                changes.push((*taken, -1));
            }
            if now == NONE {
                self.keys.remove(key);
            }
        }
        changes
    }

    /// Removes the rows that this step has ended; those of a TTL expire from state by their time.
    fn sweep(&mut self) {
        for number in std::mem::take(&mut self.ended) {
            let facts = &mut self.facts[number as usize];
            // Ended twice, or counted again.
            if facts.key == NONE || (facts.count > 0 && !facts.expired) {
                continue;
            }
            if facts.written && !facts.expired {
                let bytes: Box<[u8]> = self.index.key(number).into();
                self.gone_bytes += bytes.len();
                self.gone.insert(bytes);
            }
            *facts = Facts { key: NONE, ..Facts::default() };
            self.life.forget(number);
            self.index.remove(number);
        }
    }

    fn columns(&self, numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        self.full.decode(numbers.iter().map(|number| self.index.key(*number)))
    }

    fn give(&self, changes: &[(u32, i64)]) -> Result<Vec<RecordBatch>> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<u32> = changes.iter().map(|(number, _)| *number).collect();
        let weights: ArrayRef = Arc::new(Int64Array::from_iter_values(changes.iter().map(|(_, weight)| *weight)));
        let rows = RecordBatch::try_new(Arc::clone(&self.rows), self.columns(&numbers)?);
        let rows = rows.internal(|| "rows do not fit the operator".to_owned())?;
        Ok(vec![with_columns(&rows, vec![weights], &self.output)?])
    }

    fn added(&self, counts: Vec<i64>, seqs: Vec<i64>, stamps: Vec<i64>) -> Vec<ArrayRef> {
        let mut added: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(counts)), Arc::new(Int64Array::from(seqs))];
        if self.life.stamped() {
            added.push(Arc::new(TimestampMicrosecondArray::from(stamps)));
        }
        added
    }
}

impl Operator for Newest {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        self.life.begin(tick);
        for batch in inputs.into_iter().flatten().filter(|batch| batch.num_rows() > 0) {
            self.take(&batch)?;
        }
        self.expire(tick);
        let changes = self.settle();
        let rows = self.give(&changes)?;
        self.sweep();
        Ok(Stepped { rows, ..Stepped::default() })
    }

    fn state(&self) -> Vec<StateTable> {
        let width = self.layout.width();
        let time = self.life.state_time(|column| self.layout.place(column), width + 2);
        let (schema, key) = (Arc::clone(self.layout.schema()), (0..width).collect());
        vec![StateTable {
            name: "rows",
            schema,
            routing: self.routing,
            key,
            time,
            equality: KeyEquality::Bits,
            append_only: false,
        }]
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        let (mut numbers, mut counts, mut seqs, mut stamps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for number in std::mem::take(&mut self.dirty) {
            let facts = &mut self.facts[number as usize];
            if facts.key != NONE && std::mem::take(&mut facts.dirty) {
                facts.written = true;
                numbers.push(number);
                counts.push(facts.count);
                seqs.push(facts.seq);
                stamps.push(self.life.stamp_of(number).0);
            }
        }
        let mut change = StateChange { table: 0, upserts: vec![], deletes: vec![], cutoff: self.life.cutoff() };
        if !numbers.is_empty() {
            let added = self.added(counts, seqs, stamps);
            change.upserts.push(self.layout.to_state(&self.columns(&numbers)?, added)?);
        }
        if !self.gone.is_empty() {
            // All columns identify a row, so a deleted one is a state row without the added columns.
            let rows = self.full.decode(self.gone.iter().map(|bytes| &bytes[..]))?;
            let none = vec![0; self.gone.len()];
            let state = self.layout.to_state(&rows, self.added(none.clone(), none.clone(), none))?;
            let key: Vec<usize> = (0..self.layout.width()).collect();
            change.deletes.push(state.project(&key).internal(|| "keys cannot be projected".to_owned())?);
            self.gone.clear();
            self.gone_bytes = 0;
        }
        Ok(vec![change])
    }

    fn restore(&mut self, _table: usize, rows: RecordBatch, _watermark: Watermark) -> Result<()> {
        let input = self.layout.to_input(&rows)?;
        let width = self.layout.width();
        let numbers = |column: usize| {
            let column = rows.columns().get(column).and_then(|column| column.as_primitive_opt::<Int64Type>());
            column.ok_or_else(|| Error::damaged("state rows under a key have no count or number"))
        };
        let (counts, seqs) = (numbers(width)?, numbers(width + 1)?);
        let stamps = if self.life.stamped() { Some(micros(&rows, width + 2)?) } else { None };
        let mut keys = std::mem::take(&mut self.numbers);
        self.keys.resolve(&input, &mut keys)?;
        self.of_keys.resize_with(self.keys.bound(), OfKey::default);
        self.full.encode(&input)?;
        let moments = self.life.moments(&input)?;
        for (row, &key) in keys.iter().enumerate() {
            let number = self.number(row, key);
            let (count, seq) = (counts.value(row), seqs.value(row));
            self.life.restore(number, &moments, row, stamps.as_ref().map(|stamps| EventTime(stamps.value(row))));
            self.facts[number as usize] = Facts { key, count, seq, written: true, dirty: false, expired: false };
            self.live.insert((key, seq, number));
            self.next_seq = self.next_seq.max(seq + 1);
            self.of_keys[key as usize].shown = self.newest(key);
        }
        self.numbers = keys;
        Ok(())
    }

    fn due(&self) -> Watermark {
        self.life.due()
    }

    fn usage(&self) -> StateUsage {
        let live = self.live.len() * size_of::<(u32, i64, u32)>() * 3 / 2;
        let facts = self.facts.capacity() * size_of::<Facts>() + self.of_keys.capacity() * size_of::<OfKey>();
        let pending = self.dirty.capacity() * size_of::<u32>() + self.gone_bytes + self.gone.len() * 32;
        let indexes = self.index.bytes() + self.keys.bytes() + self.full.bytes() + self.life.bytes();
        let bytes = live + facts + pending + indexes;
        StateUsage { rows: self.live.len() as u64, bytes: bytes as u64, oldest: self.life.oldest() }
    }
}
