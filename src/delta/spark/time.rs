//! Literals, parts and functions of times as Spark has them, in UTC.

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator, cast, lit};
use datafusion::sql::sqlparser::ast::{Expr as Ast, Interval, Value};

use super::convert::{binary, days_later, is_time};
use super::{Read, Reader, text_of_literal, unknown};
use crate::sql::formats::{Dialect, translate};
use crate::sql::types::{from_ast, sql_name, timestamp};

const DAY_US: i64 = 86_400_000_000;

impl Reader<'_> {
    pub(super) fn time_syntax(&self, ast: &Ast) -> Read<Expr> {
        match ast {
            Ast::TypedString(typed) => {
                let kind = from_ast(&typed.data_type).filter(is_time).ok_or_else(|| unknown(ast))?;
                let Value::SingleQuotedString(text) = &typed.value.value else { return Err(unknown(ast)) };
                self.cast(lit(text.clone()), &kind)
            }
            Ast::Interval(interval) => length(interval).ok_or_else(|| unknown(ast)),
            Ast::Extract { field, expr, .. } => self.part_of(&field.to_string(), &self.read(expr)?),
            _ => Err(unknown(ast)),
        }
    }

    pub(super) fn time_function(&self, name: &str, arguments: &[Expr]) -> Read<Option<Expr>> {
        Ok(Some(match (name, arguments) {
            ("year" | "quarter" | "month" | "day" | "hour" | "minute" | "dayofweek" | "dayofyear", [time]) => {
                self.part_of(name, time)?
            }
            ("dayofmonth", [time]) => self.part_of("day", time)?,
            ("weekofyear", [time]) => self.part_of("week", time)?,
            ("second", [time]) => self.call("date_part", vec![lit("second"), self.time(time)?])?,
            ("weekday", [time]) => (self.call("date_part", vec![lit("dow"), self.time(time)?])? + lit(6)) % lit(7),
            ("date_part" | "datepart", [field, time]) => match text_of_literal(field) {
                Some(field) => self.part_of(field, time)?,
                None => return Err(format!("`{name}` needs a literal field")),
            },
            ("date_format", [time, pattern]) => {
                let pattern = text_of_literal(pattern).ok_or("`date_format` needs a literal pattern")?;
                let pattern = translate(Dialect::Java, pattern)
                    .map_err(|problem| format!("`date_format` cannot take the pattern `{pattern}`: {problem}"))?;
                let time = cast(self.time(time)?, timestamp());
                cast(self.call("to_char", vec![time, lit(pattern)])?, DataType::Utf8)
            }
            ("to_date" | "date", [time]) => self.cast(time.clone(), &DataType::Date32)?,
            ("to_timestamp" | "timestamp", [time]) => self.cast(time.clone(), &timestamp())?,
            ("date_trunc", [unit, time]) => self.truncated(unit, time)?,
            ("trunc", [time, unit]) => {
                let unit_name = text_of_literal(unit).map(str::to_ascii_lowercase).unwrap_or_default();
                if !matches!(unit_name.as_str(), "year" | "yyyy" | "yy" | "quarter" | "month" | "mm" | "mon" | "week") {
                    return Err("`trunc` takes a date and one of 'YEAR', 'QUARTER', 'MONTH', 'WEEK'".to_owned());
                }
                cast(self.truncated(unit, time)?, DataType::Date32)
            }
            ("date_add", [date, days]) if self.is_days(date, days)? => {
                days_later(date.clone(), Operator::Plus, days.clone())
            }
            ("date_sub", [date, days]) if self.is_days(date, days)? => {
                days_later(date.clone(), Operator::Minus, days.clone())
            }
            ("datediff" | "date_diff", [end, start]) => binary(self.days(end)?, Operator::Minus, self.days(start)?),
            _ => return Ok(None),
        }))
    }

    /// The number of a date's day.
    fn days(&self, time: &Expr) -> Read<Expr> {
        self.cast(time.clone(), &DataType::Date32).map(|date| cast(date, DataType::Int32))
    }

    fn is_days(&self, date: &Expr, days: &Expr) -> Read<bool> {
        Ok(is_time(&self.kind(date)?) && self.kind(days)?.is_integer())
    }

    /// A date or a time.
    fn time(&self, expr: &Expr) -> Read<Expr> {
        match self.kind(expr)? {
            kind if is_time(&kind) => Ok(expr.clone()),
            DataType::Utf8 | DataType::Null => self.cast(expr.clone(), &timestamp()),
            kind => Err(format!("a {} is not a time", sql_name(&kind))),
        }
    }

    /// `EXTRACT(field FROM time)`: weeks begin on Sunday, which is day 1, and seconds have a fraction.
    fn part_of(&self, field: &str, time: &Expr) -> Read<Expr> {
        let time = self.time(time)?;
        let part = |name: &str| self.call("date_part", vec![lit(name), time.clone()]);
        Ok(match field.to_ascii_lowercase().as_str() {
            name @ ("year" | "quarter" | "month" | "week" | "day" | "hour" | "minute") => part(name)?,
            "dow" | "dayofweek" => part("dow")? + lit(1),
            "doy" | "dayofyear" => part("doy")?,
            "second" => {
                let micros = cast(part("microsecond")?, DataType::Decimal128(8, 0));
                let seconds = binary(micros, Operator::Multiply, lit(ScalarValue::Decimal128(Some(1), 6, 6)));
                cast(seconds, DataType::Decimal128(8, 6))
            }
            other => return Err(format!("`{other}` is no part of a time that every engine counts alike")),
        })
    }

    fn truncated(&self, unit: &Expr, time: &Expr) -> Read<Expr> {
        let unit = text_of_literal(unit).ok_or("the unit must be a literal")?.to_ascii_lowercase();
        let unit = match unit.as_str() {
            "year" | "yyyy" | "yy" => "year",
            "month" | "mon" | "mm" => "month",
            "day" | "dd" => "day",
            "quarter" | "week" | "hour" | "minute" | "second" | "millisecond" | "microsecond" => unit.as_str(),
            _ => return Err(format!("`{unit}` is not a unit of time")),
        };
        self.call("date_trunc", vec![lit(unit), cast(self.time(time)?, timestamp())])
    }
}

/// A length of time: of days and less in microseconds, so that lengths compare; else of months and days.
fn length(interval: &Interval) -> Option<Expr> {
    let text = match &*interval.value {
        Ast::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::Number(text, _) => text.clone(),
            _ => return None,
        },
        _ => return None,
    };
    if interval.last_field.is_some() || interval.leading_precision.is_some() {
        return None;
    }
    let text = match &interval.leading_field {
        Some(field) => format!("{text} {field}"),
        None => text,
    };
    let length = parse_interval_month_day_nano(&text).ok()?;
    if length.months != 0 {
        return Some(lit(ScalarValue::IntervalMonthDayNano(Some(length))));
    }
    let micros = i64::from(length.days).checked_mul(DAY_US)?.checked_add(length.nanoseconds / 1000)?;
    Some(lit(ScalarValue::DurationMicrosecond(Some(micros))))
}
