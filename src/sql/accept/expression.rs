//! Expressions.

use arrow::array::timezone::Tz;
use datafusion::sql::sqlparser::ast::{
    Array, BinaryOperator, CaseWhen, CastKind, CeilFloorKind, DateTimeField, Expr, Interval, TypedString,
    UnaryOperator, Value,
};

use super::{Checked, function, named, refuse, unless};

const REGEX: &str = "Write `x ~ 'regular expression'` (`~*` ignores case, `!~` negates), or `LIKE`.";
const FIELDS: &str =
    "Declare the field as a column of the source (`a STRING FROM 'path.to.a'`) or a STRUCT, whose field is `s['a']`.";

#[expect(clippy::too_many_lines, reason = "one arm for each node, none left out")]
pub fn check(expr: &Expr) -> Checked {
    match expr {
        Expr::Identifier(_)
        | Expr::CompoundIdentifier(_)
        | Expr::CompoundFieldAccess { root: _, access_chain: _ }
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::IsDistinctFrom(_, _)
        | Expr::IsNotDistinctFrom(_, _)
        | Expr::InList { expr: _, list: _, negated: _ }
        | Expr::InSubquery { expr: _, subquery: _, negated: _ }
        | Expr::Between { expr: _, negated: _, low: _, high: _ }
        | Expr::Extract { field: _, syntax: _, expr: _ }
        | Expr::Position { expr: _, r#in: _ }
        | Expr::Substring { expr: _, substring_from: _, substring_for: _, special: _, shorthand: _ }
        | Expr::Overlay { expr: _, overlay_what: _, overlay_from: _, overlay_for: _ }
        | Expr::Nested(_)
        | Expr::Exists { subquery: _, negated: _ }
        | Expr::Subquery(_)
        | Expr::GroupingSets(_)
        | Expr::Cube(_)
        | Expr::Rollup(_)
        | Expr::Tuple(_)
        | Expr::Named { expr: _, name: _ }
        | Expr::Dictionary(_)
        | Expr::Map(_)
        | Expr::Array(Array { elem: _, named: _ })
        | Expr::Wildcard(_)
        | Expr::QualifiedWildcard(_, _)
        | Expr::TypedString(TypedString { data_type: _, value: _, uses_odbc_syntax: _ }) => Ok(()),
        Expr::Case { case_token: _, end_token: _, operand: _, conditions, else_result: _ } => {
            conditions.iter().for_each(|CaseWhen { condition: _, result: _ }| ());
            Ok(())
        }
        Expr::Function(called) => function::check(called),
        Expr::AtTimeZone { timestamp: _, time_zone } => check_zone(time_zone),
        Expr::Value(value) => check_value(&value.value),
        Expr::BinaryOp { left: _, op, right: _ }
        | Expr::AnyOp { left: _, compare_op: op, right: _, is_some: _ }
        | Expr::AllOp { left: _, compare_op: op, right: _ } => check_operator(op),
        Expr::Like { negated: _, any, expr: _, pattern: _, escape_char: _ }
        | Expr::ILike { negated: _, any, expr: _, pattern: _, escape_char: _ } => {
            unless(*any, "ANY", "Write `a LIKE 'x%' OR a LIKE 'y%'`.")
        }
        Expr::UnaryOp { op: UnaryOperator::Not | UnaryOperator::Plus | UnaryOperator::Minus, expr: _ } => Ok(()),
        Expr::UnaryOp { op, expr: _ } => named(op.to_string(), op.to_string(), "Call a function."),
        Expr::Cast { kind, expr: _, data_type: _, array, format } => {
            match kind {
                CastKind::Cast | CastKind::TryCast | CastKind::SafeCast | CastKind::DoubleColon => {}
            }
            unless(*array, "ARRAY", "Cast to `t[]`.")?;
            unless(format.is_some(), "FORMAT", "Write `to_timestamp(x, 'pattern')` or `to_char(x, 'pattern')`.")
        }
        Expr::Ceil { expr: _, field } => check_rounding("CEIL", field),
        Expr::Floor { expr: _, field } => check_rounding("FLOOR", field),
        Expr::Trim { trim_where: _, trim_what: _, expr: _, trim_characters } => {
            let extra = trim_characters.as_ref().is_some_and(|characters| characters.len() > 1);
            unless(extra, "TRIM", "Write `TRIM(x, 'characters')`.")
        }
        Expr::Struct { values: _, fields } => {
            unless(!fields.is_empty(), "STRUCT", "Cast the fields: `struct(CAST(a AS …))`.")
        }
        Expr::Interval(Interval {
            value: _,
            leading_field: _,
            leading_precision,
            last_field,
            fractional_seconds_precision,
        }) => {
            let precise = leading_precision.is_some() || last_field.is_some() || fractional_seconds_precision.is_some();
            unless(precise, "INTERVAL", "Write `INTERVAL '1 day 2 hours'`.")
        }
        Expr::SimilarTo { negated: _, expr: _, pattern: _, escape_char: _ } => refuse("SIMILAR TO", REGEX),
        Expr::RLike { negated: _, expr: _, pattern: _, regexp: true } => refuse("REGEXP", REGEX),
        Expr::RLike { negated: _, expr: _, pattern: _, regexp: false } => refuse("RLIKE", REGEX),
        Expr::IsNormalized { expr: _, form: _, negated: _ } => refuse("NORMALIZED", "Leave it out."),
        Expr::InUnnest { expr: _, array_expr: _, negated: _ } => refuse("IN UNNEST", "Write `x = ANY(array)`."),
        Expr::Convert { is_try: _, expr: _, data_type: _, charset: _, target_before_value: _, styles: _ } => {
            refuse("CONVERT", "Write `CAST(x AS t)` or `TRY_CAST(x AS t)`.")
        }
        Expr::JsonAccess { value: _, path: _ } => refuse(":", FIELDS),
        Expr::Collate { expr: _, collation: _ } => {
            refuse("COLLATE", "Texts are compared by their characters' code points.")
        }
        Expr::Prefixed { prefix: _, value: _ } => {
            named("", expr.to_string(), "Write the text without its character set.")
        }
        Expr::MatchAgainst { columns: _, match_value: _, opt_search_modifier: _ } => refuse("MATCH", REGEX),
        Expr::OuterJoin(_) => refuse("+", "Write `LEFT JOIN … ON …`."),
        Expr::Prior(_) => refuse("PRIOR", "In a query write `WITH RECURSIVE`."),
        Expr::Lambda(_) => refuse("->", FIELDS),
        Expr::MemberOf(_) => refuse("MEMBER", "Write `x = ANY(array)`."),
    }
}

/// Errors: a zone that is not known. DataFusion would carry its name to whatever reads the time.
fn check_zone(zone: &Expr) -> Checked {
    let Expr::Value(value) = zone else { return Ok(()) };
    let Value::SingleQuotedString(name) = &value.value else { return Ok(()) };
    match name.parse::<Tz>() {
        Ok(_) => Ok(()),
        Err(_) => named(
            zone.to_string(),
            format!("AT TIME ZONE {zone}"),
            "A zone is a name like `Europe/Berlin`, or an offset like `+02:00`.",
        ),
    }
}

fn check_value(value: &Value) -> Checked {
    match value {
        Value::Number(_, _)
        | Value::SingleQuotedString(_)
        | Value::DollarQuotedString(_)
        | Value::EscapedStringLiteral(_)
        | Value::HexStringLiteral(_)
        | Value::DoubleQuotedString(_)
        | Value::Boolean(_)
        | Value::Null
        | Value::Placeholder(_) => Ok(()),
        Value::TripleSingleQuotedString(_)
        | Value::TripleDoubleQuotedString(_)
        | Value::UnicodeStringLiteral(_)
        | Value::SingleQuotedByteStringLiteral(_)
        | Value::DoubleQuotedByteStringLiteral(_)
        | Value::TripleSingleQuotedByteStringLiteral(_)
        | Value::TripleDoubleQuotedByteStringLiteral(_)
        | Value::SingleQuotedRawStringLiteral(_)
        | Value::DoubleQuotedRawStringLiteral(_)
        | Value::TripleSingleQuotedRawStringLiteral(_)
        | Value::TripleDoubleQuotedRawStringLiteral(_)
        | Value::NationalStringLiteral(_)
        | Value::QuoteDelimitedStringLiteral(_)
        | Value::NationalQuoteDelimitedStringLiteral(_) => {
            named("", value.to_string(), "Texts are `'…'`, `E'…'` with escapes or `$$…$$`, bytes `X'…'`.")
        }
    }
}

fn check_rounding(keywords: &'static str, field: &CeilFloorKind) -> Checked {
    match field {
        CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) => Ok(()),
        CeilFloorKind::DateTimeField(_) => refuse(keywords, "Write `date_trunc('hour', ts)`."),
        CeilFloorKind::Scale(_) => refuse(keywords, "Write `round(x, n)` or `trunc(x, n)`."),
    }
}

fn check_operator(op: &BinaryOperator) -> Checked {
    let hint = match op {
        BinaryOperator::Plus
        | BinaryOperator::Minus
        | BinaryOperator::Multiply
        | BinaryOperator::Divide
        | BinaryOperator::Modulo
        | BinaryOperator::StringConcat
        | BinaryOperator::Gt
        | BinaryOperator::Lt
        | BinaryOperator::GtEq
        | BinaryOperator::LtEq
        | BinaryOperator::Spaceship
        | BinaryOperator::Eq
        | BinaryOperator::NotEq
        | BinaryOperator::And
        | BinaryOperator::Or
        | BinaryOperator::BitwiseOr
        | BinaryOperator::BitwiseAnd
        | BinaryOperator::BitwiseXor
        | BinaryOperator::PGBitwiseXor
        | BinaryOperator::PGBitwiseShiftLeft
        | BinaryOperator::PGBitwiseShiftRight
        | BinaryOperator::PGRegexMatch
        | BinaryOperator::PGRegexIMatch
        | BinaryOperator::PGRegexNotMatch
        | BinaryOperator::PGRegexNotIMatch
        | BinaryOperator::PGLikeMatch
        | BinaryOperator::PGILikeMatch
        | BinaryOperator::PGNotLikeMatch
        | BinaryOperator::PGNotILikeMatch
        | BinaryOperator::AtArrow
        | BinaryOperator::ArrowAt => return Ok(()),
        BinaryOperator::Arrow
        | BinaryOperator::LongArrow
        | BinaryOperator::HashArrow
        | BinaryOperator::HashLongArrow
        | BinaryOperator::HashMinus
        | BinaryOperator::AtAt
        | BinaryOperator::AtQuestion
        | BinaryOperator::Question
        | BinaryOperator::QuestionAnd
        | BinaryOperator::QuestionPipe => FIELDS,
        BinaryOperator::Xor => "Write `a <> b` of two conditions.",
        BinaryOperator::DuckIntegerDivide | BinaryOperator::MyIntegerDivide => {
            "Division of whole numbers gives a whole number: `a / b`; else `floor(a / b)`."
        }
        BinaryOperator::PGExp => "Write `power(a, b)`.",
        _ => "It is an operator of another database.",
    };
    named(op.to_string(), op.to_string(), hint)
}
