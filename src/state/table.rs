//! What state is made of: tables of rows, and what changed in them.
//!
//! Operators say which tables they keep and what changed; [`super`] writes, compacts and reads the rows without knowing what they mean.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

/// No row has been seen, so nothing is known of time.
pub const NO_WATERMARK: i64 = i64::MIN;

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
    /// Index into the operator's tables.
    pub table: usize,
    /// Rows in the table's schema.
    pub upserts: Vec<RecordBatch>,
    /// The table's routing columns followed by those key columns that do not route, of rows that are gone.
    pub deletes: Vec<RecordBatch>,
    /// Rows with time below this are gone; [`NO_WATERMARK`] = none.
    pub cutoff: i64,
}
