//! The closing key: its values as microseconds, the rows that are late, and the rows that share a value.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{cast, filter_record_batch, not, take};
use arrow::datatypes::{
    DataType, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow::record_batch::RecordBatch;
use datafusion::error::Result;

use crate::operator::Tick;
use crate::operator::spec::TimeColumn;
use crate::time::{EventTime, Watermark};

/// A grouping column whose values become complete.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClosingKey {
    /// The column of the input.
    pub time: TimeColumn,
    /// Index among the keys.
    pub key: usize,
}

/// Some rows of a batch.
pub(super) enum Rows {
    Run { start: usize, length: usize },
    Picked(UInt32Array),
}

impl ClosingKey {
    /// The watermark of its values: those below it are complete.
    pub fn complete_below(&self, watermark: Watermark) -> Watermark {
        self.time.bound(watermark)
    }

    /// `true` if a value is complete.
    pub fn is_complete(&self, value: EventTime, watermark: Watermark) -> bool {
        value.is_complete(self.complete_below(watermark))
    }

    /// The first watermark at which the smallest of some values, if there is one, is complete.
    pub fn due(&self, smallest: Option<EventTime>) -> Watermark {
        self.time.past(smallest)
    }

    /// Divides a batch into the rows that count and the late rows, if any. Rows without a time are late.
    pub fn part(&self, batch: RecordBatch, tick: Tick) -> Result<(RecordBatch, Option<RecordBatch>)> {
        let values = microseconds(batch.column(self.time.column))?;
        let limit = self.complete_below(tick.before);
        if values.null_count() == 0 && values.values().iter().all(|value| !EventTime(*value).is_late(limit)) {
            return Ok((batch, None));
        }
        let late: BooleanArray =
            values.iter().map(|value| Some(value.is_none_or(|value| EventTime(value).is_late(limit)))).collect();
        if late.true_count() == 0 {
            return Ok((batch, None));
        }
        Ok((filter_record_batch(&batch, &not(&late)?)?, Some(filter_record_batch(&batch, &late)?)))
    }
}

impl Rows {
    /// Takes these rows of a column.
    pub fn of(&self, column: &ArrayRef) -> Result<ArrayRef> {
        match self {
            Self::Run { start: 0, length } if *length == column.len() => Ok(Arc::clone(column)),
            Self::Run { start, length } => Ok(column.slice(*start, *length)),
            Self::Picked(rows) => Ok(take(column, rows, None)?),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Run { length, .. } => *length,
            Self::Picked(rows) => rows.len(),
        }
    }
}

/// A time column as microseconds since 1970, rounded down.
pub(super) fn microseconds(column: &ArrayRef) -> Result<Int64Array> {
    match column.data_type() {
        DataType::Int64 => Ok(column.as_primitive::<Int64Type>().clone()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(column.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Ok(column.as_primitive::<TimestampNanosecondType>().unary(|value| value.div_euclid(1000)))
        }
        _ => {
            let times = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            Ok(times.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>())
        }
    }
}

/// The values of a column of 64-bit integers or timestamps, in its own unit; `None` for other types.
pub(super) fn raw_times(column: &ArrayRef) -> Option<&ScalarBuffer<i64>> {
    match column.data_type() {
        DataType::Int64 => Some(column.as_primitive::<Int64Type>().values()),
        DataType::Timestamp(TimeUnit::Second, _) => Some(column.as_primitive::<TimestampSecondType>().values()),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Some(column.as_primitive::<TimestampMillisecondType>().values())
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Some(column.as_primitive::<TimestampMicrosecondType>().values())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Some(column.as_primitive::<TimestampNanosecondType>().values()),
        _ => None,
    }
}

/// The rows of each value, ascending by value. The usual case, one value, copies nothing.
pub(super) fn split(values: &[i64]) -> Vec<(i64, Rows)> {
    let Some(first) = values.first() else { return Vec::new() };
    if values.iter().all(|value| value == first) {
        return vec![(*first, Rows::Run { start: 0, length: values.len() })];
    }
    let mut runs: BTreeMap<i64, Vec<(usize, usize)>> = BTreeMap::new();
    let mut start = 0;
    while start < values.len() {
        let value = values[start];
        let length = values[start..].iter().take_while(|other| **other == value).count();
        runs.entry(value).or_default().push((start, length));
        start += length;
    }
    let rows = |runs: Vec<(usize, usize)>| match runs.as_slice() {
        [(start, length)] => Rows::Run { start: *start, length: *length },
        runs => {
            let picked = runs.iter().flat_map(|(start, length)| *start as u32..(*start + *length) as u32);
            Rows::Picked(picked.collect::<Vec<_>>().into())
        }
    };
    runs.into_iter().map(|(value, runs)| (value, rows(runs))).collect()
}
