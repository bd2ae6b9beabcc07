//! The length of an interval: `weir_interval_length(interval)`, nanoseconds as a DECIMAL.
//!
//! As PostgreSQL compares intervals: a month has 30 days, a day has 24 hours.

use std::sync::Arc;

use arrow::array::{AsArray, Decimal128Array};
use arrow::datatypes::{
    DataType, DurationMicrosecondType, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

const DAY_NANOS: i128 = 86_400_000_000_000;

/// The function.
pub fn interval_length() -> Arc<ScalarUDF> {
    let kinds = [DataType::Interval(IntervalUnit::MonthDayNano), DataType::Duration(TimeUnit::Microsecond)];
    let signature = Signature::uniform(1, kinds.into(), Volatility::Immutable);
    Arc::new(ScalarUDF::from(IntervalLength { signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IntervalLength {
    signature: Signature,
}

fn nanos(interval: IntervalMonthDayNano) -> i128 {
    let days = i128::from(interval.months) * 30 + i128::from(interval.days);
    days * DAY_NANOS + i128::from(interval.nanoseconds)
}

impl ScalarUDFImpl for IntervalLength {
    fn name(&self) -> &'static str {
        "weir_interval_length"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Decimal128(38, 0))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let intervals = args.args[0].to_array(args.number_rows)?;
        // The difference of two times may be longer than an interval of nanoseconds can say.
        let lengths: Decimal128Array = match intervals.as_primitive_opt::<DurationMicrosecondType>() {
            Some(micros) => micros.unary(|micros| i128::from(micros) * 1_000),
            None => intervals.as_primitive::<IntervalMonthDayNanoType>().unary(nanos),
        };
        Ok(ColumnarValue::Array(Arc::new(lengths.with_precision_and_scale(38, 0)?)))
    }
}
