//! The loop of a running pipeline: micro-batches into the open epoch, the epoch closed at its trigger, its commit carried
//! out while the next epoch fills.
//!
//! At most one commit is under way; the next epoch may fill meanwhile but not close. Any error ends the run: what was
//! not committed is read again by the next one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::commit::{Closed, Committed, Committer};
use super::feed::{Decoding, Fed, Feed, FeedLimits, Said, channel};
use super::indexes::Indexes;
use super::memory::{Limits, Memory};
use super::open::{MicroBatch, OpenEpoch, Outputs};
use super::progress::{OperatorProgress, Progress, ProgressSink, SinkProgress, SourceProgress, instant};
use super::recovery::{Resumed, recover};
use super::remember::Remembered;
use super::restore::{Restored, restore};
use super::seed::SeedTable;
use super::sinks::Sinks;
use super::stop::Stop;
use super::watermark::SourceClock;
use crate::catalog::Trigger;
use crate::delta::TableStore;
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::function::EpochClock;
use crate::metrics::resident_memory_bytes;
use crate::operator::END_OF_TIME;
use crate::plan::Dataflow;
use crate::source::chunk::{Offsets, PollLimit, ReadFrom};
use crate::source::decode::Decoder;
use crate::state::{ManifestStore, NO_WATERMARK, StateStore};

/// Everything a run needs.
pub struct Job {
    pub dataflow: Dataflow,
    pub sinks: Sinks,
    pub manifests: ManifestStore,
    pub states: StateStore,
    /// Tables that streams are joined to, by name.
    pub lookups: BTreeMap<String, TableStore>,
    pub limits: Limits,
    /// The table of `seed_from`.
    pub seed: Option<SeedTable>,
    /// State that does not fit the dataflow may be dropped, and operators without state may begin empty.
    pub allow_rebuild: bool,
    pub keep_late: bool,
    /// At the end of all input everything that waits for time comes out.
    pub flush_at_end: bool,
    pub trigger: Trigger,
    pub lanes: usize,
    pub poll: PollLimit,
    /// Model name to hash.
    pub models: BTreeMap<String, String>,
    pub clock: EpochClock,
    pub env: Env,
    /// Names this process in manifests and progress.
    pub run: String,
    pub progress: ProgressSink,
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finish {
    pub epochs: u64,
    pub records: u64,
}

/// An epoch closes early when this much waits for its Kafka transaction.
const BUFFERED_BYTES: u64 = 64 << 20;

/// How often silent partitions are looked at.
const IDLE_CHECK: Duration = Duration::from_millis(500);

/// How often the log says that reading slows down, at most.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Plans are given fresh run-time state after this many micro-batches.
const RESET_EVERY: u64 = 512;

/// Runs a pipeline until `stop` is set or, with `available now`, until its sources are read to the end.
pub async fn run(job: Job, stop: Stop) -> Result<Finish> {
    let pipeline = job.dataflow.pipeline.clone();
    let resumed = recover(&pipeline, &job.sinks, &job.manifests, &job.env).await?;
    for sink in &resumed.rolled_forward {
        tracing::info!(pipeline, sink, epoch = resumed.next.0 - 1, "epoch finished after a crash");
    }
    Coordinator::start(job, resumed, stop).await?.run().await
}

struct Coordinator {
    dataflow: Arc<Dataflow>,
    sinks: Arc<Sinks>,
    committer: Arc<Committer>,
    trigger: Trigger,
    lanes: usize,
    clock: EpochClock,
    env: Env,
    progress: ProgressSink,
    stop: Stop,
    feeds: Vec<Feed>,
    /// One per source.
    inboxes: Vec<mpsc::Receiver<Said>>,
    /// Sources that have been read to their end.
    ended: Vec<bool>,
    stopping: bool,
    /// Next offsets per source, after the open epoch.
    positions: Vec<Offsets>,
    /// Event time per source.
    clocks: Vec<SourceClock>,
    memory: Memory,
    indexes: Indexes,
    /// When the log last said that reading slows down.
    warned: Option<Instant>,
    /// Which operators follow time: without any, watermarks move nothing.
    keep_late: bool,
    flush_at_end: bool,
    flushed: bool,
    /// Per source an operator that has seen the end of it, if there is one.
    over: Vec<Option<String>>,
    open: OpenEpoch,
    committing: Option<Committing>,
    since_reset: u64,
    finish: Finish,
}

/// Every source, being read.
struct Reading {
    feeds: Vec<Feed>,
    inboxes: Vec<mpsc::Receiver<Said>>,
    clocks: Vec<SourceClock>,
}

impl Reading {
    async fn start(job: &Job, resumed: &Resumed, positions: &[Offsets], stop: &Stop) -> Result<Self> {
        let bounded = job.trigger == Trigger::AvailableNow;
        let mut reading = Self { feeds: Vec::new(), inboxes: Vec::new(), clocks: Vec::new() };
        for (index, source) in job.dataflow.sources.iter().enumerate() {
            let from = ReadFrom { offsets: positions[index].clone(), bounded };
            let reader = crate::source::open(&source.def, &job.dataflow.pipeline, from, &job.env).await?;
            let decoder = Arc::new(Decoder::new(&source.def)?);
            let decoding = Decoding { decoder, watermark: source.watermark.clone() };
            let limits = FeedLimits { poll: job.poll, lanes: job.lanes };
            let (sender, inbox) = channel();
            reading.feeds.push(Feed::start(index, reader, decoding, limits, sender, stop.clone()));
            reading.inboxes.push(inbox);
            let time = resumed.times.get(&source.def.name).cloned().unwrap_or_default();
            reading.clocks.push(SourceClock::new(time, source.def.idle_after));
        }
        Ok(reading)
    }
}

struct Committing {
    task: JoinHandle<Result<Committed>>,
    progress: Progress,
    positions: Vec<Offsets>,
    began: Instant,
}

impl Coordinator {
    async fn start(job: Job, resumed: Resumed, stop: Stop) -> Result<Self> {
        let sources: Vec<String> = job.dataflow.sources.iter().map(|source| source.def.name.clone()).collect();
        let positions: Vec<Offsets> =
            sources.iter().map(|name| resumed.positions.get(name).cloned().unwrap_or_default()).collect();
        let Restored { memory, state, changed, over } = restore(&job, &resumed).await?;
        let Reading { feeds, inboxes, clocks } = Reading::start(&job, &resumed, &positions, &stop).await?;
        let sinks = Arc::new(job.sinks);
        let indexes = Indexes::of(&sinks, &job.limits.budget).await;
        let committer = Committer {
            pipeline: job.dataflow.pipeline.clone(),
            run: job.run,
            fingerprint: job.dataflow.fingerprint(),
            models: job.models,
            sources,
            sinks: Arc::clone(&sinks),
            manifests: job.manifests,
            remembered: Remembered::new(job.states, state, job.env.clone()),
            env: job.env.clone(),
        };
        let dataflow = Arc::new(job.dataflow);
        let lanes = job.lanes.max(memory.widest());
        let outputs =
            Outputs::new(resumed.next, &committer.run, Arc::clone(&sinks), Arc::clone(&dataflow), lanes, job.keep_late);
        let now_ms = job.env.unix_ms();
        job.clock.set_ms(now_ms);
        let mut open = OpenEpoch::new(resumed.next, outputs, now_ms);
        // What operators were given or have lost is written down even if nothing comes to read.
        open.touched = changed;
        Ok(Self {
            ended: vec![false; feeds.len()],
            open,
            dataflow,
            sinks,
            committer: Arc::new(committer),
            trigger: job.trigger,
            lanes,
            clocks,
            memory,
            indexes,
            warned: None,
            keep_late: job.keep_late,
            flush_at_end: job.flush_at_end,
            flushed: false,
            over,
            clock: job.clock,
            env: job.env,
            progress: job.progress,
            stop,
            feeds,
            inboxes,
            stopping: false,
            positions,
            committing: None,
            since_reset: 0,
            finish: Finish::default(),
        })
    }

    async fn run(mut self) -> Result<Finish> {
        loop {
            if self.all_ended() && !self.stopping && self.flush_at_end && !self.flushed {
                self.flushed = true;
                self.advance(Some(END_OF_TIME)).await?;
            }
            if self.stopping || self.all_ended() {
                if self.committing.is_none() && self.open.is_idle() {
                    self.say_what_waits();
                    return Ok(self.finish);
                }
                if self.committing.is_none() {
                    self.close().await?;
                }
            }
            let due = self.due();
            let turns = self.turns();
            let reading = !self.stopping && !self.all_ended() && self.open.outputs.buffered() < BUFFERED_BYTES;
            tokio::select! {
                biased;
                done = wait(&mut self.committing) => self.committed(done).await?,
                () = self.stop.wait(), if !self.stopping => {
                    self.stopping = true;
                    self.inboxes.iter_mut().for_each(mpsc::Receiver::close);
                }
                () = until(due), if due.is_some() && self.committing.is_none() => self.close().await?,
                (source, said) = next(&mut self.inboxes, &turns), if reading && !turns.is_empty() => self.hear(source, said).await?,
                () = tokio::time::sleep(IDLE_CHECK), if reading && self.waits_for_time() => self.set_idle_aside().await?,
            }
        }
    }

    /// A run that has read what there was may leave rows and windows waiting for time: somebody may look for them.
    fn say_what_waits(&self) {
        let waits = |(index, node): (usize, &crate::plan::OperatorNode)| {
            self.memory.watermark(index) != END_OF_TIME && node.spec.holds_back() && self.memory.usage(index).rows > 0
        };
        if self.all_ended() && !self.stopping && self.dataflow.operators.iter().enumerate().any(waits) {
            let pipeline = &self.committer.pipeline;
            tracing::info!(pipeline, "what waits for its time stays for the next run (`at_end = 'flush'` lets it out)");
        }
    }

    /// When the open epoch should close; `None` while it has nothing to commit or another commit is under way.
    fn due(&self) -> Option<Instant> {
        if self.open.is_idle() || self.committing.is_some() {
            return None;
        }
        if self.open.outputs.buffered() >= BUFFERED_BYTES {
            return Some(self.open.began);
        }
        match self.trigger {
            Trigger::Interval(every) => Some(self.open.began + every),
            Trigger::Continuous => Some(self.open.began),
            Trigger::AvailableNow => None,
        }
    }

    fn all_ended(&self) -> bool {
        self.ended.iter().all(|ended| *ended)
    }

    /// Sources that may be read now, the one that is furthest behind in event time first; one that is too far ahead of the others
    /// waits.
    fn turns(&self) -> Vec<usize> {
        let reading = |source: &usize| !self.ended[*source];
        let times = (0..self.clocks.len()).filter(reading).map(|source| self.clocks[source].watermark());
        let slowest = times.filter(|time| *time != NO_WATERMARK).min();
        let near = |source: &usize| {
            let drift = self.dataflow.sources[*source].def.max_drift.map(|drift| drift.as_micros() as i64);
            let ahead = slowest.map_or(0, |slowest| self.clocks[*source].watermark().saturating_sub(slowest));
            drift.is_none_or(|drift| ahead <= drift)
        };
        let mut turns: Vec<usize> = (0..self.clocks.len()).filter(reading).filter(near).collect();
        turns.sort_by_key(|source| self.clocks[*source].watermark());
        turns
    }

    async fn hear(&mut self, source: usize, said: Option<Said>) -> Result<()> {
        match said {
            Some(Said::Batch(fed)) => self.take(*fed).await,
            Some(Said::Finished) => {
                self.ended[source] = true;
                Ok(())
            }
            Some(Said::Failed(error)) => Err(error),
            None if self.stop.is_set() => Ok(()),
            None => Err(Error::internal("every feed ended without a word")),
        }
    }

    async fn take(&mut self, mut fed: Fed) -> Result<()> {
        if let Some(operator) = self.over[fed.source].as_deref().filter(|_| fed.records > 0) {
            return Err(self.after_the_end(fed.source, operator));
        }
        if self.open.is_idle() {
            self.memory.refresh().await?;
        }
        self.begin(fed.arrived);
        let source = fed.source;
        for (partition, range) in &fed.ranges {
            self.positions[source].insert(Arc::clone(partition), range.end);
        }
        self.clocks[source].hear(&fed.reached, &fed.open, Instant::now());
        self.align(source);
        let name = &self.committer.sources[source];
        self.open.note(&mut fed, name);
        let batch = MicroBatch { source: Some(source), lanes: fed.lanes, times: self.times(None), now: self.now() };
        self.open.take(batch, &mut self.memory, fed.arrived).await?;
        self.since_reset += 1;
        if let Some(pressure) = self.memory.pressure() {
            if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
                self.warned = Some(Instant::now());
                tracing::warn!(pipeline = self.committer.pipeline, "reading slows down: {}", pressure.reason);
            }
            tokio::time::sleep(pressure.delay).await;
        }
        Ok(())
    }

    fn after_the_end(&self, source: usize, operator: &str) -> Error {
        let (pipeline, source) = (&self.committer.pipeline, &self.committer.sources[source]);
        Error::config(format!("pipeline `{pipeline}` was told that its input had ended, and source `{source}` has more"))
            .with_detail(format!("`at_end = 'flush'` let out all that operator `{operator}` held back; every row that comes now would be late. None was read."))
            .with_hint("Use `at_end = 'keep'` for input that comes in parts. To go on here, start once with `--allow-rebuild`, which begins with empty memory where the tables left off; or give the pipeline another name to read everything again.")
    }

    /// Holds partitions back that have run ahead of the slowest by more than the source allows.
    fn align(&self, source: usize) {
        let Some(drift) = self.dataflow.sources[source].def.max_drift else { return };
        let drift = i64::try_from(drift.as_micros()).unwrap_or(i64::MAX);
        let ahead = self.clocks[source].ahead(Instant::now());
        let far = ahead.into_iter().filter(|(_, distance)| *distance > drift).map(|(partition, _)| partition);
        self.feeds[source].hold(far.collect());
    }

    /// The interval of an epoch runs from its first row on, so that an idle pipeline does not commit at once when rows come.
    fn begin(&mut self, arrived: Instant) {
        if self.open.is_idle() {
            self.open.began = arrived;
            self.open.began_ms = self.env.unix_ms();
            self.clock.set_ms(self.open.began_ms);
        }
    }

    /// The watermark of every source; `end` stands for all of them. A source that has ended for good holds nothing back.
    fn times(&self, end: Option<i64>) -> Vec<i64> {
        let time = |(clock, ended): (&SourceClock, &bool)| match end {
            Some(end) => end,
            None if *ended && self.flush_at_end => END_OF_TIME,
            None => clock.watermark(),
        };
        self.clocks.iter().zip(&self.ended).map(time).collect()
    }

    /// The epoch's processing time, microseconds.
    fn now(&self) -> i64 {
        self.open.began_ms * 1_000
    }

    /// Runs a micro-batch without rows: time has moved.
    async fn advance(&mut self, end: Option<i64>) -> Result<()> {
        if !self.memory.would_move(&self.dataflow, &self.times(end)) {
            return Ok(());
        }
        let arrived = Instant::now();
        self.begin(arrived);
        let batch = MicroBatch { source: None, lanes: Vec::new(), times: self.times(end), now: self.now() };
        self.open.take(batch, &mut self.memory, arrived).await
    }

    /// True when operators wait for a time that silent partitions hold back.
    fn waits_for_time(&self) -> bool {
        !self.memory.is_empty() && self.clocks.iter().any(SourceClock::may_idle)
    }

    async fn set_idle_aside(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut moved = false;
        for clock in &mut self.clocks {
            moved |= clock.advance(now);
        }
        (0..self.clocks.len()).for_each(|source| self.align(source));
        if moved { self.advance(None).await } else { Ok(()) }
    }

    /// Closes the open epoch, starts its commit and opens the next.
    async fn close(&mut self) -> Result<()> {
        if self.since_reset >= RESET_EVERY {
            self.since_reset = 0;
            let mut fresh = (*self.dataflow).clone();
            fresh.reset()?;
            self.dataflow = Arc::new(fresh);
        }
        let next = self.open.epoch.next();
        let outputs = Outputs::new(
            next,
            &self.committer.run,
            Arc::clone(&self.sinks),
            Arc::clone(&self.dataflow),
            self.lanes,
            self.keep_late,
        );
        let now_ms = self.env.unix_ms();
        let full = std::mem::replace(&mut self.open, OpenEpoch::new(next, outputs, now_ms));
        let began = full.began;
        let progress = self.describe(&full);
        let closed = Closed {
            epoch: full.epoch,
            outputs: full.outputs,
            ranges: full.ranges,
            positions: self.positions.clone(),
            dead: full.dead,
            records: full.records,
            changes: self.memory.changes(&self.dataflow)?,
            times: self.committer.sources.iter().cloned().zip(self.clocks.iter().map(SourceClock::time)).collect(),
            watermarks: self.watermarks(),
            lookups: self.memory.lookup_versions(),
        };
        let committer = Arc::clone(&self.committer);
        self.finish.records += closed.records;
        let divide = self.memory.should_divide(self.indexes.bytes());
        let task = tokio::spawn(async move { committer.commit(closed).await });
        self.committing = Some(Committing { task, progress, positions: self.positions.clone(), began });
        if divide { self.divide().await } else { Ok(()) }
    }

    /// State has outgrown its memory: waits until it is durable, then begins anew from that, with parts that can go to disk.
    async fn divide(&mut self) -> Result<()> {
        let done = wait(&mut self.committing).await;
        self.committed(done).await?;
        tracing::warn!(pipeline = self.committer.pipeline, "state has outgrown its memory; cold keys go to disk");
        let snapshots = self.committer.remembered.newest().await;
        self.memory.divide(&self.dataflow, self.committer.remembered.store(), &snapshots).await
    }

    fn watermarks(&self) -> BTreeMap<String, i64> {
        let operators = self.dataflow.operators.iter().enumerate();
        operators.map(|(index, node)| (node.id.clone(), self.memory.watermark(index))).collect()
    }

    async fn committed(&mut self, done: Result<(Committed, Committing)>) -> Result<()> {
        let (done, committing) = done?;
        self.indexes.measure().await;
        self.finish.epochs += 1;
        for (feed, offsets) in self.feeds.iter().zip(committing.positions) {
            feed.committed(offsets);
        }
        let mut progress = committing.progress;
        progress.state_operators.extend(self.indexes.progress());
        let total = committing.began.elapsed();
        progress.processed_rows_per_second = per_second(progress.num_input_rows, total);
        progress.duration_ms = BTreeMap::from([
            ("close".to_owned(), done.close_ms),
            ("state".to_owned(), done.state_ms),
            ("manifest".to_owned(), done.manifest_ms),
            ("commit".to_owned(), done.commit_ms),
            ("total".to_owned(), total.as_millis() as u64),
        ]);
        progress.files = done.files;
        progress.bytes = done.bytes;
        progress.dead_letters = done.dead_letters;
        for sink in &mut progress.sinks {
            sink.version = done.versions.get(&sink.description).copied();
        }
        progress.memory = resident_memory_bytes().unwrap_or(0);
        (self.progress)(&progress);
        Ok(())
    }

    fn describe(&self, full: &OpenEpoch) -> Progress {
        let elapsed = full.began.elapsed();
        let rows = full.outputs.rows();
        let sinks = self.dataflow.branches.iter().zip(&self.sinks.branches).zip(rows);
        let text = |ranges: &BTreeMap<_, crate::state::OffsetRange>, end: bool| {
            ranges.iter().map(|(p, r): (&Arc<str>, _)| (p.to_string(), if end { r.end } else { r.start })).collect()
        };
        let sources: Vec<SourceProgress> = full
            .ranges
            .iter()
            .map(|(source, ranges)| SourceProgress {
                description: self.committer.sources[*source].clone(),
                start_offset: text(ranges, false),
                end_offset: text(ranges, true),
                lag: self.feeds[*source].lag(),
                watermark: instant(self.clocks[*source].watermark()),
            })
            .collect();
        Progress {
            name: self.committer.pipeline.clone(),
            run_id: self.committer.run.clone(),
            epoch: full.epoch.0,
            timestamp: chrono::DateTime::from_timestamp_millis(full.began_ms)
                .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
                .unwrap_or_default(),
            num_input_rows: full.records,
            input_rows_per_second: per_second(full.records, elapsed),
            micro_batches: full.micro_batches,
            latency_ms: full.worst_latency_us as f64 / 1000.0,
            lag: self.feeds.iter().map(Feed::lag).sum(),
            sources,
            sinks: sinks
                .map(|((branch, sink), rows)| SinkProgress {
                    description: branch.target.clone(),
                    kind: sink.kind().to_owned(),
                    num_output_rows: rows,
                    version: None,
                })
                .collect(),
            state_operators: self.remembered(),
            ..Progress::default()
        }
    }

    fn remembered(&self) -> Vec<OperatorProgress> {
        let operators = self.dataflow.operators.iter().enumerate();
        let describe = |(index, node): (usize, &crate::plan::OperatorNode)| {
            let usage = self.memory.usage(index);
            OperatorProgress {
                operator: node.id.clone(),
                kind: node.spec.kind().to_owned(),
                num_rows_total: usage.rows,
                memory_used_bytes: usage.bytes,
                oldest: usage.oldest.and_then(instant),
                num_rows_late: self.memory.late(index),
                watermark: instant(self.memory.watermark(index)),
            }
        };
        operators.map(describe).collect()
    }
}

async fn wait(committing: &mut Option<Committing>) -> Result<(Committed, Committing)> {
    let Some(running) = committing else { return std::future::pending().await };
    let done = (&mut running.task).await.internal(|| "a commit ended abnormally".to_owned())?;
    let Some(finished) = committing.take() else { return std::future::pending().await };
    Ok((done?, finished))
}

/// What the first of `turns` that has something to say says.
async fn next(inboxes: &mut [mpsc::Receiver<Said>], turns: &[usize]) -> (usize, Option<Said>) {
    std::future::poll_fn(|context| {
        for source in turns {
            if let Poll::Ready(said) = inboxes[*source].poll_recv(context) {
                return Poll::Ready((*source, said));
            }
        }
        Poll::Pending
    })
    .await
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn per_second(rows: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { (rows as f64 / seconds).round() } else { 0.0 }
}
