//! The sources of a running pipeline: their feeds, what the feeds hand over, and how far each is in event time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::super::job::Job;
use super::super::recovery::Resumed;
use crate::catalog::Trigger;
use crate::error::Result;
use crate::run::feed::{Decoding, Fed, Feed, FeedLimits, Said, channel};
use crate::run::open::Cut;
use crate::run::stop::Stop;
use crate::run::vitals::SourceVitals;
use crate::run::watermark::SourceClock;
use crate::source::chunk::{Offsets, ReadFrom, Witness};
use crate::source::decode::Decoder;
use crate::state::SourceTime;
use crate::time::{Lag, Watermark};

/// Every source, being read. All vectors are in the order of the dataflow's sources.
pub struct Inputs {
    feeds: Vec<Feed>,
    inboxes: Vec<mpsc::Receiver<Said>>,
    clocks: Vec<SourceClock>,
    /// Sources that have been read to their end.
    ended: Vec<bool>,
    /// Event time by which a source may run ahead of others.
    drifts: Vec<Option<Lag>>,
    /// A source that has ended for good holds no watermark back.
    flush_at_end: bool,
    /// Witnesses that vouch for the offsets read, per source.
    witnesses: Vec<Option<Arc<dyn Witness>>>,
}

impl Inputs {
    /// Begins to read every source of `job` at `positions`.
    pub async fn start(job: &Job, resumed: &Resumed, positions: &[Offsets], stop: &Stop) -> Result<Self> {
        let bounded = job.trigger == Trigger::AvailableNow;
        let sources = &job.dataflow.sources;
        let by_row = job.dataflow.follows_each_row();
        let mut inputs = Self {
            feeds: Vec::with_capacity(sources.len()),
            inboxes: Vec::with_capacity(sources.len()),
            clocks: Vec::with_capacity(sources.len()),
            ended: vec![false; sources.len()],
            drifts: Vec::with_capacity(sources.len()),
            flush_at_end: job.flush_at_end,
            witnesses: Vec::with_capacity(sources.len()),
        };
        for (index, source) in sources.iter().enumerate() {
            let topic = resumed.topics.get(&source.def.name).cloned();
            let from = ReadFrom { offsets: positions[index].clone(), topic, bounded };
            let reader = crate::source::open(&source.def, &job.dataflow.pipeline, from, &job.env).await?;
            inputs.witnesses.push(reader.witness());
            let idle_after = if reader.may_fall_silent() { source.def.idle_after } else { Duration::MAX };
            let decoder = Arc::new(Decoder::new(&source.def)?.with_clock(&source.def, &job.env));
            let timed = source.def.watermark.as_ref().map(|watermark| watermark.column.as_str());
            let time_column = timed.and_then(|timed| source.def.schema().index_of(timed).ok());
            let decoding = Decoding { decoder, watermark: source.watermark.clone(), time_column, by_row };
            let limits = FeedLimits { poll: job.poll, lanes: job.lanes, memory: job.sinks.memory.clone() };
            let (sender, inbox) = channel();
            inputs.feeds.push(Feed::start(index, reader, decoding, limits, sender, stop.clone()));
            inputs.inboxes.push(inbox);
            let time = resumed.times.get(&source.def.name).cloned().unwrap_or_default();
            inputs.clocks.push(SourceClock::new(time, idle_after).growing_for(source.def.idle_after));
            inputs.drifts.push(source.def.max_drift.map(Lag::of));
        }
        Ok(inputs)
    }

    /// Witnesses that vouch for the offsets read, per source.
    pub fn witnesses(&self) -> Vec<Option<Arc<dyn Witness>>> {
        self.witnesses.clone()
    }

    /// True when all sources have been read to their end.
    pub fn all_ended(&self) -> bool {
        self.ended.iter().all(|ended| *ended)
    }

    /// Sources that may be read now, the one that is furthest behind in event time first; one that is too far ahead of the others
    /// waits.
    pub fn turns(&self) -> Vec<usize> {
        let reading = |source: &usize| !self.ended[*source];
        let times = (0..self.clocks.len()).filter(reading).map(|source| self.watermark(source));
        let slowest = times.filter(|time| *time != Watermark::NONE).min();
        let near = |source: &usize| {
            let ahead = slowest.map_or(Lag::ZERO, |slowest| self.watermark(*source).ahead_of(slowest));
            self.drifts[*source].is_none_or(|drift| ahead <= drift)
        };
        let mut turns: Vec<usize> = (0..self.clocks.len()).filter(reading).filter(near).collect();
        turns.sort_by_key(|source| self.watermark(*source));
        turns
    }

    /// The event of the first of `turns` that has one; `None`: its feed is gone.
    pub async fn next(&mut self, turns: &[usize]) -> (usize, Option<Said>) {
        std::future::poll_fn(|context| {
            for source in turns {
                if let Poll::Ready(event) = self.inboxes[*source].poll_recv(context) {
                    return Poll::Ready((*source, event));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Takes no more events.
    pub fn close(&mut self) {
        self.inboxes.iter_mut().for_each(mpsc::Receiver::close);
    }

    /// Notes that `source` has been read to its end.
    pub fn on_end(&mut self, source: usize) {
        self.ended[source] = true;
    }

    /// The places in a micro-batch at which event time has moved before a row that is behind it.
    pub fn cuts(&mut self, fed: &Fed) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for step in &fed.moves {
            let before = self.watermark(fed.source);
            let reached = [(step.partition.clone(), step.reached)];
            self.clocks[fed.source].expect(&fed.tails);
            self.clocks[fed.source].hear(&reached, &fed.open, Instant::now());
            if self.watermark(fed.source) > before {
                cuts.push(Cut { lane: step.lane, rows: step.rows, times: self.times() });
            }
        }
        cuts
    }

    /// Moves event time by what a micro-batch has reached.
    pub fn on_rows(&mut self, fed: &Fed) {
        self.clocks[fed.source].expect(&fed.tails);
        self.clocks[fed.source].hear(&fed.reached, &fed.open, Instant::now());
        self.show_time(fed.source);
        self.align(fed.source);
    }

    /// Sets silent partitions aside; true when that moved a watermark.
    pub fn set_idle_aside(&mut self) -> bool {
        let now = Instant::now();
        let mut moved = false;
        for clock in &mut self.clocks {
            moved |= clock.advance(now);
        }
        (0..self.clocks.len()).for_each(|source| {
            self.show_time(source);
            self.align(source);
        });
        moved
    }

    /// The values that the gauges show, by source.
    pub fn vitals(&self) -> Vec<SourceVitals> {
        self.feeds.iter().map(|feed| feed.vitals().clone()).collect()
    }

    fn show_time(&self, source: usize) {
        self.feeds[source].vitals().watermark.store(self.watermark(source).0, Ordering::Relaxed);
    }

    /// True when time may move without rows.
    pub fn may_idle(&self) -> bool {
        self.clocks.iter().any(SourceClock::may_idle)
    }

    /// Has partitions that are behind read first, and holds those back that have run ahead of the slowest by more than the source
    /// allows.
    fn align(&self, source: usize) {
        if self.clocks[source].may_idle() {
            self.feeds[source].prefer(self.clocks[source].slowest_first());
        }
        let Some(drift) = self.drifts[source] else { return };
        let ahead = self.clocks[source].ahead(Instant::now());
        let far = ahead.into_iter().filter(|(_, distance)| *distance > drift).map(|(partition, _)| partition);
        self.feeds[source].hold(far.collect());
    }

    /// The watermark of every source as operators see it.
    pub fn times(&self) -> Vec<Watermark> {
        let time = |(source, ended): (usize, &bool)| match *ended && self.flush_at_end {
            true => Watermark::END,
            false => self.watermark(source),
        };
        self.ended.iter().enumerate().map(time).collect()
    }

    /// The watermark that the rows of `source` have reached.
    pub fn watermark(&self, source: usize) -> Watermark {
        self.clocks[source].watermark()
    }

    /// Every source's event time, as the manifest keeps it.
    pub fn source_times(&self) -> impl Iterator<Item = SourceTime> {
        self.clocks.iter().map(SourceClock::time)
    }

    /// Records of `source` not yet read; `None` = not known.
    pub fn lag(&self, source: usize) -> Option<u64> {
        self.feeds[source].lag()
    }

    /// Times of `source` whose number may be of another unit than it was read as.
    pub fn doubtful_times(&self, source: usize) -> u64 {
        self.feeds[source].doubtful_times()
    }

    /// Records not yet read, where every source knows.
    pub fn total_lag(&self) -> Option<u64> {
        self.feeds.iter().map(Feed::lag).sum()
    }

    /// Passes on how far commits have come.
    pub fn on_committed(&self, positions: Vec<Offsets>) {
        for (feed, offsets) in self.feeds.iter().zip(positions) {
            feed.committed(offsets);
        }
    }
}
