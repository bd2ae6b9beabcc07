//! Functions that do not give the same answer on every call.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};

/// The functions of a plan that do not give the same answer on every call.
///
/// Errors: a plan that cannot be walked.
pub fn volatile_functions(plan: &LogicalPlan) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::ScalarFunction(call) = part
                    && call.func.signature().volatility == Volatility::Volatile
                    // Marks of the planner are no calls.
                    && !call.func.name().starts_with("weir_")
                {
                    found.insert(call.func.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}
