//! `CREATE SECRET name FROM ENV variable | FROM FILE 'path'`.

use super::super::Diagnostic;
use super::super::cursor::{Cursor, Parsed};
use super::super::statement::{CreateSecret, Head, Name, SecretOrigin};
use datafusion::sql::sqlparser::tokenizer::{Token, Word};

/// Parses the rest of CREATE SECRET after the name.
pub fn create(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreateSecret> {
    cursor.expect(&["FROM"])?;
    let from = if cursor.eat(&["ENV"]) {
        SecretOrigin::Env(variable(cursor)?)
    } else if cursor.eat(&["FILE"]) {
        SecretOrigin::File(cursor.string("the file's path in quotes")?)
    } else {
        let error = match cursor.peek() {
            Some(Token::Word(_)) | None => cursor.expected_one_of(&["ENV", "FILE"]),
            Some(_) => Diagnostic::new(cursor.span(), "expected `ENV` or `FILE`"),
        };
        let why = "Secrets are never written into SQL: name an environment variable or a file that holds the text.";
        return Err(error.with_detail(why));
    };
    Ok(CreateSecret { head, from })
}

/// A variable's name; keeps its case even if unquoted.
fn variable(cursor: &mut Cursor<'_>) -> Parsed<Name> {
    let span = cursor.span();
    match cursor.peek() {
        Some(Token::Word(Word { value, .. }) | Token::SingleQuotedString(value)) => {
            cursor.advance();
            Ok(Name { value: value.clone(), span })
        }
        _ => Err(cursor.expected("the environment variable's name")),
    }
}
