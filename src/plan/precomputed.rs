//! Inputs of window functions as columns of a projection below them, so that rows for which one cannot be computed are treated where
//! [`super::careful`] computes each row: left out, or null.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Window, when};

/// Begins names that no one writes.
const COMPUTED: &str = "__weir_computed_";

/// The plan, which is optimized, with arguments, partitions, orders and filters of windows computed below them.
pub fn precomputed(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Window(window) => below_window(window),
        other => Ok(Transformed::no(other)),
    });
    Ok(rewritten?.data)
}

fn below_window(window: Window) -> Result<Transformed<LogicalPlan>> {
    let mut computed = Vec::new();
    let names = NamePreserver::new_for_projection();
    let over_columns = |expr: &Expr| {
        let name = names.save(expr);
        let moved = expr.clone().transform_down(|part| match part {
            Expr::WindowFunction(call) => {
                let call = Box::new(of_columns(*call, &mut computed)?);
                Ok(Transformed::new(Expr::WindowFunction(call), true, TreeNodeRecursion::Jump))
            }
            other => Ok(Transformed::no(other)),
        });
        Ok(name.restore(moved?.data))
    };
    let calls: Vec<Expr> = window.window_expr.iter().map(over_columns).collect::<Result<_>>()?;
    if computed.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    let given = window.input.schema().columns().into_iter().map(Expr::Column);
    let computed = computed.into_iter().enumerate().map(|(number, expr)| expr.alias(format!("{COMPUTED}{number}")));
    let below = Projection::try_new(given.chain(computed).collect(), window.input)?;
    let above = Window::try_new(calls, Arc::new(LogicalPlan::Projection(below)))?;
    let given = window.schema.columns().into_iter().map(Expr::Column).collect();
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(given, Arc::new(LogicalPlan::Window(above)))?)))
}

/// The call over columns; what they are is added to `computed`.
fn of_columns(mut call: WindowFunction, computed: &mut Vec<Expr>) -> Result<WindowFunction> {
    let params = &mut call.params;
    let filter = params.filter.as_deref().cloned();
    for argument in &mut params.args {
        // Arguments of rows that the filter leaves out are not computed.
        if let (Some(filter), false) = (&filter, argument.column_refs().is_empty()) {
            *argument = when(filter.clone(), std::mem::take(argument)).end()?;
        }
    }
    let orders = params.order_by.iter_mut().map(|sort| &mut sort.expr);
    let read = params.args.iter_mut().chain(&mut params.partition_by).chain(orders);
    for expr in read.chain(params.filter.iter_mut().map(|filter| &mut **filter)) {
        if !matches!(expr, Expr::Column(_)) && !expr.column_refs().is_empty() {
            // Calls of one window share their partitions and orders.
            let number = computed.iter().position(|other| other == expr).unwrap_or(computed.len());
            let value = std::mem::replace(expr, Expr::Column(Column::from_name(format!("{COMPUTED}{number}"))));
            if number == computed.len() {
                computed.push(value);
            }
        }
    }
    Ok(call)
}
