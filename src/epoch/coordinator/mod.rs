//! The loop of a running pipeline: micro-batches into the open epoch, the epoch closed at its trigger, its commit carried
//! out while the next epoch fills.
//!
//! [`course`] decides each step from what the loop observes; the loop carries it out. At most one commit is under way; the next epoch
//! may fill meanwhile but not close. Any error ends the run: what was not committed is read again by the next one. A source that fails may
//! no longer have what was read of it, so that is committed first.

mod course;
mod gauges;
mod inputs;
mod report;
mod steps;
mod watchdog;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use self::course::{Content, Course, Due, Input, Seen, Step, Wakes};
use self::gauges::Gauges;
use self::inputs::Inputs;
use self::watchdog::{Activity, Pulse, Watchdog};
use super::commit::{Committed, Committer};
use super::indexes::Indexes;
use super::job::{Finish, Job};
use super::progress::{Progress, ProgressSink};
use super::recovery::{Resumed, recover};
use super::restore::{Restored, restore};
use crate::catalog::Trigger;
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::function::EpochClock;
use crate::plan::Dataflow;
use crate::run::memory::Memory;
use crate::run::open::{OpenEpoch, Outputs};
use crate::run::remember::Remembered;
use crate::run::sinks::Sinks;
use crate::run::stop::Stop;
use crate::source::chunk::{Offsets, TopicIdentity};
use crate::time::Watermark;

/// Interval between two looks at silent partitions.
const IDLE_CHECK: Duration = Duration::from_millis(500);

/// Duration of a wait without an end: there is none, and if there were, the loop would look again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Runs a pipeline until `stop` is set or, with `available now`, until its sources are read to the end.
///
/// When `stop` is set before it has begun to read, it ends at once: whatever it was doing, the next run does again.
pub async fn run(job: Job, stop: Stop) -> Result<Finish> {
    let pipeline = job.dataflow.pipeline.clone();
    let pulse = Pulse::new(&job.env);
    let _watchdog = Watchdog::start(&pipeline, pulse.clone(), job.env.clone(), &job.metrics);
    let started = tokio::select! {
        biased;
        () = stop.wait() => None,
        started = start(job, pulse, stop.clone()) => Some(started?),
    };
    match started {
        Some(coordinator) => coordinator.run().await,
        None => {
            tracing::info!(pipeline, "stopped before it began to read");
            Ok(Finish::default())
        }
    }
}

async fn start(job: Job, pulse: Pulse, stop: Stop) -> Result<Coordinator> {
    let pipeline = &job.dataflow.pipeline;
    let sources = job.dataflow.sources.iter().map(|source| source.def.name.as_str()).collect();
    let resumed =
        recover(pipeline, &sources, &job.sinks, &job.manifests, &job.states, &job.env, job.allow_rebuild).await?;
    for sink in &resumed.rolled_forward {
        tracing::info!(pipeline, sink, epoch = resumed.next.0 - 1, "epoch finished after a crash");
    }
    Coordinator::start(job, resumed, pulse, stop).await
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
    inputs: Inputs,
    course: Course,
    /// Next offsets per source, after the open epoch.
    positions: Vec<Offsets>,
    /// The topics that they are of, by source.
    topics: BTreeMap<String, TopicIdentity>,
    memory: Memory,
    indexes: Indexes,
    /// Nothing is read before this moment: memory is short.
    rest_until: Option<Instant>,
    /// When silent partitions are looked at next.
    idle_check: Instant,
    /// When the log last reported that reading slows down.
    warned: Option<Instant>,
    keep_late: bool,
    /// Per source an operator that has seen the end of it, if there is one.
    over: Vec<Option<String>>,
    /// The error that the run ends with once everything read is committed.
    failure: Option<Error>,
    open: OpenEpoch,
    committing: Option<Committing>,
    finish: Finish,
    pulse: Pulse,
    #[expect(dead_code, reason = "shows while it is held")]
    gauges: Gauges,
}

/// A commit under way.
struct Committing {
    task: JoinHandle<Result<Committed>>,
    progress: Progress,
    positions: Vec<Offsets>,
    began: Instant,
}

impl Coordinator {
    async fn start(job: Job, resumed: Resumed, pulse: Pulse, stop: Stop) -> Result<Self> {
        let sources: Vec<String> = job.dataflow.sources.iter().map(|source| source.def.name.clone()).collect();
        let positions: Vec<Offsets> =
            sources.iter().map(|name| resumed.positions.get(name).cloned().unwrap_or_default()).collect();
        let Restored { memory, state, changed, over } = restore(&job, &resumed).await?;
        let inputs = Inputs::start(&job, &resumed, &positions, &stop).await?;
        let vitals = sources.iter().cloned().zip(inputs.vitals()).collect();
        let gauges = Gauges::start(&job.dataflow.pipeline, vitals, job.env.clone(), Arc::clone(&job.metrics));
        let sinks = Arc::new(job.sinks);
        let indexes = Indexes::of(&sinks, &job.limits.budget).await;
        let committer = Committer {
            pipeline: job.dataflow.pipeline.clone(),
            run: job.run,
            fingerprint: job.dataflow.fingerprint(),
            models: job.models,
            sources,
            reads: job.dataflow.tables_read(),
            witnesses: inputs.witnesses(),
            sinks: Arc::clone(&sinks),
            remembered: Remembered::new(job.states, state, job.env.clone()).keeping(job.manifests.clone()),
            manifests: job.manifests,
            standings: tokio::sync::Mutex::new(resumed.standings),
            env: job.env.clone(),
        };
        let dataflow = Arc::new(job.dataflow);
        let lanes = job.lanes.max(memory.widest());
        let outputs =
            Outputs::new(resumed.next, &committer.run, Arc::clone(&sinks), Arc::clone(&dataflow), lanes, job.keep_late);
        let now_ms = job.env.unix_ms();
        job.clock.set_ms(now_ms);
        let mut open = OpenEpoch::new(resumed.next, outputs, now_ms);
        // State that operators were given or have lost is written down even if nothing comes to read.
        open.touched = changed;
        Ok(Self {
            idle_check: job.env.instant() + IDLE_CHECK,
            course: Course::new(job.flush_at_end),
            open,
            dataflow,
            sinks,
            committer: Arc::new(committer),
            trigger: job.trigger,
            lanes,
            inputs,
            memory,
            indexes,
            rest_until: None,
            warned: None,
            keep_late: job.keep_late,
            over,
            failure: None,
            clock: job.clock,
            env: job.env,
            progress: job.progress,
            stop,
            positions,
            topics: resumed.topics,
            committing: None,
            finish: Finish::default(),
            pulse,
            gauges,
        })
    }

    async fn run(mut self) -> Result<Finish> {
        loop {
            let turns = self.inputs.turns();
            let step = self.course.next(self.observe(&turns));
            self.pulse.begin(match step {
                Step::Flush => Activity::Flush,
                Step::Close => Activity::Close,
                Step::Divide => Activity::Divide,
                Step::Finish | Step::Wait(_) => Activity::Wait,
            });
            match step {
                Step::Finish => break,
                Step::Flush => self.flush().await?,
                Step::Close => self.close()?,
                Step::Divide => self.divide().await?,
                Step::Wait(wakes) => self.wait(wakes, &turns).await?,
            }
        }
        self.log_what_waits();
        match self.failure {
            Some(error) => Err(error),
            None => Ok(self.finish),
        }
    }

    /// The facts on which the next step depends; `turns` are the sources that may be read.
    fn observe(&self, turns: &[usize]) -> Seen {
        let now = self.env.instant();
        let input = match (self.inputs.all_ended(), turns.is_empty()) {
            (true, _) => Input::Ended,
            (false, true) => Input::Held,
            (false, false) => Input::Readable,
        };
        let epoch = match (self.open.is_idle(), self.open.is_full()) {
            (true, _) => Content::Empty,
            (false, false) => Content::Some,
            (false, true) => Content::Full,
        };
        let due = match self.due() {
            None => Due::Never,
            Some(due) if due > now => Due::Later,
            Some(_) => Due::Now,
        };
        Seen {
            input,
            epoch,
            due,
            resting: self.rest_until.is_some_and(|until| until > now),
            follows_silence: !self.memory.is_empty() && self.inputs.may_idle(),
        }
    }

    /// When the trigger ends the open epoch; `None`: it does not.
    fn due(&self) -> Option<Instant> {
        match self.trigger {
            Trigger::Interval(every) => Some(self.open.began + every),
            Trigger::Continuous => Some(self.open.began),
            Trigger::AvailableNow => None,
        }
    }

    /// Waits for the first of `wakes` and takes in what it brings. Triggers and rests only end the wait: what they mean is for the next
    /// step to decide.
    async fn wait(&mut self, wakes: Wakes, turns: &[usize]) -> Result<()> {
        if wakes.is_none() {
            tracing::error!(pipeline = self.committer.pipeline, "nothing is awaited, which is a defect of weir");
            self.env.sleep(LOOK_AGAIN).await;
            return Ok(());
        }
        let (due, rest_until) = (self.due(), self.rest_until);
        let env = &self.env;
        tokio::select! {
            biased;
            done = ended(&mut self.committing), if wakes.commit => self.on_committed(done).await,
            () = self.stop.wait(), if wakes.stop => {
                self.on_stop();
                Ok(())
            }
            () = until(env, due), if wakes.due => Ok(()),
            (source, event) = self.inputs.next(turns), if wakes.input => self.on_event(source, event).await,
            () = until(env, rest_until), if wakes.rest => Ok(()),
            () = env.sleep_until(self.idle_check), if wakes.silence => self.on_silence().await,
        }
    }

    /// A run that has read what there was may leave rows and windows waiting for time: somebody may look for them.
    fn log_what_waits(&self) {
        let waits = |(index, node): (usize, &crate::plan::OperatorNode)| {
            self.memory.watermark(index) != Watermark::END
                && node.spec.holds_back()
                && self.memory.usage(index).rows > 0
        };
        let all_read = self.inputs.all_ended() && !self.course.is_stopping();
        if all_read && self.dataflow.operators.iter().enumerate().any(waits) {
            let pipeline = &self.committer.pipeline;
            tracing::info!(pipeline, "what waits for its time stays for the next run (`at_end = 'flush'` lets it out)");
        }
    }
}

/// The end of the commit under way.
async fn ended(committing: &mut Option<Committing>) -> Result<(Committed, Committing)> {
    let Some(running) = committing else { return std::future::pending().await };
    let done = (&mut running.task).await.internal(|| "a commit ended abnormally".to_owned())?;
    let Some(finished) = committing.take() else { return std::future::pending().await };
    Ok((done?, finished))
}

async fn until(env: &Env, at: Option<Instant>) {
    match at {
        Some(at) => env.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
