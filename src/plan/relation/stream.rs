//! The stream form of ASOF joins: apart from what stands above them, so that no condition moves below.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::AnalyzerRule;

use super::batch::unmarked;
use super::building::extension;
use crate::plan::nodes::AsofNode;

/// Puts every ASOF join below an [`AsofNode`].
#[derive(Debug)]
pub struct AsofApart;

impl AnalyzerRule for AsofApart {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Join(join) if unmarked(&join)?.is_some() => {
                let right = join.right.schema().fields().iter().map(|field| field.name().clone()).collect();
                Ok(Transformed::yes(extension(AsofNode { input: LogicalPlan::Join(join), right })))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "asof_apart"
    }
}
