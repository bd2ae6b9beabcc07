//! The elements of state: tables of rows, and changes to them.
//!
//! Operators declare their tables and report changes; [`super`] writes, compacts and reads the rows without knowing their
//! meaning.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::key_group::key_groups;
use crate::error::Result;
use crate::time::Watermark;

/// The keys of a state table that are one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyEquality {
    /// Those with the same bits: a row is deleted by the columns that it was written with.
    Bits,
    /// Those that are equal by [`crate::equality`]: a row replaces the one whose key is -0.0 where its own is 0.0.
    Values,
}

/// Rows that an operator keeps in state under a name. The first `routing` columns are the operator's routing key, typed as
/// in its input: they decide a row's key group.
#[derive(Debug, Clone)]
pub struct StateTable {
    pub name: &'static str,
    pub schema: SchemaRef,
    /// Number of leading columns that route.
    pub routing: usize,
    /// The columns that identify a row (unique within the table); writing a row replaces the one with the same key.
    pub key: Vec<usize>,
    /// A BIGINT or TIMESTAMP(µs) column: rows below [`StateChange::cutoff`] are dead and need no tombstone.
    pub time: Option<usize>,
    /// The keys that are one.
    pub equality: KeyEquality,
    /// No key is written twice and none is deleted (rows only expire by cutoff): reading need not look for newer versions.
    pub append_only: bool,
}

impl StateTable {
    /// The columns of [`StateChange::deletes`], as columns of the table.
    pub fn delete_columns(&self) -> Vec<usize> {
        (0..self.routing).chain(self.key.iter().copied().filter(|&column| column >= self.routing)).collect()
    }

    /// The schema of [`StateChange::deletes`].
    pub fn delete_schema(&self) -> SchemaRef {
        let columns = self.delete_columns().into_iter().map(|column| self.schema.field(column).clone());
        Arc::new(Schema::new(columns.collect::<Vec<_>>()))
    }

    /// Positions of [`StateTable::key`] in the columns of [`StateChange::deletes`].
    pub fn delete_key(&self) -> Vec<usize> {
        let columns = self.delete_columns();
        self.key.iter().filter_map(|key| columns.iter().position(|column| column == key)).collect()
    }

    /// The key group of each row of upserts or deletes of this table.
    pub fn groups(&self, rows: &RecordBatch) -> Result<Vec<u16>> {
        let routing: &[ArrayRef] = &rows.columns()[..self.routing];
        key_groups(routing, rows.num_rows())
    }
}

/// Changes to one state table since the last call, each key at most once in `upserts` or `deletes`.
#[derive(Debug, Clone)]
pub struct StateChange {
    /// Index into the operator's tables.
    pub table: usize,
    /// Rows in the table's schema.
    pub upserts: Vec<RecordBatch>,
    /// Keys of deleted rows: the table's routing columns followed by those key columns that do not route.
    pub deletes: Vec<RecordBatch>,
    /// Rows with time below this are dead; [`Watermark::NONE`]: none are. A function of the ticks alone, not of a shard's rows:
    /// the highest cutoff of any shard applies to the whole table.
    pub cutoff: Watermark,
}

impl StateChange {
    /// `true` if there is nothing to write; the cutoff may have moved.
    pub fn is_empty(&self) -> bool {
        let rows = |batches: &[RecordBatch]| batches.iter().all(|batch| batch.num_rows() == 0);
        rows(&self.upserts) && rows(&self.deletes)
    }
}
