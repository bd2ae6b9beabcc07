//! Joins on `IS NOT DISTINCT FROM` keep it for these keys alone.
//!
//! A join has one rule for NULLs in all its keys. DataFusion makes keys of `l.a IS NOT DISTINCT FROM r.a`, and later adds `l.p = r.p` from WHERE
//! to them, or mixes the keys of several joins: NULLs in `p` then match, or those in `a` no longer do. So to a join whose keys match NULLs
//! nothing is added, and the equality stays a condition of it.

use std::sync::Arc;

use datafusion::common::NullEquality;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{JoinType, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// The rules with those guarded that add keys to joins.
pub fn keep_null_safety(rules: &mut [Arc<dyn OptimizerRule + Send + Sync>]) {
    for rule in rules {
        let skips: fn(&LogicalPlan) -> bool = match rule.name() {
            "extract_equijoin_predicate" => has_null_safe_keys,
            "eliminate_cross_join" => has_null_safe_join,
            _ => continue,
        };
        *rule = Arc::new(Guarded { rule: Arc::clone(rule), skips });
    }
}

/// A rule that leaves some plans alone.
#[derive(Debug)]
struct Guarded {
    rule: Arc<dyn OptimizerRule + Send + Sync>,
    skips: fn(&LogicalPlan) -> bool,
}

impl OptimizerRule for Guarded {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if (self.skips)(&plan) { Ok(Transformed::no(plan)) } else { self.rule.rewrite(plan, config) }
    }
}

fn has_null_safe_keys(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Join(join) if join.null_equality == NullEquality::NullEqualsNull && !join.on.is_empty())
}

/// True where a join of rows has such keys, anywhere in the plan.
fn has_null_safe_join(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let visited = plan.apply_with_subqueries(|node| {
        found |=
            has_null_safe_keys(node) && matches!(node, LogicalPlan::Join(join) if join.join_type == JoinType::Inner);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    // Looking cannot fail.
    let _ = visited;
    found
}
