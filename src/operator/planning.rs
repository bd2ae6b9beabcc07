//! The contract of specifications: the questions of the planner and the runtime to an operator before one of its shards is built.
//!
//! Specifications are plain data over column numbers of the inputs. The planner puts a projection in front of every operator,
//! so keys, times and arguments are plain columns. Unless a specification says otherwise the output schema is its `output`,
//! with [`super::WEIGHT`] last when the operator retracts.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use super::contract::Operator;
use super::refused::{Check, Pending};
use crate::error::Result;
use crate::time::{EventTime, Lag, Watermark};

/// A column whose values in future rows are >= W - `lag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeColumn {
    pub column: usize,
    pub lag: Lag,
}

impl TimeColumn {
    /// The watermark of this column: a lower bound of its values in future rows.
    pub fn bound(self, watermark: Watermark) -> Watermark {
        watermark.behind(self.lag)
    }

    /// The first watermark at which `value` is complete; the end of time if there is none.
    pub fn past(self, value: Option<EventTime>) -> Watermark {
        value.map_or(Watermark::END, |value| value.due(self.lag))
    }

    /// The clock by which a TTL runs: the watermark of the event time; where there is none, the processing time.
    pub fn clock(time: Option<Self>, watermark: Watermark, now: EventTime) -> Watermark {
        time.map_or(Watermark::at(now), |time| time.bound(watermark))
    }
}

/// The order in which an operator emits its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputOrder {
    /// That of the input rows that they are. The operator runs over numbered rows; the number stands in this column of its output.
    Arrival(usize),
    /// By the greatest of these event time columns; rows of one time in no particular order.
    Time(Vec<usize>),
}

/// An explanation, line by line: a word and what it stands for.
pub type Facts = Vec<(&'static str, String)>;

/// The specification of an operator.
pub trait Spec: Debug {
    /// The word in explanations and addresses.
    fn kind(&self) -> &'static str;

    /// The schema of its rows, with the weight if they have one.
    fn output(&self) -> SchemaRef;

    /// Per port the columns by which rows are given to shards.
    fn routing(&self) -> Vec<Vec<usize>>;

    /// An empty shard. Errors: a lookup, which has none.
    fn build(&self) -> Result<Box<dyn Operator>>;

    /// An empty shard that can be restored from state in these tables: operators with several layouts of state take the one
    /// that was written.
    fn build_for(&self, _tables: &[&str]) -> Result<Box<dyn Operator>> {
        self.build()
    }

    /// A line about its work that is the same for the same work: a part of the address of its state. Columns are numbered among
    /// [`Spec::columns_in_state`].
    fn essence(&self) -> String;

    /// Its work in words, for EXPLAIN: keys, time, state, when rows are emitted and when state is evicted.
    fn explain(&self) -> Facts;

    /// The consequence, for a reader of its output, of beginning with an empty state in the middle of a stream.
    fn begins_empty(&self) -> &'static str;

    /// `true` if its rows or its state depend on the watermark.
    fn follows_time(&self) -> bool;

    /// The time column among its keys by which a group is complete and is emitted once; `None` if there is none.
    fn closing(&self) -> Option<TimeColumn> {
        None
    }

    /// `true` if rows may be emitted in a later step than the one in which they came in.
    fn holds_back(&self) -> bool {
        self.closing().is_some()
    }

    /// For operators that emit a row of their first port at once, as it came: the number of columns that it begins with.
    fn passes_on(&self) -> Option<usize> {
        None
    }

    /// The column of its one input without which it takes no row: the event time.
    fn event_time(&self) -> Option<usize> {
        self.closing().map(|time| time.column)
    }

    /// The expressions that it computes over the rows of its one input.
    fn over_input(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    /// The expressions over its one input that may fail for a row.
    fn fallible(&self) -> Vec<Check> {
        Vec::new()
    }

    /// Collects the pairs for which a join's condition fails.
    fn pending(&self) -> Option<Pending> {
        None
    }

    /// The columns of its input that decide what it keeps in state, by name; `None`: all of them.
    fn columns_in_state(&self) -> Option<Vec<usize>> {
        None
    }

    /// `true` if its result depends on the order of its input's rows.
    fn depends_on_order(&self) -> bool {
        false
    }

    /// The order that it can emit its rows in; `None`: it retracts rows, or emits them in order anyway.
    fn order(&self) -> Option<OutputOrder> {
        None
    }
}

/// `true` for aggregates whose result depends on the order of their rows, which the call leaves open.
pub fn collects_in_order(call: &AggregateFunctionExpr) -> bool {
    let ordered = ["array_agg", "string_agg", "first_value", "last_value", "nth_value"];
    call.order_bys().is_empty() && ordered.contains(&call.fun().name())
}
