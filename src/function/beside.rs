//! Types of values beside a TIMESTAMP: texts and dates become TIMESTAMPs in microseconds, and so do TIMESTAMP_NTZs in one column with it.
//!
//! DataFusion makes nanoseconds of both sides, which end in 1677 and 2262: sentinel dates like 9999-12-31 cannot be compared then.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};

use crate::micros::instant;

/// Makes what stands beside a TIMESTAMP one, text columns only where they are `compared`; true when it changed one.
pub fn times_alike(group: &mut [&mut Expr], compared: bool, schema: &DFSchema) -> bool {
    let kinds: Vec<Option<DataType>> = group.iter().map(|expr| expr.get_type(schema).ok()).collect();
    let zoned = |kind: &&DataType| matches!(kind, DataType::Timestamp(_, Some(_)));
    let timestamp = |kind: &&DataType| matches!(kind, DataType::Timestamp(..));
    let first = kinds.iter().flatten().find(zoned).or_else(|| kinds.iter().flatten().find(timestamp));
    let Some(DataType::Timestamp(_, zone)) = first else { return false };
    let one = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
    let mut changed = false;
    for (expr, kind) in group.iter_mut().zip(&kinds) {
        let becomes = match kind {
            Some(DataType::Date32 | DataType::Date64) => &one,
            Some(kind) if kind.is_string() && (compared || matches!(expr, Expr::Literal(..))) => &one,
            Some(DataType::Timestamp(_, None)) if zone.is_some() && !compared => &one,
            Some(DataType::Timestamp(unit, zone)) if *unit != TimeUnit::Microsecond => {
                &DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            _ => continue,
        };
        cast(expr, becomes.clone());
        changed = true;
    }
    changed
}

/// `DATE + INTERVAL` with a part of a day is a TIMESTAMP, and so is the difference of a TIMESTAMP and a DATE in microseconds.
pub fn moved(left: &mut Expr, op: Operator, right: &mut Expr, schema: &DFSchema) -> bool {
    if !matches!(op, Operator::Plus | Operator::Minus) {
        return false;
    }
    let (Ok(from), Ok(by)) = (left.get_type(schema), right.get_type(schema)) else { return false };
    match (from, by) {
        (DataType::Date32, DataType::Interval(_)) if has_part_of_day(right) => cast(left, instant()),
        (DataType::Interval(_), DataType::Date32) if op == Operator::Plus && has_part_of_day(left) => {
            cast(right, instant());
        }
        (DataType::Date32, DataType::Timestamp(_, zone)) if op == Operator::Minus => cast(left, micros(zone)),
        (DataType::Timestamp(_, zone), DataType::Date32) if op == Operator::Minus => cast(right, micros(zone)),
        _ => return false,
    }
    true
}

fn micros(zone: Option<Arc<str>>) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, zone)
}

/// Intervals that are not constants may have one.
fn has_part_of_day(interval: &Expr) -> bool {
    match interval {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(interval), _) => interval.is_some_and(|it| it.nanoseconds != 0),
        Expr::Literal(ScalarValue::IntervalDayTime(interval), _) => interval.is_some_and(|it| it.milliseconds != 0),
        Expr::Literal(ScalarValue::IntervalYearMonth(_), _) => false,
        Expr::Negative(inner) => has_part_of_day(inner),
        _ => true,
    }
}

fn cast(expr: &mut Expr, to: DataType) {
    let inner = std::mem::take(expr);
    *expr = Expr::Cast(Cast::new(Box::new(inner), to));
}
