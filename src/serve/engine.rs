//! Plans and runs queries on threads of their own, at low priority, so that no query takes a pipeline's processor time.
//!
//! Each planning has its own thread, whose stack is large enough for the deepest statement that `sql::limits` allows. A
//! client waits at most [`PLANNING_TIMEOUT`] for it, and it ends at its next step once nobody waits. Queries share a
//! runtime. Both are admitted by a [`Gate`]: limited numbers run and wait, the rest are refused. An admitted client keeps
//! its place until its work has really ended.

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

/// Limits on the number and duration of queries.
#[derive(Debug, Clone)]
pub struct QueryLimits {
    /// Queries that run at a time.
    pub running: usize,
    /// Queries, and plannings, that wait for a place.
    pub waiting: usize,
    /// The time from a query's request to its last row.
    pub timeout: Duration,
    /// The time that a client may leave ready rows unread.
    pub idle_timeout: Duration,
    /// Connections of a server at a time.
    pub connections: usize,
    /// Resident bytes of the process at which queries are ended, the largest first; `None` = no limit.
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

/// The threads of queries. Dropping it abandons queries that still compute.
#[derive(Debug)]
pub struct QueryEngine {
    runtime: OwnRuntime,
    planning: Gate,
    running: Gate,
    brake: Brake,
    limits: QueryLimits,
    /// Plannings that nobody waits for but that have not ended.
    abandoned: Arc<AtomicUsize>,
}

impl QueryEngine {
    /// Starts the threads. Errors: they cannot be started.
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

    /// The engine's limits.
    pub fn limits(&self) -> &QueryLimits {
        &self.limits
    }

    /// A place for a query to run. Errors: none comes free in time, or too many wait.
    pub async fn place(&self, client: Client) -> Result<Place> {
        let entered = self.running.enter(client, "queries");
        tokio::time::timeout(self.limits.timeout, entered).await.map_err(|_| out_of_time())?
    }

    /// Runs `planning` on its own thread. When this future is dropped, planning ends at its next step.
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
                    // The receiver may be gone.
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

    /// The runtime on which queries run.
    pub fn handle(&self) -> Handle {
        self.runtime.handle()
    }
}

/// The place of a planning, held by its thread.
#[derive(Clone)]
struct Held {
    place: Arc<Mutex<Option<Place>>>,
    abandoned: Arc<AtomicUsize>,
}

impl Held {
    /// Called when the thread has ended: frees the place, unless it was given up before.
    fn end(&self) {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        if place.is_none() {
            self.abandoned.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Called when nobody waits any more. A few plannings may continue without a place, at low priority, so that others are
    /// planned.
    fn abandon(&self) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_some() && self.abandoned.load(Ordering::Relaxed) < MAX_ABANDONED {
            self.abandoned.fetch_add(1, Ordering::Relaxed);
            drop(place.take());
        }
    }
}

/// Frees the place when the thread ends, even by a panic.
struct Working(Held);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Gives the place up if it is dropped before the thread has ended.
struct Unwaited(Held);

impl Drop for Unwaited {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The maximum number of plannings that continue without a place.
const MAX_ABANDONED: usize = 8;

/// The error of a query that took too long.
pub fn out_of_time() -> Error {
    Error::environment("query took longer than `flight.query_timeout`")
        .with_state(SqlState::CANCELLED)
        .with_hint("Read fewer rows, write the result to a table by a pipeline, or raise `flight.query_timeout`.")
}

/// Under contention, a thread of niceness 15 gets about a thirtieth of the processor time of one at 0.
const QUERY_NICENESS: i32 = 15;

/// A runtime beside the process's main one. Dropping it abandons tasks that do not yield.
#[derive(Debug)]
pub struct OwnRuntime {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl OwnRuntime {
    /// A runtime with `threads` threads of this name and niceness (0 = normal, 19 = lowest priority).
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

    /// A handle for spawning tasks.
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

/// Lowers the priority of the calling thread, if the system supports that for single threads.
fn step_back(niceness: i32) {
    #[cfg(target_os = "linux")]
    if niceness > 0 {
        // SAFETY: `setpriority(2)` takes numbers only; 0 is the calling thread. A failure is harmless.
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
