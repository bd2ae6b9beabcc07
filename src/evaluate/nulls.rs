//! `on_row_error = 'null'`: what cannot be computed is null where it is, and what is around it is computed from that.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{cast, concat, interleave};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::scalar::ScalarValue;

use super::{Evaluated, evaluate, evaluate_each, is_of_row};

/// Evaluates `expr` for every row; where it fails for one, its innermost parts that fail are null: `ARRAY[a, a / 0]` is `[a, NULL]`.
///
/// Errors: what is no row's fault (memory, storage).
pub fn evaluate_with_nulls(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<Evaluated> {
    let Evaluated { values, failed } = evaluate_each(expr, rows)?;
    if failed.is_empty() {
        return Ok(Evaluated { values, failed });
    }
    let mended = failed.iter().map(|(row, _)| {
        let value = of_row(expr, &rows.slice(*row, 1))?;
        Ok(if value.data_type() == values.data_type() { value } else { cast(&value, values.data_type())? })
    });
    let mended = mended.collect::<Result<Vec<ArrayRef>>>()?;
    let mended = concat(&mended.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?;
    let mut places: Vec<(usize, usize)> = (0..rows.num_rows()).map(|row| (0, row)).collect();
    for (at, (row, _)) in failed.iter().enumerate() {
        places[*row] = (1, at);
    }
    Ok(Evaluated { values: interleave(&[values.as_ref(), mended.as_ref()], &places)?, failed })
}

/// The value of `expr` for the only row of `row`.
fn of_row(expr: &Arc<dyn PhysicalExpr>, row: &RecordBatch) -> Result<ArrayRef> {
    match evaluate(expr, row) {
        Err(error) if is_of_row(&error) => {}
        value => return value,
    }
    let null = || Ok(new_null_array(&expr.data_type(row.schema_ref())?, 1));
    let children = expr.children();
    if children.is_empty() {
        return null();
    }
    let mut parts: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(children.len());
    for child in children {
        parts.push(Arc::new(Literal::new(ScalarValue::try_from_array(&of_row(child, row)?, 0)?)));
    }
    match evaluate(&Arc::clone(expr).with_new_children(parts)?, row) {
        Err(error) if is_of_row(&error) => null(),
        value => value,
    }
}
