//! The last bound on memory: when the process has grown beyond what it may have, its queries end.
//!
//! Queries reserve what they hold, but not everything that DataFusion holds is reserved: the states of groups that spilled and are read
//! again, a batch between two operators. Which query holds it nobody knows, so all that run end, with SQLSTATE 53200.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::error::{Context, Error, ErrorKind, Result, SqlState};

/// Between two looks at the process's memory while queries run, and while none does.
const BUSY: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_millis(100);
/// For memory to be given back before it is looked at again.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// Ends queries. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Brake {
    running: Arc<Mutex<CancellationToken>>,
}

impl Brake {
    /// Completes when the queries that run now shall end.
    pub fn pulled(&self) -> WaitForCancellationFutureOwned {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone().cancelled_owned()
    }

    fn pull(running: &Mutex<CancellationToken>) {
        let before = std::mem::take(&mut *running.lock().unwrap_or_else(PoisonError::into_inner));
        before.cancel();
    }

    /// Looks at the process's resident memory, as often as `is_busy` makes worth it, and pulls at `limit_bytes`. Ends with the last clone.
    ///
    /// Errors: there can be no more threads.
    pub fn watch(&self, limit_bytes: u64, is_busy: impl Fn() -> bool + Send + 'static) -> Result<()> {
        let running: Weak<Mutex<CancellationToken>> = Arc::downgrade(&self.running);
        let watch = move || {
            while let Some(running) = running.upgrade() {
                let is_busy = is_busy();
                let is_exceeded = is_busy && resident_bytes().is_some_and(|bytes| bytes > limit_bytes);
                if is_exceeded {
                    tracing::warn!(limit_bytes, "memory limit exceeded: all queries end");
                    Self::pull(&running);
                }
                drop(running);
                std::thread::sleep(match (is_exceeded, is_busy) {
                    (true, _) => AFTERWARDS,
                    (false, true) => BUSY,
                    (false, false) => IDLE,
                });
            }
        };
        std::thread::Builder::new()
            .name("weir-brake".to_owned())
            .spawn(watch)
            .context(ErrorKind::Environment, || "no thread can be started to watch memory".to_owned())?;
        Ok(())
    }
}

/// The error of queries that were ended.
pub fn exceeded() -> Error {
    Error::environment("memory limit reached")
        .with_state(SqlState::OUT_OF_MEMORY)
        .with_detail("The process has grown beyond `memory_limit`, so all queries that ran were ended.")
        .with_hint("Ask again; if it is this query, read fewer rows or columns at a time, or raise `memory_limit`.")
}

/// Resident memory of this process; `None` where it cannot be known.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn queries_end_when_there_is_too_much_and_later_ones_do_not() {
        let brake = Brake::default();
        let (first, second) = (brake.pulled(), brake.pulled());
        Brake::pull(&brake.running);
        first.await;
        second.await;
        let later = brake.pulled();
        assert!(tokio::time::timeout(Duration::from_millis(10), later).await.is_err());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_process_that_is_too_large_is_seen_while_queries_run() {
        let brake = Brake::default();
        let pulled = brake.pulled();
        brake.watch(1, || true).unwrap();
        pulled.await;
        let idle = Brake::default();
        let pulled = idle.pulled();
        idle.watch(1, || false).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(300), pulled).await.is_err());
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
