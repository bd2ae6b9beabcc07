//! Ctrl-C and SIGTERM: the first asks for a clean end, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};

use crate::epoch::Stop;
use crate::error::{Context, Result};

/// The exit code of a program that was interrupted twice.
const INTERRUPTED: i32 = 130;

/// Sets `stop` at the first signal and ends the process at the second.
pub fn listen(stop: Stop) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).environment(|| "signals cannot be listened to".to_owned())?;
    let mut terminate = signal(SignalKind::terminate()).environment(|| "signals cannot be listened to".to_owned())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stop.is_set() {
                eprintln!("stopped without committing; the next run reads the open epoch again");
                std::process::exit(INTERRUPTED);
            }
            tracing::info!("stopping: the open epoch is committed first; signal again to end at once");
            stop.now();
        }
    });
    Ok(())
}
