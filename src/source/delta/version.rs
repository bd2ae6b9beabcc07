//! The rows of one version: its files in order, cut into batches, from any row on.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::position::Position;
use crate::delta::{DataFile, FileColumns, FileRows, TableStore};
use crate::error::{Context, Error, Result};
use crate::sql::types::timestamp;
use crate::time::EventTime;

/// The maximum number of rows in a decoded batch, so that a chunk stays within caches.
const MAX_BATCH_ROWS: usize = 65_536;
const CHANGE_TYPE: &str = "_change_type";

/// Meaning of a file's rows in a change feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// They were added (or exist).
    Insert,
    /// They were deleted.
    Delete,
    /// Each row states its own change.
    Told,
}

/// Settings for reading the files.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    /// Columns of the table, in its order.
    pub(super) read: SchemaRef,
    pub(super) files: FileColumns,
    /// `true` if rows have the columns of the change feed.
    pub(super) feed: bool,
}

/// The files of one version while they are read.
#[derive(Debug)]
pub(super) struct VersionRows {
    /// The next row to return.
    pub(super) position: Position,
    timestamp_ms: i64,
    files: VecDeque<(DataFile, Change)>,
    /// The least event time of each file not read to its end, from the log, if there were several files; `None` = any.
    least_unread: VecDeque<Option<EventTime>>,
    open: Option<(FileRows, Change)>,
    /// A decoded batch that was not returned yet: before the last row is returned, it is known whether more follow.
    ahead: Option<RecordBatch>,
    /// Rows to skip.
    skip: u64,
}

impl VersionRows {
    /// The rows of `files` from `position` on.
    pub(super) fn new(
        position: Position,
        timestamp_ms: i64,
        files: VecDeque<(DataFile, Change)>,
        time_column: Option<&str>,
    ) -> Self {
        let least = |(file, _): &(DataFile, Change)| file.least_times.get(time_column?).copied().map(EventTime);
        let least_unread = if files.len() > 1 { files.iter().map(least).collect() } else { VecDeque::new() };
        Self { position, timestamp_ms, files, least_unread, open: None, ahead: None, skip: position.row }
    }

    /// The least event time in unread files, in the form of
    /// [`SourceReader::least_unread`](crate::source::chunk::SourceReader).
    pub(super) fn least_unread(&self) -> Option<Option<EventTime>> {
        let mut unread = self.least_unread.iter();
        let first = *unread.next()?;
        Some(first.and_then(|first| unread.try_fold(first, |least, next| Some(least.min((*next)?)))))
    }

    /// Reads ahead; returns false if no row is left. Errors: the version has fewer rows than were read before.
    pub(super) async fn has_more(&mut self, store: &TableStore, columns: &Columns) -> Result<bool> {
        while self.ahead.is_none() {
            let Some((rows, change)) = &mut self.open else {
                let Some((file, change)) = self.files.pop_front() else { break };
                self.open(store, columns, &file, change).await?;
                continue;
            };
            let change = *change;
            let Some(batch) = rows.next().await? else {
                self.open = None;
                self.least_unread.pop_front();
                continue;
            };
            let pass = self.skip.min(batch.num_rows() as u64);
            self.skip -= pass;
            if (pass as usize) < batch.num_rows() {
                let batch = batch.slice(pass as usize, batch.num_rows() - pass as usize);
                self.ahead = Some(if columns.feed { self.told(&batch, change)? } else { batch });
            }
        }
        if self.ahead.is_none() && self.skip > 0 {
            let Position { version, row, .. } = self.position;
            return Err(Error::environment(format!("version {version} of `{}` is not what it was", store.location()))
                .with_detail(format!("It was read up to row {row} and has {} rows now.", row - self.skip))
                .with_hint("If the table was made anew, give the source or the pipeline another name to begin anew."));
        }
        Ok(self.ahead.is_some())
    }

    /// The next rows, at most `limit`; `None` unless [`VersionRows::has_more`] returned true before.
    pub(super) fn take(&mut self, limit: usize) -> Option<RecordBatch> {
        let batch = self.ahead.take()?;
        let rows = batch.num_rows().min(limit.max(1));
        if rows < batch.num_rows() {
            self.ahead = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        self.position.row += rows as u64;
        Some(batch.slice(0, rows))
    }

    /// Opens a file, unless all its rows are to be skipped.
    async fn open(&mut self, store: &TableStore, columns: &Columns, file: &DataFile, change: Change) -> Result<()> {
        let mut jump = 0;
        if let Some(rows) = file.rows {
            if self.skip >= rows {
                self.skip -= rows;
                self.least_unread.pop_front();
                return Ok(());
            }
            jump = std::mem::take(&mut self.skip);
        }
        let mut schema = columns.read.clone();
        if change == Change::Told {
            let told = Field::new(CHANGE_TYPE, DataType::Utf8, true);
            let fields = schema.fields().iter().cloned().chain([Arc::new(told)]).collect::<Vec<_>>();
            schema = Arc::new(Schema::new(fields));
        }
        let rows = FileRows::open(store, file, &schema, &columns.files, jump, MAX_BATCH_ROWS).await?;
        self.open = Some((rows, change));
        Ok(())
    }

    /// The rows with the columns of the change feed: change, version, and time of the commit.
    fn told(&self, batch: &RecordBatch, change: Change) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let mut fields = batch.schema().fields().to_vec();
        let mut arrays = batch.columns().to_vec();
        if let Some(word) = match change {
            Change::Insert => Some("insert"),
            Change::Delete => Some("delete"),
            Change::Told => None,
        } {
            fields.push(Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, true)));
            arrays.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(word, rows))));
        }
        let version = i64::try_from(self.position.version).unwrap_or(i64::MAX);
        let instant = TimestampMicrosecondArray::from_value(self.timestamp_ms.saturating_mul(1_000), rows);
        let versions: ArrayRef = Arc::new(Int64Array::from_value(version, rows));
        fields.push(Arc::new(Field::new("_commit_version", DataType::Int64, false)));
        fields.push(Arc::new(Field::new("_commit_timestamp", timestamp(), false)));
        arrays.push(versions);
        arrays.push(Arc::new(instant.with_data_type(timestamp())));
        let schema = Arc::new(Schema::new(fields));
        RecordBatch::try_new(schema, arrays).internal(|| "a change cannot be told".to_owned())
    }
}
