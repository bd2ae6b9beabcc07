//! Syntax that sqlparser lacks, rewritten as tokens (never as text, which would change positions):
//!
//! - `TUMBLE(TABLE t, DESCRIPTOR(ts), …)` becomes `TUMBLE((SELECT * FROM t), ts, …)`, likewise `HOP`, `SESSION`,
//!   `DEDUPLICATE`: a table as an argument is a subquery, so that everything that looks for tables in a query finds it;
//! - `SESSION(TABLE t PARTITION BY a, DESCRIPTOR(ts), gap)` becomes `SESSION((SELECT * FROM t), ts, gap, KEY(a))`;
//! - `DEDUPLICATE(…, WITHIN INTERVAL '1 day')` loses its `WITHIN`;
//! - `FROM TABLE(TUMBLE(…))` becomes `FROM TUMBLE(…)`.

use std::ops::Range;

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::cursor::is_keyword;

/// Table functions whose arguments have a syntax of their own.
pub const TABLE_FUNCTIONS: &[&str] = &["TUMBLE", "HOP", "SESSION", "DEDUPLICATE"];

/// The tokens in the form that sqlparser reads.
pub fn normalize(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut next = 0;
    while next < tokens.len() {
        let wrapped = is_keyword(token(tokens, next), "TABLE")
            && token(tokens, next + 1) == Some(&Token::LParen)
            && is_table_function(tokens, next + 2);
        let start = if wrapped { next + 2 } else { next };
        if !is_table_function(tokens, start) {
            out.push(tokens[next].clone());
            next += 1;
            continue;
        }
        let Some(close) = closing(tokens, start + 1) else {
            out.extend_from_slice(&tokens[next..]);
            break;
        };
        out.extend_from_slice(&tokens[start..start + 2]);
        arguments(&tokens[start + 2..close], &mut out);
        out.push(tokens[close].clone());
        next = close + 1;
        if wrapped && token(tokens, next) == Some(&Token::RParen) {
            next += 1;
        }
    }
    out
}

/// Rewrites the arguments of a table function.
fn arguments(tokens: &[TokenWithSpan], out: &mut Vec<TokenWithSpan>) {
    let keys = partition_by(tokens).unwrap_or(tokens.len()..tokens.len());
    let rest: Vec<TokenWithSpan> = [&tokens[..keys.start], &tokens[keys.end..]].concat();
    let mut start = 0;
    let ends = commas(&rest).into_iter().chain([rest.len()]);
    for (index, end) in ends.enumerate() {
        argument(&rest[start..end], index == 0, out);
        out.extend(rest.get(end).cloned());
        start = end + 1;
    }
    if let [partition, _, columns @ ..] = &tokens[keys] {
        let at = |token: Token| TokenWithSpan::new(token, partition.span);
        out.extend([at(Token::Comma), at(Token::make_word("KEY", None)), at(Token::LParen)]);
        out.extend_from_slice(columns);
        out.push(at(Token::RParen));
    }
}

/// One argument, with or without `name =>`; the first one, or `DATA`, is a table.
fn argument(tokens: &[TokenWithSpan], is_first: bool, out: &mut Vec<TokenWithSpan>) {
    let is_named = token(tokens, 1) == Some(&Token::RArrow);
    let is_data = if is_named { is_keyword(token(tokens, 0), "DATA") } else { is_first };
    let (name, mut value) = tokens.split_at(if is_named { 2 } else { 0 });
    out.extend_from_slice(name);
    if value.len() > 1 && (is_keyword(token(value, 0), "TABLE") || is_keyword(token(value, 0), "WITHIN")) {
        value = &value[1..];
    }
    let is_descriptor = is_keyword(token(value, 0), "DESCRIPTOR") && encloses(value, 1);
    if is_descriptor {
        value = &value[2..value.len() - 1];
    }
    let inner = normalize(value);
    match value.last() {
        Some(last) if is_data && !encloses(value, 0) => {
            let opening = [Token::LParen, Token::make_keyword("SELECT"), Token::Mul, Token::make_keyword("FROM")];
            // Without a position, so that no error is reported there.
            out.extend(opening.map(|token| TokenWithSpan::new(token, Span::empty())));
            out.extend(inner);
            out.push(TokenWithSpan::new(Token::RParen, Span::new(last.span.end, last.span.end)));
        }
        _ => out.extend(inner),
    }
}

/// The range of `PARTITION BY columns` among the arguments.
fn partition_by(tokens: &[TokenWithSpan]) -> Option<Range<usize>> {
    let start = outside(tokens)
        .find(|at| is_keyword(token(tokens, *at), "PARTITION") && is_keyword(token(tokens, at + 1), "BY"))?;
    let columns = start + 2;
    if token(tokens, columns) == Some(&Token::LParen) {
        return Some(start..closing(tokens, columns)? + 1);
    }
    // The columns end at the comma before `[name =>] DESCRIPTOR`; without one, two arguments (time and gap) before the end.
    let commas: Vec<usize> = commas(tokens).into_iter().filter(|comma| *comma > columns).collect();
    let describes = |comma: usize| {
        let value = if token(tokens, comma + 2) == Some(&Token::RArrow) { comma + 3 } else { comma + 1 };
        value == comma + 3 || is_keyword(token(tokens, value), "DESCRIPTOR")
    };
    let end = commas.iter().copied().find(|comma| describes(*comma)).or_else(|| commas.iter().rev().nth(1).copied());
    Some(start..end.unwrap_or(tokens.len()))
}

/// The tokens outside of parentheses.
fn outside(tokens: &[TokenWithSpan]) -> impl Iterator<Item = usize> + '_ {
    let mut depth = 0usize;
    tokens.iter().enumerate().filter_map(move |(index, token)| {
        match token.token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        (depth == 0).then_some(index)
    })
}

/// The commas between arguments.
fn commas(tokens: &[TokenWithSpan]) -> Vec<usize> {
    outside(tokens).filter(|index| tokens[*index].token == Token::Comma).collect()
}

/// True when the parenthesis at `open` encloses all that follows it.
fn encloses(tokens: &[TokenWithSpan], open: usize) -> bool {
    token(tokens, open) == Some(&Token::LParen) && closing(tokens, open) == Some(tokens.len() - 1)
}

fn token(tokens: &[TokenWithSpan], index: usize) -> Option<&Token> {
    tokens.get(index).map(|token| &token.token)
}

/// True when a table function's name and its `(` stand at `index`.
fn is_table_function(tokens: &[TokenWithSpan], index: usize) -> bool {
    token(tokens, index + 1) == Some(&Token::LParen)
        && TABLE_FUNCTIONS.iter().any(|name| is_keyword(token(tokens, index), name))
}

/// The index of the parenthesis that closes the one at `open`.
fn closing(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Some(index);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::tokenize;

    fn normalized(text: &str) -> String {
        let tokens = normalize(&tokenize(text, 0, &mut Vec::new()));
        tokens.iter().map(|token| token.token.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn table_functions_lose_their_markers() {
        let table = "( SELECT * FROM t )";
        for (text, expected) in [
            ("TUMBLE(TABLE t, DESCRIPTOR(ts), x)", format!("TUMBLE ( {table} , ts , x )")),
            ("TUMBLE(t, ts, x)", format!("TUMBLE ( {table} , ts , x )")),
            ("FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), x)) w", format!("FROM TUMBLE ( {table} , ts , x ) w")),
            ("HOP((SELECT 1), DESCRIPTOR(a.ts), x, y)", "HOP ( ( SELECT 1 ) , a . ts , x , y )".to_owned()),
            ("DEDUPLICATE(TABLE t, KEY(a), WITHIN x)", format!("DEDUPLICATE ( {table} , KEY ( a ) , x )")),
            (
                "TUMBLE(DATA => TABLE t, TIMECOL => DESCRIPTOR(ts), SIZE => x)",
                format!("TUMBLE ( DATA => {table} , TIMECOL => ts , SIZE => x )"),
            ),
            (
                "TUMBLE(DEDUPLICATE(t, KEY(a)), ts, x)",
                format!("TUMBLE ( ( SELECT * FROM DEDUPLICATE ( {table} , KEY ( a ) ) ) , ts , x )"),
            ),
            (
                "TUMBLE((SELECT * FROM TABLE(HOP(TABLE t, DESCRIPTOR(ts), x, y)) w), ts, x)",
                format!("TUMBLE ( ( SELECT * FROM HOP ( {table} , ts , x , y ) w ) , ts , x )"),
            ),
        ] {
            assert_eq!(normalized(text), expected, "{text}");
        }
    }

    #[test]
    fn partition_by_becomes_a_key() {
        for text in [
            "SESSION(TABLE t PARTITION BY a, b, DESCRIPTOR(ts), gap)",
            "SESSION(t PARTITION BY a, b, ts, gap)",
            "SESSION(TABLE t PARTITION BY (a, b), DESCRIPTOR(ts), gap)",
        ] {
            let inner = if text.contains("BY (") { "( a , b )" } else { "a , b" };
            let expected = format!("SESSION ( ( SELECT * FROM t ) , ts , gap , KEY ( {inner} ) )");
            assert_eq!(normalized(text), expected, "{text}");
        }
        assert_eq!(
            normalized("SESSION(DATA => TABLE t PARTITION BY a, TIMECOL => DESCRIPTOR(ts), GAP => g)"),
            "SESSION ( DATA => ( SELECT * FROM t ) , TIMECOL => ts , GAP => g , KEY ( a ) )"
        );
    }

    #[test]
    fn other_texts_and_unbalanced_ones_stay_as_they_are() {
        for text in [
            "SELECT TABLE",
            "TUMBLE ( TABLE t",
            "f ( DESCRIPTOR ( a ) )",
            "TUMBLE ( t PARTITION BY )",
            "TUMBLE()",
            "TUMBLE(,)",
            "HOP(TABLE)",
            "HOP(TABLE, =>)",
        ] {
            let _ = normalized(text);
        }
        assert_eq!(normalized("SELECT a FROM t WHERE f(a)"), "SELECT a FROM t WHERE f ( a )");
    }
}
