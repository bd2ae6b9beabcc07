//! Says so when a pipeline is at one thing for long that should be short. It changes nothing: the loop has bounds of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::env::Env;
use crate::metrics::Metrics;
use crate::state::Epoch;

/// Interval between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Duration above which a step is logged, again each time that it has taken twice as long.
const LONG: Duration = Duration::from_secs(60);

/// A step of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Recovery, state, connections.
    Start,
    /// Whatever comes, in its own time.
    Wait,
    MicroBatch,
    Flush,
    Close,
    Divide,
}

impl Activity {
    /// Its name in the log; `None` if it may last.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Wait => None,
            Self::Start => Some("starting"),
            Self::MicroBatch => Some("one micro-batch"),
            Self::Flush => Some("emitting what waited for time"),
            Self::Close => Some("closing an epoch"),
            Self::Divide => Some("dividing state that has outgrown its memory"),
        }
    }
}

/// The present step of a pipeline and its start, shared by its loop and its watchdog.
#[derive(Debug, Clone)]
pub struct Pulse {
    env: Env,
    current: Arc<Mutex<Current>>,
}

#[derive(Debug)]
struct Current {
    activity: (Activity, Instant),
    commit: Option<(Epoch, Instant)>,
}

impl Pulse {
    /// A pipeline that starts now.
    pub fn new(env: &Env) -> Self {
        let current = Current { activity: (Activity::Start, env.instant()), commit: None };
        Self { env: env.clone(), current: Arc::new(Mutex::new(current)) }
    }

    /// Notes that the loop is at something else now.
    pub fn begin(&self, activity: Activity) {
        self.with(|current, now| current.activity = (activity, now));
    }

    /// Notes that the commit of `epoch` has begun, beside whatever the loop is at.
    pub fn begin_commit(&self, epoch: Epoch) {
        self.with(|current, now| current.commit = Some((epoch, now)));
    }

    /// Notes that no commit is under way.
    pub fn end_commit(&self) {
        self.with(|current, _| current.commit = None);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Current, Instant) -> T) -> T {
        let now = self.env.instant();
        act(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// Steps that last longer than they should, with their duration: of the loop, and of the commit.
    fn overdue(&self) -> [Option<(String, Instant, Duration)>; 2] {
        self.with(|current, now| {
            let long = |since: Instant| Some(now.saturating_duration_since(since)).filter(|lasted| *lasted >= LONG);
            let (activity, since) = current.activity;
            let at = activity.name().and_then(|name| Some((name.to_owned(), since, long(since)?)));
            let commit = current
                .commit
                .and_then(|(epoch, since)| Some((format!("the commit of epoch {epoch}"), since, long(since)?)));
            [at, commit]
        })
    }
}

/// The task that looks; it ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    task: JoinHandle<()>,
}

impl Watchdog {
    /// Watches a pipeline.
    pub fn start(pipeline: &str, pulse: Pulse, env: Env, metrics: &Metrics) -> Self {
        let pipeline = pipeline.to_owned();
        let slow_seconds = metrics.slow_seconds.with([&pipeline]);
        slow_seconds.set(0.0);
        let task = tokio::spawn(async move {
            let mut logged = [Logged::default(), Logged::default()];
            loop {
                env.sleep(LOOK_EVERY).await;
                let overdue = pulse.overdue();
                let longest = overdue.iter().flatten().map(|(.., lasted)| *lasted).max().unwrap_or_default();
                slow_seconds.set(longest.as_secs_f64());
                for (found, logged) in overdue.into_iter().zip(&mut logged) {
                    let Some((what, since, lasted)) = found else { continue };
                    if logged.is_news(since, lasted) {
                        tracing::warn!(pipeline, seconds = lasted.as_secs(), "slow: {what} has not ended yet");
                    }
                }
            }
        });
        Self { task }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The last log entry about something.
#[derive(Debug, Default)]
struct Logged {
    since: Option<Instant>,
    next: Duration,
}

impl Logged {
    /// True the first time, and whenever it has lasted twice as long as the last time.
    fn is_news(&mut self, since: Instant, lasted: Duration) -> bool {
        if self.since == Some(since) && lasted < self.next {
            return false;
        }
        (self.since, self.next) = (Some(since), lasted * 2);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backdate(pulse: &Pulse, by: Duration) {
        pulse.with(|current, now| {
            current.activity.1 = now.checked_sub(by).unwrap();
            if let Some(commit) = &mut current.commit {
                commit.1 = now.checked_sub(by).unwrap();
            }
        });
    }

    #[test]
    fn waiting_may_last_work_and_commits_may_not() {
        let pulse = Pulse::new(&Env::manual(0, 0));
        pulse.begin(Activity::Wait);
        backdate(&pulse, LONG * 2);
        assert_eq!(pulse.overdue(), [None, None]);
        pulse.begin(Activity::MicroBatch);
        pulse.begin_commit(Epoch(7));
        assert_eq!(pulse.overdue(), [None, None]);
        backdate(&pulse, LONG * 2);
        let [at, commit] = pulse.overdue().map(|found| found.map(|(what, ..)| what));
        assert_eq!(at.as_deref(), Some("one micro-batch"));
        assert_eq!(commit.as_deref(), Some("the commit of epoch 7"));
        pulse.begin(Activity::Wait);
        pulse.end_commit();
        assert_eq!(pulse.overdue(), [None, None]);
    }

    #[test]
    fn what_lasts_is_logged_at_doubling_intervals_and_anew_for_the_next_thing() {
        let (first, mut logged) = (Instant::now(), Logged::default());
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let news: Vec<u64> = (1..=10).filter(|n| logged.is_news(first, minutes(*n))).collect();
        assert_eq!(news, [1, 2, 4, 8]);
        assert!(logged.is_news(first + minutes(20), minutes(1)));
    }
}
