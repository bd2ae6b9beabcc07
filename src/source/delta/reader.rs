//! The reader: a snapshot if requested, then one commit after the other, then waiting for the next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::columns::read_columns;
use super::position::{Part, Position};
use super::version::{Change, Columns, VersionRows};
use crate::catalog::{ColumnOrigin, DeltaSourceOptions, DeltaStart, OnTableChange, SourceDef, TableFeed};
use crate::delta::{Commit, DataFile, TableShape, TableStore, files_at};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::source::chunk::{Chunk, Offset, PartitionId, Payload, Poll, PollLimit, ReadFrom, SourceReader};
use crate::time::EventTime;

/// Versions without rows after which progress is returned anyway, so that earlier log entries may be deleted.
const EMPTY_VERSIONS: u64 = 64;

/// Reads one table.
#[derive(Debug)]
pub struct DeltaReader {
    def: SourceDef,
    feed: TableFeed,
    on_change: OnTableChange,
    poll_interval: Duration,
    store: TableStore,
    env: Env,
    partition: PartitionId,
    columns: Columns,
    /// Versions after this one are not read.
    last_version: Option<u64>,
    /// The newest known version.
    newest: u64,
    looked_at_ms: i64,
    /// The next row.
    position: Position,
    /// The end of the chunks returned so far.
    handed_out: Offset,
    current: Option<VersionRows>,
}

impl DeltaReader {
    /// Opens the table. Errors: it does not exist, or lacks a declared column.
    pub async fn open(def: &SourceDef, options: &DeltaSourceOptions, from: &ReadFrom, env: &Env) -> Result<Self> {
        let store = TableStore::open(&options.path, &options.storage, env)?;
        let shape = TableShape::read(&store, None).await?;
        let partition = PartitionId::from("0");
        let position = match (from.offsets.get(&partition), options.start) {
            (Some(offset), _) => Position::of_offset(*offset)?,
            (None, DeltaStart::Snapshot) => Position::snapshot(shape.version),
            (None, DeltaStart::Latest) => Position::commit(shape.version + 1),
            (None, DeltaStart::Version(version)) => Position::commit(version),
        };
        Ok(Self {
            columns: columns(def, options.feed, &shape)?,
            def: def.clone(),
            feed: options.feed,
            on_change: options.on_change,
            poll_interval: options.poll_interval,
            store,
            env: env.clone(),
            partition,
            last_version: from.bounded.then_some(shape.version),
            newest: shape.version,
            looked_at_ms: env.unix_ms(),
            handed_out: position.offset()?,
            position,
            current: None,
        })
    }

    /// The offset at which reading begins, before a chunk was returned.
    #[cfg(test)]
    pub(super) fn begins_at(&self) -> Option<Offset> {
        Some(self.handed_out)
    }

    /// Chunks of as many versions as the limit allows.
    async fn read(&mut self, limit: PollLimit) -> Result<Vec<Chunk>> {
        let mut chunks = Vec::new();
        let (mut rows, mut bytes) = (limit.rows.max(1), limit.bytes.max(1));
        while rows > 0 && bytes > 0 {
            let Some(mut current) = self.version().await? else { break };
            if !current.has_more(&self.store, &self.columns).await? {
                self.position = self.position.next_version();
                continue;
            }
            // Versions without rows lie in between: a chunk of its own covers them, so that this chunk begins at the offset
            // of its first row.
            self.hand_out_empty(&mut chunks)?;
            let Some(batch) = current.take(rows) else { continue };
            rows -= batch.num_rows().min(rows);
            bytes = bytes.saturating_sub(batch.get_array_memory_size().max(1));
            self.position = current.position;
            if current.has_more(&self.store, &self.columns).await? {
                self.current = Some(current);
            } else {
                self.position = self.position.next_version();
            }
            chunks.push(self.chunk(batch)?);
        }
        if chunks.is_empty() && self.position.version > Position::of_offset(self.handed_out)?.version + EMPTY_VERSIONS {
            self.hand_out_empty(&mut chunks)?;
        }
        Ok(chunks)
    }

    fn hand_out_empty(&mut self, chunks: &mut Vec<Chunk>) -> Result<()> {
        if self.position.offset()? != self.handed_out {
            chunks.push(self.chunk(RecordBatch::new_empty(Arc::new(Schema::empty())))?);
        }
        Ok(())
    }

    /// A chunk from the end of the last one to the current position.
    fn chunk(&mut self, batch: RecordBatch) -> Result<Chunk> {
        let (start, end) = (self.handed_out, self.position.offset()?);
        self.handed_out = end;
        Ok(Chunk { partition: PartitionId::clone(&self.partition), start, end, payload: Payload::Rows(batch) })
    }

    /// The version at the current position; `None` if it is not to be read or does not exist yet.
    async fn version(&mut self) -> Result<Option<VersionRows>> {
        if let Some(current) = self.current.take() {
            return Ok(Some(current));
        }
        let version = self.position.version;
        if self.last_version.is_some_and(|last| version > last) {
            return Ok(None);
        }
        if self.position.part == Part::Snapshot {
            return self.snapshot(version).await.map(Some);
        }
        if version > self.newest && !self.is_due() {
            return Ok(None);
        }
        let Some(commit) = Commit::read(&self.store, version).await? else {
            if version <= self.newest {
                return Err(lost(&self.def.name, self.store.location(), version));
            }
            self.looked_at_ms = self.env.unix_ms();
            return Ok(None);
        };
        self.newest = self.newest.max(version);
        if commit.table_changed {
            let shape = TableShape::read(&self.store, None).await?;
            self.columns = columns(&self.def, self.feed, &shape)?;
        }
        let files = match self.feed {
            TableFeed::Append => self.added(&commit)?,
            TableFeed::Changes => changes(&commit),
        };
        Ok(Some(VersionRows::new(self.position, commit.timestamp_ms, files, self.time_column())))
    }

    /// The table's column that holds the event time.
    fn time_column(&self) -> Option<&str> {
        let time = &self.def.watermark.as_ref()?.column;
        let column = self.def.columns.iter().find(|column| column.name == *time)?;
        match &column.origin {
            ColumnOrigin::Field(path) => path.first().filter(|_| path.len() == 1).map(String::as_str),
            ColumnOrigin::Metadata(_) => None,
        }
    }

    fn is_due(&self) -> bool {
        self.env.unix_ms() - self.looked_at_ms >= self.poll_interval.as_millis() as i64
    }

    async fn snapshot(&mut self, version: u64) -> Result<VersionRows> {
        let files = files_at(&self.store, version).await?;
        let commit = match self.feed {
            TableFeed::Append => None,
            TableFeed::Changes => Commit::read(&self.store, version).await?,
        };
        // Without its log entry, the version's time is that of its newest file.
        let newest_file_ms = files.last().map_or(0, |file| file.modified_ms);
        let timestamp_ms = commit.map_or(newest_file_ms, |commit| commit.timestamp_ms);
        let files = files.into_iter().map(|file| (file, Change::Insert)).collect();
        Ok(VersionRows::new(self.position, timestamp_ms, files, self.time_column()))
    }

    fn added(&self, commit: &Commit) -> Result<VecDeque<(DataFile, Change)>> {
        if commit.gone_files().next().is_some() {
            if self.on_change == OnTableChange::Skip {
                return Ok(VecDeque::new());
            }
            let (name, version) = (&self.def.name, commit.version);
            return Err(Error::config(format!("version {version} of the table of source `{name}` takes rows away"))
                .with_detail("A source with `mode = 'append'` reads tables that rows are only added to.")
                .with_hint("Use `mode = 'changes'`, or pass over such commits with `on_change = 'skip'`."));
        }
        Ok(commit.new_files().map(|file| (file.clone(), Change::Insert)).collect())
    }

    async fn next_chunks(&mut self, limit: PollLimit) -> Result<Poll> {
        let started = self.env.instant();
        loop {
            let chunks = self.read(limit).await?;
            if !chunks.is_empty() {
                return Ok(Poll::Chunks(chunks));
            }
            if self.last_version.is_some_and(|last| self.position.version > last) {
                return Ok(Poll::Finished);
            }
            let left = limit.wait.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(Poll::Idle);
            }
            tokio::time::sleep(left.min(self.poll_interval.max(Duration::from_millis(1)))).await;
        }
    }
}

impl SourceReader for DeltaReader {
    fn poll(&mut self, limit: PollLimit) -> BoxFuture<'_, Result<Poll>> {
        self.next_chunks(limit).boxed()
    }

    /// The files of a version overlap in time: one may hold the same hours as the previous one.
    fn least_unread(&self) -> Option<Option<EventTime>> {
        self.current.as_ref()?.least_unread()
    }

    fn may_fall_silent(&self) -> bool {
        false
    }

    /// Known only when everything was read: the log does not always contain row counts.
    fn lag(&self) -> Option<u64> {
        (self.current.is_none() && self.position.version > self.newest).then_some(0)
    }
}

fn columns(def: &SourceDef, feed: TableFeed, shape: &TableShape) -> Result<Columns> {
    let read = read_columns(def, feed, shape)?;
    Ok(Columns { read, files: shape.columns.clone(), feed: feed == TableFeed::Changes })
}

/// The changes of a commit: those in its change feed, else the rows of removed and added files.
fn changes(commit: &Commit) -> VecDeque<(DataFile, Change)> {
    if !commit.feed.is_empty() {
        return commit.feed.iter().map(|file| (file.clone(), Change::Told)).collect();
    }
    // For a file that was removed and added again, only the rows whose deletion mark changed are read.
    let gone = commit.gone_files().filter_map(|file| match commit.new_files().find(|now| now.path == file.path) {
        Some(now) => file.rows_marked_by(now),
        None => Some(file.clone()),
    });
    let came =
        commit.new_files().filter_map(|file| match commit.gone_files().find(|before| before.path == file.path) {
            Some(before) => file.rows_marked_by(before),
            None => Some(file.clone()),
        });
    gone.map(|file| (file, Change::Delete)).chain(came.map(|file| (file, Change::Insert))).collect()
}

fn lost(source: &str, location: &str, version: u64) -> Error {
    Error::environment(format!("source `{source}` has lost version {version} of `{location}`"))
        .with_detail("The table's log does not reach back to it any more.")
        .with_hint("Keep the log longer (`delta.logRetentionDuration`) than its readers lag behind; to begin anew, rename the source.")
}
