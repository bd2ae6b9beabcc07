//! The log: lines on standard error, as text or as JSON objects. Logging never waits for the reader (see [`crate::output`]).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::output::{Patience, Printer};

/// The longest time that a panicking thread waits until the log is written: the process may end right after.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Starts logging to `log`; `level` is a level or a filter in `RUST_LOG`'s syntax. A second call does nothing.
pub fn start(json: bool, level: &str, log: &Printer) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    // Messages that tell the user of a pipeline nothing.
    let quiet = [
        "deltalake=error",
        "deltalake_core=error",
        "buoyant_kernel=error",
        "delta_kernel=error",
        "datafusion=warn",
        "h2=warn",
        "hyper=warn",
    ];
    let filter = quiet.iter().filter_map(|rule| rule.parse().ok()).fold(filter, EnvFilter::add_directive);
    let lines = log.clone();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || Lines(lines.clone()));
    // Keeps a subscriber that is already set (in tests).
    let started = if json {
        builder.json().flatten_event(true).with_target(false).try_init()
    } else {
        builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).compact().try_init()
    };
    if started.is_ok() {
        let log = log.clone();
        std::panic::set_hook(Box::new(move |panic| {
            on_panic(panic);
            log.drain(Patience::AtMost(LAST_WORDS));
        }));
    }
}

/// Messages with which the kernel's readers panic when the runtime ends under them.
const KERNEL_TASK_GONE: &str = "TokioMultiThreadExecutor has crashed";

/// A writer whose every write is one event.
struct Lines(Printer);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.print(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Logs a panic. The standard library would print it and wait for the reader.
fn on_panic(panic: &PanicHookInfo<'_>) {
    // A reader of Delta's kernel that waits for a task which ended with the process, or which has logged its own panic.
    if panic.payload().downcast_ref::<String>().is_some_and(|text| text.contains(KERNEL_TASK_GONE)) {
        tracing::debug!("a task of a table's reader has ended: {panic}");
        return;
    }
    let current = thread::current();
    let thread = current.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!("a defect in weir, please report it: thread `{thread}` {panic}\n{backtrace}");
    } else {
        tracing::error!("a defect in weir, please report it: thread `{thread}` {panic}");
    }
}
