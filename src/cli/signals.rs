//! Ctrl-C and SIGTERM: the first starts a clean end; a second ends the process at once, as does the time limit of a clean
//! end.
//!
//! A separate thread listens for them, so that neither a busy engine nor output that nobody reads can delay them. An
//! immediate end is as safe as a crash: the next run completes a half-done commit and reads the rest again.

use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::epoch::Stop;
use crate::error::{Context, Error, Result};
use crate::output::{Patience, Printer};

/// The exit code after a second signal.
const INTERRUPTED: i32 = 130;

/// The time limit for a clean end; with starting and ending around it, the process ends within 5 s.
const CLEAN_END: Duration = Duration::from_secs(4);

/// The time limit for writing the last line of the log.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Until [`listen`] takes over, lets the first signal end the process at once with code 0: it has begun nothing.
pub fn end_early() {
    extern "C" fn end(_signal: libc::c_int) {
        exit(0)
    }
    handle(end as extern "C" fn(libc::c_int) as libc::sighandler_t);
}

/// Undoes [`end_early`]: a signal has its default effect again.
pub fn end_as_usual() {
    handle(libc::SIG_DFL);
}

fn handle(handler: libc::sighandler_t) {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler is the default one, or a function that calls only `_exit`, which is async-signal-safe.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Sets `stop` at the first signal; ends the process at the second, or if a clean end takes too long.
pub fn listen(stop: Stop, log: Printer) -> Result<()> {
    let failed = || "signals cannot be listened to".to_owned();
    let runtime = Builder::new_current_thread().enable_all().build().environment(failed)?;
    // The new handler would also call an existing one.
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
    /// Waits until the process has to end at once; returns its exit code and the reason.
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

/// Ends the process without exit handlers or flushing buffers, which may wait for threads that do not end.
fn exit(code: i32) -> ! {
    // SAFETY: takes a number and does not return; nothing of the process is used afterwards.
    unsafe { libc::_exit(code) }
}
