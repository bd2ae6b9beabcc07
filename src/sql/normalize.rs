//! Forms that sqlparser lacks, rewritten as tokens (never as text: positions stay true):
//!
//! - `TUMBLE(TABLE t, DESCRIPTOR(ts), …)` becomes `TUMBLE(t, ts, …)`, likewise `HOP`, `SESSION`, `DEDUPLICATE`;
//! - `SESSION(TABLE t PARTITION BY a, DESCRIPTOR(ts), gap)` becomes `SESSION(t, ts, gap, KEY(a))`;
//! - `DEDUPLICATE(…, WITHIN INTERVAL '1 day')` loses its `WITHIN`;
//! - `FROM TABLE(TUMBLE(…))` becomes `FROM TUMBLE(…)`.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::cursor::is_keyword;

/// Table functions whose arguments have their own spelling.
const TABLE_FUNCTIONS: &[&str] = &["TUMBLE", "HOP", "SESSION", "DEDUPLICATE"];

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

/// Rewrites what stands between the parentheses of a table function.
fn arguments(tokens: &[TokenWithSpan], out: &mut Vec<TokenWithSpan>) {
    let mut keys: Option<&[TokenWithSpan]> = None;
    let mut next = 0;
    let mut at_start = true;
    while next < tokens.len() {
        let current = token(tokens, next);
        if at_start && next + 1 < tokens.len() && (is_keyword(current, "TABLE") || is_keyword(current, "WITHIN")) {
            next += 1;
        } else if at_start && is_keyword(current, "DESCRIPTOR") && token(tokens, next + 1) == Some(&Token::LParen) {
            let close = closing(tokens, next + 1).unwrap_or(tokens.len());
            out.extend_from_slice(&tokens[next + 2..close]);
            next = close + 1;
        } else if is_keyword(current, "PARTITION") && is_keyword(token(tokens, next + 1), "BY") && keys.is_none() {
            let end = (next + 2..tokens.len()).find(|at| is_keyword(token(tokens, *at), "DESCRIPTOR"));
            let end = end.map_or(tokens.len(), |descriptor| descriptor - 1);
            keys = tokens.get(next..end.max(next + 2));
            next = end.max(next + 2);
            continue;
        } else if is_table_function(tokens, next) {
            let close = closing(tokens, next + 1).map_or(tokens.len(), |close| close + 1);
            out.extend(normalize(&tokens[next..close]));
            next = close;
        } else {
            out.push(tokens[next].clone());
            next += 1;
        }
        at_start = next > 0 && token(tokens, next - 1) == Some(&Token::Comma);
    }
    if let Some([partition, _, columns @ ..]) = keys {
        let at = |token: Token| TokenWithSpan::new(token, partition.span);
        out.extend([at(Token::Comma), at(Token::make_word("KEY", None)), at(Token::LParen)]);
        out.extend_from_slice(columns);
        out.push(at(Token::RParen));
    }
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
        assert_eq!(normalized("TUMBLE(TABLE t, DESCRIPTOR(ts), x)"), "TUMBLE ( t , ts , x )");
        assert_eq!(normalized("FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), x)) w"), "FROM TUMBLE ( t , ts , x ) w");
        assert_eq!(normalized("DEDUPLICATE(TABLE t, KEY(a), WITHIN x)"), "DEDUPLICATE ( t , KEY ( a ) , x )");
        assert_eq!(
            normalized("SESSION(TABLE t PARTITION BY a, b, DESCRIPTOR(ts), gap)"),
            "SESSION ( t , ts , gap , KEY ( a , b ) )"
        );
    }

    #[test]
    fn other_texts_and_unbalanced_ones_stay_as_they_are() {
        for text in ["SELECT TABLE", "TUMBLE ( TABLE t", "f ( DESCRIPTOR ( a ) )", "TUMBLE ( t PARTITION BY )"] {
            let _ = normalized(text);
        }
        assert_eq!(normalized("SELECT a FROM t WHERE f(a)"), "SELECT a FROM t WHERE f ( a )");
    }
}
