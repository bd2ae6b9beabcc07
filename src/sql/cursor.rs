//! A cursor over one statement's tokens, on which all statement parsers are built.
//!
//! Keywords are compared ignoring case and never match quoted words. A method that fails has consumed nothing.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::lexer::fold;
use super::statement::Name;
use super::suggest::{list, nearest};
use super::{Diagnostic, Span};
use crate::error::SqlState;

/// A result with one diagnostic.
pub type Parsed<T> = Result<T, Diagnostic>;

/// Reads the tokens of one statement from left to right.
pub struct Cursor<'a> {
    tokens: &'a [TokenWithSpan],
    next: usize,
    /// Errors that parsing recovered from.
    pub errors: Vec<Diagnostic>,
}

impl<'a> Cursor<'a> {
    /// A cursor before the first of `tokens`, which must not be empty: an error needs a position.
    pub fn new(tokens: &'a [TokenWithSpan]) -> Self {
        Self { tokens, next: 0, errors: Vec::new() }
    }

    /// The next token, not consumed.
    pub fn peek(&self) -> Option<&'a Token> {
        self.peek_at(0)
    }

    /// The token `ahead` positions after the next one.
    pub fn peek_at(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.next + ahead).map(|token| &token.token)
    }

    /// True when nothing is left.
    pub fn at_end(&self) -> bool {
        self.next >= self.tokens.len()
    }

    /// The number of consumed tokens.
    pub fn position(&self) -> usize {
        self.next
    }

    /// Consumes one token.
    pub fn advance(&mut self) -> Option<&'a TokenWithSpan> {
        let token = self.tokens.get(self.next)?;
        self.next += 1;
        Some(token)
    }

    /// The span of the next token; at the end, the position after the last one.
    pub fn span(&self) -> Span {
        match self.tokens.get(self.next) {
            Some(token) => token.span.into(),
            None => self.tokens.last().map(|token| Span::from(token.span).after()).unwrap_or_default(),
        }
    }

    /// The span of the token consumed last.
    pub fn last_span(&self) -> Span {
        let index = self.next.saturating_sub(1);
        self.tokens.get(index).map(|token| token.span.into()).unwrap_or_default()
    }

    /// The span from token number `start` to the token consumed last.
    pub fn since(&self, start: usize) -> Span {
        self.tokens.get(start).map(|token| Span::from(token.span).to(self.last_span())).unwrap_or_default()
    }

    /// True when the next words are these keywords.
    pub fn sees(&self, keywords: &[&str]) -> bool {
        keywords.iter().enumerate().all(|(ahead, keyword)| is_keyword(self.peek_at(ahead), keyword))
    }

    /// True when the next token is `symbol`.
    pub fn sees_symbol(&self, symbol: &Token) -> bool {
        self.peek() == Some(symbol)
    }

    /// Consumes these keywords if they come next.
    pub fn eat(&mut self, keywords: &[&str]) -> bool {
        let found = self.sees(keywords);
        if found {
            self.next += keywords.len();
        }
        found
    }

    /// Consumes `symbol` if it comes next.
    pub fn eat_symbol(&mut self, symbol: &Token) -> bool {
        let found = self.sees_symbol(symbol);
        if found {
            self.next += 1;
        }
        found
    }

    /// Consumes these keywords. Errors: they do not come next.
    pub fn expect(&mut self, keywords: &[&str]) -> Parsed<Span> {
        let start = self.next;
        if self.eat(keywords) {
            return Ok(self.since(start));
        }
        let wanted = keywords.join(" ");
        Err(self
            .expected(&format!("`{wanted}`"))
            .or_hint(self.keyword_hint(&[&wanted, keywords.first().unwrap_or(&"")])))
    }

    /// Consumes `symbol`. Errors: it does not come next.
    pub fn expect_symbol(&mut self, symbol: &Token) -> Parsed<Span> {
        let span = self.span();
        if self.eat_symbol(symbol) { Ok(span) } else { Err(self.expected(&format!("`{symbol}`"))) }
    }

    /// The error that `what` was expected instead of the next token.
    pub fn expected(&self, what: &str) -> Diagnostic {
        Diagnostic::new(self.span(), format!("expected {what}, found {}", self.found()))
    }

    /// The error that one of `keywords` was expected; suggests the one nearest to the next token.
    pub fn expected_one_of(&self, keywords: &[&str]) -> Diagnostic {
        let what = match keywords {
            [first, second] => format!("`{first}` or `{second}`"),
            [only] => format!("`{only}`"),
            many => format!("one of {}", list(many.iter().copied())),
        };
        let diagnostic = self.expected(&what);
        diagnostic.or_hint(self.keyword_hint(keywords))
    }

    /// The next token in the form that errors show.
    pub fn found(&self) -> String {
        self.peek().map_or_else(|| "the end of the statement".to_owned(), show)
    }

    /// A hint with the one of `keywords` that the next word probably means.
    fn keyword_hint(&self, keywords: &[&str]) -> Option<String> {
        let word = self.peek_word()?;
        nearest(word, keywords.iter().copied()).map(|keyword| format!("Did you mean `{keyword}`?"))
    }

    /// The next token's text if it is an unquoted word.
    pub fn peek_word(&self) -> Option<&'a str> {
        match self.peek() {
            Some(Token::Word(Word { value, quote_style: None, .. })) => Some(value),
            _ => None,
        }
    }

    /// A name: an unquoted word in lower case, or a quoted one as it is.
    pub fn name(&mut self, what: &str) -> Parsed<Name> {
        let span = self.span();
        match self.peek() {
            Some(Token::Word(word)) => {
                self.next += 1;
                let value = if word.quote_style.is_some() { word.value.clone() } else { fold(&word.value) };
                if value.is_empty() {
                    return Err(Diagnostic::new(span, format!("expected {what}, found an empty name")));
                }
                Ok(Name { value, span })
            }
            _ => Err(self.expected(what)),
        }
    }

    /// The name of an object; a qualified one is refused because weir has one namespace.
    pub fn object_name(&mut self, what: &str) -> Parsed<Name> {
        let name = self.name(what)?;
        if self.sees_symbol(&Token::Period) {
            let span = name.span.to(self.span());
            let error = Diagnostic::new(span, "qualified names are not supported").with_state(SqlState::UNSUPPORTED);
            return Err(error.with_hint(format!(
                "Every object stands in one namespace: write the name alone, without `{}.`.",
                name.value
            )));
        }
        Ok(name)
    }

    /// A string literal: its value and span.
    pub fn string(&mut self, what: &str) -> Parsed<Name> {
        let span = self.span();
        match self.peek() {
            Some(Token::SingleQuotedString(value) | Token::EscapedStringLiteral(value)) => {
                self.next += 1;
                Ok(Name { value: value.clone(), span })
            }
            _ => Err(self.expected(what)),
        }
    }

    /// `( item, item, … )`; an empty list is refused.
    pub fn parenthesised<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.expect_symbol(&Token::LParen)?;
        let mut items = vec![item(self)?];
        loop {
            if self.eat_symbol(&Token::RParen) {
                return Ok(items);
            }
            if !self.eat_symbol(&Token::Comma) {
                return Err(self.expected("`,` or `)`"));
            }
            if self.eat_symbol(&Token::RParen) {
                return Ok(items);
            }
            items.push(item(self)?);
        }
    }

    /// The tokens up to the next `,` or `)` outside of brackets; none are consumed.
    pub fn up_to_separator(&self) -> &'a [TokenWithSpan] {
        let rest = &self.tokens[self.next.min(self.tokens.len())..];
        let mut depth = 0usize;
        let length = rest.iter().position(|token| match token.token {
            Token::Comma if depth == 0 => true,
            Token::LParen | Token::LBracket => {
                depth += 1;
                false
            }
            Token::RParen | Token::RBracket if depth == 0 => true,
            Token::RParen | Token::RBracket => {
                depth -= 1;
                false
            }
            _ => false,
        });
        &rest[..length.unwrap_or(rest.len())]
    }

    /// Consumes this many tokens.
    pub fn skip(&mut self, count: usize) {
        self.next += count;
    }

    /// Consumes all remaining tokens.
    pub fn rest(&mut self) -> &'a [TokenWithSpan] {
        let rest = &self.tokens[self.next.min(self.tokens.len())..];
        self.next = self.tokens.len();
        rest
    }

    /// Errors: tokens remain.
    pub fn finish(&self) -> Parsed<()> {
        if self.at_end() { Ok(()) } else { Err(self.expected("`;`")) }
    }
}

/// True when `token` is this keyword, unquoted.
pub fn is_keyword(token: Option<&Token>, keyword: &str) -> bool {
    matches!(token, Some(Token::Word(Word { value, quote_style: None, .. })) if value.eq_ignore_ascii_case(keyword))
}

/// A token in backticks; strings with their quotes, long texts cut.
pub fn show(token: &Token) -> String {
    let text = match token {
        Token::DollarQuotedString(_) => "$$ … $$".to_owned(),
        Token::Word(word) => word.value.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(40) {
        Some((cut, _)) => format!("`{}…`", &text[..cut]),
        None => format!("`{text}`"),
    }
}
