//! Arithmetic that fails where the result does not fit its type, as in PostgreSQL: DataFusion's wraps whole numbers, and gives DECIMALs more
//! digits than they have.
//!
//! The functions stand in plans only from the last step of planning on ([`crate::plan`]), and are called what the operator that they
//! stand for is called: no column has another name, no state another address and no message another text because of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::kernels::numeric::{add, div, mul, neg, sub};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Decimal256Type, Field, FieldRef};
use arrow::error::ArrowError;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::{self, NegativeExpr};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_common::datum::apply;

use super::in_range::IN_RANGE;
use super::narrowed::NARROWED;
use super::one_form::ONE_FORM;

/// The operators that can overflow, with the names of their functions.
const OPERATORS: [(Operator, &str); 4] = [
    (Operator::Plus, "weir_add"),
    (Operator::Minus, "weir_subtract"),
    (Operator::Multiply, "weir_multiply"),
    (Operator::Divide, "weir_divide"),
];

/// `left op right` of numbers of these types, or `-right` without a left side; `None` where it cannot overflow, or says so itself.
pub fn checked(left: Option<(&Expr, &DataType)>, op: Operator, right: (&Expr, &DataType)) -> Option<Expr> {
    let is_whole = |kind: &DataType| kind.is_integer();
    let overflows = match left {
        None => is_whole(right.1),
        Some((_, left)) if is_whole(left) && is_whole(right.1) => op != Operator::Divide,
        // Narrower results have room for every digit.
        Some((_, left)) if left.is_decimal() && right.1.is_decimal() => {
            let result = BinaryTypeCoercer::new(left, &op, right.1).get_result_type();
            !matches!(result, Ok(DataType::Decimal128(precision, _)) if precision < DECIMAL128_MAX_PRECISION)
        }
        Some(_) => false,
    };
    if !overflows || !OPERATORS.iter().any(|(known, _)| *known == op) {
        return None;
    }
    let args: Vec<Expr> = left.into_iter().chain([right]).map(|(expr, _)| expr.clone()).collect();
    let signature = Signature::any(args.len(), Volatility::Immutable);
    let function = Arc::new(ScalarUDF::from(Checked { op, signature }));
    Some(Expr::ScalarFunction(ScalarFunction::new_udf(function, args)))
}

/// The expression with the operators for which checked functions stand, and without [`ONE_FORM`], [`IN_RANGE`] and [`NARROWED`].
pub fn as_written(expr: &Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    let written = Arc::clone(expr).transform_up(|expr| {
        let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() else { return Ok(Transformed::no(expr)) };
        if let (ONE_FORM | IN_RANGE | NARROWED, [value]) = (call.name(), call.args()) {
            return Ok(Transformed::yes(Arc::clone(value)));
        }
        let op = OPERATORS.iter().find(|(_, name)| *name == call.name()).map(|(op, _)| *op);
        Ok(match (op, call.args()) {
            (Some(_), [operand]) => Transformed::yes(Arc::new(NegativeExpr::new(Arc::clone(operand))) as _),
            (Some(op), [left, right]) => {
                let binary = expressions::BinaryExpr::new(Arc::clone(left), op, Arc::clone(right));
                Transformed::yes(Arc::new(binary) as _)
            }
            _ => Transformed::no(expr),
        })
    });
    // The closure never fails.
    written.map_or_else(|_| Arc::clone(expr), |written| written.data)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    op: Operator,
    signature: Signature,
}

/// An operand as a binary operation shows it under an operator of this precedence.
fn shown(operand: &Expr, precedence: u8) -> String {
    match operand {
        Expr::BinaryExpr(inner) if inner.op.precedence() == 0 || inner.op.precedence() < precedence => {
            format!("({inner})")
        }
        _ => operand.to_string(),
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &'static str {
        OPERATORS.iter().find(|(op, _)| *op == self.op).map_or("weir_arithmetic", |(_, name)| name)
    }

    // Names are asked for again and again: the operands are not copied into the operation that this stands for.
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let precedence = self.op.precedence();
        Ok(match args {
            [operand] => format!("(- {operand})"),
            [left, right] => format!("{} {} {}", shown(left, precedence), self.op, shown(right, precedence)),
            _ => String::new(),
        })
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(match args {
            [operand] => format!("(- {})", operand.schema_name()),
            [left, right] => format!("{} {} {}", left.schema_name(), self.op, right.schema_name()),
            _ => String::new(),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [kind] => Ok(kind.clone()),
            [left, right] => BinaryTypeCoercer::new(left, &self.op, right).get_result_type(),
            _ => internal_err!("`{}` has {} arguments", self.name(), arguments.len()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let kinds: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&kinds)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let kernel = match self.op {
            Operator::Plus => add,
            Operator::Minus => sub,
            Operator::Multiply => mul,
            _ => div,
        };
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array(neg(values)?)),
            [ColumnarValue::Scalar(value)] => Ok(ColumnarValue::Scalar(value.arithmetic_negate()?)),
            [left, right] => apply(left, right, |left, right| fitting(kernel(left, right)?)),
            _ => internal_err!("`{}` has {} arguments", self.name(), args.args.len()),
        }
    }
}

/// The result. Errors: a DECIMAL has more digits than its type.
fn fitting(result: ArrayRef) -> Result<ArrayRef, ArrowError> {
    match result.data_type() {
        DataType::Decimal128(precision, _) => {
            result.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision)?;
        }
        DataType::Decimal256(precision, _) => {
            result.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision)?;
        }
        _ => {}
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::expr::BinaryExpr;
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn a_function_is_called_what_its_operator_is_called() {
        let whole = DataType::Int64;
        let (a, comparison) = (col("t.a"), col("b").gt(lit(1_i64)));
        for op in [Operator::Plus, Operator::Minus, Operator::Multiply] {
            for (left, right) in [(&a, &a), (&a, &comparison), (&comparison, &a)] {
                let made = checked(Some((left, &whole)), op, (right, &whole)).unwrap();
                let written = Expr::BinaryExpr(BinaryExpr::new(Box::new(left.clone()), op, Box::new(right.clone())));
                assert_eq!(made.schema_name().to_string(), written.schema_name().to_string());
            }
        }
        let made = checked(None, Operator::Minus, (&a, &whole)).unwrap();
        let written = Expr::Negative(Box::new(a));
        assert_eq!(made.schema_name().to_string(), written.schema_name().to_string());
    }
}
