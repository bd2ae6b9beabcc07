//! View arrays without shared buffers.
//!
//! A view array keeps whole buffers alive, however few of their bytes its views use: those of all rows that it was once
//! sliced from or concatenated with. Data that is kept for long or written down must not.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::DataType;

use crate::error::{Context, Result};

/// The rows, with view columns that own their buffers.
pub fn compact_views(batch: RecordBatch) -> Result<RecordBatch> {
    let is_view = |column: &ArrayRef| matches!(column.data_type(), DataType::Utf8View | DataType::BinaryView);
    if !batch.columns().iter().any(is_view) {
        return Ok(batch);
    }
    let own = |column: &ArrayRef| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => Arc::clone(column),
        }
    };
    let columns = batch.columns().iter().map(own).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options).internal(|| "rows cannot be copied".to_owned())
}

/// Bytes of a column's values, without other data in shared buffers.
pub(super) fn bytes(column: &ArrayRef) -> usize {
    let named = match column.data_type() {
        DataType::Utf8View => column.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => column.as_binary_view().total_buffer_bytes_used(),
        _ => 0,
    };
    named + column.to_data().get_slice_memory_size().unwrap_or_default()
}
