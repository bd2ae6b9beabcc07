//! Sums that do not fit their type, from the operator that finds one to the row that is refused for it.
//!
//! An operator cannot fail over one group among many. It gives and keeps a value that the type does not have: for a BIGINT the smallest
//! number, which is no sum therefore, for a DECIMAL one with more digits than it declares. The plan above the operator calls
//! [`IN_RANGE`], which fails for these like any other expression that cannot be computed for a row.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Field, FieldRef, Int64Type};
use datafusion::common::{ScalarValue, exec_err, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The function's name.
pub const IN_RANGE: &str = "weir_in_range";

/// Kept for a sum that is no BIGINT.
pub const NO_BIGINT: i64 = i64::MIN;
/// Kept for a sum or mean that is no DECIMAL.
pub const NO_DECIMAL: i128 = i128::MAX;

/// The error for a sum that does not fit.
const SUM_OVERFLOWS: &str = "a sum is out of the range of BIGINT: cast what is summed to DECIMAL(38, 0)";
const DECIMAL_OVERFLOWS: &str = "a sum or an average has more digits than a DECIMAL has";

/// A column of results of `function`, of type `kind`, as it is seen above the operator; `None` if every result fits.
pub fn in_range(column: &Expr, function: &str, kind: &DataType) -> Option<Expr> {
    out_of_range(function, kind).map(|_| {
        let function = ScalarUDF::from(InRange { signature: Signature::any(1, Volatility::Immutable) });
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![column.clone()]))
    })
}

/// The sum as a BIGINT. Errors: it is none.
fn as_bigint(sum: i128) -> Result<i64> {
    match i64::try_from(sum) {
        Ok(sum) if sum != NO_BIGINT => Ok(sum),
        _ => exec_err!("{SUM_OVERFLOWS}"),
    }
}

/// The sum as a DECIMAL of 38 digits. Errors: it has more.
fn as_decimal(sum: i128) -> Result<i128> {
    if sum.unsigned_abs() < 10_u128.pow(38) { Ok(sum) } else { exec_err!("{DECIMAL_OVERFLOWS}") }
}

/// The sum of two, which is no DECIMAL for good once it is beyond 128 bits.
#[inline]
pub fn plus(sum: i128, value: i128) -> i128 {
    match sum.checked_add(value) {
        Some(together) if sum != NO_DECIMAL && value != NO_DECIMAL => together,
        _ => NO_DECIMAL,
    }
}

/// The value that stands for a result of `function` that `kind` cannot hold; `None` for functions whose errors are not that.
pub fn out_of_range(function: &str, kind: &DataType) -> Option<ScalarValue> {
    match kind {
        _ if !is_sum(function) => None,
        DataType::Int64 => Some(ScalarValue::Int64(Some(NO_BIGINT))),
        DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale) => {
            Some(ScalarValue::Decimal128(Some(NO_DECIMAL), DECIMAL128_MAX_PRECISION, *scale))
        }
        _ => None,
    }
}

/// Aggregates that add values up.
fn is_sum(function: &str) -> bool {
    matches!(function, "sum" | "avg")
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct InRange {
    signature: Signature,
}

impl ScalarUDFImpl for InRange {
    fn name(&self) -> &str {
        IN_RANGE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [kind] => Ok(kind.clone()),
            _ => internal_err!("`{IN_RANGE}` has {} arguments", arguments.len()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match args.arg_fields {
            [field] => Ok(Arc::new(Field::new(IN_RANGE, field.data_type().clone(), field.is_nullable()))),
            _ => internal_err!("`{IN_RANGE}` has {} arguments", args.arg_fields.len()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => all_in_range(values)?,
            [ColumnarValue::Scalar(value)] => all_in_range(&value.to_array()?)?,
            _ => return internal_err!("`{IN_RANGE}` has {} arguments", args.args.len()),
        }
        Ok(args.args.into_iter().next().unwrap_or(ColumnarValue::Scalar(ScalarValue::Null)))
    }
}

fn all_in_range(values: &ArrayRef) -> Result<()> {
    if let Some(sums) = values.as_primitive_opt::<Int64Type>() {
        // Most batches have none, and then validity need not be looked at.
        if sums.values().contains(&NO_BIGINT) {
            sums.iter().flatten().try_for_each(|sum| as_bigint(sum.into()).map(drop))?;
        }
    } else if let Some(sums) = values.as_primitive_opt::<Decimal128Type>() {
        sums.iter().flatten().try_for_each(|sum| as_decimal(sum).map(drop))?;
    }
    Ok(())
}
