//! The keys that were let through, with their times: compact, exact, and cheap to expire.
//!
//! Key bytes are stored back to back in pages of rows that were let through at about the same time; a hash table holds row
//! numbers only. Expiry frees the oldest pages whole. A key of n bytes (as encoded: a BIGINT 9, a string of ten letters 19)
//! costs n + 4 bytes, 8 for the time if keys expire, and 10 to 20 in the hash table.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;

use crate::error::{Context, ErrorKind, Result};
use crate::operator::keyed::{Encoder, SlotTable, WARM, micros};
use crate::state::{KeyEquality, StateChange, StateTable};
use crate::time::{EventTime, Lag, Watermark};

/// A row number consists of a page number and, in the low bits, a row of the page.
const ROW_BITS: u32 = 12;
const PAGE_ROWS: usize = 1 << ROW_BITS;
/// Buckets per `within`: keys occupy memory at most this part of it longer than needed.
const BUCKETS: i64 = 32;
/// A batch of changes ends with the page that reaches this many rows.
const CHANGE_ROWS: usize = 1 << 16;

/// Keys that were let through, with their times.
#[derive(Debug)]
pub struct SeenKeys {
    table: SlotTable,
    pages: Vec<Page>,
    free: Vec<u32>,
    /// Pages by bucket of time; without `within` one bucket holds all.
    buckets: BTreeMap<i64, Bucket>,
    within: Option<Lag>,
    /// Keys let through before this have expired, whether or not their memory was freed.
    floor: Watermark,
    /// Pages with rows that were not written yet.
    fresh: Vec<u32>,
    live: u64,
    page_bytes: usize,
    schema: SchemaRef,
    keys: usize,
}

#[derive(Debug, Default)]
struct Page {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// The rows' times, microseconds; empty without `within`.
    times: Vec<i64>,
    written: usize,
}

#[derive(Debug)]
struct Bucket {
    pages: Vec<u32>,
    oldest: EventTime,
}

impl Page {
    fn key(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.bytes[start..self.ends[row] as usize]
    }

    /// An empty page with the capacity for as many rows and bytes as this one has.
    fn another(&self) -> Self {
        Self {
            bytes: Vec::with_capacity(self.bytes.len() + self.bytes.len() / 64),
            ends: Vec::with_capacity(self.ends.len()),
            times: Vec::with_capacity(self.times.len()),
            written: 0,
        }
    }

    fn memory(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>() + self.times.capacity() * size_of::<i64>()
    }
}

impl SeenKeys {
    /// An empty set. Keys are the `keys` columns of `input`; `within` is at least 1.
    pub fn new(input: &SchemaRef, keys: &[usize], within: Option<Lag>) -> Self {
        let mut fields: Vec<Field> = keys.iter().map(|&key| input.field(key).clone()).collect();
        if within.is_some() {
            fields.push(Field::new("__time", DataType::Timestamp(TimeUnit::Microsecond, None), false));
        }
        Self {
            table: SlotTable::new(),
            pages: Vec::new(),
            free: Vec::new(),
            buckets: BTreeMap::new(),
            within,
            floor: Watermark::NONE,
            fresh: Vec::new(),
            live: 0,
            page_bytes: 0,
            schema: Arc::new(Schema::new(fields)),
            keys: keys.len(),
        }
    }

    /// The state table: the key's columns and, if keys expire, the time.
    pub fn state(&self) -> StateTable {
        let schema = Arc::clone(&self.schema);
        let key = (0..schema.fields().len()).collect();
        let time = self.within.map(|_| self.keys);
        StateTable {
            name: "seen",
            schema,
            routing: self.keys,
            key,
            time,
            equality: KeyEquality::Bits,
            append_only: true,
        }
    }

    /// Keys let through `within` or more before `clock` expire. It never moves back; with [`Watermark::NONE`] nothing expires.
    pub fn advance(&mut self, clock: Watermark) {
        if let (Some(within), true) = (self.within, clock != Watermark::NONE) {
            let first = clock.time().saturating_sub(within).saturating_add(Lag::MICROSECOND);
            self.floor = self.floor.max(Watermark::at(first));
        }
    }

    /// Rows let through at or after this time are kept.
    pub fn floor(&self) -> Watermark {
        self.floor
    }

    /// See [`SlotTable::warm`].
    pub fn warm(&self, hashes: &[u32]) {
        self.table.warm(hashes);
    }

    /// `true` if a row of `key`, with the given hash, was let through so close to `time` that a row at `time` is its
    /// duplicate.
    pub fn recalls(&self, hash: u32, key: &[u8], time: EventTime) -> bool {
        let same = |number: u32| {
            let page = &self.pages[(number >> ROW_BITS) as usize];
            let row = number as usize & (PAGE_ROWS - 1);
            page.key(row) == key
                && self.within.is_none_or(|within| {
                    let then = EventTime(page.times[row]);
                    !then.is_below(self.floor) && time.0.abs_diff(then.0) < within.0.unsigned_abs()
                })
        };
        self.table.find(hash, same).is_some()
    }

    /// Records that a row of `key` was let through at `time`.
    pub fn keep(&mut self, hash: u32, key: &[u8], time: EventTime) {
        let Some((number, at)) = self.store(key, time) else { return };
        self.table.insert(hash, number);
        let page = &self.pages[at as usize];
        if page.written + 1 == page.ends.len() {
            self.fresh.push(at);
        }
    }

    /// Appends the key to a page of its time; `None` if it has already expired.
    fn store(&mut self, key: &[u8], time: EventTime) -> Option<(u32, u32)> {
        let slice = match self.within {
            None => 0,
            Some(_) if time.is_below(self.floor) => return None,
            Some(within) => time.0.div_euclid(width(within)),
        };
        let bucket = self.buckets.entry(slice).or_insert_with(|| Bucket { pages: Vec::new(), oldest: time });
        bucket.oldest = bucket.oldest.min(time);
        let last = bucket.pages.last().copied();
        let open = last.filter(|&at| self.pages[at as usize].ends.len() < PAGE_ROWS);
        let at = open.unwrap_or_else(|| {
            let at = self.free.pop().unwrap_or(self.pages.len() as u32);
            // The next page of a time with many keys will be about as large as the one before.
            let page = last.map_or_else(Page::default, |last| self.pages[last as usize].another());
            self.page_bytes += page.memory();
            if at as usize == self.pages.len() {
                self.pages.push(page);
            } else {
                self.pages[at as usize] = page;
            }
            bucket.pages.push(at);
            at
        });
        let page = &mut self.pages[at as usize];
        let before = page.memory();
        page.bytes.extend_from_slice(key);
        page.ends.push(page.bytes.len() as u32);
        if self.within.is_some() {
            page.times.push(time.0);
        }
        if page.ends.len() == PAGE_ROWS && page.bytes.capacity() > page.bytes.len() * 17 / 16 {
            page.bytes.shrink_to_fit();
        }
        self.page_bytes = self.page_bytes + page.memory() - before;
        self.live += 1;
        Some((at << ROW_BITS | (page.ends.len() as u32 - 1), at))
    }

    /// Frees the memory of expired keys.
    pub fn expire(&mut self) {
        let Some(within) = self.within else { return };
        let width = width(within);
        while let Some(bucket) = self.buckets.first_entry() {
            let end = EventTime(bucket.key().saturating_add(1).saturating_mul(width));
            if !self.floor.has_reached(end) {
                break;
            }
            for at in bucket.remove().pages {
                let page = std::mem::take(&mut self.pages[at as usize]);
                for row in 0..page.ends.len() {
                    self.table.remove(SlotTable::hash(page.key(row)), at << ROW_BITS | row as u32);
                }
                self.page_bytes -= page.memory();
                self.live -= page.ends.len() as u64;
                self.free.push(at);
            }
        }
    }

    /// The rows let through since the last call, as changes of state table `table`.
    pub fn changes(&mut self, table: usize, encoder: &Encoder) -> Result<StateChange> {
        let mut upserts = Vec::new();
        let mut keys: Vec<&[u8]> = Vec::new();
        let mut times: Vec<i64> = Vec::new();
        self.fresh.sort_unstable();
        self.fresh.dedup();
        for &at in &self.fresh {
            // Pages freed since then are empty, or hold newer rows and are listed for those too.
            let page = &self.pages[at as usize];
            for row in page.written..page.ends.len() {
                if page.times.get(row).is_none_or(|&time| !EventTime(time).is_below(self.floor)) {
                    keys.push(page.key(row));
                    times.extend(page.times.get(row));
                }
            }
            if keys.len() >= CHANGE_ROWS {
                upserts.push(state_rows(&self.schema, encoder, &keys, &mut times)?);
                keys.clear();
            }
        }
        if !keys.is_empty() {
            upserts.push(state_rows(&self.schema, encoder, &keys, &mut times)?);
        }
        for at in std::mem::take(&mut self.fresh) {
            let page = &mut self.pages[at as usize];
            page.written = page.ends.len();
        }
        Ok(StateChange { table, upserts, deletes: Vec::new(), cutoff: self.floor })
    }

    /// Restores rows of the state table.
    pub fn restore(&mut self, state: &RecordBatch, encoder: &mut Encoder) -> Result<()> {
        let times = self.within.map(|_| micros(state, self.keys)).transpose()?;
        encoder.encode_arrays(&state.columns()[..self.keys], state.num_rows())?;
        let hashes: Vec<u32> = (0..state.num_rows()).map(|row| SlotTable::hash(encoder.row(row))).collect();
        for (row, &hash) in hashes.iter().enumerate() {
            if row % WARM == 0 {
                self.table.warm(&hashes[row..hashes.len().min(row + WARM)]);
            }
            let key = encoder.row(row);
            let time = EventTime(times.as_ref().map_or(0, |times| times.value(row)));
            if let Some((number, at)) = self.store(key, time) {
                self.table.insert(hash, number);
                let page = &mut self.pages[at as usize];
                page.written = page.ends.len();
            }
        }
        Ok(())
    }

    /// Number of rows in state.
    pub fn len(&self) -> u64 {
        self.live
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.page_bytes + self.pages.capacity() * size_of::<Page>()
    }

    /// The time of the oldest row in state; `None` if keys never expire.
    pub fn oldest(&self) -> Option<EventTime> {
        let oldest = self.buckets.first_key_value().map(|(_, bucket)| bucket.oldest)?;
        self.within.map(|_| oldest)
    }
}

/// The width of a bucket.
fn width(within: Lag) -> i64 {
    (within.0 / BUCKETS).max(1)
}

fn state_rows(schema: &SchemaRef, encoder: &Encoder, keys: &[&[u8]], times: &mut Vec<i64>) -> Result<RecordBatch> {
    let mut columns = encoder.decode(keys.iter().copied())?;
    if schema.fields().len() > columns.len() {
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(std::mem::take(times)));
        columns.push(times);
    }
    RecordBatch::try_new(Arc::clone(schema), columns)
        .context(ErrorKind::Internal, || "remembered keys do not fit their table".to_owned())
}
