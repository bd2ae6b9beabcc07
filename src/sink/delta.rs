//! Delta tables as sinks: files are written as rows come, or rows are held and upserted when the epoch closes.
//!
//! Staged files belong to nobody until the epoch's commit names them.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::writer::{Arrival, Held, Opening, Sink, SinkWriter, Staged, Written};
use crate::delta::{StagedFiles, Table, TableWriter, UpsertRows, WriterOptions};
use crate::error::{Context, Result};

/// Bytes that the name of a finished file takes until the epoch is committed: its `add` action, in the manifest and in the log.
const FILE_ACTION_BYTES: u64 = 6 << 10;

/// A table without a key, which rows are appended to. A lane has one writer, opened when its first row comes, so a quiet epoch
/// makes one file and a busy one makes a file per lane.
pub struct AppendSink {
    /// Index of the table in commit order.
    pub index: usize,
    pub table: Table,
    pub options: WriterOptions,
}

impl Sink for AppendSink {
    fn kind(&self) -> &'static str {
        "delta"
    }

    fn table(&self) -> Option<usize> {
        Some(self.index)
    }

    fn open(&self, opening: &Opening) -> Arc<dyn SinkWriter> {
        let lanes = (0..opening.lanes).map(|_| Mutex::new(None)).collect();
        Arc::new(Append { index: self.index, table: self.table.clone(), options: self.options, lanes })
    }
}

struct Append {
    index: usize,
    table: Table,
    options: WriterOptions,
    lanes: Vec<Mutex<Option<TableWriter>>>,
}

#[async_trait]
impl SinkWriter for Append {
    async fn write(&self, at: Arrival, rows: Vec<UpsertRows>) -> Result<Written> {
        let mut slot = self.lanes[at.lane].lock().await;
        let writer = match &mut *slot {
            Some(writer) => writer,
            empty => empty.insert(self.table.writer(&self.options)?),
        };
        let (bytes, finished) = (writer.bytes(), writer.finished());
        for UpsertRows { rows, .. } in rows {
            writer.write(&rows).await?;
        }
        let waits = (writer.finished() - finished) as u64 * FILE_ACTION_BYTES;
        Ok(Written { waits, open: (bytes, writer.bytes()), refused: None })
    }

    async fn close(&self) -> Result<Staged> {
        let mut closing = JoinSet::new();
        for lane in &self.lanes {
            if let Some(writer) = lane.lock().await.take() {
                closing.spawn(writer.close());
            }
        }
        let mut files = StagedFiles::default();
        while let Some(closed) = closing.join_next().await {
            files.merge(closed.internal(|| "a writer ended abnormally".to_owned())??);
        }
        Ok(Staged::Files { table: self.index, files })
    }
}

/// A table with a primary key: rows wait until the epoch closes.
#[derive(Debug, Clone, Copy)]
pub struct UpsertSink {
    /// Index of the table in commit order.
    pub index: usize,
}

impl Sink for UpsertSink {
    fn kind(&self) -> &'static str {
        "delta upsert"
    }

    fn table(&self) -> Option<usize> {
        Some(self.index)
    }

    fn consolidates(&self) -> bool {
        true
    }

    fn open(&self, _: &Opening) -> Arc<dyn SinkWriter> {
        Arc::new(Upsert { index: self.index, held: Held::default() })
    }
}

struct Upsert {
    index: usize,
    held: Held,
}

#[async_trait]
impl SinkWriter for Upsert {
    async fn write(&self, at: Arrival, rows: Vec<UpsertRows>) -> Result<Written> {
        Ok(self.held.put(at, rows).await)
    }

    async fn close(&self) -> Result<Staged> {
        Ok(Staged::Rows { table: self.index, rows: self.held.take().await })
    }
}
