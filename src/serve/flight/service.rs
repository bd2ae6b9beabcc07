//! The Flight SQL calls.
//!
//! Each plans or looks something up, then answers with a ticket (GetFlightInfo) or rows (DoGet). All calls that write are
//! answered with the same error.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionCancelQueryRequest, ActionCancelQueryResult,
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    Any, CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
    CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt, SqlInfo,
    TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightData, FlightDescriptor,
    FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage, SchemaAsIpc, Ticket,
};
use futures::{Stream, TryStreamExt, stream};
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status, Streaming};

use super::connection::Peer;
use super::login::Login;
use super::metadata::{self, ServerFacts};
use super::parameters;
use super::queries::{Outcome, PreparedStatements, QueryTicket, RunningQueries, What};
use super::rows::{Executions, QueryRows, Started};
use crate::error::{Error, Result as WeirResult};
use crate::metrics::{Counter, Metrics};
use crate::serve::engine::{QueryEngine, out_of_time};
use crate::serve::failure::status;
use crate::serve::gate::Client;
use crate::serve::interrupt::ended;
use crate::serve::warehouse::{Warehouse, read_only};

type Answer<T> = Result<Response<T>, Status>;
type Rows = Answer<Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send>>>;

/// `ActionCancelQueryResult.CancelResult.CANCEL_RESULT_CANCELLED`, which `arrow-flight` does not export.
const CANCEL_RESULT_CANCELLED: i32 = 1;
const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";

/// The service that answers Flight SQL calls.
pub struct Service {
    warehouse: Arc<Warehouse>,
    login: Login,
    facts: ServerFacts,
    prepared: PreparedStatements,
    queries: RunningQueries,
    engine: Arc<QueryEngine>,
    rows_sent: Arc<Counter>,
}

impl Service {
    /// A service without prepared statements and running queries.
    pub fn new(
        warehouse: Arc<Warehouse>,
        metrics: Arc<Metrics>,
        login: Login,
        engine: Arc<QueryEngine>,
    ) -> WeirResult<Self> {
        Ok(Self {
            warehouse,
            engine,
            login,
            facts: ServerFacts::new()?,
            prepared: PreparedStatements::default(),
            rows_sent: metrics.flight_rows.with([]),
            queries: RunningQueries::new(metrics),
        })
    }

    /// Plans `what` on a thread of the engine, and runs `then` on the result there.
    async fn planned<T: Send + 'static, F: Future<Output = WeirResult<T>> + Send>(
        &self,
        client: Client,
        what: &What,
        then: impl FnOnce(Executions) -> F + Send + 'static,
    ) -> WeirResult<T> {
        let (sql, parameters) = match what {
            What::Sql(sql) => (sql.clone(), None),
            What::Prepared(handle) => {
                let prepared = self.prepared.get(handle)?;
                (prepared.sql, prepared.rows)
            }
        };
        let warehouse = Arc::clone(&self.warehouse);
        let planning = async move {
            let query = warehouse.plan(&sql).await?;
            then(Executions { query, parameters }).await
        };
        self.engine.plan(client, planning).await
    }

    async fn query_info(&self, what: What, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        let client = Peer::client(&request);
        let schema = self.planned(client, &what, async |planned: Executions| planned.schema().await).await;
        let schema = schema.map_err(|error| self.refuse(&error))?;
        let handle = QueryTicket::new(what).encode().map_err(|error| status(&error))?;
        info(&TicketStatementQuery { statement_handle: handle.into() }, &schema, request)
    }

    /// The status for a statement that could not be planned; counts it as failed.
    fn refuse(&self, error: &Error) -> Status {
        self.queries.refused();
        status(error)
    }

    async fn query_rows(&self, client: Client, ticket: &QueryTicket) -> Rows {
        let Some(mut running) = self.queries.begin(&ticket.id) else { return Err(status(&ended())) };
        let deadline = Instant::now() + self.engine.limits().timeout;
        let started = async {
            let place = self.engine.place(client).await?;
            let (interrupt, held, (schema, batches)) = self
                .planned(client, &ticket.what, async |planned: Executions| {
                    Ok((planned.query.interrupt(), planned.query.held(), planned.start().await?))
                })
                .await?;
            let braked = self.engine.brake().enter(held);
            Ok::<_, Error>(Started { schema, batches, interrupt, braked, place, deadline })
        };
        let cancelled = running.cancelled();
        let started = tokio::select! {
            started = started => started.map_err(|error| {
                running.end(Outcome::Failed);
                status(&error)
            }),
            () = cancelled.cancelled() => Err(status(&ended())),
        }
        .inspect_err(|refused| {
            tracing::debug!(code = ?refused.code(), "query did not start");
        })?;
        Ok(Response::new(Box::pin(QueryRows::of(started, running, &self.engine, Arc::clone(&self.rows_sent)))))
    }

    /// Cancels the query that `info`, an answer to GetFlightInfo, belongs to.
    fn cancel(&self, info: &FlightInfo) -> Result<(), Status> {
        for endpoint in &info.endpoint {
            let Some(ticket) = &endpoint.ticket else { continue };
            let any = Any::decode(&*ticket.ticket).map_err(|_| not_ours())?;
            let ticket: TicketStatementQuery =
                any.unpack().map_err(|_| not_ours())?.ok_or_else(|| Status::not_found("this cannot be cancelled"))?;
            let ticket = QueryTicket::decode(&ticket.statement_handle).map_err(|error| status(&error))?;
            self.queries.cancel(&ticket.id);
        }
        Ok(())
    }
}

/// The answer that directs the client to request `ticket`'s rows here; their columns are those of `schema`.
fn info<M: ProstMessageExt>(ticket: &M, schema: &Schema, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.as_any().encode_to_vec()));
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|error| Status::internal(error.to_string()))?
        .with_endpoint(endpoint)
        .with_descriptor(request.into_inner());
    Ok(Response::new(info))
}

fn one_batch(batch: RecordBatch) -> Rows {
    let schema = batch.schema();
    let encoded = FlightDataEncoderBuilder::new().with_schema(schema).build(stream::iter([Ok(batch)]));
    Ok(Response::new(Box::pin(encoded.map_err(Status::from))))
}

fn ipc_schema(schema: &Schema) -> Result<bytes::Bytes, Status> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|error: arrow::error::ArrowError| Status::internal(error.to_string()))?;
    Ok(bytes)
}

fn handle_text(handle: &[u8]) -> Result<String, Status> {
    String::from_utf8(handle.to_vec()).map_err(|_| Status::invalid_argument("prepared statement is not known"))
}

fn not_ours() -> Status {
    Status::invalid_argument("ticket is not one of this server's")
}

fn refused() -> Status {
    status(&read_only())
}

#[tonic::async_trait]
impl FlightSqlService for Service {
    type FlightService = Self;

    /// [`Login::check`] has already admitted the caller.
    async fn do_handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Answer<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>> {
        let bearer = self.login.bearer();
        let payload = bearer.trim_start_matches("Bearer ").to_owned();
        let answer = HandshakeResponse { protocol_version: 0, payload: payload.into() };
        let answers: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(stream::iter([Ok(answer)]));
        let mut response = Response::new(answers);
        let value = bearer.parse().map_err(|_| Status::internal("token cannot be sent in a header"))?;
        response.metadata_mut().insert("authorization", value);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        self.query_info(What::Sql(query.query), request).await
    }

    async fn do_get_statement(&self, ticket: TicketStatementQuery, request: Request<Ticket>) -> Rows {
        let ticket = QueryTicket::decode(&ticket.statement_handle).map_err(|error| status(&error))?;
        self.query_rows(Peer::client(&request), &ticket).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let what = What::Sql(query.query.clone());
        let described = async |planned: Executions| Ok((planned.schema().await?, planned.query.parameters()?));
        let planned = self.planned(Peer::client(&request), &what, described).await;
        let (schema, parameters) = planned.map_err(|error| self.refuse(&error))?;
        Ok(ActionCreatePreparedStatementResult {
            dataset_schema: ipc_schema(&schema)?,
            parameter_schema: ipc_schema(&parameters)?,
            prepared_statement_handle: self.prepared.add(query.query).into(),
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        self.prepared.remove(&handle_text(&query.prepared_statement_handle)?);
        Ok(())
    }

    /// Binds parameters.
    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let handle = handle_text(&query.prepared_statement_handle)?;
        let reading = parameters::read(request.into_inner());
        let too_slow = |_| status(&out_of_time());
        let batches = timeout(self.engine.limits().idle_timeout, reading).await.map_err(too_slow)??;
        self.prepared.bind(&handle, &batches).map_err(|error| status(&error))?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(query.prepared_statement_handle) })
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        let handle = handle_text(&query.prepared_statement_handle)?;
        let prepared = self.prepared.get(&handle).map_err(|error| self.refuse(&error))?;
        // Without bound values the ticket contains the SQL: other connections may use it after the statement is closed.
        let what = if prepared.rows.is_none() { What::Sql(prepared.sql) } else { What::Prepared(handle) };
        self.query_info(what, request).await
    }

    async fn do_get_prepared_statement(&self, query: CommandPreparedStatementQuery, request: Request<Ticket>) -> Rows {
        let handle = handle_text(&query.prepared_statement_handle)?;
        self.query_rows(Peer::client(&request), &QueryTicket::new(What::Prepared(handle))).await
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        _request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        self.cancel(&FlightInfo::decode(query.info).map_err(|_| not_ours())?)?;
        Ok(ActionCancelQueryResult { result: CANCEL_RESULT_CANCELLED })
    }

    async fn do_action_fallback(&self, request: Request<Action>) -> Answer<<Self as FlightService>::DoActionStream> {
        let action = request.into_inner();
        if action.r#type != CANCEL_FLIGHT_INFO {
            return Err(Status::unimplemented(format!("action `{}` is not known", action.r#type)));
        }
        let request = CancelFlightInfoRequest::decode(action.body).map_err(|_| not_ours())?;
        self.cancel(&request.info.ok_or_else(not_ours)?)?;
        let answer = CancelFlightInfoResult { status: CancelStatus::Cancelled as i32 };
        let answer = arrow_flight::Result { body: answer.encode_to_vec().into() };
        Ok(Response::new(Box::pin(stream::iter([Ok(answer)]))))
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        Some(vec![Ok(ActionType { r#type: CANCEL_FLIGHT_INFO.to_owned(), description: "Cancels a query.".to_owned() })])
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        info(&query, &metadata::catalogs()?.schema(), request)
    }

    async fn do_get_catalogs(&self, _query: CommandGetCatalogs, _request: Request<Ticket>) -> Rows {
        one_batch(metadata::catalogs()?)
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        info(&query, &metadata::schemas(query.clone())?.schema(), request)
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, _request: Request<Ticket>) -> Rows {
        one_batch(metadata::schemas(query)?)
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        info(&query, &query.clone().into_builder().schema(), request)
    }

    async fn do_get_tables(&self, query: CommandGetTables, request: Request<Ticket>) -> Rows {
        let warehouse = Arc::clone(&self.warehouse);
        let client = Peer::client(&request);
        let found = self.engine.plan(client, async move { Ok(metadata::tables(&warehouse, query).await) }).await;
        one_batch(found.map_err(|error| status(&error))??)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        info(&query, &metadata::table_types()?.schema(), request)
    }

    async fn do_get_table_types(&self, _query: CommandGetTableTypes, _request: Request<Ticket>) -> Rows {
        one_batch(metadata::table_types()?)
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        info(&query, &self.facts.sql_info.schema(), request)
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, _request: Request<Ticket>) -> Rows {
        one_batch(query.into_builder(&self.facts.sql_info).build()?)
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        info(&query, &self.facts.types.schema(), request)
    }

    async fn do_get_xdbc_type_info(&self, query: CommandGetXdbcTypeInfo, _request: Request<Ticket>) -> Rows {
        one_batch(query.into_builder(&self.facts.types).build()?)
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        info(&query, &metadata::primary_keys_schema(), request)
    }

    async fn do_get_primary_keys(&self, _query: CommandGetPrimaryKeys, _request: Request<Ticket>) -> Rows {
        one_batch(RecordBatch::new_empty(metadata::primary_keys_schema()))
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        info(&query, &metadata::foreign_keys_schema(), request)
    }

    async fn do_get_exported_keys(&self, _query: CommandGetExportedKeys, _request: Request<Ticket>) -> Rows {
        one_batch(RecordBatch::new_empty(metadata::foreign_keys_schema()))
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        info(&query, &metadata::foreign_keys_schema(), request)
    }

    async fn do_get_imported_keys(&self, _query: CommandGetImportedKeys, _request: Request<Ticket>) -> Rows {
        one_batch(RecordBatch::new_empty(metadata::foreign_keys_schema()))
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        info(&query, &metadata::foreign_keys_schema(), request)
    }

    async fn do_get_cross_reference(&self, _query: CommandGetCrossReference, _request: Request<Ticket>) -> Rows {
        one_batch(RecordBatch::new_empty(metadata::foreign_keys_schema()))
    }

    async fn do_put_statement_update(
        &self,
        _query: CommandStatementUpdate,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(refused())
    }

    async fn do_put_statement_ingest(
        &self,
        _query: CommandStatementIngest,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(refused())
    }

    async fn do_put_prepared_statement_update(
        &self,
        _query: CommandPreparedStatementUpdate,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(refused())
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(Status::unimplemented("transactions are not needed to read: every statement sees one version of a table"))
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}
