//! Buffers between the reading thread and the pipeline: records per partition, up to a limit.
//!
//! Owns the order of a partition's offsets: returned chunks are contiguous, gaps (compaction, transaction markers) are
//! covered by the chunk around them, repeats are dropped. Knows nothing of librdkafka but [`RecordRef`].

use std::sync::Arc;

use super::native::RecordRef;
use crate::source::chunk::{
    Chunk, KEPT_OF_LONG, MAX_RECORD, Offset, Offsets, OptionalBytes, PartitionId, Payload, PollLimit, Records,
};

/// Parts of a record to keep beside its value, offset and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    pub keys: bool,
    pub headers: bool,
}

/// Bytes after which a partition's chunk ends even if the limit is higher: boundaries are `u32`.
const MAX_CHUNK_BYTES: usize = 1 << 30;

/// Records that were read and not returned yet.
#[derive(Debug)]
pub struct Gathered {
    wants: Wants,
    partitions: Vec<Partition>,
    rows: usize,
    bytes: usize,
    limit_rows: usize,
    limit_bytes: usize,
    /// The first partition of the next call of `take`.
    turn: usize,
}

#[derive(Debug)]
struct Partition {
    id: PartitionId,
    number: i32,
    /// The start of the next chunk.
    handed_out: Offset,
    /// The end of the next chunk: the next offset to arrive.
    next: Offset,
    /// The newest known end.
    high: Offset,
    /// The end of bounded reading.
    stop_at: Option<Offset>,
    /// A range without records before `next` must be recorded as progress.
    passed_over: bool,
    records: Records,
}

impl Partition {
    /// True if a poll should return for this partition. Transaction markers alone are no reason: the chunk of the next
    /// record covers them, and an idle topic commits no epoch.
    fn is_due(&self) -> bool {
        let moved = self.next > self.handed_out;
        !self.records.is_empty() || moved && (self.passed_over || self.stop_at.is_some())
    }

    fn lag(&self) -> Offset {
        let read = if self.records.is_empty() { self.next } else { self.handed_out };
        self.stop_at.unwrap_or(self.high).max(self.next) - read
    }

    fn is_done(&self) -> bool {
        self.stop_at.is_some_and(|end| self.next >= end)
    }
}

/// The start of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    pub partition: i32,
    /// Start of the first chunk; below `from` if a range without records is to be recorded as progress.
    pub chunk_start: Offset,
    /// The first offset that is read.
    pub from: Offset,
    /// The currently known end.
    pub high: Offset,
    /// The end of bounded reading.
    pub stop_at: Option<Offset>,
}

impl Gathered {
    /// Empty buffers without partitions.
    pub fn new(wants: Wants) -> Self {
        Self { wants, partitions: Vec::new(), rows: 0, bytes: 0, limit_rows: 0, limit_bytes: 0, turn: 0 }
    }

    /// Adds a partition, or makes a known one continue from another offset.
    pub fn begin(&mut self, topic: &str, begin: &Begin) {
        let fresh = Partition {
            id: Arc::from(format!("{topic}/{}", begin.partition)),
            number: begin.partition,
            handed_out: begin.chunk_start,
            next: begin.from,
            high: begin.high,
            stop_at: begin.stop_at,
            passed_over: begin.from > begin.chunk_start,
            records: empty_records(self.wants, 0, 0),
        };
        match self.index(begin.partition) {
            None => self.partitions.push(fresh),
            Some(index) => {
                let known = &mut self.partitions[index];
                if begin.from < known.next {
                    // The topic was created again: unreturned records of the old one are dropped.
                    self.rows -= known.records.len();
                    self.bytes -= known.records.data.len();
                    *known = fresh;
                } else {
                    known.passed_over |= begin.from > known.next;
                    known.next = begin.from;
                    known.high = begin.high;
                }
            }
        }
    }

    /// Drops all partitions with their records, because the name belongs to another topic.
    pub fn forget(&mut self) {
        self.partitions.clear();
        (self.rows, self.bytes, self.turn) = (0, 0, 0);
    }

    /// Sets the limit of the next poll; reading continues until it is reached.
    pub fn set_limit(&mut self, limit: &PollLimit) {
        self.limit_rows = limit.rows.max(1);
        self.limit_bytes = limit.bytes.clamp(1, MAX_CHUNK_BYTES);
    }

    /// The number of records that may still be gathered.
    pub fn room(&self) -> usize {
        if self.bytes >= self.limit_bytes { 0 } else { self.limit_rows.saturating_sub(self.rows) }
    }

    /// True if there is something to return.
    pub fn has_chunks(&self) -> bool {
        self.partitions.iter().any(Partition::is_due)
    }

    /// True if bounded reading has read everything.
    pub fn all_read(&self) -> bool {
        self.partitions.iter().all(Partition::is_done)
    }

    /// Adds a record. Returns true if it is the one that ends its partition's bounded reading.
    pub fn push(&mut self, record: &RecordRef<'_>) -> bool {
        let Some(index) = self.index(record.partition()) else { return false };
        let partition = &mut self.partitions[index];
        let offset = record.offset();
        if offset < partition.next || partition.is_done() {
            return false;
        }
        if let Some(end) = partition.stop_at.filter(|end| offset >= *end) {
            partition.next = end;
            return true;
        }
        let before = partition.records.data.len();
        append(&mut partition.records, record);
        partition.next = offset + 1;
        self.rows += 1;
        self.bytes += partition.records.data.len() - before;
        partition.is_done()
    }

    /// Records that the partition has no more records before `offset`.
    pub fn reached_end(&mut self, partition: i32, offset: Offset) {
        if let Some(index) = self.index(partition) {
            let partition = &mut self.partitions[index];
            let end = partition.stop_at.map_or(offset, |end| end.min(offset));
            partition.next = partition.next.max(end);
        }
    }

    /// Sets the newest known end of a partition.
    pub fn set_high(&mut self, partition: i32, high: Offset) {
        if let Some(index) = self.index(partition) {
            self.partitions[index].high = high;
        }
    }

    /// Partitions that may still return records.
    pub fn open(&self) -> Vec<PartitionId> {
        let open =
            self.partitions.iter().filter(|partition| !partition.is_done() || partition.next > partition.handed_out);
        open.map(|partition| Arc::clone(&partition.id)).collect()
    }

    /// The numbers of these partitions.
    pub fn numbers(&self, ids: &[PartitionId]) -> Vec<i32> {
        self.partitions.iter().filter(|known| ids.contains(&known.id)).map(|known| known.number).collect()
    }

    /// The next offset to arrive, per partition number.
    pub fn positions(&self) -> impl Iterator<Item = (i32, Offset)> {
        self.partitions.iter().map(|partition| (partition.number, partition.next))
    }

    /// The next offset to arrive, per partition id, in the form of committed progress.
    pub fn progress(&self) -> Offsets {
        self.partitions.iter().map(|partition| (Arc::clone(&partition.id), partition.next)).collect()
    }

    /// Records between those returned and the newest known ends.
    pub fn lag(&self) -> u64 {
        self.partitions.iter().map(|partition| u64::try_from(partition.lag()).unwrap_or(0)).sum()
    }

    /// Returns up to `rows` records in chunks of one partition each; the partitions take turns.
    pub fn take(&mut self, rows: usize) -> Vec<Chunk> {
        let count = self.partitions.len();
        let mut chunks = Vec::with_capacity(count);
        let mut room = rows.max(1);
        let first = self.turn;
        for step in 0..count {
            let index = (first + step) % count;
            let partition = &mut self.partitions[index];
            if partition.next <= partition.handed_out {
                continue;
            }
            if room == 0 {
                break;
            }
            let (records, end) = if partition.records.len() <= room {
                let (rows, bytes) = (partition.records.len(), partition.records.data.len());
                let fresh = empty_records(self.wants, rows, bytes);
                (std::mem::replace(&mut partition.records, fresh), partition.next)
            } else {
                let rest = partition.records.split_off(room);
                let end = rest.offsets[0];
                (std::mem::replace(&mut partition.records, rest), end)
            };
            room -= records.len();
            self.rows -= records.len();
            self.bytes -= records.data.len();
            let start = std::mem::replace(&mut partition.handed_out, end);
            partition.passed_over = false;
            chunks.push(Chunk { partition: Arc::clone(&partition.id), start, end, payload: Payload::Records(records) });
            self.turn = (index + 1) % count;
        }
        chunks
    }

    /// The index of a partition; it nearly always equals the number.
    fn index(&self, number: i32) -> Option<usize> {
        let guess = usize::try_from(number).ok()?;
        match self.partitions.get(guess) {
            Some(partition) if partition.number == number => Some(guess),
            _ => self.partitions.iter().position(|partition| partition.number == number),
        }
    }
}

fn empty_records(wants: Wants, rows: usize, bytes: usize) -> Records {
    // A tenth more than the last chunk had, so that buffers of a steady stream do not grow again.
    let (rows, bytes) = (rows + rows / 10, bytes + bytes / 10);
    let bounds = || {
        let mut bounds = Vec::with_capacity(rows + 1);
        bounds.push(0);
        bounds
    };
    Records {
        data: Vec::with_capacity(bytes),
        bounds: bounds(),
        offsets: Vec::with_capacity(rows),
        timestamps_ms: Vec::with_capacity(rows),
        tombstones: Vec::new(),
        cut_short: Vec::new(),
        keys: wants.keys.then(|| OptionalBytes { data: Vec::new(), bounds: bounds(), valid: Vec::with_capacity(rows) }),
        headers: wants.headers.then(Vec::new),
    }
}

fn append(records: &mut Records, record: &RecordRef<'_>) {
    match record.payload() {
        Some(payload) if payload.len() > MAX_RECORD => {
            records.cut_short.push((records.offsets.len() as u32, payload.len() as u64));
            records.data.extend_from_slice(&payload[..KEPT_OF_LONG]);
        }
        Some(payload) => records.data.extend_from_slice(payload),
        None => records.tombstones.push(records.offsets.len() as u32),
    }
    records.bounds.push(records.data.len() as u32);
    records.offsets.push(record.offset());
    records.timestamps_ms.push(record.timestamp_ms());
    if let Some(keys) = &mut records.keys {
        let key = record.key();
        keys.data.extend_from_slice(key.unwrap_or_default());
        keys.bounds.push(keys.data.len() as u32);
        keys.valid.push(key.is_some());
    }
    if let Some(headers) = &mut records.headers {
        headers.push(record.headers());
    }
}
