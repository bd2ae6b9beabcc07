//! SESSION(…): rows wait until their session is complete and are then emitted with its start and end.
//!
//! Rows of a key belong to one session as long as each comes less than the gap after the row before it, in order of time. A
//! session ends one gap after its last row and is complete when no future row can come less than the gap after that row:
//! last row + gap <= W. Rows that arrive out of order may join two sessions. Complete sessions are emitted in order of their
//! end, the rows of each in order of time.
//!
//! A row whose time is below the watermark still counts if its session is not complete: it extends a session that still
//! waits, or is so young that a session of its own would still wait. Otherwise it is late. Rows without a time are late.

pub mod spec;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

use super::contract::{Operator, StateUsage, Stepped, Tick};
use super::keyed::{KeyIndex, SequencedRows, Waiting, micros, pick, with_columns};
use super::spec::{SessionSpec, TimeColumn};
use crate::error::{Context, Result};
use crate::state::{StateChange, StateTable};
use crate::time::{EventTime, Lag, Watermark};

#[cfg(test)]
mod tests;

/// Not in the queue.
const NEVER: EventTime = EventTime::MAX;

/// The operator that `spec` describes.
pub fn session(spec: SessionSpec) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Sessions::new(spec)?))
}

#[derive(Debug)]
struct Sessions {
    time: TimeColumn,
    gap: Lag,
    output: SchemaRef,
    keys: KeyIndex,
    /// Per key: its sessions in order of time, at least a gap apart, and the time at which the key is queued.
    open: Vec<Vec<Session>>,
    queued: Vec<EventTime>,
    /// Keys by a time that is at or before the end of their first session.
    queue: BTreeMap<EventTime, Vec<u32>>,
    rows: SequencedRows,
    numbers: Vec<u32>,
}

/// A session that is not complete.
#[derive(Debug)]
struct Session {
    first: EventTime,
    last: EventTime,
    /// The rows with their times, in any order.
    rows: Vec<(EventTime, Waiting)>,
}

impl Sessions {
    fn new(spec: SessionSpec) -> Result<Self> {
        Ok(Self {
            time: spec.time,
            gap: spec.gap.max(Lag::MICROSECOND),
            keys: KeyIndex::new(&spec.input, &spec.keys)?,
            open: Vec::new(),
            queued: Vec::new(),
            queue: BTreeMap::new(),
            rows: SequencedRows::new(&spec.input, &spec.keys),
            output: spec.output,
            numbers: Vec::new(),
        })
    }

    /// Adds the rows of a batch to their sessions; returns the late ones.
    fn take(&mut self, batch: &RecordBatch, before: Watermark) -> Result<Option<RecordBatch>> {
        let times = micros(batch, self.time.column)?;
        let mut numbers = std::mem::take(&mut self.numbers);
        self.resolve(batch, &mut numbers)?;
        let (mut places, mut taken, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &key) in numbers.iter().enumerate() {
            if !times.is_valid(row) || self.is_late(key, EventTime(times.value(row)), before) {
                late.push(row as u32);
                continue;
            }
            let waiting = self.rows.reserve();
            places.push(waiting.row);
            taken.push(row as u32);
            self.join(key, EventTime(times.value(row)), waiting);
        }
        self.rows.fill(places, batch, taken)?;
        for &row in &late {
            let key = numbers[row as usize];
            if self.open[key as usize].is_empty() {
                self.keys.remove(key);
            }
        }
        self.numbers = numbers;
        if late.is_empty() { Ok(None) } else { pick(batch, late).map(Some) }
    }

    fn resolve(&mut self, batch: &RecordBatch, numbers: &mut Vec<u32>) -> Result<()> {
        self.keys.resolve(batch, numbers)?;
        self.open.resize_with(self.keys.bound(), Vec::new);
        self.queued.resize(self.keys.bound(), NEVER);
        Ok(())
    }

    /// The index of the session of `key` that a row at `time` belongs to, and `true`; or the index for a new session, and
    /// `false`.
    fn find(&self, key: u32, time: EventTime) -> (usize, bool) {
        let sessions = &self.open[key as usize];
        let at = sessions.partition_point(|session| session.last.saturating_add(self.gap) <= time);
        (at, sessions.get(at).is_some_and(|session| time.saturating_add(self.gap) > session.first))
    }

    fn is_late(&self, key: u32, time: EventTime, before: Watermark) -> bool {
        // Open sessions end after `before`, so it suffices that the row touches one.
        time.is_late(before) && before.has_reached(time.saturating_add(self.gap)) && !self.find(key, time).1
    }

    fn join(&mut self, key: u32, time: EventTime, waiting: Waiting) {
        let (at, found) = self.find(key, time);
        let sessions = &mut self.open[key as usize];
        if found {
            let session = &mut sessions[at];
            session.first = session.first.min(time);
            session.last = session.last.max(time);
            session.rows.push((time, waiting));
            let reach = session.last.saturating_add(self.gap);
            if sessions.get(at + 1).is_some_and(|next| next.first < reach) {
                let next = sessions.remove(at + 1);
                let session = &mut sessions[at];
                session.last = session.last.max(next.last);
                session.rows.extend(next.rows);
            }
        } else {
            sessions.insert(at, Session { first: time, last: time, rows: vec![(time, waiting)] });
        }
        if at == 0 {
            self.enqueue(key);
        }
    }

    /// Queues the key for the time when its first session may be complete. If a session has grown since, its stale entry
    /// stays and is skipped later.
    fn enqueue(&mut self, key: u32) {
        let Some(session) = self.open[key as usize].first() else { return };
        let end = session.last.saturating_add(self.gap).min(NEVER.saturating_sub(Lag::MICROSECOND));
        let queued = &mut self.queued[key as usize];
        if end < *queued {
            *queued = end;
            self.queue.entry(end).or_default().push(key);
        }
    }

    /// The sessions that are complete at `watermark`, in order of their end.
    fn complete(&mut self, watermark: Watermark) -> Vec<Session> {
        let mut closed = Vec::new();
        while let Some(entry) = self.queue.first_entry() {
            if !watermark.has_reached(*entry.key()) {
                break;
            }
            let (end, keys) = entry.remove_entry();
            for key in keys {
                if self.queued[key as usize] != end {
                    continue;
                }
                self.queued[key as usize] = NEVER;
                let sessions = &mut self.open[key as usize];
                let done =
                    sessions.partition_point(|session| watermark.has_reached(session.last.saturating_add(self.gap)));
                closed.extend(sessions.drain(..done));
                if sessions.is_empty() {
                    self.keys.remove(key);
                } else {
                    self.enqueue(key);
                }
            }
        }
        for session in &mut closed {
            session.rows.sort_unstable();
        }
        closed.sort_unstable_by_key(|session| (session.last, session.first, session.rows[0].1.sequence));
        closed
    }

    fn emit(&mut self, closed: &[Session]) -> Result<RecordBatch> {
        let rows: Vec<u32> = closed.iter().flat_map(|session| &session.rows).map(|(_, waiting)| waiting.row).collect();
        let of_rows = |bound: &dyn Fn(&Session) -> EventTime| -> Int64Array {
            let each = |session: &Session| std::iter::repeat_n(bound(session).0, session.rows.len());
            closed.iter().flat_map(each).collect()
        };
        let bounds = [of_rows(&|session| session.first), of_rows(&|session| session.last.saturating_add(self.gap))];
        let fields = self.output.fields();
        let typed = |(bound, field): (Int64Array, &FieldRef)| -> Result<ArrayRef> {
            let stamps = bound.reinterpret_cast::<TimestampMicrosecondType>();
            if let DataType::Timestamp(TimeUnit::Microsecond, zone) = field.data_type() {
                // A cast to a zone would take the instants for local times of the zone.
                return Ok(Arc::new(stamps.with_timezone_opt(zone.clone())));
            }
            cast(&stamps, field.data_type()).internal(|| format!("column `{}` cannot hold a time", field.name()))
        };
        let names = &fields[fields.len().saturating_sub(2)..];
        let bounds = bounds.into_iter().zip(names).map(typed).collect::<Result<Vec<_>>>()?;
        let batch = with_columns(&self.rows.gather(&rows)?, bounds, &self.output)?;
        self.rows.remove(&rows)?;
        Ok(batch)
    }
}

impl Operator for Sessions {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        let mut stepped = Stepped::default();
        let before = self.time.bound(tick.before);
        for batch in inputs.into_iter().flatten().filter(|batch| batch.num_rows() > 0) {
            stepped.late.extend(self.take(&batch, before)?.map(|late| (0, late)));
        }
        let closed = self.complete(self.time.bound(tick.watermark));
        if !closed.is_empty() {
            stepped.rows.push(self.emit(&closed)?);
        }
        self.rows.tidy()?;
        Ok(stepped)
    }

    fn state(&self) -> Vec<StateTable> {
        vec![self.rows.table("rows")]
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        Ok(vec![self.rows.changes(0)?])
    }

    fn restore(&mut self, _table: usize, rows: RecordBatch, _watermark: Watermark) -> Result<()> {
        let (input, restored) = self.rows.restore(&rows)?;
        let times = micros(&input, self.time.column)?;
        let mut numbers = std::mem::take(&mut self.numbers);
        self.resolve(&input, &mut numbers)?;
        for (row, (waiting, &key)) in restored.into_iter().zip(&numbers).enumerate() {
            self.join(key, EventTime(times.value(row)), waiting);
        }
        self.numbers = numbers;
        Ok(())
    }

    fn due(&self) -> Watermark {
        let end = self.queue.first_key_value().map(|(end, _)| end.saturating_sub(Lag::MICROSECOND));
        self.time.past(end)
    }

    fn usage(&self) -> StateUsage {
        let rows = self.rows.len();
        let sessions = self.keys.len() * size_of::<Session>() + rows * size_of::<(EventTime, Waiting)>();
        let keys = self.keys.bytes() + self.open.capacity() * (size_of::<Vec<Session>>() + 2 * size_of::<EventTime>());
        // The oldest row is expensive to find; the last row of the session that may end first is not much younger.
        let oldest = self.queue.first_key_value().map(|(end, _)| end.saturating_sub(self.gap));
        StateUsage { rows: rows as u64, bytes: (self.rows.bytes() + sessions + keys) as u64, oldest }
    }
}
