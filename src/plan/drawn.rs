//! Conditions that draw lots stay where they are: `HAVING random() < 0.1` takes a tenth of the groups, not a tenth of each group's rows.
//!
//! DataFusion moves a condition below an aggregate, a window or a join whose columns are known there; one on `random()` has none.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::clock::CLOCKS;

/// A rule that moves conditions down.
#[derive(Debug)]
pub struct LotsStayAbove(pub Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for LotsStayAbove {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = &plan else { return self.0.rewrite(plan, config) };
        // The rule takes filters that lie one upon the other as one.
        let (mut predicates, mut input) = (split_conjunction_owned(filter.predicate.clone()), &filter.input);
        while let LogicalPlan::Filter(below) = input.as_ref() {
            predicates.extend(split_conjunction_owned(below.predicate.clone()));
            input = &below.input;
        }
        let counts =
            matches!(input.as_ref(), LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Join(_));
        let (drawn, rest): (Vec<Expr>, Vec<Expr>) = predicates.into_iter().partition(draws);
        let Some(drawn) = conjunction(drawn).filter(|_| counts) else { return self.0.rewrite(plan, config) };
        let Some(rest) = conjunction(rest) else { return Ok(Transformed::no(plan)) };
        let moved = self.0.rewrite(LogicalPlan::Filter(Filter::try_new(rest, Arc::clone(input))?), config)?;
        if !moved.transformed {
            return Ok(Transformed::no(plan));
        }
        moved.map_data(|moved| Ok(LogicalPlan::Filter(Filter::try_new(drawn, Arc::new(moved))?)))
    }
}

/// True for what answers otherwise at each row; the clock stands still meanwhile.
fn draws(expr: &Expr) -> bool {
    let is_lot = |part: &Expr| match part {
        // Marks of the planner are no calls.
        Expr::ScalarFunction(call) => {
            part.is_volatile_node() && !CLOCKS.contains(&call.name()) && !call.name().starts_with("weir_")
        }
        _ => false,
    };
    expr.exists(|part| Ok(is_lot(part))).unwrap_or(true)
}
