//! The shutdown signal: set once by a signal handler, awaited by every task.

use tokio_util::sync::CancellationToken;

/// A switch that goes from "run" to "stop" and stays there; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// Asks every listener to finish its work and end.
    pub fn now(&self) {
        self.0.cancel();
    }

    /// True once stopping was asked for.
    pub fn is_set(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until stopping is asked for.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }
}
