//! A table's rows in memory, by key and by version.
//!
//! Rows belong to segments, one per data file, and a segment is alive in a range of versions. So a new version costs as much
//! as its changes, and versions share the rows that they have in common. Rows of segments that no version needs are skipped;
//! once they are as many as the live rows, the index is rebuilt without them.

use std::hash::Hasher;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::HashTable;
use twox_hash::XxHash64;

use crate::equality::key_values;
use crate::error::{Context, Error, Result};

/// The end of a chain of rows with one key.
pub const NONE: u32 = u32::MAX;
/// Batches are concatenated into chunks of about this many bytes.
const CHUNK_BYTES: usize = 128 << 20;
/// Tests have few tags, so that different keys share a tag.
const TAG_MASK: u32 = if cfg!(test) { 1 } else { u32::MAX };
/// The end of a segment that is alive in the newest version.
pub const ALIVE: u64 = u64::MAX;

/// Encodes keys so that equal keys have equal bytes.
#[derive(Debug)]
pub struct Keys {
    converter: RowConverter,
    null_equals_null: bool,
}

impl Keys {
    /// For keys of the types of these columns.
    pub fn new(schema: &SchemaRef, columns: &[usize], null_equals_null: bool) -> Result<Self> {
        let fields = columns.iter().map(|column| SortField::new(schema.field(*column).data_type().clone())).collect();
        let converter = RowConverter::new(fields).internal(|| "lookup keys cannot be encoded".to_owned())?;
        Ok(Self { converter, null_equals_null })
    }

    /// The keys of a batch, and a flag per row: `true` if its key matches nothing because of a null in it.
    pub fn encode(&self, batch: &RecordBatch, columns: &[usize]) -> Result<(Rows, Option<Vec<bool>>)> {
        let arrays: Vec<ArrayRef> = columns.iter().map(|column| batch.column(*column).clone()).collect();
        let keys: Vec<ArrayRef> = arrays.iter().map(key_values).collect();
        let rows = self.converter.convert_columns(&keys).internal(|| "lookup keys cannot be encoded".to_owned())?;
        if self.null_equals_null || arrays.iter().all(|array| array.logical_null_count() == 0) {
            return Ok((rows, None));
        }
        let mut null = vec![false; batch.num_rows()];
        for nulls in arrays.iter().filter_map(|array| array.logical_nulls()) {
            null.iter_mut().enumerate().for_each(|(row, is_null)| *is_null |= nulls.is_null(row));
        }
        Ok((rows, Some(null)))
    }
}

/// A data file's rows, and the versions that contain it.
#[derive(Debug)]
struct Segment {
    identity: String,
    /// The first version that contains it.
    from: u64,
    /// The first version after `from` that does not contain it.
    until: u64,
    rows: usize,
}

/// A row of the table: its key, its position, its segment, and the next row with the same key.
#[derive(Debug, Clone, Copy)]
struct Entry {
    key_start: u64,
    key_length: u32,
    chunk: u32,
    row: u32,
    segment: u32,
    next: u32,
}

/// The newest row of a key, and enough bits of the key's hash to tell it from nearly all others without reading the key.
#[derive(Debug, Clone, Copy)]
struct Head {
    tag: u32,
    entry: u32,
}

/// Position of a row: its chunk and its number there.
pub type Place = (u32, u32);

/// The rows of a new file.
#[derive(Debug)]
pub struct FileContents {
    pub identity: String,
    pub batches: Vec<RecordBatch>,
    /// The first version that no longer contains them; [`ALIVE`] if that is not known yet.
    pub until: u64,
}

/// Rows by key and version; see the module.
#[derive(Debug)]
pub struct Index {
    schema: SchemaRef,
    key_columns: Vec<usize>,
    chunks: Vec<RecordBatch>,
    chunk_bytes: usize,
    segments: Vec<Segment>,
    entries: Vec<Entry>,
    key_bytes: Vec<u8>,
    heads: HashTable<Head>,
    /// Rows of segments that are alive in some version, and of those that are not.
    live_rows: usize,
    dead_rows: usize,
    /// `true` if every segment is known to be alive in every version.
    uniform: bool,
}

impl Index {
    /// An empty index.
    pub fn new(schema: SchemaRef, key_columns: Vec<usize>) -> Self {
        Self {
            schema,
            key_columns,
            chunks: Vec::new(),
            chunk_bytes: 0,
            segments: Vec::new(),
            entries: Vec::new(),
            key_bytes: Vec::new(),
            heads: HashTable::new(),
            live_rows: 0,
            dead_rows: 0,
            uniform: false,
        }
    }

    /// Number of rows that some version contains.
    pub fn rows(&self) -> usize {
        self.live_rows
    }

    /// Memory of rows, keys and hash table, in bytes.
    pub fn bytes(&self) -> usize {
        self.chunk_bytes
            + self.entries.capacity() * size_of::<Entry>()
            + self.key_bytes.capacity()
            + self.heads.capacity() * (size_of::<Head>() + 1) * 8 / 7
    }

    /// The rows, addressed by [`Place`].
    pub fn chunks(&self) -> &[RecordBatch] {
        &self.chunks
    }

    /// Adds files that `version` contains and the version before does not; [`Index::forget_before`] must follow.
    pub fn add(&mut self, keys: &Keys, files: Vec<FileContents>, version: u64) -> Result<()> {
        let segments = files.into_iter().map(|FileContents { identity, batches, until }| {
            let rows = batches.iter().map(RecordBatch::num_rows).sum();
            (Segment { identity, from: version, until, rows }, batches)
        });
        self.uniform = false;
        self.insert(keys, segments.collect())
    }

    /// Ends a file, if it is known: `version` no longer contains it.
    pub fn end(&mut self, identity: &str, version: u64) {
        let found = self.segments.iter_mut().rev().find(|s| s.until == ALIVE && s.identity == identity);
        if let Some(segment) = found {
            segment.until = version;
            self.uniform = false;
        }
    }

    /// Drops the versions before `first`; their rows are removed now or later.
    pub fn forget_before(&mut self, keys: &Keys, first: u64) -> Result<()> {
        let dead = |segment: &Segment| segment.until <= first;
        self.dead_rows = self.segments.iter().filter(|segment| dead(segment)).map(|segment| segment.rows).sum();
        self.live_rows = self.segments.iter().map(|segment| segment.rows).sum::<usize>() - self.dead_rows;
        self.uniform = self.segments.iter().all(|segment| segment.from <= first && segment.until == ALIVE);
        if self.dead_rows == 0 || self.dead_rows < self.live_rows {
            return Ok(());
        }
        self.rebuild(keys, first)
    }

    /// For each key the number of its newest row; [`NONE`] if there is none, or if `null` flags the key.
    ///
    /// Several short loops instead of one long one: each waits for memory in one way only, so the processor overlaps the
    /// waits of many rows.
    pub fn heads(&self, keys: &Rows, null: Option<&[bool]>) -> Vec<u32> {
        let hashes: Vec<u64> = keys.iter().map(|key| hash(key.as_ref())).collect();
        let candidate =
            |hash: &u64| self.heads.find(*hash, |head| head.tag == tag(*hash)).map_or(NONE, |head| head.entry);
        let mut heads: Vec<u32> = hashes.iter().map(candidate).collect();
        for (row, head) in heads.iter_mut().enumerate().filter(|(_, head)| **head != NONE) {
            let key = keys.row(row);
            if null.is_some_and(|null| null[row]) {
                *head = NONE;
            } else if self.key(*head) != key.as_ref() {
                *head = self.exact(hashes[row], key.as_ref());
            }
        }
        heads
    }

    /// Calls `found` with the place of every row of `version` in the chain that starts at `head`.
    #[inline]
    pub fn walk(&self, head: u32, version: u64, mut found: impl FnMut(Place)) {
        let mut next = head;
        while next != NONE {
            let entry = &self.entries[next as usize];
            if self.uniform || self.is_alive(entry.segment, version) {
                found((entry.chunk, entry.row));
            }
            next = entry.next;
        }
    }

    /// The newest row of a key that shares its tag with another key.
    #[cold]
    fn exact(&self, hash: u64, key: &[u8]) -> u32 {
        let found = self.heads.find(hash, |head| head.tag == tag(hash) && self.key(head.entry) == key);
        found.map_or(NONE, |head| head.entry)
    }

    #[inline]
    fn is_alive(&self, segment: u32, version: u64) -> bool {
        let segment = &self.segments[segment as usize];
        segment.from <= version && version < segment.until
    }

    #[inline]
    fn key(&self, entry: u32) -> &[u8] {
        let entry = &self.entries[entry as usize];
        let start = entry.key_start as usize;
        &self.key_bytes[start..start + entry.key_length as usize]
    }

    fn insert(&mut self, keys: &Keys, segments: Vec<(Segment, Vec<RecordBatch>)>) -> Result<()> {
        let more: usize = segments.iter().map(|(segment, _)| segment.rows).sum();
        let too_many = || Error::environment("a lookup table has more than 4,294,967,294 rows");
        u32::try_from(self.entries.len() + more).ok().filter(|rows| *rows < NONE).ok_or_else(too_many)?;
        self.entries.reserve(more);
        let (key_bytes, entries) = (&self.key_bytes, &self.entries);
        let key_of = |entry: &u32| {
            let entry = &entries[*entry as usize];
            &key_bytes[entry.key_start as usize..entry.key_start as usize + entry.key_length as usize]
        };
        self.heads.reserve(more, |head| hash(key_of(&head.entry)));
        // Files are concatenated, so that rows are taken from few arrays.
        let mut waiting: Vec<(u32, RecordBatch)> = Vec::new();
        let mut bytes = 0;
        for (segment, batches) in segments {
            let number = self.segments.len() as u32;
            self.live_rows += segment.rows;
            self.segments.push(segment);
            for batch in batches {
                bytes += slice_bytes(&batch)?;
                waiting.push((number, batch));
                if bytes >= CHUNK_BYTES {
                    self.chunk(keys, &std::mem::take(&mut waiting))?;
                    bytes = 0;
                }
            }
        }
        self.chunk(keys, &waiting)
    }

    /// Concatenates batches, each with its segment, into one chunk.
    fn chunk(&mut self, keys: &Keys, parts: &[(u32, RecordBatch)]) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        let all = concat_batches(&self.schema, parts.iter().map(|(_, batch)| batch));
        let all = all.internal(|| "a lookup table's files differ".to_owned())?;
        let (encoded, null) = keys.encode(&all, &self.key_columns)?;
        let chunk = self.chunks.len() as u32;
        let mut end = all.num_rows();
        // Backwards, so that rows with one key are found in the order of the table.
        for (segment, batch) in parts.iter().rev() {
            let start = end - batch.num_rows();
            for row in (start..end).rev() {
                if null.as_ref().is_none_or(|null| !null[row]) {
                    self.link(encoded.row(row).as_ref(), chunk, row as u32, *segment);
                }
            }
            end = start;
        }
        self.chunk_bytes += all.get_array_memory_size();
        self.chunks.push(all);
        Ok(())
    }

    fn link(&mut self, key: &[u8], chunk: u32, row: u32, segment: u32) {
        let Self { entries, key_bytes, heads, .. } = self;
        let number = entries.len() as u32;
        let hash_of = hash(key);
        let key_of = |entry: u32| {
            let entry: &Entry = &entries[entry as usize];
            &key_bytes[entry.key_start as usize..entry.key_start as usize + entry.key_length as usize]
        };
        let (mut key_start, mut next) = (key_bytes.len() as u64, NONE);
        let tag = tag(hash_of);
        match heads.find_mut(hash_of, |head| head.tag == tag && key_of(head.entry) == key) {
            Some(head) => {
                // All rows of a key share its bytes.
                (key_start, next) = (entries[head.entry as usize].key_start, head.entry);
                head.entry = number;
            }
            None => {
                heads.insert_unique(hash_of, Head { tag, entry: number }, |head| hash(key_of(head.entry)));
                key_bytes.extend_from_slice(key);
            }
        }
        entries.push(Entry { key_start, key_length: key.len() as u32, chunk, row, segment, next });
    }

    /// Rebuilds the index from the segments that versions at or after `first` contain.
    fn rebuild(&mut self, keys: &Keys, first: u64) -> Result<()> {
        let mut kept: Vec<(Segment, Vec<RecordBatch>)> = Vec::new();
        let mut rows_of = self.rows_by_segment();
        for (number, segment) in std::mem::take(&mut self.segments).into_iter().enumerate() {
            if segment.until > first {
                kept.push((segment, std::mem::take(&mut rows_of[number])));
            }
        }
        *self = Self::new(self.schema.clone(), std::mem::take(&mut self.key_columns));
        self.uniform = kept.iter().all(|(segment, _)| segment.from <= first && segment.until == ALIVE);
        self.insert(keys, kept)
    }

    /// The rows of each segment, as slices of the chunks; a segment's rows are consecutive, in the order of the segments.
    fn rows_by_segment(&self) -> Vec<Vec<RecordBatch>> {
        let mut chunks = self.chunks.iter();
        let mut rest: Option<RecordBatch> = None;
        let mut all = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            let (mut missing, mut batches) = (segment.rows, Vec::new());
            while missing > 0 {
                let Some(chunk) = rest.take().or_else(|| chunks.next().cloned()) else { break };
                let taken = missing.min(chunk.num_rows());
                batches.push(chunk.slice(0, taken));
                missing -= taken;
                rest = (taken < chunk.num_rows()).then(|| chunk.slice(taken, chunk.num_rows() - taken));
            }
            all.push(batches);
        }
        all
    }
}

/// Bytes of the rows of a batch, even if they are slices of larger arrays.
fn slice_bytes(batch: &RecordBatch) -> Result<usize> {
    let sizes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
    sizes.sum::<Result<usize, _>>().internal(|| "a lookup table cannot be measured".to_owned())
}

/// Bits that the hash table itself uses least.
#[inline]
fn tag(hash: u64) -> u32 {
    (hash >> 25) as u32 & TAG_MASK
}

#[inline]
fn hash(key: &[u8]) -> u64 {
    let mut hasher = XxHash64::with_seed(0);
    hasher.write(key);
    hasher.finish()
}
