//! Sums that do not fit their type fail above what computes them, see [`crate::evaluate::in_range`]: one group then costs no other.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};

use crate::evaluate::in_range;

/// The name of the aggregate or window function that is called.
pub fn called(expr: &Expr) -> &str {
    match expr {
        Expr::AggregateFunction(call) => call.func.name(),
        Expr::WindowFunction(call) => call.fun.name(),
        Expr::Alias(alias) => called(&alias.expr),
        _ => "",
    }
}

/// A column that holds what `function` gave, under its name.
pub fn if_in_range(column: Column, function: &str, kind: &DataType) -> Expr {
    let plain = Expr::Column(column.clone());
    match in_range(&plain, function, kind) {
        Some(checked) => checked.alias_qualified(column.relation, column.name),
        None => plain,
    }
}

/// The node with a projection above it that checks its sums, if it has some.
pub fn checked_sums(node: LogicalPlan) -> Result<LogicalPlan> {
    let calls = match &node {
        LogicalPlan::Aggregate(aggregate) => &aggregate.aggr_expr,
        LogicalPlan::Window(window) => &window.window_expr,
        _ => return Ok(node),
    };
    let fields = node.schema().fields();
    let width = fields.len() - calls.len();
    let expr: Vec<Expr> = node
        .schema()
        .columns()
        .into_iter()
        .enumerate()
        .map(|(at, column)| match at.checked_sub(width).and_then(|call| calls.get(call)) {
            Some(call) => if_in_range(column, called(call), fields[at].data_type()),
            None => Expr::Column(column),
        })
        .collect();
    if expr.iter().all(|expr| matches!(expr, Expr::Column(_))) {
        return Ok(node);
    }
    Ok(LogicalPlan::Projection(Projection::try_new(expr, Arc::new(node))?))
}
