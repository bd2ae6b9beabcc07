//! Work that no row waits for, on threads of low priority.
//!
//! State is written once an epoch, and its files are merged now and then. On the threads that carry rows, or beside them at
//! the same priority, that would delay rows at those moments; so the work has a thread of its own for as long as it runs, at
//! a lower priority. The runtime that started it drives its I/O and the tasks it waits for.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::error::{Error, Result};

/// Work in progress.
#[derive(Debug)]
pub struct Background<T> {
    result: oneshot::Receiver<T>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts `work`, which should do everything itself instead of spawning tasks. Must be called within a runtime; when the
    /// runtime ends, so does the work.
    ///
    /// Errors: no thread can be started.
    pub fn start(name: &str, work: impl Future<Output = T> + Send + 'static) -> Result<Self> {
        let (sender, result) = oneshot::channel();
        let runtime = Handle::current();
        let run = move || {
            step_back();
            // The receiver may be gone.
            let _ = sender.send(runtime.block_on(work));
        };
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        started.map_err(|error| Error::environment("a background thread cannot be started").with_source(error))?;
        Ok(Self { result })
    }

    /// Waits for the result. Errors: the work ended abnormally.
    pub async fn result(self) -> Result<T> {
        self.result.await.map_err(|error| Error::internal("background work ended abnormally").with_source(error))
    }

    /// The result, once; `None` until it is available. Errors: the work ended abnormally.
    pub fn finished(&mut self) -> Option<Result<T>> {
        match self.result.try_recv() {
            Ok(result) => Some(Ok(result)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Err(Error::internal("background work ended abnormally"))),
        }
    }
}

/// Lowers the priority of the calling thread, where the system can do so for one thread: to about a tenth of the processor
/// time that a competing thread gets. It still gets some, since files that are never merged would become too many.
fn step_back() {
    #[cfg(target_os = "linux")]
    {
        use std::ffi::{c_int, c_uint};

        const PRIO_PROCESS: c_int = 0;
        const CALLING_THREAD: c_uint = 0;
        const NICENESS: c_int = 10;
        // From the C library that the standard library links.
        unsafe extern "C" {
            fn setpriority(which: c_int, who: c_uint, priority: c_int) -> c_int;
        }
        // SAFETY: the signature is that of `setpriority(2)`, which takes numbers only. A failure is harmless.
        unsafe { setpriority(PRIO_PROCESS, CALLING_THREAD, NICENESS) };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_beside_the_runtime_and_gives_its_result_once() {
        let (go, wait) = oneshot::channel::<u32>();
        let mut work = Background::start("test", async { wait.await.unwrap() + 1 }).unwrap();
        assert!(work.finished().is_none());
        go.send(6).unwrap();
        let found = loop {
            match work.finished() {
                Some(found) => break found,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        assert_eq!(found.unwrap(), 7);
        assert_eq!(Background::start("test", async { 1 }).unwrap().result().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_nothing_else() {
        let start = || Background::<u32>::start("test", async { panic!("of this test") }).unwrap();
        let error = start().result().await.unwrap_err();
        assert!(error.message().contains("background work ended abnormally"), "{error}");
        let mut work = start();
        let found = loop {
            match work.finished() {
                Some(found) => break found,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        assert!(found.is_err());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn only_its_own_thread_steps_back() {
        // The 19th value of a thread's `stat` is its niceness; its name may hold spaces, so they are counted after it.
        let niceness = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            stat[stat.rfind(')').unwrap()..].split(' ').nth(17).unwrap().parse::<i32>().unwrap()
        };
        let before = niceness();
        let inside = Background::start("test", async move { niceness() }).unwrap().result().await.unwrap();
        assert_eq!(niceness(), before);
        // If the tests run at a still lower priority, it cannot be raised again.
        assert!(inside == 10 || before > 10, "niceness {inside} after {before}");
    }
}
