//! The batch forms: sessions and deduplication as window functions, ASOF joins as the newest of all matches.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, ScalarValue};
use datafusion::error::Result;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_window::expr_fn::{lag, row_number};
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::expr_fn::when;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprFunctionExt, Join, LogicalPlan, LogicalPlanBuilder, Operator, WindowFrame, WindowFrameBound,
    WindowFrameUnits, WindowFunctionDefinition, lit,
};
use datafusion::optimizer::AnalyzerRule;

use super::building::{call, columns};
use crate::function::{SHIFT, first_within};
use crate::plan::nodes::{WINDOW_END, WINDOW_START};
use crate::sql::temporal::ASOF;
use crate::time::Lag;

/// Names that no one writes.
const BEGINS: &str = "__weir_begins";
const SESSION: &str = "__weir_session";
const ROW: &str = "__weir_row";

/// Sessions: a row begins one where the row before it, by key and time, is `gap` or more away; the running count of
/// beginnings numbers the sessions of a key.
pub fn session(input: LogicalPlan, keys: Vec<Expr>, time: Expr, gap: Lag) -> Result<LogicalPlan> {
    let given = columns(&input);
    let order = vec![time.clone().sort(true, false)];
    let before = lag(time.clone(), Some(1), None).partition_by(keys.clone()).order_by(order.clone()).build()?;
    let (plan, before) = windowed(input, before)?;
    let ends = call(SHIFT, vec![before.clone(), lit(gap.0)])?;
    let begins = when(before.is_null().or(ends.lt_eq(time.clone())), lit(1_i64)).otherwise(lit(0_i64))?;
    let mut exprs = given.clone();
    exprs.push(begins.alias(BEGINS));
    let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;

    let frame = WindowFrame::new_bounds(
        WindowFrameUnits::Rows,
        WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
        WindowFrameBound::CurrentRow,
    );
    let count = aggregate(sum_udaf(), named(BEGINS)).partition_by(keys.clone()).order_by(order).window_frame(frame);
    let (plan, count) = windowed(plan, count.build()?)?;
    let mut exprs = given.clone();
    exprs.push(count.alias(SESSION));
    let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;

    let mut partition = keys;
    partition.push(named(SESSION));
    let first = aggregate(min_udaf(), time.clone()).partition_by(partition.clone()).build()?;
    let last = aggregate(max_udaf(), time).partition_by(partition).build()?;
    let (plan, first) = windowed(plan, first)?;
    let (plan, last) = windowed(plan, last)?;
    let mut exprs = given;
    exprs.push(first.alias(WINDOW_START));
    exprs.push(call(SHIFT, vec![last, lit(gap.0)])?.alias(WINDOW_END));
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// The first row of a key by time, and every one that comes `within` or more after the one let through before it.
pub fn deduplicate(
    input: LogicalPlan,
    keys: Vec<Expr>,
    time: Option<Expr>,
    within: Option<Lag>,
) -> Result<LogicalPlan> {
    let given = columns(&input);
    let order: Vec<Sort> = time.iter().map(|time| time.clone().sort(true, false)).collect();
    let (plan, passes) = match (time, within) {
        (Some(time), Some(within)) => {
            let first = first_within().call(vec![time, lit(within.0)]).partition_by(keys).order_by(order).build()?;
            windowed(input, first)?
        }
        _ => {
            let number = row_number().partition_by(keys);
            let number = if order.is_empty() { number.build()? } else { number.order_by(order).build()? };
            let (plan, number) = windowed(input, number)?;
            (plan, number.eq(lit(1_u64)))
        }
    };
    LogicalPlanBuilder::from(plan).filter(passes)?.project(given)?.build()
}

/// ASOF joins as what they mean: of all rows that match a left row, the one with the greatest time.
#[derive(Debug)]
pub struct AsofAsWindow;

impl AnalyzerRule for AsofAsWindow {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Join(join) => match unmarked(&join)? {
                Some((filter, time)) => newest(join, filter, time).map(Transformed::yes),
                None => Ok(Transformed::no(LogicalPlan::Join(join))),
            },
            other => Ok(Transformed::no(other)),
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "asof_as_window"
    }
}

/// If the join's condition is marked: the condition without the mark, and the right side's time.
pub(super) fn unmarked(join: &Join) -> Result<Option<(Vec<Expr>, Expr)>> {
    let Some(filter) = &join.filter else { return Ok(None) };
    let mut time = None;
    let mut filters = Vec::new();
    for part in split_conjunction_owned(filter.clone()) {
        match part {
            Expr::ScalarFunction(mark) if mark.name() == ASOF => {
                for condition in mark.args {
                    time = Some(right_time(&condition, join)?);
                    filters.push(condition);
                }
            }
            other => filters.push(other),
        }
    }
    Ok(time.map(|time| (filters, time)))
}

/// The side of the match condition that the right input gives.
fn right_time(condition: &Expr, join: &Join) -> Result<Expr> {
    use Operator::{Gt, GtEq, Lt, LtEq};
    let of_right = |expr: &Expr| expr.column_refs().iter().all(|column| join.right.schema().has_column(column));
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: GtEq | Gt, right }) if of_right(right) => Ok(right.as_ref().clone()),
        Expr::BinaryExpr(BinaryExpr { left, op: LtEq | Lt, .. }) if of_right(left) => Ok(left.as_ref().clone()),
        other => Err(crate::error::Error::sql(format!("`{other}` is not a match condition"))
            .with_hint("Write `MATCH_CONDITION (left.time >= right.time)`.")
            .into()),
    }
}

fn newest(join: Join, filter: Vec<Expr>, time: Expr) -> Result<LogicalPlan> {
    let given = columns(&LogicalPlan::Join(join.clone()));
    let mut exprs = columns(&join.left);
    let (left, row) = windowed(Arc::unwrap_or_clone(join.left), row_number())?;
    exprs.push(row.alias(ROW));
    let left = LogicalPlanBuilder::from(left).project(exprs)?;
    let on = join.on.into_iter().map(|(left, right)| left.eq(right));
    let condition = conjunction(on.chain(filter));
    let plan = left.join_on(Arc::unwrap_or_clone(join.right), join.join_type, condition)?.build()?;
    let number = row_number().partition_by(vec![named(ROW)]).order_by(vec![time.sort(false, false)]).build()?;
    let (plan, number) = windowed(plan, number)?;
    LogicalPlanBuilder::from(plan).filter(number.eq(lit(1_u64)))?.project(given)?.build()
}

/// Adds a window function to a plan; gives the column that it makes.
fn windowed(input: LogicalPlan, function: Expr) -> Result<(LogicalPlan, Expr)> {
    let column = named(&function.schema_name().to_string());
    Ok((LogicalPlanBuilder::from(input).window([function])?.build()?, column))
}

/// An aggregate over a window.
fn aggregate(function: Arc<datafusion::logical_expr::AggregateUDF>, argument: Expr) -> Expr {
    Expr::from(WindowFunction::new(WindowFunctionDefinition::AggregateUDF(function), vec![argument]))
}

pub(super) fn named(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}
