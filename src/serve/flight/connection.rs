//! Connections: how many there may be, and what every answer carries.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::transport::server::{Connected, TlsConnectInfo};
use tonic::{Code, Request, Status};

use crate::error::{Error, SqlState};
use crate::serve::failure::{SQLSTATE, state_of_code, status};

/// Connections beyond the limit that are told so; the others are closed at once.
const TOLD: usize = 64;
/// Between two attempts to accept, when there are no more files to be had.
const PAUSE: Duration = Duration::from_millis(50);

/// The connections that `listener` accepts: `limit` of them at a time, a few more to be refused in words.
pub fn accepted(listener: TcpListener, limit: usize) -> impl Stream<Item = io::Result<Connection>> + Send {
    let places = (Arc::new(Semaphore::new(limit)), Arc::new(Semaphore::new(TOLD)));
    stream::unfold((listener, places), async |(listener, places)| {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let place = Arc::clone(&places.0).try_acquire_owned().map(|place| (place, Admission::Admitted));
            let place =
                place.or_else(|_| Arc::clone(&places.1).try_acquire_owned().map(|place| (place, Admission::Refused)));
            let Ok((place, admission)) = place else { continue };
            // Without it answers wait for acknowledgements; with an error the connection is dead anyway.
            let _ = stream.set_nodelay(true);
            return Some((Ok(Connection { stream, admission, _place: place }), (listener, places)));
        }
    })
}

/// Whether a connection may ask anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Admitted,
    /// One of too many.
    Refused,
}

impl Admission {
    /// Errors: the request comes from one connection too many.
    pub fn check<T>(request: &Request<T>) -> Result<(), Status> {
        let plain = request.extensions().get::<Self>();
        let encrypted = request.extensions().get::<TlsConnectInfo<Self>>().map(TlsConnectInfo::get_ref);
        if plain.or(encrypted) != Some(&Self::Refused) {
            return Ok(());
        }
        let error = Error::environment("server has too many connections").with_state(SqlState::TOO_MANY);
        Err(status(&error.with_hint("Close some, or raise `flight.max_connections`.")))
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    admission: Admission,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Admission;

    fn connect_info(&self) -> Admission {
        self.admission
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A service whose every refusal carries a SQLSTATE, those of the transport too.
#[derive(Debug, Clone)]
pub struct Stated<S>(pub S);

impl<S: NamedService> NamedService for Stated<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<http::Request<B>> for Stated<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            let headers = answer.headers_mut();
            let code = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
            if let Some(code) = code.filter(|code| *code != Code::Ok)
                && !headers.contains_key(SQLSTATE)
            {
                headers.insert(SQLSTATE, http::HeaderValue::from_static(state_of_code(code).code()));
            }
            Ok(answer)
        })
    }
}

/// The same for a status.
pub fn stated(mut status: Status) -> Status {
    if status.metadata().get(SQLSTATE).is_none() {
        let state = state_of_code(status.code());
        status.metadata_mut().insert(SQLSTATE, MetadataValue::from_static(state.code()));
    }
    status
}
