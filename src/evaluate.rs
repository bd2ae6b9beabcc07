//! Expressions over batches of which some rows cannot be computed: found one by one once a batch has failed, so that the others go on.
//!
//! Nothing here costs anything while every row can be computed. [`evaluate_each`] halves a batch until the failing rows stand alone; a row
//! counts as failing only if the expression fails for it alone, so a condition that guards another (`q <> 0 AND a / q > 1`) holds.

mod checked;
mod in_range;
mod narrowed;
mod nulls;
mod one_form;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::concat;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::expressions::{CaseExpr, Column};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_common::physical_expr::fmt_sql;

pub use checked::{as_written, checked};
pub use in_range::{IN_RANGE, NO_BIGINT, NO_DECIMAL, in_range, out_of_range, plus};
pub use narrowed::keep_narrowing;
pub use nulls::evaluate_with_nulls;
pub use one_form::{ONE_FORM, one_form};

use crate::error::{Error, ErrorKind};
use crate::memory::slice::{TooMuch, is_overflow, is_too_much};

/// Letters of an expression or a value that a reason shows.
const SHOWN_LETTERS: usize = 200;
/// Values that a reason shows.
const SHOWN_VALUES: usize = 8;

/// The values of an expression, null for the rows that failed.
pub struct Evaluated {
    pub values: ArrayRef,
    pub failed: Vec<(usize, DataFusionError)>,
}

/// Evaluates `expr` for every row for which it can be.
///
/// Errors: what is no row's fault (memory, storage).
pub fn evaluate_each(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<Evaluated> {
    let (mut pieces, mut failed) = (Vec::new(), Vec::new());
    let mut open = vec![(0, rows.num_rows())];
    while let Some((start, len)) = open.pop() {
        match evaluate(expr, &rows.slice(start, len)) {
            Ok(values) => pieces.push(Some(values)),
            Err(error) if !is_of_row(&error) => return Err(error),
            // The budget of a slice is spent: that is no row's fault, and fewer rows at a time are tried elsewhere.
            Err(error) if len <= 1 && is_too_much(&error) => return Err(error),
            Err(error) if len <= 1 => {
                pieces.push(None);
                failed.extend((len == 1).then_some((start, error)));
            }
            Err(_) => open.extend([(start + len / 2, len - len / 2), (start, len / 2)]),
        }
    }
    // The values of a function may differ from its declared type, in their zone say.
    let kind = match pieces.iter().flatten().next() {
        Some(values) => values.data_type().clone(),
        None => expr.data_type(rows.schema_ref())?,
    };
    let null = new_null_array(&kind, rows.num_rows().min(1));
    let pieces: Vec<&dyn Array> = pieces.iter().map(|piece| piece.as_deref().unwrap_or(&null)).collect();
    Ok(Evaluated { values: concat(&pieces)?, failed })
}

/// Evaluates `expr` for all rows at once; a panic on the way is an error like any other.
pub fn evaluate(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef> {
    let evaluated = catch_unwind(AssertUnwindSafe(|| expr.evaluate(rows)?.into_array(rows.num_rows())));
    evaluated.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

/// The error of a function that panicked; the log has where.
pub fn panicked(panic: &(dyn Any + Send)) -> DataFusionError {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    match text {
        // Some kernels say so that they cannot count the bytes of a result.
        Some(text) if is_overflow(text) => DataFusionError::External(Box::new(TooMuch)),
        text => DataFusionError::Execution(format!("a function panicked: {}", text.unwrap_or("no reason given"))),
    }
}

/// `true` if a row may be to blame: other rows can then be computed.
pub fn is_of_row(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::External(inner) => {
            inner.downcast_ref::<Error>().is_none_or(|error| error.kind() == ErrorKind::Sql)
        }
        DataFusionError::ResourcesExhausted(_)
        | DataFusionError::IoError(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::ExecutionJoin(_) => false,
        _ => true,
    }
}

/// An expression that could not be computed for a row, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    /// The innermost expression that fails, as SQL.
    pub expression: String,
    /// The reason, and the values that the expression read.
    pub reason: String,
    /// A column whose value says only that there is none: see [`in_range`].
    pub without: Option<usize>,
}

impl Blame {
    /// Of `expr`, which gave `error` for the only row of `row`.
    pub fn of(expr: &Arc<dyn PhysicalExpr>, row: &RecordBatch, error: &DataFusionError) -> Self {
        let blamed = blamed(expr, row);
        let expression = shortened(&fmt_sql(as_written(blamed).as_ref()).to_string());
        let without = out_of_range_column(blamed);
        let values = if without.is_some() { String::new() } else { values(blamed, row) };
        Self { expression, reason: format!("{}{values}", cause(error)), without }
    }
}

/// The innermost part that fails for the row. What a CASE guards is not looked into.
fn blamed<'e>(expr: &'e Arc<dyn PhysicalExpr>, row: &RecordBatch) -> &'e Arc<dyn PhysicalExpr> {
    if expr.downcast_ref::<CaseExpr>().is_some() {
        return expr;
    }
    let failing = expr.children().into_iter().find(|child| evaluate(child, row).is_err());
    failing.map_or(expr, |child| blamed(child, row))
}

/// The column of which [`IN_RANGE`] is asked.
fn out_of_range_column(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    let call = expr.downcast_ref::<ScalarFunctionExpr>().filter(|call| call.name() == IN_RANGE)?;
    Some(call.args().first()?.downcast_ref::<Column>()?.index())
}

/// The innermost message of an error.
pub fn cause(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        DataFusionError::ArrowError(error, _) => error.to_string(),
        DataFusionError::Execution(text) | DataFusionError::Internal(text) => text.clone(),
        other => other.to_string(),
    };
    shortened(text.lines().next().unwrap_or_default().trim_end_matches('.'))
}

/// `` (`a` = 1, `b` = null)``: the columns that the expression reads.
fn values(expr: &Arc<dyn PhysicalExpr>, row: &RecordBatch) -> String {
    let mut columns: Vec<_> = collect_columns(expr).into_iter().collect();
    columns.sort_by_key(|column| column.index());
    let options = FormatOptions::default().with_null("null");
    let value = |column: &Column| {
        let formatter = ArrayFormatter::try_new(row.columns().get(column.index())?, &options).ok()?;
        let text = formatter.value(0).try_to_string().unwrap_or_else(|_| "not shown".to_owned());
        Some(format!("`{}` = {}", column.name(), shortened(&text)))
    };
    let shown: Vec<String> = columns.iter().take(SHOWN_VALUES).filter_map(value).collect();
    if shown.is_empty() { String::new() } else { format!(" ({})", shown.join(", ")) }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
