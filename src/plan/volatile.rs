//! Functions that a plan calls: those that do not give the same answer on every call, and those of windows.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF, Volatility};

use crate::function::HOP_STARTS;

/// The functions of a plan that do not give the same answer on every call.
///
/// Errors: a plan that cannot be walked.
pub fn volatile_functions(plan: &LogicalPlan) -> Result<BTreeSet<String>> {
    // Marks of the planner are no calls.
    functions(plan, |function| {
        function.signature().volatility == Volatility::Volatile && !function.name().starts_with("weir_")
    })
}

/// True if a row of the plan has a place in several windows.
///
/// Errors: a plan that cannot be walked.
pub fn has_hops(plan: &LogicalPlan) -> Result<bool> {
    Ok(!functions(plan, |function| function.name() == HOP_STARTS)?.is_empty())
}

/// The names of the functions that a plan calls, of those that are wanted.
fn functions(plan: &LogicalPlan, is_wanted: impl Fn(&ScalarUDF) -> bool) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::ScalarFunction(call) = part
                    && is_wanted(&call.func)
                {
                    found.insert(call.func.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}
