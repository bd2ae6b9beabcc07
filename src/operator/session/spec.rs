//! The specification of SESSION(…).

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::error::Result;
use crate::operator::Operator;
use crate::operator::planning::{Facts, OutputOrder, Spec, TimeColumn};
use crate::operator::words::{interval, names, time};
use crate::time::Lag;

/// SESSION(…): rows wait until their session is complete, then are emitted with `window_start` and `window_end` appended.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    pub input: SchemaRef,
    /// PARTITION BY columns; all route.
    pub keys: Vec<usize>,
    pub time: TimeColumn,
    /// A session ends this long after its last row, microseconds.
    pub gap: Lag,
    pub output: SchemaRef,
}

impl Spec for SessionSpec {
    fn kind(&self) -> &'static str {
        "session"
    }

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn routing(&self) -> Vec<Vec<usize>> {
        vec![self.keys.clone()]
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        super::session(self.clone())
    }

    fn essence(&self) -> String {
        format!("by {:?} time {:?} gap {}", self.keys, self.time, self.gap)
    }

    fn explain(&self) -> Facts {
        vec![
            ("keys", names(&self.input, &self.keys)),
            ("time", time(&self.input, Some(self.time))),
            ("state", "rows of open sessions".to_owned()),
            ("emits", format!("a session's rows when nothing has come for {}", interval(self.gap))),
            ("evicts", "a session once it has been emitted".to_owned()),
        ]
    }

    fn begins_empty(&self) -> &'static str {
        "sessions that are open now will lack the rows read before"
    }

    fn follows_time(&self) -> bool {
        true
    }

    fn holds_back(&self) -> bool {
        true
    }

    fn event_time(&self) -> Option<usize> {
        Some(self.time.column)
    }

    fn order(&self) -> Option<OutputOrder> {
        Some(OutputOrder::Time(vec![self.output.fields().len().checked_sub(1)?]))
    }
}
