//! Rows of one schema in columns, numbered in the order of their arrival.
//!
//! Owns the columns and their layout: a small batch is merged with its neighbour once that is at most twice as large, so a
//! row is copied a logarithmic number of times and there are few segments to search. The choice of rows to keep is left to
//! the owner.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_empty_array};
use arrow::compute::{concat_batches, filter_record_batch, interleave, take};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::{Context, Result};
use crate::state::compact_views;

/// Maximum number of rows in a merged segment; few in tests, so that little input has many segments.
const SEGMENT_ROWS: usize = if cfg!(test) { 50 } else { 65_536 };

/// Columns of rows `0..len`.
pub(super) struct Segments {
    schema: SchemaRef,
    parts: Vec<Part>,
    rows: usize,
}

struct Part {
    start: usize,
    batch: RecordBatch,
}

impl Segments {
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self { schema, parts: Vec::new(), rows: 0 }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Memory of the columns; buffers that segments share count more than once.
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.batch.get_array_memory_size()).sum()
    }

    /// Appends rows; they are numbered from the present length on.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let start = self.rows;
        self.rows += batch.num_rows();
        self.parts.push(Part { start, batch });
        while let [.., left, right] = self.parts.as_slice() {
            let (large, small) = (left.batch.num_rows(), right.batch.num_rows());
            if large > 2 * small || large + small > SEGMENT_ROWS {
                break;
            }
            let merged = concat_batches(&self.schema, [&left.batch, &right.batch]).internal(refused)?;
            let part = Part { start: left.start, batch: compact_views(merged)? };
            self.parts.truncate(self.parts.len() - 2);
            self.parts.push(part);
        }
        Ok(())
    }

    /// The given columns of the given rows.
    pub(super) fn gather(&self, columns: &[usize], slots: &[u32]) -> Result<Vec<ArrayRef>> {
        if slots.is_empty() || self.parts.is_empty() {
            return Ok(columns.iter().map(|&c| new_empty_array(self.schema.field(c).data_type())).collect());
        }
        if let [part] = self.parts.as_slice() {
            return take_all(part, columns, &slots.iter().copied().collect());
        }
        let (parts, places) = self.locate(slots);
        if let [part] = parts.as_slice() {
            return take_all(part, columns, &places.iter().map(|&(_, row)| row as u32).collect());
        }
        let gather = |&column: &usize| {
            let arrays: Vec<&dyn Array> = parts.iter().map(|part| part.batch.column(column).as_ref()).collect();
            interleave(&arrays, &places).internal(refused)
        };
        columns.iter().map(gather).collect()
    }

    /// The given columns of consecutive rows, without copying them: one piece per segment that has some of them.
    pub(super) fn stretch(&self, columns: &[usize], slots: Range<usize>) -> Vec<Vec<ArrayRef>> {
        let first = self.parts.partition_point(|part| part.start + part.batch.num_rows() <= slots.start);
        let parts = self.parts[first..].iter().take_while(|part| part.start < slots.end);
        let piece = |part: &Part| {
            let (from, to) = (slots.start.max(part.start), slots.end.min(part.start + part.batch.num_rows()));
            columns.iter().map(|&column| part.batch.column(column).slice(from - part.start, to - from)).collect()
        };
        parts.map(piece).collect()
    }

    /// Keeps the rows flagged in `keep` (one flag per row); they are renumbered in the same order.
    pub(super) fn retain(&mut self, keep: &BooleanArray) -> Result<()> {
        let parts = std::mem::take(&mut self.parts);
        self.rows = 0;
        for part in parts {
            let kept = keep.slice(part.start, part.batch.num_rows());
            let batch = filter_record_batch(&part.batch, &kept).internal(refused)?;
            self.push(compact_views(batch)?)?;
        }
        Ok(())
    }

    /// The segments that hold the rows, and each row's position in them.
    fn locate(&self, slots: &[u32]) -> (Vec<&Part>, Vec<(usize, usize)>) {
        const UNUSED: usize = usize::MAX;
        let mut used: Vec<&Part> = Vec::new();
        let mut number = vec![UNUSED; self.parts.len()];
        let mut last = 0;
        let mut places = Vec::with_capacity(slots.len());
        for &slot in slots {
            let slot = slot as usize;
            let part = &self.parts[last];
            if slot < part.start || slot >= part.start + part.batch.num_rows() {
                last = self.parts.partition_point(|part| part.start <= slot) - 1;
            }
            if number[last] == UNUSED {
                number[last] = used.len();
                used.push(&self.parts[last]);
            }
            places.push((number[last], slot - self.parts[last].start));
        }
        (used, places)
    }
}

fn take_all(part: &Part, columns: &[usize], rows: &UInt32Array) -> Result<Vec<ArrayRef>> {
    columns.iter().map(|&column| take(part.batch.column(column), rows, None).internal(refused)).collect()
}

pub(super) fn refused() -> String {
    "rows of a join cannot be put together".to_owned()
}
