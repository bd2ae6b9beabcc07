//! Progress of event time: per source partition the greatest watermark seen, per source the least of its partitions.
//!
//! A partition that has said nothing for `idle_after` is set aside until it speaks again; so is one that a bounded read has
//! finished. A file that was read to its end and may grow counts until it has been silent for that long. While a partition that counts has said nothing yet, its source's watermark stands still. A watermark never goes back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::source::chunk::PartitionId;
use crate::state::SourceTime;
use crate::time::{Lag, Watermark};

/// The event time of one source.
#[derive(Debug)]
pub struct SourceClock {
    time: SourceTime,
    /// When each partition last gave rows, or was first known.
    heard: BTreeMap<PartitionId, Instant>,
    /// Partitions that may give rows; empty = the source is one stream.
    open: Vec<PartitionId>,
    /// Partitions that are read to their end and may grow, which count until they have been silent for `growing`.
    tails: Vec<PartitionId>,
    idle_after: Duration,
    growing: Duration,
}

impl SourceClock {
    /// Goes on from what a manifest says.
    pub fn new(time: SourceTime, idle_after: Duration) -> Self {
        let (open, tails) = (Vec::new(), Vec::new());
        Self { time, heard: BTreeMap::new(), open, tails, idle_after, growing: Duration::ZERO }
    }

    /// Lets partitions that are read to their end count until they have been silent for so long.
    #[must_use]
    pub fn growing_for(self, growing: Duration) -> Self {
        Self { growing, ..self }
    }

    /// Takes which partitions are read to their end and may grow; before [`SourceClock::hear`].
    pub fn expect(&mut self, tails: &[PartitionId]) {
        if self.tails != tails {
            self.tails = tails.to_vec();
        }
    }

    /// The source's watermark.
    pub fn watermark(&self) -> Watermark {
        self.time.watermark
    }

    /// Event times that the manifest shall keep.
    pub fn time(&self) -> SourceTime {
        self.time.clone()
    }

    /// Takes the watermarks that rows of some partitions reached, and which partitions may still give rows.
    pub fn hear(&mut self, reached: &[(PartitionId, Watermark)], open: &[PartitionId], now: Instant) {
        for (partition, watermark) in reached {
            let known = self.time.partitions.entry(partition.clone()).or_insert(Watermark::NONE);
            *known = (*known).max(*watermark);
            self.heard.insert(partition.clone(), now);
        }
        if self.open != open {
            self.open = open.to_vec();
        }
        for partition in open {
            self.heard.entry(partition.clone()).or_insert(now);
        }
        self.advance(now);
    }

    /// Sets idle partitions aside; true when that moved the watermark.
    pub fn advance(&mut self, now: Instant) -> bool {
        let reached = match self.open.is_empty() && self.growing_tails(now).next().is_none() {
            true => self.time.partitions.values().copied().max(),
            false => self.slowest(now),
        };
        let before = self.time.watermark;
        self.time.watermark = before.max(reached.unwrap_or(Watermark::NONE));
        self.time.watermark > before
    }

    /// The least watermark of the partitions that count; `None` when one of them has said nothing yet, or none counts.
    fn slowest(&self, now: Instant) -> Option<Watermark> {
        let counts = |partition: &&PartitionId| {
            self.heard.get(*partition).is_none_or(|heard| now.saturating_duration_since(*heard) < self.idle_after)
        };
        let mut slowest = None;
        for partition in self.open.iter().filter(counts) {
            let reached = *self.time.partitions.get(partition)?;
            slowest = Some(slowest.map_or(reached, |known: Watermark| known.min(reached)));
        }
        let tails = self.growing_tails(now).filter_map(|partition| self.time.partitions.get(partition).copied());
        tails.chain(slowest).min()
    }

    /// The partitions at their end that still count: those that have given rows lately.
    fn growing_tails(&self, now: Instant) -> impl Iterator<Item = &PartitionId> {
        let lately = move |partition: &&PartitionId| {
            let heard = self.heard.get(*partition);
            heard.is_some_and(|heard| now.saturating_duration_since(*heard) < self.growing)
        };
        self.tails.iter().filter(lately)
    }

    /// Every partition's distance ahead of the slowest that counts, for alignment.
    pub fn ahead(&self, now: Instant) -> BTreeMap<PartitionId, Lag> {
        let Some(slowest) = self.slowest(now) else { return BTreeMap::new() };
        self.time.partitions.iter().map(|(id, at)| (id.clone(), at.ahead_of(slowest))).collect()
    }

    /// The partitions that may give rows, in order of their event time.
    pub fn slowest_first(&self) -> Vec<PartitionId> {
        let mut order = self.open.clone();
        order.sort_by_cached_key(|partition| self.time.partitions.get(partition).copied());
        order
    }

    /// True when time may move without rows: a partition that counts now may be set aside later.
    pub fn may_idle(&self) -> bool {
        self.open.len() > 1 || !self.tails.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn ids(names: &[&str]) -> Vec<PartitionId> {
        names.iter().map(|name| PartitionId::from(*name)).collect()
    }

    fn clock() -> SourceClock {
        SourceClock::new(SourceTime::default(), Duration::from_secs(10))
    }

    #[test]
    fn the_slowest_partition_decides() {
        let (start, open) = (Instant::now(), ids(&["a", "b"]));
        let mut clock = clock();
        clock.hear(&[("a".into(), Watermark(100)), ("b".into(), Watermark(40))], &open, start);
        assert_eq!(clock.watermark(), Watermark(40));
        clock.hear(&[("a".into(), Watermark(200))], &open, start);
        assert_eq!(clock.watermark(), Watermark(40));
        clock.hear(&[("b".into(), Watermark(150))], &open, start);
        assert_eq!(clock.watermark(), Watermark(150));
    }

    #[test]
    fn a_partition_that_has_said_nothing_holds_time_back_until_it_is_idle() {
        let (start, open) = (Instant::now(), ids(&["a", "b"]));
        let mut clock = clock();
        clock.hear(&[("a".into(), Watermark(100))], &open, start);
        assert_eq!(clock.watermark(), Watermark::NONE);
        assert!(!clock.advance(at(start, 9)));
        clock.hear(&[("a".into(), Watermark(120))], &open, at(start, 9));
        assert!(clock.advance(at(start, 11)));
        assert_eq!(clock.watermark(), Watermark(120));
    }

    #[test]
    fn time_never_goes_back_when_an_idle_partition_speaks_again() {
        let (start, open) = (Instant::now(), ids(&["a", "b"]));
        let mut clock = clock();
        clock.hear(&[("a".into(), Watermark(100)), ("b".into(), Watermark(50))], &open, start);
        clock.hear(&[("a".into(), Watermark(300))], &open, at(start, 20));
        assert_eq!(clock.watermark(), Watermark(300));
        clock.hear(&[("b".into(), Watermark(60))], &open, at(start, 21));
        assert_eq!(clock.watermark(), Watermark(300));
    }

    #[test]
    fn all_partitions_idle_leave_time_where_it_is() {
        let (start, open) = (Instant::now(), ids(&["a", "b"]));
        let mut clock = clock();
        clock.hear(&[("a".into(), Watermark(100)), ("b".into(), Watermark(50))], &open, start);
        assert!(!clock.advance(at(start, 60)));
        assert_eq!(clock.watermark(), Watermark(50));
    }

    #[test]
    fn what_is_read_to_its_end_and_may_grow_counts_until_it_is_silent() {
        let start = Instant::now();
        let mut clock = SourceClock::new(SourceTime::default(), Duration::MAX).growing_for(Duration::from_secs(10));
        clock.expect(&ids(&["a", "b"]));
        clock.hear(&[("a".into(), Watermark(100)), ("b".into(), Watermark(40))], &[], start);
        assert_eq!(clock.watermark(), Watermark(40));
        assert!(clock.may_idle());
        clock.hear(&[("a".into(), Watermark(200))], &[], at(start, 8));
        assert!(!clock.advance(at(start, 9)));
        assert!(clock.advance(at(start, 11)), "`b` is silent");
        assert_eq!(clock.watermark(), Watermark(200));
        clock.expect(&ids(&["a"]));
        clock.hear(&[("b".into(), Watermark(210))], &ids(&["b"]), at(start, 12));
        assert_eq!(clock.watermark(), Watermark(200), "`a` may grow");
        assert!(clock.advance(at(start, 19)));
        assert_eq!(clock.watermark(), Watermark(210));
    }

    #[test]
    fn a_source_without_partitions_follows_its_newest_row() {
        let mut clock = clock();
        clock.hear(&[("one.jsonl".into(), Watermark(100))], &[], Instant::now());
        clock.hear(&[("two.jsonl".into(), Watermark(70))], &[], Instant::now());
        assert_eq!(clock.watermark(), Watermark(100));
    }
}
