//! Where log lines go: standard error, as text or as one JSON object a line. Logging never waits for whoever reads it (see
//! [`crate::output`]).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::output::{Patience, Printer};

/// How long a thread that panics waits until the log has it: it may be the last that the process does.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Starts logging to `log`; `level` is a level or a filter in `RUST_LOG`'s syntax. A second call does nothing.
pub fn start(json: bool, level: &str, log: &Printer) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    // Noise that says nothing to the person who runs a pipeline.
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
    // A subscriber that is already set (tests) stays.
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

/// Each write is one event.
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

/// Logs a panic: printed by the standard library it would wait for the reader.
fn on_panic(panic: &PanicHookInfo<'_>) {
    let current = thread::current();
    let thread = current.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!("a defect in weir, please report it: thread `{thread}` {panic}\n{backtrace}");
    } else {
        tracing::error!("a defect in weir, please report it: thread `{thread}` {panic}");
    }
}
