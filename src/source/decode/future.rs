//! Rows dated in the future: one of them would move the watermark past the true times, and all later rows would be late.

use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, max};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};

use super::letters::Refusal;
use crate::catalog::SourceDef;
use crate::env::Env;
use crate::error::{Context, Result};

/// The option's name in the reason of a refused row.
pub const MAX_FUTURE: &str = "`max_future`";

/// The bound on event time ahead of the clock (`max_future`).
#[derive(Debug)]
pub(super) struct MaxFuture {
    column: usize,
    name: String,
    most: Duration,
    env: Env,
}

impl MaxFuture {
    /// `None` for sources without an event time or without a bound.
    pub(super) fn new(def: &SourceDef, env: &Env) -> Option<Self> {
        let (watermark, most) = (def.watermark.as_ref()?, def.max_future?);
        let column = def.columns.iter().position(|column| column.name == watermark.column)?;
        let is_time = matches!(def.columns[column].data_type, DataType::Timestamp(TimeUnit::Microsecond, _));
        is_time.then(|| Self { column, name: watermark.column.clone(), most, env: env.clone() })
    }

    /// The rows that are too far ahead, with the reason for each; usually none.
    pub(super) fn refused(&self, columns: &[ArrayRef]) -> Vec<(usize, Refusal)> {
        let times = columns[self.column].as_primitive::<TimestampMicrosecondType>();
        let now = self.env.unix_ms().saturating_mul(1000);
        let bound = now.saturating_add(i64::try_from(self.most.as_micros()).unwrap_or(i64::MAX));
        if max(times).is_none_or(|newest| newest <= bound) {
            return Vec::new();
        }
        let ahead = (0..times.len()).filter(|row| times.is_valid(*row) && times.value(*row) > bound);
        ahead.map(|row| (row, self.refusal(times.value_as_datetime(row).map(|time| time.to_string())))).collect()
    }

    fn refusal(&self, time: Option<String>) -> Refusal {
        let time = time.unwrap_or_else(|| "beyond the year 262000".to_owned());
        let most = humantime(self.most);
        Refusal {
            reason: format!("{time} is more than {most} ahead of the clock ({MAX_FUTURE})"),
            column: Some(self.name.clone()),
        }
    }
}

fn humantime(of: Duration) -> String {
    match of.as_secs() {
        86_400 => "1 day".to_owned(),
        3_600 => "1 hour".to_owned(),
        seconds if seconds > 0 && seconds.is_multiple_of(86_400) => format!("{} days", seconds / 86_400),
        seconds if seconds > 0 && seconds.is_multiple_of(3_600) => format!("{} hours", seconds / 3_600),
        _ => format!("{of:?}"),
    }
}

/// The rows without the refused ones.
pub(super) fn without(rows: &RecordBatch, refused: &[(usize, Refusal)]) -> Result<RecordBatch> {
    let mut kept = vec![true; rows.num_rows()];
    for (row, _) in refused {
        kept[*row] = false;
    }
    filter_record_batch(rows, &BooleanArray::from(kept)).internal(|| "rows cannot be left out".to_owned())
}
