//! One null rule per join. A join of DataFusion has one for all its keys: null matches null (`IS NOT DISTINCT FROM`), or nothing (`=`).
//!
//! DataFusion's rules forget that where a condition comes to a join later, from WHERE or from a neighbouring join: they add its `=` to keys
//! that match nulls. The two rules here keep such a condition a condition.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::logical_expr::{Join, Limit, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// A rule that turns conditions of one join into keys. Joins whose keys match nulls keep their conditions.
#[derive(Debug)]
pub struct KeysOfOneKind(pub Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for KeysOfOneKind {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Join(join) if matches_nulls(join) => Ok(Transformed::no(plan)),
            _ => self.0.rewrite(plan, config),
        }
    }
}

/// A rule that orders several joins anew and gathers their keys. A join whose keys match nulls is an input to it, and
/// looks at its own inputs only.
#[derive(Debug)]
pub struct NullKeysApart(pub Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for NullKeysApart {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let mut any = false;
        plan.apply_with_subqueries(|node| {
            any |= matches!(node, LogicalPlan::Join(join) if is_apart(join));
            Ok(if any { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        if !any {
            return self.0.rewrite(plan, config);
        }
        let apart = plan.transform_up_with_subqueries(|node| {
            Ok(match node {
                LogicalPlan::Join(mut join) if is_apart(&join) => {
                    join.left = Arc::new(enclosed(Arc::unwrap_or_clone(join.left)));
                    join.right = Arc::new(enclosed(Arc::unwrap_or_clone(join.right)));
                    Transformed::yes(enclosed(LogicalPlan::Join(join)))
                }
                node => Transformed::no(node),
            })
        })?;
        let rewritten = self.0.rewrite(apart.data, config)?;
        let plan = rewritten.data.transform_up_with_subqueries(|node| {
            Ok(match node {
                LogicalPlan::Limit(Limit { skip: None, fetch: None, input }) => {
                    Transformed::yes(Arc::unwrap_or_clone(input))
                }
                node => Transformed::no(node),
            })
        })?;
        Ok(Transformed::new(plan.data, rewritten.transformed, TreeNodeRecursion::Continue))
    }
}

fn matches_nulls(join: &Join) -> bool {
    join.null_equality == NullEquality::NullEqualsNull && !join.on.is_empty()
}

fn is_apart(join: &Join) -> bool {
    join.join_type == JoinType::Inner && matches_nulls(join)
}

/// The plan below a node that does nothing: a LIMIT without a limit, which no query keeps until here.
fn enclosed(plan: LogicalPlan) -> LogicalPlan {
    LogicalPlan::Limit(Limit { skip: None, fetch: None, input: Arc::new(plan) })
}
