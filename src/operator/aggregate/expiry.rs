//! Times of the groups' last touches, in buckets, so that expiring old groups does not read young ones.

use std::collections::BTreeMap;

use crate::time::{EventTime, Lag, Watermark};

/// Buckets per time to live: a group expires at most a 16th of that time late.
const BUCKETS: i64 = 16;

/// Slots by the time of their last touch. A slot that is touched again stays listed in its old bucket too; the caller
/// checks.
pub(super) struct Expiry {
    ttl: Lag,
    width: i64,
    buckets: BTreeMap<i64, Vec<u32>>,
}

impl Expiry {
    /// Slots live for `ttl`.
    pub fn new(ttl: Lag) -> Self {
        Self { ttl, width: (ttl.0 / BUCKETS).max(1), buckets: BTreeMap::new() }
    }

    /// Records that a slot was touched at a time; `before` is its previous touch.
    pub fn touch(&mut self, slot: u32, time: EventTime, before: Option<EventTime>) {
        let bucket = self.bucket(time);
        if before.is_none_or(|before| self.bucket(before) != bucket) {
            self.buckets.entry(bucket).or_default().push(slot);
        }
    }

    /// At `clock`, slots last touched before this time expire.
    pub fn limit(&self, clock: Watermark) -> Watermark {
        let oldest = clock.time().saturating_sub(self.ttl);
        Watermark::at(self.start(self.bucket(oldest)))
    }

    /// Slots whose last touch may have been before `limit`, which must be a bucket's border.
    pub fn due(&mut self, limit: Watermark) -> Vec<u32> {
        let border = self.bucket(limit.time());
        let mut due = Vec::new();
        while let Some(entry) = self.buckets.first_entry() {
            if *entry.key() >= border {
                break;
            }
            due.extend(entry.remove());
        }
        due.sort_unstable();
        due.dedup();
        due
    }

    /// The oldest bucket's start.
    pub fn oldest(&self) -> Option<EventTime> {
        self.buckets.keys().next().map(|bucket| self.start(*bucket))
    }

    fn bucket(&self, time: EventTime) -> i64 {
        time.0.div_euclid(self.width)
    }

    fn start(&self, bucket: i64) -> EventTime {
        EventTime(bucket.saturating_mul(self.width))
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.buckets.values().map(|slots| slots.capacity() * size_of::<u32>()).sum()
    }
}
