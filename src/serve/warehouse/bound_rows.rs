//! VALUES with parameters: `VALUES (1), (?)` was planned as whole numbers before 2.5 was bound. The type of a column follows from what is bound.

use datafusion::common::ParamValues;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

/// The plan with its parameters bound.
pub fn bound(plan: LogicalPlan, parameters: ParamValues) -> Result<LogicalPlan> {
    let mut found = false;
    let plan = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Values(mut values) = node else { return Ok(Transformed::no(node)) };
        let mut bare = false;
        for expr in values.values.iter_mut().flatten() {
            found |= matches!(expr, Expr::Placeholder(_));
            if let Expr::Cast(cast) = expr
                && matches!(*cast.expr, Expr::Placeholder(_))
            {
                *expr = std::mem::take(&mut *cast.expr);
                bare = true;
            }
        }
        found |= bare;
        Ok(Transformed::new_transformed(LogicalPlan::Values(values), bare))
    })?;
    let plan = plan.data.with_param_values(parameters)?;
    if !found {
        return Ok(plan);
    }
    let typed = plan.transform_up_with_subqueries(|node| {
        let node = match node {
            LogicalPlan::Values(values) => LogicalPlanBuilder::values(values.values)?.build()?,
            other => other.recompute_schema()?,
        };
        Ok(Transformed::yes(node))
    })?;
    Ok(typed.data)
}
