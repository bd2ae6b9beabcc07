//! `to_timestamp`, its forms for a unit, and `from_unixtime` give TIMESTAMP: microseconds in UTC.
//!
//! DataFusion's own compute in nanoseconds, which end in 1677 and 2262, and declare a zone that their values over text do not have.

use std::fmt::Display;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Float64Type, Int64Type, TimestampMicrosecondType};
use chrono::format::{Parsed, StrftimeItems, parse};
use chrono::{DateTime, Utc};
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::local::instant_of;
use crate::micros::{OneInstant, instant, micros_in};

/// The functions, by name: microseconds in a unit of their numbers, and what times are cut to.
const FORMS: [(&str, Unit, i64); 6] = [
    ("to_timestamp", Unit::Micros(1_000_000), 1),
    ("to_timestamp_seconds", Unit::Micros(1_000_000), 1_000_000),
    ("to_timestamp_millis", Unit::Micros(1_000), 1_000),
    ("to_timestamp_micros", Unit::Micros(1), 1),
    ("to_timestamp_nanos", Unit::Nanos, 1),
    (FROM_UNIXTIME, Unit::Micros(1_000_000), 1_000_000),
];

const FROM_UNIXTIME: &str = "from_unixtime";

/// All of them.
pub fn to_timestamps() -> impl Iterator<Item = ScalarUDF> {
    FORMS.into_iter().map(|(name, unit, cut)| {
        ScalarUDF::from(ToTimestamp { name, unit, cut, signature: Signature::user_defined(Volatility::Immutable) })
    })
}

/// `to_timestamp` alone.
pub(super) fn to_timestamp() -> ScalarUDF {
    let [(name, unit, cut), ..] = FORMS;
    ScalarUDF::from(ToTimestamp { name, unit, cut, signature: Signature::user_defined(Volatility::Immutable) })
}

/// The unit of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// So many microseconds.
    Micros(i64),
    Nanos,
}

impl Unit {
    fn of_whole(self, number: i128) -> Option<i128> {
        match self {
            Self::Micros(micros) => number.checked_mul(i128::from(micros)),
            Self::Nanos => Some(number.div_euclid(1_000)),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a DOUBLE is no more exact; casts saturate"
    )]
    fn of_double(self, number: f64) -> Option<i128> {
        let micros = match self {
            Self::Micros(micros) => number * micros as f64,
            Self::Nanos => (number / 1_000.0).floor(),
        };
        number.is_finite().then(|| micros.round() as i128)
    }
}

#[derive(Debug)]
struct ToTimestamp {
    name: &'static str,
    unit: Unit,
    /// Times are cut to multiples of so many microseconds.
    cut: i64,
    signature: Signature,
}

impl PartialEq for ToTimestamp {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ToTimestamp {}

impl Hash for ToTimestamp {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for ToTimestamp {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let Some((value, others)) = arguments.split_first() else {
            return plan_err!("`{}` wants a value", self.name);
        };
        if self.name == FROM_UNIXTIME && others.len() > 1 {
            return plan_err!("`{}` wants seconds and, if anything, a zone", self.name);
        }
        if let Some(other) = others.iter().find(|kind| !kind.is_string() && !kind.is_null()) {
            return plan_err!("`{}` wants text after its first argument, not {other}", self.name);
        }
        let value = match value {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => DataType::Utf8,
            DataType::UInt64 => DataType::Decimal128(20, 0),
            kind if kind.is_integer() => DataType::Int64,
            kind if kind.is_floating() => DataType::Float64,
            DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) => {
                DataType::Decimal128(*digits, *scale)
            }
            DataType::Decimal128(digits, scale) => DataType::Decimal128(*digits, *scale),
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => instant(),
            other => return plan_err!("`{}` makes no TIMESTAMP of {other}", self.name),
        };
        Ok(std::iter::once(value).chain(others.iter().map(|_| DataType::Utf8)).collect())
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(instant())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable() || field.data_type().is_null());
        let mut kind = instant();
        if self.name == FROM_UNIXTIME && args.arg_fields.len() == 2 {
            let zone = args.scalar_arguments[1].and_then(|zone| zone.try_as_str().flatten());
            let Some(zone) = zone else { return plan_err!("the zone of `{}` has to be a constant", self.name) };
            kind = micros_in(Some(Arc::from(zone)));
        }
        Ok(Arc::new(Field::new(self.name, kind, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let values = args.args[0].to_array(rows)?;
        let formats = if self.name == FROM_UNIXTIME { &[] } else { &args.args[1..] };
        let formats = formats.iter().map(|format| format.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let times = self.times(&values, &formats)?.with_data_type(args.return_field.data_type().clone());
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&times, 0)?));
        }
        Ok(ColumnarValue::Array(Arc::new(times)))
    }
}

impl ToTimestamp {
    fn times(&self, values: &ArrayRef, formats: &[ArrayRef]) -> Result<TimestampMicrosecondArray> {
        match values.data_type() {
            DataType::Utf8 => {
                let formats: Vec<&StringArray> = formats.iter().map(|format| format.as_string::<i32>()).collect();
                let parse = |(row, text): (usize, Option<&str>)| {
                    text.map(|text| self.parsed(text, &formats, row)).transpose().map(Option::flatten)
                };
                values.as_string::<i32>().iter().enumerate().map(parse).collect()
            }
            DataType::Int64 => {
                let unit = |number: i64| self.stored(self.unit.of_whole(i128::from(number)), number);
                values.as_primitive::<Int64Type>().try_unary(unit)
            }
            DataType::Float64 => {
                let unit = |number: f64| self.stored(self.unit.of_double(number), number);
                values.as_primitive::<Float64Type>().try_unary(unit)
            }
            DataType::Decimal128(_, scale) => {
                let shift = 10_i128.checked_pow(u32::from(scale.unsigned_abs()));
                let unit = |number: i128| {
                    let micros = shift.and_then(|shift| match (self.unit, *scale < 0) {
                        (unit, true) => unit.of_whole(number.checked_mul(shift)?),
                        (Unit::Micros(micros), false) => {
                            Some(number.checked_mul(i128::from(micros))?.div_euclid(shift))
                        }
                        (Unit::Nanos, false) => Some(number.div_euclid(shift.checked_mul(1_000)?)),
                    });
                    self.stored(micros, number)
                };
                values.as_primitive::<Decimal128Type>().try_unary(unit)
            }
            _ => {
                let cut = |time: i64| Ok(self.cut(time));
                values.as_primitive::<TimestampMicrosecondType>().try_unary(cut)
            }
        }
    }

    fn cut(&self, micros: i64) -> i64 {
        micros.saturating_sub(micros.rem_euclid(self.cut))
    }

    /// Errors: a time beyond the years that can be shown.
    fn stored(&self, micros: Option<i128>, of: impl Display) -> Result<i64> {
        let (first, last) = (DateTime::<Utc>::MIN_UTC.timestamp_micros(), DateTime::<Utc>::MAX_UTC.timestamp_micros());
        match micros.and_then(|micros| i64::try_from(micros).ok()) {
            Some(micros) if (first..=last).contains(&micros) => Ok(micros),
            _ => exec_err!("`{}` of {of} is out of the range of TIMESTAMP", self.name),
        }
    }

    /// The time that a text says, in the first of the formats that fits; without formats as ISO 8601 has it.
    fn parsed(&self, text: &str, formats: &[&StringArray], row: usize) -> Result<Option<i64>> {
        if formats.is_empty() {
            return Ok(Some(self.cut(instant_of(text)?)));
        }
        let mut failed = None;
        for format in formats.iter().filter(|format| format.is_valid(row)).map(|format| format.value(row)) {
            match formatted(text, format) {
                Ok(time) => return Ok(Some(self.cut(time.timestamp_micros()))),
                Err(error) => failed = Some((format, error)),
            }
        }
        match failed {
            Some((format, error)) => {
                exec_err!("Error parsing timestamp from '{text}' using format '{format}': {error}")
            }
            None => Ok(None),
        }
    }
}

/// Gives a time of day of which only parts were said the others, as PostgreSQL does: `05` is 05:00, and `05` without AM or PM is in the morning.
fn complete(parsed: &mut Parsed) {
    let (half, hour) = (parsed.hour_div_12(), parsed.hour_mod_12());
    if half.is_none() && hour.is_none() && parsed.minute().is_none() && parsed.second().is_none() {
        return;
    }
    // The parts set here were not set, and are in range: nothing fails.
    let _ = match (half, hour) {
        (Some(_), Some(_)) => Ok(()),
        (None, Some(hour)) => parsed.set_ampm(hour == 0),
        (Some(_), None) => parsed.set_hour12(12),
        (None, None) => parsed.set_hour(0),
    };
    if parsed.minute().is_none() {
        let _ = parsed.set_minute(0);
    }
}

/// The time that a text says in chrono's format; without a zone it is in UTC, without a time of day the day's first.
/// A zone's name (`%Z`) is read where it stands last, after a space.
fn formatted(text: &str, format: &str) -> Result<DateTime<Utc>, String> {
    let mut parsed = Parsed::new();
    let named = format.trim_end().strip_suffix(" %Z").zip(text.trim_end().rsplit_once(' '));
    let (text, format, zone) = match named {
        Some((format, (text, zone))) => {
            let zone: arrow::array::timezone::Tz = zone.parse().map_err(|_| format!("`{zone}` is no time zone"))?;
            (text, format, Some(zone))
        }
        None if format.contains("%Z") => return Err("`%Z` has to stand last, after a space".to_owned()),
        None => (text, format, None),
    };
    parse(&mut parsed, text, StrftimeItems::new(format)).map_err(|error| error.to_string())?;
    complete(&mut parsed);
    if let Some(zone) = zone {
        let time = parsed.to_datetime_with_timezone(&OneInstant(zone)).map_err(|error| error.to_string())?;
        return Ok(time.with_timezone(&Utc));
    }
    if let Ok(time) = parsed.to_datetime() {
        return Ok(time.with_timezone(&Utc));
    }
    let day = || parsed.to_naive_date().map(|day| day.and_time(chrono::NaiveTime::MIN));
    let local = parsed.to_naive_datetime_with_offset(0).or_else(|_| day()).map_err(|error| error.to_string())?;
    Ok(local.and_utc())
}
