//! Aggregates that return their input (`array_agg`, `string_agg`), or whose state grows with it: computed from scratch for
//! each frame.
//!
//! A row costs as much as its frame has rows, and so does its result, so frames are bounded: more rows in one frame than the
//! pipeline's `rolling_collect_limit`, or more values in one step than memory allows, end the run with an error.

use arrow::array::ArrayRef;
use datafusion::common::ScalarValue;

use super::merged::Call;
use super::view::{Function, View};
use crate::error::{Error, Result};

/// Maximum bytes of the values in one step's frames.
const STEP_BYTES: usize = 256 << 20;

/// `true` if the state of an aggregate grows with the number of rows.
pub(super) fn grows(name: &str, distinct: bool) -> bool {
    matches!(name, "array_agg" | "string_agg")
        || distinct && !matches!(name, "min" | "max" | "bit_and" | "bit_or" | "bool_and" | "bool_or" | "any_value")
        || matches!(name, "median" | "percentile_cont" | "approx_distinct")
}

/// An aggregate that is computed from scratch for each frame.
pub(super) struct Collected {
    call: Call,
    limit: usize,
}

impl Collected {
    pub(super) fn new(call: Call, limit: usize) -> Self {
        Self { call, limit }
    }

    /// Errors: frames with more rows than may be collected.
    fn within_limits(&self, view: &View) -> Result<()> {
        let (mut all, mut last) = (0_usize, (usize::MAX, usize::MAX));
        for frame in view.frames() {
            let rows = frame.1.saturating_sub(frame.0);
            if rows > self.limit && frame != last {
                return Err(Error::sql(format!("a frame of `{}` holds more rows than may be collected", self.call.name()))
                    .with_detail(format!(
                        "The frame holds {rows} rows of one key; `rolling_collect_limit` is {}. Such an aggregate reads all rows of the frame again for every row.",
                        self.limit
                    ))
                    .with_hint("Shorten the frame, partition by more columns, or raise `rolling_collect_limit` in the pipeline's WITH (…)."));
            }
            all += rows;
            last = frame;
        }
        let bytes = all.saturating_mul(view.store.row_bytes());
        match bytes > STEP_BYTES {
            false => Ok(()),
            true => Err(Error::sql(format!("`{}` collects more in one step than memory should hold", self.call.name()))
                .with_detail(format!(
                    "The frames of {} rows hold {all} values, about {} MiB; {} MiB are allowed.",
                    view.keys.len(),
                    bytes >> 20,
                    STEP_BYTES >> 20
                ))
                .with_hint("Shorten the frame, partition by more columns, or lower `max_rows_per_micro_batch` in the pipeline's WITH (…).")),
        }
    }

    fn frame(&self, view: &View, start: usize, end: usize) -> Result<ScalarValue> {
        if start == end {
            return Ok(self.call.empty.clone());
        }
        let mut accumulator = self.call.accumulator()?;
        self.call.update(accumulator.as_mut(), view, start..end)?;
        self.call.result(accumulator.as_mut())
    }
}

impl Function for Collected {
    fn column(&mut self, view: View) -> Result<ArrayRef> {
        self.within_limits(&view)?;
        let mut results: Vec<ScalarValue> = Vec::with_capacity(view.keys.len());
        let mut last = (usize::MAX, usize::MAX);
        for (start, end) in view.frames() {
            // Peers share their frame.
            let result = match results.last() {
                Some(same) if last == (start, end) => same.clone(),
                _ => self.frame(&view, start, end)?,
            };
            results.push(result);
            last = (start, end);
        }
        Ok(ScalarValue::iter_to_array(results)?)
    }
}
