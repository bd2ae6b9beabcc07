//! Splits a file's tokens into statements: at `;`, but not inside `BEGIN … END`, and also where a `;` is missing, so that
//! one mistake affects one statement.

use std::ops::Range;

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::Diagnostic;
use super::cursor::is_keyword;

/// The words that can follow `CREATE`.
pub const OBJECTS: &[&str] =
    &["SECRET", "SOURCE", "TABLE", "SINK", "VIEW", "MATERIALIZED", "FUNCTION", "MODEL", "PIPELINE"];

/// The statements as ranges of tokens, without their `;`.
pub fn split(tokens: &[TokenWithSpan], errors: &mut Vec<Diagnostic>) -> Vec<Range<usize>> {
    let mut statements = Vec::new();
    let mut start = 0;
    while start < tokens.len() {
        if tokens[start].token == Token::SemiColon {
            start += 1;
            continue;
        }
        let end = match body_of_pipeline(tokens, start) {
            Some(body) => end_of_pipeline(tokens, start, body, errors),
            None => end_of_statement(tokens, start, errors),
        };
        statements.push(start..end);
        start = end;
    }
    statements
}

/// The statements of a pipeline's body, which holds no further blocks.
pub fn split_body(tokens: &[TokenWithSpan], errors: &mut Vec<Diagnostic>) -> Vec<Range<usize>> {
    let mut statements = Vec::new();
    let mut start = 0;
    while start < tokens.len() {
        if tokens[start].token == Token::SemiColon {
            start += 1;
            continue;
        }
        let end = end_of_statement(tokens, start, errors);
        statements.push(start..end);
        start = end;
    }
    statements
}

/// The index of the next `;`, of the end, or of a new statement that begins without a `;`.
fn end_of_statement(tokens: &[TokenWithSpan], start: usize, errors: &mut Vec<Diagnostic>) -> usize {
    let explains = is_keyword(token(tokens, start), "EXPLAIN");
    let mut depth = 0usize;
    for index in start..tokens.len() {
        match tokens[index].token {
            Token::SemiColon => return index,
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ if index > start && depth == 0 && !explains && begins_statement(tokens, index) => {
                let span = tokens[index].span.into();
                errors.push(
                    Diagnostic::new(span, "missing `;` before this statement")
                        .with_hint("End the statement above with `;`."),
                );
                return index;
            }
            _ => {}
        }
    }
    tokens.len()
}

/// True when `CREATE <object>` or `INSERT INTO` stands at `index`.
fn begins_statement(tokens: &[TokenWithSpan], index: usize) -> bool {
    created_object(tokens, index).is_some()
        || (is_keyword(token(tokens, index), "INSERT") && is_keyword(token(tokens, index + 1), "INTO"))
}

/// The index of the object's kind, if `CREATE [OR REPLACE] <object>` begins at `index`.
fn created_object(tokens: &[TokenWithSpan], index: usize) -> Option<usize> {
    if !is_keyword(token(tokens, index), "CREATE") {
        return None;
    }
    let replaces = is_keyword(token(tokens, index + 1), "OR") && is_keyword(token(tokens, index + 2), "REPLACE");
    let kind = if replaces { index + 3 } else { index + 1 };
    OBJECTS.iter().any(|object| is_keyword(token(tokens, kind), object)).then_some(kind)
}

/// The index after `BEGIN`, if a `CREATE PIPELINE` with a block begins at `start`.
fn body_of_pipeline(tokens: &[TokenWithSpan], start: usize) -> Option<usize> {
    let kind = created_object(tokens, start)?;
    if !is_keyword(token(tokens, kind), "PIPELINE") {
        return None;
    }
    let length =
        tokens[start..].iter().position(|token| token.token == Token::SemiColon).unwrap_or(tokens.len() - start);
    let begin = (kind..start + length).find(|index| is_keyword(token(tokens, *index), "BEGIN"))?;
    Some(begin + 1)
}

/// The index after the block's `END`; without one, the probable end of the block.
fn end_of_pipeline(tokens: &[TokenWithSpan], start: usize, body: usize, errors: &mut Vec<Diagnostic>) -> usize {
    let mut cases = 0usize;
    let mut first_foreign = None;
    let mut end = tokens.len();
    for index in body..tokens.len() {
        let before = token(tokens, index - 1);
        let at_statement = before == Some(&Token::SemiColon) || index == body;
        let current = token(tokens, index);
        if at_statement {
            cases = 0;
            if body_of_pipeline(tokens, index).is_some() {
                end = index;
                break;
            }
            if first_foreign.is_none() && created_object(tokens, index).is_some() {
                first_foreign = Some(index);
            }
        }
        let is_name = before == Some(&Token::Period) || is_keyword(before, "AS");
        if is_keyword(current, "CASE") && !is_name {
            cases += 1;
        } else if is_keyword(current, "END") && !is_name {
            if cases == 0 {
                return index + 1;
            }
            cases -= 1;
        }
    }
    let span = tokens[body - 1].span.into();
    errors.push(Diagnostic::new(span, "this `BEGIN` has no `END`").with_hint("Close the pipeline with `END;`."));
    first_foreign.unwrap_or(end).max(start + 1)
}

fn token(tokens: &[TokenWithSpan], index: usize) -> Option<&Token> {
    tokens.get(index).map(|token| &token.token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::tokenize;

    fn pieces(text: &str) -> (Vec<String>, Vec<String>) {
        let mut errors = Vec::new();
        let tokens = tokenize(text, 0, &mut errors);
        let pieces = split(&tokens, &mut errors)
            .into_iter()
            .map(|range| tokens[range].iter().map(|token| token.token.to_string()).collect::<Vec<_>>().join(" "))
            .collect();
        (pieces, errors.into_iter().map(|error| error.message).collect())
    }

    #[test]
    fn a_block_is_one_statement_even_with_case_and_without_its_last_semicolon() {
        let (found, errors) = pieces(
            "create pipeline p as begin insert into a select case when x then 1 end from t; insert into b select 1 end; select 2",
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("select 1 end"));
        assert!(errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn a_forgotten_semicolon_is_named_and_both_statements_survive() {
        let (found, errors) =
            pieces("insert into a select * from t\ninsert into b select 1; explain insert into c select 1");
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(errors, ["missing `;` before this statement"]);
    }

    #[test]
    fn a_block_without_end_stops_at_the_next_create() {
        let (found, errors) =
            pieces("create pipeline p as begin insert into a select 1; create view v as select 1; select 3");
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(errors, ["this `BEGIN` has no `END`"]);
    }
}
