//! Expressions that DataFusion does not evaluate as PostgreSQL does, replaced by some that it does.
//!
//! - `x IN (…)` whose list is computed from columns becomes `x = … OR x IN (…)`: DataFusion takes a list for constant that gives constants
//!   over no rows, and a CASE does.
//! - `x IN (0.0)`, `CASE x WHEN 0.0`, `nullif(x, 0.0)`: -0.0 is 0.0, as for `=` (see `equality`).
//! - `a ^ b ^ a` is null where `a` is: DataFusion leaves both out.
//! - `to_unixtime(text, pattern)` reads the text as `to_timestamp` does.
//! - `round(d, 1)` has the type that it has once its constants are folded.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{BinaryExpr, Case, Cast, InList, ScalarFunction};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, binary_expr, lit, not, or, when};

use super::to_timestamp::to_timestamp;

/// `expr IN (list)`; `None` where DataFusion's is right.
pub(super) fn in_list(list: &InList, schema: &DFSchema) -> Option<Expr> {
    let InList { expr, list, negated } = list;
    let zeros = may_be_zeros(expr, list, schema);
    if !zeros && list.iter().all(is_plain) {
        return None;
    }
    let one = |expr: &Expr| if zeros { one_zero(expr.clone(), schema) } else { expr.clone() };
    let (plain, computed): (Vec<&Expr>, Vec<&Expr>) = list.iter().partition(|item| is_plain(item));
    let plain: Vec<Expr> = plain.into_iter().map(one).collect();
    let plain = (!plain.is_empty()).then(|| one(expr).in_list(plain, false));
    let equal = computed.into_iter().map(|item| binary_expr((**expr).clone(), Operator::Eq, item.clone()));
    let found = any(plain.into_iter().chain(equal).collect())?;
    Some(if *negated { not(found) } else { found })
}

/// One of the conditions, as a tree that is no deeper than it must be: lists may be long.
fn any(mut conditions: Vec<Expr>) -> Option<Expr> {
    while conditions.len() > 1 {
        let pairs = conditions.chunks(2).filter_map(|pair| pair.iter().cloned().reduce(or));
        conditions = pairs.collect();
    }
    conditions.pop()
}

/// Adds zero to what a CASE compares, where there may be a -0.0; true when it did.
pub(super) fn one_zero_in_case(case: &mut Case, schema: &DFSchema) -> bool {
    let Some(operand) = case.expr.as_mut() else { return false };
    let whens: Vec<Expr> = case.when_then_expr.iter().map(|(when, _)| (**when).clone()).collect();
    if !may_be_zeros(operand, &whens, schema) {
        return false;
    }
    for expr in std::iter::once(operand).chain(case.when_then_expr.iter_mut().map(|(when, _)| when)) {
        **expr = one_zero(std::mem::take(&mut **expr), schema);
    }
    true
}

/// A call of a function; `None` where DataFusion's is right.
pub(super) fn call(call: &ScalarFunction, schema: &DFSchema) -> Result<Option<Expr>> {
    Ok(match (call.name(), call.args.as_slice()) {
        ("nullif", [value, other]) if may_be_zeros(value, std::slice::from_ref(other), schema) => {
            let equal = binary_expr(value.clone(), Operator::Eq, other.clone());
            Some(when(equal, lit(ScalarValue::Null)).otherwise(value.clone())?)
        }
        ("round", [value, Expr::Literal(ScalarValue::Int64(Some(places)), metadata)]) => {
            i32::try_from(*places).ok().map(|places| {
                let places = Expr::Literal(ScalarValue::Int32(Some(places)), metadata.clone());
                Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&call.func), vec![value.clone(), places]))
            })
        }
        ("to_unixtime", [text, _, ..]) if text.get_type(schema).is_ok_and(|kind| kind.is_string()) => {
            let read = to_timestamp().call(call.args.clone());
            Some(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&call.func), vec![read])))
        }
        _ => None,
    })
}

/// `left ^ right` where a part is there twice, and may be null; `None` where DataFusion's is right.
pub(super) fn xor(left: &Expr, right: &Expr, schema: &DFSchema) -> Option<Expr> {
    let mut parts = Vec::new();
    let mut open = vec![left, right];
    while let Some(part) = open.pop() {
        match part {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::BitwiseXor, right }) => {
                open.extend([left.as_ref(), right.as_ref()]);
            }
            part => parts.push(part),
        }
    }
    let is_twice =
        |(at, part): &(usize, &&Expr)| parts[at + 1..].contains(part) && part.nullable(schema).unwrap_or(true);
    let twice = parts.iter().enumerate().filter(is_twice).map(|(_, part)| (*part).clone());
    let is_null = twice.map(Expr::is_null).reduce(or)?;
    let whole = binary_expr(left.clone(), Operator::BitwiseXor, right.clone());
    when(is_null, lit(ScalarValue::Null)).otherwise(whole).ok()
}

/// True for an item of which DataFusion knows whether it is constant.
fn is_plain(item: &Expr) -> bool {
    match item {
        Expr::Literal(..) | Expr::Column(_) | Expr::Placeholder(_) => true,
        Expr::Cast(Cast { expr, .. }) | Expr::Negative(expr) => is_plain(expr),
        _ => false,
    }
}

/// `true` if floats are compared of which two may be zeros of different signs.
fn may_be_zeros(value: &Expr, others: &[Expr], schema: &DFSchema) -> bool {
    let mut all = std::iter::once(value).chain(others);
    let float = all.any(|expr| expr.get_type(schema).is_ok_and(|kind| kind.is_floating()));
    let is_zero = |expr: &Expr| match expr {
        Expr::Literal(ScalarValue::Float64(Some(number)), _) => *number == 0.0,
        Expr::Literal(ScalarValue::Int64(Some(number)), _) => *number == 0,
        Expr::Literal(ScalarValue::Null, _) => false,
        _ => true,
    };
    float && others.iter().any(is_zero)
}

/// A float with one zero; whole numbers and DECIMALs have no other.
fn one_zero(expr: Expr, schema: &DFSchema) -> Expr {
    match expr.get_type(schema) {
        Ok(DataType::Float64) => binary_expr(expr, Operator::Plus, lit(0.0_f64)),
        Ok(DataType::Float32) => binary_expr(expr, Operator::Plus, lit(0.0_f32)),
        _ => expr,
    }
}
