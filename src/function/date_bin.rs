//! `date_bin` over TIMESTAMP gives TIMESTAMP.
//!
//! DataFusion's own goes through nanoseconds, and event time is in microseconds.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, IntervalUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Months, Utc};
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::functions::datetime::date_bin;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::micros::{instant, micros_in};

/// The function.
pub fn date_bin_in_micros() -> ScalarUDF {
    ScalarUDF::from(DateBin { inner: date_bin(), signature: Signature::user_defined(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateBin {
    /// For times of day.
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [size, time, origin @ ..] = arguments else {
            return plan_err!("`date_bin` wants an interval, a time and, if anything, an origin");
        };
        if origin.len() > 1 {
            return plan_err!("`date_bin` wants an interval, a time and, if anything, an origin");
        }
        if !matches!(size, DataType::Interval(_) | DataType::Null) && !size.is_string() {
            return plan_err!("the first argument of `date_bin` is an INTERVAL, not {size}");
        }
        let time = match time {
            DataType::Timestamp(_, zone) => micros_in(zone.clone()),
            kind if kind.is_string() => instant(),
            DataType::Date32 | DataType::Date64 | DataType::Null => instant(),
            DataType::Time32(_) | DataType::Time64(_) => time.clone(),
            other => return plan_err!("`date_bin` bins a TIMESTAMP, a DATE or a TIME, not {other}"),
        };
        let size = DataType::Interval(IntervalUnit::MonthDayNano);
        Ok([size, time.clone()].into_iter().chain(origin.iter().map(|_| time.clone())).collect())
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.get(1) {
            Some(time) => Ok(time.clone()),
            None => plan_err!("`date_bin` wants an interval, a time and, if anything, an origin"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let kind = args.args[1].data_type();
        if !matches!(kind, DataType::Timestamp(..)) {
            return self.inner.invoke_with_args(args);
        }
        let Some(bins) = bins(&args.args)? else {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from(&kind)?));
        };
        match &args.args[1] {
            ColumnarValue::Array(times) => {
                let times = times.as_primitive::<TimestampMicrosecondType>();
                let binned = times.unary_opt::<_, TimestampMicrosecondType>(|time| bins.start(time));
                Ok(ColumnarValue::Array(Arc::new(binned.with_data_type(kind))))
            }
            ColumnarValue::Scalar(time) => {
                let time = timestamp_of(time).and_then(|time| bins.start(time));
                let DataType::Timestamp(_, zone) = kind else { return exec_err!("`date_bin` bins TIMESTAMPs") };
                Ok(ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(time, zone)))
            }
        }
    }
}

fn timestamp_of(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::TimestampMicrosecond(time, _) => *time,
        _ => None,
    }
}

/// Bins in microseconds: DataFusion's own goes through nanoseconds and answers null beyond 1677 and 2262.
#[derive(Debug, Clone, Copy)]
struct Bins {
    /// Of months, or else of microseconds.
    months: bool,
    size: i64,
    /// The start of one, in microseconds.
    origin: i64,
}

/// The bins that a call asks for; `None` if their size or origin is null.
///
/// Errors: sizes that are no constant, mixed of months and days, not positive or finer than a microsecond.
fn bins(args: &[ColumnarValue]) -> Result<Option<Bins>> {
    let ColumnarValue::Scalar(size) = &args[0] else {
        return exec_err!("the interval of `date_bin` has to be a constant");
    };
    let ScalarValue::IntervalMonthDayNano(Some(size)) = size else { return Ok(None) };
    let origin = match args.get(2) {
        None => 0,
        Some(ColumnarValue::Scalar(origin)) => match timestamp_of(origin) {
            Some(origin) => origin,
            None => return Ok(None),
        },
        Some(ColumnarValue::Array(_)) => return exec_err!("the origin of `date_bin` has to be a constant"),
    };
    let day = i64::from(size.days).checked_mul(86_400_000_000);
    let rest = day.and_then(|day| day.checked_add(size.nanoseconds / 1_000));
    match (size.months, rest) {
        _ if size.nanoseconds % 1_000 != 0 => exec_err!("the bins of `date_bin` cannot be finer than a microsecond"),
        (months, Some(0)) if months > 0 => Ok(Some(Bins { months: true, size: i64::from(months), origin })),
        (0, Some(rest)) if rest > 0 => Ok(Some(Bins { months: false, size: rest, origin })),
        (0, _) | (_, Some(0)) => exec_err!("the interval of `date_bin` has to be positive"),
        _ => exec_err!("the interval of `date_bin` is of months, or of days and parts of them, not of both"),
    }
}

impl Bins {
    /// The beginning of the bin that a time lies in; `None` where there is no such time.
    fn start(self, time: i64) -> Option<i64> {
        if !self.months {
            let since = i128::from(time) - i128::from(self.origin);
            return i64::try_from(i128::from(time) - since.rem_euclid(i128::from(self.size))).ok();
        }
        let (of, origin) = (DateTime::from_timestamp_micros(time)?, DateTime::from_timestamp_micros(self.origin)?);
        let month = |time: &DateTime<Utc>| i64::from(time.year()) * 12 + i64::from(time.month0());
        let months = (month(&of) - month(&origin)).div_euclid(self.size) * self.size;
        let at = |months: i64| {
            let by = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
            if months < 0 { origin.checked_sub_months(by) } else { origin.checked_add_months(by) }
        };
        let start = at(months)?;
        // An origin within a month: the bin that begins in the time's own month may begin after it.
        let start = if start > of { at(months - self.size)? } else { start };
        Some(start.timestamp_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    #[test]
    fn bins_reach_as_far_as_times_do() {
        const MINUTE: i64 = 60_000_000;
        let quarter = Bins { months: false, size: 15 * MINUTE, origin: 0 };
        for (time, start) in [
            ("0001-01-01T00:14:59Z", "0001-01-01T00:00:00Z"),
            ("1969-12-31T23:59:59Z", "1969-12-31T23:45:00Z"),
            ("2026-01-31T12:31:00Z", "2026-01-31T12:30:00Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:45:00Z"),
        ] {
            assert_eq!(quarter.start(micros(time)), Some(micros(start)), "{time}");
        }
        let months = Bins { months: true, size: 3, origin: micros("2000-01-15T00:00:00Z") };
        for (time, start) in [
            ("2000-01-14T00:00:00Z", "1999-10-15T00:00:00Z"),
            ("2000-04-15T00:00:00Z", "2000-04-15T00:00:00Z"),
            ("9999-12-31T00:00:00Z", "9999-10-15T00:00:00Z"),
        ] {
            assert_eq!(months.start(micros(time)), Some(micros(start)), "{time}");
        }
    }
}
