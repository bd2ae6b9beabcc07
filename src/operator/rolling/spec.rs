//! The specification of rolling windows.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{WindowFrame, WindowFrameUnits};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;

use crate::error::Result;
use crate::evaluate::as_written;
use crate::operator::Operator;
use crate::operator::held::with_number;
use crate::operator::planning::{Facts, OutputOrder, Spec, TimeColumn, collects_in_order};
use crate::operator::refused::Check;
use crate::operator::words::{interval, names, time};
use crate::time::Lag;

/// `f(…) OVER (PARTITION BY keys ORDER BY time …)`, several frames at once. Output: the input's columns, then one per
/// function.
#[derive(Debug, Clone)]
pub struct RollingSpec {
    pub input: SchemaRef,
    /// All route.
    pub keys: Vec<usize>,
    /// The ORDER BY column, ascending; a TIMESTAMP(µs).
    pub time: TimeColumn,
    pub functions: Vec<RollingFunction>,
    pub emit: RollingEmit,
    /// With [`RollingEmit::OnWatermark`]: `true`: rows behind the watermark are emitted, computed from the state still kept;
    /// `false`: they are late.
    pub emits_late: bool,
    /// Minimum time that rows are kept beyond the watermark for functions without a bounded frame, microseconds (TTL).
    pub ttl: Option<Lag>,
    /// Maximum number of rows in a frame that an aggregate reads again for every row (`array_agg`); never part of the
    /// state's address.
    pub collect_limit: usize,
    /// Condition over the input that selects the rows to emit. The others are kept in state and count in frames, but nothing
    /// is computed for them.
    pub shown: Option<Arc<dyn PhysicalExpr>>,
    pub output: SchemaRef,
}

/// Time at which a rolling row is emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollingEmit {
    /// Once its time is complete; exact, in time order.
    OnWatermark,
    /// At once, from the rows known so far; late rows too.
    OnArrival,
}

/// One function over one frame.
#[derive(Debug, Clone)]
pub struct RollingFunction {
    pub function: RollingKind,
    /// RANGE bounds are intervals (already microseconds as IntervalMonthDayNano or Duration), ROWS bounds are counts.
    pub frame: WindowFrame,
}

/// The function to compute over the frame.
#[derive(Debug, Clone)]
pub enum RollingKind {
    /// Any aggregate; arguments and FILTER over the input's columns.
    Aggregate(Arc<AggregateFunctionExpr>, Option<Arc<dyn PhysicalExpr>>),
    RowNumber,
    /// `lag(column, n, default)`, `lead` with a negative n.
    Lag {
        column: usize,
        offset: i64,
        default: datafusion::common::ScalarValue,
    },
    /// `lag(column, n, default) IGNORE NULLS`: the n-th value before the row that is not null; n > 0.
    LagOfValues {
        column: usize,
        offset: i64,
        default: datafusion::common::ScalarValue,
    },
    FirstValue {
        column: usize,
        ignore_nulls: bool,
    },
    LastValue {
        column: usize,
        ignore_nulls: bool,
    },
    /// The value of the n-th row from the beginning of the frame, or from its end if `n` is negative; never 0.
    NthValue {
        column: usize,
        n: i64,
        ignore_nulls: bool,
    },
}

impl RollingKind {
    /// The columns that it reads.
    pub fn columns(&self) -> Vec<usize> {
        match self {
            Self::Aggregate(aggregate, filter) => {
                let ordering = aggregate.order_bys().iter().map(|sort| Arc::clone(&sort.expr));
                let read = aggregate.expressions().into_iter().chain(ordering).chain(filter.clone());
                read.flat_map(|expr| collect_columns(&expr)).map(|column| column.index()).collect()
            }
            Self::RowNumber => Vec::new(),
            Self::Lag { column, .. }
            | Self::LagOfValues { column, .. }
            | Self::FirstValue { column, .. }
            | Self::LastValue { column, .. }
            | Self::NthValue { column, .. } => vec![*column],
        }
    }
}

/// An aggregate and its FILTER.
type Call<'a> = (&'a Arc<AggregateFunctionExpr>, Option<&'a Arc<dyn PhysicalExpr>>);

impl RollingSpec {
    /// The same over rows that carry their number behind the input's columns and keep it. Its state is the same.
    pub fn numbered(mut self) -> Self {
        let columns = self.input.fields().len();
        self.output = with_number(&self.output, columns);
        self.input = with_number(&self.input, columns);
        self
    }

    fn calls(&self) -> impl Iterator<Item = Call<'_>> {
        self.functions.iter().filter_map(|function| match &function.function {
            RollingKind::Aggregate(call, filter) => Some((call, filter.as_ref())),
            _ => None,
        })
    }
}

impl Spec for RollingSpec {
    fn kind(&self) -> &'static str {
        "rolling"
    }

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn routing(&self) -> Vec<Vec<usize>> {
        vec![self.keys.clone()]
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        super::rolling(self.clone())
    }

    fn essence(&self) -> String {
        let in_state = self.columns_in_state();
        let number = |column: usize| match &in_state {
            Some(columns) => columns.iter().position(|&other| other == column).unwrap_or(column),
            None => column,
        };
        let function =
            |function: &RollingFunction| format!("{:?} {:?}", function.function.essence(&number), function.frame);
        format!(
            "by {:?} time {:?} emit {:?} {:?}",
            self.keys.iter().map(|&column| number(column)).collect::<Vec<_>>(),
            TimeColumn { column: number(self.time.column), ..self.time },
            self.emit,
            self.functions.iter().map(function).collect::<Vec<_>>()
        )
    }

    fn explain(&self) -> Facts {
        let mut facts = vec![("keys", names(&self.input, &self.keys)), ("time", time(&self.input, Some(self.time)))];
        facts.extend(self.functions.iter().map(|function| ("computes", function.function.shown(&self.input))));
        for name in super::collecting(self) {
            let limit = self.collect_limit;
            facts.push((
                "costs",
                format!("{name} reads its whole frame for every row; frames over {limit} rows are refused"),
            ));
        }
        let emits = match self.emit {
            RollingEmit::OnWatermark => "a row when its time is complete, in order of time",
            RollingEmit::OnArrival => "a row at once, from the rows known so far",
        };
        facts.push(("state", "rows within the widest frame".to_owned()));
        if let Some(shown) = &self.shown {
            facts.push(("shows", format!("rows where {}; the others only count", as_written(shown))));
        }
        facts.push(("emits", emits.to_owned()));
        let unreachable = "rows that no frame reaches any more";
        let evicts = self.ttl.map_or_else(
            || unreachable.to_owned(),
            |ttl| format!("{unreachable}; unbounded frames forget after {}", interval(ttl)),
        );
        facts.push(("evicts", evicts));
        facts
    }

    fn begins_empty(&self) -> &'static str {
        "frames that reach back before now will lack the rows read before"
    }

    fn follows_time(&self) -> bool {
        true
    }

    fn holds_back(&self) -> bool {
        self.emit == RollingEmit::OnWatermark
    }

    fn passes_on(&self) -> Option<usize> {
        (self.emit == RollingEmit::OnArrival).then(|| self.input.fields().len())
    }

    fn event_time(&self) -> Option<usize> {
        Some(self.time.column)
    }

    fn over_input(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        self.calls().flat_map(|(call, filter)| call.expressions().into_iter().chain(filter.cloned())).collect()
    }

    fn fallible(&self) -> Vec<Check> {
        self.calls().flat_map(|(call, filter)| Check::of_call(call, filter, &self.input)).collect()
    }

    fn columns_in_state(&self) -> Option<Vec<usize>> {
        if self.emit != RollingEmit::OnArrival {
            return None;
        }
        let mut columns: BTreeSet<usize> = self.keys.iter().copied().chain([self.time.column]).collect();
        columns.extend(self.functions.iter().flat_map(|function| function.function.columns()));
        let mut columns: Vec<usize> = columns.into_iter().collect();
        columns.sort_by_key(|&column| self.input.field(column).name());
        Some(columns)
    }

    fn depends_on_order(&self) -> bool {
        self.emit == RollingEmit::OnArrival || self.functions.iter().any(tells_peers_apart)
    }

    fn order(&self) -> Option<OutputOrder> {
        Some(match self.emit {
            RollingEmit::OnArrival => OutputOrder::Arrival(self.input.fields().len()),
            RollingEmit::OnWatermark => OutputOrder::Time(vec![self.time.column]),
        })
    }
}

/// `true` for window functions whose results differ between rows with one time.
fn tells_peers_apart(function: &RollingFunction) -> bool {
    let whole = function.frame.units == WindowFrameUnits::Range;
    !whole || !matches!(&function.function, RollingKind::Aggregate(call, _) if !collects_in_order(call))
}

impl RollingKind {
    /// A line that is the same for the same function; columns are numbered by `number`.
    fn essence(&self, number: &dyn Fn(usize) -> usize) -> String {
        let renumbered = |filter: &Arc<dyn PhysicalExpr>| {
            let renumbered = as_written(filter).transform_up(|expr| {
                Ok(match expr.downcast_ref::<Column>() {
                    Some(column) => Transformed::yes(
                        Arc::new(Column::new(column.name(), number(column.index()))) as Arc<dyn PhysicalExpr>
                    ),
                    None => Transformed::no(expr),
                })
            });
            // The closure never fails.
            renumbered.map_or_else(|_| filter.to_string(), |renumbered| renumbered.data.to_string())
        };
        let mut kind = self.clone();
        match &mut kind {
            Self::Aggregate(call, filter) => {
                return format!("{} {:?}", call.name(), filter.as_ref().map(renumbered));
            }
            Self::RowNumber => {}
            Self::Lag { column, .. }
            | Self::LagOfValues { column, .. }
            | Self::FirstValue { column, .. }
            | Self::LastValue { column, .. }
            | Self::NthValue { column, .. } => *column = number(*column),
        }
        format!("{kind:?}")
    }

    /// The call, for EXPLAIN.
    fn shown(&self, input: &SchemaRef) -> String {
        let name = |column: &usize| input.field(*column).name();
        match self {
            Self::Aggregate(call, _) => call.name().to_owned(),
            Self::RowNumber => "row_number()".to_owned(),
            Self::Lag { column, offset, .. } => format!("lag({}, {offset})", name(column)),
            Self::LagOfValues { column, offset, .. } => format!("lag({}, {offset}) ignore nulls", name(column)),
            Self::FirstValue { column, .. } => format!("first_value({})", name(column)),
            Self::LastValue { column, .. } => format!("last_value({})", name(column)),
            Self::NthValue { column, n, .. } => format!("nth_value({}, {n})", name(column)),
        }
    }
}
