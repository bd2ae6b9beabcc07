//! `generate_series` and `range` of times in microseconds: DataFusion's own are in nanoseconds, and null beyond 1677 and 2262.

use std::cmp::Ordering;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{ArrayRef, AsArray, ListBuilder, TimestampMicrosecondBuilder};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimestampMicrosecondType,
};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::functions_nested::range::{gen_series_udf, range_udf};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};

use super::local::moved_in;
use crate::micros::micros_in;

/// Both functions.
pub fn series_in_micros() -> impl Iterator<Item = ScalarUDF> {
    [(gen_series_udf(), true), (range_udf(), false)]
        .into_iter()
        .map(|(inner, has_end)| ScalarUDF::from(Series { inner, has_end }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Series {
    /// For everything else than timestamps.
    inner: Arc<ScalarUDF>,
    /// `true` if the last value may be the end.
    has_end: bool,
}

impl ScalarUDFImpl for Series {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::Timestamp(_, zone), end, step] if !end.is_null() && !step.is_null() => {
                Ok(DataType::List(Arc::new(Field::new_list_field(micros_in(zone.clone()), true))))
            }
            others => self.inner.return_type(others),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [first, end, step] = args.args.as_slice() else { return self.inner.invoke_with_args(args) };
        let DataType::Timestamp(_, zone) = first.data_type() else { return self.inner.invoke_with_args(args) };
        if end.data_type().is_null() || step.data_type().is_null() {
            return self.inner.invoke_with_args(args);
        }
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let times = |value: &ColumnarValue| {
            Ok::<_, datafusion::error::DataFusionError>(cast(&value.to_array(rows)?, &micros_in(zone.clone()))?)
        };
        let (first, end) = (times(first)?, times(end)?);
        let step = cast(&step.to_array(rows)?, &DataType::Interval(IntervalUnit::MonthDayNano))?;
        let all: ArrayRef = self.series(&first, &end, &step, zone.as_ref())?;
        Ok(if constant {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&all, 0)?)
        } else {
            ColumnarValue::Array(all)
        })
    }
}

impl Series {
    fn series(&self, first: &ArrayRef, end: &ArrayRef, step: &ArrayRef, zone: Option<&Arc<str>>) -> Result<ArrayRef> {
        let calendar = Tz::from_str(zone.map_or("UTC", |zone| zone))?;
        let values = TimestampMicrosecondBuilder::new().with_data_type(micros_in(zone.cloned()));
        let mut lists = ListBuilder::new(values);
        let first = first.as_primitive::<TimestampMicrosecondType>();
        let end = end.as_primitive::<TimestampMicrosecondType>();
        let step = step.as_primitive::<IntervalMonthDayNanoType>();
        for ((first, end), step) in first.iter().zip(end).zip(step) {
            let (Some(first), Some(end), Some(step)) = (first, end, step) else {
                lists.append_null();
                continue;
            };
            self.list(lists.values(), first, end, step, calendar)?;
            lists.append(true);
        }
        Ok(Arc::new(lists.finish()))
    }

    /// Errors: a step that moves nothing.
    fn list(
        &self,
        values: &mut TimestampMicrosecondBuilder,
        first: i64,
        end: i64,
        step: IntervalMonthDayNano,
        zone: Tz,
    ) -> Result<()> {
        let next = |time: i64| moved_in(time, step, zone);
        let direction = match next(first) {
            // No time is beyond the first one.
            None => end.cmp(&first),
            Some(second) => second.cmp(&first),
        };
        if direction == Ordering::Equal && next(first).is_some() {
            return exec_err!("the step of `{}` has to move a time by a microsecond or more", self.inner.name());
        }
        let mut time = Some(first);
        while let Some(now) = time {
            let is_within = match now.cmp(&end) {
                Ordering::Equal => self.has_end,
                order => order != direction,
            };
            if !is_within {
                break;
            }
            values.append_value(now);
            // Months of different lengths may move nothing further.
            time = next(now).filter(|next| next.cmp(&now) == direction);
        }
        Ok(())
    }
}
