//! Groups as rows of state: the keys, then the states of the accumulators.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::DataFusionError;

use crate::error::Result;
use crate::operator::spec::AggregateSpec;

use super::call::Calls;

/// The grouping columns, typed as in the input and named as in the output.
pub(super) fn key_fields(spec: &AggregateSpec) -> Vec<Field> {
    let field = |(position, key): (usize, &usize)| {
        let input = spec.input.field(*key);
        Field::new(spec.output.field(position).name(), input.data_type().clone(), true)
    };
    spec.keys.iter().enumerate().map(field).collect()
}

/// Keys, `extra` columns, then the state columns of all calls.
pub(super) fn state_schema(keys: &[Field], extra: Vec<Field>, calls: &Calls) -> SchemaRef {
    let states = calls.0.iter().enumerate().flat_map(|(call, calls)| {
        let name = move |(part, field): (usize, &Field)| {
            Field::new(format!("state_{call}_{part}"), field.data_type().clone(), true)
        };
        calls.state.iter().enumerate().map(name)
    });
    Arc::new(Schema::new(keys.iter().cloned().chain(extra).chain(states).collect::<Vec<_>>()))
}

/// A batch of columns; `rows` counts where there are no columns.
pub(super) fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(DataFusionError::from)?)
}
