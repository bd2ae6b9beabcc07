//! The last bound on memory: when the process exceeds its limit, queries are ended, the largest first.
//!
//! Queries reserve memory, but DataFusion does not reserve everything that it holds: the states of groups that spilled and
//! are read again, a batch between two operators. So the process's memory is watched too. Queries end with SQLSTATE 53200,
//! one at a time, until the process is below its limit; small queries beside a large one continue.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::error::{Context, Error, ErrorKind, Result, SqlState};
use crate::memory::counted::HeldBytes;

/// Intervals at which the process's memory is checked, while queries run and while none does.
const BUSY: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_millis(100);
/// The longest wait for memory to be freed before another query ends; shorter if memory grows by this much meanwhile.
const AFTERWARDS: Duration = Duration::from_millis(500);
const GROWTH_BYTES: u64 = 32 << 20;

/// Ends queries. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Brake {
    running: Arc<Mutex<Vec<Weak<Braked>>>>,
}

/// A query that the brake can end while this value lives.
#[derive(Debug)]
pub struct Braked {
    held: HeldBytes,
    end: CancellationToken,
}

impl Braked {
    /// Completes when the query has to end.
    pub fn pulled(&self) -> WaitForCancellationFutureOwned {
        self.end.clone().cancelled_owned()
    }
}

impl Brake {
    /// Registers a query whose reserved bytes are in `held`.
    pub fn enter(&self, held: HeldBytes) -> Arc<Braked> {
        let braked = Arc::new(Braked { held, end: CancellationToken::new() });
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&braked));
        braked
    }

    /// Ends the query that has reserved most, of those not ended yet; returns its reserved bytes.
    fn pull(running: &Mutex<Vec<Weak<Braked>>>) -> Option<usize> {
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|query| query.strong_count() > 0);
        let queries = running.iter().filter_map(Weak::upgrade).filter(|query| !query.end.is_cancelled());
        let largest = queries.max_by_key(|query| query.held.get())?;
        largest.end.cancel();
        Some(largest.held.get())
    }

    /// Checks the process's resident memory periodically, more often while `is_busy`, and ends queries above `limit_bytes`.
    /// Stops with the last clone.
    ///
    /// Errors: the thread cannot be started.
    pub fn watch(&self, limit_bytes: u64, is_busy: impl Fn() -> bool + Send + 'static) -> Result<()> {
        let running = Arc::downgrade(&self.running);
        let watch = move || {
            while let Some(running) = running.upgrade() {
                let is_busy = is_busy();
                let exceeded = resident_bytes().filter(|bytes| is_busy && *bytes > limit_bytes);
                let ended = exceeded.and_then(|bytes| Some((bytes, Self::pull(&running)?)));
                drop(running);
                match ended {
                    Some((bytes, held)) => {
                        tracing::warn!(limit_bytes, bytes, held, "memory limit exceeded: the largest query ends");
                        settle(bytes, limit_bytes);
                    }
                    None => std::thread::sleep(if is_busy { BUSY } else { IDLE }),
                }
            }
        };
        std::thread::Builder::new()
            .name("weir-brake".to_owned())
            .spawn(watch)
            .context(ErrorKind::Environment, || "no thread can be started to watch memory".to_owned())?;
        Ok(())
    }
}

/// Waits for memory to be freed.
fn settle(before: u64, limit_bytes: u64) {
    let began = Instant::now();
    while began.elapsed() < AFTERWARDS {
        std::thread::sleep(BUSY);
        match resident_bytes() {
            Some(bytes) if bytes <= limit_bytes || bytes > before + GROWTH_BYTES => return,
            _ => {}
        }
    }
}

/// The error of a query that was ended.
pub fn exceeded() -> Error {
    Error::environment("memory limit reached")
        .with_state(SqlState::OUT_OF_MEMORY)
        .with_detail("The process has grown beyond `memory_limit`, and this query held most of what queries hold.")
        .with_hint("Read fewer rows or columns at a time, or raise `memory_limit` in the configuration.")
}

/// Resident memory of this process; `None` if it is unknown.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};

    use super::*;
    use crate::memory::QueryMemory;
    use crate::memory::counted::CountedPool;

    async fn is_pulled(query: &Braked) -> bool {
        tokio::time::timeout(Duration::from_millis(10), query.pulled()).await.is_ok()
    }

    #[tokio::test]
    async fn the_largest_query_ends_first_and_small_ones_go_on() {
        let (brake, pool) = (Brake::default(), Arc::new(QueryMemory::new(1 << 20)));
        let query = |bytes: usize| {
            let held = HeldBytes::default();
            let counted: Arc<dyn MemoryPool> =
                Arc::new(CountedPool::new(Arc::clone(&pool) as Arc<dyn MemoryPool>, held.clone()));
            let reserved = MemoryConsumer::new("rows").register(&counted);
            reserved.try_grow(bytes).unwrap();
            (brake.enter(held), reserved)
        };
        let (small, large, larger) = (query(10), query(1_000), query(2_000));
        assert_eq!(Brake::pull(&brake.running), Some(2_000));
        assert_eq!((is_pulled(&larger.0).await, is_pulled(&large.0).await), (true, false));
        // A query that is ending is not ended again.
        assert_eq!(Brake::pull(&brake.running), Some(1_000));
        assert_eq!((is_pulled(&large.0).await, is_pulled(&small.0).await), (true, false));
        drop((large, larger));
        let later = query(20);
        assert_eq!(Brake::pull(&brake.running), Some(20));
        assert_eq!((is_pulled(&later.0).await, is_pulled(&small.0).await), (true, false));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_process_that_is_too_large_is_seen_while_queries_run() {
        let brake = Brake::default();
        let query = brake.enter(HeldBytes::default());
        brake.watch(1, || true).unwrap();
        query.pulled().await;
        let idle = Brake::default();
        let query = idle.enter(HeldBytes::default());
        idle.watch(1, || false).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(300), query.pulled()).await.is_err());
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
