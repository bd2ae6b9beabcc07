//! The state file: an immutable object with the upserts and deletes of one table.
//!
//! Layout: blocks back to back, then the footer. A block is a complete Arrow IPC stream (schema, one record batch, end) with
//! rows of some key groups; its buffers are compressed with LZ4, except in an epoch's files on local disks, which are merged
//! soon. The footer is JSON: format, operator, table, and per block its kind, position, rows, key groups, times and XXH64.
//! The snapshot that names the file holds its size, the footer's size and the footer's XXH64, so every byte read is
//! verified, and a shard reads only the blocks of its key groups.
//!
//! A failed check is an error of kind `Damaged` that names the file and the operator. The order of versions is left to
//! [`super::store`].

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::ipc::{CompressionType, MetadataVersion};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use super::newest::times;
use super::snapshot::{STATE_FORMAT, StateFile};
use super::table::StateTable;
use super::views::{bytes, compact_views};
use crate::error::{Context, Error, Result};
use crate::standing::Epoch;
use crate::time::{EventTime, Watermark};

/// Files up to this size are fetched in one request.
const WHOLE: u64 = 1 << 20;
/// Larger objects are uploaded in parts of about this size.
const PART: usize = 8 << 20;
/// Approximate size of a block without rows.
const SCHEMA_BYTES: usize = 4 << 10;
/// Adjacent blocks are fetched together up to this size.
const FETCH: u64 = 8 << 20;

/// Kind of a block's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Upserts,
    Deletes,
}

/// Position and content of a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    pub kind: Kind,
    pub offset: u64,
    pub bytes: u64,
    pub rows: u64,
    /// The first and the last key group.
    pub groups: (u16, u16),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<(EventTime, EventTime)>,
    checksum: u64,
}

impl Block {
    /// `true` if some of its rows may be in `groups`.
    pub fn touches(&self, groups: &Range<u16>) -> bool {
        self.groups.0 < groups.end && groups.start <= self.groups.1
    }

    /// `true` if all of its rows have a time below `cutoff`.
    pub fn is_dead(&self, cutoff: Watermark) -> bool {
        self.times.is_some_and(|(_, newest)| newest.is_below(cutoff))
    }

    /// `true` if all of its rows are in `groups`.
    pub fn within(&self, groups: &Range<u16>) -> bool {
        groups.start <= self.groups.0 && self.groups.1 < groups.end
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    format: u32,
    operator: String,
    table: String,
    blocks: Vec<Block>,
}

/// Options for encoding blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    /// On other threads, so that the writing task continues with other files.
    pub aside: bool,
    pub compressed: bool,
}

/// Writes one file, block by block; memory is bounded by one upload part.
pub(super) struct FileWriter {
    store: Arc<dyn ObjectStore>,
    path: Path,
    operator: String,
    table: StateTable,
    encoding: Encoding,
    upload: Option<Box<dyn MultipartUpload>>,
    waiting: Vec<Bytes>,
    offset: u64,
    sent: u64,
    blocks: Vec<Block>,
}

impl FileWriter {
    /// Begins the file `path`, which no one else may write.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        path: Path,
        operator: &str,
        table: &StateTable,
        encoding: Encoding,
    ) -> Self {
        Self {
            store,
            path,
            operator: operator.to_owned(),
            table: table.clone(),
            encoding,
            upload: None,
            waiting: Vec::new(),
            offset: 0,
            sent: 0,
            blocks: Vec::new(),
        }
    }

    /// Appends rows of the key groups `groups` (first and last).
    pub async fn block(&mut self, kind: Kind, groups: (u16, u16), rows: RecordBatch) -> Result<()> {
        let rows = compact_views(rows)?;
        let (count, times) = (rows.num_rows() as u64, span(&self.table, kind, &rows));
        let schema = block_schema(&self.table, kind);
        let name = self.table.name;
        let compression = self.encoding.compressed.then_some(CompressionType::LZ4_FRAME);
        let work = move || {
            let bytes = encode(&schema, &rows, compression);
            let bytes = bytes.internal(|| format!("rows of state table `{name}` cannot be encoded"))?;
            let checksum = XxHash64::oneshot(0, &bytes);
            Ok((bytes, checksum))
        };
        let (bytes, checksum) = if self.encoding.aside { offload(work).await? } else { work()? };
        let size = bytes.len() as u64;
        self.blocks.push(Block { kind, offset: self.offset, bytes: size, rows: count, groups, times, checksum });
        self.append(bytes.into()).await
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        self.offset += bytes.len() as u64;
        self.waiting.push(bytes);
        if self.offset - self.sent >= PART as u64 {
            self.send().await.environment(|| format!("state file `{}` cannot be written", self.path))?;
        }
        Ok(())
    }

    async fn send(&mut self) -> object_store::Result<()> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => none.insert(self.store.put_multipart(&self.path).await?),
        };
        self.sent = self.offset;
        upload.put_part(PutPayload::from_iter(self.waiting.drain(..))).await
    }

    /// `true` if nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Gives up; nothing of the file remains.
    pub async fn abort(mut self) {
        let Some(upload) = &mut self.upload else { return };
        if let Err(error) = upload.abort().await {
            tracing::warn!(path = %self.path, %error, "unfinished state file stays");
        }
    }

    /// Ends the file; it is durable when this returns.
    pub async fn finish(mut self, epoch: Epoch) -> Result<StateFile> {
        let blocks = std::mem::take(&mut self.blocks);
        let rows = |kind| blocks.iter().filter(|block| block.kind == kind).map(|block| block.rows).sum();
        let (upserts, deletes) = (rows(Kind::Upserts), rows(Kind::Deletes));
        let times = whole_span(&blocks);
        let footer = Footer {
            format: STATE_FORMAT,
            operator: std::mem::take(&mut self.operator),
            table: self.table.name.to_owned(),
            blocks,
        };
        let footer = serde_json::to_vec(&footer).internal(|| "footer of a state file cannot be encoded".to_owned())?;
        let file = StateFile {
            path: self.path.to_string(),
            epoch,
            rows: upserts,
            deletes,
            bytes: self.offset + footer.len() as u64,
            footer: footer.len() as u64,
            checksum: format!("{:016x}", XxHash64::oneshot(0, &footer)),
            times,
        };
        self.waiting.push(footer.into());
        self.offset = file.bytes;
        self.put().await.environment(|| format!("state file `{}` cannot be written", file.path))?;
        Ok(file)
    }

    async fn put(&mut self) -> object_store::Result<()> {
        if self.upload.is_none() {
            let payload = PutPayload::from_iter(self.waiting.drain(..));
            return self.store.put(&self.path, payload).await.map(|_| ());
        }
        self.send().await?;
        match &mut self.upload {
            Some(upload) => upload.complete().await.map(|_| ()),
            None => Ok(()),
        }
    }
}

/// Runs `work` on a thread where it does not block other tasks; in place when there is no runtime.
async fn offload<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await.internal(|| "encoding of state was stopped".to_owned())?,
        Err(_) => work(),
    }
}

/// The columns of a block.
pub(super) fn block_schema(table: &StateTable, kind: Kind) -> SchemaRef {
    match kind {
        Kind::Upserts => Arc::clone(&table.schema),
        Kind::Deletes => table.delete_schema(),
    }
}

fn encode(
    schema: &Schema,
    rows: &RecordBatch,
    compression: Option<CompressionType>,
) -> Result<Vec<u8>, arrow::error::ArrowError> {
    let options = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)?.try_with_compression(compression)?;
    // Reserves the approximate size: growing step by step would reallocate repeatedly.
    let plain: usize = rows.columns().iter().map(bytes).sum();
    let room = if compression.is_some() { plain / 2 } else { plain } + SCHEMA_BYTES;
    let mut writer = StreamWriter::try_new_with_options(Vec::with_capacity(room), schema, options)?;
    writer.write(rows)?;
    writer.finish()?;
    writer.into_inner()
}

fn span(table: &StateTable, kind: Kind, rows: &RecordBatch) -> Option<(EventTime, EventTime)> {
    let time = table.time.filter(|_| kind == Kind::Upserts)?;
    let (values, nulls) = times(rows.column(time));
    if values.is_empty() || nulls.is_some_and(|nulls| nulls.null_count() > 0) {
        return None;
    }
    let (oldest, newest) = values.iter().fold((i64::MAX, i64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    Some((EventTime(oldest), EventTime(newest)))
}

/// The times of all upserts, if all of them have one.
fn whole_span(blocks: &[Block]) -> Option<(EventTime, EventTime)> {
    let upserts = blocks.iter().filter(|block| block.kind == Kind::Upserts).map(|block| block.times);
    let spans: Vec<_> = upserts.collect::<Option<_>>()?;
    spans.into_iter().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// A file whose footer was read and checked.
pub(super) struct FileReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    operator: String,
    bytes: u64,
    blocks: Vec<Block>,
    /// The whole file, if it is small.
    whole: Option<Bytes>,
    upserts: SchemaRef,
    deletes: SchemaRef,
}

impl FileReader {
    /// Fetches the footer (of a small file: all of it) and checks it against the snapshot.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        file: &StateFile,
        operator: &str,
        table: &StateTable,
    ) -> Result<Self> {
        let mut reader = Self {
            store,
            path: Path::from(file.path.as_str()),
            operator: operator.to_owned(),
            bytes: file.bytes,
            blocks: Vec::new(),
            whole: None,
            upserts: Arc::clone(&table.schema),
            deletes: table.delete_schema(),
        };
        let split =
            file.bytes.checked_sub(file.footer).ok_or_else(|| reader.damaged("its snapshot contradicts itself"))?;
        let start = if file.bytes <= WHOLE { 0 } else { split };
        let fetched = reader.range(start..file.bytes).await?;
        let footer = fetched.slice((split - start) as usize..);
        if format!("{:016x}", XxHash64::oneshot(0, &footer)) != file.checksum {
            return Err(reader.damaged("the checksum of its footer differs"));
        }
        let footer: Footer = serde_json::from_slice(&footer)
            .map_err(|error| reader.damaged("its footer is unknown").with_source(error))?;
        if footer.format != STATE_FORMAT {
            return Err(reader.damaged(&format!("it has format {}, and {STATE_FORMAT} is read", footer.format)));
        }
        if footer.operator != operator || footer.table != table.name {
            return Err(reader.damaged(&format!("it belongs to table `{}` of `{}`", footer.table, footer.operator)));
        }
        reader.blocks = footer.blocks;
        reader.whole = (start == 0).then_some(fetched);
        Ok(reader)
    }

    /// Runs of adjacent blocks to fetch together: blocks of one kind with rows in `groups` that are not all below `cutoff`.
    pub fn runs(&self, kind: Kind, groups: &Range<u16>, cutoff: Watermark) -> Vec<Vec<Block>> {
        let mut runs: Vec<Vec<Block>> = Vec::new();
        let wanted = |block: &&Block| block.kind == kind && block.touches(groups) && !block.is_dead(cutoff);
        for block in self.blocks.iter().filter(wanted) {
            match runs.last_mut() {
                Some(run)
                    if run.last().is_some_and(|last| last.offset + last.bytes == block.offset)
                        && block.offset + block.bytes - run[0].offset <= FETCH =>
                {
                    run.push(block.clone());
                }
                _ => runs.push(vec![block.clone()]),
            }
        }
        runs
    }

    /// The bytes of adjacent blocks.
    pub async fn fetch(&self, run: &[Block]) -> Result<Bytes> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(Bytes::new()) };
        let range = first.offset..last.offset + last.bytes;
        match &self.whole {
            Some(whole) if range.end <= whole.len() as u64 => Ok(whole.slice(range.start as usize..range.end as usize)),
            _ => self.range(range).await,
        }
    }

    /// The rows of a block, from the bytes that [`FileReader::fetch`] returned for its run.
    pub fn decode(&self, run: &[Block], fetched: &Bytes, block: &Block) -> Result<RecordBatch> {
        let start = (block.offset - run[0].offset) as usize;
        let bytes = fetched.slice(start..start + block.bytes as usize);
        if XxHash64::oneshot(0, &bytes) != block.checksum {
            return Err(self.damaged(&format!("the checksum of its block at byte {} differs", block.offset)));
        }
        let mut decoder = StreamDecoder::new();
        let rows = decoder.decode(&mut Buffer::from(bytes));
        let rows = rows.map_err(|error| self.damaged("a block cannot be decoded").with_source(error))?;
        let rows = rows.ok_or_else(|| self.damaged("a block is empty"))?;
        let schema = if block.kind == Kind::Upserts { &self.upserts } else { &self.deletes };
        if !same_columns(&rows.schema(), schema) || rows.num_rows() as u64 != block.rows {
            return Err(self.damaged("its rows have other columns than the operator's state"));
        }
        RecordBatch::try_new(Arc::clone(schema), rows.columns().to_vec())
            .map_err(|error| self.damaged("its rows contradict the operator's state").with_source(error))
    }

    async fn range(&self, range: Range<u64>) -> Result<Bytes> {
        let length = range.end - range.start;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let got = match self.store.get_opts(&self.path, options).await {
            Ok(found) if found.meta.size != self.bytes => return Err(self.wrong_size(found.meta.size)),
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match got {
            Ok(bytes) if bytes.len() as u64 == length => Ok(bytes),
            Ok(bytes) => Err(self.damaged(&format!("{} bytes came instead of {length}", bytes.len()))),
            Err(object_store::Error::NotFound { .. }) => Err(self.damaged("it is missing")),
            Err(error) => match self.store.head(&self.path).await {
                // Stores refuse a range beyond the end with errors of their own.
                Ok(meta) if meta.size != self.bytes => Err(self.wrong_size(meta.size)),
                _ => Err(Error::environment(format!("state file `{}` cannot be read", self.path)).with_source(error)),
            },
        }
    }

    fn wrong_size(&self, found: u64) -> Error {
        self.damaged(&format!("it has {found} bytes instead of {}", self.bytes))
    }

    fn damaged(&self, what: &str) -> Error {
        damaged(self.path.as_ref(), &self.operator, what)
    }
}

fn same_columns(a: &Schema, b: &Schema) -> bool {
    let columns = a.fields().iter().zip(b.fields());
    a.fields().len() == b.fields().len()
        && columns.into_iter().all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
}

/// The error for a state file that contradicts its snapshot.
pub(super) fn damaged(path: &str, operator: &str, what: &str) -> Error {
    Error::damaged(format!("state file `{path}` of operator `{operator}` is damaged"))
        .with_detail(format!("What was found: {what}."))
        .with_hint("Restore the file from a backup, or let the operator begin with an empty memory: `--allow-rebuild`.")
}
