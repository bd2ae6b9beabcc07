//! The precedence of operators as PostgreSQL documents it ("Operator Precedence" in its manual); sqlparser's generic dialect
//! differs.
//!
//! `^` is bitwise XOR, as in DataFusion, and binds like PostgreSQL's power operator. Comparisons do not chain: `a < b < c`
//! is an error.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
use datafusion::sql::sqlparser::dialect::Precedence;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

const MEMBER: u8 = 100;
const CAST: u8 = 95;
const SIGN: u8 = 80;
const AT_TIME_ZONE: u8 = 70;
const POWER: u8 = 60;
const PRODUCT: u8 = 50;
const SUM: u8 = 40;
/// Every operator that has no level of its own: `||`, `|`, `&`, `<<`, `->`, `~` …
const OTHER: u8 = 30;
/// `BETWEEN`, `IN`, `LIKE`, `ILIKE`, `SIMILAR TO`.
const RANGE: u8 = 25;
const COMPARISON: u8 = 20;
const IS: u8 = 17;
const NOT: u8 = 15;
const AND: u8 = 10;
const XOR: u8 = 7;
const OR: u8 = 5;

/// The precedences that sqlparser requests by name.
///
/// It requests the level of products to read the operand of a sign, and that of sums to read the operand of a prefixed `~`.
pub fn value(precedence: Precedence) -> u8 {
    match precedence {
        Precedence::Period => MEMBER,
        Precedence::DoubleColon => CAST,
        Precedence::MulDivModOp => SIGN,
        Precedence::AtTz => AT_TIME_ZONE,
        Precedence::Caret => POWER,
        Precedence::PlusMinus | Precedence::Ampersand | Precedence::Pipe | Precedence::Colon | Precedence::PgOther => {
            OTHER
        }
        Precedence::Between | Precedence::Like => RANGE,
        Precedence::Eq => COMPARISON,
        Precedence::Is => IS,
        Precedence::UnaryNot => NOT,
        Precedence::And => AND,
        Precedence::Xor => XOR,
        Precedence::Or => OR,
    }
}

/// The level of the next operator, if sqlparser would give it another.
pub fn of_next(parser: &Parser<'_>) -> Option<u8> {
    match &parser.peek_token_ref().token {
        Token::Mul | Token::Div | Token::DuckIntDiv | Token::Mod => Some(PRODUCT),
        Token::Plus | Token::Minus => Some(SUM),
        Token::StringConcat
        | Token::Tilde
        | Token::TildeAsterisk
        | Token::ExclamationMarkTilde
        | Token::ExclamationMarkTildeAsterisk
        | Token::DoubleTilde
        | Token::DoubleTildeAsterisk
        | Token::ExclamationMarkDoubleTilde
        | Token::ExclamationMarkDoubleTildeAsterisk
        | Token::Sharp
        | Token::ShiftLeft
        | Token::ShiftRight
        | Token::CaretAt => Some(OTHER),
        Token::Word(word) => match word.keyword {
            Keyword::DIV => Some(PRODUCT),
            Keyword::OPERATOR => Some(OTHER),
            _ => None,
        },
        _ => None,
    }
}

/// Parses operators that sqlparser reads differently: `IS [NOT] DISTINCT FROM` takes one operand, not all that follows.
/// Errors: two comparisons in a row.
pub fn infix(parser: &mut Parser<'_>, left: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
    if matches!(precedence, COMPARISON | RANGE) && level(left) == Some(precedence) {
        let next = parser.peek_token_ref();
        let (found, at) = (next.token.to_string(), next.span.start);
        return Some(Err(ParserError::ParserError(format!(
            "`{found}` cannot follow another comparison without parentheses or AND{at}"
        ))));
    }
    let make = if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
        Expr::IsDistinctFrom
    } else if parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]) {
        Expr::IsNotDistinctFrom
    } else {
        return None;
    };
    let right = parser.parse_subexpr(precedence);
    Some(right.map(|right| make(Box::new(left.clone()), Box::new(right))))
}

/// The level of an expression that is a comparison and not in parentheses.
fn level(expr: &Expr) -> Option<u8> {
    match expr {
        Expr::BinaryOp { op, .. } | Expr::AnyOp { compare_op: op, .. } | Expr::AllOp { compare_op: op, .. } => {
            matches!(
                op,
                BinaryOperator::Eq
                    | BinaryOperator::NotEq
                    | BinaryOperator::Lt
                    | BinaryOperator::LtEq
                    | BinaryOperator::Gt
                    | BinaryOperator::GtEq
                    | BinaryOperator::Spaceship
            )
            .then_some(COMPARISON)
        }
        Expr::Between { .. }
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::InUnnest { .. }
        | Expr::Like { .. }
        | Expr::ILike { .. }
        | Expr::RLike { .. }
        | Expr::SimilarTo { .. } => Some(RANGE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use datafusion::sql::sqlparser::ast::{Expr, visit_expressions_mut};
    use datafusion::sql::sqlparser::parser::{Parser, ParserError};
    use datafusion::sql::sqlparser::tokenizer::Token;

    use crate::sql::dialect::WeirDialect;
    use crate::sql::lexer::tokenize;

    fn parse(text: &str) -> Result<Expr, ParserError> {
        let tokens = tokenize(text, 0, &mut Vec::new());
        let dialect = WeirDialect::for_tokens(tokens.len());
        let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens);
        let expr = parser.parse_expr()?;
        parser.expect_token(&Token::EOF).map(|_| expr)
    }

    /// The tree without its parentheses, so that `a + b * c` and `a + (b * c)` are equal.
    fn tree(text: &str) -> Expr {
        let mut expr = parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let _ = visit_expressions_mut(&mut expr, |expr| {
            while let Expr::Nested(inner) = expr {
                *expr = (**inner).clone();
            }
            ControlFlow::<()>::Continue(())
        });
        expr
    }

    fn same(written: &str, meant: &str) {
        assert_eq!(tree(written), tree(meant), "`{written}` is not `{meant}`");
    }

    /// PostgreSQL's manual, table "Operator Precedence (highest to lowest)", with its `^` and "any other operator".
    const LEVELS: &[&[&str]] = &[
        &["AT TIME ZONE"],
        &["^"],
        &["*", "/", "%"],
        &["+", "-"],
        &["||", "|", "&", "<<", ">>", "->", "->>", "#>", "#>>", "@>", "<@", "~", "~*", "!~", "!~*", "~~", "!~~"],
        &["LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE", "SIMILAR TO"],
        &["=", "<>", "!=", "<", "<=", ">", ">="],
        &["IS DISTINCT FROM", "IS NOT DISTINCT FROM"],
        &["AND"],
        &["OR"],
    ];

    fn ranked() -> impl Iterator<Item = (usize, &'static str)> + Clone {
        LEVELS.iter().enumerate().flat_map(|(rank, level)| level.iter().map(move |operator| (rank, *operator)))
    }

    /// Levels without associativity in PostgreSQL: two such operators in a row are an error.
    const CHAINLESS: [usize; 2] = [5, 6];

    #[test]
    fn all_pairs_of_operators_bind_as_in_postgresql() {
        let mut compared = 0;
        for (first_rank, first) in ranked() {
            for (second_rank, second) in ranked() {
                let written = format!("a {first} b {second} c");
                if first_rank == second_rank && CHAINLESS.contains(&first_rank) {
                    assert!(parse(&written).is_err(), "{written}");
                    continue;
                }
                let meant = match first_rank <= second_rank {
                    true => format!("(a {first} b) {second} c"),
                    false => format!("a {first} (b {second} c)"),
                };
                same(&written, &meant);
                compared += 1;
            }
        }
        assert!(compared > 1000, "{compared}");
    }

    #[test]
    fn prefixes_and_suffixes_bind_as_in_postgresql() {
        for (rank, operator) in ranked() {
            same(&format!("- a {operator} b"), &format!("(- a) {operator} b"));
            same(&format!("a::INT {operator} b"), &format!("(a::INT) {operator} b"));
            same(&format!("a {operator} b::INT"), &format!("a {operator} (b::INT)"));
            let is_logical = rank >= 8;
            same(
                &format!("NOT a {operator} b"),
                &if is_logical { format!("(NOT a) {operator} b") } else { format!("NOT (a {operator} b)") },
            );
            for suffix in ["IS NULL", "IS NOT NULL", "IS TRUE", "IS NOT FALSE", "IS UNKNOWN"] {
                same(
                    &format!("a {operator} b {suffix}"),
                    &if is_logical {
                        format!("a {operator} (b {suffix})")
                    } else {
                        format!("(a {operator} b) {suffix}")
                    },
                );
            }
            for suffix in ["IN (1, 2)", "NOT IN (1, 2)", "BETWEEN 1 AND 2", "NOT BETWEEN 1 AND 2"] {
                if rank != 5 {
                    same(
                        &format!("a {operator} b {suffix}"),
                        &if rank > 5 {
                            format!("a {operator} (b {suffix})")
                        } else {
                            format!("(a {operator} b) {suffix}")
                        },
                    );
                }
            }
        }
    }

    #[test]
    fn what_postgresql_makes_of_mixed_expressions() {
        for (written, meant) in [
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
            ("a IS NOT DISTINCT FROM b OR c", "(a IS NOT DISTINCT FROM b) OR c"),
            ("a IS DISTINCT FROM b + 1 AND c", "(a IS DISTINCT FROM (b + 1)) AND c"),
            ("NOT a IS DISTINCT FROM b AND c", "(NOT (a IS DISTINCT FROM b)) AND c"),
            ("a = b IS NOT DISTINCT FROM c = d", "(a = b) IS NOT DISTINCT FROM (c = d)"),
            ("a || b + c = d", "(a || (b + c)) = d"),
            ("a -> 'x' = 'y'", "(a -> 'x') = 'y'"),
            ("a -> 'x' ->> 'y' LIKE 'z%'", "((a -> 'x') ->> 'y') LIKE 'z%'"),
            ("a LIKE 'x' || b", "a LIKE ('x' || b)"),
            ("a BETWEEN b - 1 AND b + 1 AND c", "(a BETWEEN (b - 1) AND (b + 1)) AND c"),
            ("a = b BETWEEN 1 AND 2", "a = (b BETWEEN 1 AND 2)"),
            ("a BETWEEN 1 AND 2 = b", "(a BETWEEN 1 AND 2) = b"),
            ("a = b LIKE c", "a = (b LIKE c)"),
            ("-a ^ b", "(-a) ^ b"),
            ("a * b ^ c", "a * (b ^ c)"),
            ("a & b = 0", "(a & b) = 0"),
            ("a - b - c", "(a - b) - c"),
            ("a OR b AND NOT c = d", "a OR (b AND (NOT (c = d)))"),
            ("CASE WHEN a IS DISTINCT FROM b AND c THEN 1 END", "CASE WHEN (a IS DISTINCT FROM b) AND c THEN 1 END"),
            ("ts AT TIME ZONE 'UTC' + b", "(ts AT TIME ZONE 'UTC') + b"),
            ("(a < b) = c", "((a < b)) = c"),
        ] {
            same(written, meant);
        }
    }
}
