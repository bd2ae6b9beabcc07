//! The contract between an epoch and its sinks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use tokio::sync::Mutex;

use super::kafka::{RefusedMessage, TopicMessages};
use crate::delta::{StagedFiles, UpsertRows, size_of_rows};
use crate::error::Result;
use crate::standing::Epoch;

/// Bytes of a row, besides itself, while an epoch's rows are consolidated by key.
const CONSOLIDATED_ROW_BYTES: u64 = 200;

/// The target of one branch's rows, opened for a run.
pub trait Sink: Send + Sync {
    /// The word that progress shows.
    fn kind(&self) -> &'static str;

    /// The table, by its index in commit order, whose rules the rows must meet.
    fn table(&self) -> Option<usize> {
        None
    }

    /// `true` if rows wait until the epoch closes, to be consolidated by key. Rows of a retracting stream then come with their
    /// weights apart; other sinks get the weight as the last column.
    fn consolidates(&self) -> bool {
        false
    }

    /// `true` if rows leave with their micro-batch, so that this sink is to be served before those that encode files.
    fn sends_at_once(&self) -> bool {
        false
    }

    /// Opens an epoch's writer. Creates nothing outside of the process before the first row.
    fn open(&self, opening: &Opening) -> Arc<dyn SinkWriter>;
}

/// The circumstances of an epoch's writer.
#[derive(Debug, Clone)]
pub struct Opening {
    pub epoch: Epoch,
    /// Id of the run, for names of files.
    pub run: String,
    /// Name of the target.
    pub target: String,
    /// Columns of the rows, without a weight.
    pub schema: SchemaRef,
    /// Rows are changes: they have a weight.
    pub retracts: bool,
    pub lanes: usize,
    /// Number of messages that the epoch has sent at once, over all sinks.
    pub sent: Arc<AtomicU64>,
}

/// The writer of an epoch's rows to one sink, shared by the lanes.
#[async_trait]
pub trait SinkWriter: Send + Sync {
    /// Writes rows that meet the target's rules.
    async fn write(&self, at: Arrival, rows: Vec<UpsertRows>) -> Result<Written>;

    /// Ends the epoch's output; called once, after the last row.
    async fn close(&self) -> Result<Staged>;
}

/// Position of rows in their epoch: consolidation takes them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    pub micro_batch: u64,
    pub branch: usize,
    pub lane: usize,
}

/// Rows that wait to be consolidated, with their position in the epoch.
#[derive(Debug)]
pub struct Arrived {
    pub at: Arrival,
    pub rows: UpsertRows,
}

/// Effects of a write on memory, and the rows that could not be sent.
#[derive(Debug, Default)]
pub struct Written {
    /// Bytes that wait for the end of the epoch from now on.
    pub waits: u64,
    /// Bytes of open files before and after.
    pub open: (u64, u64),
    pub refused: Option<Refused>,
}

/// Messages that are too large for a topic; they become dead letters.
#[derive(Debug)]
pub struct Refused {
    pub topic: String,
    pub messages: Vec<RefusedMessage>,
}

/// An epoch's output to one sink, ready for the commit.
#[derive(Debug)]
pub enum Staged {
    /// Everything has left already, or nothing came.
    Nothing,
    /// Files of a table, by its index in commit order.
    Files { table: usize, files: StagedFiles },
    /// Rows to be upserted into a table; other branches may have some for the same one.
    Rows { table: usize, rows: Vec<Arrived> },
    /// Messages for the epoch's transaction.
    Messages(Vec<TopicMessages>),
    /// Messages were sent, and some were refused.
    Sent(Option<Refused>),
    /// Files that have their final names and take no part in the commit.
    Finished { files: u64, bytes: u64 },
}

/// Rows in the order in which they came.
pub fn in_order(mut rows: Vec<Arrived>) -> Vec<UpsertRows> {
    rows.sort_by_key(|arrived| arrived.at);
    rows.into_iter().map(|arrived| arrived.rows).collect()
}

/// Rows that are held until the epoch closes.
#[derive(Debug, Default)]
pub struct Held(Mutex<Vec<Arrived>>);

impl Held {
    /// Keeps rows; the bytes that wait from now on.
    pub async fn put(&self, at: Arrival, rows: Vec<UpsertRows>) -> Written {
        let bytes = |rows: &UpsertRows| size_of_rows(&rows.rows) + rows.rows.num_rows() as u64 * CONSOLIDATED_ROW_BYTES;
        let waits = rows.iter().map(bytes).sum();
        self.0.lock().await.extend(rows.into_iter().map(|rows| Arrived { at, rows }));
        Written { waits, ..Written::default() }
    }

    /// Takes all rows.
    pub async fn take(&self) -> Vec<Arrived> {
        std::mem::take(&mut *self.0.lock().await)
    }
}
