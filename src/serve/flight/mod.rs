//! The Flight SQL server.
//!
//! Owns the socket, encryption and login, and the two plain Flight calls that `arrow-flight`'s Flight SQL layer leaves out
//! (GetSchema, PollFlightInfo). [`service`] answers the rest, [`queries`] keeps prepared statements and running queries,
//! [`rows`] sends results, [`metadata`] describes the server and its tables. Connections have threads of their own, apart
//! from those of pipelines and of queries. Results are streamed: a batch is computed when the client has taken the previous
//! one, so that a result may have any size.

mod connection;
mod login;
mod metadata;
mod parameters;
mod queries;
mod rows;
mod service;
mod shape;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, PollInfo, SchemaResult, Ticket,
};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use self::connection::{Peer, Stated, accepted};
use self::login::Login;
use self::service::Service;
use super::engine::{OwnRuntime, QueryEngine, QueryLimits};
use super::warehouse::Warehouse;
use super::{BoundServer, bind, choose_cryptography, serve_until};
use crate::config::Secret;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::metrics::Metrics;

/// The maximum size of a request: statements and bound parameters.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Concurrent requests of one connection.
const MAX_STREAMS: u32 = 64;
/// The interval of keep-alive pings to a silent client, and the time limit for its answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// Threads that serve connections.
const SERVER_THREADS: usize = 2;
/// Their niceness: pipelines have priority.
const SERVER_NICENESS: i32 = 5;

/// Login, encryption and limits of the server.
#[derive(Debug, Clone, Default)]
pub struct FlightOptions {
    /// The token that clients must send, as `Authorization: Bearer <token>` or as the password of any user; `None` = no
    /// login.
    pub token: Option<Secret>,
    /// Encrypts connections; `None` = plain text.
    pub tls: Option<TlsIdentity>,
    /// Limits on the number and duration of queries.
    pub limits: QueryLimits,
}

/// A certificate chain and its key, in PEM.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    pub certificate_pem: String,
    pub key_pem: Secret,
}

/// Listens at `addr` (port 0: any free one) and answers Flight SQL over `warehouse` until `shutdown` completes.
pub async fn serve(
    addr: SocketAddr,
    warehouse: Arc<Warehouse>,
    metrics: Arc<Metrics>,
    options: FlightOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<BoundServer> {
    let mut server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1));
    if let Some(tls) = options.tls {
        choose_cryptography();
        let identity = Identity::from_pem(tls.certificate_pem, tls.key_pem.expose());
        server = server
            .tls_config(ServerTlsConfig::new().identity(identity))
            .context(ErrorKind::Config, || "certificate of the Flight SQL server cannot be used".to_owned())?;
    }
    let runtime = OwnRuntime::start("weir-flight", SERVER_THREADS, SERVER_NICENESS)?;
    let bound = runtime.handle().spawn(bind(addr, "Flight SQL")).await;
    let (listener, addr) = bound.internal(|| "server was not started".to_owned())??;
    let engine = Arc::new(QueryEngine::start(options.limits)?);
    let connections = engine.limits().connections;
    let login = Login::new(options.token);
    let endpoint = Endpoint { sql: Service::new(warehouse, metrics, login.clone(), engine)? };
    let service = FlightServiceServer::new(endpoint).max_decoding_message_size(MAX_REQUEST_BYTES);
    let service = Stated(InterceptedService::new(service, move |request: Request<()>| {
        Peer::check(&request)?;
        login.check(request)
    }));
    let serving = runtime.handle().spawn(serve_until(shutdown, move |stop| {
        let incoming = accepted(listener, connections);
        server.add_service(service).serve_with_incoming_shutdown(incoming, stop.wait())
    }));
    let task = tokio::spawn(async move {
        let served = serving.await.map_err(|error| Error::internal("server ended abnormally").with_source(error));
        // Ends the server's threads.
        drop(runtime);
        served?
    });
    Ok(BoundServer { addr, task })
}

/// [`Service`] with the plain Flight calls that its blanket implementation answers with "unimplemented".
struct Endpoint {
    sql: Service,
}

#[tonic::async_trait]
impl FlightService for Endpoint {
    type HandshakeStream = <Service as FlightService>::HandshakeStream;
    type ListFlightsStream = <Service as FlightService>::ListFlightsStream;
    type DoGetStream = <Service as FlightService>::DoGetStream;
    type DoPutStream = <Service as FlightService>::DoPutStream;
    type DoActionStream = <Service as FlightService>::DoActionStream;
    type ListActionsStream = <Service as FlightService>::ListActionsStream;
    type DoExchangeStream = <Service as FlightService>::DoExchangeStream;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        self.sql.handshake(request).await
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        self.sql.list_flights(request).await
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        self.sql.get_flight_info(request).await
    }

    /// Queries start when their rows are requested, so the first poll returns a complete answer.
    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let info = self.sql.get_flight_info(request).await?.into_inner();
        Ok(Response::new(PollInfo {
            info: Some(info),
            flight_descriptor: None,
            progress: Some(1.0),
            expiration_time: None,
        }))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let info = self.sql.get_flight_info(request).await?.into_inner();
        Ok(Response::new(SchemaResult { schema: info.schema }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        self.sql.do_get(request).await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        self.sql.do_put(request).await
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.sql.do_exchange(request).await
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        self.sql.do_action(request).await
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        self.sql.list_actions(request).await
    }
}
