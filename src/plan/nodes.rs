//! Logical nodes that DataFusion has no word for: sessions, deduplication and ASOF joins of a stream.
//!
//! They stand in the logical plans of pipelines only, between the query's own nodes; the planner makes operators of them. In a
//! batch plan the same SQL is ordinary window functions (see [`super::relation`]).

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::time::Lag;
use arrow::datatypes::Field;
use datafusion::common::{DFSchema, DFSchemaRef, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, UserDefinedLogicalNodeCore};

/// The column with a window's first instant.
pub const WINDOW_START: &str = "window_start";
/// The column with the first instant after a window.
pub const WINDOW_END: &str = "window_end";

/// `SESSION(TABLE input PARTITION BY keys, DESCRIPTOR(time), gap)`: the input's columns, then [`WINDOW_START`] and [`WINDOW_END`].
/// A session begins with a row that comes `gap` or more after the row of its key before it, and ends `gap` after its last row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionNode {
    pub input: LogicalPlan,
    /// Columns.
    pub keys: Vec<Expr>,
    /// A column, or a cast of one to TIMESTAMP(µs); never null in the input.
    pub time: Expr,
    /// Above 0.
    pub gap: Lag,
    schema: DFSchemaRef,
}

impl SessionNode {
    /// A node over `input`, whose columns the expressions name.
    pub fn try_new(input: LogicalPlan, keys: Vec<Expr>, time: Expr, gap: Lag) -> Result<Self> {
        let kind = time.get_type(input.schema())?;
        let mut fields: Vec<_> =
            input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        for name in [WINDOW_START, WINDOW_END] {
            fields.push((None, Arc::new(Field::new(name, kind.clone(), false))));
        }
        let schema = Arc::new(DFSchema::new_with_metadata(fields, HashMap::new())?);
        Ok(Self { input, keys, time, gap, schema })
    }
}

impl PartialOrd for SessionNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for SessionNode {
    fn name(&self) -> &'static str {
        "Session"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.iter().chain([&self.time]).cloned().collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        all_but(&self.schema, &self.keys)
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session: keys=[{}], time={}, gap={}", shown(&self.keys), self.time, length(self.gap))
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (exprs.pop(), one(inputs)) {
            (Some(time), Some(input)) => Self::try_new(input, exprs, time, self.gap),
            _ => internal_err!("a session has one input and a time"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let given = self.input.schema().fields().len();
        Some(vec![output_columns.iter().copied().filter(|column| *column < given).collect()])
    }
}

/// `DEDUPLICATE(TABLE input, KEY(keys), …, WITHIN within)`: of the rows with equal keys the first; the input's columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeduplicateNode {
    pub input: LogicalPlan,
    /// Columns.
    pub keys: Vec<Expr>,
    /// A column, or a cast of one to TIMESTAMP(µs). `None`: the statement names none and none is known of the input.
    pub time: Option<Expr>,
    /// Without a known time, what could be one: kept until the planner knows which column a watermark follows.
    pub candidates: Vec<Expr>,
    /// A key is forgotten this long after the row that was let through.
    pub within: Option<Lag>,
}

impl PartialOrd for DeduplicateNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for DeduplicateNode {
    fn name(&self) -> &'static str {
        "Deduplicate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.iter().chain(&self.time).chain(&self.candidates).cloned().collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        all_but(self.input.schema(), &self.keys)
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deduplicate: keys=[{}]", shown(&self.keys))?;
        if let Some(time) = &self.time {
            write!(f, ", time={time}")?;
        }
        self.within.map_or(Ok(()), |within| write!(f, ", within={}", length(within)))
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let mut others = exprs.split_off(self.keys.len().min(exprs.len()));
        let time = if self.time.is_some() { others.pop() } else { None };
        match one(inputs) {
            Some(input) => Ok(Self { input, keys: exprs, time, candidates: others, within: self.within }),
            None => internal_err!("a deduplication has one input"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

/// An ASOF join, whose condition is marked: the join's columns. A condition on the right side's columns is asked of the row that has matched;
/// below the join it would make another row match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AsofNode {
    /// The join, perhaps below a projection.
    pub input: LogicalPlan,
    /// The names of the right side's columns.
    pub right: Vec<String>,
}

impl PartialOrd for AsofNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for AsofNode {
    fn name(&self) -> &'static str {
        "Asof"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.right.iter().cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asof")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        match one(inputs) {
            Some(input) => Ok(Self { input, right: self.right.clone() }),
            None => internal_err!("an ASOF join stands above one join"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

/// The names of all columns of which a filter must stay above the node: only rows of a whole key may go before it.
fn all_but(schema: &DFSchema, keys: &[Expr]) -> HashSet<String> {
    let is_key = |index: usize| {
        keys.iter().any(|key| matches!(key, Expr::Column(key) if schema.index_of_column(key).ok() == Some(index)))
    };
    let others = schema.fields().iter().enumerate().filter(|(index, _)| !is_key(*index));
    others.map(|(_, field)| field.name().clone()).collect()
}

fn one(inputs: Vec<LogicalPlan>) -> Option<LogicalPlan> {
    let mut inputs = inputs.into_iter();
    inputs.next().filter(|_| inputs.next().is_none())
}

fn shown(exprs: &[Expr]) -> String {
    exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A length of time as people write it.
pub fn length(Lag(micros): Lag) -> String {
    const UNITS: [(i64, &str); 6] = [
        (86_400_000_000, "day"),
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
        (1_000, "millisecond"),
        (1, "microsecond"),
    ];
    let unit = UNITS.iter().find(|(size, _)| micros != 0 && micros % size == 0);
    let (size, name) = unit.copied().unwrap_or((1, "microsecond"));
    let count = micros / size;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}
