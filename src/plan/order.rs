//! The order of rows: where it decides the result, and how an operator's rows are brought back into it.
//!
//! Shards of an operator run side by side, so its rows come out shard by shard: rows of different keys have lost the order in which they
//! arrived. A rolling window on arrival behind it, a deduplication, or a target that keeps the last row of a key would then depend
//! on the number of shards. [`mark_order`] finds the operators whose rows something behind them takes in order; those give them in
//! the order of arrival, or in the order of the event times by which they are released. All others pay nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::dataflow::{Branch, Fragment, Unshared};
use super::operators::OperatorNode;
use crate::operator::{HeldExec, NUMBER, StreamId};

/// Notes in each operator the order that its rows are wanted in, if something behind it depends on one, and lets UNIONs keep the order of the
/// rows that they read. `ordered` are the branches that depend on one.
///
/// Errors: DataFusion's, which plans do not cause.
pub(super) fn mark_order(
    operators: &mut [OperatorNode],
    fragments: &mut [Fragment],
    branches: &mut [Branch],
    ordered: &[bool],
) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for (branch, _) in branches.iter().zip(ordered).filter(|(_, ordered)| **ordered) {
        wanted.extend(branch.reads.iter().map(|read| read.0));
    }
    // Readers of a stream stand behind its maker, so a few rounds reach everything.
    loop {
        let before = wanted.len();
        for fragment in fragments.iter() {
            if wanted.contains(&fragment.stream.0) {
                wanted.extend(fragment.reads.iter().map(|read| read.0));
            }
        }
        for node in operators.iter() {
            let passes = wanted.contains(&node.output.0) && node.spec.passes_on().is_some();
            if passes || node.spec.depends_on_order() {
                wanted.extend(node.inputs.iter().map(|input: &StreamId| input.0));
            }
        }
        if wanted.len() == before {
            break;
        }
    }
    for node in operators.iter_mut() {
        node.order = node.spec.order().filter(|_| wanted.contains(&node.output.0));
    }
    for fragment in fragments.iter_mut().filter(|fragment| wanted.contains(&fragment.stream.0)) {
        fragment.plan = unions_in_order(Arc::clone(&fragment.plan))?;
        unshared_in_order(&mut fragment.unshared)?;
    }
    for (branch, _) in branches.iter_mut().zip(ordered).filter(|(_, ordered)| **ordered) {
        branch.plan = unions_in_order(Arc::clone(&branch.plan))?;
        unshared_in_order(&mut branch.unshared)?;
    }
    Ok(())
}

fn unshared_in_order(unshared: &mut Option<Unshared>) -> Result<()> {
    if let Some(unshared) = unshared {
        unshared.plan = unions_in_order(Arc::clone(&unshared.plan))?;
    }
    Ok(())
}

/// A plan whose UNIONs of several parts of one stream give the rows in the stream's order: parts carry the rows' numbers and are merged by them.
/// Left as they are: UNIONs of different streams, which have no common order, and those with other nodes than filters and projections.
fn unions_in_order(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let ordered = plan.transform_down(|node| {
        if !node.is::<UnionExec>() {
            return Ok(Transformed::no(node));
        }
        let mut streams = BTreeSet::new();
        let Some(numbered) = with_numbers(&node, &mut streams)?.filter(|_| streams.len() == 1) else {
            return Ok(Transformed::no(node));
        };
        let schema = numbered.schema();
        let number: Arc<dyn PhysicalExpr> = Arc::new(Column::new(NUMBER, schema.fields().len() - 1));
        let ordering = LexOrdering::from([PhysicalSortExpr::new_default(number)]);
        let merged = SortPreservingMergeExec::new(ordering, numbered).with_round_robin_repartition(false);
        let others = schema.fields().iter().take(schema.fields().len() - 1).enumerate();
        let others = others.map(|(index, field)| ProjectionExpr {
            expr: Arc::new(Column::new(field.name(), index)),
            alias: field.name().clone(),
        });
        let plain: Arc<dyn ExecutionPlan> =
            Arc::new(ProjectionExec::try_new(others.collect::<Vec<_>>(), Arc::new(merged))?);
        Ok(Transformed::new(plain, true, TreeNodeRecursion::Jump))
    });
    ordered.data()
}

/// A plan whose rows carry their number in the stream that it reads as the last column; `None` where they cannot. Adds the streams.
fn with_numbers(
    plan: &Arc<dyn ExecutionPlan>,
    streams: &mut BTreeSet<usize>,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(leaf) = plan.downcast_ref::<HeldExec>() {
        streams.insert(leaf.stream().0);
        return Ok(Some(Arc::new(leaf.with_numbers())));
    }
    let mut inputs = Vec::new();
    for child in plan.children() {
        let Some(input) = with_numbers(child, streams)? else { return Ok(None) };
        inputs.push(input);
    }
    let last = |input: &Arc<dyn ExecutionPlan>| input.schema().fields().len() - 1;
    if plan.is::<UnionExec>() {
        return UnionExec::try_new(inputs).map(Some);
    }
    let [input] = inputs.as_slice() else { return Ok(None) };
    if let Some(node) = plan.downcast_ref::<ProjectionExec>() {
        let number = ProjectionExpr { expr: Arc::new(Column::new(NUMBER, last(input))), alias: NUMBER.to_owned() };
        let columns: Vec<_> = node.expr().iter().cloned().chain([number]).collect();
        return Ok(Some(Arc::new(ProjectionExec::try_new(columns, Arc::clone(input))?)));
    }
    if let Some(node) = plan.downcast_ref::<FilterExec>() {
        if node.fetch().is_some() {
            return Ok(None);
        }
        let projection = node.projection().as_ref();
        let projection = projection.map(|columns| columns.iter().copied().chain([last(input)]).collect());
        let filter = FilterExecBuilder::new(Arc::clone(node.predicate()), Arc::clone(input));
        return Ok(Some(Arc::new(filter.apply_projection(projection)?.build()?)));
    }
    if plan.is::<CooperativeExec>() {
        return Ok(Some(Arc::new(CooperativeExec::new(Arc::clone(input)))));
    }
    Ok(None)
}
