//! Arithmetic on whole numbers that fails where the result does not fit, as in PostgreSQL; DataFusion's wraps.
//!
//! The functions stand in plans only from the last step of planning on ([`crate::plan`]), and are called what the operator that they
//! stand for is called: no column has another name, and no state another address, because of them.

use std::sync::Arc;

use arrow::compute::kernels::numeric::{add, mul, neg, sub};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{BinaryExpr, ScalarFunction};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr_common::datum::apply;

/// `left op right` of whole numbers of one type, or `-right` without a left side; `None` for operators that cannot overflow.
pub fn checked(left: Option<&Expr>, op: Operator, right: &Expr) -> Option<Expr> {
    if !matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply) {
        return None;
    }
    let args: Vec<Expr> = left.into_iter().chain([right]).cloned().collect();
    let signature = Signature::any(args.len(), Volatility::Immutable);
    let function = Arc::new(ScalarUDF::from(Checked { op, signature }));
    Some(Expr::ScalarFunction(ScalarFunction::new_udf(function, args)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    op: Operator,
    signature: Signature,
}

impl Checked {
    /// The value that it represents.
    fn operation(&self, args: &[Expr]) -> Option<Expr> {
        match args {
            [operand] => Some(Expr::Negative(Box::new(operand.clone()))),
            [left, right] => {
                Some(Expr::BinaryExpr(BinaryExpr::new(Box::new(left.clone()), self.op, Box::new(right.clone()))))
            }
            _ => None,
        }
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &'static str {
        match self.op {
            Operator::Plus => "weir_add",
            Operator::Minus => "weir_subtract",
            _ => "weir_multiply",
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(self.operation(args).map_or_else(String::new, |expr| expr.to_string()))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(self.operation(args).map_or_else(String::new, |expr| expr.schema_name().to_string()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.first() {
            Some(kind) => Ok(kind.clone()),
            None => internal_err!("`{}` has no argument", self.name()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let kinds: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&kinds)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match (args.args.as_slice(), self.op) {
            ([operand], _) => match operand {
                ColumnarValue::Array(values) => Ok(ColumnarValue::Array(neg(values)?)),
                ColumnarValue::Scalar(value) => Ok(ColumnarValue::Scalar(value.arithmetic_negate()?)),
            },
            ([left, right], Operator::Plus) => apply(left, right, add),
            ([left, right], Operator::Minus) => apply(left, right, sub),
            ([left, right], Operator::Multiply) => apply(left, right, mul),
            _ => internal_err!("`{}` has too many arguments", self.name()),
        }
    }
}
