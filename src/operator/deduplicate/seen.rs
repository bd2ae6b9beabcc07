//! The keys that were let through, and when: compact, exact, and cheap to forget.
//!
//! Key bytes lie one after another in pages of rows that were let through at about the same time; a hash table holds row numbers
//! only. Forgetting takes the oldest pages whole. A key of n bytes (as encoded: a BIGINT 9, a string of ten letters 19) costs
//! n + 4 bytes, 8 for the time if keys are ever forgotten, and 10 to 20 in the hash table.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;

use crate::error::{Context, ErrorKind, Result};
use crate::operator::keyed::{Encoder, SlotTable, micros};
use crate::state::{NO_WATERMARK, StateChange, StateTable};

/// A row number is a page and a row of it.
const ROW_BITS: u32 = 12;
const PAGE_ROWS: usize = 1 << ROW_BITS;
/// Time is divided so finely, relative to `within`: keys stay at most this part longer than needed.
const BUCKETS: i64 = 32;
/// Rows of one batch of changes.
const CHANGE_ROWS: usize = 1 << 16;

/// Which keys were let through, with their times.
#[derive(Debug)]
pub struct SeenKeys {
    table: SlotTable,
    pages: Vec<Page>,
    free: Vec<u32>,
    /// Pages by time, rounded; without `within` one bucket holds all.
    buckets: BTreeMap<i64, Bucket>,
    within: Option<i64>,
    /// Keys let through before this are forgotten, whether or not their memory was given back.
    floor: i64,
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
    /// Empty without `within`.
    times: Vec<i64>,
    written: usize,
}

#[derive(Debug)]
struct Bucket {
    pages: Vec<u32>,
    oldest: i64,
}

impl Page {
    fn key(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.bytes[start..self.ends[row] as usize]
    }

    /// An empty page with room for what this one holds.
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
    /// Nothing seen yet. Keys are the `keys` columns of `input`; `within` is at least 1.
    pub fn new(input: &SchemaRef, keys: &[usize], within: Option<i64>) -> Self {
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
            floor: NO_WATERMARK,
            fresh: Vec::new(),
            live: 0,
            page_bytes: 0,
            schema: Arc::new(Schema::new(fields)),
            keys: keys.len(),
        }
    }

    /// The state table: the key's columns and, if keys are ever forgotten, the time.
    pub fn state(&self) -> StateTable {
        let schema = Arc::clone(&self.schema);
        let key = (0..schema.fields().len()).collect();
        let time = self.within.map(|_| self.keys);
        StateTable { name: "seen", schema, routing: self.keys, key, time, append_only: true }
    }

    /// Keys let through `within` or more before `now` are forgotten. `now` never moves back; [`NO_WATERMARK`] forgets nothing.
    pub fn advance(&mut self, now: i64) {
        if let (Some(within), true) = (self.within, now != NO_WATERMARK) {
            self.floor = self.floor.max(now.saturating_sub(within).saturating_add(1));
        }
    }

    /// The time from which on rows let through are remembered.
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// See [`SlotTable::warm`].
    pub fn warm(&self, hashes: &[u32]) {
        self.table.warm(hashes);
    }

    /// Whether a row of `key`, whose hash is given, was let through so close to `time` that another one is its duplicate.
    pub fn recalls(&self, hash: u32, key: &[u8], time: i64) -> bool {
        let same = |number: u32| {
            let page = &self.pages[(number >> ROW_BITS) as usize];
            let row = number as usize & (PAGE_ROWS - 1);
            page.key(row) == key
                && self.within.is_none_or(|within| {
                    let then = page.times[row];
                    then >= self.floor && time.abs_diff(then) < within.unsigned_abs()
                })
        };
        self.table.find(hash, same).is_some()
    }

    /// Remembers that a row of `key` was let through at `time`.
    pub fn keep(&mut self, hash: u32, key: &[u8], time: i64) {
        let Some((number, at)) = self.store(key, time) else { return };
        self.table.insert(hash, number);
        let page = &self.pages[at as usize];
        if page.written + 1 == page.ends.len() {
            self.fresh.push(at);
        }
    }

    /// Puts the key into the page of its time; `None` if it need not be remembered.
    fn store(&mut self, key: &[u8], time: i64) -> Option<(u32, u32)> {
        let slice = match self.within {
            None => 0,
            Some(_) if time < self.floor => return None,
            Some(within) => time.div_euclid((within / BUCKETS).max(1)),
        };
        let bucket = self.buckets.entry(slice).or_insert_with(|| Bucket { pages: Vec::new(), oldest: time });
        bucket.oldest = bucket.oldest.min(time);
        let last = bucket.pages.last().copied();
        let open = last.filter(|&at| self.pages[at as usize].ends.len() < PAGE_ROWS);
        let at = open.unwrap_or_else(|| {
            let at = self.free.pop().unwrap_or(self.pages.len() as u32);
            // The next page of a time with many keys will be as large as the one before.
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
            page.times.push(time);
        }
        if page.ends.len() == PAGE_ROWS && page.bytes.capacity() > page.bytes.len() * 17 / 16 {
            page.bytes.shrink_to_fit();
        }
        self.page_bytes = self.page_bytes + page.memory() - before;
        self.live += 1;
        Some((at << ROW_BITS | (page.ends.len() as u32 - 1), at))
    }

    /// Gives back the memory of keys that are forgotten.
    pub fn expire(&mut self) {
        let Some(within) = self.within else { return };
        let width = (within / BUCKETS).max(1);
        while let Some(bucket) = self.buckets.first_entry() {
            // Its last instant must be below the floor.
            if bucket.key().saturating_add(1).saturating_mul(width) > self.floor {
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

    /// What was let through since the last call, as of state table `table`.
    pub fn changes(&mut self, table: usize, encoder: &Encoder) -> Result<StateChange> {
        let mut upserts = Vec::new();
        let mut keys: Vec<&[u8]> = Vec::new();
        let mut times: Vec<i64> = Vec::new();
        self.fresh.sort_unstable();
        self.fresh.dedup();
        for &at in &self.fresh {
            // Pages that were given back since are empty or hold newer rows, which stand in the list too.
            let page = &self.pages[at as usize];
            for row in page.written..page.ends.len() {
                if page.times.get(row).is_none_or(|&time| time >= self.floor) {
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

    /// Takes rows of the state table back.
    pub fn restore(&mut self, state: &RecordBatch, encoder: &mut Encoder) -> Result<()> {
        let times = self.within.map(|_| micros(state, self.keys)).transpose()?;
        encoder.encode_arrays(&state.columns()[..self.keys], state.num_rows())?;
        for row in 0..state.num_rows() {
            let key = encoder.row(row);
            let time = times.as_ref().map_or(0, |times| times.value(row));
            if let Some((number, at)) = self.store(key, time) {
                self.table.insert(SlotTable::hash(key), number);
                let page = &mut self.pages[at as usize];
                page.written = page.ends.len();
            }
        }
        Ok(())
    }

    /// How many rows let through are remembered.
    pub fn len(&self) -> u64 {
        self.live
    }

    /// Memory.
    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.page_bytes + self.pages.capacity() * size_of::<Page>()
    }

    /// The time of the oldest one remembered.
    pub fn oldest(&self) -> Option<i64> {
        let oldest = self.buckets.first_key_value().map(|(_, bucket)| bucket.oldest)?;
        self.within.map(|_| oldest)
    }
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
