//! Prepared statements and running queries of one server.
//!
//! A plain statement's ticket contains its SQL, which is planned when its rows are requested, so the server keeps no state
//! for it until then. At most [`MAX_PREPARED`] prepared statements are kept: a new one replaces the least recently used.
//! Running queries are kept while their stream lives; dropping the stream ends the query.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::record_batch::RecordBatch;
use datafusion::scalar::ScalarValue;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{Context, Error, Result, SqlState};
use crate::metrics::{Gauge, Metrics};

/// The maximum number of prepared statements.
const MAX_PREPARED: usize = 1024;
/// The maximum bytes of all prepared statements with their bound values.
const MAX_PREPARED_BYTES: usize = 64 << 20;
/// The maximum number of values bound at once: rows times parameters.
const MAX_BOUND_VALUES: usize = 65_536;
/// The maximum number of stored ids of queries that were cancelled before they began.
const MAX_CANCELLED: usize = 1024;

/// Contents of a ticket for rows; sent as JSON, opaque to clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueryTicket {
    /// Identifies this execution, for cancelling.
    pub id: String,
    pub what: What,
}

/// The statement to execute.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Sql(String),
    /// A prepared statement's handle.
    Prepared(String),
}

impl QueryTicket {
    /// A ticket for one execution.
    pub fn new(what: What) -> Self {
        Self { id: Uuid::new_v4().to_string(), what }
    }

    /// The ticket's bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).internal(|| "ticket cannot be encoded".to_owned())
    }

    /// A ticket from its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|_| Error::sql("ticket is not one of this server's"))
    }
}

/// A statement with its parameters' values.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub sql: String,
    /// One row per execution; `None` if nothing was bound.
    pub rows: Option<Arc<Vec<Vec<ScalarValue>>>>,
}

impl Prepared {
    /// Bytes of the statement and its values.
    fn bytes(&self) -> usize {
        let rows = self.rows.iter().flat_map(|rows| rows.iter());
        self.sql.len() + rows.flat_map(|row| row.iter()).map(ScalarValue::size).sum::<usize>()
    }
}

/// The prepared statements, by handle.
#[derive(Debug, Default)]
pub struct PreparedStatements {
    inner: Mutex<PreparedInner>,
}

#[derive(Debug, Default)]
struct PreparedInner {
    by_handle: HashMap<String, (u64, Prepared)>,
    by_use: BTreeMap<u64, String>,
    uses: u64,
    bytes: usize,
}

impl PreparedInner {
    fn remove(&mut self, handle: &str) {
        if let Some((used, prepared)) = self.by_handle.remove(handle) {
            self.by_use.remove(&used);
            self.bytes = self.bytes.saturating_sub(prepared.bytes());
        }
    }

    /// Drops the least recently used statements until the limits hold; always keeps the last used one.
    fn make_room(&mut self) {
        while self.by_handle.len() > MAX_PREPARED || (self.bytes > MAX_PREPARED_BYTES && self.by_handle.len() > 1) {
            let Some(oldest) = self.by_use.first_key_value().map(|(_, handle)| handle.clone()) else { return };
            self.remove(&oldest);
        }
    }
}

impl PreparedStatements {
    /// Keeps a statement and returns its handle.
    pub fn add(&self, sql: String) -> String {
        let handle = Uuid::new_v4().to_string();
        let mut inner = lock(&self.inner);
        inner.uses += 1;
        let used = inner.uses;
        let prepared = Prepared { sql, rows: None };
        inner.bytes += prepared.bytes();
        inner.by_use.insert(used, handle.clone());
        inner.by_handle.insert(handle.clone(), (used, prepared));
        inner.make_room();
        handle
    }

    /// The statement of a handle. Errors: the handle is unknown or was dropped.
    pub fn get(&self, handle: &str) -> Result<Prepared> {
        self.touch(handle, |prepared| prepared.clone())
    }

    /// Binds the rows of `batches` in place of earlier ones.
    pub fn bind(&self, handle: &str, batches: &[RecordBatch]) -> Result<()> {
        let count: usize = batches.iter().map(|batch| batch.num_rows() * batch.num_columns()).sum();
        if count > MAX_BOUND_VALUES {
            return Err(Error::sql(format!("{count} values were bound, {MAX_BOUND_VALUES} are allowed"))
                .with_state(SqlState::LIMIT)
                .with_hint("Join a list of values in SQL, or execute in pieces."));
        }
        let mut rows = Vec::new();
        for batch in batches {
            for row in 0..batch.num_rows() {
                let values: Result<Vec<ScalarValue>, _> =
                    batch.columns().iter().map(|column| ScalarValue::try_from_array(column, row)).collect();
                rows.push(values.map_err(|error| Error::sql("parameter has an unusable type").with_source(error))?);
            }
        }
        let rows = Arc::new(rows);
        let (before, after) = self.touch(handle, |prepared| {
            let before = prepared.bytes();
            prepared.rows = Some(rows);
            (before, prepared.bytes())
        })?;
        let mut inner = lock(&self.inner);
        inner.bytes = (inner.bytes + after).saturating_sub(before);
        inner.make_room();
        Ok(())
    }

    /// Drops a statement.
    pub fn remove(&self, handle: &str) {
        lock(&self.inner).remove(handle);
    }

    fn touch<R>(&self, handle: &str, act: impl FnOnce(&mut Prepared) -> R) -> Result<R> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let (used, prepared) = inner.by_handle.get_mut(handle).ok_or_else(|| {
            Error::sql("prepared statement is not known")
                .with_state(SqlState::UNKNOWN_STATEMENT)
                .with_hint("It was closed or unused for long: prepare it again.")
        })?;
        inner.uses += 1;
        inner.by_use.remove(used);
        *used = inner.uses;
        inner.by_use.insert(inner.uses, handle.to_owned());
        Ok(act(prepared))
    }
}

/// The queries that are sending rows.
#[derive(Debug)]
pub struct RunningQueries {
    inner: Arc<Mutex<RunningInner>>,
    metrics: Arc<Metrics>,
    running: Arc<Gauge>,
}

#[derive(Debug, Default)]
struct RunningInner {
    running: HashMap<String, CancellationToken>,
    cancelled_early: VecDeque<String>,
}

impl RunningQueries {
    /// A registry without queries.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let running = metrics.flight_queries_running.with([]);
        Self { inner: Arc::default(), metrics, running }
    }

    /// Registers a query; `None` if it was cancelled before it began.
    pub fn begin(&self, id: &str) -> Option<RunningQuery> {
        let mut inner = lock(&self.inner);
        if let Some(place) = inner.cancelled_early.iter().position(|cancelled| cancelled == id) {
            inner.cancelled_early.remove(place);
            return None;
        }
        let cancelled = CancellationToken::new();
        inner.running.insert(id.to_owned(), cancelled.clone());
        self.running.add(1.0);
        Some(RunningQuery {
            id: id.to_owned(),
            cancelled,
            outcome: Outcome::Cancelled,
            queries: Arc::clone(&self.inner),
            metrics: Arc::clone(&self.metrics),
            running: Arc::clone(&self.running),
        })
    }

    /// Counts a statement that was refused before it ran.
    pub fn refused(&self) {
        self.metrics.flight_queries.with(["failed"]).add(1);
    }

    /// Cancels a query, now or as soon as its rows are requested.
    pub fn cancel(&self, id: &str) {
        let mut inner = lock(&self.inner);
        if let Some(cancelled) = inner.running.get(id) {
            cancelled.cancel();
        } else {
            if inner.cancelled_early.len() >= MAX_CANCELLED {
                inner.cancelled_early.pop_front();
            }
            inner.cancelled_early.push_back(id.to_owned());
        }
    }
}

/// The way in which a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    Cancelled,
}

/// The registration of a running query; dropped with its stream. Its outcome is "cancelled" unless [`Self::end`] was called.
#[derive(Debug)]
pub struct RunningQuery {
    id: String,
    cancelled: CancellationToken,
    outcome: Outcome,
    queries: Arc<Mutex<RunningInner>>,
    metrics: Arc<Metrics>,
    running: Arc<Gauge>,
}

impl RunningQuery {
    /// Cancelled when a client cancels the query.
    pub fn cancelled(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// Records the query's outcome.
    pub fn end(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for RunningQuery {
    fn drop(&mut self) {
        lock(&self.queries).running.remove(&self.id);
        self.running.add(-1.0);
        let outcome = match self.outcome {
            Outcome::Done => "done",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
        };
        self.metrics.flight_queries.with([outcome]).add(1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_unused_longest_makes_room() {
        let statements = PreparedStatements::default();
        let first = statements.add("SELECT 0".to_owned());
        let second = statements.add("SELECT 1".to_owned());
        for n in 2..MAX_PREPARED {
            statements.add(format!("SELECT {n}"));
        }
        statements.get(&first).unwrap();
        statements.add("SELECT 'new'".to_owned());
        assert!(statements.get(&first).is_ok());
        assert!(statements.get(&second).is_err());
    }

    #[test]
    fn a_query_cancelled_before_it_begins_does_not_begin() {
        let queries = RunningQueries::new(Arc::new(Metrics::new()));
        queries.cancel("a");
        assert!(queries.begin("a").is_none());
        assert!(queries.begin("a").is_some(), "the note was used up");
    }

    #[test]
    fn a_dropped_stream_counts_as_cancelled_and_leaves_nothing_behind() {
        let metrics = Arc::new(Metrics::new());
        let queries = RunningQueries::new(Arc::clone(&metrics));
        let running = queries.begin("a").unwrap();
        assert!((metrics.flight_queries_running.with([]).get() - 1.0).abs() < f64::EPSILON);
        drop(running);
        assert!(metrics.flight_queries_running.with([]).get().abs() < f64::EPSILON);
        assert_eq!(metrics.flight_queries.with(["cancelled"]).get(), 1);
    }
}
