//! A try of an operator before anything runs: what can be planned and cannot be computed shows here, with its place in the SQL.
//!
//! An aggregate says only when its accumulator is made that it wants a literal, one argument, another type. So the operator is built and
//! given one row.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;

use super::operators::{Check, OperatorSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::evaluate::{cause, evaluate};
use crate::operator::{END_OF_TIME, Tick, WEIGHT};
use crate::state::NO_WATERMARK;

/// Builds the operator and runs it over a row of defaults, unless `checks` refuse the row.
///
/// Errors: what the operator cannot compute.
pub fn rehearse(spec: &OperatorSpec, inputs: &[SchemaRef], checks: &[Vec<Check>]) -> Result<()> {
    if matches!(spec, OperatorSpec::Lookup(_)) {
        return Ok(());
    }
    let mut operator = spec.build().map_err(understood)?;
    let rows: Option<Vec<RecordBatch>> = inputs.iter().map(default_row).collect();
    let Some(rows) = rows else { return Ok(()) };
    let is_sound =
        |(rows, checks): (&RecordBatch, &Vec<Check>)| checks.iter().all(|check| evaluate(&check.expr, rows).is_ok());
    if !rows.iter().zip(checks).all(is_sound) {
        return Ok(());
    }
    let tick = Tick { before: NO_WATERMARK, watermark: END_OF_TIME, now: 0 };
    let mut stepped = operator.step(rows.into_iter().map(|rows| vec![rows]).collect(), tick).map_err(understood)?;
    while stepped.more {
        stepped = operator.resume().map_err(understood)?;
    }
    // The condition of a join may have failed for the invented row, which nobody is to hear of.
    let _invented = spec.pending().map(|pending| pending.take());
    Ok(())
}

/// One row: zeros and empty texts; null where a type has no default. `None`: a column must not be null and has none.
fn default_row(schema: &SchemaRef) -> Option<RecordBatch> {
    let column = |field: &Arc<Field>| -> Option<ArrayRef> {
        if field.name() == WEIGHT {
            return Some(Arc::new(Int64Array::from(vec![1])));
        }
        let default = ScalarValue::new_default(field.data_type()).and_then(|value| value.to_array());
        let default = default.ok().filter(|array| array.data_type() == field.data_type());
        default.or_else(|| field.is_nullable().then(|| new_null_array(field.data_type(), 1)))
    };
    let columns = schema.fields().iter().map(column).collect::<Option<_>>()?;
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &RecordBatchOptions::new().with_row_count(Some(1)))
        .ok()
}

/// DataFusion's errors about a query are errors of the query.
fn understood(error: Error) -> Error {
    let said = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<DataFusionError>()).map(cause);
    match (error.kind(), said) {
        (ErrorKind::Internal, Some(said)) => Error::sql(format!("this cannot be computed: {said}")),
        _ => error,
    }
}
