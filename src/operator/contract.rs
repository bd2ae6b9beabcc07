//! What a stateful operator is: rows and a watermark in, rows out, memory that can be written down and read back.
//!
//! An operator sees one shard of a stream: all rows whose routing key falls into its key groups, in micro-batches. It is plain
//! sequential code; the dataflow runs shards side by side and gives each its part. Everything an operator remembers is rows of its
//! [`StateTable`]s, so that snapshots, rescaling and inspection need to know nothing of what the rows mean.
//!
//! Contract, beyond what the compiler checks:
//! - **Time** is microseconds since 1970 UTC. `Tick::watermark` = W promises: every row yet to come has event time >= W. A row whose
//!   event time is below `Tick::before` (the W of the step before) is late.
//! - **Completeness** is arithmetic: a column with lag L (see `plan`) holds, in rows yet to come, values >= W - L; so a value v is
//!   complete once `v + L < W`.
//! - **Determinism**: what comes out over all steps, consolidated, does not depend on how the input was cut into steps, as long as
//!   no row is late. Nothing depends on wall-clock time, random numbers or the iteration order of a hash map.
//! - **Retraction**: a retracting stream has [`WEIGHT`] as its last column; a row with weight w counts w times, negative ones take
//!   back. Rows taken back were given before, equal in every column. Outputs of one step are consolidated.
//! - **Recovery**: `new` + `restore` of what `changes` wrote up to an epoch = the operator at that epoch, for any division into shards.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::Result;

/// The last column of every retracting stream: BIGINT, never 0 or null.
pub const WEIGHT: &str = "__weight";

/// No row has been seen, so nothing is known of time.
pub const NO_WATERMARK: i64 = i64::MIN;

/// The input has ended: every value is complete.
pub const END_OF_TIME: i64 = i64::MAX;

/// Where a step stands in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The watermark before this step; rows with an event time below it are late. [`NO_WATERMARK`] at first.
    pub before: i64,
    /// The watermark after this step's rows; never below `before`. [`END_OF_TIME`] at the end of bounded input.
    pub watermark: i64,
    /// The processing time of the epoch, microseconds; the same for all micro-batches of an epoch. For TTLs of streams that
    /// have no event time.
    pub now: i64,
}

/// What a step gave.
#[derive(Debug, Default)]
pub struct Stepped {
    /// In the operator's output schema.
    pub rows: Vec<RecordBatch>,
    /// Rows that came too late to count, in the schema of the input they came from (port, rows).
    pub late: Vec<(usize, RecordBatch)>,
}

/// Rows an operator remembers under a name. The first `routing` columns are the operator's routing key, typed as in its input:
/// they decide which key group a row belongs to.
#[derive(Debug, Clone)]
pub struct StateTable {
    pub name: &'static str,
    pub schema: SchemaRef,
    /// How many leading columns route.
    pub routing: usize,
    /// The columns that identify a row (unique within the table); writing a row replaces the one with the same key.
    pub key: Vec<usize>,
    /// A BIGINT or TIMESTAMP(µs) column: rows below [`StateChange::cutoff`] are dead and need no tombstone.
    pub time: Option<usize>,
    /// No key is written twice and none is deleted (rows go by cutoff only): reading back need not look for newer versions.
    pub append_only: bool,
}

/// What changed in one state table since the last call, each key at most once in `upserts` or `deletes`.
#[derive(Debug, Clone)]
pub struct StateChange {
    /// Index into [`Operator::state`].
    pub table: usize,
    /// Rows in the table's schema.
    pub upserts: Vec<RecordBatch>,
    /// The table's routing columns followed by those key columns that do not route, of rows that are gone.
    pub deletes: Vec<RecordBatch>,
    /// Rows with time below this are gone; [`NO_WATERMARK`] = none.
    pub cutoff: i64,
}

/// How much an operator remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateUsage {
    pub rows: u64,
    /// Memory, including buffers and hash tables.
    pub bytes: u64,
    /// Smallest event time remembered, microseconds, if the operator knows.
    pub oldest: Option<i64>,
}

/// One shard of a stateful operator.
pub trait Operator: Send {
    /// Takes a micro-batch: `inputs[port]` are the rows of that input, any number of batches, also none. Called also without rows when the
    /// watermark has moved.
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped>;

    /// The tables that [`Operator::changes`] and [`Operator::restore`] speak of; the same for every instance made from one spec.
    fn state(&self) -> Vec<StateTable>;

    /// What changed since the last call (or since `restore`). Cost: proportional to the change, not to the state.
    fn changes(&mut self) -> Result<Vec<StateChange>>;

    /// Takes back rows of a state table, before the first step; called any number of times, each live row exactly once.
    /// `watermark` is the W of the epoch that wrote them.
    fn restore(&mut self, table: usize, rows: RecordBatch, watermark: i64) -> Result<()>;

    /// What is remembered now. Cheap enough for every epoch.
    fn usage(&self) -> StateUsage;
}
