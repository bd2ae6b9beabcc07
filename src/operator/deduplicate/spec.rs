//! The specification of a deduplication.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::error::Result;
use crate::operator::Operator;
use crate::operator::held::with_number;
use crate::operator::planning::{Facts, OutputOrder, Spec, TimeColumn};
use crate::operator::words::{clock, forgets, names, time};
use crate::time::Lag;

/// DISTINCT, DEDUPLICATE and `row_number() … ORDER BY time` = 1: the first row per key. Output = input.
#[derive(Debug, Clone)]
pub struct DeduplicateSpec {
    pub input: SchemaRef,
    /// All route.
    pub keys: Vec<usize>,
    pub time: Option<TimeColumn>,
    /// A key is kept in state this long after the event time (without `time`: the processing time) of the row that was let
    /// through, microseconds; `None`: for ever.
    pub within: Option<Lag>,
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

impl DeduplicateSpec {
    /// The same over rows that carry their number behind the input's columns and keep it. Its state is the same.
    pub fn numbered(mut self) -> Self {
        self.input = with_number(&self.input, self.input.fields().len());
        self
    }
}

impl Spec for DeduplicateSpec {
    fn kind(&self) -> &'static str {
        "deduplicate"
    }

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.input)
    }

    fn routing(&self) -> Vec<Vec<usize>> {
        vec![self.keys.clone()]
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        super::deduplicate(self.clone())
    }

    fn essence(&self) -> String {
        let in_state = self.columns_in_state();
        let number = |column: usize| match &in_state {
            Some(columns) => columns.iter().position(|&other| other == column).unwrap_or(column),
            None => column,
        };
        // On arrival, time matters only when keys ever expire.
        let counted = self.time.filter(|_| self.emit == DeduplicateEmit::OnWatermark || self.within.is_some());
        let counted = counted.map(|time| TimeColumn { column: number(time.column), ..time });
        let keys: Vec<usize> = self.keys.iter().map(|&column| number(column)).collect();
        format!("by {keys:?} time {counted:?} {:?}", self.emit)
    }

    fn explain(&self) -> Facts {
        let emits = match self.emit {
            DeduplicateEmit::OnArrival => "the first row of each key, at once",
            DeduplicateEmit::OnWatermark => "the earliest row of each key, when its time is complete",
        };
        vec![
            ("keys", names(&self.input, &self.keys)),
            ("time", time(&self.input, self.time)),
            ("state", "keys".to_owned()),
            ("emits", emits.to_owned()),
            ("evicts", forgets(self.within, "a key after", clock(&self.input, self.time))),
        ]
    }

    fn begins_empty(&self) -> &'static str {
        "a row whose key was read before passes once more"
    }

    fn follows_time(&self) -> bool {
        self.emit == DeduplicateEmit::OnWatermark || self.within.and(self.time).is_some()
    }

    fn holds_back(&self) -> bool {
        self.emit == DeduplicateEmit::OnWatermark
    }

    fn passes_on(&self) -> Option<usize> {
        (self.emit == DeduplicateEmit::OnArrival).then(|| self.input.fields().len())
    }

    fn event_time(&self) -> Option<usize> {
        self.time.map(|time| time.column)
    }

    fn columns_in_state(&self) -> Option<Vec<usize>> {
        if self.emit != DeduplicateEmit::OnArrival {
            return None;
        }
        let time = self.within.and(self.time).map(|time| time.column);
        let columns: BTreeSet<usize> = self.keys.iter().copied().chain(time).collect();
        let mut columns: Vec<usize> = columns.into_iter().collect();
        columns.sort_by_key(|&column| self.input.field(column).name());
        Some(columns)
    }

    fn depends_on_order(&self) -> bool {
        true
    }

    fn order(&self) -> Option<OutputOrder> {
        match self.emit {
            DeduplicateEmit::OnArrival => Some(OutputOrder::Arrival(self.input.fields().len())),
            DeduplicateEmit::OnWatermark => self.time.map(|time| OutputOrder::Time(vec![time.column])),
        }
    }
}
