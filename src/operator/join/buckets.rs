//! Row numbers in buckets of time: rows older than a cutoff are found without reading the others.

use std::collections::BTreeMap;

use super::chains::Chains;
use crate::time::{EventTime, Lag, Watermark};

/// Buckets of equal width.
pub(super) struct Buckets {
    /// The width is two to the power of this, microseconds.
    shift: u32,
    buckets: BTreeMap<i64, Bucket>,
}

struct Bucket {
    oldest: EventTime,
    rows: Vec<u32>,
}

impl Buckets {
    /// For rows that stay for about `span`.
    pub(super) fn new(span: Lag) -> Self {
        const NARROWEST: i64 = if cfg!(test) { 2 } else { 1 << 16 };
        const WIDEST: i64 = 1 << 32;
        Self { shift: (span.0 / 64).clamp(NARROWEST, WIDEST).ilog2(), buckets: BTreeMap::new() }
    }

    /// The smallest time.
    pub(super) fn oldest(&self) -> Option<EventTime> {
        self.buckets.first_key_value().map(|(_, bucket)| bucket.oldest)
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.values().map(|bucket| bucket.rows.capacity() * size_of::<u32>() + size_of::<Bucket>()).sum()
    }

    pub(super) fn clear(&mut self) {
        self.buckets.clear();
    }

    /// Adds the rows numbered from `first`.
    pub(super) fn push(&mut self, first: u32, times: &[i64]) {
        let mut run = 0;
        while run < times.len() {
            let key = times[run] >> self.shift;
            let length = times[run..].iter().take_while(|&time| time >> self.shift == key).count();
            let bucket = self.buckets.entry(key).or_insert_with(|| Bucket { oldest: EventTime::MAX, rows: Vec::new() });
            let end = run + length;
            bucket.oldest = times[run..end].iter().copied().map(EventTime).fold(bucket.oldest, EventTime::min);
            bucket.rows.extend((run..end).map(|row| first + row as u32));
            run = end;
        }
    }

    /// Removes the rows with a time below `cutoff` and returns those that are live.
    pub(super) fn take_below(&mut self, cutoff: Watermark, chains: &Chains) -> Vec<u32> {
        let mut taken = Vec::new();
        while let Some(mut entry) = self.buckets.first_entry() {
            if !entry.get().oldest.is_below(cutoff) {
                break;
            }
            let wholly_below = *entry.key() < cutoff.0 >> self.shift;
            if wholly_below {
                taken.extend(entry.remove().rows.into_iter().filter(|&row| chains.is_live(row)));
                continue;
            }
            let bucket = entry.get_mut();
            bucket.oldest = EventTime::MAX;
            bucket.rows.retain(|&row| {
                let time = chains.time(row);
                let stays = !time.is_below(cutoff);
                if stays {
                    bucket.oldest = bucket.oldest.min(time);
                } else if chains.is_live(row) {
                    taken.push(row);
                }
                stays
            });
            if bucket.rows.is_empty() {
                entry.remove();
            }
            break;
        }
        taken
    }
}
