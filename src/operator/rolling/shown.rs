//! Selects the rows that a window emits, where a filter directly above it reads only columns of its input.
//!
//! The other rows still count in the frames. So of all rows only the columns that the window and the condition need are
//! read, and only emitted rows are read whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, NullArray, as_boolean_array};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;

use super::waiting::Released;
use crate::error::{Context, Result};

/// The condition, and the columns that are read of all rows.
#[derive(Debug)]
pub(super) struct Shown {
    condition: Arc<dyn PhysicalExpr>,
    reads: Vec<usize>,
    /// The input's schema, with the NULL type for columns that are not read.
    narrow: SchemaRef,
}

impl Shown {
    /// For a window over `input` that reads the columns `window`.
    pub(super) fn new(condition: Arc<dyn PhysicalExpr>, input: &SchemaRef, window: BTreeSet<usize>) -> Self {
        let mut reads = window;
        reads.extend(collect_columns(&condition).iter().map(|column| column.index()));
        let field = |(column, field): (usize, &Arc<Field>)| match reads.contains(&column) {
            true => Arc::clone(field),
            false => Arc::new(Field::new(field.name(), DataType::Null, true)),
        };
        let narrow = Arc::new(Schema::new(input.fields().iter().enumerate().map(field).collect::<Vec<_>>()));
        Self { condition, reads: reads.into_iter().collect(), narrow }
    }

    /// The rows with the columns that are read, each in its position.
    pub(super) fn narrowed(&self, released: &Released) -> Result<RecordBatch> {
        let read = released.columns(&self.reads)?;
        let unread: ArrayRef = Arc::new(NullArray::new(read.num_rows()));
        let mut columns = vec![unread; self.narrow.fields().len()];
        for (&column, values) in self.reads.iter().zip(read.columns()) {
            columns[column] = Arc::clone(values);
        }
        RecordBatch::try_new(Arc::clone(&self.narrow), columns).internal(|| "a row lost its shape".to_owned())
    }

    /// The rows to emit; `None` if all are.
    pub(super) fn of(&self, rows: &RecordBatch) -> Result<Option<BooleanArray>> {
        let shown = self.condition.evaluate(rows).and_then(|shown| shown.into_array(rows.num_rows()))?;
        let shown = match as_boolean_array(&shown) {
            shown if shown.null_count() > 0 => prep_null_mask_filter(shown),
            shown => shown.clone(),
        };
        Ok((shown.true_count() < rows.num_rows()).then_some(shown))
    }
}
