//! Aggregates, windows and joins of a batch plan over rows for which their arguments cannot be computed: as the operators of a pipeline take
//! them, so that `weir verify` compares like with like.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateInputMode, PhysicalGroupBy};
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder};
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use crate::catalog::OnRowError;
use crate::operator::{Check, Guarded, is_fallible};

/// Expressions that may fail, of those that the node computes for each row of its input; such a row is left out. `None`: no such node.
pub fn checks(plan: &Arc<dyn ExecutionPlan>, mode: OnRowError) -> Option<Vec<Check>> {
    let input = plan.children().first()?.schema();
    let all: Vec<Check> = if let Some(node) = raw(plan) {
        let keys = node.group_expr().expr().iter().map(|(key, _)| Check { expr: Arc::clone(key), filter: None });
        let calls = node.aggr_expr().iter().zip(node.filter_expr());
        let arguments = calls.flat_map(|(call, filter)| Check::of_call(call, filter.as_ref(), &input));
        keys.chain(arguments).filter(|_| mode != OnRowError::Null).collect()
    } else {
        let windows = match (plan.downcast_ref::<WindowAggExec>(), plan.downcast_ref::<BoundedWindowAggExec>()) {
            (Some(node), _) => node.window_expr(),
            (_, Some(node)) => node.window_expr(),
            _ => return None,
        };
        windows.iter().flat_map(|window| window.expressions()).map(|expr| Check { expr, filter: None }).collect()
    };
    let fallible: Vec<Check> = all.into_iter().filter(|check| is_fallible(&check.expr, &input)).collect();
    (!fallible.is_empty() || mode == OnRowError::Null).then_some(fallible)
}

/// The node with keys and arguments that are null where they cannot be computed, if they count so.
pub fn guarded(plan: &Arc<dyn ExecutionPlan>, mode: OnRowError) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(node) = raw(plan).filter(|_| mode == OnRowError::Null) else { return Ok(Arc::clone(plan)) };
    let input = node.input().schema();
    let guard = |expr: Arc<dyn PhysicalExpr>| if is_fallible(&expr, &input) { Guarded::null(expr) } else { expr };
    let calls = node.aggr_expr().iter().map(|call| {
        let arguments = call.expressions().into_iter().map(guard).collect();
        let orders = call.order_bys().iter().map(|sort| guard(Arc::clone(&sort.expr))).collect();
        call.with_new_expressions(arguments, orders).map_or_else(|| Arc::clone(call), Arc::new)
    });
    let filters = node.filter_expr().iter().map(|filter| filter.clone().map(guard)).collect();
    let keys = node.group_expr();
    let guarded = keys.expr().iter().map(|(key, name)| (guard(Arc::clone(key)), name.clone())).collect();
    let keys =
        PhysicalGroupBy::new(guarded, keys.null_expr().to_vec(), keys.groups().to_vec(), keys.has_grouping_set());
    let (mode, below) = (*node.mode(), Arc::clone(node.input()));
    Ok(Arc::new(AggregateExec::try_new(mode, Arc::new(keys), calls.collect(), filters, below, node.input_schema())?))
}

/// A join whose condition does not hold for pairs for which it cannot be computed; other nodes as they are.
pub fn tolerant_join(plan: &Arc<dyn ExecutionPlan>, mode: OnRowError) -> Result<Arc<dyn ExecutionPlan>> {
    let guarded = |filter: &JoinFilter| {
        let expr = Arc::clone(filter.expression());
        let expr = if mode == OnRowError::Null { Guarded::null(expr) } else { Guarded::fails(expr) };
        Some(JoinFilter::new(expr, filter.column_indices().to_vec(), Arc::clone(filter.schema())))
    };
    if let Some(join) = plan.downcast_ref::<HashJoinExec>()
        && let Some(filter) = join.filter()
    {
        return join.builder().with_filter(guarded(filter)).build_exec();
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>()
        && let Some(filter) = join.filter()
    {
        let join = NestedLoopJoinExecBuilder::from(join).with_filter(guarded(filter)).build()?;
        return Ok(Arc::new(join));
    }
    Ok(Arc::clone(plan))
}

/// The aggregate that reads rows, not states of another.
fn raw(plan: &Arc<dyn ExecutionPlan>) -> Option<&AggregateExec> {
    plan.downcast_ref::<AggregateExec>().filter(|node| node.mode().input_mode() == AggregateInputMode::Raw)
}
