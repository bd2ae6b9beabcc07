//! The contract of a stateful operator: it takes rows and a watermark, emits rows, and keeps state that can be saved and
//! restored.
//!
//! An operator processes one shard of a stream: all rows whose routing key falls into its key groups, in micro-batches. It
//! is plain sequential code; the dataflow runs shards in parallel and divides the rows among them. All state of an operator
//! is rows of its [`StateTable`]s, so that snapshots, rescaling and inspection need not know the meaning of the rows.
//!
//! Beyond what the compiler checks:
//! - **Time** ([`crate::time`]): `Tick::watermark` = W promises: every row yet to come has event time >= W. A row whose event
//!   time is below `Tick::before` (the W of the step before) is late.
//! - **Completeness** is arithmetic: a column with lag L (see `plan`) holds values >= W - L in all future rows; so a value v
//!   is complete once `v + L < W`.
//! - **Determinism**: the output over all steps, consolidated, does not depend on how the input was cut into steps, as long
//!   as no row is late. Nothing depends on wall-clock time, random numbers or the iteration order of a hash map.
//! - **Retraction**: a retracting stream has [`WEIGHT`] as its last column; a row with weight w counts w times, a negative
//!   weight retracts. Retracted rows were emitted before, equal in every column. The output of one step is consolidated.
//! - **Recovery**: `new` + `restore` of what `changes` wrote up to an epoch = the operator at that epoch, for any division
//!   into shards.

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::state::{StateChange, StateTable};
use crate::time::{EventTime, Watermark};

/// The last column of every retracting stream: BIGINT, never 0 or null.
pub const WEIGHT: &str = "__weight";

/// Approximate size of the parts that a step returns where it can return its rows in parts; small in tests, so that steps
/// have many.
pub const PART_BYTES: usize = if cfg!(test) { 256 } else { 16 << 20 };

/// The times of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The watermark before this step; rows with an event time below it are late. [`Watermark::NONE`] at first.
    pub before: Watermark,
    /// The watermark after this step's rows; never below `before`. [`Watermark::END`] at the end of bounded input.
    pub watermark: Watermark,
    /// The processing time of the epoch; the same for all micro-batches of an epoch. For TTLs of streams that
    /// have no event time.
    pub now: EventTime,
}

/// Output of a step.
#[derive(Debug, Default)]
pub struct Stepped {
    /// In the operator's output schema.
    pub rows: Vec<RecordBatch>,
    /// Rows that arrived too late to count, in the schema of their input (port, rows).
    pub late: Vec<(usize, RecordBatch)>,
    /// Rows left out as duplicates of others.
    pub duplicates: u64,
    /// Late rows that count and are emitted nevertheless.
    pub late_emitted: u64,
    /// The step is incomplete: [`Operator::resume`] returns more rows, and must be called before any other method.
    pub more: bool,
}

/// Size of an operator's state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateUsage {
    pub rows: u64,
    /// Memory, including buffers and hash tables.
    pub bytes: u64,
    /// Smallest event time in state, if the operator knows it.
    pub oldest: Option<EventTime>,
}

/// One shard of a stateful operator.
pub trait Operator: Send {
    /// Processes a micro-batch: `inputs[port]` holds the rows of that input, in any number of batches, possibly none. Also
    /// called without rows when the watermark has moved.
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped>;

    /// Continues a step that returned a part of its rows; the result may be a part, too. Bounds memory: an operator whose
    /// output is many times its input returns parts of about [`PART_BYTES`].
    fn resume(&mut self) -> Result<Stepped> {
        Ok(Stepped::default())
    }

    /// A step with all of its rows at once.
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

    /// The tables that [`Operator::changes`] and [`Operator::restore`] refer to; the same for every instance made from one
    /// spec.
    fn state(&self) -> Vec<StateTable>;

    /// The changes since the last call (or since `restore`). Cost: proportional to the changes, not to the state.
    fn changes(&mut self) -> Result<Vec<StateChange>>;

    /// Restores rows of a state table, before the first step; called any number of times, with each live row exactly once.
    /// `watermark` is the W of the epoch that wrote them.
    fn restore(&mut self, table: usize, rows: RecordBatch, watermark: Watermark) -> Result<()>;

    /// Current size of the state. Cheap enough for every epoch.
    fn usage(&self) -> StateUsage;

    /// A step without rows and with a watermark below this emits nothing; it may expire state that its `cutoff` covers. So
    /// state on disk need not be loaded for it, and several such steps may be replaced by one. Called when state leaves
    /// memory: it may read the state once. By default every step matters.
    fn due(&self) -> Watermark {
        Watermark::NONE
    }
}
