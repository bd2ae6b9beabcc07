//! `date_bin` over TIMESTAMP gives TIMESTAMP.
//!
//! DataFusion's own prefers nanoseconds where a zone has to be matched, and event time is in microseconds. This is DataFusion's function with the
//! order of its signatures changed, and with bins of microseconds.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Months, Utc};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions::datetime::date_bin;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature};

/// The function.
pub fn date_bin_in_micros() -> ScalarUDF {
    let inner = date_bin();
    let mut signature = inner.signature().clone();
    if let TypeSignature::OneOf(forms) = &mut signature.type_signature {
        forms.sort_by_key(|form| !is_micros(form));
    }
    ScalarUDF::from(DateBin { inner, signature })
}

fn is_micros(form: &TypeSignature) -> bool {
    let TypeSignature::Exact(types) = form else { return false };
    matches!(types.get(1), Some(DataType::Timestamp(TimeUnit::Microsecond, _)))
}

#[derive(Debug)]
struct DateBin {
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

impl PartialEq for DateBin {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for DateBin {}

impl Hash for DateBin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match (args.args.as_slice(), bins(&args.args)) {
            ([_, ColumnarValue::Array(times), ..], Some(bins)) if is_micros_type(times.data_type()) => {
                let times = times.as_primitive::<TimestampMicrosecondType>();
                let binned = times.unary_opt::<_, TimestampMicrosecondType>(|time| bins.start(time));
                Ok(ColumnarValue::Array(Arc::new(binned.with_data_type(times.data_type().clone()))))
            }
            ([_, ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(time, zone)), ..], Some(bins)) => {
                let binned = time.and_then(|time| bins.start(time));
                Ok(ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(binned, zone.clone())))
            }
            _ => self.inner.invoke_with_args(args),
        }
    }
}

fn is_micros_type(kind: &DataType) -> bool {
    matches!(kind, DataType::Timestamp(TimeUnit::Microsecond, _))
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

/// The bins that a call asks for; `None` for sizes and origins that are left to DataFusion.
fn bins(args: &[ColumnarValue]) -> Option<Bins> {
    let ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(size))) = args.first()? else { return None };
    let origin = match args.get(2) {
        None => 0,
        Some(ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(Some(nanos), _))) if nanos % 1_000 == 0 => {
            nanos / 1_000
        }
        _ => return None,
    };
    let rest = i64::from(size.days).checked_mul(86_400_000_000)?.checked_add(size.nanoseconds / 1_000)?;
    match (size.months, rest) {
        (months, 0) if months > 0 && size.nanoseconds == 0 => {
            Some(Bins { months: true, size: i64::from(months), origin })
        }
        (0, rest) if rest > 0 && size.nanoseconds % 1_000 == 0 => Some(Bins { months: false, size: rest, origin }),
        _ => None,
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
