//! `( key = value, … )`: keys in any case, plain with dots or quoted; values strings, numbers, booleans or `SECRET name`.

use datafusion::sql::sqlparser::tokenizer::{Token, Word};

use super::super::Diagnostic;
use super::super::cursor::{Cursor, Parsed};
use super::super::statement::{Name, OptionEntry, OptionValue, Options};

/// A list of weir's options: keys in any case.
pub fn options(cursor: &mut Cursor<'_>) -> Parsed<Options> {
    list(cursor, str::to_ascii_lowercase)
}

/// A list of foreign properties: keys keep their case.
pub fn properties(cursor: &mut Cursor<'_>) -> Parsed<Options> {
    list(cursor, str::to_owned)
}

/// A parenthesised list; a key given twice is reported.
fn list(cursor: &mut Cursor<'_>, fold: fn(&str) -> String) -> Parsed<Options> {
    let start = cursor.position();
    if cursor.sees_symbol(&Token::LParen) && cursor.peek_at(1) == Some(&Token::RParen) {
        cursor.advance();
        cursor.advance();
        return Ok(Options { entries: Vec::new(), span: cursor.since(start) });
    }
    let entries = cursor.parenthesised(|cursor| entry(cursor, fold))?;
    for (index, entry) in entries.iter().enumerate() {
        if entries[..index].iter().any(|earlier| earlier.key.value == entry.key.value) {
            let message = format!("option `{}` is given twice", entry.key.value);
            cursor.errors.push(Diagnostic::new(entry.key.span, message));
        }
    }
    Ok(Options { entries, span: cursor.since(start) })
}

fn entry(cursor: &mut Cursor<'_>, fold: fn(&str) -> String) -> Parsed<OptionEntry> {
    let mut key = key(cursor)?;
    key.value = fold(&key.value);
    if !cursor.eat_symbol(&Token::Eq) {
        return Err(cursor.expected(&format!("`=` after option `{}`", key.value)));
    }
    let span = cursor.span();
    let value = match cursor.peek() {
        Some(Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) | Token::Number(text, _)) => {
            OptionValue::Text(text.clone())
        }
        Some(Token::Minus) if matches!(cursor.peek_at(1), Some(Token::Number(..))) => {
            cursor.advance();
            OptionValue::Text(format!("-{}", cursor.peek().map(ToString::to_string).unwrap_or_default()))
        }
        _ if cursor.sees(&["TRUE"]) || cursor.sees(&["FALSE"]) => {
            OptionValue::Text(cursor.peek_word().unwrap_or_default().to_ascii_lowercase())
        }
        _ if cursor.sees(&["SECRET"]) => {
            cursor.advance();
            let name = cursor.name("the secret's name")?;
            return Ok(OptionEntry { key, value: OptionValue::Secret(name.value), span: name.span });
        }
        Some(Token::Word(Word { value, .. })) => {
            let hint = format!("Values are strings: write `'{value}'`.");
            return Err(cursor.expected(&format!("a string for option `{}`", key.value)).with_hint(hint));
        }
        _ => return Err(cursor.expected(&format!("a string for option `{}`", key.value))),
    };
    cursor.advance();
    Ok(OptionEntry { key, value, span: span.to(cursor.last_span()) })
}

/// `name`, `name.of.parts` or `'quoted.name'`; hyphens join parts too.
fn key(cursor: &mut Cursor<'_>) -> Parsed<Name> {
    if let Ok(quoted) = cursor.string("an option") {
        return Ok(quoted);
    }
    let mut key = part(cursor, "an option")?;
    loop {
        let joint = match cursor.peek() {
            Some(Token::Period) => '.',
            Some(Token::Minus) => '-',
            _ => return Ok(key),
        };
        cursor.advance();
        let part = part(cursor, "the rest of the option's name")?;
        key.value.push(joint);
        key.value.push_str(&part.value);
        key.span = key.span.to(part.span);
    }
}

/// A word in its original case.
fn part(cursor: &mut Cursor<'_>, what: &str) -> Parsed<Name> {
    let span = cursor.span();
    match cursor.peek() {
        Some(Token::Word(Word { value, .. })) => {
            cursor.advance();
            Ok(Name { value: value.clone(), span })
        }
        _ => Err(cursor.expected(what)),
    }
}
