//! Rules of a table as Spark reads them: the log keeps them as SQL of Spark, and all writers must judge a row alike.
//!
//! Where DataFusion means something else by the same words: `/` of integers (Spark divides as DOUBLE), division by zero (null in Spark)
//! and the position of `substring` (0 means 1, a negative one counts from the end).

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::functions::expr_fn::{character_length, greatest, nullif};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, cast, lit, when};

/// The expression that says in DataFusion what `expr` says in Spark.
pub(super) fn as_spark(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let expr = expr.transform_up(|expr| match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Divide | Operator::Modulo), right }) => {
            divided(*left, op, *right, schema).map(Transformed::yes)
        }
        Expr::ScalarFunction(call) if matches!(call.name(), "substr" | "substring") => part(call).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(expr.data)
}

fn divided(left: Expr, op: Operator, right: Expr, schema: &DFSchema) -> Result<Expr> {
    let (a, b) = (left.get_type(schema)?, right.get_type(schema)?);
    let as_doubles = op == Operator::Divide && a.is_integer() && b.is_integer();
    let of = |side: Expr| if as_doubles { cast(side, DataType::Float64) } else { side };
    let (left, right) = (of(left), of(right));
    let right = match right.get_type(schema)? {
        kind if kind.is_numeric() => nullif(right, cast(lit(0_i64), kind)),
        _ => right,
    };
    Ok(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) }))
}

fn part(mut call: ScalarFunction) -> Result<Expr> {
    let [text, position, ..] = call.args.as_slice() else { return Ok(Expr::ScalarFunction(call)) };
    let (text, position) = (text.clone(), cast(position.clone(), DataType::Int64));
    let from_the_end = cast(character_length(text), DataType::Int64) + position.clone() + lit(1_i64);
    call.args[1] = when(position.clone().gt(lit(0_i64)), position.clone())
        .when(position.eq(lit(0_i64)), lit(1_i64))
        .otherwise(from_the_end)?;
    if let Some(length) = call.args.get_mut(2) {
        *length = greatest(vec![cast(std::mem::take(length), DataType::Int64), lit(0_i64)]);
    }
    Ok(Expr::ScalarFunction(call))
}
