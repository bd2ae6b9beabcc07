//! The reader: files in the order of their names, each from where it was left.
//!
//! Reading is synchronous inside `poll`: a poll reads at most its limit (a few MiB, mostly from the page cache).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::lines::{self, LastLine, Range};
use super::listing::{Listing, Location};
use super::parquet_rows::{self, ParquetRows};
use crate::catalog::{FileSourceOptions, Format};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::source::chunk::{Chunk, Offset, Offsets, PartitionId, Payload, Poll, PollLimit, ReadFrom, SourceReader};

/// Bytes of a line before any was read, and bytes that are read at a time at least.
const LINE_BYTES: usize = 256;
const READ_BYTES: usize = 64 << 10;

/// Parquet batches hold at most this many rows, so that a chunk stays within caches.
const MAX_BATCH_ROWS: usize = 65_536;

/// Reads the files of one source.
#[derive(Debug)]
pub struct FileReader {
    source: String,
    format: Format,
    location: Location,
    env: Env,
    poll_interval: Duration,
    bounded: bool,
    /// Committed progress of files that were not seen yet.
    committed: Offsets,
    files: BTreeMap<PartitionId, FileState>,
    listed_at_ms: i64,
    open: Option<(PartitionId, ParquetRows)>,
    /// Bytes of a line, on average of the last chunk: so much is read for so many rows, and no more.
    line_bytes: usize,
}

/// How far a file has been read.
#[derive(Debug)]
struct FileState {
    path: PathBuf,
    /// Bytes that may be read.
    size: u64,
    next: Offset,
    /// The header line of a CSV file and the byte after it, once it was read.
    header: Option<(Vec<u8>, u64)>,
    /// Nothing more to read until the file grows.
    exhausted: bool,
    /// Where reading begins is known to be no middle of a line.
    begins_well: bool,
}

impl FileReader {
    /// Opens the source `name`. Errors: `path` does not exist, or committed progress lies beyond a file's end.
    pub fn open(name: &str, options: &FileSourceOptions, format: Format, from: &ReadFrom, env: &Env) -> Result<Self> {
        let location = Location::parse(&options.path);
        let listing = location.list()?;
        let mut reader = Self {
            source: name.to_owned(),
            format,
            location,
            env: env.clone(),
            poll_interval: options.poll_interval,
            bounded: from.bounded,
            committed: from.offsets.clone(),
            files: BTreeMap::new(),
            listed_at_ms: env.unix_ms(),
            open: None,
            line_bytes: LINE_BYTES,
        };
        reader.take_listing(listing)?;
        Ok(reader)
    }

    fn take_listing(&mut self, listing: Listing) -> Result<()> {
        for (id, found) in listing {
            let next = self.committed.remove(&id).unwrap_or(0);
            let state = self.files.entry(PartitionId::clone(&id)).or_insert_with(|| FileState {
                path: found.path,
                size: 0,
                next,
                header: None,
                exhausted: true,
                begins_well: next == 0 || self.format == Format::Parquet,
            });
            if self.format != Format::Parquet && (found.size as i64) < state.next.max(state.size as i64) {
                return Err(Error::environment(format!("file `{id}` of source `{}` has become shorter", self.source))
                    .with_detail(format!("It was read up to byte {} and has {} bytes now.", state.next, found.size))
                    .with_hint("Files may grow and be added; write changed data to a new file."));
            }
            if found.size != state.size {
                state.exhausted = false;
                state.size = found.size;
            }
        }
        Ok(())
    }

    fn list_if_due(&mut self) -> Result<()> {
        let now = self.env.unix_ms();
        let due = now - self.listed_at_ms >= self.poll_interval.as_millis() as i64;
        if self.bounded || !due {
            return Ok(());
        }
        self.listed_at_ms = now;
        let listing = self.location.list()?;
        self.take_listing(listing)
    }

    /// Chunks of as many files as the limit allows.
    fn read(&mut self, limit: PollLimit) -> Result<Vec<Chunk>> {
        let mut chunks = Vec::new();
        let (mut rows, mut bytes) = (limit.rows.max(1), limit.bytes.max(1));
        let pending: Vec<PartitionId> =
            self.files.iter().filter(|(_, state)| !state.exhausted).map(|(id, _)| PartitionId::clone(id)).collect();
        for id in pending {
            while rows > 0 && bytes > 0 {
                let chunk = match self.format {
                    Format::Parquet => self.read_rows(&id, rows)?,
                    Format::Json | Format::Csv => self.read_lines(&id, rows, bytes)?,
                };
                let Some(chunk) = chunk else { break };
                let (used_rows, used_bytes) = match &chunk.payload {
                    Payload::Records(records) => (records.len(), records.data.len()),
                    Payload::Rows(batch) => (batch.num_rows(), batch.get_array_memory_size()),
                };
                rows = rows.saturating_sub(used_rows);
                bytes = bytes.saturating_sub(used_bytes.max(1));
                chunks.push(chunk);
            }
        }
        Ok(chunks)
    }

    fn read_lines(&mut self, id: &PartitionId, rows: usize, bytes: usize) -> Result<Option<Chunk>> {
        let bytes = bytes.min(rows.saturating_mul(self.line_bytes).saturating_add(READ_BYTES));
        let Some(state) = self.files.get_mut(id) else { return Ok(None) };
        let last_line = match (self.bounded, self.format) {
            (false, _) => LastLine::Waits,
            (true, Format::Json) => LastLine::CountsIfJson,
            (true, _) => LastLine::Counts,
        };
        let start = state.next;
        if !state.begins_well {
            if lines::is_inside_a_line(&state.path, start.unsigned_abs())? {
                return Err(grown_inside_a_line(&self.source, id, start));
            }
            state.begins_well = true;
        }
        let mut first = start.unsigned_abs();
        if self.format == Format::Csv && state.header.is_none() {
            state.header = lines::read_header(&state.path, state.size, last_line)?;
            if state.header.is_none() {
                state.exhausted = true;
                return Ok(None);
            }
        }
        let mut header: &[u8] = &[];
        if let Some((line, after)) = &state.header {
            header = line;
            first = first.max(*after);
        }
        let range = Range { start: first, end: state.size.max(first), last_line };
        let Some((records, end)) = lines::read(&state.path, range, rows, bytes, header)? else {
            state.exhausted = true;
            if self.bounded && first < state.size {
                tracing::warn!(
                    source = self.source,
                    file = &**id,
                    byte = first,
                    "the last line has no line end and is not a whole JSON value: it is left for a later run"
                );
            }
            return Ok(None);
        };
        state.next = end as i64;
        state.exhausted = end >= state.size;
        self.line_bytes =
            records.data.len().checked_div(records.len()).map_or(self.line_bytes, |mean| mean + mean / 4 + 1);
        let partition = PartitionId::clone(id);
        Ok(Some(Chunk { partition, start, end: state.next, payload: Payload::Records(records) }))
    }

    fn read_rows(&mut self, id: &PartitionId, rows: usize) -> Result<Option<Chunk>> {
        let Some(state) = self.files.get_mut(id) else { return Ok(None) };
        let mut open = match self.open.take().filter(|(open, rows_of)| open == id && rows_of.batch_rows() <= rows) {
            Some((_, open)) => open,
            None if !self.bounded && !parquet_rows::is_complete(&state.path)? => {
                state.exhausted = true;
                return Ok(None);
            }
            None => ParquetRows::open(&state.path, state.next, rows.min(MAX_BATCH_ROWS))?,
        };
        if state.next > open.total {
            return Err(Error::environment(format!("file `{id}` of source `{}` has become shorter", self.source))
                .with_detail(format!("It was read up to row {} and has {} rows now.", state.next, open.total))
                .with_hint("Files may be added; write changed data to a new file."));
        }
        let Some(batch) = open.next(&state.path)? else {
            state.exhausted = true;
            return Ok(None);
        };
        let start = state.next;
        state.next += batch.num_rows() as i64;
        self.open = Some((PartitionId::clone(id), open));
        let partition = PartitionId::clone(id);
        Ok(Some(Chunk { partition, start, end: state.next, payload: Payload::Rows(batch) }))
    }

    async fn next_chunks(&mut self, limit: PollLimit) -> Result<Poll> {
        let started = self.env.instant();
        loop {
            self.list_if_due()?;
            let chunks = self.read(limit)?;
            if !chunks.is_empty() {
                return Ok(Poll::Chunks(chunks));
            }
            if self.bounded {
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

impl SourceReader for FileReader {
    fn poll(&mut self, limit: PollLimit) -> BoxFuture<'_, Result<Poll>> {
        self.next_chunks(limit).boxed()
    }

    /// Known only when everything was read: what lies in unread files is bytes, not records.
    fn lag(&self) -> Option<u64> {
        self.files.values().all(|state| state.exhausted).then_some(0)
    }
}

#[cold]
fn grown_inside_a_line(source: &str, file: &str, at: Offset) -> Error {
    Error::environment(format!("file `{file}` of source `{source}` has grown inside a line that was read as its last"))
        .with_detail(format!("It was read up to byte {at}, where it ended without a line end; now that line goes on."))
        .with_hint("Let writers end lines before a run with `'available now'`, or write whole files and rename them into the folder.")
}
