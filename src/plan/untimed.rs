//! Rows without event time before a window: they lie in none, and the operator behind the window counts them.
//!
//! TUMBLE, HOP and SESSION put the condition `time IS NOT NULL` below their window. An operator that takes its rows by that time
//! counts the others with its late rows, so its input must have them: [`Untimed`] drops the condition there. The optimiser
//! moves conditions and mixes them with those of the query, which stay; so ours is written `time IS DISTINCT FROM NULL` with a mark
//! on the null. [`as_written`] gives the condition in SQL's words, for addresses of state and for what has no operator behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, JoinType, LogicalPlan, LogicalPlanBuilder, Operator, Projection,
    SubqueryAlias, TableScan, Union,
};

use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{Optimizer, OptimizerContext};

use crate::function::{HOP_STARTS, SHIFT, TUMBLE_START};
use crate::operator::{HeldTable, StreamId};

/// Key of the literal's metadata, for the condition of a window.
const WINDOW: &str = "weir.window_time";
/// The same for the condition on the rows of a shared view, whose own plan lets them through for the operators that count them.
const VIEW: &str = "weir.view_time";

/// The rows of `input` that have a time. An outer join below pads with nulls, which are no times of records: there, and where the
/// time is computed, the condition is the plain one.
pub fn timed_rows(input: LogicalPlan, time: &Expr) -> Result<LogicalPlan> {
    let pads = input.exists(|node| {
        Ok(matches!(node, LogicalPlan::Join(join) if matches!(join.join_type, JoinType::Left | JoinType::Right | JoinType::Full)))
    })?;
    let condition = match time {
        Expr::Column(_) if !pads => marked(time, &input, WINDOW)?,
        _ => time.clone().is_not_null(),
    };
    LogicalPlanBuilder::from(input).filter(condition)?.build()
}

/// The rows of a shared view, read by `plan`, that have a time.
pub fn timed_rows_of_view(plan: LogicalPlan, time: &Column) -> Result<LogicalPlan> {
    let condition = marked(&Expr::Column(time.clone()), &plan, VIEW)?;
    filtered(Arc::new(plan), vec![condition])
}

fn marked(time: &Expr, input: &LogicalPlan, mark: &str) -> Result<Expr> {
    let null = ScalarValue::try_from(&time.get_type(input.schema())?)?;
    let metadata = FieldMetadata::new(BTreeMap::from([(mark.to_owned(), String::new())]));
    let null = Expr::Literal(null, Some(metadata));
    Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(time.clone()), Operator::IsDistinctFrom, Box::new(null))))
}

/// The time of a condition of ours, and its mark.
fn marked_time(condition: &Expr) -> Option<(&Expr, &'static str)> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::IsDistinctFrom, right }) = condition else { return None };
    let Expr::Literal(_, Some(metadata)) = right.as_ref() else { return None };
    let mark = [WINDOW, VIEW].into_iter().find(|mark| metadata.inner().contains_key(*mark))?;
    Some((left, mark))
}

/// The plan with `time IS NOT NULL` for the conditions of windows, each condition once, and without those on rows of views.
pub fn as_written(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut of_views = false;
    let plan = plan.transform_up(|node| match node {
        LogicalPlan::Filter(filter) => filter_as_written(filter, &mut of_views),
        other => Ok(Transformed::no(other)),
    })?;
    if !of_views {
        return Ok(plan.data);
    }
    // The time may have been read for the condition only.
    let rules = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
    rules.optimize(plan.data, &OptimizerContext::new(), |_, _| {})
}

fn filter_as_written(filter: Filter, of_views: &mut bool) -> Result<Transformed<LogicalPlan>> {
    let conditions = split_conjunction(&filter.predicate);
    if !conditions.iter().any(|condition| marked_time(condition).is_some()) {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    }
    let mut written: Vec<Expr> = Vec::with_capacity(conditions.len());
    for condition in conditions {
        let condition = match marked_time(condition) {
            None => condition.clone(),
            Some((time, WINDOW)) => time.clone().is_not_null(),
            Some(_) => {
                *of_views = true;
                continue;
            }
        };
        if !written.contains(&condition) {
            written.push(condition);
        }
    }
    Ok(Transformed::yes(filtered(filter.input, written)?))
}

/// Lets the rows without event time of a plan reach the operator that takes its rows by one of its columns.
#[derive(Debug, Default)]
pub struct Untimed {
    /// The columns of streams that the time is, by stream and index there.
    pub streams: Vec<(StreamId, usize)>,
}

impl Untimed {
    /// The plan without our conditions on the time that `column` is made from; `None` if it has none.
    pub fn let_through(&mut self, plan: &LogicalPlan, column: &Column) -> Result<Option<LogicalPlan>> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                self.streams.extend(scanned(scan, column));
                Ok(None)
            }
            LogicalPlan::Projection(projection) => {
                let index = projection.schema.maybe_index_of_column(column);
                let Some(time) = index.and_then(|index| time_behind(&projection.expr[index])) else { return Ok(None) };
                let Some(input) = self.let_through(&projection.input, time)? else { return Ok(None) };
                let projection = Projection::try_new(projection.expr.clone(), Arc::new(input))?;
                Ok(Some(LogicalPlan::Projection(projection)))
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let Some(index) = alias.schema.maybe_index_of_column(column) else { return Ok(None) };
                let Some(input) = self.nth(&alias.input, index)? else { return Ok(None) };
                let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
                Ok(Some(LogicalPlan::SubqueryAlias(alias)))
            }
            LogicalPlan::Union(union) => {
                let Some(index) = union.schema.maybe_index_of_column(column) else { return Ok(None) };
                self.union(union, index)
            }
            LogicalPlan::Unnest(unnest) => {
                let Some(index) = unnest.schema.maybe_index_of_column(column) else { return Ok(None) };
                let Some(input) = self.nth(&unnest.input, unnest.dependency_indices[index])? else { return Ok(None) };
                // The list of windows of a row without time is null, and the row has to stay.
                let options = unnest.options.clone().with_preserve_nulls(true);
                let columns = unnest.exec_columns.clone();
                LogicalPlanBuilder::from(input).unnest_columns_with_options(columns, options)?.build().map(Some)
            }
            LogicalPlan::Filter(filter) => {
                let conditions = split_conjunction(&filter.predicate);
                let is_ours = |condition: &Expr| matches!(marked_time(condition), Some((Expr::Column(time), _)) if time == column);
                let others = conditions.iter().filter(|condition| !is_ours(condition));
                let others: Vec<Expr> = others.map(|&condition| condition.clone()).collect();
                let input = self.let_through(&filter.input, column)?;
                if others.len() == conditions.len() && input.is_none() {
                    return Ok(None);
                }
                let input = input.map_or_else(|| Arc::clone(&filter.input), Arc::new);
                filtered(input, others).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn nth(&mut self, plan: &LogicalPlan, index: usize) -> Result<Option<LogicalPlan>> {
        self.let_through(plan, &plan.schema().columns()[index])
    }

    fn union(&mut self, union: &Union, index: usize) -> Result<Option<LogicalPlan>> {
        let mut changed = false;
        let mut inputs = Vec::with_capacity(union.inputs.len());
        for input in &union.inputs {
            let with = self.nth(input, index)?;
            changed |= with.is_some();
            inputs.push(with.map_or_else(|| Arc::clone(input), Arc::new));
        }
        if changed {
            Union::try_new_with_loose_types(inputs).map(|union| Some(LogicalPlan::Union(union)))
        } else {
            Ok(None)
        }
    }
}

/// The stream's column that a scan's column is.
fn scanned(scan: &TableScan, column: &Column) -> Option<(StreamId, usize)> {
    let index = scan.projected_schema.maybe_index_of_column(column)?;
    let index = scan.projection.as_ref().map_or(Some(index), |columns| columns.get(index).copied())?;
    Some((HeldTable::scanned_by(scan)?, index))
}

/// The rows of `input` that meet all conditions.
fn filtered(input: Arc<LogicalPlan>, conditions: Vec<Expr>) -> Result<LogicalPlan> {
    match conjunction(conditions) {
        Some(predicate) => Filter::try_new(predicate, input).map(LogicalPlan::Filter),
        None => Ok(Arc::unwrap_or_clone(input)),
    }
}

/// The column that is null where the expression over it is null: through the functions of windows.
fn time_behind(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => time_behind(&alias.expr),
        Expr::Cast(cast) => time_behind(&cast.expr),
        Expr::ScalarFunction(call) if [TUMBLE_START, HOP_STARTS, SHIFT].contains(&call.name()) => {
            time_behind(call.args.first()?)
        }
        _ => None,
    }
}
