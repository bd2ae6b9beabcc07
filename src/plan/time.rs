//! Lags: how far behind the watermark the values of an expression can be.
//!
//! A column with lag L holds, in rows yet to come, values that are null or `>= W - L`, W being the watermark; so a value v is complete
//! once `v + L < W` ([`crate::time`]). Lags may be negative: `window_end` has one of -1.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};

use super::zone::Zone;
use crate::function::{HOP_STARTS, SHIFT, TUMBLE_START};
use crate::time::Lag;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// The lag of an expression that is always null.
const ALWAYS_NULL: Lag = Lag(i64::MIN);

/// The lag of `expr` over columns of `schema`, given the lags of these; `None` where nothing bounds its values from below.
pub fn time_lag(expr: &Expr, schema: &DFSchema, lag_of_column: &dyn Fn(&Column) -> Option<Lag>) -> Option<Lag> {
    let lag = |expr: &Expr| time_lag(expr, schema, lag_of_column);
    match expr {
        Expr::Column(column) => lag_of_column(column),
        Expr::Alias(alias) => lag(&alias.expr),
        Expr::Cast(cast) => {
            lag(&cast.expr)?.checked_add(lost(&cast.expr.get_type(schema).ok()?, cast.field.data_type())?)
        }
        Expr::TryCast(cast) => {
            lag(&cast.expr)?.checked_add(lost(&cast.expr.get_type(schema).ok()?, cast.field.data_type())?)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right }) => match interval_micros(right) {
            Some(by) => lag(left)?.checked_sub(by),
            None => lag(right)?.checked_sub(interval_micros(left)?),
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) => {
            lag(left)?.checked_add(interval_micros(right)?)
        }
        Expr::ScalarFunction(call) => {
            let zone = |expr: &Expr| match expr.get_type(schema).ok()? {
                DataType::Timestamp(_, Some(zone)) => Zone::named(&zone),
                _ => None,
            };
            function_lag(call.name(), &call.args, &lag, &zone)
        }
        Expr::Case(case) => {
            let otherwise = case.else_expr.as_ref().map(|expr| lag(expr));
            all(case.when_then_expr.iter().map(|(_, then)| lag(then)).chain(otherwise))
        }
        Expr::Literal(value, _) if value.is_null() => Some(ALWAYS_NULL),
        _ => None,
    }
}

fn function_lag(
    name: &str,
    args: &[Expr],
    lag: &dyn Fn(&Expr) -> Option<Lag>,
    zone: &dyn Fn(&Expr) -> Option<Zone>,
) -> Option<Lag> {
    match (name, args) {
        ("date_trunc", [unit, time]) => {
            // A local day has an hour more where clocks are turned back.
            let unit = unit_micros(unit)?;
            let turned_back = zone(time).map_or(0, |zone| zone.turned_back(unit));
            lag(time)?.checked_add(Lag(unit - 1 + turned_back))
        }
        ("date_bin", [size, time] | [size, time, _]) => lag(time)?.checked_add(less_one(interval_micros(size)?)?),
        (TUMBLE_START, [time, size, _]) => lag(time)?.checked_add(less_one(micros(size)?)?),
        (HOP_STARTS, [time, _, size, _]) => lag(time)?.checked_add(less_one(micros(size)?)?),
        (SHIFT, [time, by]) => lag(time)?.checked_sub(micros(by)?),
        ("to_timestamp_micros" | "to_timestamp_nanos", [time]) => lag(time),
        // Local clock time, as if it were UTC.
        ("to_local_time", [time]) => lag(time)?.checked_sub(Lag(zone(time).map_or(0, |zone| zone.least()))),
        ("to_timestamp_millis", [time]) => lag(time)?.checked_add(Lag(999)),
        ("to_timestamp_seconds", [time]) => lag(time)?.checked_add(Lag(SECOND - 1)),
        ("coalesce" | "greatest" | "least", args) => all(args.iter().map(lag)),
        _ => None,
    }
}

/// The largest of the lags, if all are known.
fn all(lags: impl Iterator<Item = Option<Lag>>) -> Option<Lag> {
    lags.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// The most that a cast subtracts from a time; `None` for casts that are not between times.
fn lost(from: &DataType, to: &DataType) -> Option<Lag> {
    let DataType::Timestamp(unit, to_zone) = to else { return None };
    let rounded = match unit {
        TimeUnit::Microsecond | TimeUnit::Nanosecond => 0,
        TimeUnit::Millisecond => 999,
        TimeUnit::Second => SECOND - 1,
    };
    let local = match (from, to_zone) {
        // The time is what the clocks of that zone show; other casts between times leave the instant as it is.
        (DataType::Timestamp(_, None), Some(zone)) => Zone::named(zone)?.greatest(),
        _ => 0,
    };
    Some(Lag(rounded + local))
}

/// The lag that it costs to round down to a multiple of this length.
fn less_one(length: Lag) -> Option<Lag> {
    length.checked_sub(Lag::MICROSECOND)
}

/// `true` if a lag bounds an expression from below; one that is always null is no time.
pub fn is_bounded(lag: Lag) -> bool {
    lag > Lag(i64::MIN / 2)
}

/// The most that `date_trunc` takes from a time, plus 1, microseconds.
fn unit_micros(unit: &Expr) -> Option<i64> {
    let Expr::Literal(ScalarValue::Utf8(Some(unit)) | ScalarValue::Utf8View(Some(unit)), _) = unit else { return None };
    Some(match unit.to_ascii_lowercase().as_str() {
        "microsecond" => 1,
        "millisecond" => 1_000,
        "second" => SECOND,
        "minute" => 60 * SECOND,
        "hour" => 3_600 * SECOND,
        "day" => DAY,
        "week" => 7 * DAY,
        "month" => 31 * DAY,
        "quarter" => 92 * DAY,
        "year" => 366 * DAY,
        "decade" => 3_653 * DAY,
        "century" => 36_525 * DAY,
        "millennium" => 365_243 * DAY,
        _ => return None,
    })
}

/// A literal BIGINT, microseconds.
fn micros(expr: &Expr) -> Option<Lag> {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(micros)), _) => Some(Lag(*micros)),
        _ => None,
    }
}

/// A literal interval; `None` if it has months, whose length differs, or parts of a microsecond.
pub fn interval_micros(expr: &Expr) -> Option<Lag> {
    match expr {
        Expr::Literal(value, _) => scalar_micros(value),
        Expr::Negative(inner) => Lag::ZERO.checked_sub(interval_micros(inner)?),
        Expr::Alias(alias) => interval_micros(&alias.expr),
        Expr::Cast(cast) => interval_micros(&cast.expr),
        _ => None,
    }
}

/// An interval or duration; `None` if it has months or parts of a microsecond.
pub fn scalar_micros(value: &ScalarValue) -> Option<Lag> {
    let micros = match value {
        ScalarValue::IntervalMonthDayNano(Some(interval))
            if interval.months == 0 && interval.nanoseconds % 1_000 == 0 =>
        {
            i64::from(interval.days).checked_mul(DAY)?.checked_add(interval.nanoseconds / 1_000)
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            i64::from(interval.days).checked_mul(DAY)?.checked_add(i64::from(interval.milliseconds) * 1_000)
        }
        ScalarValue::DurationSecond(Some(duration)) => duration.checked_mul(SECOND),
        ScalarValue::DurationMillisecond(Some(duration)) => duration.checked_mul(1_000),
        ScalarValue::DurationMicrosecond(Some(duration)) => Some(*duration),
        ScalarValue::DurationNanosecond(Some(duration)) if duration % 1_000 == 0 => Some(duration / 1_000),
        _ => None,
    };
    micros.map(Lag)
}

#[cfg(test)]
mod tests {
    use datafusion::common::DFSchema;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::function::window_functions;
    use crate::sql::types::timestamp;

    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;

    /// The lag of a SQL expression over `ts` with lag 5, `other` with lag 100 and `n` without any.
    fn lag(sql: &str) -> Option<i64> {
        let context = SessionContext::new_with_state(SessionStateBuilder::new().with_default_features().build());
        for function in window_functions() {
            context.register_udf(function);
        }
        let local = DataType::Timestamp(TimeUnit::Microsecond, None);
        let fields = [("ts", timestamp()), ("other", timestamp()), ("n", DataType::Int64), ("ntz", local)];
        let fields: Vec<_> =
            fields.into_iter().map(|(name, kind)| arrow::datatypes::Field::new(name, kind, true)).collect();
        let schema = DFSchema::try_from(arrow::datatypes::Schema::new(fields)).unwrap();
        let expr = context.parse_sql_expr(sql, &schema).unwrap();
        time_lag(&expr, &schema, &|column| match column.name.as_str() {
            "ts" | "ntz" => Some(Lag(5)),
            "other" => Some(Lag(100)),
            _ => None,
        })
        .map(|lag| lag.0)
    }

    #[test]
    fn lags_follow_from_what_an_expression_takes_from_a_time() {
        for (sql, expected) in [
            ("ts", Some(5)),
            ("n", None),
            ("ts - INTERVAL '5 seconds'", Some(5 + 5 * SECOND)),
            ("ts + INTERVAL '1 day'", Some(5 - DAY)),
            ("INTERVAL '1 minute' + ts", Some(5 - MINUTE)),
            ("ts - INTERVAL '1 month'", None),
            ("date_trunc('minute', ts)", Some(5 + MINUTE - 1)),
            ("date_trunc('week', ts)", Some(5 + 7 * DAY - 1)),
            ("date_bin(INTERVAL '15 minutes', ts)", Some(5 + 15 * MINUTE - 1)),
            ("weir_tumble_start(ts, 1000, 0)", Some(5 + 999)),
            ("weir_shift(weir_tumble_start(ts, 1000, 0), 1000)", Some(4)),
            ("weir_hop_starts(ts, 10, 1000, 0)", Some(5 + 999)),
            ("coalesce(ts, other)", Some(100)),
            ("greatest(ts, n)", None),
            ("CASE WHEN n > 0 THEN ts ELSE other END", Some(100)),
            ("CASE WHEN n > 0 THEN ts END", Some(5)),
            ("arrow_cast(ts, 'Timestamp(Second, None)')", None),
            ("to_timestamp_micros(n)", None),
            ("ts AT TIME ZONE 'Europe/Berlin'", Some(5)),
            ("date_trunc('day', ts AT TIME ZONE 'America/New_York')", Some(5 + DAY + HOUR - 1)),
            ("date_trunc('month', ts AT TIME ZONE 'America/New_York')", Some(5 + 31 * DAY + HOUR - 1)),
            ("date_trunc('day', ts AT TIME ZONE '+05:30')", Some(5 + DAY - 1)),
            ("to_local_time(ts AT TIME ZONE 'America/New_York')", Some(5 + 5 * HOUR)),
            ("to_local_time(ts AT TIME ZONE 'Asia/Tokyo')", Some(5 - 9 * HOUR)),
            ("ntz AT TIME ZONE 'America/New_York'", Some(5 - 4 * HOUR)),
            ("date_trunc('hour', ntz)", Some(5 + HOUR - 1)),
            ("CAST(ntz AS TIMESTAMP)", Some(5)),
        ] {
            assert_eq!(lag(sql), expected, "{sql}");
        }
    }

    #[test]
    fn casts_lose_what_their_unit_cannot_hold() {
        let ts = Expr::Column(Column::from_name("ts"));
        let cast = |to| Expr::Cast(datafusion::logical_expr::Cast::new(Box::new(ts.clone()), to));
        let field = arrow::datatypes::Field::new("ts", timestamp(), true);
        let schema = DFSchema::try_from(arrow::datatypes::Schema::new(vec![field])).unwrap();
        let lag = |expr: &Expr| time_lag(expr, &schema, &|_| Some(Lag(5))).map(|lag| lag.0);
        assert_eq!(lag(&cast(DataType::Timestamp(TimeUnit::Nanosecond, None))), Some(5));
        assert_eq!(lag(&cast(DataType::Timestamp(TimeUnit::Second, None))), Some(5 + SECOND - 1));
        assert_eq!(lag(&cast(DataType::Date32)), None);
    }
}
