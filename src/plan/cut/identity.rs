//! Description of an operator's state in words: the ground for the state's address.
//!
//! The same words must come out as long as the state would be the same, and other words when it would not. Columns that only pass
//! through an operator are not remembered when it answers at once, so that they may come and go: then the words tell of the columns that
//! it reads, and its input is described by what these are computed from.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{Optimizer, OptimizerContext};

use super::piece::{self, Stream};
use super::{Cutter, streams_read};
use crate::error::Result;
use crate::evaluate::IN_RANGE;
use crate::operator::StreamId;
use crate::plan::operators::OperatorSpec;
use crate::plan::untimed::as_written;

impl Cutter<'_> {
    /// All that decides what the operator remembers: its own work and what its inputs are.
    pub(super) fn operator_identity(&self, spec: &OperatorSpec, inputs: &[Stream]) -> Result<String> {
        let mut text = format!("{}: {}", spec.kind(), spec.essence());
        for input in inputs {
            let all = || (0..input.schema.fields().len()).collect();
            let columns = spec.columns_in_state().unwrap_or_else(all);
            let fields = columns.iter().map(|&column| {
                let field = input.schema.field(column);
                format!("{} {}", field.name(), field.data_type())
            });
            let fields: Vec<String> = fields.collect();
            let times: Vec<_> = columns.iter().map(|&column| input.rows.times.get(column).copied().flatten()).collect();
            let source = if spec.columns_in_state().is_some() {
                self.columns_identity(input, &columns)?
            } else {
                input.identity.clone()
            };
            let _ = write!(text, "\n<- {fields:?} {times:?} {{{source}}}");
        }
        Ok(text)
    }

    /// A plan in words, with the streams it reads replaced by what they are.
    pub(super) fn identity(&self, plan: &LogicalPlan) -> String {
        let plan = &without_checks(plan);
        let plan = &as_written(plan.clone()).unwrap_or_else(|_| plan.clone());
        if let Some((id, names)) = plain_columns(plan) {
            let (stream, fields) = (&self.streams[id.0], plan.schema().fields());
            return if fields.iter().map(|field| field.name()).eq(&names) {
                stream.identity.clone()
            } else {
                format!("{names:?} of {}", stream.identity)
            };
        }
        let mut text = plan.display_indent_schema().to_string();
        for id in streams_read(plan) {
            let stream = &self.streams[id.0];
            let _ = write!(text, "\n{} = {}", stream.name, stream.identity);
        }
        text
    }

    /// Expressions from which some columns of a stream are computed, in words.
    fn columns_identity(&self, stream: &Stream, columns: &[usize]) -> Result<String> {
        let of = |id: StreamId| self.cuttings.iter().find(|cutting| cutting.stream == id);
        let Some(cutting) = of(stream.id).and_then(|cutting| cutting.copies.map_or(Some(cutting), of)) else {
            return Ok(stream.identity.clone());
        };
        let plan = &cutting.piece.plan;
        let all = plan.schema().columns();
        let wanted = columns.iter().map(|&column| Expr::Column(all[column].clone())).collect();
        let plan = LogicalPlan::Projection(Projection::try_new(wanted, Arc::new(plan.clone()))?);
        let rules = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
        let plan = rules.optimize(as_written(plan)?, &OptimizerContext::new(), |_, _| {})?;
        Ok(self.identity(&in_order(plan)?))
    }
}

/// The same plan with the columns of its nodes in the order of their names, whatever order the input's columns have; plans with nodes
/// that go by position stay as they are.
fn in_order(plan: LogicalPlan) -> Result<LogicalPlan> {
    let by_name = |node: &LogicalPlan| {
        Ok(matches!(
            node,
            LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::TableScan(_)
        ))
    };
    if plan.exists(|node| by_name(node).map(|by_name| !by_name))? {
        return Ok(plan);
    }
    let ordered = plan.transform_up(|node| {
        let node = match node {
            LogicalPlan::TableScan(scan) => {
                let fields = scan.source.schema();
                let mut columns = scan.projection.unwrap_or_else(|| (0..fields.fields().len()).collect());
                columns.sort_by_key(|&column| fields.field(column).name().clone());
                let builder = TableScanBuilder::new(scan.table_name, scan.source).with_projection(Some(columns));
                let scan = builder.with_filters(scan.filters).with_fetch(scan.fetch).build()?;
                LogicalPlan::TableScan(scan)
            }
            LogicalPlan::Projection(Projection { mut expr, input, .. }) => {
                expr.sort_by_key(|expr| expr.qualified_name().1);
                LogicalPlan::Projection(Projection::try_new(expr, input)?)
            }
            other => other.recompute_schema()?,
        };
        Ok(Transformed::yes(node))
    })?;
    Ok(ordered.data)
}

/// The plan without [`IN_RANGE`], which says nothing about what is kept.
fn without_checks(plan: &LogicalPlan) -> LogicalPlan {
    let without = plan.clone().transform_up(|node| {
        let LogicalPlan::Projection(projection) = node else { return Ok(Transformed::no(node)) };
        if !projection.expr.iter().any(|expr| checked_column(expr).is_some()) {
            return Ok(Transformed::no(LogicalPlan::Projection(projection)));
        }
        let plain = |expr: &Expr| checked_column(expr).cloned().unwrap_or_else(|| expr.clone());
        let expr = projection.expr.iter().map(plain).collect();
        Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(expr, projection.input)?)))
    });
    // Names and types are those of before.
    without.map_or_else(|_| plan.clone(), |without| without.data)
}

/// The column whose values a projection checks.
fn checked_column(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Alias(alias) => checked_column(&alias.expr),
        Expr::ScalarFunction(call) if call.name() == IN_RANGE => call.args.first(),
        _ => None,
    }
}

/// The stream behind a plan that only picks columns of it, and their names there.
fn plain_columns(plan: &LogicalPlan) -> Option<(StreamId, Vec<String>)> {
    match plan {
        LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => {
            let names = scan.projected_schema.fields().iter().map(|field| field.name().clone()).collect();
            Some((piece::held(scan)?, names))
        }
        LogicalPlan::SubqueryAlias(alias) => plain_columns(&alias.input),
        LogicalPlan::Projection(projection) => {
            let (stream, names) = plain_columns(&projection.input)?;
            let schema = projection.input.schema();
            let name = |expr: &Expr| match expr.clone().unalias() {
                Expr::Column(column) => Some(names[schema.maybe_index_of_column(&column)?].clone()),
                _ => None,
            };
            Some((stream, projection.expr.iter().map(name).collect::<Option<_>>()?))
        }
        _ => None,
    }
}
