//! Casts, comparisons and common types as Spark has them.
//!
//! `CAST` of DOUBLE to STRING is not here: each engine writes such numbers in its own way.

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Case, Expr, Operator, cast, lit, try_cast, when};

use super::{Read, Reader, said};
use crate::sql::types::{sql_name, timestamp};

/// Decimals with more digits behind the point may be shown with an exponent.
const PLAIN_SCALE: i8 = 6;

impl Reader<'_> {
    /// `CAST(expr AS to)`.
    pub(super) fn cast(&self, expr: Expr, to: &DataType) -> Read<Expr> {
        let from = self.kind(&expr)?;
        let is_number = |kind: &DataType| kind.is_numeric() && !matches!(kind, DataType::Decimal256(..));
        Ok(match (&from, to) {
            (from, to) if from == to => expr,
            (DataType::Null, _) => cast(expr, to.clone()),
            (_, DataType::Utf8) => self.text(&expr)?,
            (DataType::Decimal128(_, scale), _) if is_number(to) => self.number(self.cut(expr, *scale, to)?, to)?,
            (from, to) if is_number(from) && is_number(to) => self.number(expr, to)?,
            (from, DataType::Boolean) if from.is_integer() || is_float(from) => cast(expr, to.clone()),
            (DataType::Boolean, to) if to.is_integer() || is_float(to) => cast(expr, to.clone()),
            (from, to) if is_time(from) && is_time(to) => cast(expr, to.clone()),
            (DataType::Utf8, DataType::Boolean) => {
                let word = self.call("lower", vec![self.call("btrim", vec![expr])?])?;
                let one_of = |words: [&str; 5]| {
                    Expr::InList(InList::new(Box::new(word.clone()), words.map(lit).to_vec(), false))
                };
                when(one_of(["true", "t", "yes", "y", "1"]), lit(true))
                    .when(one_of(["false", "f", "no", "n", "0"]), lit(false))
                    .end()
                    .map_err(said)?
            }
            (DataType::Utf8, to) if is_number(to) || is_time(to) => {
                self.parsed(&self.call("btrim", vec![expr])?, to)?
            }
            (from, to) => return Err(format!("a CAST of {} to {} differs by engine", sql_name(from), sql_name(to))),
        })
    }

    /// A number as another type. What does not fit is null as a decimal; whole numbers keep their low bits, and of a float the nearest one.
    fn number(&self, expr: Expr, to: &DataType) -> Read<Expr> {
        let from = self.kind(&expr)?;
        let width = |kind: &DataType| kind.primitive_width().unwrap_or(0);
        Ok(match to {
            DataType::Decimal128(..) => try_cast(expr, to.clone()),
            to if !to.is_integer() || from.is_integer() && width(&from) <= width(to) => cast(expr, to.clone()),
            to if is_float(&from) => {
                let (least, greatest) = match to {
                    DataType::Int64 => (i64::MIN, i64::MAX),
                    _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
                };
                let float = cast(expr, DataType::Float64);
                let whole = when(self.call("isnan", vec![float.clone()])?, lit(0_i64))
                    .when(float.clone().gt_eq(lit(greatest as f64)), lit(greatest))
                    .when(float.clone().lt_eq(lit(least as f64)), lit(least))
                    // Never null here; a constant's branches are all folded, and must not fail.
                    .otherwise(try_cast(float, DataType::Int64));
                low_bits(whole.map_err(said)?, to)
            }
            to => low_bits(cast(expr, DataType::Int64), to),
        })
    }

    /// A text without blanks around it as a number or a time: null if it is none. What engines may read differently is not computed.
    fn parsed(&self, text: &Expr, to: &DataType) -> Read<Expr> {
        let has_form = |form: &str| self.call("regexp_like", vec![text.clone(), lit(form)]);
        let (strict, lenient) = (cast(text.clone(), to.clone()), try_cast(text.clone(), to.clone()));
        let read = match to {
            to if to.is_integer() => {
                let whole = self.call("split_part", vec![text.clone(), lit("."), lit(1_i64)])?;
                let digits = self.call("ltrim", vec![whole, lit("+")])?;
                when(has_form(r"^[+-]?[0-9]+(\.[0-9]*)?$")?, try_cast(digits, to.clone())).end()
            }
            DataType::Date32 | DataType::Timestamp(..) => {
                let usual = match to {
                    DataType::Date32 => r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
                    _ => r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z?)?$",
                };
                when(has_form(usual)?, lenient).when(has_form("^[+-]?[0-9]{4}|:")?, strict).end()
            }
            // `1.5d`, and of decimals `1e3`.
            DataType::Decimal128(..) => when(has_form("^[+-]?[0-9.]+[eE]")?, strict).otherwise(lenient),
            _ => when(has_form("^[+-]?[0-9.]+([eE][+-]?[0-9]+)?[dDfF]$")?, strict).otherwise(lenient),
        };
        read.map_err(said)
    }

    /// A decimal without the digits that `to` does not have: rounded for a decimal, cut off for a whole number. Here and not by the cast,
    /// which DataFusion takes off in comparisons as if it lost nothing.
    pub(super) fn cut(&self, expr: Expr, scale: i8, to: &DataType) -> Read<Expr> {
        match to {
            DataType::Decimal128(_, kept) if *kept < scale => self.call("round", vec![expr, lit(i64::from(*kept))]),
            to if to.is_integer() && scale > 0 => {
                let (down, up) = (self.call("floor", vec![expr.clone()])?, self.call("ceil", vec![expr.clone()])?);
                let zero = cast(lit(0_i64), self.kind(&expr)?);
                Ok(Expr::Case(Case::new(None, vec![(Box::new(expr.lt(zero)), Box::new(up))], Some(Box::new(down)))))
            }
            _ => Ok(expr),
        }
    }

    /// The value as text: `CAST(expr AS STRING)`.
    pub(super) fn text(&self, expr: &Expr) -> Read<Expr> {
        let expr = expr.clone();
        Ok(match self.kind(&expr)? {
            DataType::Utf8 => expr,
            DataType::Null | DataType::Boolean | DataType::Date32 | DataType::Utf8View | DataType::LargeUtf8 => {
                cast(expr, DataType::Utf8)
            }
            kind if kind.is_integer() => cast(expr, DataType::Utf8),
            DataType::Decimal128(_, scale) if (0..=PLAIN_SCALE).contains(&scale) => cast(expr, DataType::Utf8),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let shown = self.call("to_char", vec![cast(expr, timestamp()), lit("%Y-%m-%d %H:%M:%S%.6f")])?;
                let shown = self.call("rtrim", vec![cast(shown, DataType::Utf8), lit("0")])?;
                self.call("rtrim", vec![shown, lit(".")])?
            }
            kind => return Err(format!("the text of a {} differs by engine", sql_name(&kind))),
        })
    }

    pub(super) fn equal(&self, left: Expr, right: Expr) -> Read<Expr> {
        self.compare(left, Operator::Eq, right)
    }

    /// `left <=> right`: nulls are equal.
    pub(super) fn same(&self, left: Expr, right: Expr) -> Read<Expr> {
        self.compare(left, Operator::IsNotDistinctFrom, right)
    }

    pub(super) fn compare(&self, left: Expr, op: Operator, right: Expr) -> Read<Expr> {
        let (a, b) = (self.kind(&left)?, self.kind(&right)?);
        let (left, right) = match (&a, &b) {
            (DataType::Null, _) | (_, DataType::Null) => (left, right),
            (a, b) if a.is_numeric() && b.is_numeric() && (is_float(a) || is_float(b)) => {
                (self.comparable(left)?, self.comparable(right)?)
            }
            (a, b) if a.is_numeric() && b.is_numeric() => (left, right),
            (DataType::Utf8, b) if *b != DataType::Utf8 => (self.cast(left, b)?, right),
            (a, DataType::Utf8) if *a != DataType::Utf8 => (left, self.cast(right, a)?),
            (a, b) if is_time(a) && is_time(b) && a != b => (cast(left, timestamp()), cast(right, timestamp())),
            (a, b) if a == b && !matches!(a, DataType::Interval(_) | DataType::Map(..)) => (left, right),
            (a, b) => return Err(format!("a comparison of {} with {} differs by engine", sql_name(a), sql_name(b))),
        };
        Ok(binary(left, op, right))
    }

    /// A float for comparisons: zeros and NaNs have no sign, as in Spark.
    fn comparable(&self, expr: Expr) -> Read<Expr> {
        match plain_float(expr) {
            literal @ Expr::Cast(_) => Ok(literal),
            float => self.call("nanvl", vec![float, lit(f64::NAN)]),
        }
    }

    /// `expr IN (list)`.
    pub(super) fn one_of(&self, expr: &Expr, list: Vec<Expr>) -> Read<Expr> {
        let kind = self.kind(expr)?;
        let is_plain = |item: &Expr| {
            let simple = matches!(kind, DataType::Utf8) || kind.is_integer();
            simple && matches!(item, Expr::Literal(..)) && {
                self.kind(item).is_ok_and(|other| other == kind || (kind.is_integer() && other == DataType::Int64))
            }
        };
        if !list.is_empty() && list.iter().all(is_plain) {
            return Ok(Expr::InList(InList::new(Box::new(expr.clone()), list, false)));
        }
        let mut any = None;
        for item in list {
            let equal = self.equal(expr.clone(), item)?;
            any = Some(any.map_or_else(|| equal.clone(), |any: Expr| any.or(equal.clone())));
        }
        any.ok_or_else(|| "IN needs a list".to_owned())
    }

    /// Results of which one is chosen, as one type.
    pub(super) fn common(&self, all: Vec<Expr>) -> Read<Vec<Expr>> {
        let kinds = all.iter().map(|expr| self.kind(expr)).collect::<Read<Vec<_>>>()?;
        let mut known: Vec<&DataType> = kinds.iter().filter(|kind| **kind != DataType::Null).collect();
        known.dedup();
        let [_, _, ..] = known[..] else { return Ok(all) };
        if known.iter().all(|kind| kind.is_numeric()) {
            let to = match known.iter().any(|kind| is_float(kind)) {
                true => DataType::Float64,
                false if known.iter().any(|kind| is_decimal(kind)) => {
                    let sizes = || known.iter().map(|kind| digits(kind));
                    let behind = sizes().map(|(_, scale)| scale).max().unwrap_or(0);
                    let before = sizes().map(|(precision, scale)| precision - scale).max().unwrap_or(0);
                    let all = u8::try_from((before + behind).min(38)).unwrap_or(38);
                    DataType::Decimal128(all, i8::try_from(behind).unwrap_or(0))
                }
                false => DataType::Int64,
            };
            return Ok(all.into_iter().map(|expr| cast(expr, to.clone())).collect());
        }
        if known.iter().all(|kind| is_time(kind)) {
            return Ok(all.into_iter().map(|expr| cast(expr, timestamp())).collect());
        }
        if known.contains(&&DataType::Utf8) {
            return all.iter().map(|expr| self.text(expr)).collect();
        }
        Err(format!("{} and {} have no common type", sql_name(known[0]), sql_name(known[1])))
    }

    /// A number as DOUBLE.
    pub(super) fn double(&self, expr: &Expr) -> Read<Expr> {
        match self.kind(expr)? {
            kind if kind.is_numeric() || kind == DataType::Null => Ok(cast(expr.clone(), DataType::Float64)),
            kind => Err(format!("a {} is not a number", sql_name(&kind))),
        }
    }

    /// `left + right` and `left - right` of times and lengths of time.
    pub(super) fn time_arithmetic(&self, left: Expr, op: Operator, right: Expr) -> Read<Expr> {
        let (a, b) = (self.kind(&left)?, self.kind(&right)?);
        let refused = || Err(format!("`{op}` of {} and {} differs by engine", sql_name(&a), sql_name(&b)));
        match (&a, op, &b) {
            (a, Operator::Minus, b) if is_time(a) && is_time(b) => {
                Ok(binary(cast(left, timestamp()), op, cast(right, timestamp())))
            }
            (DataType::Timestamp(..), Operator::Plus | Operator::Minus, b) if is_span(b) => Ok(binary(left, op, right)),
            (a, Operator::Plus, DataType::Timestamp(..)) if is_span(a) => Ok(binary(right, op, left)),
            (DataType::Date32, Operator::Plus | Operator::Minus, DataType::Duration(_)) => {
                const DAY_US: i64 = 86_400_000_000;
                match &right {
                    Expr::Literal(ScalarValue::DurationMicrosecond(Some(length)), _) if length % DAY_US == 0 => {
                        Ok(days_later(left, op, lit(length / DAY_US)))
                    }
                    _ => Ok(binary(cast(left, timestamp()), op, right)),
                }
            }
            (DataType::Date32, Operator::Plus | Operator::Minus, DataType::Interval(_)) => {
                Ok(cast(binary(cast(left, timestamp()), op, right), DataType::Date32))
            }
            (DataType::Duration(_), Operator::Plus | Operator::Minus, DataType::Duration(_)) => {
                Ok(binary(left, op, right))
            }
            _ => refused(),
        }
    }
}

/// A BIGINT as a whole number of another type, as far as its bits go.
fn low_bits(wide: Expr, to: &DataType) -> Expr {
    let bits = 8 * to.primitive_width().unwrap_or(8);
    if bits >= 64 {
        return wide;
    }
    let (all, sign) = (lit((1_i64 << bits) - 1), lit(1_i64 << (bits - 1)));
    let low = binary(wide, Operator::BitwiseAnd, all);
    cast(binary(binary(low, Operator::BitwiseXor, sign.clone()), Operator::Minus, sign), to.clone())
}

/// A date and a number of days, added or subtracted.
pub(super) fn days_later(date: Expr, op: Operator, days: Expr) -> Expr {
    let number = cast(cast(date, DataType::Date32), DataType::Int32);
    cast(binary(number, op, cast(days, DataType::Int32)), DataType::Date32)
}

pub(super) fn is_float(kind: &DataType) -> bool {
    matches!(kind, DataType::Float32 | DataType::Float64)
}

pub(super) fn is_decimal(kind: &DataType) -> bool {
    matches!(kind, DataType::Decimal128(..))
}

pub(super) fn is_time(kind: &DataType) -> bool {
    matches!(kind, DataType::Date32 | DataType::Timestamp(..))
}

/// `true` for durations and intervals.
pub(super) fn is_span(kind: &DataType) -> bool {
    matches!(kind, DataType::Duration(_) | DataType::Interval(IntervalUnit::MonthDayNano))
}

/// The digits of a number, all and behind the point.
pub(super) fn digits(kind: &DataType) -> (i32, i32) {
    match kind {
        DataType::Decimal128(precision, scale) => (i32::from(*precision), i32::from(*scale)),
        DataType::Int8 => (3, 0),
        DataType::Int16 => (5, 0),
        DataType::Int32 => (10, 0),
        _ => (20, 0),
    }
}

pub(super) fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// A DOUBLE whose zero has no sign.
pub(super) fn plain_float(expr: Expr) -> Expr {
    match cast(expr, DataType::Float64) {
        Expr::Cast(cast) if matches!(*cast.expr, Expr::Literal(..)) => Expr::Cast(cast),
        float => binary(float, Operator::Plus, lit(0.0)),
    }
}
