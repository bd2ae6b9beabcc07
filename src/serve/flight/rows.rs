//! Streams a query's rows to the client.
//!
//! The query runs on the engine's threads, where its rows are also encoded; at most two messages wait for the client. Here,
//! on the server's threads, its end is watched: the query ends when its stream is dropped (the client has gone), when it is
//! cancelled, when it exceeds its time or the memory limit, and when its client leaves rows unread. Its end sets its
//! interrupt, since it may be computing without pause.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use datafusion::scalar::ScalarValue;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::connection::stated;
use super::queries::{Outcome, RunningQuery};
use super::shape::{sent, sent_schema};
use crate::error::{Error, Result, SqlState};
use crate::metrics::Counter;
use crate::serve::brake::{Braked, exceeded};
use crate::serve::engine::{QueryEngine, out_of_time};
use crate::serve::failure::{query_error, status};
use crate::serve::gate::Place;
use crate::serve::interrupt::{Interrupt, ended};
use crate::serve::warehouse::Query;

/// The maximum number of messages that wait for the client.
const MESSAGES_AHEAD: usize = 2;

/// A planned query and its executions.
pub struct Executions {
    pub query: Query,
    /// One execution per row of parameters; `None` = one without parameters.
    pub parameters: Option<Arc<Vec<Vec<ScalarValue>>>>,
}

impl Executions {
    /// The columns of the result, as [`Self::start`] returns them.
    pub async fn schema(&self) -> Result<SchemaRef> {
        let described = match self.parameters.as_ref().and_then(|rows| rows.first()) {
            // Types that depend on parameters are known now.
            Some(row) => self.query.clone().bind(row.clone())?.schema().await?,
            None => self.query.schema().await?,
        };
        Ok(sent_schema(&described))
    }

    /// Starts the first execution, so that its errors come before any row; the others are started one after the other.
    pub async fn start(self) -> Result<(SchemaRef, Batches)> {
        let Self { query, parameters } = self;
        let Some(rows) = parameters else {
            let first = query.stream().await?;
            let schema = sent_schema(&first.schema());
            return Ok((Arc::clone(&schema), sent_rows(schema, first.map_err(query_error))));
        };
        let Some(first) = rows.first() else {
            return Ok((sent_schema(&*query.schema().await?), Box::pin(stream::empty())));
        };
        let first = query.clone().bind(first.clone())?.stream().await?;
        let schema = sent_schema(&first.schema());
        let rest = stream::iter(1..rows.len())
            .then(move |row| {
                let bound = query.clone().bind(rows[row].clone());
                async move { Ok::<_, Error>(bound?.stream().await?.map_err(query_error)) }
            })
            .try_flatten();
        Ok((Arc::clone(&schema), sent_rows(schema, first.map_err(query_error).chain(rest))))
    }
}

/// `batches` in the form in which they are sent.
fn sent_rows(schema: SchemaRef, batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static) -> Batches {
    Box::pin(batches.map(move |batch| sent(&batch?, &schema)))
}

/// The rows of a query.
pub type Batches = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// A query that is planned and admitted.
pub struct Started {
    pub schema: SchemaRef,
    pub batches: Batches,
    pub interrupt: Interrupt,
    pub braked: Arc<Braked>,
    pub place: Place,
    pub deadline: Instant,
}

/// The messages of a query's result.
pub struct QueryRows {
    messages: mpsc::Receiver<FlightData>,
    /// The result of the query, once there are no more messages.
    end: oneshot::Receiver<Result<(), Status>>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The process exceeds its memory limit.
    exceeded: Pin<Box<WaitForCancellationFutureOwned>>,
    #[expect(dead_code, reason = "held, never looked at")]
    braked: Arc<Braked>,
    deadline: Pin<Box<Sleep>>,
    interrupt: Interrupt,
    work: AbortHandle,
    running: RunningQuery,
    is_over: bool,
}

impl QueryRows {
    /// Starts the query on `engine`.
    pub fn of(started: Started, running: RunningQuery, engine: &QueryEngine, rows_sent: Arc<Counter>) -> Self {
        let Started { schema, batches, interrupt, braked, place, deadline } = started;
        let (sender, messages) = mpsc::channel(MESSAGES_AHEAD);
        let (end_sender, end) = oneshot::channel();
        let idle = engine.limits().idle_timeout;
        let work = engine.handle().spawn(async move {
            let batches = batches.inspect_ok(move |batch| rows_sent.add(batch.num_rows() as u64));
            let batches = batches.map_err(|error| FlightError::Tonic(Box::new(status(&error))));
            let mut encoded = FlightDataEncoderBuilder::new().with_schema(schema).build(batches);
            let end = loop {
                let room = match timeout(idle, sender.reserve()).await {
                    Ok(Ok(room)) => room,
                    // The receiver was dropped.
                    Ok(Err(_)) => break Ok(()),
                    Err(_) => break Err(status(&unread())),
                };
                match encoded.next().await {
                    Some(Ok(message)) => room.send(message),
                    Some(Err(error)) => break Err(stated(error.into())),
                    None => break Ok(()),
                }
            };
            drop(encoded);
            // Frees the place for another query.
            drop(place);
            let _ = end_sender.send(end);
        });
        let cancelled = Box::pin(running.cancelled().cancelled_owned());
        let exceeded = Box::pin(braked.pulled());
        let deadline = Box::pin(sleep_until(deadline));
        let work = work.abort_handle();
        Self { messages, end, cancelled, exceeded, braked, deadline, interrupt, work, running, is_over: false }
    }

    fn over(&mut self, outcome: Outcome) {
        self.is_over = true;
        self.running.end(outcome);
        self.interrupt.set();
        self.work.abort();
    }
}

impl Stream for QueryRows {
    type Item = Result<FlightData, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        if this.cancelled.poll_unpin(context).is_ready() {
            this.over(Outcome::Cancelled);
            return Poll::Ready(Some(Err(status(&ended()))));
        }
        if this.exceeded.poll_unpin(context).is_ready() {
            this.over(Outcome::Failed);
            return Poll::Ready(Some(Err(status(&exceeded()))));
        }
        if this.deadline.poll_unpin(context).is_ready() {
            this.over(Outcome::Failed);
            return Poll::Ready(Some(Err(status(&out_of_time()))));
        }
        match this.messages.poll_recv(context) {
            Poll::Ready(Some(message)) => return Poll::Ready(Some(Ok(message))),
            Poll::Ready(None) => {}
            Poll::Pending => return Poll::Pending,
        }
        let end = match this.end.poll_unpin(context) {
            Poll::Ready(Ok(end)) => end,
            Poll::Ready(Err(_)) => Err(status(&Error::internal("query execution failed"))),
            Poll::Pending => return Poll::Pending,
        };
        match end {
            Ok(()) => {
                this.over(Outcome::Done);
                Poll::Ready(None)
            }
            Err(failed) => {
                this.over(Outcome::Failed);
                Poll::Ready(Some(Err(failed)))
            }
        }
    }
}

impl Drop for QueryRows {
    fn drop(&mut self) {
        self.interrupt.set();
        self.work.abort();
    }
}

fn unread() -> Error {
    Error::environment("rows were left unread for longer than `flight.idle_timeout`")
        .with_state(SqlState::CANCELLED)
        .with_hint("Read the rows as they come, or write the result to a table.")
}
