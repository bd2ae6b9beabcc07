//! Connections: their limit, and the SQLSTATE in every answer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::transport::server::{Connected, TlsConnectInfo};
use tonic::{Code, Request, Status};

use crate::error::{Error, SqlState};
use crate::serve::failure::{SQLSTATE, state_of_code, status};
use crate::serve::gate::{Client, Gate, Place};

/// Connections beyond the limit that are answered with an error; further ones are closed at once.
const TOLD: usize = 64;
/// The pause after a failed accept, for example when no file descriptors are left.
const PAUSE: Duration = Duration::from_millis(50);

/// The connections that `listener` accepts: `limit` at a time, and a few more that are refused with an error.
pub fn accepted(listener: TcpListener, limit: usize) -> impl Stream<Item = io::Result<Connection>> + Send {
    let gates = (Gate::new(limit, 0), Gate::new(TOLD, 0));
    stream::unfold((listener, gates), async |(listener, gates)| {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let client = Client::at(peer);
            let place = gates.0.try_enter(client).map(|place| (place, Admission::Admitted));
            let place = place.or_else(|| Some((gates.1.try_enter(client)?, Admission::Refused)));
            let Some((place, admission)) = place else { continue };
            // Without it, answers would wait for acknowledgements; if it fails, the connection is dead anyway.
            let _ = stream.set_nodelay(true);
            let peer = Peer { client, admission };
            return Some((Ok(Connection { stream, peer, _place: place }), (listener, gates)));
        }
    })
}

/// Permission of a connection to send requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Admitted,
    /// Above the limit.
    Refused,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    client: Client,
    admission: Admission,
}

impl Peer {
    fn of<T>(request: &Request<T>) -> Option<&Self> {
        let plain = request.extensions().get::<Self>();
        plain.or_else(|| request.extensions().get::<TlsConnectInfo<Self>>().map(TlsConnectInfo::get_ref))
    }

    /// The client that sent the request.
    pub fn client<T>(request: &Request<T>) -> Client {
        Self::of(request).map(|peer| peer.client).unwrap_or_default()
    }

    /// Errors: the request comes from a connection above the limit.
    pub fn check<T>(request: &Request<T>) -> Result<(), Status> {
        if Self::of(request).is_none_or(|peer| peer.admission == Admission::Admitted) {
            return Ok(());
        }
        let error = Error::environment("server has too many connections").with_state(SqlState::TOO_MANY);
        Err(status(&error.with_hint("Close some, or raise `flight.max_connections`.")))
    }
}

/// A connection that counts towards the limit.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: Peer,
    _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
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

/// A service whose every refusal carries a SQLSTATE, including those of the transport.
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

/// Adds a SQLSTATE to a status that has none.
pub fn stated(mut status: Status) -> Status {
    if status.metadata().get(SQLSTATE).is_none() {
        let state = state_of_code(status.code());
        status.metadata_mut().insert(SQLSTATE, MetadataValue::from_static(state.code()));
    }
    status
}
