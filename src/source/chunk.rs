//! What readers hand out and what decoding makes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::origin::RowOrigins;
use crate::error::{Error, Result};

/// A source partition's stable name: Kafka `topic/3`, a file's path below the source's root, a generator's `0`.
pub type PartitionId = Arc<str>;

/// A position in a partition: Kafka's offset; a file's next byte (text) or row (Parquet); a generator's next row.
pub type Offset = i64;

/// The next offset to read, per partition.
pub type Offsets = BTreeMap<PartitionId, Offset>;

/// Bytes of the longest record that is decoded; a longer one is a dead letter.
pub const MAX_RECORD: usize = 64 << 20;

/// Bytes that the dead letter of a longer record keeps.
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

/// Records side by side in shared buffers: no allocation per record.
#[derive(Debug, Default)]
pub struct Records {
    /// All payloads, one after the other.
    pub data: Vec<u8>,
    /// `len + 1` boundaries in `data`. What stands before the first is the header line of a CSV file, else nothing.
    pub bounds: Vec<u32>,
    /// Offset of each record.
    pub offsets: Vec<Offset>,
    /// Milliseconds since 1970 UTC of each record; -1 = unknown.
    pub timestamps_ms: Vec<i64>,
    /// Indices of records whose payload is null (tombstones), ascending.
    pub tombstones: Vec<u32>,
    /// Records longer than a record may be, by ascending index, with their length in bytes: `data` holds only their beginning.
    pub cut_short: Vec<(u32, u64)>,
    /// Keys, when the source declares a `key` column or dead letters want them.
    pub keys: Option<OptionalBytes>,
    /// Headers per record, only when a column asks for them.
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
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// True when there is none.
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
}

/// What decoding makes of a chunk.
#[derive(Debug)]
pub struct Decoded {
    /// The good rows, in offset order, in the source's schema.
    pub rows: RecordBatch,
    /// The position of each.
    pub origins: RowOrigins,
    /// The others, in offset order; already empty under `on_error = 'drop'` except for the count.
    pub dead: Vec<DeadLetter>,
    /// Records refused, whether kept or dropped.
    pub refused: usize,
    /// Times whose number may be of another unit than it was read as.
    pub doubtful_times: usize,
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
    /// What was wrong, in a line.
    pub reason: String,
    /// The column it was wrong about, if one is to blame.
    pub column: Option<String>,
}

/// How much a poll may return.
#[derive(Debug, Clone, Copy)]
pub struct PollLimit {
    pub rows: usize,
    pub bytes: usize,
    /// How long to wait for the first record.
    pub wait: Duration,
    /// How long to go on collecting once one has come.
    pub linger: Duration,
}

/// What a poll found.
#[derive(Debug)]
pub enum Poll {
    /// At least one chunk; a chunk may hold no record and only move the offset (transaction markers).
    Chunks(Vec<Chunk>),
    /// Nothing came within `wait`.
    Idle,
    /// Bounded reading has reached the ends that were there at the start.
    Finished,
}

/// Which topic offsets are of, among all that have had its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicIdentity {
    pub topic: String,
    /// The topic's own id; `None` = the brokers give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The id of the cluster; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Topics that the source has read before under other names; each has no earlier ones of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<TopicIdentity>,
}

impl TopicIdentity {
    /// The record of the topic that is called `topic`: this one, or an earlier one.
    pub fn named(&self, topic: &str) -> Option<&Self> {
        std::iter::once(self).chain(&self.earlier).find(|known| known.topic == topic)
    }

    /// The records of all topics but the one that is called `topic`.
    pub fn others(&self, topic: &str) -> Vec<Self> {
        let own = Self { earlier: Vec::new(), ..self.clone() };
        std::iter::once(own).chain(self.earlier.iter().cloned()).filter(|known| known.topic != topic).collect()
    }
}

/// Vouches for what was read, before it is committed.
pub trait Witness: Send + Sync {
    /// `ends` says how far the partitions were read. What it gives is why the run has to end once that is committed.
    ///
    /// Errors: some of it may not be of the topic that [`SourceReader::topic`] named.
    fn check(&self, ends: Offsets) -> BoxFuture<'_, Result<Option<Error>>>;
}

/// How reading begins.
#[derive(Debug, Clone, Default)]
pub struct ReadFrom {
    /// Committed progress; partitions not in it begin as the source's options say.
    pub offsets: Offsets,
    /// The topic that they are of, where it was recorded.
    pub topic: Option<TopicIdentity>,
    /// Stop at the ends that are there now (`trigger = 'available now'`).
    pub bounded: bool,
}

/// Reads one source. Dropping it closes its connections.
pub trait SourceReader: Send {
    /// The next chunks. Errors: the broker or file cannot be read, data was lost and `on_data_loss = 'fail'`.
    fn poll(&mut self, limit: PollLimit) -> BoxFuture<'_, Result<Poll>>;

    /// Records between what was handed out and the newest known end; `None` = not known.
    fn lag(&self) -> Option<u64>;

    /// For how long the brokers have not answered; `None`: the source has none, or they need not answer now.
    fn silent_for(&self) -> Option<Duration> {
        None
    }

    /// Partitions that may still give rows (known, and when bounded, not read to their end): event time waits for the slowest of
    /// them. Empty = the source is one stream, whose newest row tells the time.
    fn open_partitions(&self) -> Vec<PartitionId> {
        Vec::new()
    }

    /// Partitions that are read to their end and may grow: they count for the watermark until they have been silent for the source's
    /// `idle_after`.
    fn tails(&self) -> Vec<PartitionId> {
        Vec::new()
    }

    /// True when a partition that gives no rows for a while may be set aside: it may have none. False for files, which have what
    /// was not read of them.
    fn may_fall_silent(&self) -> bool {
        true
    }

    /// The least event time that may be left in what was not read, microseconds, where the source knows more than its rows told:
    /// `None` = it does not, `Some(None)` = any time.
    fn least_unread(&self) -> Option<Option<i64>> {
        None
    }

    /// The topic that the chunks of the last poll are of. When it is another than before, all offsets before are void.
    fn topic(&self) -> Option<TopicIdentity> {
        None
    }

    /// Who is asked before what was read is committed.
    fn witness(&self) -> Option<Arc<dyn Witness>> {
        None
    }

    /// Leaves these partitions unread until the next call names others: they are ahead of the rest. Sources of one stream have none.
    fn hold(&mut self, _partitions: &[PartitionId]) {}

    /// Names the partitions in order of their event time: those that are behind are better read first.
    fn prefer(&mut self, _slowest_first: &[PartitionId]) {}

    /// Tells the outside how far commits have come (consumer-group offsets for lag monitors); never fails.
    fn committed(&mut self, _offsets: &Offsets) {}
}
