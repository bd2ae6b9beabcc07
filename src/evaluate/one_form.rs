//! The function that gives values which are equal one form, see [`crate::equality`].
//!
//! Arrow and DataFusion compare, hash and order floats bit by bit: NaNs of different sign are two, and -0.0 inside a list is not 0.0. They take
//! intervals apart, so that 24 hours are not a day. So
//! the last step of planning ([`crate::plan`]) calls this on both sides of what compares.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::equality::{has_other_forms, key_values};

/// The function's name.
pub const ONE_FORM: &str = "weir_one_form";

/// The expression, whose type is `kind`, in the form that equal values share; `None` if it has no other.
pub fn one_form(expr: &Expr, kind: &DataType) -> Option<Expr> {
    if !has_other_forms(kind) {
        return None;
    }
    match expr {
        Expr::ScalarFunction(call) if call.name() == ONE_FORM => None,
        Expr::Literal(value, metadata) => Some(Expr::Literal(scalar(value).ok()?, metadata.clone())),
        expr => {
            let function = ScalarUDF::from(OneForm { signature: Signature::any(1, Volatility::Immutable) });
            Some(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![expr.clone()])))
        }
    }
}

fn scalar(value: &ScalarValue) -> Result<ScalarValue> {
    ScalarValue::try_from_array(&key_values(&value.to_array()?), 0)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OneForm {
    signature: Signature,
}

impl ScalarUDFImpl for OneForm {
    fn name(&self) -> &str {
        ONE_FORM
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [kind] => Ok(kind.clone()),
            _ => internal_err!("`{ONE_FORM}` has {} arguments", arguments.len()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match args.arg_fields {
            [field] => Ok(Arc::new(Field::new(ONE_FORM, field.data_type().clone(), field.is_nullable()))),
            _ => internal_err!("`{ONE_FORM}` has {} arguments", args.arg_fields.len()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array(key_values(values))),
            [ColumnarValue::Scalar(value)] => scalar(value).map(ColumnarValue::Scalar),
            _ => internal_err!("`{ONE_FORM}` has {} arguments", args.args.len()),
        }
    }
}
