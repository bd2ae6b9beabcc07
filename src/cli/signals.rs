//! Ctrl-C and SIGTERM: the first asks for a clean end, the second ends at once, and so does the time that a clean end may take.
//!
//! They are listened to by a thread of their own, so that nothing that the engine does, and nobody who does not read what it prints, can
//! be in their way. An end at once is as safe as a crash: the next run commits what was half committed and reads the rest again.

use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::epoch::Stop;
use crate::error::{Context, Error, Result};
use crate::output::{Patience, Printer};

/// The exit code of a program that was interrupted twice.
const INTERRUPTED: i32 = 130;

/// How long a clean end may take; with what starts and ends around it the process is gone within 5 s.
const CLEAN_END: Duration = Duration::from_secs(4);

/// How long the last line of the log is waited for.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Until [`listen`] does more, lets the first signal end the process with 0 at once: it has begun nothing.
pub fn end_early() {
    extern "C" fn end(_signal: libc::c_int) {
        exit(0)
    }
    handle(end as extern "C" fn(libc::c_int) as libc::sighandler_t);
}

/// Undoes [`end_early`]: a signal ends the process as it does any other.
pub fn end_as_usual() {
    handle(libc::SIG_DFL);
}

fn handle(handler: libc::sighandler_t) {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler is the default one, or a function that calls nothing but `_exit`, which is allowed in it.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Sets `stop` at the first signal and ends the process at the second, or when a clean end has not come in time.
pub fn listen(stop: Stop, log: Printer) -> Result<()> {
    let failed = || "signals cannot be listened to".to_owned();
    let runtime = Builder::new_current_thread().enable_all().build().environment(failed)?;
    // A handler that is there would be called by the new one, too.
    end_as_usual();
    let mut signals = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).environment(failed);
        Signals { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    let started = thread.spawn(move || {
        let (code, why) = runtime.block_on(signals.end(&stop));
        tracing::warn!("{why}; the next run finishes or reads again what was open");
        log.drain(Patience::AtMost(LAST_WORDS));
        exit(code);
    });
    started.map(|_| ()).map_err(|error| Error::environment(failed()).with_source(error))
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Waits until the process has to end at once; gives its exit code and why.
    async fn end(&mut self, stop: &Stop) -> (i32, &'static str) {
        self.next().await;
        if !stop.is_set() {
            tracing::info!("stopping: the open epoch is committed first; signal again to end at once");
            stop.now();
            tokio::select! {
                () = self.next() => {}
                () = tokio::time::sleep(CLEAN_END) => return (0, "a clean end took too long: stopped as it was"),
            }
        }
        (INTERRUPTED, "stopped at once, without committing")
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Ends the process without what usually comes before: handlers and buffers may wait for threads that do not end.
fn exit(code: i32) -> ! {
    // SAFETY: takes a number and does not return; nothing of the process is used after it.
    unsafe { libc::_exit(code) }
}
