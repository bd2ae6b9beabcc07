//! The meaning of numbers and intervals in SQL where DataFusion differs from PostgreSQL.
//!
//! - A number with a point beside a DECIMAL is a DECIMAL: `d * 1.1` and `d > 0.5` are exact. DataFusion makes it a DOUBLE, and the column with it.
//! - A DECIMAL beside a DOUBLE becomes a DOUBLE, in comparisons too.
//! - Intervals are compared by their length, a month having 30 days and a day 24 hours. Arrow compares months, then days, then the rest.
//! - Text beside an interval is an interval.
//! - `ts AT TIME ZONE 'zone'` has microseconds, as every TIMESTAMP; so has what is compared with one.
//! - What `replaced` lists.
//! - Constants that overflow are an error, before they are folded.
//!
//! The types of expressions change by this, so it is done right after planning, before anything looks at a schema.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::functions::datetime::to_local_time;
use datafusion::logical_expr::expr::{
    Between, BinaryExpr, Case, Cast, InList, InSubquery, ScalarFunction, Sort, WindowFunction,
};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlanBuilder, Operator, binary_expr, lit, when};

use super::beside::{moved, times_alike};
use super::interval::{lengths, texts_as_intervals, window_by_length};
use super::replaced;
use crate::arithmetic::checked_constant;
use crate::evaluate::keep_narrowing;
use crate::sql::types::sql_name;

/// Functions whose arguments are of one type, from the given one on.
const ALIKE: [(&str, usize); 8] = [
    ("coalesce", 0),
    ("nullif", 0),
    ("greatest", 0),
    ("least", 0),
    ("nvl", 0),
    ("ifnull", 0),
    ("nvl2", 1),
    ("make_array", 0),
];

/// The expression over columns of `schema` as SQL means it.
///
/// Errors: an operation on constants that overflows, an interval where its length cannot be looked at.
pub fn as_meant(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| node(expr, schema))
}

fn node(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::BitwiseXor, right }) => {
            Ok(match replaced::xor(&left, &right, schema) {
                Some(replaced) => Transformed::yes(replaced),
                None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op: Operator::BitwiseXor, right })),
            })
        }
        Expr::BinaryExpr(BinaryExpr { mut left, op, mut right }) => {
            let changed = if is_comparison(op) || is_arithmetic(op) {
                let compares = is_comparison(op);
                alike(&mut [&mut *left, &mut *right], schema)?
                    | moved(&mut left, op, &mut right, schema)
                    | (compares && compared_alike(&mut [&mut *left, &mut *right], schema)?)
                    | (compares && lengths(&mut [&mut *left, &mut *right], schema)?)
            } else {
                false
            };
            let expr = Expr::BinaryExpr(BinaryExpr { left, op, right });
            let checked = checked_constant(&expr)?;
            let changed = changed || checked.is_some();
            Ok(transformed(checked.unwrap_or(expr), changed))
        }
        Expr::Negative(_) => {
            let checked = checked_constant(&expr)?;
            let changed = checked.is_some();
            Ok(transformed(checked.unwrap_or(expr), changed))
        }
        Expr::Between(Between { mut expr, negated, mut low, mut high }) => {
            let group = &mut [&mut *expr, &mut *low, &mut *high];
            let changed = alike(group, schema)? | compared_alike(group, schema)? | lengths(group, schema)?;
            Ok(transformed(Expr::Between(Between { expr, negated, low, high }), changed))
        }
        Expr::InList(InList { mut expr, mut list, negated }) => {
            let mut group: Vec<&mut Expr> = std::iter::once(&mut *expr).chain(&mut list).collect();
            let changed =
                alike(&mut group, schema)? | compared_alike(&mut group, schema)? | lengths(&mut group, schema)?;
            let list = InList { expr, list, negated };
            Ok(match replaced::in_list(&list, schema) {
                Some(replaced) => Transformed::yes(replaced),
                None => transformed(Expr::InList(list), changed),
            })
        }
        Expr::InSubquery(found) => Ok(match in_subquery(&found, schema)? {
            Some(replaced) => Transformed::yes(replaced),
            None => Transformed::no(Expr::InSubquery(found)),
        }),
        Expr::Case(case) => of_case(case, schema),
        Expr::ScalarFunction(call) => of_call(call, schema),
        Expr::AggregateFunction(call) if matches!(call.func.name(), "min" | "max") => {
            match call.params.args.iter().any(|arg| is_interval(arg, schema)) {
                true => no_length(call.func.name()),
                false => Ok(Transformed::no(Expr::AggregateFunction(call))),
            }
        }
        Expr::WindowFunction(mut call) => {
            let changed = window_by_length(&mut call, schema)?;
            default_fits(&call, schema)?;
            Ok(transformed(Expr::WindowFunction(call), changed))
        }
        Expr::Cast(cast) => of_cast(cast, schema),
        other => Ok(Transformed::no(other)),
    }
}

/// `nullif(a, b)` of exact numbers has the type of `a`, as in PostgreSQL; DataFusion gives it the common type of both. `None` where
/// there is no difference.
fn nullif_of_its_type(call: &ScalarFunction, schema: &DFSchema) -> Result<Option<Expr>> {
    let (true, [value, other]) = (call.name() == "nullif", call.args.as_slice()) else { return Ok(None) };
    let (Ok(kind), Ok(beside)) = (value.get_type(schema), other.get_type(schema)) else { return Ok(None) };
    let exact = kind.is_integer() || kind.is_decimal();
    if !exact || kind == beside || !beside.is_numeric() || value.is_volatile() {
        return Ok(None);
    }
    let equal = node(binary_expr(value.clone(), Operator::Eq, other.clone()), schema)?.data;
    when(equal, lit(ScalarValue::Null)).otherwise(value.clone()).map(Some)
}

fn of_call(mut call: ScalarFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if let Some(replaced) = nullif_of_its_type(&call, schema)? {
        return Ok(Transformed::yes(replaced));
    }
    let Some((_, first)) = ALIKE.iter().find(|(name, _)| *name == call.name()) else {
        return Ok(match replaced::call(&call, schema)? {
            Some(replaced) => Transformed::yes(replaced),
            None => Transformed::no(Expr::ScalarFunction(call)),
        });
    };
    if !matches!(call.name(), "coalesce" | "make_array") && call.args.iter().any(|arg| is_interval(arg, schema)) {
        return no_length(call.name());
    }
    let mut group: Vec<&mut Expr> = call.args.iter_mut().skip(*first).collect();
    let changed = alike(&mut group, schema)? | times_alike(&mut group, false, schema);
    Ok(match replaced::call(&call, schema)? {
        Some(replaced) => Transformed::yes(replaced),
        None => transformed(Expr::ScalarFunction(call), changed),
    })
}

fn of_cast(mut cast: Cast, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let exact = cast.field.data_type().is_decimal().then(|| decimal(&cast.expr)).flatten();
    let mut changed = exact.is_some();
    if let Some(exact) = exact {
        *cast.expr = exact;
    }
    // `AT TIME ZONE` is planned as a cast to nanoseconds, which end in 2262.
    if let DataType::Timestamp(TimeUnit::Nanosecond, Some(zone)) = cast.field.data_type()
        && cast.expr.get_type(schema).is_ok_and(|kind| is_time_in_micros(&kind))
    {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::clone(zone)));
        cast = Cast::new(cast.expr, micros);
        changed = true;
    }
    // Without a zone a time is what the clocks of its own one show.
    if let DataType::Timestamp(_, None) = cast.field.data_type()
        && let Ok(DataType::Timestamp(_, Some(zone))) = cast.expr.get_type(schema)
        && !matches!(zone.as_ref(), "UTC" | "+00:00")
    {
        let local = ScalarFunction::new_udf(to_local_time(), vec![std::mem::take(&mut *cast.expr)]);
        cast.expr = Box::new(Expr::ScalarFunction(local));
        changed = true;
    }
    Ok(transformed(Expr::Cast(cast), changed))
}

/// True for what has no nanoseconds, or is text.
fn is_time_in_micros(kind: &DataType) -> bool {
    kind.is_string()
        || matches!(kind, DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Date32 | DataType::Date64)
}

/// Sort keys as SQL orders them.
pub fn sorted_as_meant(mut sort: Sort, schema: &DFSchema) -> Result<Transformed<Sort>> {
    let changed = lengths(&mut [&mut sort.expr], schema)?;
    Ok(Transformed::new_transformed(sort, changed))
}

fn of_case(mut case: Case, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mut changed = false;
    if let Some(operand) = case.expr.as_mut() {
        let mut group: Vec<&mut Expr> = vec![operand];
        group.extend(case.when_then_expr.iter_mut().map(|(when, _)| when.as_mut()));
        changed |= alike(&mut group, schema)? | compared_alike(&mut group, schema)? | lengths(&mut group, schema)?;
    }
    changed |= replaced::one_zero_in_case(&mut case, schema);
    let mut results: Vec<&mut Expr> = case.when_then_expr.iter_mut().map(|(_, then)| then.as_mut()).collect();
    results.extend(case.else_expr.as_deref_mut());
    changed |= alike(&mut results, schema)?
        | times_alike(&mut results, false, schema)
        | texts_as_intervals(&mut results, schema)?;
    Ok(transformed(Expr::Case(case), changed))
}

/// Errors: the default of `lag` or `lead` has a part that the values' type cannot hold, which DataFusion would cut.
fn default_fits(call: &WindowFunction, schema: &DFSchema) -> Result<()> {
    let ("lag" | "lead", [value, _, default]) = (call.fun.name(), call.params.args.as_slice()) else { return Ok(()) };
    let given = decimal(default).unwrap_or_else(|| default.clone()).get_type(schema)?;
    let of = value.get_type(schema)?;
    let is_cut = match (&of, &given) {
        (DataType::Decimal128(_, scale), DataType::Decimal128(_, given)) => given > scale,
        (DataType::Date32, DataType::Timestamp(..)) => true,
        _ => (of.is_integer() || of.is_decimal()) && given.is_floating() || of.is_integer() && given.is_decimal(),
    };
    if is_cut {
        let name = call.fun.name();
        return plan_err!(
            "the default of `{name}` is {}, and its values are {}: cast one of them",
            sql_name(&given),
            sql_name(&of)
        );
    }
    Ok(())
}

/// Makes expressions that are compared ones that can be; true when it changed one.
fn compared_alike(group: &mut [&mut Expr], schema: &DFSchema) -> Result<bool> {
    Ok(texts_as_intervals(group, schema)? | times_alike(group, true, schema) | keep_narrowing(group, schema))
}

fn transformed(expr: Expr, changed: bool) -> Transformed<Expr> {
    Transformed::new_transformed(expr, changed)
}

/// Makes numbers that meet of one kind; true when it changed one.
fn alike(group: &mut [&mut Expr], schema: &DFSchema) -> Result<bool> {
    let mut kinds = Vec::with_capacity(group.len());
    for expr in group.iter() {
        kinds.push(if is_constant(expr) { None } else { kind_of(expr, schema) });
    }
    let any = |is: fn(&DataType) -> bool| kinds.iter().flatten().any(is);
    if !any(DataType::is_decimal) {
        return Ok(false);
    }
    let double = any(DataType::is_floating);
    let mut changed = false;
    for (expr, kind) in group.iter_mut().zip(&kinds) {
        let replaced = match kind {
            Some(kind) if double && kind.is_decimal() => {
                Some(Expr::Cast(Cast::new(Box::new((**expr).clone()), DataType::Float64)))
            }
            None if !double => decimal(expr),
            _ => None,
        };
        if let Some(replaced) = replaced {
            **expr = replaced;
            changed = true;
        }
    }
    Ok(changed)
}

/// The type of a number; of a CASE that of the results together, which is not known before they are coerced.
fn kind_of(expr: &Expr, schema: &DFSchema) -> Option<DataType> {
    let Expr::Case(case) = expr else { return expr.get_type(schema).ok() };
    let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref()).chain(case.else_expr.as_deref());
    let kinds: Vec<DataType> = results.filter_map(|result| kind_of(result, schema)).collect();
    let first = |is: fn(&DataType) -> bool| kinds.iter().find(|kind| is(kind)).cloned();
    first(DataType::is_floating).or_else(|| first(DataType::is_decimal)).or_else(|| expr.get_type(schema).ok())
}

/// Makes a DECIMAL that meets a DOUBLE of another plan a DOUBLE; true when it changed one.
pub fn pair_as_meant(one: &mut Expr, of_one: &DFSchema, other: &mut Expr, of_other: &DFSchema) -> bool {
    let (Ok(first), Ok(second)) = (one.get_type(of_one), other.get_type(of_other)) else { return false };
    let decimal = match (first.is_decimal(), second.is_decimal()) {
        (true, false) if second.is_floating() => one,
        (false, true) if first.is_floating() => other,
        _ => return false,
    };
    *decimal = Expr::Cast(Cast::new(Box::new(std::mem::take(decimal)), DataType::Float64));
    true
}

/// `value IN (SELECT …)` of a DECIMAL and a DOUBLE compares DOUBLEs; `None` where nothing changes.
fn in_subquery(found: &InSubquery, schema: &DFSchema) -> Result<Option<Expr>> {
    let below = &found.subquery.subquery;
    let mut value = found.expr.as_ref().clone();
    let Some((relation, field)) = below.schema().iter().next() else { return Ok(None) };
    let column = Column::new(relation.cloned(), field.name());
    let mut wanted = Expr::Column(column.clone());
    if !pair_as_meant(&mut value, schema, &mut wanted, below.schema()) {
        return Ok(None);
    }
    let mut subquery = found.subquery.clone();
    if wanted != Expr::Column(column) {
        let plan = LogicalPlanBuilder::from(below.as_ref().clone()).project([wanted.alias(field.name())])?;
        subquery.subquery = Arc::new(plan.build()?);
    }
    Ok(Some(Expr::InSubquery(InSubquery::new(Box::new(value), subquery, found.negated))))
}

fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn is_arithmetic(op: Operator) -> bool {
    matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo)
}

/// True for numbers with a point and what is computed from them and whole numbers.
fn is_constant(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::Float64(Some(_)), _)) || decimal(expr).is_some()
}

/// The constant as a DECIMAL; `None` if it is no constant with a point, or has more digits than a DECIMAL.
fn decimal(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Literal(ScalarValue::Float64(Some(value)), metadata) => {
            let text = format!("{value}");
            let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
            let digits = whole.trim_start_matches(['-', '0']).len() + part.len();
            let value: i128 = format!("{whole}{part}").parse().ok().filter(|_| digits <= 38)?;
            let (digits, scale) = (u8::try_from(digits).ok()?.max(1), i8::try_from(part.len()).ok()?);
            Some(Expr::Literal(ScalarValue::Decimal128(Some(value), digits, scale), metadata.clone()))
        }
        Expr::Negative(inner) => Some(Expr::Negative(Box::new(decimal(inner)?))),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_arithmetic(*op) => {
            let whole =
                |expr: &Expr| matches!(expr, Expr::Literal(ScalarValue::Int64(Some(_)), _)).then(|| expr.clone());
            let (exact_left, exact_right) = (decimal(left), decimal(right));
            if exact_left.is_none() && exact_right.is_none() {
                return None;
            }
            let (left, right) = (exact_left.or_else(|| whole(left))?, exact_right.or_else(|| whole(right))?);
            Some(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), *op, Box::new(right))))
        }
        Expr::Case(case) => {
            let mut case = case.clone();
            let mut results: Vec<&mut Expr> = case.when_then_expr.iter_mut().map(|(_, then)| then.as_mut()).collect();
            results.extend(case.else_expr.as_deref_mut());
            all_decimal(&mut results).then_some(Expr::Case(case))
        }
        Expr::ScalarFunction(call) => {
            let (_, first) = ALIKE.iter().find(|(name, _)| *name == call.name())?;
            let mut call = call.clone();
            all_decimal(&mut call.args.iter_mut().skip(*first).collect::<Vec<_>>())
                .then_some(Expr::ScalarFunction(call))
        }
        _ => None,
    }
}

/// Makes constants DECIMALs; true when all are constants and at least one has a point.
fn all_decimal(group: &mut [&mut Expr]) -> bool {
    let mut any = false;
    for expr in group {
        match decimal(expr) {
            Some(exact) => (**expr, any) = (exact, true),
            None if matches!(expr, Expr::Literal(value, _) if value.is_null() || value.data_type().is_integer()) => {}
            None => return false,
        }
    }
    any
}

/// Makes the numbers of one column alike, of a UNION's inputs or of VALUES, as [`as_meant`] does those of a CASE; true when it changed one.
pub fn column_as_meant(group: &mut [&mut Expr], schema: &DFSchema) -> Result<bool> {
    alike(group, schema)
}

/// Makes the TIMESTAMP_NTZs among the inputs of one column of a UNION TIMESTAMPs, if one is; true when it changed one.
pub fn instants_alike(group: &mut [(Expr, Arc<DFSchema>)]) -> bool {
    let kind = |(expr, schema): &(Expr, Arc<DFSchema>)| expr.get_type(schema.as_ref()).ok();
    let zoned = group.iter().filter_map(kind).find(|kind| matches!(kind, DataType::Timestamp(_, Some(_))));
    let Some(zoned) = zoned else { return false };
    let mut changed = false;
    for input in group {
        if matches!(kind(input), Some(DataType::Timestamp(_, None))) {
            input.0 = Expr::Cast(Cast::new(Box::new(std::mem::take(&mut input.0)), zoned.clone()));
            changed = true;
        }
    }
    changed
}

fn is_interval(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|kind| matches!(kind, DataType::Interval(_)))
}

fn no_length<T>(function: &str) -> Result<T> {
    plan_err!("`{function}` of intervals is not supported: compare lengths, `EXTRACT(EPOCH FROM x)`")
}
