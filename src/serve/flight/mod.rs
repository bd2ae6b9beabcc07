//! The Flight SQL server.
//!
//! Owns the socket, encryption and login, and the two plain Flight calls that `arrow-flight`'s Flight SQL layer leaves
//! out (GetSchema, PollFlightInfo). [`service`] answers the rest, [`queries`] keeps prepared statements and running
//! queries, [`metadata`] describes what there is. Results stream: a batch is computed when the client has taken the one
//! before, so that a result's size does not matter.

mod login;
mod metadata;
mod queries;
mod service;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, PollInfo, SchemaResult, Ticket,
};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use self::login::Login;
use self::service::Service;
use super::warehouse::Warehouse;
use super::{BoundServer, bind, choose_cryptography, serve_until};
use crate::config::Secret;
use crate::error::{Context, ErrorKind, Result};
use crate::metrics::Metrics;

/// Requests that clients may send: statements and bound parameters, so 16 MiB is plenty.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// How the server is reached.
#[derive(Debug, Clone, Default)]
pub struct FlightOptions {
    /// What clients must show, as `Authorization: Bearer <token>` or as the password of any user; `None` = nothing.
    pub token: Option<Secret>,
    /// Encrypts connections; `None` = plain text.
    pub tls: Option<TlsIdentity>,
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
    let mut server = Server::builder();
    if let Some(tls) = options.tls {
        choose_cryptography();
        let identity = Identity::from_pem(tls.certificate_pem, tls.key_pem.expose());
        server = server
            .tls_config(ServerTlsConfig::new().identity(identity))
            .context(ErrorKind::Config, || "certificate of the Flight SQL server cannot be used".to_owned())?;
    }
    let (listener, addr) = bind(addr, "Flight SQL").await?;
    let login = Login::new(options.token);
    let endpoint = Endpoint { sql: Service::new(warehouse, metrics, login.clone())? };
    let service = FlightServiceServer::new(endpoint).max_decoding_message_size(MAX_REQUEST_BYTES);
    let service = InterceptedService::new(service, move |request: Request<()>| login.check(request));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let task = tokio::spawn(serve_until(shutdown, move |stop| {
        server.add_service(service).serve_with_incoming_shutdown(incoming, stop.wait())
    }));
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
