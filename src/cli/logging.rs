//! Where log lines go: standard error, as text or as one JSON object a line.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging; `level` is a level or a filter in `RUST_LOG`'s syntax. A second call does nothing.
pub fn start(json: bool, level: &str) {
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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A subscriber that is already set (tests) stays.
    let _ = if json {
        builder.json().flatten_event(true).with_target(false).try_init()
    } else {
        builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).compact().try_init()
    };
}
