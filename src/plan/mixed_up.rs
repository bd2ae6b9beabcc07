//! Arguments of models that are given by position and named like other features of the model.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;

use super::Dataflow;
use crate::model::ScoringUdf;

/// A sentence for each argument whose column has the name of a feature at another place: `f(n_items, amount)` for a model of
/// (amount, n_items).
pub fn mixed_up_features(dataflow: &Dataflow) -> Vec<String> {
    let mut found = BTreeSet::new();
    let fragments = dataflow.fragments.iter().map(|fragment| &fragment.plan);
    for plan in fragments.chain(dataflow.branches.iter().map(|branch| &branch.plan)) {
        // The closure never fails.
        let _ = plan.apply(|node| {
            expressions(node).iter().for_each(|expr| in_expression(expr, &mut found));
            Ok(TreeNodeRecursion::Continue)
        });
    }
    found.into_iter().collect()
}

fn expressions(node: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn PhysicalExpr>> {
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        return projection.expr().iter().map(|column| Arc::clone(&column.expr)).collect();
    }
    node.downcast_ref::<FilterExec>().map(|filter| Arc::clone(filter.predicate())).into_iter().collect()
}

fn in_expression(expr: &Arc<dyn PhysicalExpr>, found: &mut BTreeSet<String>) {
    let _ = expr.apply(|expr| {
        let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() else { return Ok(TreeNodeRecursion::Continue) };
        let Some(model) = call.fun().inner().downcast_ref::<ScoringUdf>() else {
            return Ok(TreeNodeRecursion::Continue);
        };
        let model = model.slot().current();
        let features = model.features();
        for (place, (argument, feature)) in call.args().iter().zip(features).enumerate() {
            let Some(name) = column(argument).filter(|name| !name.eq_ignore_ascii_case(feature)) else { continue };
            if features.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                found.insert(format!(
                    "argument {} of `{}` is its feature `{feature}`, and column `{name}`, which is given there, has the name of another feature: write `{feature} => …` to be sure",
                    place + 1,
                    call.name(),
                ));
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
}

/// The column that an argument is, cast or not.
fn column(argument: &Arc<dyn PhysicalExpr>) -> Option<&str> {
    if let Some(cast) = argument.downcast_ref::<CastExpr>() {
        return column(cast.expr());
    }
    argument.downcast_ref::<Column>().map(Column::name)
}
