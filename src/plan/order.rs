//! The order of rows: where it decides the result, and how an operator's rows are brought back into it.
//!
//! Shards of an operator run side by side, so its rows come out shard by shard: rows of different keys have lost the order in which they
//! arrived. A rolling window on arrival behind it, a deduplication, or a target that keeps the last row of a key would then depend
//! on the number of shards. [`mark_order`] finds the operators whose rows something behind them takes in order; those give them in
//! the order of arrival, or in the order of the event times by which they are released. All others pay nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::WindowFrameUnits;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::dataflow::{Branch, Fragment, Unshared};
use super::operators::{OperatorNode, OperatorSpec};
use crate::operator::spec::{DeduplicateEmit, RollingEmit, RollingFunction, RollingKind, RollingSpec};
use crate::operator::{HeldExec, NUMBER, StreamId, number_field};

/// The order in which an operator's rows come out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputOrder {
    /// That of the input rows that they are. The operator runs as [`OperatorSpec::numbered`]; the number stands in this column of its output.
    Arrival(usize),
    /// By the greatest of these event time columns; rows of one time in no particular order.
    Time(Vec<usize>),
}

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
            if passes || depends_on_order(&node.spec) {
                wanted.extend(node.inputs.iter().map(|input: &StreamId| input.0));
            }
        }
        if wanted.len() == before {
            break;
        }
    }
    for node in operators.iter_mut() {
        node.order = order_of(&node.spec).filter(|_| wanted.contains(&node.output.0));
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

/// True for operators whose result depends on the order of their input's rows.
fn depends_on_order(spec: &OperatorSpec) -> bool {
    match spec {
        OperatorSpec::Rolling(spec) => {
            spec.emit == RollingEmit::OnArrival || spec.functions.iter().any(tells_peers_apart)
        }
        OperatorSpec::Deduplicate(_) | OperatorSpec::Newest(_) => true,
        OperatorSpec::Aggregate(spec) => spec.aggregates.iter().any(|call| collects_in_order(call)),
        _ => false,
    }
}

/// True for window functions that say different things of rows with one time.
fn tells_peers_apart(function: &RollingFunction) -> bool {
    let whole = function.frame.units == WindowFrameUnits::Range;
    !whole || !matches!(&function.function, RollingKind::Aggregate(call, _) if !collects_in_order(call))
}

fn collects_in_order(call: &AggregateFunctionExpr) -> bool {
    let ordered = ["array_agg", "string_agg", "first_value", "last_value", "nth_value"];
    call.order_bys().is_empty() && ordered.contains(&call.fun().name())
}

/// The order that an operator can give its rows in; `None`: it takes rows back, or gives them in order anyway.
fn order_of(spec: &OperatorSpec) -> Option<OutputOrder> {
    let time = |column: usize| Some(OutputOrder::Time(vec![column]));
    match spec {
        OperatorSpec::Rolling(RollingSpec { emit: RollingEmit::OnArrival, input, .. }) => {
            Some(OutputOrder::Arrival(input.fields().len()))
        }
        OperatorSpec::Rolling(spec) => time(spec.time.column),
        OperatorSpec::Deduplicate(spec) if spec.emit == DeduplicateEmit::OnArrival => {
            Some(OutputOrder::Arrival(spec.input.fields().len()))
        }
        OperatorSpec::Deduplicate(spec) => spec.time.and_then(|by| time(by.column)),
        OperatorSpec::Aggregate(spec) => {
            let closing = spec.closing?.column;
            time(spec.keys.iter().position(|key| *key == closing)?)
        }
        OperatorSpec::Session(spec) => time(spec.output.fields().len().checked_sub(1)?),
        OperatorSpec::TopN(spec) => time(spec.closing?.column),
        OperatorSpec::Asof(spec) => time(spec.left_time.column),
        OperatorSpec::Join(spec) if !spec.output_retract => {
            let bounds = spec.bounds?;
            let (left, right) = (bounds.left.column, bounds.right.column);
            Some(OutputOrder::Time(match spec.join_type {
                JoinType::LeftSemi | JoinType::LeftAnti => vec![left],
                JoinType::RightSemi | JoinType::RightAnti => vec![right],
                _ => vec![left, spec.left.fields().len() + right],
            }))
        }
        OperatorSpec::Join(_) | OperatorSpec::Newest(_) | OperatorSpec::Lookup(_) => None,
    }
}

impl OperatorSpec {
    /// The same over rows that carry their number behind the input's columns and keep it. What is remembered is the same.
    pub fn numbered(&self) -> Self {
        match self.clone() {
            Self::Rolling(mut spec) => {
                spec.output = with_number(&spec.output, spec.input.fields().len());
                spec.input = with_number(&spec.input, spec.input.fields().len());
                Self::Rolling(spec)
            }
            Self::Deduplicate(mut spec) => {
                spec.input = with_number(&spec.input, spec.input.fields().len());
                Self::Deduplicate(spec)
            }
            other => other,
        }
    }
}

fn with_number(schema: &SchemaRef, at: usize) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.insert(at, number_field());
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}
