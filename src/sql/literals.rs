//! Rewrites literals that have another meaning in DataFusion: patterns of dates and times, and numbers with more digits than
//! a DOUBLE holds. Numbers beyond a DOUBLE are refused.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Spanned,
    UnaryOperator, Value, VisitMut, VisitorMut,
};

use super::cursor::Parsed;
use super::lexer::fold;
use super::{Diagnostic, formats};

/// Decimal digits that a DOUBLE always keeps.
const DOUBLE_DIGITS: usize = 15;
/// Digits of a DECIMAL.
const DECIMAL_DIGITS: usize = 38;

/// Functions with patterns, and the index of the first pattern among their arguments.
const PATTERNS: &[(&str, usize)] = &[
    ("to_char", 1),
    ("date_format", 1),
    ("to_date", 1),
    ("to_timestamp", 1),
    ("to_timestamp_seconds", 1),
    ("to_timestamp_millis", 1),
    ("to_timestamp_micros", 1),
    ("to_timestamp_nanos", 1),
    ("to_unixtime", 1),
];

/// Rewrites the literals of `ast`. Errors: a pattern that cannot be translated, a number that no type holds.
pub fn rewrite(ast: &mut impl VisitMut) -> Parsed<()> {
    match ast.visit(&mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = Diagnostic;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Diagnostic> {
        match expr {
            Expr::Function(function) => {
                if let Err(error) = translate_patterns(function) {
                    return ControlFlow::Break(error);
                }
            }
            // DataFusion reads `-INTERVAL '1 month 1 day'` as `INTERVAL '-1 month 1 day'`.
            Expr::UnaryOp { op: UnaryOperator::Minus, expr: operand } if matches!(**operand, Expr::Interval(_)) => {
                let interval = std::mem::replace(&mut **operand, Expr::value(Value::Null));
                **operand = Expr::Nested(Box::new(interval));
            }
            Expr::Value(value) => {
                if let Value::Number(text, _) = &value.value
                    && text.parse::<f64>().is_ok_and(f64::is_infinite)
                {
                    let message = format!("`{text}` is out of the range of DOUBLE");
                    let problem = Diagnostic::new(value.span.into(), message)
                        .with_hint("The greatest is about 1.8e308; write `CAST('Infinity' AS DOUBLE)` for infinity.");
                    return ControlFlow::Break(problem);
                }
                if let Value::Number(text, _) = &value.value
                    && let Some((digits, scale)) = long(text)
                {
                    let exact = ExactNumberInfo::PrecisionAndScale(digits as u64, scale as i64);
                    let text = Value::SingleQuotedString(text.clone()).with_span(value.span);
                    *expr = Expr::Cast {
                        kind: CastKind::Cast,
                        expr: Box::new(Expr::Value(text)),
                        data_type: DataType::Decimal(exact),
                        array: false,
                        format: None,
                    };
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The digits of a number, in total and after the point, if it is neither a BIGINT nor exact as a DOUBLE, but fits a
/// DECIMAL.
fn long(text: &str) -> Option<(usize, usize)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(part) || text.parse::<u64>().is_ok() {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let shown = if whole.is_empty() { part.trim_start_matches('0').len() } else { whole.len() + part.len() };
    let digits = (whole.len() + part.len()).max(1);
    (shown > DOUBLE_DIGITS && digits <= DECIMAL_DIGITS).then_some((digits, part.len()))
}

fn translate_patterns(function: &mut Function) -> Parsed<()> {
    let name = fold(&function.name.to_string());
    let Some((_, first)) = PATTERNS.iter().find(|(known, _)| *known == name) else { return Ok(()) };
    let FunctionArguments::List(list) = &mut function.args else { return Ok(()) };
    for argument in list.args.iter_mut().skip(*first) {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) = argument else { continue };
        let Value::SingleQuotedString(pattern) = &value.value else { continue };
        let problem = |problem: String| {
            Diagnostic::new(value.span().into(), format!("`{name}` cannot take the pattern `{pattern}`: {problem}"))
                .with_hint("Write it as in chrono's strftime, with `%`: `'%Y-%m-%d %H:%M:%S'`.")
        };
        let Some(dialect) = formats::dialect(&name, pattern).map_err(problem)? else { continue };
        let translated = formats::translate(dialect, pattern).map_err(problem)?;
        value.value = Value::SingleQuotedString(translated);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::sql::embedded;
    use crate::sql::lexer::tokenize;

    fn read(text: &str) -> Result<String, String> {
        let expression = embedded::expression(&tokenize(text, 0, &mut Vec::new()));
        expression.map(|expression| expression.to_string()).map_err(|error| error.message)
    }

    #[test]
    fn patterns_become_those_of_chrono() {
        for (text, expected) in [
            ("to_char(ts, 'YYYY-MM-DD')", Ok("to_char(ts, '%Y-%m-%d')")),
            ("DATE_FORMAT(ts, 'yyyy-MM-dd')", Ok("DATE_FORMAT(ts, '%Y-%m-%d')")),
            ("to_timestamp(s, 'DD/MM/YYYY', '%Y')", Ok("to_timestamp(s, '%d/%m/%Y', '%Y')")),
            ("to_char(ts, p)", Ok("to_char(ts, p)")),
            ("upper('YYYY')", Ok("upper('YYYY')")),
            ("to_char(ts, 'Month')", Err("`to_char` cannot take the pattern `Month`: `th` has no equivalent here")),
        ] {
            assert_eq!(read(text).as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn numbers_that_no_type_holds_are_refused() {
        for text in ["1e400", "1e309", "-1e999", "1 + 1e400"] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains("is out of the range of DOUBLE"), "{text}: {refused}");
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        for (text, expected) in [
            ("1.5", "1.5"),
            ("9223372036854775807", "9223372036854775807"),
            ("0.000000000000000000001", "0.000000000000000000001"),
            ("123456789012345.5", "CAST('123456789012345.5' AS DECIMAL(16,1))"),
            ("12345678901234567.88", "CAST('12345678901234567.88' AS DECIMAL(19,2))"),
            ("98765432109876543210987", "CAST('98765432109876543210987' AS DECIMAL(23,0))"),
            ("1e30", "1e30"),
            ("1e308", "1e308"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
    }
}
