//! `date_trunc` in microseconds.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{DataType, Field, FieldRef, TimestampMicrosecondType};
use arrow::temporal_conversions::as_datetime_with_timezone;
use chrono::offset::LocalResult;
use chrono::{Datelike, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike};
use datafusion::common::{ScalarValue, exec_datafusion_err, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::functions::datetime::date_trunc;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::{OneInstant, instant, micros_in};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// Days from the year 1 to 1970, as chrono counts.
const DAYS_TO_1970: i64 = 719_163;

/// The function.
pub fn date_trunc_in_micros() -> ScalarUDF {
    let inner = date_trunc();
    let signature = Signature::user_defined(Volatility::Immutable);
    ScalarUDF::from(DateTrunc { inner, signature })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    /// For times of day.
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [unit, time] = arguments else { return plan_err!("`date_trunc` wants a unit and a time") };
        if !unit.is_string() && !unit.is_null() {
            return plan_err!("the unit of `date_trunc` is text, not {unit}");
        }
        let time = match time {
            DataType::Timestamp(_, zone) => micros_in(zone.clone()),
            kind if kind.is_string() => instant(),
            DataType::Date32 | DataType::Date64 | DataType::Null => instant(),
            DataType::Time32(_) | DataType::Time64(_) => time.clone(),
            other => return plan_err!("`date_trunc` cuts a TIMESTAMP, a DATE or a TIME, not {other}"),
        };
        Ok(vec![DataType::Utf8, time])
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.get(1) {
            Some(time) => Ok(time.clone()),
            None => plan_err!("`date_trunc` wants a unit and a time"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let kinds: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        // A unit that is written out is known to be none before there are rows.
        let written = args.scalar_arguments.first().copied().flatten().and_then(|unit| unit.try_as_str().flatten());
        if let (Some(unit), Some(DataType::Timestamp(..))) = (written, kinds.get(1)) {
            let _known: Unit = unit.parse()?;
        }
        Ok(Arc::new(Field::new(self.name(), self.return_type(&kinds)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [unit, time] = args.args.as_slice() else { return exec_err!("`date_trunc` wants a unit and a time") };
        let kind = time.data_type();
        let DataType::Timestamp(_, zone) = &kind else { return self.inner.invoke_with_args(args) };
        // UTC needs no calendar of a zone.
        let zone = zone.as_deref().filter(|zone| !matches!(*zone, "UTC" | "+00:00" | "Z"));
        let zone = zone.map(Tz::from_str).transpose()?;
        let constant = matches!((unit, time), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let times = time.to_array(if constant { 1 } else { args.number_rows })?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let cut: PrimitiveArray<TimestampMicrosecondType> = match unit {
            ColumnarValue::Scalar(unit) => match unit.try_as_str().flatten() {
                Some(unit) => {
                    let unit: Unit = unit.parse()?;
                    times.try_unary(|time| unit.start(time, zone))?
                }
                None => PrimitiveArray::new_null(times.len()),
            },
            ColumnarValue::Array(units) => by_row(units, times, zone)?,
        };
        let cut: ArrayRef = Arc::new(cut.with_data_type(kind));
        Ok(if constant {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&cut, 0)?)
        } else {
            ColumnarValue::Array(cut)
        })
    }
}

fn by_row(
    units: &ArrayRef,
    times: &PrimitiveArray<TimestampMicrosecondType>,
    zone: Option<Tz>,
) -> Result<PrimitiveArray<TimestampMicrosecondType>> {
    let each = units.as_string::<i32>().iter().zip(times);
    each.map(|(unit, time)| match (unit, time) {
        (Some(unit), Some(time)) => Ok(Some(Unit::from_str(unit)?.start(time, zone)?)),
        _ => Ok(None),
    })
    .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// So many microseconds, of at most a second: alike in every zone.
    Fine(i64),
    /// Of so many microseconds where clocks are not changed.
    Even(i64),
    Week,
    /// So many months, of which the year's first begins one.
    Months(u32),
    /// So many years: decades begin with the year 10, centuries and millennia with the year 1.
    Years(i32),
}

impl FromStr for Unit {
    type Err = datafusion::error::DataFusionError;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "microsecond" => Self::Fine(1),
            "millisecond" => Self::Fine(1_000),
            "second" => Self::Fine(SECOND),
            "minute" => Self::Even(60 * SECOND),
            "hour" => Self::Even(3_600 * SECOND),
            "day" => Self::Even(DAY),
            "week" => Self::Week,
            "month" => Self::Months(1),
            "quarter" => Self::Months(3),
            "year" => Self::Months(12),
            "decade" => Self::Years(10),
            "century" => Self::Years(100),
            "millennium" => Self::Years(1_000),
            _ => {
                return exec_err!(
                    "Unsupported date_trunc granularity: '{name}'. Supported values are: microsecond, millisecond, second, minute, hour, day, week, month, quarter, year, decade, century, millennium"
                );
            }
        })
    }
}

impl Unit {
    /// The beginning of what a time lies in. Errors: before the first year that can be shown.
    fn start(self, time: i64, zone: Option<Tz>) -> Result<i64> {
        let start = match (self, zone) {
            (Self::Fine(size), _) => Some(time.saturating_sub(time.rem_euclid(size))),
            (_, None) => self.start_in_utc(time),
            (_, Some(zone)) => self.start_in(time, zone),
        };
        start.ok_or_else(|| exec_datafusion_err!("`date_trunc` of {time} microseconds since 1970 is out of range"))
    }

    fn start_in_utc(self, time: i64) -> Option<i64> {
        let day = time.div_euclid(DAY);
        match self {
            Self::Fine(size) | Self::Even(size) => time.checked_sub(time.rem_euclid(size)),
            // The first of January 1970 was a Thursday.
            Self::Week => (day - (day + 3).rem_euclid(7)).checked_mul(DAY),
            Self::Months(_) | Self::Years(_) => {
                let date = NaiveDate::from_num_days_from_ce_opt(i32::try_from(day + DAYS_TO_1970).ok()?)?;
                let first = self.first_day(date)?;
                (i64::from(first.num_days_from_ce()) - DAYS_TO_1970).checked_mul(DAY)
            }
        }
    }

    /// The first day of the months or years that a day lies in.
    fn first_day(self, day: NaiveDate) -> Option<NaiveDate> {
        match self {
            Self::Months(months) => NaiveDate::from_ymd_opt(day.year(), day.month0() / months * months + 1, 1),
            Self::Years(years) => {
                let begins = i32::from(years > 10);
                NaiveDate::from_ymd_opt((day.year() - begins).div_euclid(years) * years + begins, 1, 1)
            }
            Self::Fine(_) | Self::Even(_) | Self::Week => None,
        }
    }

    fn is_within_a_day(self) -> bool {
        matches!(self, Self::Fine(_)) || matches!(self, Self::Even(size) if size < DAY)
    }

    /// By the clocks of a zone.
    fn start_in(self, time: i64, zone: Tz) -> Option<i64> {
        let at = as_datetime_with_timezone::<TimestampMicrosecondType>(time, zone)?;
        let local = at.naive_local();
        let start: NaiveDateTime = match self {
            Self::Fine(_) => local,
            Self::Even(size) => {
                let in_day =
                    i64::from(local.num_seconds_from_midnight()) * SECOND + i64::from(local.nanosecond() / 1_000);
                local.checked_sub_signed(TimeDelta::microseconds(in_day.rem_euclid(size)))?
            }
            Self::Week => {
                let days = i64::from(local.weekday().num_days_from_monday());
                local.date().checked_sub_signed(TimeDelta::days(days))?.and_hms_opt(0, 0, 0)?
            }
            Self::Months(_) | Self::Years(_) => self.first_day(local.date())?.and_hms_opt(0, 0, 0)?,
        };
        match zone.from_local_datetime(&start) {
            // Clocks showed this hour twice: the one that the time lies in.
            LocalResult::Ambiguous(first, _) if self.is_within_a_day() && first.offset().fix() == at.offset().fix() => {
                Some(first.timestamp_micros())
            }
            _ => Some(OneInstant(zone).from_local_datetime(&start).single()?.timestamp_micros()),
        }
    }
}
