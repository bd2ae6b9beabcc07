//! The Flight SQL server.
//!
//! Owns the socket, encryption and login, and the two plain Flight calls that `arrow-flight`'s Flight SQL layer leaves
//! out (GetSchema, PollFlightInfo). [`service`] answers the rest, [`queries`] keeps prepared statements and running
//! queries, [`rows`] sends results, [`metadata`] describes what there is. Connections have threads of their own, neither
//! those of pipelines nor those of queries. Results stream: a batch is computed when the client has taken the one
//! before, so that a result's size does not matter.

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

/// Requests that clients may send: statements and bound parameters.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Requests of one connection at a time.
const MAX_STREAMS: u32 = 64;
/// How often a silent client is asked whether it is there, and how long it may take to say so.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// Threads that talk to clients.
const SERVER_THREADS: usize = 2;
/// They let pipelines go first.
const SERVER_NICENESS: i32 = 5;

/// How the server is reached.
#[derive(Debug, Clone, Default)]
pub struct FlightOptions {
    /// What clients must show, as `Authorization: Bearer <token>` or as the password of any user; `None` = nothing.
    pub token: Option<Secret>,
    /// Encrypts connections; `None` = plain text.
    pub tls: Option<TlsIdentity>,
    /// How many queries, and for how long.
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
        // Its threads end with it.
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

    /// Queries begin when their rows are asked for, so an answer is complete at the first poll.
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
