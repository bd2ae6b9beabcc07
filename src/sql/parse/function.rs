//! `CREATE FUNCTION name(arguments) RETURNS type [IMMUTABLE] LANGUAGE sql AS $$ expression $$`. Clauses may come in any
//! order after RETURNS, as in PostgreSQL; the body may also be `RETURN expression` or `SELECT expression`.

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::super::cursor::{Cursor, Parsed};
use super::super::lexer::tokenize_part;
use super::super::statement::{CreateFunction, Head, Name};
use super::super::types::data_type;
use super::super::{Diagnostic, Span, embedded};
use super::not_yet;
use arrow::datatypes::DataType;

/// Parses the rest of CREATE FUNCTION after the name.
pub fn create(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreateFunction> {
    let arguments = arguments(cursor)?;
    cursor.expect(&["RETURNS"])?;
    let returns = data_type(cursor)?;
    let mut language = None;
    let mut body = None;
    while !cursor.at_end() {
        if cursor.eat(&["LANGUAGE"]) {
            language = Some(self::language(cursor)?);
        } else if cursor.sees(&["AS"]) && body.is_none() {
            cursor.advance();
            body = Some(self::body(cursor)?);
        } else if cursor.sees(&["RETURN"]) && body.is_none() {
            cursor.advance();
            if cursor.at_end() {
                return Err(cursor.expected("an expression"));
            }
            body = Some(embedded::expression(cursor.rest())?);
        } else if cursor.sees(&["VOLATILE"]) {
            return Err(not_yet(cursor.span(), "`VOLATILE`").with_hint(
                "A replayed epoch must give the same rows: write `IMMUTABLE`, and pass what varies as an argument.",
            ));
        } else if !(cursor.eat(&["IMMUTABLE"]) || cursor.eat(&["STABLE"]) || cursor.eat(&["STRICT"])) {
            return Err(cursor.expected_one_of(&["IMMUTABLE", "LANGUAGE", "AS"]));
        }
    }
    let Some(body) = body else { return Err(cursor.expected("`AS $$ expression $$`")) };
    if language.is_none() {
        return Err(cursor.expected("`LANGUAGE sql`"));
    }
    Ok(CreateFunction { head, arguments, returns, body })
}

fn arguments(cursor: &mut Cursor<'_>) -> Parsed<Vec<(Name, DataType)>> {
    if cursor.sees_symbol(&Token::LParen) && cursor.peek_at(1) == Some(&Token::RParen) {
        cursor.advance();
        cursor.advance();
        return Ok(Vec::new());
    }
    let arguments = cursor.parenthesised(|cursor| {
        let name = cursor.name("an argument's name")?;
        Ok((name, data_type(cursor)?))
    })?;
    for (index, (name, _)) in arguments.iter().enumerate() {
        if arguments[..index].iter().any(|(earlier, _)| earlier.value == name.value) {
            cursor.errors.push(Diagnostic::new(name.span, format!("argument `{}` is declared twice", name.value)));
        }
    }
    Ok(arguments)
}

/// Parses the language; only `sql` can run.
fn language(cursor: &mut Cursor<'_>) -> Parsed<()> {
    let span = cursor.span();
    let name = match cursor.string("a language") {
        Ok(name) => Name { value: name.value.to_ascii_lowercase(), span },
        Err(_) => cursor.name("a language")?,
    };
    match name.value.as_str() {
        "sql" => Ok(()),
        "python" | "native" => Err(not_yet(span, &format!("`LANGUAGE {}`", name.value))
            .with_hint("Write the function in SQL: `LANGUAGE sql AS $$ expression $$`.")),
        other => Err(Diagnostic::new(span, format!("unknown language `{other}`"))
            .with_detail("Languages are `sql`, and later `python` and `native`.")),
    }
}

/// Parses the expression in `$$ … $$` or in a string; its spans point into the file.
fn body(cursor: &mut Cursor<'_>) -> Parsed<Expr> {
    let span = cursor.span();
    let (text, opening) = match cursor.peek() {
        Some(Token::DollarQuotedString(text)) => {
            (text.value.clone(), 2 + text.tag.as_ref().map_or(0, |tag| tag.chars().count() as u32))
        }
        Some(Token::SingleQuotedString(text)) => (text.clone(), 1),
        _ => return Err(cursor.expected("the body: `$$ expression $$`")),
    };
    cursor.advance();
    let start = span.start.right(opening);
    let mut errors = Vec::new();
    let tokens = tokenize_part(&text, Span { file: span.file, start, end: start }, &mut errors);
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    let tokens = expression_of(&tokens);
    if tokens.is_empty() {
        return Err(Diagnostic::new(span, "this function has no body"));
    }
    embedded::expression(tokens)
}

/// The body without a leading SELECT or RETURN and without a closing `;`.
fn expression_of(tokens: &[TokenWithSpan]) -> &[TokenWithSpan] {
    let mut cursor = Cursor::new(tokens);
    if !cursor.eat(&["SELECT"]) {
        cursor.eat(&["RETURN"]);
    }
    match cursor.rest() {
        [rest @ .., last] if last.token == Token::SemiColon => rest,
        rest => rest,
    }
}
