//! The specifications of joins of two streams.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::JoinType;
use datafusion::physical_expr::PhysicalExpr;

use crate::error::Result;
use crate::operator::Operator;
use crate::operator::planning::{Facts, OutputOrder, Spec, TimeColumn};
use crate::operator::refused::{Guarded, Pending};
use crate::operator::words::{clock, equalities, forgets, interval, shown};
use crate::time::Lag;

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
    pub ttl: Option<Lag>,
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
    pub lower: Lag,
    pub upper: Lag,
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

impl Spec for JoinSpec {
    fn kind(&self) -> &'static str {
        if self.bounds.is_some() { "interval_join" } else { "join" }
    }

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn routing(&self) -> Vec<Vec<usize>> {
        vec![self.left_keys.clone(), self.right_keys.clone()]
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        super::join(self.clone())
    }

    fn essence(&self) -> String {
        format!(
            "{:?} on {:?}={:?} bounds {:?} filter {:?}",
            self.join_type,
            self.left_keys,
            self.right_keys,
            self.bounds,
            self.filter.as_ref().map(shown)
        )
    }

    fn explain(&self) -> Facts {
        let kind = self.join_type.to_string().to_lowercase();
        let keys = equalities(&self.left, &self.left_keys, &self.right, &self.right_keys);
        let mut facts = vec![("joins", format!("{kind} on {keys}"))];
        match self.bounds {
            Some(bounds) => {
                facts.push((
                    "time",
                    format!(
                        "{} - {} between {} and {}",
                        self.right.field(bounds.right.column).name(),
                        self.left.field(bounds.left.column).name(),
                        interval(bounds.lower),
                        interval(bounds.upper)
                    ),
                ));
                facts.push(("state", "rows of both sides within the bounds".to_owned()));
                facts.push(("emits", "matches at once, rows without a match when none can come any more".to_owned()));
                facts.push(("evicts", "rows that the other side's watermark has passed".to_owned()));
            }
            None => {
                facts.push(("state", "rows of both sides".to_owned()));
                facts.push(("emits", "changes with every micro-batch".to_owned()));
                let clock = match self.left_time {
                    Some(time) => clock(&self.left, Some(time)),
                    None => clock(&self.right, self.right_time),
                };
                facts.push(("evicts", forgets(self.ttl, "rows after", clock)));
            }
        }
        facts
    }

    fn begins_empty(&self) -> &'static str {
        NO_MATCH
    }

    fn follows_time(&self) -> bool {
        self.bounds.is_some() || (self.ttl.is_some() && self.left_time.or(self.right_time).is_some())
    }

    fn holds_back(&self) -> bool {
        self.bounds.is_some()
    }

    fn pending(&self) -> Option<Pending> {
        self.filter.as_ref()?.downcast_ref::<Guarded>()?.pending().cloned()
    }

    fn order(&self) -> Option<OutputOrder> {
        let bounds = self.bounds.filter(|_| !self.output_retract)?;
        let (left, right) = (bounds.left.column, bounds.right.column);
        Some(OutputOrder::Time(match self.join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => vec![left],
            JoinType::RightSemi | JoinType::RightAnti => vec![right],
            _ => vec![left, self.left.fields().len() + right],
        }))
    }
}

/// The effect of starting with empty state.
const NO_MATCH: &str = "rows read before find no match any more";

impl Spec for AsofSpec {
    fn kind(&self) -> &'static str {
        "asof_join"
    }

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn routing(&self) -> Vec<Vec<usize>> {
        vec![self.left_keys.clone(), self.right_keys.clone()]
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        super::asof(self.clone())
    }

    fn essence(&self) -> String {
        format!(
            "on {:?}={:?} {:?} {:?} or_equal {} outer {}",
            self.left_keys, self.right_keys, self.left_time, self.right_time, self.or_equal, self.outer
        )
    }

    fn explain(&self) -> Facts {
        vec![
            ("keys", equalities(&self.left, &self.left_keys, &self.right, &self.right_keys)),
            ("state", "left rows that wait; per key the right rows that a left row may still match".to_owned()),
            ("emits", "a left row when the right side is complete up to its time".to_owned()),
            ("evicts", "right rows older than the newest one before the watermark".to_owned()),
        ]
    }

    fn begins_empty(&self) -> &'static str {
        NO_MATCH
    }

    fn follows_time(&self) -> bool {
        true
    }

    fn holds_back(&self) -> bool {
        true
    }

    fn order(&self) -> Option<OutputOrder> {
        Some(OutputOrder::Time(vec![self.left_time.column]))
    }
}
