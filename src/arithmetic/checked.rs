//! Makes arithmetic fail where a result does not fit its type, as PostgreSQL does; DataFusion's wraps.
//!
//! The functions stand in plans only from the last step of planning on (`crate::plan`), and are called what the operator that they
//! stand for is called: no column has another name, and no state another address, because of them.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::BinaryExpr;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, Volatility};

use crate::evaluate::checked;

/// The expression with checked arithmetic.
pub fn checked_arithmetic(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| checked_node(expr, schema))
}

/// The operation, checked if it can overflow; its operands as they are.
pub fn checked_node(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let kind = |expr: &Expr| expr.get_type(schema).ok();
    let made = match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => kind(left)
            .zip(kind(right))
            .and_then(|(of_left, of_right)| checked(Some((left.as_ref(), &of_left)), *op, (right.as_ref(), &of_right))),
        Expr::Negative(operand) => {
            kind(operand).and_then(|kind| checked(None, Operator::Minus, (operand.as_ref(), &kind)))
        }
        _ => None,
    };
    Ok(made.map_or_else(|| Transformed::no(expr), Transformed::yes))
}

/// Arithmetic on whole numbers that no column is in, checked before it is folded: DataFusion folds to another number what does not fit.
/// `None` where there is nothing to do.
///
/// Errors: literals whose result is out of the range of their type.
pub fn checked_constant(expr: &Expr) -> Result<Option<Expr>> {
    if constant(expr)?.is_some() || !is_constant(expr) {
        return Ok(None);
    }
    let none = DFSchema::empty();
    let kind = |expr: &Expr| expr.get_type(&none).ok().filter(DataType::is_integer);
    match expr {
        Expr::Negative(operand) => {
            Ok(kind(operand).and_then(|kind| checked(None, Operator::Minus, (operand.as_ref(), &kind))))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (Some(a), Some(b)) = (kind(left), kind(right)) else { return Ok(None) };
            let (a, b) = BinaryTypeCoercer::new(&a, op, &b).get_input_types()?;
            let (left, right) = (left.as_ref().clone().cast_to(&a, &none)?, right.as_ref().clone().cast_to(&b, &none)?);
            Ok(checked(Some((&left, &a)), *op, (&right, &b)).filter(|_| a == b))
        }
        _ => Ok(None),
    }
}

/// [`checked_constant`] of every part.
pub fn checked_constants(expr: Expr) -> Result<Expr> {
    let checked = expr.transform_up(|expr| {
        Ok(match checked_constant(&expr)? {
            Some(checked) => Transformed::yes(checked),
            None => Transformed::no(expr),
        })
    });
    Ok(checked?.data)
}

/// True when neither columns nor anything else that is known only later is in it.
fn is_constant(expr: &Expr) -> bool {
    let later = |expr: &Expr| {
        matches!(
            expr,
            Expr::Column(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Placeholder(_)
                | Expr::ScalarSubquery(_)
                | Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
        ) || matches!(expr, Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable)
    };
    !expr.exists(|expr| Ok(later(expr))).unwrap_or(true)
}

/// The value of whole numbers that are computed from literals alone. Errors: it is out of the range of its type.
fn constant(expr: &Expr) -> Result<Option<ScalarValue>> {
    let value = match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        Expr::Cast(cast) => constant(&cast.expr)?.and_then(|value| value.cast_to(cast.field.data_type()).ok()),
        Expr::Alias(alias) => constant(&alias.expr)?,
        Expr::Negative(operand) => match constant(operand)? {
            Some(value) => {
                Some(value.arithmetic_negate().or_else(|_| out_of_range(&format!("-({value})"), &value.data_type()))?)
            }
            None => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (Some(a), Some(b)) = (constant(left)?, constant(right)?) else { return Ok(None) };
            let Ok((kind, other)) = BinaryTypeCoercer::new(&a.data_type(), op, &b.data_type()).get_input_types() else {
                return Ok(None);
            };
            if kind != other || !kind.is_integer() {
                return Ok(None);
            }
            let (a, b) = (a.cast_to(&kind)?, b.cast_to(&kind)?);
            let result = match op {
                Operator::Plus => a.add_checked(&b),
                Operator::Minus => a.sub_checked(&b),
                Operator::Multiply => a.mul_checked(&b),
                _ => return Ok(None),
            };
            Some(result.or_else(|_| out_of_range(&format!("{a} {op} {b}"), &kind))?)
        }
        _ => None,
    };
    Ok(value.filter(|value| value.data_type().is_integer()))
}

fn out_of_range<T>(expr: &str, kind: &DataType) -> Result<T> {
    plan_err!("`{expr}` is out of the range of {}", crate::sql::types::sql_name(kind))
}
