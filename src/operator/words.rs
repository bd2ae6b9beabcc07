//! Columns, times and lengths in words, for the explanations of operators.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;

use super::planning::TimeColumn;
use crate::evaluate::as_written;
use crate::time::Lag;

/// An expression in words.
pub fn shown(expr: &Arc<dyn PhysicalExpr>) -> String {
    as_written(expr).to_string()
}

/// The names of columns.
pub fn names(schema: &SchemaRef, columns: &[usize]) -> String {
    match columns {
        [] => "none".to_owned(),
        columns => columns.iter().map(|column| schema.field(*column).name().as_str()).collect::<Vec<_>>().join(", "),
    }
}

/// The pairs of columns that a join compares.
pub fn equalities(left: &SchemaRef, left_keys: &[usize], right: &SchemaRef, right_keys: &[usize]) -> String {
    let pairs = left_keys.iter().zip(right_keys);
    let pair = |(l, r): (&usize, &usize)| format!("{} = {}", left.field(*l).name(), right.field(*r).name());
    pairs.map(pair).collect::<Vec<_>>().join(" and ")
}

/// A time column, and when its values are complete.
pub fn time(schema: &SchemaRef, time: Option<TimeColumn>) -> String {
    match time {
        None => "processing time".to_owned(),
        Some(time) if time.lag == Lag::ZERO => {
            format!("{}, complete up to the watermark", schema.field(time.column).name())
        }
        Some(time) => {
            format!("{}, complete up to the watermark - {}", schema.field(time.column).name(), interval(time.lag))
        }
    }
}

/// The time by which state expires: a query that leaves the event time out has processing time only.
pub fn clock(schema: &SchemaRef, time: Option<TimeColumn>) -> &str {
    time.map_or("processing time", |time| schema.field(time.column).name().as_str())
}

/// Rows that a TTL evicts.
pub fn forgets(ttl: Option<Lag>, what: &str, clock: &str) -> String {
    match ttl {
        Some(ttl) => format!("{what} {}, by {clock}", interval(ttl)),
        None => "nothing".to_owned(),
    }
}

/// A length of time as a person says it.
pub fn interval(Lag(us): Lag) -> String {
    const UNITS: [(i64, &str); 5] = [
        (86_400_000_000, "day"),
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
        (1_000, "ms"),
    ];
    if us == 0 {
        return "0 seconds".to_owned();
    }
    // Floors lag one microsecond less than their width: said as the width.
    let whole = if (us + 1) % 1_000 == 0 { us + 1 } else { us };
    for (unit, name) in UNITS {
        if whole % unit == 0 {
            let count = whole / unit;
            let plural = if count.abs() == 1 || name == "ms" { "" } else { "s" };
            return format!("{count} {name}{plural}");
        }
    }
    format!("{whole} us")
}
