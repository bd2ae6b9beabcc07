//! Queries and expressions inside weir's statements: passed to sqlparser token by token, so that the spans in the syntax
//! tree are positions in the file; its errors become diagnostics at their token.

use datafusion::sql::sqlparser::ast::{Expr, Query};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Word};

use super::cursor::{Cursor, Parsed, is_keyword, show};
use super::diagnostic::lower_first;
use super::dialect::{ParseBudget, WeirDialect};
use super::lexer::tokenize;
use super::limits::{PARSER_RECURSION, check_tokens, too_complex};
use super::normalize::normalize;
use super::suggest::nearest;
use super::weight::Known;
use super::{Diagnostic, Span, accept, distinct, literals, sets, temporal};
use crate::error::SqlState;

/// Parses `tokens` as a query.
pub fn query(tokens: &[TokenWithSpan]) -> Parsed<Box<Query>> {
    let mut query = whole(tokens, |parser| parser.parse_query())?;
    if let Some(excess) = Known::NOTHING.weigh(query.as_ref()).excess() {
        return Err(too_heavy(tokens, excess));
    }
    accept::check(query.as_ref(), tokens)?;
    literals::rewrite(query.as_mut())?;
    temporal::mark_joins(&mut query)?;
    sets::rewrite(query.as_mut());
    distinct::rewrite(query.as_mut());
    Ok(query)
}

/// The error for a query that would take too long to plan.
pub fn too_heavy(tokens: &[TokenWithSpan], excess: String) -> Diagnostic {
    too_complex(whole_span(tokens), "this query is too much to plan")
        .with_detail(excess)
        .with_hint("Split it, or write what is used many times to a table and read that.")
}

fn whole_span(tokens: &[TokenWithSpan]) -> Span {
    tokens.first().zip(tokens.last()).map(|(a, b)| Span::from(a.span).to(b.span.into())).unwrap_or_default()
}

/// Parses `tokens` as an expression.
pub fn expression(tokens: &[TokenWithSpan]) -> Parsed<Expr> {
    let mut expression = whole(tokens, |parser| parser.parse_expr())?;
    accept::check(&expression, tokens)?;
    literals::rewrite(&mut expression)?;
    sets::rewrite(&mut expression);
    Ok(expression)
}

impl Cursor<'_> {
    /// The tokens up to the next `,` or `)` outside of brackets, as an expression.
    pub fn expression(&mut self) -> Parsed<Expr> {
        let tokens = self.up_to_separator();
        if tokens.is_empty() {
            return Err(self.expected("an expression"));
        }
        let expression = expression(tokens)?;
        self.skip(tokens.len());
        Ok(expression)
    }
}

/// Parses an expression from a table's log. Nothing in it is refused or rewritten, since it keeps Spark's meaning.
pub fn stored_expression(text: &str) -> Parsed<Expr> {
    let mut problems = Vec::new();
    let tokens = tokenize(text, 0, &mut problems);
    match problems.pop() {
        Some(problem) => Err(problem),
        None => whole(&tokens, |parser| parser.parse_expr()),
    }
}

/// Parses all of `tokens` or fails.
fn whole<T>(tokens: &[TokenWithSpan], parse: fn(&mut Parser<'_>) -> Result<T, ParserError>) -> Parsed<T> {
    check_tokens(tokens)?;
    let tokens = normalize(tokens);
    if let Some(error) = missing_table(&tokens) {
        return Err(error);
    }
    let dialect = WeirDialect::for_tokens(tokens.len());
    let mut parser =
        Parser::new(&dialect).with_recursion_limit(PARSER_RECURSION).with_tokens_with_locations(tokens.clone());
    let parsed = parse(&mut parser).map_err(|error| located(&error, &tokens, dialect.budget()))?;
    let rest = parser.peek_token();
    if rest.token == Token::EOF {
        return Ok(parsed);
    }
    let index = tokens.iter().position(|token| token.span == rest.span).unwrap_or_default();
    Err(Diagnostic::new(rest.span.into(), format!("unexpected {}", show(&rest.token)))
        .or_hint(misspelt(&tokens, index)))
}

/// Error for `FROM WHERE x`, which sqlparser reads as a table named WHERE.
fn missing_table(tokens: &[TokenWithSpan]) -> Option<Diagnostic> {
    const AFTER: &[&str] = &["WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "UNION", "SELECT", "FROM"];
    tokens.windows(2).find_map(|pair| {
        let opens = is_keyword(Some(&pair[0].token), "FROM") || is_keyword(Some(&pair[0].token), "JOIN");
        let closes = AFTER.iter().any(|word| is_keyword(Some(&pair[1].token), word));
        (opens && closes).then(|| {
            let found = show(&pair[1].token);
            Diagnostic::new(pair[1].span.into(), format!("expected a table, found {found}"))
        })
    })
}

/// A parser's error at the token that it names; `budget` is the parser's.
pub fn located(error: &ParserError, tokens: &[TokenWithSpan], budget: &ParseBudget) -> Diagnostic {
    let all = || whole_span(tokens);
    let text = match error {
        ParserError::RecursionLimitExceeded => {
            let Some(furthest) = budget.spent_at() else {
                return too_complex(all(), "this is nested too deeply").with_hint("Split it with `WITH` or a view.");
            };
            let at = tokens.iter().find(|token| token.span.start == furthest).map(|token| token.span.into());
            return too_complex(at.unwrap_or_else(all), "this cannot be parsed")
                .with_detail("There are too many ways to read what is nested here.")
                .with_hint(
                    "Probably something is wrong at this place; else split the statement with `WITH` or a view.",
                );
        }
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
    };
    let (message, location) = split_location(text);
    let index = location.and_then(|location| tokens.iter().position(|token| token.span.start == location));
    let ended = message.ends_with("found: EOF");
    let span = match index {
        Some(index) => tokens[index].span.into(),
        None if ended => tokens.last().map(|token| Span::from(token.span).after()).unwrap_or_default(),
        None => all(),
    };
    let place = index.unwrap_or(if ended { tokens.len() } else { 0 });
    Diagnostic::new(span, readable(message, index.map(|index| &tokens[index].token)))
        .with_state(SqlState::SYNTAX)
        .or_hint(misspelt(tokens, place))
}

/// The message without its ` at Line: L, Column: C`, and that location.
fn split_location(text: &str) -> (&str, Option<Location>) {
    let found = text.rfind(" at Line: ").and_then(|at| {
        let (line, column) = text[at + " at Line: ".len()..].split_once(", Column: ")?;
        Some((at, Location::new(line.parse().ok()?, column.trim().parse().ok()?)))
    });
    match found {
        Some((at, location)) => (&text[..at], Some(location)),
        None => (text, None),
    }
}

/// sqlparser's message in weir's wording.
fn readable(message: &str, token: Option<&Token>) -> String {
    let Some((what, found)) = message.strip_prefix("Expected: ").and_then(|rest| rest.split_once(", found: ")) else {
        return lower_first(message.trim_end_matches('.'));
    };
    let found = match (found, token) {
        ("EOF", _) => "the end of the statement".to_owned(),
        (_, Some(token)) => show(token),
        (found, None) => format!("`{found}`"),
    };
    let is_keyword = what.chars().all(|c| c.is_ascii_uppercase() || "()[], ".contains(c));
    let what = if is_keyword { format!("`{what}`") } else { lower_first(what) };
    format!("expected {what}, found {found}")
}

/// First words of the clauses of queries.
const CLAUSES: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "WINDOW",
    "PARTITION",
    "LIMIT",
    "UNION",
    "DISTINCT",
    "INNER",
    "LEFT",
    "RIGHT",
    "FULL",
    "OUTER",
    "JOIN",
    "VALUES",
    "BETWEEN",
    "PRECEDING",
    "FOLLOWING",
    "CURRENT",
    "INTERVAL",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "LATERAL",
    "OFFSET",
    "EXCEPT",
    "INTERSECT",
];

/// A hint if the word at `index`, or one just before it, is a misspelt keyword.
fn misspelt(tokens: &[TokenWithSpan], index: usize) -> Option<String> {
    let end = (index + 1).min(tokens.len());
    tokens[end.saturating_sub(3)..end].iter().rev().find_map(|token| {
        let Token::Word(Word { value, quote_style: None, .. }) = &token.token else { return None };
        if CLAUSES.iter().any(|clause| clause.eq_ignore_ascii_case(value)) {
            return None;
        }
        nearest(value, CLAUSES.iter().copied()).map(|clause| format!("Did you mean `{clause}` instead of `{value}`?"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Diagnostic {
        query(&tokenize(text, 2, &mut Vec::new())).expect_err(text)
    }

    #[test]
    fn errors_stand_at_the_token_that_is_wrong() {
        let found = error("SELECT a\n  FROM WHERE x");
        assert_eq!((found.span.file, found.span.start.line, found.span.start.column), (2, 2, 8), "{found:?}");
        let found = error("SELECT a FORM t");
        assert_eq!(found.message, "unexpected `t`");
        assert_eq!(found.hint.as_deref(), Some("Did you mean `FROM` instead of `FORM`?"));
        let found = error("SELECT a FROM t WHERE");
        assert_eq!(found.span.start.column, 22, "{found:?}");
        assert!(found.message.ends_with("found the end of the statement"), "{}", found.message);
    }

    #[test]
    fn streaming_forms_are_parsed() {
        for text in [
            "SELECT * FROM TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute')",
            "SELECT * FROM TABLE(HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute', INTERVAL '1 hour')) AS w",
            "SELECT * FROM SESSION(TABLE t PARTITION BY user_id, DESCRIPTOR(ts), INTERVAL '5 minutes')",
            "SELECT * FROM DEDUPLICATE(TABLE t, KEY(a, b), WITHIN INTERVAL '24 hours')",
            "SELECT * FROM t VERSION AS OF 12",
            "SELECT * FROM t TIMESTAMP AS OF '2026-01-01'",
            "SELECT * FROM t LEFT JOIN c FOR SYSTEM_TIME AS OF t.ts AS c2 ON c2.a = t.a",
            "SELECT * FROM t ASOF JOIN r MATCH_CONDITION (t.ts >= r.ts) ON t.id = r.id",
            "SELECT count(*) OVER h FROM t WINDOW h AS (PARTITION BY a ORDER BY ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)",
            "SELECT m(a => 1, b => 2) FROM t",
        ] {
            if let Err(error) = query(&tokenize(text, 0, &mut Vec::new())) {
                panic!("{text}: {error:?}");
            }
        }
    }
}
