//! Text to tokens, with positions that name their file. Whitespace and comments are left out.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};

use super::diagnostic::lower_first;
use super::dialect::WeirDialect;
use super::{Diagnostic, Position, Span};

/// The tokens of `text`, which is file number `file`; after an error, the tokens before it.
pub fn tokenize(text: &str, file: u16, errors: &mut Vec<Diagnostic>) -> Vec<TokenWithSpan> {
    tokenize_part(text, Span { file, start: START, end: START }, errors)
}

/// The first position of a file.
const START: Position = Position { line: 1, column: 1 };

/// The tokens of a `text` inside a file that begins where `at` begins (the body of a function).
pub fn tokenize_part(text: &str, at: Span, errors: &mut Vec<Diagnostic>) -> Vec<TokenWithSpan> {
    let shift = |position: Position| Position {
        line: position.line + at.start.line - 1,
        column: if position.line == 1 { position.column + at.start.column - 1 } else { position.column },
    };
    let place = |span: Span| Span { file: at.file, start: shift(span.start), end: shift(span.end) };
    let mut tokens = Vec::new();
    let outcome = Tokenizer::new(&WeirDialect::for_tokens(0), text)
        .tokenize_with_location_into_buf_with_mapper(&mut tokens, |token| {
            TokenWithSpan::new(token.token, place(token.span.into()).into())
        });
    if let Err(error) = outcome {
        // Whitespace gives tokens too, so the broken token begins where the last one ends.
        let start = tokens.last().map_or(at.start, |last| Span::from(last.span).end);
        errors.push(tokenizer_error(Span { file: at.file, start, end: start.right(1) }, &error.message));
    }
    tokens.retain(|token| !is_blank(&token.token));
    tokens
}

/// True for whitespace and comments.
fn is_blank(token: &Token) -> bool {
    matches!(token, Token::Whitespace(Whitespace::Space | Whitespace::Newline | Whitespace::Tab))
        || matches!(token, Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)))
}

fn tokenizer_error(span: Span, message: &str) -> Diagnostic {
    let lower = message.to_lowercase();
    if lower.contains("string literal") {
        let hint = "Close it with `'`; a quote inside a string is written twice: `'it''s'`.";
        Diagnostic::new(span, "this string has no end").with_hint(hint)
    } else if lower.contains("comment") {
        Diagnostic::new(span, "this comment has no end").with_hint("Close it with `*/`.")
    } else if lower.contains("close delimiter") {
        Diagnostic::new(span, "this quoted name has no end")
    } else if lower.contains("dollar") || lower.contains("expected $") {
        Diagnostic::new(span, "this `$$` text has no end").with_hint("Close it with the same `$$`.")
    } else {
        Diagnostic::new(span, lower_first(message))
    }
}

/// The name that an unquoted word means.
pub fn fold(word: &str) -> String {
    word.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_a_part_stand_where_they_stand_in_the_file() {
        let at = Span { file: 3, start: Position { line: 5, column: 10 }, end: Position { line: 5, column: 10 } };
        let tokens = tokenize_part("a +\n b", at, &mut Vec::new());
        let spans: Vec<Span> = tokens.iter().map(|token| token.span.into()).collect();
        assert_eq!(spans[0].start, Position { line: 5, column: 10 });
        assert_eq!(spans[1].start, Position { line: 5, column: 12 });
        assert_eq!(spans[2].start, Position { line: 6, column: 2 });
        assert!(spans.iter().all(|span| span.file == 3));
    }

    #[test]
    fn what_stands_before_a_broken_token_is_kept() {
        let mut errors = Vec::new();
        let tokens = tokenize("select 1; select 'x", 0, &mut errors);
        assert_eq!(tokens.len(), 4);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].span.start, Position { line: 1, column: 18 });
    }
}
