//! Rows that are left out because an expression cannot be computed for them, with descriptions.

mod fallible;
mod guarded;
mod check;

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::{filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::Int64Type;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;

use super::contract::WEIGHT;
use crate::evaluate::Blame;
use crate::json::line_writer;

pub use check::Check;
pub use fallible::is_fallible;
pub use guarded::{Guarded, Pending};

/// Description of a row that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// Its number among its lane's rows of the source; `None` when it is the result of an operator.
    pub place: Option<u64>,
    /// The branches that it was computed for, which lack it.
    pub within: Vec<usize>,
    /// The expression, as SQL.
    pub expression: String,
    /// The reason, and the values that the expression read.
    pub reason: String,
    /// The expression's output column, if it has a name of its own.
    pub column: Option<String>,
    /// The expression's input row as JSON; `None` if it has no such form.
    pub row: Option<Vec<u8>>,
}

/// Describes rows of one batch that were left out.
pub struct Describe<'a> {
    pub within: &'a [usize],
    pub expr: &'a Arc<dyn PhysicalExpr>,
    /// The name of the expression's column.
    pub column: Option<&'a str>,
    pub rows: &'a RecordBatch,
}

impl Describe<'_> {
    /// Describes row `row`, whose evaluation failed with `error`. `None` for a retraction: the dead letter was written for
    /// the original.
    pub fn row(&self, row: usize, place: Option<u64>, error: &DataFusionError) -> Option<RefusedRow> {
        let one = self.rows.slice(row, 1);
        let one = match weight(&one) {
            Some(weight) if weight < 0 => return None,
            Some(_) => one.project(&(0..one.num_columns() - 1).collect::<Vec<_>>()).ok()?,
            None => one,
        };
        let Blame { expression, reason, without } = Blame::of(self.expr, &one, error);
        let column = self.column.filter(|name| !name.starts_with("__"));
        Some(RefusedRow {
            place,
            within: self.within.to_vec(),
            expression,
            reason,
            column: column.map(str::to_owned),
            row: as_json(&without_value(one, without)),
        })
    }
}

/// The row with null in `column`, if that is nullable.
fn without_value(row: RecordBatch, column: Option<usize>) -> RecordBatch {
    let Some(column) = column.filter(|column| row.schema_ref().field(*column).is_nullable()) else { return row };
    let mut columns = row.columns().to_vec();
    columns[column] = new_null_array(columns[column].data_type(), row.num_rows());
    RecordBatch::try_new(row.schema(), columns).unwrap_or(row)
}

/// The rows without those that failed.
pub fn without(rows: &RecordBatch, failed: &[usize]) -> Result<RecordBatch> {
    Ok(filter_record_batch(rows, &others(rows.num_rows(), failed))?)
}

/// The rows for which a condition holds: null is false.
pub fn holding(values: &dyn Array) -> Result<BooleanArray> {
    let values = as_boolean_array(values)?;
    Ok(if values.null_count() > 0 { prep_null_mask_filter(values) } else { values.clone() })
}

/// `false` for the failed rows, `true` for all others.
pub fn others(rows: usize, failed: &[usize]) -> BooleanArray {
    let mut kept = vec![true; rows];
    failed.iter().for_each(|row| kept[*row] = false);
    kept.into()
}

/// The weight of a row of a retracting stream; `None` for other streams.
fn weight(row: &RecordBatch) -> Option<i64> {
    let last = row.num_columns().checked_sub(1)?;
    let weighted = row.schema_ref().field(last).name() == WEIGHT;
    weighted.then(|| row.column(last).as_primitive_opt::<Int64Type>()).flatten().map(|weights| weights.value(0))
}

/// A row as a JSON object.
pub fn as_json(row: &RecordBatch) -> Option<Vec<u8>> {
    let mut writer = line_writer(Vec::new());
    writer.write(row).and_then(|()| writer.finish()).ok()?;
    let mut text = writer.into_inner();
    text.truncate(text.trim_ascii_end().len());
    Some(text)
}
