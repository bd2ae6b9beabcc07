//! Intervals as PostgreSQL compares them: by their length, a month having 30 days and a day 24 hours.
//!
//! `weir_interval_length(interval)` is the length in nanoseconds as a DECIMAL. Text beside an interval is an interval.

use std::sync::Arc;

use arrow::array::{AsArray, Decimal128Array};
use arrow::datatypes::{DataType, DurationMicrosecondType, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{ScalarFunction, WindowFunction};
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    WindowFrame, WindowFrameBound, WindowFrameUnits,
};

use crate::equality::interval_nanos;

/// The type of an interval.
const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
/// Digits of a length.
const DIGITS: u8 = 38;

/// True for intervals and differences of times.
pub fn is_span(kind: &DataType) -> bool {
    matches!(kind, DataType::Interval(_) | DataType::Duration(_))
}

/// Makes intervals of literal texts beside an interval or a difference of times; true when it changed one.
///
/// Errors: a text that is no interval.
pub fn texts_as_intervals(group: &mut [&mut Expr], schema: &DFSchema) -> Result<bool> {
    let spans = |expr: &Expr| expr.get_type(schema).is_ok_and(|kind| is_span(&kind));
    if !group.iter().any(|expr| matches!(expr, Expr::Literal(ScalarValue::Utf8(Some(_)), _)))
        || !group.iter().any(|expr| spans(expr))
    {
        return Ok(false);
    }
    for expr in group.iter_mut() {
        if let Expr::Literal(ScalarValue::Utf8(Some(text)), metadata) = &**expr {
            **expr = Expr::Literal(interval(text)?, metadata.clone());
        }
    }
    Ok(true)
}

fn interval(text: &str) -> Result<ScalarValue> {
    match ScalarValue::try_from_string(text.to_owned(), &INTERVAL) {
        Ok(interval) => Ok(interval),
        Err(_) => plan_err!("`'{text}'` stands beside an interval and is none: write one like `'1 day 2 hours'`"),
    }
}

/// Puts lengths in the place of intervals and durations, if one is an interval; true when it did.
pub fn lengths(group: &mut [&mut Expr], schema: &DFSchema) -> Result<bool> {
    let kinds: Vec<Option<DataType>> = group.iter().map(|expr| expr.get_type(schema).ok()).collect();
    if !kinds.iter().any(|kind| matches!(kind, Some(DataType::Interval(_)))) {
        return Ok(false);
    }
    group.iter_mut().zip(kinds).for_each(|(expr, kind)| measure(expr, kind.as_ref()));
    Ok(true)
}

/// Puts its length in the place of an interval, a duration, or what becomes one.
fn measure(expr: &mut Expr, kind: Option<&DataType>) {
    let measured = match kind {
        Some(DataType::Interval(IntervalUnit::MonthDayNano) | DataType::Duration(TimeUnit::Microsecond)) => {
            std::mem::take(expr)
        }
        Some(DataType::Interval(_) | DataType::Duration(_) | DataType::Null | DataType::Utf8) => {
            Expr::Cast(Cast::new(Box::new(std::mem::take(expr)), INTERVAL))
        }
        _ => return,
    };
    *expr = Expr::ScalarFunction(ScalarFunction::new_udf(interval_length(), vec![measured]));
}

/// Orders a window by the lengths of intervals, and measures a RANGE by them. Where values have an order but no distance, as BINARY has, a RANGE
/// without offsets is that of their groups. True when it changed something.
///
/// Errors: a RANGE with offsets over such values, or with one that is no interval over intervals.
pub fn window_by_length(call: &mut WindowFunction, schema: &DFSchema) -> Result<bool> {
    let params = &mut call.params;
    let kinds: Vec<Option<DataType>> = params.order_by.iter().map(|key| key.expr.get_type(schema).ok()).collect();
    let Some(Some(first)) = kinds.first() else { return Ok(false) };
    let frame = &mut params.window_frame;
    let mut changed = false;
    if frame.units == WindowFrameUnits::Range {
        if is_span(first) {
            frame.start_bound = length_of_bound(&frame.start_bound)?;
            frame.end_bound = length_of_bound(&frame.end_bound)?;
        } else if !has_distance(first) {
            if has_offset(frame) {
                return plan_err!("RANGE with an offset needs an ORDER BY of numbers, times or intervals, not {first}");
            }
            frame.units = WindowFrameUnits::Groups;
            changed = true;
        }
    }
    for (key, kind) in params.order_by.iter_mut().zip(&kinds) {
        if kind.as_ref().is_some_and(is_span) {
            measure(&mut key.expr, kind.as_ref());
            changed = true;
        }
    }
    Ok(changed)
}

/// False for types that have an order and no differences.
fn has_distance(kind: &DataType) -> bool {
    !matches!(
        kind,
        DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
            | DataType::Struct(_)
            | DataType::Map(..)
    )
}

fn has_offset(frame: &WindowFrame) -> bool {
    let of = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Preceding(value) | WindowFrameBound::Following(value) => !value.is_null(),
        WindowFrameBound::CurrentRow => false,
    };
    of(&frame.start_bound) || of(&frame.end_bound)
}

/// The bound with its offset, which is text, as a length.
fn length_of_bound(bound: &WindowFrameBound) -> Result<WindowFrameBound> {
    let length = |value: &ScalarValue| -> Result<ScalarValue> {
        Ok(match value {
            ScalarValue::Utf8(Some(text)) => match interval(text)? {
                ScalarValue::IntervalMonthDayNano(interval) => {
                    ScalarValue::Decimal128(interval.map(interval_nanos), DIGITS, 0)
                }
                other => other,
            },
            other => other.clone(),
        })
    };
    Ok(match bound {
        WindowFrameBound::Preceding(value) => WindowFrameBound::Preceding(length(value)?),
        WindowFrameBound::Following(value) => WindowFrameBound::Following(length(value)?),
        WindowFrameBound::CurrentRow => WindowFrameBound::CurrentRow,
    })
}

/// The function.
fn interval_length() -> Arc<ScalarUDF> {
    let kinds = [INTERVAL, DataType::Duration(TimeUnit::Microsecond)];
    let signature = Signature::uniform(1, kinds.into(), Volatility::Immutable);
    Arc::new(ScalarUDF::from(IntervalLength { signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IntervalLength {
    signature: Signature,
}

impl ScalarUDFImpl for IntervalLength {
    fn name(&self) -> &'static str {
        "weir_interval_length"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Decimal128(DIGITS, 0))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let intervals = args.args[0].to_array(args.number_rows)?;
        // The difference of two times may be longer than an interval of nanoseconds can say.
        let lengths: Decimal128Array = match intervals.as_primitive_opt::<DurationMicrosecondType>() {
            Some(micros) => micros.unary(|micros| i128::from(micros) * 1_000),
            None => intervals.as_primitive::<IntervalMonthDayNanoType>().unary(interval_nanos),
        };
        Ok(ColumnarValue::Array(Arc::new(lengths.with_precision_and_scale(DIGITS, 0)?)))
    }
}
