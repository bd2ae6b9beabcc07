//! `weir_first_within(time, within) OVER (PARTITION BY keys ORDER BY time)`: what DEDUPLICATE means, as a window function.
//!
//! A row is let through when none of its key was let through less than `within` microseconds before it. So it must be asked for
//! in the order of time; the answer of a row hangs on those before it, which no frame can say.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimestampMicrosecondType};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl};

/// The function's name.
pub const FIRST_WITHIN: &str = "weir_first_within";

/// The function; the time is a TIMESTAMP(µs), `within` a BIGINT.
pub fn first_within() -> WindowUDF {
    WindowUDF::from(FirstWithin { signature: Signature::any(2, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FirstWithin {
    signature: Signature,
}

impl WindowUDFImpl for FirstWithin {
    fn name(&self) -> &str {
        FIRST_WITHIN
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(&self, _args: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Evaluator))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(args.name(), DataType::Boolean, false)))
    }
}

#[derive(Debug)]
struct Evaluator;

impl PartitionEvaluator for Evaluator {
    fn evaluate_all(&mut self, values: &[ArrayRef], num_rows: usize) -> Result<ArrayRef> {
        let [times, within] = values else { return exec_err!("`{FIRST_WITHIN}` takes two arguments") };
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let within = within.as_primitive::<Int64Type>();
        let mut forgotten: Option<i64> = None;
        let mut first = true;
        let mut passes = Vec::with_capacity(num_rows);
        for row in 0..num_rows {
            // Rows without a time come together, before or after the others: the first of a key counts.
            let time = times.is_valid(row).then(|| times.value(row));
            let pass = match (forgotten, time) {
                _ if first => true,
                (Some(forgotten), Some(time)) => time >= forgotten,
                _ => false,
            };
            if pass {
                forgotten = time.map(|time| time.saturating_add(within.value(row)));
            }
            first = false;
            passes.push(pass);
        }
        Ok(Arc::new(BooleanArray::from(passes)))
    }

    fn uses_window_frame(&self) -> bool {
        false
    }

    fn include_rank(&self) -> bool {
        false
    }
}
