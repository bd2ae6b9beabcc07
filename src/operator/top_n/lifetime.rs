//! The end of partitions: when their window closes, or when no row has arrived for the TTL.

use std::collections::BTreeMap;

use arrow::array::{Array, Int64Array};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::operator::contract::Tick;
use crate::operator::keyed::{micros, split_late};
use crate::operator::spec::{TimeColumn, TopNSpec};
use crate::time::{EventTime, Lag, Watermark};

/// No window, or no stamp.
const NONE: EventTime = EventTime::MIN;

/// The rows in time and the late rows of a batch.
type InTimeAndLate = (Option<RecordBatch>, Option<RecordBatch>);

/// The lifetimes of the partitions of a shard.
#[derive(Debug)]
pub struct Lifetime {
    closing: Option<TimeColumn>,
    ttl: Option<Lag>,
    time: Option<TimeColumn>,
    /// The window of each partition.
    windows: Vec<EventTime>,
    /// Partitions by window; entries of partitions that ended otherwise are stale and skipped.
    closing_queue: BTreeMap<EventTime, Vec<u32>>,
    /// Approximate time at which a row last arrived for each partition: at most an eighth of the TTL too early, so that
    /// state need not be written again for every row.
    stamps: Vec<EventTime>,
    queued: Vec<bool>,
    /// Partitions by a current or earlier stamp; each is listed once.
    stamp_queue: BTreeMap<EventTime, Vec<u32>>,
    /// The clock of the TTL before this step.
    clock: Watermark,
    /// Windows or stamps below this have ended.
    cutoff: Watermark,
}

/// The times of a batch's rows that matter for lifetimes.
#[derive(Debug)]
pub struct Moments {
    windows: Option<Int64Array>,
    times: Option<Int64Array>,
}

impl Lifetime {
    /// Lifetimes for `spec`. Errors: a closing column that is not a time.
    pub fn new(spec: &TopNSpec) -> Result<Self> {
        if let Some(closing) = spec.closing {
            let kind = spec.input.field(closing.column).data_type();
            if !matches!(kind, DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _)) {
                return Err(Error::internal(format!("top-n was planned to close by a column of type `{kind}`")));
            }
        }
        Ok(Self { closing: spec.closing, ..Self::of_rows(spec.closing.map_or(spec.ttl, |_| None), spec.time) })
    }

    /// Lifetimes without windows: a numbered item ends when nothing has arrived for it for the TTL.
    pub fn of_rows(ttl: Option<Lag>, time: Option<TimeColumn>) -> Self {
        Self {
            closing: None,
            ttl,
            time,
            windows: Vec::new(),
            closing_queue: BTreeMap::new(),
            stamps: Vec::new(),
            queued: Vec::new(),
            stamp_queue: BTreeMap::new(),
            clock: Watermark::NONE,
            cutoff: Watermark::NONE,
        }
    }

    /// `true` if partitions have a stamp.
    pub fn stamped(&self) -> bool {
        self.ttl.is_some()
    }

    /// The state column that rows expire by: that of the closing column or, if stamped, `stamp`.
    pub fn state_time(&self, place: impl Fn(usize) -> usize, stamp: usize) -> Option<usize> {
        self.closing.map(|closing| place(closing.column)).or_else(|| self.ttl.map(|_| stamp))
    }

    /// Begins a step.
    pub fn begin(&mut self, tick: Tick) {
        self.clock = TimeColumn::clock(self.time, tick.before, tick.now);
        if let Some(closing) = self.closing {
            self.cutoff = closing.bound(tick.before);
        }
    }

    /// Separates the rows of closed windows.
    pub fn split(&self, batch: &RecordBatch) -> Result<InTimeAndLate> {
        match self.closing {
            Some(closing) => split_late(batch, &micros(batch, closing.column)?, self.cutoff),
            None => Ok(((batch.num_rows() > 0).then(|| batch.clone()), None)),
        }
    }

    /// The times of rows.
    pub fn moments(&self, batch: &RecordBatch) -> Result<Moments> {
        let windows = self.closing.map(|closing| micros(batch, closing.column)).transpose()?;
        let of_ttl = self.ttl.and(self.time);
        Ok(Moments { windows, times: of_ttl.map(|time| micros(batch, time.column)).transpose()? })
    }

    /// Makes room for partitions below `bound`.
    pub fn grow(&mut self, bound: usize) {
        if self.closing.is_some() {
            self.windows.resize(bound, NONE);
        }
        if self.ttl.is_some() {
            self.stamps.resize(bound, NONE);
            self.queued.resize(bound, false);
        }
    }

    /// Records that a row arrived for a partition. `true` if its stamp is new, so that its rows must be written again.
    pub fn visit(&mut self, partition: u32, moments: &Moments, row: usize) -> bool {
        if let Some(windows) = &moments.windows {
            self.open(partition, EventTime(windows.value(row)));
        }
        let Some(ttl) = self.ttl else { return false };
        let time = moments
            .times
            .as_ref()
            .filter(|times| times.is_valid(row))
            .map_or(NONE, |times| EventTime(times.value(row)));
        let time = time.max(self.clock.time());
        let stamp = self.stamps[partition as usize];
        let renew = stamp == NONE || time.since(stamp) > eighth(ttl);
        if renew {
            self.stamp(partition, time);
        }
        renew
    }

    /// Restores the window or the stamp of a partition.
    pub fn restore(&mut self, partition: u32, moments: &Moments, row: usize, stamp: Option<EventTime>) {
        if let Some(windows) = &moments.windows {
            self.open(partition, EventTime(windows.value(row)));
        }
        if let Some(stamp) = stamp {
            self.stamp(partition, stamp);
        }
    }

    fn open(&mut self, partition: u32, window: EventTime) {
        let of_partition = &mut self.windows[partition as usize];
        if *of_partition != window {
            *of_partition = window;
            self.closing_queue.entry(window).or_default().push(partition);
        }
    }

    fn stamp(&mut self, partition: u32, stamp: EventTime) {
        self.stamps[partition as usize] = stamp;
        if !self.queued[partition as usize] {
            self.queued[partition as usize] = true;
            self.stamp_queue.entry(stamp).or_default().push(partition);
        }
    }

    /// The stamp of a partition.
    pub fn stamp_of(&self, partition: u32) -> EventTime {
        self.stamps.get(partition as usize).copied().unwrap_or(NONE)
    }

    /// Removes a partition that has ended.
    pub fn forget(&mut self, partition: u32) {
        if let Some(window) = self.windows.get_mut(partition as usize) {
            *window = NONE;
        }
        if let Some(stamp) = self.stamps.get_mut(partition as usize) {
            *stamp = NONE;
        }
    }

    /// The partitions whose windows are complete after a step, in order of the windows.
    pub fn closed(&mut self, tick: Tick) -> Vec<u32> {
        let Some(closing) = self.closing else { return Vec::new() };
        self.cutoff = closing.bound(tick.watermark);
        let later = self.closing_queue.split_off(&self.cutoff.time());
        let mut closed = Vec::new();
        for (window, partitions) in std::mem::replace(&mut self.closing_queue, later) {
            for partition in partitions {
                if self.windows[partition as usize] == window {
                    self.windows[partition as usize] = NONE;
                    closed.push(partition);
                }
            }
        }
        closed
    }

    /// The partitions whose TTL has passed after a step.
    pub fn expired(&mut self, tick: Tick) -> Vec<u32> {
        let Some(ttl) = self.ttl else { return Vec::new() };
        let clock = TimeColumn::clock(self.time, tick.watermark, tick.now);
        if clock == Watermark::NONE {
            return Vec::new();
        }
        let oldest = clock.time().saturating_sub(ttl).saturating_sub(eighth(ttl)).saturating_add(Lag::MICROSECOND);
        self.cutoff = self.cutoff.max(Watermark::at(oldest));
        let later = self.stamp_queue.split_off(&self.cutoff.time());
        let mut expired = Vec::new();
        for partition in std::mem::replace(&mut self.stamp_queue, later).into_values().flatten() {
            self.queued[partition as usize] = false;
            match self.stamps[partition as usize] {
                NONE => {}
                stamp if stamp.is_below(self.cutoff) => expired.push(partition),
                stamp => self.stamp(partition, stamp),
            }
        }
        expired
    }

    /// State rows with a time below this are dead.
    pub fn cutoff(&self) -> Watermark {
        self.cutoff
    }

    /// The watermark at which the first partition closes; expiry by TTL emits nothing.
    pub fn due(&self) -> Watermark {
        let first = self.closing_queue.first_key_value().map(|(window, _)| *window);
        self.closing.map_or(Watermark::END, |closing| closing.past(first))
    }

    /// The oldest window or stamp.
    pub fn oldest(&self) -> Option<EventTime> {
        let first = |queue: &BTreeMap<EventTime, Vec<u32>>| queue.first_key_value().map(|(time, _)| *time);
        first(&self.closing_queue).or_else(|| first(&self.stamp_queue))
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        (self.windows.capacity() + self.stamps.capacity()) * (size_of::<EventTime>() + size_of::<u32>())
            + self.queued.capacity()
    }
}

/// The most that a stamp may be behind.
fn eighth(ttl: Lag) -> Lag {
    Lag(ttl.0 / 8)
}
