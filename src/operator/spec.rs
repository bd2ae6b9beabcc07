//! Specifications of operators, from the planner: plain data over column numbers of the inputs.
//!
//! The planner puts a projection in front of every operator, so keys, times and arguments are plain columns.
//! Unless a spec says otherwise the output schema is `output`, with [`super::WEIGHT`] last when the operator retracts.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::common::JoinType;
use datafusion::logical_expr::WindowFrame;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::utils::collect_columns;

use super::contract::END_OF_TIME;
use crate::delta::BeforeFirst;

/// A column whose values in future rows are >= W - `lag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeColumn {
    pub column: usize,
    /// Microseconds; may be negative.
    pub lag: i64,
}

impl TimeColumn {
    /// The first watermark at which `value` is complete; the end of time if there is none.
    pub fn past(self, value: Option<i64>) -> i64 {
        value.map_or(END_OF_TIME, |value| value.saturating_add(self.lag).saturating_add(1))
    }
}

/// GROUP BY. Output: the keys in order, then one column per aggregate.
#[derive(Debug, Clone)]
pub struct AggregateSpec {
    pub input: SchemaRef,
    /// `true` if the input's last column is the weight.
    pub retract: bool,
    /// Grouping columns; the first `routing` of them route (a group by window alone has none and lives in one shard).
    pub keys: Vec<usize>,
    pub routing: usize,
    /// `Some`: groups are emitted once, when the value of this key is complete (append). `None`: changed groups are emitted
    /// at every step, the old row retracted; the first row of a group has nothing to retract.
    pub closing: Option<TimeColumn>,
    /// Over the input's columns; FILTER clauses are in `filters`.
    pub aggregates: Vec<Arc<AggregateFunctionExpr>>,
    pub filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// Groups untouched for this long expire, microseconds. Only without `closing`.
    pub ttl: Option<i64>,
    /// The event time of the input, for TTLs.
    pub time: Option<TimeColumn>,
    pub output: SchemaRef,
}

/// SESSION(…): rows wait until their session is complete, then are emitted with `window_start` and `window_end` appended.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    pub input: SchemaRef,
    /// PARTITION BY columns; all route.
    pub keys: Vec<usize>,
    pub time: TimeColumn,
    /// A session ends this long after its last row, microseconds.
    pub gap: i64,
    pub output: SchemaRef,
}

/// DISTINCT, DEDUPLICATE and `row_number() … ORDER BY time` = 1: the first row per key. Output = input.
#[derive(Debug, Clone)]
pub struct DeduplicateSpec {
    pub input: SchemaRef,
    /// All route.
    pub keys: Vec<usize>,
    pub time: Option<TimeColumn>,
    /// A key is kept in state this long after the event time (without `time`: the processing time) of the row that was let
    /// through, microseconds; `None`: for ever.
    pub within: Option<i64>,
    pub emit: DeduplicateEmit,
}

/// The row per key that is emitted, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeduplicateEmit {
    /// The first row to arrive, at once.
    OnArrival,
    /// The row with the smallest event time (ties: the first to arrive), once that time is complete.
    OnWatermark,
}

/// `row_number() OVER (PARTITION BY keys ORDER BY order) <= limit`, rank() and dense_rank() likewise. Output: the input's
/// columns (without its weight), the rank as BIGINT UNSIGNED if `with_rank`, then the weight unless `closing`.
#[derive(Debug, Clone)]
pub struct TopNSpec {
    pub input: SchemaRef,
    pub retract: bool,
    pub function: RankFunction,
    /// PARTITION BY columns; the first `routing` route.
    pub keys: Vec<usize>,
    pub routing: usize,
    pub order: Vec<(usize, SortOptions)>,
    pub limit: usize,
    pub with_rank: bool,
    /// `Some`: a partition is emitted once, when this key's value is complete (append). `None`: changes are emitted at every
    /// step.
    pub closing: Option<TimeColumn>,
    pub ttl: Option<i64>,
    pub time: Option<TimeColumn>,
    pub output: SchemaRef,
}

/// The rows that a target with a PRIMARY KEY holds of a retracting stream, where several rows may have one key: the last row
/// of each key. Output = input.
#[derive(Debug, Clone)]
pub struct NewestSpec {
    /// The table or sink, by name.
    pub target: String,
    /// The input's last column is the weight.
    pub input: SchemaRef,
    /// The PRIMARY KEY; all route.
    pub keys: Vec<usize>,
    /// Rows expire this long after they arrived, microseconds.
    pub ttl: Option<i64>,
    pub time: Option<TimeColumn>,
}

/// Ranking of rows with equal order values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankFunction {
    RowNumber,
    Rank,
    DenseRank,
}

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
    pub ttl: Option<i64>,
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

/// A join of two streams on equal keys. Output: the left columns, the right columns (without weights), then the weight if it
/// retracts; for semi and anti joins the preserved side's columns only.
#[derive(Debug, Clone)]
pub struct JoinSpec {
    pub left: SchemaRef,
    pub right: SchemaRef,
    pub left_retract: bool,
    pub right_retract: bool,
    pub left_keys: Vec<usize>,
    pub right_keys: Vec<usize>,
    /// `true` if null keys equal each other.
    pub null_equals_null: bool,
    /// Inner, Left, Right, Full, LeftSemi, RightSemi, LeftAnti, RightAnti.
    pub join_type: JoinType,
    /// Further condition, over the left columns followed by the right columns (without weights).
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// `Some`: an interval join. Rows can match only within the bounds (which `filter` need not repeat), so state is
    /// bounded, and outer rows are emitted, once, when their time is complete (append).
    pub bounds: Option<TimeBounds>,
    /// Rows expire this long after their event (or processing) time, microseconds. Only without `bounds`.
    pub ttl: Option<i64>,
    pub left_time: Option<TimeColumn>,
    pub right_time: Option<TimeColumn>,
    /// `true` if the output carries weights: any input retracts, or it is an outer, semi or anti join without bounds.
    pub output_retract: bool,
    pub output: SchemaRef,
}

/// `right.time - left.time` is within `[lower, upper]`, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeBounds {
    pub left: TimeColumn,
    pub right: TimeColumn,
    pub lower: i64,
    pub upper: i64,
}

/// ASOF join of two streams: for each left row the right row with equal keys and the greatest time `<=` (or `<`) the left
/// row's. Left rows are emitted when the right side is complete up to their time. Output: left columns, right columns.
#[derive(Debug, Clone)]
pub struct AsofSpec {
    pub left: SchemaRef,
    pub right: SchemaRef,
    pub left_keys: Vec<usize>,
    pub right_keys: Vec<usize>,
    pub left_time: TimeColumn,
    pub right_time: TimeColumn,
    /// `true` for `>=` in the MATCH_CONDITION, `false` for `>`.
    pub or_equal: bool,
    /// `false` drops left rows without a match (inner).
    pub outer: bool,
    pub output: SchemaRef,
}

/// A stream joined on equal keys to a Delta table that the pipeline does not write. Rows are emitted at once, joined to the
/// loaded version. Output: the left columns (without their weight), the table's columns, then the weight if the left side
/// retracts. Null keys match nothing, unless `null_equals_null`. A row that is retracted under another version than it was
/// emitted under may join to other values: a retracting left side needs `as_of`, or a table whose read columns never change.
#[derive(Debug, Clone)]
pub struct LookupSpec {
    pub left: SchemaRef,
    /// `true` if the left side's last column is the weight.
    pub left_retract: bool,
    pub left_keys: Vec<usize>,
    /// The table's name in the SQL.
    pub table: String,
    /// The columns of the table that are read, by name and with the table's types.
    pub right: SchemaRef,
    /// Of the same types as `left_keys`.
    pub right_keys: Vec<usize>,
    /// `true`: null keys match each other, as in IS NOT DISTINCT FROM.
    pub null_equals_null: bool,
    /// Inner or Left.
    pub join_type: JoinType,
    /// Further condition, over the left columns (without weight) followed by the table's columns.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// `FOR SYSTEM_TIME AS OF`: a left TIMESTAMP(µs) column. Each row is joined to the newest version that was committed at
    /// or before this time; rows without a time match nothing.
    pub as_of: Option<usize>,
    /// Treatment of rows whose time is before the oldest readable version.
    pub before_first: BeforeFirst,
    pub output: SchemaRef,
}
