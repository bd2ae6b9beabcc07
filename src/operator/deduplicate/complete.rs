//! Emits the first row per key by event time, once that time is complete.
//!
//! Complete rows are processed in order of time (ties: of arrival); each is emitted unless it is a duplicate of an emitted
//! row. The output is thus what a batch over all the input would choose. A row waits only while it can still win: a row that
//! is certain to lose to an earlier one of its key is dropped at once. Rows whose time is already complete are late.

use std::collections::BTreeMap;

use arrow::array::Int64Array;
use arrow::record_batch::RecordBatch;

use super::seen::SeenKeys;
use crate::error::Result;
use crate::operator::contract::{Operator, StateUsage, Stepped, Tick};
use crate::operator::keyed::{Encoder, KeyIndex, SequencedRows, SlotTable, WARM, micros, split_late};
use crate::operator::spec::{DeduplicateSpec, TimeColumn};
use crate::state::{StateChange, StateTable};
use crate::time::{EventTime, Lag, Watermark};

/// Order of waiting rows: by time, then by arrival.
type Turn = (EventTime, i64);

/// Lets the earliest row of a key through once no earlier one can arrive.
#[derive(Debug)]
pub struct OnWatermark {
    encoder: Encoder,
    time: TimeColumn,
    within: Option<Lag>,
    seen: SeenKeys,
    keys: KeyIndex,
    /// The waiting rows of each key, by turn; usually one. None of them is a duplicate of an emitted row.
    waiting: Vec<Vec<Turn>>,
    /// The row of each turn and key: rows of different keys may have the same sequence number.
    turns: BTreeMap<(Turn, u32), u32>,
    rows: SequencedRows,
    numbers: Vec<u32>,
    /// Duplicates since the step began.
    duplicates: u64,
}

impl OnWatermark {
    /// An operator with empty state.
    pub fn new(spec: &DeduplicateSpec, time: TimeColumn) -> Result<Self> {
        Ok(Self {
            encoder: Encoder::of_keys(&spec.input, &spec.keys)?,
            time,
            within: spec.within,
            seen: SeenKeys::new(&spec.input, &spec.keys, spec.within),
            keys: KeyIndex::new(&spec.input, &spec.keys)?,
            waiting: Vec::new(),
            turns: BTreeMap::new(),
            rows: SequencedRows::new(&spec.input, &spec.keys),
            numbers: Vec::new(),
            duplicates: 0,
        })
    }

    /// Stores the rows of a batch, none of them late, if they can win; future output has times at or after `before`.
    fn take(&mut self, batch: &RecordBatch, times: &Int64Array, before: Watermark) -> Result<()> {
        let mut numbers = std::mem::take(&mut self.numbers);
        self.keys.resolve(batch, &mut numbers)?;
        self.waiting.resize_with(self.keys.bound(), Vec::new);
        let (mut places, mut rows, mut beaten) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &key) in numbers.iter().enumerate() {
            let time = EventTime(times.value(row));
            if self.is_beaten(key, time, before) {
                self.duplicates += 1;
                continue;
            }
            let arrived = self.rows.reserve();
            places.push(arrived.row);
            rows.push(row as u32);
            self.wait(key, (time, arrived.sequence), arrived.row, before, &mut beaten);
        }
        self.rows.fill(places, batch, rows)?;
        self.duplicates += beaten.len() as u64;
        self.rows.remove(&beaten)?;
        for &key in &numbers {
            if self.waiting[key as usize].is_empty() {
                self.keys.remove(key);
            }
        }
        self.numbers = numbers;
        Ok(())
    }

    /// `true` if a row cannot be emitted: a row of its key was emitted close before, or a waiting one will beat it.
    fn is_beaten(&self, key: u32, time: EventTime, before: Watermark) -> bool {
        let waiting = &self.waiting[key as usize];
        let loses = waiting.first().is_some_and(|first| first.0 <= time && self.loses(time, before));
        if loses || waiting.iter().any(|other| other.0 == time) {
            return true;
        }
        let bytes = self.keys.key(key);
        self.seen.recalls(SlotTable::hash(bytes), bytes, time)
    }

    /// `true` if a row at `time` loses to any earlier row of its key that still waits: the first one emitted has a time at
    /// or after `before`, and `time` is then less than `within` away.
    fn loses(&self, time: EventTime, before: Watermark) -> bool {
        self.within.is_none_or(|within| before != Watermark::NONE && time.since(before.time()) < within)
    }

    fn wait(&mut self, key: u32, turn: Turn, row: u32, before: Watermark, beaten: &mut Vec<u32>) {
        let mut others = std::mem::take(&mut self.waiting[key as usize]);
        others.retain(|other| {
            let stays = *other < turn || !self.loses(other.0, before);
            if !stays && let Some(row) = self.turns.remove(&(*other, key)) {
                beaten.push(row);
            }
            stays
        });
        others.insert(others.partition_point(|other| *other < turn), turn);
        self.waiting[key as usize] = others;
        self.turns.insert((turn, key), row);
    }

    /// The rows with a time below `watermark` that are not duplicates.
    fn complete(&mut self, watermark: Watermark) -> Result<Option<RecordBatch>> {
        let later = self.turns.split_off(&((watermark.time(), i64::MIN), 0));
        let due: Vec<_> = std::mem::replace(&mut self.turns, later).into_iter().collect();
        let hashes: Vec<u32> = due.iter().map(|((_, key), _)| SlotTable::hash(self.keys.key(*key))).collect();
        let (mut winners, mut done) = (Vec::new(), Vec::with_capacity(due.len()));
        for (at, ((turn, key), row)) in due.into_iter().enumerate() {
            if at % WARM == 0 {
                self.seen.warm(&hashes[at..hashes.len().min(at + WARM)]);
            }
            done.push(row);
            let waiting = &mut self.waiting[key as usize];
            if !waiting.contains(&turn) {
                continue; // A duplicate of a row just emitted.
            }
            winners.push(row);
            self.seen.keep(hashes[at], self.keys.key(key), turn.0);
            let within = self.within;
            waiting.retain(|other| {
                let stays = *other != turn && within.is_some_and(|within| other.0.since(turn.0) >= within);
                if !stays && let Some(row) = self.turns.remove(&(*other, key)) {
                    done.push(row);
                }
                stays
            });
            if waiting.is_empty() {
                self.keys.remove(key);
            }
        }
        self.duplicates += (done.len() - winners.len()) as u64;
        let rows = if winners.is_empty() { None } else { Some(self.rows.gather(&winners)?) };
        self.rows.remove(&done)?;
        Ok(rows)
    }
}

impl Operator for OnWatermark {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        let mut stepped = Stepped::default();
        let before = self.time.bound(tick.before);
        self.seen.advance(before);
        for batch in inputs.into_iter().flatten() {
            let times = micros(&batch, self.time.column)?;
            let (rows, late) = split_late(&batch, &times, before)?;
            let times = if late.is_none() { Some(times) } else { None };
            stepped.late.extend(late.map(|late| (0, late)));
            if let Some(rows) = rows {
                let times = times.map_or_else(|| micros(&rows, self.time.column), Ok)?;
                self.take(&rows, &times, before)?;
            }
        }
        let watermark = self.time.bound(tick.watermark);
        if watermark > before {
            stepped.rows.extend(self.complete(watermark)?);
            self.seen.advance(watermark);
            self.seen.expire();
        }
        self.rows.tidy()?;
        stepped.duplicates = std::mem::take(&mut self.duplicates);
        Ok(stepped)
    }

    fn state(&self) -> Vec<StateTable> {
        vec![self.seen.state(), self.rows.table("waiting")]
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        Ok(vec![self.seen.changes(0, &self.encoder)?, self.rows.changes(1)?])
    }

    fn restore(&mut self, table: usize, rows: RecordBatch, watermark: Watermark) -> Result<()> {
        let before = self.time.bound(watermark);
        self.seen.advance(before);
        if table == 0 {
            return self.seen.restore(&rows, &mut self.encoder);
        }
        let (input, restored) = self.rows.restore(&rows)?;
        let times = micros(&input, self.time.column)?;
        let mut numbers = std::mem::take(&mut self.numbers);
        self.keys.resolve(&input, &mut numbers)?;
        self.waiting.resize_with(self.keys.bound(), Vec::new);
        for (row, (one, &key)) in restored.iter().zip(&numbers).enumerate() {
            let turn = (EventTime(times.value(row)), one.sequence);
            let waiting = &mut self.waiting[key as usize];
            waiting.insert(waiting.partition_point(|other| *other < turn), turn);
            self.turns.insert((turn, key), one.row);
        }
        self.numbers = numbers;
        Ok(())
    }

    fn due(&self) -> Watermark {
        self.time.past(self.turns.first_key_value().map(|((turn, _), _)| turn.0))
    }

    fn usage(&self) -> StateUsage {
        // Tree nodes are half empty; a key's list has room for four turns.
        let turns = self.turns.len() * (2 * size_of::<(Turn, u32, u32)>() + 4 * size_of::<Turn>());
        let bytes = self.seen.bytes() + self.keys.bytes() + self.rows.bytes() + turns + self.waiting.capacity() * 24;
        let waiting = self.turns.first_key_value().map(|((turn, _), _)| turn.0);
        let oldest = self.seen.oldest().into_iter().chain(waiting).min();
        StateUsage { rows: self.seen.len() + self.rows.len() as u64, bytes: bytes as u64, oldest }
    }
}
