//! Operators as nodes of a dataflow: what each is, what it reads, where its state is.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;

use super::order::OutputOrder;
use crate::catalog::OnRowError;
use crate::error::{Error, Result};
use crate::evaluate::as_written;
use crate::operator::spec::{
    AggregateSpec, AsofSpec, DeduplicateEmit, DeduplicateSpec, JoinSpec, LookupSpec, NewestSpec, RollingEmit,
    RollingFunction, RollingKind, RollingSpec, SessionSpec, TimeColumn, TopNSpec,
};
use crate::operator::{self, Guarded, Operator, Pending, StreamId, is_fallible};

/// The work of an operator.
#[derive(Debug, Clone)]
pub enum OperatorSpec {
    Aggregate(AggregateSpec),
    Session(SessionSpec),
    Deduplicate(DeduplicateSpec),
    TopN(TopNSpec),
    Newest(NewestSpec),
    Rolling(RollingSpec),
    Join(JoinSpec),
    Asof(AsofSpec),
    Lookup(LookupSpec),
}

/// An operator of a dataflow.
#[derive(Debug, Clone)]
pub struct OperatorNode {
    /// The address of its state; the same for the same work on the same input.
    pub id: String,
    pub spec: OperatorSpec,
    /// One per port.
    pub inputs: Vec<StreamId>,
    pub input_retracts: Vec<bool>,
    pub output: StreamId,
    /// Its inputs are there after the fragments of this stage; its output is in the next.
    pub stage: usize,
    /// Sources whose watermarks it follows.
    pub sources: BTreeSet<usize>,
    /// True when its output has weights.
    pub retract: bool,
    /// Per port: what it computes of each row that may fail.
    pub checks: Vec<Vec<Check>>,
    /// Pairs for which its own condition could not be computed.
    pub pending: Option<Pending>,
    /// The order that its rows are wanted in; `None`: in any.
    pub order: Option<OutputOrder>,
}

/// An expression that an operator computes of its input's rows; a row for which it fails is kept from the operator.
#[derive(Debug, Clone)]
pub struct Check {
    pub expr: Arc<dyn PhysicalExpr>,
    /// Only rows for which this holds count.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
}

impl OperatorSpec {
    /// For operators that emit a row of their first port at once, as it came: the number of columns that it begins with.
    pub fn passes_on(&self) -> Option<usize> {
        match self {
            Self::Deduplicate(spec) if spec.emit == DeduplicateEmit::OnArrival => Some(spec.input.fields().len()),
            Self::Rolling(spec) if spec.emit == RollingEmit::OnArrival => Some(spec.input.fields().len()),
            Self::Lookup(spec) if !spec.left_retract => Some(spec.left.fields().len()),
            _ => None,
        }
    }

    /// The column of its one input without which it takes no row: the event time.
    pub fn event_time(&self) -> Option<usize> {
        let time = match self {
            Self::Aggregate(spec) => spec.closing,
            Self::Session(spec) => Some(spec.time),
            Self::Deduplicate(spec) => spec.time,
            Self::TopN(spec) => spec.closing,
            Self::Rolling(spec) => Some(spec.time),
            Self::Newest(_) | Self::Join(_) | Self::Asof(_) | Self::Lookup(_) => None,
        };
        time.map(|time| time.column)
    }

    /// The word in explanations and addresses.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Aggregate(spec) if spec.closing.is_some() => "window_aggregate",
            Self::Aggregate(_) => "aggregate",
            Self::Session(_) => "session",
            Self::Deduplicate(_) => "deduplicate",
            Self::TopN(_) => "top_n",
            Self::Newest(_) => "newest",
            Self::Rolling(_) => "rolling",
            Self::Join(spec) if spec.bounds.is_some() => "interval_join",
            Self::Join(_) => "join",
            Self::Asof(_) => "asof_join",
            Self::Lookup(_) => "lookup_join",
        }
    }

    /// With the weight, if it has one.
    pub fn output(&self) -> SchemaRef {
        match self {
            Self::Aggregate(spec) => spec.output.clone(),
            Self::Session(spec) => spec.output.clone(),
            Self::Deduplicate(spec) => spec.input.clone(),
            Self::TopN(spec) => spec.output.clone(),
            Self::Newest(spec) => spec.input.clone(),
            Self::Rolling(spec) => spec.output.clone(),
            Self::Join(spec) => spec.output.clone(),
            Self::Asof(spec) => spec.output.clone(),
            Self::Lookup(spec) => spec.output.clone(),
        }
    }

    /// Per port the columns by which rows are given to shards.
    pub fn routing(&self) -> Vec<Vec<usize>> {
        match self {
            Self::Aggregate(spec) => vec![spec.keys[..spec.routing].to_vec()],
            Self::Session(spec) => vec![spec.keys.clone()],
            Self::Deduplicate(spec) => vec![spec.keys.clone()],
            Self::TopN(spec) => vec![spec.keys[..spec.routing].to_vec()],
            Self::Newest(spec) => vec![spec.keys.clone()],
            Self::Rolling(spec) => vec![spec.keys.clone()],
            Self::Join(spec) => vec![spec.left_keys.clone(), spec.right_keys.clone()],
            Self::Asof(spec) => vec![spec.left_keys.clone(), spec.right_keys.clone()],
            Self::Lookup(_) => vec![Vec::new()],
        }
    }

    /// An empty shard. Errors: a lookup, which has none.
    pub fn build(&self) -> Result<Box<dyn Operator>> {
        match self.clone() {
            Self::Aggregate(spec) => operator::aggregate(spec),
            Self::Session(spec) => operator::session(spec),
            Self::Deduplicate(spec) => operator::deduplicate(spec),
            Self::TopN(spec) => operator::top_n(spec),
            Self::Newest(spec) => operator::newest(&spec),
            Self::Rolling(spec) => operator::rolling(spec),
            Self::Join(spec) => operator::join(spec),
            Self::Asof(spec) => operator::asof(spec),
            Self::Lookup(spec) => Err(Error::internal(format!("table `{}` is looked up, not remembered", spec.table))),
        }
    }

    /// The expressions that it computes over the rows of its one input.
    pub fn over_input(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        match self {
            Self::Aggregate(spec) => {
                let arguments = spec.aggregates.iter().flat_map(|aggregate| aggregate.expressions());
                arguments.chain(spec.filters.iter().flatten().cloned()).collect()
            }
            Self::Rolling(spec) => {
                let of_function = |function: &RollingFunction| match &function.function {
                    RollingKind::Aggregate(aggregate, filter) => {
                        aggregate.expressions().into_iter().chain(filter.clone()).collect()
                    }
                    _ => Vec::new(),
                };
                spec.functions.iter().flat_map(of_function).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Per port, the expressions over its input that may fail. None where failing ones are null.
    pub fn checks(&self, mode: OnRowError) -> Vec<Vec<Check>> {
        let checks = match self {
            _ if mode == OnRowError::Null => Vec::new(),
            Self::Aggregate(spec) => {
                let calls = spec.aggregates.iter().zip(&spec.filters);
                calls.flat_map(|(call, filter)| of_call(call, filter.as_ref(), &spec.input)).collect()
            }
            Self::Rolling(spec) => {
                let calls = spec.functions.iter().filter_map(|function| match &function.function {
                    RollingKind::Aggregate(call, filter) => Some((call, filter)),
                    _ => None,
                });
                calls.flat_map(|(call, filter)| of_call(call, filter.as_ref(), &spec.input)).collect()
            }
            _ => Vec::new(),
        };
        vec![checks]
    }

    /// Collects the pairs for which a join's condition fails.
    pub fn pending(&self) -> Option<Pending> {
        let filter = match self {
            Self::Join(spec) => spec.filter.as_ref(),
            Self::Lookup(spec) => spec.filter.as_ref(),
            _ => None,
        };
        filter?.downcast_ref::<Guarded>()?.pending().cloned()
    }

    /// The columns of its input that decide what it remembers, by name; `None` = all of them.
    pub fn remembered(&self) -> Option<Vec<usize>> {
        let (schema, columns) = match self {
            Self::Deduplicate(spec) if spec.emit == DeduplicateEmit::OnArrival => {
                let time = spec.within.and(spec.time).map(|time| time.column);
                (&spec.input, spec.keys.iter().copied().chain(time).collect::<BTreeSet<_>>())
            }
            Self::Rolling(spec) if spec.emit == RollingEmit::OnArrival => {
                let mut columns: BTreeSet<_> = spec.keys.iter().copied().chain([spec.time.column]).collect();
                columns.extend(spec.functions.iter().flat_map(|function| function.function.columns()));
                (&spec.input, columns)
            }
            _ => return None,
        };
        let mut columns: Vec<usize> = columns.into_iter().collect();
        columns.sort_by_key(|&column| schema.field(column).name());
        Some(columns)
    }

    /// Its work in a line that is the same for the same work. Columns are numbered among those that are remembered.
    pub fn essence(&self) -> String {
        let remembered = self.remembered();
        let place = |column: usize| match &remembered {
            Some(columns) => columns.iter().position(|&other| other == column).unwrap_or(column),
            None => column,
        };
        let places = |columns: &[usize]| columns.iter().map(|&column| place(column)).collect::<Vec<_>>();
        let time = |time: TimeColumn| TimeColumn { column: place(time.column), ..time };
        match self {
            Self::Aggregate(spec) => format!(
                "by {:?} closing {:?} {:?} filters {:?}",
                spec.keys,
                spec.closing,
                spec.aggregates.iter().map(|aggregate| aggregate_name(aggregate)).collect::<Vec<_>>(),
                spec.filters.iter().map(|filter| filter.as_ref().map(shown)).collect::<Vec<_>>()
            ),
            Self::Session(spec) => format!("by {:?} time {:?} gap {}", spec.keys, spec.time, spec.gap),
            Self::Deduplicate(spec) => {
                // On arrival, time matters only when keys are ever forgotten.
                let counted = spec.time.filter(|_| spec.emit == DeduplicateEmit::OnWatermark || spec.within.is_some());
                format!("by {:?} time {:?} {:?}", places(&spec.keys), counted.map(time), spec.emit)
            }
            Self::TopN(spec) => format!(
                "{:?} by {:?} order {:?} limit {} closing {:?} kept {:?}",
                spec.function,
                spec.keys,
                spec.order,
                spec.limit,
                spec.closing,
                operator::Keeping::of(spec)
            ),
            Self::Newest(spec) => format!("into {} by {:?}", spec.target, spec.keys),
            Self::Rolling(spec) => {
                let function = |function: &RollingFunction| {
                    format!("{:?} {:?}", rolling_name(&function.function, &place), function.frame)
                };
                format!(
                    "by {:?} time {:?} emit {:?} {:?}",
                    places(&spec.keys),
                    time(spec.time),
                    spec.emit,
                    spec.functions.iter().map(function).collect::<Vec<_>>()
                )
            }
            Self::Join(spec) => format!(
                "{:?} on {:?}={:?} bounds {:?} filter {:?}",
                spec.join_type,
                spec.left_keys,
                spec.right_keys,
                spec.bounds,
                spec.filter.as_ref().map(shown)
            ),
            Self::Lookup(spec) => {
                let nulls = if spec.null_equals_null { " nulls match" } else { "" };
                format!("{} by {:?}={:?}{nulls}", spec.table, spec.left_keys, spec.right_keys)
            }
            Self::Asof(spec) => format!(
                "on {:?}={:?} {:?} {:?} or_equal {} outer {}",
                spec.left_keys, spec.right_keys, spec.left_time, spec.right_time, spec.or_equal, spec.outer
            ),
        }
    }
}

/// An expression in words.
fn shown(expr: &Arc<dyn PhysicalExpr>) -> String {
    as_written(expr).to_string()
}

/// The name of an aggregate, with the layout of its state where that has changed.
fn aggregate_name(aggregate: &AggregateFunctionExpr) -> String {
    match aggregate.fun().name() {
        // Means and deviations since sums of squares were given up.
        "corr" => format!("{} of deviations", aggregate.name()),
        _ => aggregate.name().to_owned(),
    }
}

/// The arguments, orderings and the filter of a call that may fail.
pub(super) fn of_call(
    call: &AggregateFunctionExpr,
    filter: Option<&Arc<dyn PhysicalExpr>>,
    input: &SchemaRef,
) -> Vec<Check> {
    let ordering = call.order_bys().iter().map(|sort| Arc::clone(&sort.expr));
    let arguments = call.expressions().into_iter().chain(ordering).map(|expr| (expr, filter.cloned()));
    let all = arguments.chain(filter.cloned().map(|filter| (filter, None)));
    let checks = all.map(|(expr, filter)| {
        let inner = expr.downcast_ref::<Guarded>().map(|guarded| Arc::clone(guarded.inner()));
        Check { expr: inner.unwrap_or(expr), filter }
    });
    checks.filter(|check| is_fallible(&check.expr, input)).collect()
}

fn rolling_name(kind: &RollingKind, place: &dyn Fn(usize) -> usize) -> String {
    let placed = |filter: &Arc<dyn PhysicalExpr>| {
        let placed = as_written(filter).transform_up(|expr| {
            Ok(match expr.downcast_ref::<Column>() {
                Some(column) => Transformed::yes(
                    Arc::new(Column::new(column.name(), place(column.index()))) as Arc<dyn PhysicalExpr>
                ),
                None => Transformed::no(expr),
            })
        });
        // The closure never fails.
        placed.map_or_else(|_| filter.to_string(), |placed| placed.data.to_string())
    };
    match kind.clone() {
        RollingKind::Aggregate(aggregate, filter) => {
            format!("{} {:?}", aggregate.name(), filter.as_ref().map(placed))
        }
        RollingKind::Lag { column, offset, default } => {
            format!("{:?}", RollingKind::Lag { column: place(column), offset, default })
        }
        RollingKind::LagOfValues { column, offset, default } => {
            format!("{:?}", RollingKind::LagOfValues { column: place(column), offset, default })
        }
        RollingKind::FirstValue { column, ignore_nulls } => {
            format!("{:?}", RollingKind::FirstValue { column: place(column), ignore_nulls })
        }
        RollingKind::LastValue { column, ignore_nulls } => {
            format!("{:?}", RollingKind::LastValue { column: place(column), ignore_nulls })
        }
        RollingKind::NthValue { column, n, ignore_nulls } => {
            format!("{:?}", RollingKind::NthValue { column: place(column), n, ignore_nulls })
        }
        RollingKind::RowNumber => format!("{:?}", RollingKind::RowNumber),
    }
}
