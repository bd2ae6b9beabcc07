//! Where queries are planned and run: threads of their own, at low priority, so that no query takes a pipeline's place.
//!
//! Each planning has a thread for itself, whose stack holds the deepest statement that `sql::limits` lets pass; nobody waits longer
//! for it than [`PLANNING_TIMEOUT`], and it ends at its next step once nobody waits. Queries share a runtime. Both are admitted by
//! a [`Gate`]: so many at a time, so many waiting, the rest refused. Who is admitted holds his place until his work has really ended.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::brake::{Brake, exceeded};
use super::gate::{Client, Gate, Place};
use crate::error::{Context, Error, ErrorKind, Result, SqlState};
use crate::memory::counted::HeldBytes;
use crate::sql::limits::{PLANNING_STACK_BYTES, STACK_BYTES};

/// The longest that a statement may be planned.
pub const PLANNING_TIMEOUT: Duration = Duration::from_secs(30);

/// How many queries, and for how long.
#[derive(Debug, Clone)]
pub struct QueryLimits {
    /// Queries that run at a time.
    pub running: usize,
    /// Queries, and plannings, that wait for a place.
    pub waiting: usize,
    /// For a query from being asked for to its last row.
    pub timeout: Duration,
    /// For a client to take rows that are ready.
    pub idle_timeout: Duration,
    /// Connections of a server at a time.
    pub connections: usize,
    /// Resident bytes of the process at which queries end, the largest first; `None` = none.
    pub memory_bytes: Option<u64>,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            running: 8,
            waiting: 100,
            timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(60),
            connections: 1_000,
            memory_bytes: None,
        }
    }
}

/// The threads of queries. Dropped, it abandons what still computes.
#[derive(Debug)]
pub struct QueryEngine {
    runtime: OwnRuntime,
    planning: Gate,
    running: Gate,
    brake: Brake,
    limits: QueryLimits,
    /// Plannings that nobody waits for any more and that have not ended.
    abandoned: Arc<AtomicUsize>,
}

impl QueryEngine {
    /// Starts the threads. Errors: there can be no more of them.
    pub fn start(limits: QueryLimits) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
        let running = Gate::new(limits.running, limits.waiting);
        let planning = Gate::new(cores.max(2), limits.waiting);
        let brake = Brake::default();
        if let Some(bytes) = limits.memory_bytes {
            let gates = [planning.clone(), running.clone()];
            brake.watch(bytes, move || gates.iter().any(Gate::is_busy))?;
        }
        Ok(Self {
            runtime: OwnRuntime::start("weir-query", cores.max(2), QUERY_NICENESS)?,
            planning,
            running,
            brake,
            limits,
            abandoned: Arc::default(),
        })
    }

    /// The limits that were set.
    pub fn limits(&self) -> &QueryLimits {
        &self.limits
    }

    /// A place for a query to run. Errors: none comes free in time, or too many wait.
    pub async fn place(&self, client: Client) -> Result<Place> {
        let entered = self.running.enter(client, "queries");
        tokio::time::timeout(self.limits.timeout, entered).await.map_err(|_| out_of_time())?
    }

    /// Runs `planning` on a thread of its own. Dropped, it ends at its next step.
    ///
    /// Errors: those of `planning`; too many wait; it takes too long.
    pub async fn plan<T: Send + 'static>(
        &self,
        client: Client,
        planning: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let limit = self.limits.timeout.min(PLANNING_TIMEOUT);
        let planned = async {
            let place = self.planning.enter(client, "statements").await?;
            let (sender, planned) = oneshot::channel();
            let unwanted = CancellationToken::new();
            let wanted = unwanted.clone().drop_guard();
            let held = Held { place: Arc::new(Mutex::new(Some(place))), abandoned: Arc::clone(&self.abandoned) };
            let working = Working(held.clone());
            let runtime = self.runtime.handle();
            let work = move || {
                step_back(QUERY_NICENESS);
                let planned = runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = unwanted.cancelled() => None,
                        planned = planning => Some(planned),
                    }
                });
                drop(working);
                if let Some(planned) = planned {
                    // Nobody may be waiting any more.
                    let _ = sender.send(planned);
                }
            };
            std::thread::Builder::new()
                .name("weir-plan".to_owned())
                .stack_size(PLANNING_STACK_BYTES)
                .spawn(work)
                .context(ErrorKind::Environment, || "no thread can be started to plan a statement".to_owned())?;
            let unwaited = Unwaited(held);
            let planned = planned.await.internal(|| "planning ended abnormally".to_owned())?;
            drop(unwaited);
            drop(wanted);
            planned
        };
        let too_long = || {
            Error::sql(format!("planning took longer than {} seconds", limit.as_secs_f64()))
                .with_state(SqlState::CANCELLED)
                .with_hint("Split the statement, or write what it reads to a table.")
        };
        let braked = self.brake.enter(HeldBytes::default());
        tokio::select! {
            biased;
            () = braked.pulled() => Err(exceeded()),
            planned = tokio::time::timeout(limit, planned) => planned.map_err(|_| too_long())?,
        }
    }

    /// Ends queries when the process uses too much memory.
    pub fn brake(&self) -> &Brake {
        &self.brake
    }

    /// Where queries run.
    pub fn handle(&self) -> Handle {
        self.runtime.handle()
    }
}

/// The place of a planning, which its thread holds.
#[derive(Clone)]
struct Held {
    place: Arc<Mutex<Option<Place>>>,
    abandoned: Arc<AtomicUsize>,
}

impl Held {
    /// The thread has ended: the place is free, or was given up before.
    fn end(&self) {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        if place.is_none() {
            self.abandoned.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Nobody waits any more: a few may go on without a place, so that others are planned. They are at low priority, and bounded.
    fn abandon(&self) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_some() && self.abandoned.load(Ordering::Relaxed) < MAX_ABANDONED {
            self.abandoned.fetch_add(1, Ordering::Relaxed);
            drop(place.take());
        }
    }
}

/// Frees the place when the thread ends, however it does.
struct Working(Held);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Gives the place up when it is dropped before the thread has ended.
struct Unwaited(Held);

impl Drop for Unwaited {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Plannings that may go on without a place.
const MAX_ABANDONED: usize = 8;

/// What a query is answered with that took too long.
pub fn out_of_time() -> Error {
    Error::environment("query took longer than `flight.query_timeout`")
        .with_state(SqlState::CANCELLED)
        .with_hint("Read fewer rows, write the result to a table by a pipeline, or raise `flight.query_timeout`.")
}

/// Beside a thread at 0, a thread that also wants the processor gets about a thirtieth at 15.
const QUERY_NICENESS: i32 = 15;

/// A runtime beside the process's main one; ends with this value, leaving behind what does not yield.
#[derive(Debug)]
pub struct OwnRuntime {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl OwnRuntime {
    /// A runtime of `threads` that are named and have this niceness (0 = as others, 19 = last).
    pub fn start(name: &str, threads: usize, niceness: i32) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(name)
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(move || step_back(niceness))
            .enable_all()
            .build()
            .context(ErrorKind::Environment, || "threads cannot be started".to_owned())?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Where to spawn.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers the priority of the calling thread, where that can be said of one thread.
fn step_back(niceness: i32) {
    #[cfg(target_os = "linux")]
    if niceness > 0 {
        // SAFETY: `setpriority(2)` takes numbers only; 0 is the calling thread. That it may fail is no harm.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = niceness;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(running: usize, waiting: usize, timeout_ms: u64) -> QueryEngine {
        let timeout = Duration::from_millis(timeout_ms);
        QueryEngine::start(QueryLimits { running, waiting, timeout, ..QueryLimits::default() }).unwrap()
    }

    #[tokio::test]
    async fn beyond_the_places_queries_wait_and_beyond_the_queue_they_are_refused() {
        let engine = Arc::new(engine(1, 1, 10_000));
        let first = engine.place(Client::default()).await.unwrap();
        let other = Arc::clone(&engine);
        let second = tokio::spawn(async move { other.place(Client::default()).await });
        while engine.running.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let refused = engine.place(Client::default()).await.unwrap_err();
        assert_eq!(refused.state(), SqlState::TOO_MANY);
        drop(first);
        second.await.unwrap().unwrap();
        engine.place(Client::default()).await.unwrap();
    }

    #[tokio::test]
    async fn planning_has_a_deep_stack_and_a_time_limit() {
        fn deep(levels: usize) -> usize {
            let frame = std::hint::black_box([levels; 128]);
            if levels == 0 { frame[0] } else { 1 + deep(levels - 1) + std::hint::black_box(frame)[0] - levels }
        }
        let engine = engine(1, 0, 3_000);
        assert_eq!(engine.plan(Client::default(), async { Ok(deep(20_000)) }).await.unwrap(), 20_000);
        let error = engine.plan(Client::default(), std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(error.state(), SqlState::CANCELLED);
        let error = engine.plan::<()>(Client::default(), async { panic!("of this test") }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
    }

    #[tokio::test]
    async fn planning_that_nobody_waits_for_ends_and_frees_its_place() {
        let engine = engine(1, 1_000, 60_000);
        for _ in 0..20 {
            let planning = engine.plan(Client::default(), std::future::pending::<Result<()>>());
            assert!(tokio::time::timeout(Duration::from_millis(5), planning).await.is_err());
        }
        engine.plan(Client::default(), async { Ok(()) }).await.unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn queries_step_back() {
        let niceness = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            stat[stat.rfind(')').unwrap()..].split(' ').nth(17).unwrap().parse::<i32>().unwrap()
        };
        let before = niceness();
        let engine = engine(1, 1, 10_000);
        assert_eq!(engine.handle().spawn(async move { niceness() }).await.unwrap(), QUERY_NICENESS.max(before));
        assert_eq!(
            engine.plan(Client::default(), async move { Ok(niceness()) }).await.unwrap(),
            QUERY_NICENESS.max(before)
        );
        assert_eq!(niceness(), before);
    }
}
