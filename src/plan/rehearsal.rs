//! A try of an operator before anything runs: what can be planned and cannot be computed shows here, with its place in the SQL.
//!
//! An aggregate says only when its accumulator is made that it wants a literal, one argument, another type. So the operator is built and
//! given one row; another is given a row of nulls, at which some functions panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, ListArray, RecordBatch, RecordBatchOptions, StructArray, new_empty_array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;

use super::maps::holds_map;
use super::operators::OperatorSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::evaluate::{cause, evaluate, panicked};
use crate::operator::{Check, Tick, WEIGHT};
use crate::time::{EventTime, Watermark};

/// Builds the operator and runs it over a row of defaults, unless `checks` refuse the row.
///
/// Errors: what the operator cannot compute.
pub fn rehearse(spec: &OperatorSpec, inputs: &[SchemaRef], checks: &[Vec<Check>]) -> Result<()> {
    if matches!(spec, OperatorSpec::Lookup(_)) {
        return Ok(());
    }
    let defaults: Option<Vec<RecordBatch>> = inputs.iter().map(default_row).collect();
    let nulls: Option<Vec<RecordBatch>> = inputs.iter().map(null_row).collect();
    let guarded = |rows: Option<Vec<RecordBatch>>| {
        catch_unwind(AssertUnwindSafe(|| over(spec, rows, checks))).map_err(|panic| {
            Error::sql(format!("this cannot be computed: {}", cause(&panicked(panic.as_ref()))))
                .with_hint("Write it in another way, or convert the column that it is computed of.")
        })
    };
    // A row of nulls may well be refused; only a panic says that nothing but luck would keep the pipeline running.
    let _refused = guarded(nulls)?;
    guarded(defaults)?
}

/// Builds the operator and gives it a row of each input.
fn over(spec: &OperatorSpec, rows: Option<Vec<RecordBatch>>, checks: &[Vec<Check>]) -> Result<()> {
    let mut operator = spec.build().map_err(understood)?;
    let Some(rows) = rows else { return Ok(()) };
    let is_sound =
        |(rows, checks): (&RecordBatch, &Vec<Check>)| checks.iter().all(|check| evaluate(&check.expr, rows).is_ok());
    if !rows.iter().zip(checks).all(is_sound) {
        return Ok(());
    }
    let tick = Tick { before: Watermark::NONE, watermark: Watermark::END, now: EventTime(0) };
    let mut stepped = operator.step(rows.into_iter().map(|rows| vec![rows]).collect(), tick).map_err(understood)?;
    while stepped.more {
        stepped = operator.resume().map_err(understood)?;
    }
    // The condition of a join may have failed for the invented row, which nobody is to hear of.
    let _invented = spec.pending().map(|pending| pending.take());
    Ok(())
}

/// One row: zeros and empty texts; null where a type has no default. `None`: a column must not be null and has none.
pub fn default_row(schema: &SchemaRef) -> Option<RecordBatch> {
    let column = |field: &Arc<Field>| -> Option<ArrayRef> {
        if field.name() == WEIGHT {
            return Some(Arc::new(Int64Array::from(vec![1])));
        }
        // Of a MAP, DataFusion cannot make a default: it panics.
        if holds_map(field.data_type()) {
            return field.is_nullable().then(|| new_null_array(field.data_type(), 1));
        }
        let default = default_of(field.data_type()).filter(|array| array.data_type() == field.data_type());
        default.or_else(|| field.is_nullable().then(|| new_null_array(field.data_type(), 1)))
    };
    let columns = schema.fields().iter().map(column).collect::<Option<_>>()?;
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &RecordBatchOptions::new().with_row_count(Some(1)))
        .ok()
}

/// One value: zero, an empty text or list, a struct of such. DataFusion's own panics over a struct that holds a list.
fn default_of(kind: &DataType) -> Option<ArrayRef> {
    match kind {
        DataType::Struct(fields) => {
            let parts = fields.iter().map(|field| default_of(field.data_type())).collect::<Option<Vec<_>>>()?;
            Some(Arc::new(StructArray::try_new(fields.clone(), parts, None).ok()?))
        }
        DataType::List(item) => {
            let (none, values) = (OffsetBuffer::from_lengths([0]), new_empty_array(item.data_type()));
            Some(Arc::new(ListArray::try_new(Arc::clone(item), none, values, None).ok()?))
        }
        kind => ScalarValue::new_default(kind).and_then(|value| value.to_array()).ok(),
    }
}

/// One row of nulls, and of defaults where null is not allowed.
fn null_row(schema: &SchemaRef) -> Option<RecordBatch> {
    let defaults = default_row(schema)?;
    let columns = schema.fields().iter().zip(defaults.columns()).map(|(field, default)| match field.is_nullable() {
        true => new_null_array(field.data_type(), 1),
        false => Arc::clone(default),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options).ok()
}

/// DataFusion's errors about a query are errors of the query.
fn understood(error: Error) -> Error {
    let said = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<DataFusionError>()).map(cause);
    match (error.kind(), said) {
        (ErrorKind::Internal, Some(said)) => Error::sql(format!("this cannot be computed: {said}")),
        _ => error,
    }
}
