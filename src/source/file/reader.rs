//! The reader: files in the order of their names, each from its committed offset; with a watermark, in the order of event
//! time.
//!
//! With a watermark, each file is a partition that counts until it is read to its end, so that rows of parallel files are
//! not late. So that all files count from the beginning and none holds time back for long, the first record of each is read
//! before the rest. A file of lines that was written recently may grow, and counts for a while longer
//! ([`SourceReader::tails`]).
//!
//! Reading is synchronous inside `poll`: a poll reads at most its limit (a few MiB, mostly from the page cache).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::lines::{self, LastLine, Range};
use super::listing::{Listing, Location};
use super::parquet_rows::{self, ParquetRows};
use super::records::Ends;
use super::text::Text;
use crate::catalog::{CsvDialect, FileSourceOptions, Format};
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::source::chunk::{Chunk, Offset, Offsets, PartitionId, Payload, Poll, PollLimit, ReadFrom, SourceReader};

/// The assumed bytes of a line before any was read, and the least number of bytes read at a time.
const LINE_BYTES: usize = 256;
const READ_BYTES: usize = 64 << 10;

/// The maximum number of compressed files that are kept open.
const MOST_COMPRESSED: usize = 64;

/// The maximum number of rows of a Parquet batch, so that a chunk stays within caches.
const MAX_BATCH_ROWS: usize = 65_536;

/// Reads the files of one source.
pub struct FileReader {
    source: String,
    format: Format,
    location: Location,
    env: Env,
    poll_interval: Duration,
    bounded: bool,
    /// Committed progress of files that were not listed yet.
    committed: Offsets,
    files: BTreeMap<PartitionId, FileState>,
    listed_at_ms: i64,
    open: Option<(PartitionId, ParquetRows)>,
    csv: CsvDialect,
    /// Compressed files that are being read: continuing is cheap, starting again is not.
    compressed: HashMap<PartitionId, Text>,
    /// Files that are not read for now, because they are ahead.
    held: Vec<PartitionId>,
    /// Files in the order of their event time; `None` = the source has no watermark.
    order: Option<Vec<PartitionId>>,
    /// The time after its last write for which a file that was read to its end still counts for the watermark.
    growing: Duration,
    /// Mean bytes of a line in the last chunk, plus a quarter; bounds the bytes that are read for the requested rows.
    line_bytes: usize,
}

/// The progress of a file.
#[derive(Debug)]
struct FileState {
    path: PathBuf,
    /// Bytes that may be read; for a compressed file, its stored size.
    size: u64,
    /// `true` if it is compressed: offsets then count decompressed bytes.
    compressed: bool,
    next: Offset,
    /// The header line of a CSV file and the byte after it, once they were read.
    header: Option<(Vec<u8>, u64)>,
    /// `true` if there is nothing more to read until the file grows.
    exhausted: bool,
    /// `true` once it was checked that reading does not begin inside a line.
    begins_well: bool,
    /// The time of the last write, if it is known.
    modified: Option<SystemTime>,
    /// `true` if it was read in this run.
    touched: bool,
}

impl FileReader {
    /// Opens the source `name`. Errors: `path` does not exist, or committed progress is beyond a file's end.
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
            csv: options.csv.clone(),
            compressed: HashMap::new(),
            held: Vec::new(),
            order: None,
            growing: Duration::ZERO,
            line_bytes: LINE_BYTES,
        };
        reader.take_listing(listing)?;
        Ok(reader)
    }

    /// Makes every file count for the source's watermark.
    #[must_use]
    pub fn in_order_of_time(mut self) -> Self {
        self.order = Some(Vec::new());
        self
    }

    /// Makes files of lines, which may grow, count for this long after their last write.
    #[must_use]
    pub fn growing_for(mut self, growing: Duration) -> Self {
        self.growing = growing;
        self
    }

    /// True if a file that was read to its end may get more lines.
    fn may_grow(&self, state: &FileState) -> bool {
        let now = UNIX_EPOCH + Duration::from_millis(self.env.unix_ms().unsigned_abs());
        let is_old = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age >= self.growing);
        let at_rest = state.modified.is_some_and(is_old);
        !self.bounded && self.format != Format::Parquet && !state.compressed && !self.growing.is_zero() && !at_rest
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
                touched: false,
                compressed: false,
                modified: None,
            });
            state.modified = found.modified;
            let shorter = (found.size as i64) < state.next.max(state.size as i64);
            if self.format != Format::Parquet && shorter && !(found.size >= state.size && is_compressed(&state.path)?) {
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
        for id in self.pending() {
            while rows > 0 && bytes > 0 {
                let first = self.files.get(&id).is_some_and(|state| self.order.is_some() && !state.touched);
                let rows_now = if first { 1 } else { rows };
                let chunk = match self.format {
                    Format::Parquet => self.read_rows(&id, rows_now)?,
                    Format::Json | Format::Csv => self.read_lines(&id, rows_now, bytes)?,
                };
                let Some(chunk) = chunk else { break };
                self.files.entry(PartitionId::clone(&id)).and_modify(|state| state.touched = true);
                let (used_rows, used_bytes) = match &chunk.payload {
                    Payload::Records(records) => (records.len(), records.data.len()),
                    Payload::Rows(batch) => (batch.num_rows(), batch.get_array_memory_size()),
                };
                rows = rows.saturating_sub(used_rows);
                bytes = bytes.saturating_sub(used_bytes.max(1));
                chunks.push(chunk);
                if first {
                    break;
                }
            }
        }
        Ok(chunks)
    }

    /// Files with something to read, in reading order; only those that were not read at all, if there are any.
    fn pending(&self) -> Vec<PartitionId> {
        let unread = || self.files.iter().filter(|(_, state)| !state.exhausted);
        let names = |(id, _): (&PartitionId, &FileState)| PartitionId::clone(id);
        let Some(order) = &self.order else { return unread().map(names).collect() };
        if unread().count() > 1 && unread().any(|(_, state)| !state.touched) {
            return unread().filter(|(_, state)| !state.touched).map(names).collect();
        }
        // When the slowest file has just ended, the files behind it are still held: then they are read anyway.
        let all_held = unread().all(|(id, _)| self.held.contains(id));
        let places: HashMap<&PartitionId, usize> = order.iter().zip(0..).collect();
        let free = unread().filter(|(id, _)| all_held || !self.held.contains(id));
        let mut pending: Vec<PartitionId> = free.map(names).collect();
        pending.sort_by_key(|id| places.get(id).copied());
        pending
    }

    fn read_lines(&mut self, id: &PartitionId, rows: usize, bytes: usize) -> Result<Option<Chunk>> {
        let Some(path) = self.files.get(id).map(|state| state.path.clone()) else { return Ok(None) };
        let failed = || format!("cannot read `{}`", path.display());
        let mut file = match self.compressed.remove(id) {
            Some(file) => file,
            None => Text::open(&path).environment(failed)?,
        };
        let chunk = match self.read_records(id, &mut file, rows, bytes) {
            Ok(read) => read?,
            // The writer of a compressed file has not finished it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.left_for_later(id, "the compressed file is cut short: what follows is left for a later run");
                None
            }
            Err(error) => return Err(error).environment(failed),
        };
        if chunk.is_none() {
            self.files.entry(PartitionId::clone(id)).and_modify(|state| state.exhausted = true);
        } else if file.is_compressed() && self.compressed.len() < MOST_COMPRESSED {
            self.compressed.insert(PartitionId::clone(id), file);
        }
        Ok(chunk)
    }

    /// The next records of a file; `None` if none is complete.
    fn read_records(
        &mut self,
        id: &PartitionId,
        file: &mut Text,
        rows: usize,
        bytes: usize,
    ) -> io::Result<Result<Option<Chunk>>> {
        let bytes = bytes.min(rows.saturating_mul(self.line_bytes).saturating_add(READ_BYTES));
        let Some(state) = self.files.get_mut(id) else { return Ok(Ok(None)) };
        state.compressed = file.is_compressed();
        let last_line = match (self.bounded || state.compressed, self.format) {
            (false, _) => LastLine::Waits,
            (true, Format::Json) if !state.compressed => LastLine::CountsIfJson,
            (true, Format::Csv) if !state.compressed => LastLine::CountsIfClosed,
            (true, _) => LastLine::Counts,
        };
        let ends = if self.format == Format::Csv { Ends::Csv(&self.csv) } else { Ends::Lines };
        let size = if state.compressed { u64::MAX } else { state.size };
        let start = state.next;
        if !state.begins_well {
            if lines::is_inside_a_line(file, start.unsigned_abs())? {
                return Ok(Err(grown_inside_a_line(&self.source, id, start)));
            }
            state.begins_well = true;
        }
        let mut first = start.unsigned_abs();
        if self.format == Format::Csv && self.csv.header && state.header.is_none() {
            state.header = lines::read_header(file, size, ends, last_line)?;
            if state.header.is_none() {
                return Ok(Ok(None));
            }
        }
        let mut header: &[u8] = &[];
        if let Some((line, after)) = &state.header {
            header = line;
            first = first.max(*after);
        }
        let range = Range { start: first, end: size.max(first), last_line };
        let Some((records, end)) = lines::read(file, range, ends, rows, bytes, header)? else {
            if self.bounded && first < state.size && !state.compressed {
                let what = match self.format {
                    Format::Csv => "a quoted field does not end: it and what follows is left for a later run",
                    _ => "the last line has no line end and is not a whole JSON value: it is left for a later run",
                };
                self.left_for_later(id, what);
            }
            return Ok(Ok(None));
        };
        state.next = end as i64;
        state.exhausted = end >= size;
        self.line_bytes =
            records.data.len().checked_div(records.len()).map_or(self.line_bytes, |mean| mean + mean / 4 + 1);
        let partition = PartitionId::clone(id);
        Ok(Ok(Some(Chunk { partition, start, end: state.next, payload: Payload::Records(records) })))
    }

    fn left_for_later(&self, id: &PartitionId, what: &str) {
        let byte = self.files.get(id).map_or(0, |state| state.next);
        if self.bounded {
            tracing::warn!(source = self.source, file = &**id, byte, "{what}");
        }
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
        state.exhausted = state.next >= open.total;
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
            // Files that had nothing more have ended now; others were held for them.
            if self.files.values().any(|state| !state.exhausted) {
                continue;
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

    fn open_partitions(&self) -> Vec<PartitionId> {
        if self.order.is_none() {
            return Vec::new();
        }
        self.files.iter().filter(|(_, state)| !state.exhausted).map(|(id, _)| PartitionId::clone(id)).collect()
    }

    fn tails(&self) -> Vec<PartitionId> {
        if self.order.is_none() {
            return Vec::new();
        }
        let ended = self.files.iter().filter(|(_, state)| state.exhausted && state.touched && self.may_grow(state));
        ended.map(|(id, _)| PartitionId::clone(id)).collect()
    }

    fn may_fall_silent(&self) -> bool {
        false
    }

    fn hold(&mut self, partitions: &[PartitionId]) {
        self.held = partitions.to_vec();
    }

    fn prefer(&mut self, slowest_first: &[PartitionId]) {
        self.order = self.order.take().map(|_| slowest_first.to_vec());
    }

    /// Known only when everything was read: the size of unread files is known in bytes, not in records.
    fn lag(&self) -> Option<u64> {
        self.files.values().all(|state| state.exhausted).then_some(0)
    }
}

impl std::fmt::Debug for FileReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileReader").field("source", &self.source).field("files", &self.files).finish_non_exhaustive()
    }
}

/// Errors: the file cannot be read. Offsets in a compressed file may exceed its size.
fn is_compressed(path: &Path) -> Result<bool> {
    let file = Text::open(path).environment(|| format!("cannot read `{}`", path.display()))?;
    Ok(file.is_compressed())
}

#[cold]
fn grown_inside_a_line(source: &str, file: &str, at: Offset) -> Error {
    Error::environment(format!("file `{file}` of source `{source}` has grown inside a line that was read as its last"))
        .with_detail(format!("It was read up to byte {at}, where it ended without a line end; now that line goes on."))
        .with_hint("Let writers end lines before a run with `'available now'`, or write whole files and rename them into the folder.")
}
