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

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::state::{NO_WATERMARK, StateChange, StateTable};

/// The last column of every retracting stream: BIGINT, never 0 or null.
pub const WEIGHT: &str = "__weight";

/// Rows that a step gives at once, where it can give them in parts; little in tests, so that steps have many parts.
pub const PART_BYTES: usize = if cfg!(test) { 256 } else { 16 << 20 };

/// The input has ended: every value is complete.
pub const END_OF_TIME: i64 = i64::MAX;

/// Where a step stands in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The watermark before this step; rows with an event time below it are late. [`crate::state::NO_WATERMARK`] at first.
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
    /// Rows left out as duplicates of others.
    pub duplicates: u64,
    /// Late rows that count and are emitted all the same.
    pub late_emitted: u64,
    /// The step is not done: [`Operator::resume`] gives more rows. Nothing else may be asked of the operator before.
    pub more: bool,
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

    /// Continues a step that gave a part of its rows; what it gives may be a part, too. Memory: an operator whose rows are many
    /// times its input gives parts of about [`PART_BYTES`].
    fn resume(&mut self) -> Result<Stepped> {
        Ok(Stepped::default())
    }

    /// A step and all that is left of it at once.
    fn whole_step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        let mut all = self.step(inputs, tick)?;
        while std::mem::take(&mut all.more) {
            let part = self.resume()?;
            all.rows.extend(part.rows);
            all.late.extend(part.late);
            all.duplicates += part.duplicates;
            all.late_emitted += part.late_emitted;
            all.more = part.more;
        }
        Ok(all)
    }

    /// The tables that [`Operator::changes`] and [`Operator::restore`] speak of; the same for every instance made from one spec.
    fn state(&self) -> Vec<StateTable>;

    /// What changed since the last call (or since `restore`). Cost: proportional to the change, not to the state.
    fn changes(&mut self) -> Result<Vec<StateChange>>;

    /// Takes back rows of a state table, before the first step; called any number of times, each live row exactly once.
    /// `watermark` is the W of the epoch that wrote them.
    fn restore(&mut self, table: usize, rows: RecordBatch, watermark: i64) -> Result<()>;

    /// What is remembered now. Cheap enough for every epoch.
    fn usage(&self) -> StateUsage;

    /// A step without rows whose watermark is below this gives nothing out; it may forget what its `cutoff` covers. So state that lies
    /// on disk need not be fetched for it, and several such steps may come as one. Asked when state leaves memory: it may cost a look
    /// at what is remembered. Unless an operator knows better, every step matters.
    fn due(&self) -> i64 {
        NO_WATERMARK
    }
}
