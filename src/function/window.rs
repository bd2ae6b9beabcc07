//! The scalar functions behind TUMBLE and HOP: from a time to the windows it lies in.
//!
//! Times are TIMESTAMP(µs) with or without zone, lengths are BIGINT microseconds and literal. A window is `[start, start + size)`;
//! windows are counted from 1970 (plus an offset) in both directions. The planner writes calls of these; people write `TUMBLE`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, TimestampMicrosecondType};
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// `weir_tumble_start(time, size, offset)`: the start of the window that the time lies in.
pub const TUMBLE_START: &str = "weir_tumble_start";
/// `weir_hop_starts(time, slide, size, offset)`: the starts of all windows that the time lies in, ascending, as a list.
pub const HOP_STARTS: &str = "weir_hop_starts";
/// `weir_shift(time, by)`: the time, so many microseconds later.
pub const SHIFT: &str = "weir_shift";

/// The functions of this module.
pub fn window_functions() -> Vec<ScalarUDF> {
    [Kind::TumbleStart, Kind::HopStarts, Kind::Shift].map(|kind| ScalarUDF::from(WindowFunction::new(kind))).into()
}

/// The start of the window of this size that holds `time`; windows begin at multiples of `size` from `offset`.
fn floor(time: i64, size: i64, offset: i64) -> i64 {
    time.wrapping_sub(time.wrapping_sub(offset).rem_euclid(size))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    TumbleStart,
    HopStarts,
    Shift,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowFunction {
    kind: Kind,
    signature: Signature,
}

impl WindowFunction {
    fn new(kind: Kind) -> Self {
        let arguments = match kind {
            Kind::TumbleStart => 3,
            Kind::HopStarts => 4,
            Kind::Shift => 2,
        };
        Self { kind, signature: Signature::any(arguments, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WindowFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::TumbleStart => TUMBLE_START,
            Kind::HopStarts => HOP_STARTS,
            Kind::Shift => SHIFT,
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.first() {
            Some(time @ DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, _)) => Ok(match self.kind {
                Kind::HopStarts => DataType::List(Arc::new(Field::new_list_field(time.clone(), true))),
                Kind::TumbleStart | Kind::Shift => time.clone(),
            }),
            other => plan_err!("`{}` takes a TIMESTAMP of microseconds, not {other:?}", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut lengths = [0_i64; 3];
        for (length, argument) in lengths.iter_mut().zip(&args.args[1..]) {
            *length = microseconds(argument)?;
        }
        let is_scalar = matches!(args.args[0], ColumnarValue::Scalar(_));
        let times = args.args[0].to_array(if is_scalar { 1 } else { args.number_rows })?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let out: ArrayRef = match (self.kind, lengths) {
            (Kind::TumbleStart, [size, offset, _]) if size > 0 => {
                Arc::new(tumble_starts(times, size, offset).with_data_type(times.data_type().clone()))
            }
            (Kind::HopStarts, [slide, size, offset]) if slide > 0 && size > 0 => {
                Arc::new(hop_starts(times, slide, size, offset)?)
            }
            (Kind::Shift, [by, ..]) => {
                let shifted: PrimitiveArray<TimestampMicrosecondType> = times.unary(|time| time.wrapping_add(by));
                Arc::new(shifted.with_data_type(times.data_type().clone()))
            }
            _ => return exec_err!("the windows of `{}` have no length", self.name()),
        };
        if is_scalar {
            ScalarValue::try_from_array(&out, 0).map(ColumnarValue::Scalar)
        } else {
            Ok(ColumnarValue::Array(out))
        }
    }
}

fn microseconds(argument: &ColumnarValue) -> Result<i64> {
    match argument {
        ColumnarValue::Scalar(ScalarValue::Int64(Some(length))) => Ok(*length),
        other => exec_err!("a window's length is a BIGINT literal, not {other}"),
    }
}

fn tumble_starts(
    times: &PrimitiveArray<TimestampMicrosecondType>,
    size: i64,
    offset: i64,
) -> PrimitiveArray<TimestampMicrosecondType> {
    // Times come almost in order: most lie in the window of the time before, which saves the division.
    let mut start = floor(times.values().first().copied().unwrap_or(0), size, offset);
    let starts: ScalarBuffer<i64> = times
        .values()
        .iter()
        .map(|time| {
            if time.wrapping_sub(start) as u64 >= size as u64 {
                start = floor(*time, size, offset);
            }
            start
        })
        .collect();
    PrimitiveArray::new(starts, times.nulls().cloned())
}

fn hop_starts(
    times: &PrimitiveArray<TimestampMicrosecondType>,
    slide: i64,
    size: i64,
    offset: i64,
) -> Result<ListArray> {
    let windows = usize::try_from(size.div_euclid(slide)).unwrap_or(0) + 1;
    let mut starts: Vec<i64> = Vec::with_capacity(times.len() * windows.min(64));
    let mut lengths: Vec<usize> = Vec::with_capacity(times.len());
    for row in 0..times.len() {
        let before = starts.len();
        if times.is_valid(row) {
            let time = times.value(row);
            let last = floor(time, slide, offset);
            // The first start that is above `time - size`.
            let first = floor(time.wrapping_sub(size), slide, offset).wrapping_add(slide);
            let mut start = first;
            while start <= last {
                starts.push(start);
                start = start.wrapping_add(slide);
            }
        }
        lengths.push(starts.len() - before);
    }
    let values = PrimitiveArray::<TimestampMicrosecondType>::new(starts.into(), None);
    let values: ArrayRef = Arc::new(values.with_data_type(times.data_type().clone()));
    let field = Arc::new(Field::new_list_field(times.data_type().clone(), true));
    let nulls: Option<NullBuffer> = times.nulls().cloned();
    Ok(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), values, nulls)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMicrosecondArray;

    use super::*;

    const MINUTE: i64 = 60_000_000;

    #[test]
    fn windows_begin_at_multiples_of_their_size_also_before_1970() {
        let times =
            TimestampMicrosecondArray::from(vec![0, MINUTE - 1, MINUTE, -1, -MINUTE, -MINUTE - 1, 5 * MINUTE + 3]);
        let starts = tumble_starts(&times, MINUTE, 0);
        assert_eq!(starts.values(), &[0, 0, MINUTE, -MINUTE, -MINUTE, -2 * MINUTE, 5 * MINUTE]);
        let starts = tumble_starts(&times, MINUTE, 10);
        assert_eq!(starts.values()[..4], [10 - MINUTE, 10, 10, 10 - MINUTE]);
    }

    #[test]
    fn a_time_lies_in_every_hop_that_covers_it() {
        let times = TimestampMicrosecondArray::from(vec![Some(25), None, Some(-1), Some(30)]);
        let starts = hop_starts(&times, 10, 30, 0).unwrap();
        let row = |row: usize| starts.value(row).as_primitive::<TimestampMicrosecondType>().values().to_vec();
        assert_eq!(row(0), [0, 10, 20]);
        assert!(starts.is_null(1));
        assert_eq!(row(2), [-30, -20, -10]);
        assert_eq!(row(3), [10, 20, 30]);
        // Windows that leave gaps: some times lie in none.
        let starts = hop_starts(&TimestampMicrosecondArray::from(vec![3, 7]), 10, 5, 0).unwrap();
        assert_eq!((starts.value_length(0), starts.value_length(1)), (1, 0));
    }

    #[test]
    fn the_zone_of_a_time_is_kept() {
        let times = TimestampMicrosecondArray::from(vec![Some(MINUTE + 1), None]).with_timezone("UTC");
        for (kind, lengths) in [(Kind::TumbleStart, vec![MINUTE, 0]), (Kind::HopStarts, vec![MINUTE, MINUTE, 0])] {
            let function = WindowFunction::new(kind);
            let expected = function.return_type(&[times.data_type().clone()]).unwrap();
            let mut args = vec![ColumnarValue::Array(Arc::new(times.clone()))];
            args.extend(lengths.iter().map(|length| ColumnarValue::Scalar(ScalarValue::Int64(Some(*length)))));
            let fields = args.iter().map(|arg| Arc::new(Field::new("a", arg.data_type(), true))).collect();
            let return_field = Arc::new(Field::new("r", expected.clone(), true));
            let out = function
                .invoke_with_args(ScalarFunctionArgs {
                    args,
                    arg_fields: fields,
                    number_rows: 2,
                    return_field,
                    config_options: Arc::default(),
                })
                .unwrap();
            assert_eq!(out.data_type(), expected);
        }
    }
}
