//! Times by the clocks of a zone as instants, where clocks show a time twice or never: as in PostgreSQL, a doubled time is the later one
//! (standard time), and a time that clocks were put forward over is read with the offset before.
//!
//! Arrow fails for both. The functions stand in plans only from the last step of planning on ([`crate::plan`]), and are called what they stand
//! for: no column has another name, and no state another address, because of them.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{
    DataType, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit, TimestampMicrosecondType,
};
use chrono::{DateTime, Days, Months, TimeDelta, TimeZone, Utc};
use datafusion::common::{DFSchema, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{BinaryExpr, Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::micros::{OneInstant, micros_in};

/// A cast of a local time to an instant, or a move of one by an interval in its zone, as it is run; `None` for everything else.
pub fn local_time(expr: &Expr, schema: &DFSchema) -> Option<Expr> {
    let kind = |expr: &Expr| expr.get_type(schema).ok();
    let (what, args) = match expr {
        Expr::Cast(Cast { expr: local, field }) => {
            (What::read(&kind(local)?, field.data_type(), false)?, [local].to_vec())
        }
        Expr::TryCast(TryCast { expr: local, field }) => {
            (What::read(&kind(local)?, field.data_type(), true)?, [local].to_vec())
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (time, by) = match (kind(left)?, op, kind(right)?) {
                (DataType::Timestamp(..), Operator::Plus | Operator::Minus, DataType::Interval(_)) => (left, right),
                (DataType::Interval(_), Operator::Plus, DataType::Timestamp(..)) => (right, left),
                _ => return None,
            };
            (What::moved(&kind(time)?, *op == Operator::Minus)?, [time, by].to_vec())
        }
        _ => return None,
    };
    let signature = Signature::any(args.len(), Volatility::Immutable);
    let function = ScalarUDF::from(LocalTime { what, name: expr.schema_name().to_string(), signature });
    let args = args.into_iter().map(|arg| arg.as_ref().clone()).collect();
    Some(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), args)))
}

/// The zone's name, where its clocks may be changed.
fn changing(kind: &DataType) -> Option<&Arc<str>> {
    match kind {
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => {
            Some(zone).filter(|zone| !zone.starts_with(['+', '-']) && zone.as_ref() != "UTC")
        }
        _ => None,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum What {
    /// Reads local times in a zone; null for what is none, if that is wanted.
    Read { zone: Arc<str>, is_lenient: bool },
    /// Moves instants by intervals: months and days by the clocks of the zone.
    Move { zone: Arc<str>, is_back: bool },
}

impl What {
    fn read(from: &DataType, to: &DataType, is_lenient: bool) -> Option<Self> {
        let zone = Arc::clone(changing(to)?);
        let is_local = matches!(from, DataType::Timestamp(_, None) | DataType::Date32 | DataType::Date64);
        (is_local || from.is_string()).then_some(Self::Read { zone, is_lenient })
    }

    fn moved(time: &DataType, is_back: bool) -> Option<Self> {
        Some(Self::Move { zone: Arc::clone(changing(time)?), is_back })
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LocalTime {
    what: What,
    /// The name of the expression that it stands for.
    name: String,
    signature: Signature,
}

impl ScalarUDFImpl for LocalTime {
    fn name(&self) -> &'static str {
        match self.what {
            What::Read { .. } => "weir_instant",
            What::Move { .. } => "weir_move_in_zone",
        }
    }

    fn display_name(&self, _args: &[Expr]) -> Result<String> {
        Ok(self.name.clone())
    }

    fn schema_name(&self, _args: &[Expr]) -> Result<String> {
        Ok(self.name.clone())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        let (What::Read { zone, .. } | What::Move { zone, .. }) = &self.what;
        Ok(micros_in(Some(Arc::clone(zone))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let values = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let times = match (&self.what, values.as_slice()) {
            (What::Read { zone, is_lenient }, [local]) => read(local, Tz::from_str(zone)?, *is_lenient)?,
            (What::Move { zone, is_back }, [times, by]) => all_moved(times, by, Tz::from_str(zone)?, *is_back)?,
            _ => return internal_err!("`{}` has {} arguments", self.name(), args.args.len()),
        };
        let times: ArrayRef = Arc::new(times.with_data_type(args.return_field.data_type().clone()));
        Ok(if constant {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&times, 0)?)
        } else {
            ColumnarValue::Array(times)
        })
    }
}

type Times = PrimitiveArray<TimestampMicrosecondType>;

fn read(local: &ArrayRef, zone: Tz, is_lenient: bool) -> Result<Times> {
    if local.data_type().is_string() {
        let texts = cast(local, &DataType::Utf8)?;
        let each = texts.as_string::<i32>().iter().map(|text| match text.map(|text| instant_in(text, zone)) {
            Some(Ok(time)) => Ok(Some(time)),
            Some(Err(error)) if !is_lenient => Err(error),
            _ => Ok(None),
        });
        return each.collect();
    }
    let local = cast(local, &micros_in(None))?;
    local.as_primitive::<TimestampMicrosecondType>().try_unary(|time| {
        let shown = DateTime::from_timestamp_micros(time).map(|time| time.naive_utc());
        let found = shown.and_then(|shown| OneInstant(zone).from_local_datetime(&shown).single());
        found.map(|found| found.timestamp_micros()).ok_or_else(|| out_of_range(time))
    })
}

/// The instant of a text; one without an offset is local.
fn instant_in(text: &str, zone: Tz) -> Result<i64> {
    Ok(string_to_datetime(&OneInstant(zone), text)?.timestamp_micros())
}

fn all_moved(times: &ArrayRef, by: &ArrayRef, zone: Tz, is_back: bool) -> Result<Times> {
    let by = cast(by, &DataType::Interval(IntervalUnit::MonthDayNano))?;
    let by = by.as_primitive::<IntervalMonthDayNanoType>();
    let each = times.as_primitive::<TimestampMicrosecondType>().iter().zip(by.iter());
    each.map(|(time, by)| match (time, by) {
        (Some(time), Some(by)) => {
            let by = if is_back { negated(by) } else { Some(by) };
            by.and_then(|by| moved_in(time, by, zone)).map(Some).ok_or_else(|| out_of_range(time))
        }
        _ => Ok(None),
    })
    .collect()
}

fn negated(by: IntervalMonthDayNano) -> Option<IntervalMonthDayNano> {
    Some(IntervalMonthDayNano::new(by.months.checked_neg()?, by.days.checked_neg()?, by.nanoseconds.checked_neg()?))
}

/// A time in microseconds moved by months and days of the zone's clocks, then by what is below a day; `None` where there is no such time.
pub fn moved_in(time: i64, by: IntervalMonthDayNano, zone: Tz) -> Option<i64> {
    let rest = TimeDelta::nanoseconds(by.nanoseconds);
    let at = DateTime::from_timestamp_micros(time)?;
    if by.months == 0 && by.days == 0 {
        return Some(at.checked_add_signed(rest)?.timestamp_micros());
    }
    let local = at.with_timezone(&OneInstant(zone)).naive_local();
    let months = Months::new(by.months.unsigned_abs());
    let local = if by.months < 0 { local.checked_sub_months(months)? } else { local.checked_add_months(months)? };
    let days = Days::new(u64::from(by.days.unsigned_abs()));
    let local = if by.days < 0 { local.checked_sub_days(days)? } else { local.checked_add_days(days)? };
    let moved = OneInstant(zone).from_local_datetime(&local).single()?;
    Some(moved.checked_add_signed(rest)?.timestamp_micros())
}

fn out_of_range(time: i64) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("a time {time} microseconds from 1970 leaves the range of TIMESTAMP")
}

/// The instant that a text says, which may end in the name of a zone; in UTC without one. Errors: it says none.
pub fn instant_of(text: &str) -> Result<i64> {
    let plain = string_to_datetime(&Utc, text);
    // Arrow knows zones, too, but fails where their clocks are changed.
    let in_zone = || {
        let (time, zone) = text.trim_end().rsplit_once(' ')?;
        instant_in(time.trim_end(), Tz::from_str(zone).ok()?).ok()
    };
    match plain {
        Ok(time) => Ok(time.timestamp_micros()),
        Err(error) => in_zone().ok_or_else(|| error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_times_are_the_later_and_missing_ones_have_the_offset_before() {
        for (zone, local, expected) in [
            ("Europe/Berlin", "2024-10-27 02:30:00", "2024-10-27 01:30:00"),
            ("Europe/Berlin", "2024-10-27 01:59:59", "2024-10-26 23:59:59"),
            ("Europe/Berlin", "2024-10-27 03:00:00", "2024-10-27 02:00:00"),
            ("Europe/Berlin", "2024-03-31 02:30:00", "2024-03-31 01:30:00"),
            ("Europe/Berlin", "2024-03-31 02:00:00", "2024-03-31 01:00:00"),
            ("America/New_York", "2024-11-03 01:30:00", "2024-11-03 06:30:00"),
            ("America/New_York", "2024-03-10 02:30:00", "2024-03-10 07:30:00"),
            ("America/Havana", "2024-11-03 00:30:00", "2024-11-03 05:30:00"),
            ("Pacific/Apia", "2011-12-30 12:00:00", "2011-12-30 22:00:00"),
            ("Australia/Lord_Howe", "2024-04-07 01:45:00", "2024-04-06 15:15:00"),
            ("UTC", "2024-03-31 02:30:00", "2024-03-31 02:30:00"),
        ] {
            let found = instant_in(local, zone.parse().unwrap()).unwrap();
            assert_eq!(found, instant_of(expected).unwrap(), "{local} {zone}");
            assert_eq!(found, instant_of(&format!("{local} {zone}")).unwrap(), "{local} {zone}");
        }
    }

    #[test]
    fn days_are_those_of_the_clocks() {
        let zone: Tz = "Europe/Berlin".parse().unwrap();
        let moved = |from: &str, by| moved_in(instant_of(from).unwrap(), by, zone).unwrap();
        let day = |days| IntervalMonthDayNano::new(0, days, 0);
        // From 02:30 on the day before to the first or the second 02:30, and to the one that is missing.
        assert_eq!(moved("2024-10-26 00:30:00", day(1)), instant_of("2024-10-27 01:30:00").unwrap());
        assert_eq!(moved("2024-03-30 01:30:00", day(1)), instant_of("2024-03-31 01:30:00").unwrap());
        assert_eq!(moved("2024-10-26 10:00:00", day(1)), instant_of("2024-10-27 11:00:00").unwrap());
        let hours = IntervalMonthDayNano::new(0, 0, 24 * 3_600_000_000_000);
        assert_eq!(moved("2024-10-26 10:00:00", hours), instant_of("2024-10-27 10:00:00").unwrap());
    }
}
