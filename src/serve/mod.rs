//! Arrow Flight SQL and HTTP over the warehouse.
//!
//! Owns reading: names to tables at their newest version ([`warehouse`]), the Flight SQL protocol ([`flight`]), metrics,
//! health, progress and the dashboard ([`http`]). Promises never to write: statements that could write are refused before
//! they are planned. Leaves pipelines to `epoch` and the meaning of a Delta log to `delta`.

pub(crate) mod brake;
pub mod engine;
pub(crate) mod failure;
pub mod flight;
mod gate;
pub mod http;
mod interrupt;
pub mod warehouse;
mod wide;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Context, ErrorKind, Result};

/// The time that streams may continue after a shutdown was requested.
const GRACE: Duration = Duration::from_secs(5);

/// Chooses the cryptography of TLS for this process. Dependencies bring two providers, and rustls chooses neither by itself.
pub fn choose_cryptography() {
    // An error means that a provider is installed already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A listening server.
#[derive(Debug)]
pub struct BoundServer {
    /// The address at which it listens, with the actual port if `0` was requested.
    pub addr: SocketAddr,
    /// Ends when the shutdown future has completed and the running requests are done, at most five seconds later.
    pub task: JoinHandle<Result<()>>,
}

/// Binds `addr`; errors name it.
async fn bind(addr: SocketAddr, what: &str) -> Result<(tokio::net::TcpListener, SocketAddr)> {
    let listener = tokio::net::TcpListener::bind(addr)
        .await
        .context(ErrorKind::Environment, || format!("{what} cannot listen at `{addr}`"))?;
    let addr = listener.local_addr().context(ErrorKind::Environment, || "bound address is unknown".to_owned())?;
    Ok((listener, addr))
}

/// Runs `serve` until it ends, or for [`GRACE`] after `shutdown` completes. `serve` gets the shutdown signal.
async fn serve_until<S, F, R>(shutdown: impl Future<Output = ()> + Send + 'static, serve: S) -> Result<()>
where
    S: FnOnce(Signal) -> F,
    F: Future<Output = Result<(), R>>,
    R: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (sender, receiver) = watch::channel(false);
    let running = serve(Signal(receiver));
    let grace = async {
        shutdown.await;
        sender.send_replace(true);
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = running => ended.map_err(Into::into).context(ErrorKind::Environment, || "server stopped".to_owned()),
        () = grace => Ok(()),
    }
}

/// Completes when the server should accept no more requests.
struct Signal(watch::Receiver<bool>);

impl Signal {
    async fn wait(mut self) {
        // An error means that the sender is gone, which is also a reason to stop.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
