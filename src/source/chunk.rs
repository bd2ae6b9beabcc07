//! Data types of readers: what they read, and from where.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::time::EventTime;

/// A source partition's stable name: `topic/3` for Kafka, a file's path below the source's root, `0` for a generator.
pub type PartitionId = Arc<str>;

/// A position in a partition: Kafka's offset; a file's next byte (text) or row (Parquet); a generator's next row.
pub type Offset = i64;

/// The next offset to read, per partition.
pub type Offsets = BTreeMap<PartitionId, Offset>;

/// Bytes of the longest record that is decoded; a longer one is a dead letter.
pub const MAX_RECORD: usize = 64 << 20;

/// Bytes of a longer record that its dead letter keeps.
pub const KEPT_OF_LONG: usize = 64 << 10;

/// A contiguous piece `[start, end)` of one partition.
#[derive(Debug)]
pub struct Chunk {
    pub partition: PartitionId,
    pub start: Offset,
    pub end: Offset,
    pub payload: Payload,
}

/// Undecoded records, or rows of a source that has columns already.
#[derive(Debug)]
pub enum Payload {
    Records(Records),
    Rows(RecordBatch),
}

/// Records in shared buffers: no allocation per record.
#[derive(Debug, Default)]
pub struct Records {
    /// All payloads, one after the other.
    pub data: Vec<u8>,
    /// `len + 1` boundaries in `data`. The bytes before the first are the header line of a CSV file, if any.
    pub bounds: Vec<u32>,
    /// Offset of each record.
    pub offsets: Vec<Offset>,
    /// Milliseconds since 1970 UTC of each record; -1 = unknown.
    pub timestamps_ms: Vec<i64>,
    /// Indices of records whose payload is null (tombstones), ascending.
    pub tombstones: Vec<u32>,
    /// Records longer than [`MAX_RECORD`], by ascending index, with their length in bytes: `data` holds only their
    /// beginning.
    pub cut_short: Vec<(u32, u64)>,
    /// Keys, if the source declares a `key` column or keeps dead letters.
    pub keys: Option<OptionalBytes>,
    /// Headers per record, if a column needs them.
    pub headers: Option<Vec<Headers>>,
}

/// The headers of one record, in their order; names may repeat.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// A column of byte strings that may be null.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptionalBytes {
    pub data: Vec<u8>,
    /// `len + 1` boundaries in `data`.
    pub bounds: Vec<u32>,
    pub valid: Vec<bool>,
}

impl Records {
    /// The number of records.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The payload bytes of record `index`.
    pub fn payload(&self, index: usize) -> &[u8] {
        &self.data[self.bounds[index] as usize..self.bounds[index + 1] as usize]
    }

    /// The key of record `index`, if keys were kept and it has one.
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        let keys = self.keys.as_ref()?;
        keys.valid[index].then(|| &keys.data[keys.bounds[index] as usize..keys.bounds[index + 1] as usize])
    }

    /// Keeps the first `rows` records and returns the others.
    #[must_use]
    pub fn split_off(&mut self, rows: usize) -> Self {
        let split = self.tombstones.partition_point(|index| (*index as usize) < rows);
        let tombstones = self.tombstones.split_off(split);
        let split = self.cut_short.partition_point(|(index, _)| (*index as usize) < rows);
        let cut_short = self.cut_short.split_off(split);
        Self {
            data: self.data.split_off(self.bounds[rows] as usize),
            bounds: split_bounds(&mut self.bounds, rows),
            offsets: self.offsets.split_off(rows),
            timestamps_ms: self.timestamps_ms.split_off(rows),
            tombstones: tombstones.into_iter().map(|index| index - rows as u32).collect(),
            cut_short: cut_short.into_iter().map(|(index, length)| (index - rows as u32, length)).collect(),
            keys: self.keys.as_mut().map(|keys| OptionalBytes {
                data: keys.data.split_off(keys.bounds[rows] as usize),
                bounds: split_bounds(&mut keys.bounds, rows),
                valid: keys.valid.split_off(rows),
            }),
            headers: self.headers.as_mut().map(|headers| headers.split_off(rows)),
        }
    }
}

/// Splits `len + 1` boundaries after `rows` records; the second part starts at 0.
fn split_bounds(bounds: &mut Vec<u32>, rows: usize) -> Vec<u32> {
    let base = bounds[rows];
    let rest = bounds[rows..].iter().map(|bound| bound - base).collect();
    bounds.truncate(rows + 1);
    rest
}

/// A record that could not be decoded or violated a constraint, kept with its bytes, position and reason.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub partition: PartitionId,
    pub offset: Offset,
    /// Milliseconds since 1970 UTC; -1 = unknown.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    /// The reason, in one line.
    pub reason: String,
    /// The column whose value is wrong, if it is a single one.
    pub column: Option<String>,
}

/// Limits of a poll.
#[derive(Debug, Clone, Copy)]
pub struct PollLimit {
    pub rows: usize,
    pub bytes: usize,
    /// The longest wait for the first record.
    pub wait: Duration,
    /// The time for collecting more records after the first.
    pub linger: Duration,
}

/// The result of a poll.
#[derive(Debug)]
pub enum Poll {
    /// At least one chunk. A chunk may hold no record and only move the offset (transaction markers).
    Chunks(Vec<Chunk>),
    /// Nothing arrived within `wait`.
    Idle,
    /// Bounded reading has reached the ends known at the start.
    Finished,
}

/// Identifies the topic that offsets belong to, among all topics that have had its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicIdentity {
    pub topic: String,
    /// The topic's own id; `None` if the brokers give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The id of the cluster; `None` if the brokers give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Topics that the source has read before under other names; their own `earlier` is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<TopicIdentity>,
}

impl TopicIdentity {
    /// The identity recorded for the topic named `topic`: this one, or an earlier one.
    pub fn named(&self, topic: &str) -> Option<&Self> {
        std::iter::once(self).chain(&self.earlier).find(|known| known.topic == topic)
    }

    /// The identities recorded for all topics but the one named `topic`.
    pub fn others(&self, topic: &str) -> Vec<Self> {
        let own = Self { earlier: Vec::new(), ..self.clone() };
        std::iter::once(own).chain(self.earlier.iter().cloned()).filter(|known| known.topic != topic).collect()
    }
}

/// Checks records before they are committed.
pub trait Witness: Send + Sync {
    /// Checks the records up to `ends`, the next offset per partition. Returns an error with which the run has to end after
    /// they are committed, if any.
    ///
    /// Errors: some of them may not be of the topic that [`SourceReader::topic`] named.
    fn check(&self, ends: Offsets) -> BoxFuture<'_, Result<Option<Error>>>;
}

/// The start of reading.
#[derive(Debug, Clone, Default)]
pub struct ReadFrom {
    /// Committed progress; other partitions begin according to the source's options.
    pub offsets: Offsets,
    /// The topic of the offsets, if it was recorded.
    pub topic: Option<TopicIdentity>,
    /// Stop at the current ends (`trigger = 'available now'`).
    pub bounded: bool,
}

/// Reads one source. Dropping it closes its connections.
pub trait SourceReader: Send {
    /// The next chunks. Errors: the broker or file cannot be read; data was lost and `on_data_loss = 'fail'`.
    fn poll(&mut self, limit: PollLimit) -> BoxFuture<'_, Result<Poll>>;

    /// Records between those returned and the newest known end; `None` if it is unknown.
    fn lag(&self) -> Option<u64>;

    /// The time for which the brokers have not answered; `None` if the source has none, or they need not answer now.
    fn silent_for(&self) -> Option<Duration> {
        None
    }

    /// Partitions that may still have rows (known, and if bounded, not read to their end): event time waits for the slowest
    /// of them. Empty if the source is one stream, whose newest row gives the time.
    fn open_partitions(&self) -> Vec<PartitionId> {
        Vec::new()
    }

    /// Partitions that are read to their end and may grow: they count for the watermark until they have been silent for the
    /// source's `idle_after`.
    fn tails(&self) -> Vec<PartitionId> {
        Vec::new()
    }

    /// True if a partition without rows for a while can be idle, because it may have none. False for files, which still have
    /// their unread rows.
    fn may_fall_silent(&self) -> bool {
        true
    }

    /// The least event time that unread rows may have, if the source knows more than its rows show. `None`
    /// if it does not; `Some(None)` = any time.
    fn least_unread(&self) -> Option<Option<EventTime>> {
        None
    }

    /// The topic of the chunks of the last poll. If it has changed, all earlier offsets are void.
    fn topic(&self) -> Option<TopicIdentity> {
        None
    }

    /// The check that records have to pass before they are committed, if any.
    fn witness(&self) -> Option<Arc<dyn Witness>> {
        None
    }

    /// Leaves these partitions unread until the next call, because they are ahead of the rest. Does nothing for sources of
    /// one stream.
    fn hold(&mut self, _partitions: &[PartitionId]) {}

    /// Gives the partitions in order of their event time: the slowest are best read first.
    fn prefer(&mut self, _slowest_first: &[PartitionId]) {}

    /// Publishes the progress of commits (consumer-group offsets for lag monitors); never fails.
    fn committed(&mut self, _offsets: &Offsets) {}
}
