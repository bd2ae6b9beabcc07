//! The wish to stop: said once by a signal handler, heard by every task.

use tokio::sync::watch;

/// A switch that goes from "run" to "stop" and stays there; clones share it.
#[derive(Debug, Clone)]
pub struct Stop {
    sender: watch::Sender<bool>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { sender: watch::Sender::new(false) }
    }
}

impl Stop {
    /// Asks everything that listens to finish what it holds and end.
    pub fn now(&self) {
        self.sender.send_replace(true);
    }

    /// True once stopping was asked for.
    pub fn is_set(&self) -> bool {
        *self.sender.borrow()
    }

    /// Waits until stopping is asked for.
    pub async fn wait(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives in `self`, so waiting cannot fail while this runs.
        let _ = receiver.wait_for(|stop| *stop).await;
    }
}
