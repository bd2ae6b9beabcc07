//! Event time as microseconds, and the split of a batch into rows that are in time and late rows.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::{cast, filter_record_batch, not};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

use crate::error::{Context, Error, Result};
use crate::time::{EventTime, Watermark};

/// A time column as microseconds; nulls stay null. BIGINT columns already count microseconds.
pub fn micros(batch: &RecordBatch, column: usize) -> Result<Int64Array> {
    let Some(values) = batch.columns().get(column) else {
        return Err(Error::internal(format!("time column {column} is not in the input")));
    };
    micros_of(values)
}

fn micros_of(values: &ArrayRef) -> Result<Int64Array> {
    let unreadable = || format!("time column of type `{}` cannot be read", values.data_type());
    match values.data_type() {
        DataType::Int64 => Ok(values.as_primitive::<Int64Type>().clone()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(values.as_primitive::<TimestampMicrosecondType>().reinterpret_cast())
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            let stamps = cast(values, &DataType::Timestamp(TimeUnit::Microsecond, None)).internal(unreadable)?;
            Ok(stamps.as_primitive::<TimestampMicrosecondType>().reinterpret_cast())
        }
        _ => {
            let numbers = cast(values, &DataType::Int64).internal(unreadable)?;
            Ok(numbers.as_primitive::<Int64Type>().clone())
        }
    }
}

/// Splits rows: those with a time at or after `before`, and the late ones. A row without a time can never be complete and
/// counts as late. An empty part is `None`.
pub fn split_late(
    batch: &RecordBatch,
    times: &Int64Array,
    before: Watermark,
) -> Result<(Option<RecordBatch>, Option<RecordBatch>)> {
    let in_time = |row: usize| times.is_valid(row) && !EventTime(times.value(row)).is_late(before);
    let late = (0..times.len()).filter(|&row| !in_time(row)).count();
    if late == 0 {
        return Ok(((batch.num_rows() > 0).then(|| batch.clone()), None));
    }
    if late == batch.num_rows() {
        return Ok((None, Some(batch.clone())));
    }
    let mask: BooleanArray = (0..times.len()).map(|row| Some(in_time(row))).collect();
    let failed = || "late rows cannot be set apart".to_owned();
    let kept = filter_record_batch(batch, &mask).internal(failed)?;
    let rest = filter_record_batch(batch, &not(&mask).internal(failed)?).internal(failed)?;
    Ok((Some(kept), Some(rest)))
}
