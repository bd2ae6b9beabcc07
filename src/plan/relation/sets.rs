//! EXCEPT ALL and INTERSECT ALL: rows as often as both sides together say.
//!
//! The rows of both sides are counted by all their columns; nulls equal each other. A row of which the left side has `l` and the right side
//! `r` is given `l - r` times (EXCEPT ALL) or as often as the smaller of both (INTERSECT ALL).

use datafusion::common::{Column, UnnestOptions};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit, when};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, ObjectName, ObjectNamePart, TableFactor,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::arguments::problem;
use crate::error::Error;
use crate::sql::sets::{EXCEPT_ALL, INTERSECT_ALL};

/// The columns with how many rows of a side there are, and how often a row is given.
const LEFT: &str = "__left";
const RIGHT: &str = "__right";
const TIMES: &str = "__times";

/// The operation that `name` stands for.
pub fn operation(name: &ObjectName) -> Option<&'static str> {
    let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return None };
    [EXCEPT_ALL, INTERSECT_ALL].into_iter().find(|operation| ident.quote_style.is_none() && ident.value == *operation)
}

/// The plan of an operation on two queries.
pub fn plan(
    operation: &str,
    args: Vec<FunctionArg>,
    span: Span,
    context: &mut dyn RelationPlannerContext,
) -> Result<LogicalPlan> {
    let mut sides = Vec::new();
    for arg in args {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(SqlExpr::Subquery(subquery))) = arg else { continue };
        sides.push(context.plan(TableFactor::Derived { lateral: false, subquery, alias: None, sample: None })?);
    }
    let [left, right] = <[LogicalPlan; 2]>::try_from(sides)
        .map_err(|_| datafusion::error::DataFusionError::from(Error::internal("a set operation without two sides")))?;
    let widths = (left.schema().fields().len(), right.schema().fields().len());
    if widths.0 != widths.1 {
        let message = format!("{operation} of {} columns and {} columns", widths.0, widths.1);
        return Err(problem(span, &message, "Select the same columns on both sides."));
    }
    let series = context.context_provider().get_function_meta("generate_series");
    let series = series.ok_or_else(|| Error::internal("function `generate_series` does not exist"))?;
    let names: Vec<String> = left.schema().fields().iter().map(|field| field.name().clone()).collect();
    let columns: Vec<Expr> = (0..widths.0).map(|at| Expr::Column(Column::from_name(numbered(at)))).collect();
    let (in_left, in_right) = (Expr::Column(Column::from_name(LEFT)), Expr::Column(Column::from_name(RIGHT)));
    let counted = LogicalPlanBuilder::from(side(left, LEFT, RIGHT)?)
        .union(side(right, RIGHT, LEFT)?)?
        .aggregate(columns.clone(), vec![count(in_left.clone()).alias(LEFT), count(in_right.clone()).alias(RIGHT)])?;
    let times = match operation {
        EXCEPT_ALL => in_left - in_right,
        _ => when(in_left.clone().lt(in_right.clone()), in_left).otherwise(in_right)?,
    };
    let of_times = |times: Expr| columns.iter().cloned().chain([times.alias(TIMES)]).collect::<Vec<_>>();
    let times = counted.project(of_times(times))?.filter(Expr::Column(Column::from_name(TIMES)).gt(lit(0_i64)))?;
    let repeated = series.call(vec![lit(1_i64), Expr::Column(Column::from_name(TIMES))]);
    let options = UnnestOptions::new().with_preserve_nulls(false);
    let rows = times.project(of_times(repeated))?.unnest_column_with_options(Column::from_name(TIMES), options)?;
    rows.project(columns.into_iter().zip(names).map(|(column, name)| column.alias(name)))?.build()
}

/// The rows of a side: columns by number, one in its own count, nothing in the other's.
fn side(plan: LogicalPlan, own: &str, other: &str) -> Result<LogicalPlan> {
    let columns = plan.schema().columns().into_iter().enumerate();
    let mut exprs: Vec<Expr> = columns.map(|(at, column)| Expr::Column(column).alias(numbered(at))).collect();
    let mut counts = [lit(1_i64).alias(own), lit(ScalarValue::Int64(None)).alias(other)];
    // In the order that is the same on both sides.
    counts.sort_by_key(|count| count.schema_name().to_string());
    exprs.extend(counts);
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

fn numbered(at: usize) -> String {
    format!("__column_{at}")
}
