//! Changes of state on their way to disk, and restored rows on their way into memory.

use std::collections::VecDeque;

use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;

use super::waiting::times;
use crate::time::{EventTime, Watermark};

/// Rows that are not written yet, and restored rows that are not placed yet.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Columns of the history table, and the rows' keys where rows are counted.
    pub(super) placed: VecDeque<(Vec<ArrayRef>, Vec<u32>)>,
    /// Rows that have left the waiting table, where they need a tombstone.
    pub(super) left: Vec<RecordBatch>,
    /// Waiting rows with a lower sequence have been written.
    pub(super) written: i64,
    pub(super) restored: Vec<(usize, RecordBatch)>,
}

impl Journal {
    pub(super) fn placed(&mut self, columns: Vec<ArrayRef>, keys: Vec<u32>) {
        self.placed.push_back((columns, keys));
    }

    /// Drops rows before `cutoff`, which need not be written any more: an epoch may be as long as all input, and have far
    /// more rows than are in state at its end. `time` is the column of the history table.
    pub(super) fn forget(&mut self, time: usize, cutoff: Watermark) {
        let is_dead = |(columns, _): &(Vec<ArrayRef>, _)| {
            times(&columns[time]).last().is_none_or(|last| EventTime(*last).is_below(cutoff))
        };
        while self.placed.front().is_some_and(is_dead) {
            self.placed.pop_front();
        }
    }

    pub(super) fn left(&mut self, rows: RecordBatch) {
        self.left.push(rows);
    }

    pub(super) fn restored(&mut self, table: usize, rows: RecordBatch) {
        self.restored.push((table, rows));
    }
}
