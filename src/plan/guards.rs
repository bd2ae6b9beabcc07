//! Conditions stay in front of what they guard.
//!
//! `SELECT a / q FROM t WHERE kind = 'ok'` computes `a / q` for the rows that pass. DataFusion moves a projection below a filter where that
//! makes rows narrower, and would compute it for all of them: rows that nobody asked for would fail.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::operator::is_fallible;

/// A rule that moves projections, for plans in which that is safe.
#[derive(Debug)]
pub struct WhereNothingFails(pub Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for WhereNothingFails {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if plan.exists(is_guarded)? { Ok(plan) } else { self.0.optimize(plan, config) }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// True for a projection that may fail, with a filter somewhere below.
fn is_guarded(node: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let Some(projection) = node.downcast_ref::<ProjectionExec>() else { return Ok(false) };
    let input = projection.input().schema();
    let fails = projection.expr().iter().any(|item| is_fallible(&item.expr, &input));
    Ok(fails && projection.input().exists(|below| Ok(below.is::<FilterExec>()))?)
}
