//! Table functions in FROM, planned: `TUMBLE`, `HOP`, `SESSION` and `DEDUPLICATE`.
//!
//! TUMBLE and HOP are projections in every plan. SESSION and DEDUPLICATE need memory: in the plan of a pipeline they are nodes of
//! ours ([`super::nodes`]), in a batch plan ([`RelationMode::Batch`]) window functions that mean the same. Rows whose time
//! is null lie in no window.
//!
//! The batch form of DEDUPLICATE takes the rows of a key in the order of their times. So it equals the stream's where the
//! stream lets through the earliest row of a key, or where repeated rows are equal, times included.

mod arguments;
mod batch;
mod building;
mod sets;
mod stream;
mod versions;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema, ExprSchema, UnnestOptions};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::registry::FunctionRegistry;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, Spanned, TableFactor};
use datafusion::sql::sqlparser::tokenizer::Span;

use self::arguments::{Arguments, Function, problem};
use self::batch::AsofAsWindow;
use self::building::{call, columns, extension};
use self::stream::AsofApart;
use self::versions::VersionsByTime;
use super::nodes::{DeduplicateNode, SessionNode, WINDOW_END, WINDOW_START};
use super::time::{is_bounded, scalar_micros, time_lag};
use super::untimed::timed_rows;
use crate::function::{
    HOP_STARTS, SHIFT, TUMBLE_START, aggregates_over_frames, first_within, mark_functions, window_functions,
};
use crate::time::Lag;

/// The plan nodes for SESSION, DEDUPLICATE and joins in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationMode {
    /// Nodes for the incremental planner.
    Stream,
    /// Ordinary plans over tables.
    Batch,
}

/// Makes a session understand table functions and joins in time. `times` names the event-time column of relations that have
/// one (for DEDUPLICATE without a DESCRIPTOR).
pub fn register_relations(state: &mut SessionState, mode: RelationMode, times: BTreeMap<String, String>) -> Result<()> {
    for function in window_functions().into_iter().chain(mark_functions()) {
        state.register_udf(Arc::new(function))?;
    }
    match mode {
        RelationMode::Stream => {
            state.add_analyzer_rule(Arc::new(AsofApart));
        }
        RelationMode::Batch => {
            state.register_udwf(Arc::new(first_within()))?;
            for function in aggregates_over_frames(state) {
                state.register_udaf(Arc::new(function))?;
            }
            state.add_analyzer_rule(Arc::new(AsofAsWindow));
            state.add_analyzer_rule(Arc::new(VersionsByTime));
        }
    }
    state.register_relation_planner(Arc::new(Relations { mode, times }))
}

/// The planner of table functions.
#[derive(Debug)]
pub struct Relations {
    pub mode: RelationMode,
    /// Event-time columns by the name of their table.
    pub times: BTreeMap<String, String>,
}

impl RelationPlanner for Relations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        if let TableFactor::Table { name, args: Some(args), alias, .. } = &relation
            && let Some(operation) = sets::operation(name)
        {
            let plan = sets::plan(operation, args.args.clone(), name.span(), context)?;
            return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))));
        }
        let (function, args, alias, span) = match relation {
            TableFactor::Table { ref name, args: Some(ref args), ref alias, .. } => match Function::named(name) {
                Some(function) => (function, args.args.clone(), alias.clone(), name.span()),
                None => return Ok(RelationPlanning::Original(Box::new(relation))),
            },
            TableFactor::Table { version: Some(ref version), ref name, .. } => {
                let hint = "Read it in a query: `weir query 'SELECT … VERSION AS OF 3'`.";
                let text = version.to_string();
                let message = format!("`{text}` cannot be read in a pipeline");
                return Err(problem(name.span(), &message, hint));
            }
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        let arguments = Arguments::of(function, args, span)?;
        let subquery = arguments.data.clone();
        let input = context.plan(TableFactor::Derived { lateral: false, subquery, alias: None, sample: None })?;
        let call = Call { function, arguments, span, mode: self.mode, times: &self.times };
        let plan = call.plan(input, context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// One call of a table function.
struct Call<'a> {
    function: Function,
    arguments: Arguments,
    span: Span,
    mode: RelationMode,
    times: &'a BTreeMap<String, String>,
}

impl Call<'_> {
    fn plan(&self, input: LogicalPlan, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
        if self.function == Function::Deduplicate {
            return self.deduplicate(input, context);
        }
        for name in [WINDOW_START, WINDOW_END] {
            if input.schema().has_column_with_unqualified_name(name) {
                let message = format!("the table has a column `{name}` already");
                let hint = format!("Rename it: `{}((SELECT …, {name} AS … FROM …), …)`.", self.function.name());
                return Err(problem(self.span, &message, &hint));
            }
        }
        let Some(time) = &self.arguments.time else { return Err(self.function.usage(self.span)) };
        let time = self.column(time, input.schema(), context)?;
        let lengths = self.arguments.lengths.iter().map(|(what, expr)| self.length(what, expr, context));
        let lengths: Vec<Lag> = lengths.collect::<Result<_>>()?;
        let keys = self.keys(input.schema(), context)?;
        let input = match (time.nullable(input.schema())?, self.mode) {
            (false, _) => input,
            (true, RelationMode::Stream) => timed_rows(input, &time)?,
            (true, RelationMode::Batch) => {
                LogicalPlanBuilder::from(input).filter(time.clone().is_not_null())?.build()?
            }
        };
        match (self.function, lengths.as_slice()) {
            (Function::Tumble, [size, offset @ ..]) => {
                tumble(input, time, *size, offset.first().copied().unwrap_or(Lag::ZERO))
            }
            (Function::Hop, [slide, size, offset @ ..]) => {
                hop(input, time, *slide, *size, offset.first().copied().unwrap_or(Lag::ZERO))
            }
            (Function::Session, [gap]) if self.mode == RelationMode::Stream => {
                Ok(extension(SessionNode::try_new(input, keys, time, *gap)?))
            }
            (Function::Session, [gap]) => batch::session(input, keys, time, *gap),
            _ => Err(self.function.usage(self.span)),
        }
    }

    fn deduplicate(&self, input: LogicalPlan, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
        let keys = self.keys(input.schema(), context)?;
        if keys.is_empty() {
            return Err(self.function.usage(self.span));
        }
        let time = match &self.arguments.time {
            Some(time) => Some(self.column(time, input.schema(), context)?),
            None => known_time(&input, self.times)
                .map(|column| microseconds(Expr::Column(column), input.schema()))
                .transpose()?,
        };
        let within = self.arguments.lengths.first().map(|(what, expr)| self.length(what, expr, context)).transpose()?;
        match self.mode {
            RelationMode::Stream => {
                let candidates = match (&time, within) {
                    (None, Some(_)) => timestamps(&input),
                    _ => Vec::new(),
                };
                Ok(extension(DeduplicateNode { input, keys, time, candidates, within }))
            }
            RelationMode::Batch => batch::deduplicate(input, keys, time, within),
        }
    }

    fn keys(&self, schema: &DFSchema, context: &mut dyn RelationPlannerContext) -> Result<Vec<Expr>> {
        let keys = self.arguments.keys.iter().map(|key| match context.sql_to_expr(key.clone(), schema)? {
            column @ Expr::Column(_) => Ok(column),
            _ => Err(problem(
                key.span(),
                &format!("the key of `{}` is not a column", self.function.name()),
                "Compute it in a subquery: `(SELECT …, f(a) AS k FROM …)`.",
            )),
        });
        keys.collect()
    }

    /// The time column, as a TIMESTAMP(µs).
    fn column(&self, time: &SqlExpr, schema: &DFSchema, context: &mut dyn RelationPlannerContext) -> Result<Expr> {
        let name = self.function.name();
        let column = context.sql_to_expr(time.clone(), schema)?;
        if !matches!(column, Expr::Column(_)) {
            let message = format!("the time of `{name}` is not a column");
            return Err(problem(time.span(), &message, "Write `DESCRIPTOR(column)`; compute a time in a subquery."));
        }
        let kind = column.get_type(schema)?;
        if !matches!(kind, DataType::Timestamp(..)) {
            let message = format!("the time of `{name}` is {}, not TIMESTAMP", crate::sql::types::sql_name(&kind));
            return Err(problem(time.span(), &message, "Windows are over a TIMESTAMP column."));
        }
        microseconds(column, schema)
    }

    /// A literal interval, above 0 unless it is the offset.
    fn length(&self, what: &str, expr: &SqlExpr, context: &mut dyn RelationPlannerContext) -> Result<Lag> {
        let name = self.function.name();
        let schema = Arc::new(DFSchema::empty());
        let simplified = context.sql_to_expr(expr.clone(), &schema).and_then(|expr| {
            let info = SimplifyContext::builder().with_schema(Arc::clone(&schema)).build();
            ExprSimplifier::new(info).simplify(expr)
        });
        let Ok(Expr::Literal(value, _)) = simplified else {
            let message = format!("the {what} of `{name}` is not an interval");
            return Err(problem(expr.span(), &message, "Write a constant such as `INTERVAL '1 minute'`."));
        };
        let is_interval = matches!(value.data_type(), DataType::Interval(_) | DataType::Duration(_));
        match scalar_micros(&value) {
            Some(length) if length > Lag::ZERO || what == arguments::OFFSET => Ok(length),
            Some(_) => {
                let message = format!("the {what} of `{name}` is not above zero");
                Err(problem(expr.span(), &message, "Write an interval such as `INTERVAL '1 minute'`."))
            }
            None if is_interval => {
                let message = format!("the {what} of `{name}` has no fixed length");
                Err(problem(expr.span(), &message, "Months and years differ in length: write days, hours or less."))
            }
            None => {
                let message = format!("the {what} of `{name}` is not an interval");
                Err(problem(expr.span(), &message, "Write a constant such as `INTERVAL '1 minute'`."))
            }
        }
    }
}

/// The column in microseconds; its zone is kept.
fn microseconds(column: Expr, schema: &DFSchema) -> Result<Expr> {
    match column.get_type(schema)? {
        DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(column),
        DataType::Timestamp(_, zone) => column.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, zone), schema),
        _ => Ok(column),
    }
}

fn tumble(input: LogicalPlan, time: Expr, size: Lag, offset: Lag) -> Result<LogicalPlan> {
    let mut exprs = columns(&input);
    exprs.push(call(TUMBLE_START, vec![time, lit(size.0), lit(offset.0)])?.alias(WINDOW_START));
    with_end(LogicalPlanBuilder::from(input).project(exprs)?.build()?, size)
}

fn hop(input: LogicalPlan, time: Expr, slide: Lag, size: Lag, offset: Lag) -> Result<LogicalPlan> {
    let mut exprs = columns(&input);
    exprs.push(call(HOP_STARTS, vec![time, lit(slide.0), lit(size.0), lit(offset.0)])?.alias(WINDOW_START));
    let options = UnnestOptions::new().with_preserve_nulls(false);
    let plan = LogicalPlanBuilder::from(input).project(exprs)?;
    let plan = plan.unnest_column_with_options(Column::from_name(WINDOW_START), options)?;
    with_end(plan.build()?, size)
}

/// Adds `window_end` to what has `window_start`.
fn with_end(input: LogicalPlan, size: Lag) -> Result<LogicalPlan> {
    let mut exprs = columns(&input);
    let start = Expr::Column(Column::from_name(WINDOW_START));
    exprs.push(call(SHIFT, vec![start, lit(size.0)])?.alias(WINDOW_END));
    LogicalPlanBuilder::from(input).project(exprs)?.build()
}

/// The TIMESTAMP columns of a plan.
fn timestamps(plan: &LogicalPlan) -> Vec<Expr> {
    let schema = plan.schema();
    let is_time = |column: &Column| {
        schema.field_from_column(column).is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(..)))
    };
    schema.columns().into_iter().filter(is_time).map(Expr::Column).collect()
}

/// The column that has the event time of the table that `plan` reads, or what is computed from it with the least lag.
fn known_time(plan: &LogicalPlan, times: &BTreeMap<String, String>) -> Option<Column> {
    let columns = plan.schema().columns().into_iter().enumerate();
    let lags =
        columns.filter_map(|(index, column)| Some((known_lag(plan, &column, times)?.max(Lag::ZERO), index, column)));
    lags.min_by_key(|(lag, index, _)| (*lag, *index)).map(|(.., column)| column)
}

/// The greatest lag of a column behind the event time of the table that `plan` reads; `None` if it is unbounded.
fn known_lag(plan: &LogicalPlan, column: &Column, times: &BTreeMap<String, String>) -> Option<Lag> {
    let through = |input: &LogicalPlan| known_lag(input, column, times);
    let at = |input: &LogicalPlan, index: Option<usize>| {
        known_lag(input, &input.schema().columns().into_iter().nth(index?)?, times)
    };
    let lag = match plan {
        LogicalPlan::TableScan(scan) => (*times.get(scan.table_name.table())? == column.name).then_some(Lag::ZERO),
        LogicalPlan::Projection(projection) => {
            let expr = projection.expr.get(projection.schema.maybe_index_of_column(column)?)?;
            let input = projection.input.as_ref();
            time_lag(expr, input.schema(), &|column| known_lag(input, column, times))
        }
        LogicalPlan::SubqueryAlias(alias) => at(&alias.input, alias.schema.maybe_index_of_column(column)),
        LogicalPlan::Filter(filter) => through(&filter.input),
        LogicalPlan::Unnest(unnest) => through(&unnest.input),
        LogicalPlan::Union(union) => {
            let index = union.schema.maybe_index_of_column(column);
            let lags: Option<Vec<Lag>> = union.inputs.iter().map(|input| at(input, index)).collect();
            lags?.into_iter().max()
        }
        LogicalPlan::Extension(node) => through(node.node.inputs().first()?),
        _ => None,
    };
    lag.filter(|lag| is_bounded(*lag))
}

#[cfg(test)]
mod tests;
