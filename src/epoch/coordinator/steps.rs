//! The steps of the loop: taking micro-batches, moving time, closing an epoch, what follows its commit, dividing state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::commit::{Closed, Committed};
use super::watchdog::Activity;
use super::{Committing, Coordinator, IDLE_CHECK};
use crate::error::{Error, Result};
use crate::run::feed::{Fed, Said};
use crate::run::open::{MicroBatch, OpenEpoch, Outputs};
use crate::source::chunk::TopicIdentity;
use crate::source::kafka::{Standing, compare};
use crate::time::{EventTime, Watermark};

/// Least interval between two log entries that report that reading slows down.
const WARN_EVERY: Duration = Duration::from_secs(10);

impl Coordinator {
    /// The shutdown signal has come: nothing more is read.
    pub(super) fn on_stop(&mut self) {
        self.course.on_stop();
        self.inputs.close();
    }

    /// Nothing more is read: what is open is committed, and the run ends with `error`.
    fn fail(&mut self, error: Error) {
        if !self.open.is_idle() {
            tracing::warn!(
                pipeline = self.committer.pipeline,
                "{error}; what was read before is committed, then the run ends"
            );
        }
        self.failure.get_or_insert(error);
        self.on_stop();
    }

    /// Takes what a source handed over.
    pub(super) async fn on_event(&mut self, source: usize, event: Option<Said>) -> Result<()> {
        match event {
            Some(Said::Batch(fed)) => self.take(*fed).await,
            Some(Said::Finished) => {
                self.inputs.on_end(source);
                Ok(())
            }
            Some(Said::Failed(error)) => {
                self.fail(error);
                Ok(())
            }
            // Feeds end with the shutdown signal, which the next step sees.
            None if self.stop.is_set() => Ok(()),
            None => Err(Error::internal("every feed ended without a word")),
        }
    }

    async fn take(&mut self, mut fed: Fed) -> Result<()> {
        if let Some(operator) = self.over[fed.source].as_deref().filter(|_| fed.records > 0) {
            return Err(self.after_the_end(fed.source, operator));
        }
        self.pulse.begin(Activity::MicroBatch);
        let stop = self.stop.clone();
        if self.open.is_idle() {
            // Reads stores, which may take its time. Without it the micro-batch is left to the next run.
            tokio::select! {
                biased;
                refreshed = self.memory.refresh() => refreshed?,
                () = stop.wait() => return Ok(()),
            }
        }
        self.begin(fed.arrived);
        let source = fed.source;
        if let Some(topic) = fed.topic.take() {
            tokio::select! {
                biased;
                entered = self.enter_topic(source, topic) => entered?,
                () = stop.wait() => return Ok(()),
            }
        }
        for (partition, range) in &fed.ranges {
            self.positions[source].insert(Arc::clone(partition), range.end);
        }
        let cuts = self.inputs.cuts(&fed);
        self.inputs.on_rows(&fed);
        let name = &self.committer.sources[source];
        self.open.note(&mut fed, name);
        let (times, now) = (self.inputs.times(), self.now());
        let batch = MicroBatch { source: Some(source), lanes: fed.lanes, origins: fed.origins, cuts, times, now };
        self.open.take(batch, &mut self.memory, fed.arrived).await?;
        self.rest_under_pressure();
        Ok(())
    }

    /// Notes the topic that a source reads, durably before anything of it is taken: if the run dies before its first commit, the next one
    /// still knows. Positions in another topic of that name mean nothing in this one.
    async fn enter_topic(&mut self, source: usize, topic: TopicIdentity) -> Result<()> {
        let name = &self.committer.sources[source];
        let known = self.topics.get(name);
        if known == Some(&topic) {
            return Ok(());
        }
        let is_another = known.is_some_and(|known| compare(known, &topic) == Standing::Another);
        let mut topics = self.topics.clone();
        topics.insert(name.clone(), topic);
        self.committer.manifests.write_topics(&topics).await?;
        self.topics = topics;
        if is_another {
            self.positions[source].clear();
        }
        Ok(())
    }

    /// While memory is short reading rests; commits, triggers and the shutdown signal do not.
    fn rest_under_pressure(&mut self) {
        let Some(pressure) = self.memory.pressure() else { return };
        let now = self.env.instant();
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!(pipeline = self.committer.pipeline, "reading slows down: {}", pressure.reason);
        }
        self.rest_until = Some(now + pressure.delay);
    }

    fn after_the_end(&self, source: usize, operator: &str) -> Error {
        let (pipeline, source) = (&self.committer.pipeline, &self.committer.sources[source]);
        Error::config(format!("pipeline `{pipeline}` was told that its input had ended, and source `{source}` has more"))
            .with_detail(format!("`at_end = 'flush'` let out all that operator `{operator}` held back; every row that comes now would be late. None was read."))
            .with_hint("Use `at_end = 'keep'` for input that comes in parts. To go on here, start once with `--allow-rebuild`, which begins with empty memory where the tables left off; or give the pipeline another name to read everything again.")
    }

    /// The interval of an epoch runs from its first row on, so that an idle pipeline does not commit at once when rows come.
    fn begin(&mut self, arrived: Instant) {
        if self.open.is_idle() {
            self.open.began = arrived;
            self.open.began_ms = self.env.unix_ms();
            self.clock.set_ms(self.open.began_ms);
        }
    }

    /// The epoch's processing time.
    fn now(&self) -> EventTime {
        EventTime::of_millis(self.open.began_ms)
    }

    /// Runs a micro-batch without rows when `times` move some operator's watermark.
    async fn advance(&mut self, times: Vec<Watermark>) -> Result<()> {
        if !self.memory.would_move(&self.dataflow, &times) {
            return Ok(());
        }
        let arrived = Instant::now();
        self.begin(arrived);
        let batch = MicroBatch {
            source: None,
            lanes: Vec::new(),
            origins: Vec::new(),
            cuts: Vec::new(),
            times,
            now: self.now(),
        };
        self.open.take(batch, &mut self.memory, arrived).await
    }

    /// Emits everything that waits for time: no more input will come.
    pub(super) async fn flush(&mut self) -> Result<()> {
        self.course.on_flushed();
        self.advance(vec![Watermark::END; self.committer.sources.len()]).await
    }

    /// Sets silent partitions aside, which may move time.
    pub(super) async fn on_silence(&mut self) -> Result<()> {
        self.idle_check = self.env.instant() + IDLE_CHECK;
        if !self.inputs.set_idle_aside() {
            return Ok(());
        }
        self.pulse.begin(Activity::MicroBatch);
        self.advance(self.inputs.times()).await
    }

    /// Closes the open epoch, starts its commit and opens the next.
    pub(super) fn close(&mut self) -> Result<()> {
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
        let (epoch, began) = (full.epoch, full.began);
        let progress = self.describe(&full);
        let closed = Closed {
            epoch,
            outputs: full.outputs,
            ranges: full.ranges,
            positions: self.positions.clone(),
            records: full.records,
            changes: self.memory.changes(&self.dataflow)?,
            times: self.committer.sources.iter().cloned().zip(self.inputs.source_times()).collect(),
            watermarks: self.watermarks(),
            lookups: self.memory.lookup_versions(),
            topics: self.topics.clone(),
        };
        let committer = Arc::clone(&self.committer);
        self.finish.records += closed.records;
        let task = tokio::spawn(async move { committer.commit(closed).await });
        self.committing = Some(Committing { task, progress, positions: self.positions.clone(), began });
        self.course.on_closed(self.memory.should_divide());
        self.pulse.begin_commit(epoch);
        Ok(())
    }

    /// Takes in that the commit under way is through.
    pub(super) async fn on_committed(&mut self, done: Result<(Committed, Committing)>) -> Result<()> {
        let (mut done, committing) = done?;
        self.course.on_committed();
        self.pulse.end_commit();
        self.indexes.measure().await;
        self.finish.epochs += 1;
        self.inputs.on_committed(committing.positions);
        let mut progress = committing.progress;
        progress.state_operators.extend(self.indexes.progress());
        progress.finished(&done, committing.began.elapsed());
        self.warn_of_refusals(&progress);
        (self.progress)(&progress);
        // The source fails, too, once it has handed over what it has left.
        self.failure = self.failure.take().or(done.last.take());
        Ok(())
    }

    /// State has outgrown its memory and is durable as it is: begins again from that, with parts that can go to disk.
    pub(super) async fn divide(&mut self) -> Result<()> {
        tracing::warn!(pipeline = self.committer.pipeline, "state has outgrown its memory; cold keys go to disk");
        let snapshots = self.committer.remembered.newest().await;
        let states = self.committer.remembered.store();
        tokio::select! {
            biased;
            divided = self.memory.divide(&self.dataflow, states, &snapshots) => divided?,
            // State that is half divided is of no use to anybody: nothing is open, so the run ends without it.
            () = self.stop.wait() => self.on_stop(),
        }
        self.course.on_divided();
        Ok(())
    }

    fn watermarks(&self) -> BTreeMap<String, Watermark> {
        let operators = self.dataflow.operators.iter().enumerate();
        operators.map(|(index, node)| (node.id.clone(), self.memory.watermark(index))).collect()
    }
}
