//! Emits the first row per key on arrival.
//!
//! A late row is tested like any other, as long as keys of its time are kept at all, that is while its time plus `within` is
//! not complete; older rows are late, since their duplicates are no longer known. (A late row may therefore pass although a
//! row up to `within` older was let through and has expired; a copy with the same time is always detected.) Without a time
//! column a key is kept by the processing time of its epoch.

use arrow::array::{BooleanArray, Int64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;

use super::seen::SeenKeys;
use crate::error::{Context, Result};
use crate::operator::contract::{Operator, StateUsage, Stepped, Tick};
use crate::operator::keyed::{Encoder, SlotTable, WARM, micros, split_late};
use crate::operator::spec::{DeduplicateSpec, TimeColumn};
use crate::state::{StateChange, StateTable};
use crate::time::{EventTime, Watermark};

/// Lets the first row of a key through when it arrives.
#[derive(Debug)]
pub struct OnArrival {
    encoder: Encoder,
    /// `None` if keys never expire, or expire by processing time.
    time: Option<TimeColumn>,
    seen: SeenKeys,
    hashes: Vec<u32>,
}

impl OnArrival {
    /// An operator with empty state.
    pub fn new(spec: &DeduplicateSpec) -> Result<Self> {
        Ok(Self {
            encoder: Encoder::of_keys(&spec.input, &spec.keys)?,
            time: spec.within.and(spec.time),
            seen: SeenKeys::new(&spec.input, &spec.keys, spec.within),
            hashes: Vec::new(),
        })
    }

    /// The rows of a batch that are the first of their key.
    fn first_rows(
        &mut self,
        batch: &RecordBatch,
        times: Option<&Int64Array>,
        now: EventTime,
    ) -> Result<Option<RecordBatch>> {
        self.encoder.encode(batch)?;
        let rows = batch.num_rows();
        self.hashes.clear();
        self.hashes.extend((0..rows).map(|row| SlotTable::hash(self.encoder.row(row))));
        let mut passed = 0;
        let keep = BooleanBuffer::collect_bool(rows, |row| {
            if row % WARM == 0 {
                self.seen.warm(&self.hashes[row..rows.min(row + WARM)]);
            }
            let time = times.map_or(now, |times| EventTime(times.value(row)));
            let (hash, key) = (self.hashes[row], self.encoder.row(row));
            let first = !self.seen.recalls(hash, key, time);
            if first {
                self.seen.keep(hash, key, time);
                passed += 1;
            }
            first
        });
        match passed {
            0 => Ok(None),
            all if all == rows => Ok(Some(batch.clone())),
            _ => {
                let mask = BooleanArray::new(keep, None);
                filter_record_batch(batch, &mask).internal(|| "duplicates cannot be filtered".to_owned()).map(Some)
            }
        }
    }

    /// The time by which keys expire.
    fn clock(&self, watermark: Watermark, now: EventTime) -> Watermark {
        TimeColumn::clock(self.time, watermark, now)
    }
}

impl Operator for OnArrival {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        let mut stepped = Stepped::default();
        self.seen.advance(self.clock(tick.before, tick.now));
        for batch in inputs.into_iter().flatten().filter(|batch| batch.num_rows() > 0) {
            let Some(time) = self.time else {
                let first = self.first_rows(&batch, None, tick.now)?;
                stepped.duplicates += (batch.num_rows() - first.as_ref().map_or(0, RecordBatch::num_rows)) as u64;
                stepped.rows.extend(first);
                continue;
            };
            let times = micros(&batch, time.column)?;
            let floor = self.seen.floor();
            let (known, late) = split_late(&batch, &times, floor)?;
            let whole = late.is_none();
            stepped.late.extend(late.map(|late| (0, late)));
            if let Some(known) = known {
                let times = if whole { times } else { micros(&known, time.column)? };
                let first = self.first_rows(&known, Some(&times), tick.now)?;
                stepped.duplicates += (known.num_rows() - first.as_ref().map_or(0, RecordBatch::num_rows)) as u64;
                stepped.rows.extend(first);
            }
        }
        self.seen.advance(self.clock(tick.watermark, tick.now));
        self.seen.expire();
        Ok(stepped)
    }

    fn state(&self) -> Vec<StateTable> {
        vec![self.seen.state()]
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        Ok(vec![self.seen.changes(0, &self.encoder)?])
    }

    fn restore(&mut self, _table: usize, rows: RecordBatch, watermark: Watermark) -> Result<()> {
        self.seen.advance(self.time.map_or(Watermark::NONE, |time| time.bound(watermark)));
        self.seen.restore(&rows, &mut self.encoder)
    }

    fn due(&self) -> Watermark {
        Watermark::END
    }

    fn usage(&self) -> StateUsage {
        let bytes = self.seen.bytes() + self.encoder.bytes() + self.hashes.capacity() * size_of::<u32>();
        StateUsage { rows: self.seen.len(), bytes: bytes as u64, oldest: self.seen.oldest() }
    }
}
