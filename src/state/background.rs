//! Work that no row waits for, on threads that step back for all others.
//!
//! State is written once an epoch, and its files are merged now and then. On the threads that carry rows, or beside them at the same
//! priority, that would make rows wait exactly then; so it has a thread of its own for as long as it runs, which steps back when
//! others want the processor. What it waits for (files, other tasks) is left to the runtime that began it.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::error::{Error, Result};

/// Work under way.
#[derive(Debug)]
pub struct Background<T> {
    result: oneshot::Receiver<T>,
}

impl<T: Send + 'static> Background<T> {
    /// Begins `work`, which should do everything itself instead of spawning tasks. Only within a runtime; its end ends the work.
    ///
    /// Errors: no thread can be started.
    pub fn start(name: &str, work: impl Future<Output = T> + Send + 'static) -> Result<Self> {
        let (sender, result) = oneshot::channel();
        let runtime = Handle::current();
        let run = move || {
            step_back();
            // Nobody may be listening any more.
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

    /// The result, once: `None` while there is none yet. Errors: the work ended abnormally.
    pub fn finished(&mut self) -> Option<Result<T>> {
        match self.result.try_recv() {
            Ok(result) => Some(Ok(result)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Err(Error::internal("background work ended abnormally"))),
        }
    }
}

/// Lowers the priority of the calling thread, where that can be said of one thread: to about a tenth of what others get when they want
/// the processor, too. It is not nothing, since files that are never merged become too many.
fn step_back() {
    #[cfg(target_os = "linux")]
    {
        use std::ffi::{c_int, c_uint};

        const PRIO_PROCESS: c_int = 0;
        const CALLING_THREAD: c_uint = 0;
        const NICENESS: c_int = 10;
        // Of the C library that the standard library links.
        unsafe extern "C" {
            fn setpriority(which: c_int, who: c_uint, priority: c_int) -> c_int;
        }
        // SAFETY: the signature is that of `setpriority(2)`, which takes numbers only. That it may fail is no harm.
        unsafe { setpriority(PRIO_PROCESS, CALLING_THREAD, NICENESS) };
    }
}
