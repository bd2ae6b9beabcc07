//! The parenthesised list of a source, table or sink: columns, watermark, key, checks. Parsing continues after an error in
//! one element.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::super::cursor::{Cursor, Parsed};
use super::super::statement::{Check, Column, Name, Origin, WatermarkClause};
use super::super::types::data_type;
use super::super::{Diagnostic, Span};
use super::not_yet;

/// Contents of a column list.
#[derive(Debug, Default)]
pub struct Columns {
    pub columns: Vec<Column>,
    pub watermark: Option<WatermarkClause>,
    pub primary_key: Vec<Name>,
    pub checks: Vec<Check>,
}

/// `( element, element, … )`.
pub fn columns(cursor: &mut Cursor<'_>) -> Parsed<Columns> {
    let mut found = Columns::default();
    cursor.expect_symbol(&Token::LParen)?;
    while !cursor.eat_symbol(&Token::RParen) {
        if let Err(error) = element(cursor, &mut found) {
            cursor.errors.push(error);
            skip_element(cursor);
        }
        if cursor.eat_symbol(&Token::Comma) || cursor.sees_symbol(&Token::RParen) {
            continue;
        }
        return Err(cursor.expected("`,` or `)`"));
    }
    for (index, column) in found.columns.iter().enumerate() {
        if found.columns[..index].iter().any(|earlier| earlier.name.value == column.name.value) {
            let message = format!("column `{}` is declared twice", column.name.value);
            cursor.errors.push(Diagnostic::new(column.name.span, message));
        }
    }
    Ok(found)
}

/// Moves to the `,` or `)` that ends the element.
fn skip_element(cursor: &mut Cursor<'_>) {
    let mut depth = 0usize;
    while let Some(token) = cursor.peek() {
        match token {
            Token::Comma if depth == 0 => return,
            Token::RParen if depth == 0 => return,
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        cursor.advance();
    }
}

fn element(cursor: &mut Cursor<'_>, found: &mut Columns) -> Parsed<()> {
    let start = cursor.position();
    if cursor.sees(&["WATERMARK", "FOR"]) {
        let watermark = watermark(cursor)?;
        if found.watermark.is_some() {
            return Err(Diagnostic::new(watermark.span, "a second watermark"));
        }
        found.watermark = Some(watermark);
        return Ok(());
    }
    let constraint = if cursor.sees(&["CONSTRAINT"]) && matches!(cursor.peek_at(1), Some(Token::Word(_))) {
        cursor.advance();
        Some(cursor.name("the constraint's name")?)
    } else {
        None
    };
    if cursor.sees(&["PRIMARY", "KEY"]) {
        cursor.eat(&["PRIMARY", "KEY"]);
        let columns = cursor.parenthesised(|cursor| cursor.name("a column's name"))?;
        enforcement(cursor, start)?;
        return primary_key(found, columns, cursor.since(start));
    }
    if cursor.sees(&["CHECK"]) && cursor.peek_at(1) == Some(&Token::LParen) {
        let check = check(cursor, constraint)?;
        found.checks.push(check);
        return Ok(());
    }
    for (words, what) in [(&["FOREIGN", "KEY"][..], "`FOREIGN KEY`"), (&["UNIQUE"][..], "`UNIQUE`")] {
        if cursor.sees(words) && matches!(cursor.peek_at(words.len()), Some(Token::LParen)) {
            return Err(not_yet(cursor.span(), what));
        }
    }
    if constraint.is_some() {
        return Err(cursor.expected_one_of(&["CHECK", "PRIMARY KEY"]));
    }
    column(cursor, found)
}

fn watermark(cursor: &mut Cursor<'_>) -> Parsed<WatermarkClause> {
    let start = cursor.position();
    cursor.expect(&["WATERMARK", "FOR"])?;
    let column = cursor.name("the watermark's column")?;
    cursor.expect(&["AS"])?;
    let expression = cursor.expression()?;
    Ok(WatermarkClause { column, expression, span: cursor.since(start) })
}

/// `CHECK (expression)`.
fn check(cursor: &mut Cursor<'_>, name: Option<Name>) -> Parsed<Check> {
    cursor.expect(&["CHECK"])?;
    cursor.expect_symbol(&Token::LParen)?;
    let start = cursor.position();
    let expression = cursor.expression()?;
    let span = cursor.since(start);
    cursor.expect_symbol(&Token::RParen)?;
    Ok(Check { name, expression, span })
}

/// Requires `NOT ENFORCED` after a key, because nothing refuses a duplicate.
fn enforcement(cursor: &mut Cursor<'_>, start: usize) -> Parsed<()> {
    if cursor.eat(&["NOT", "ENFORCED"]) {
        return Ok(());
    }
    Err(Diagnostic::new(cursor.since(start), "a primary key must be `NOT ENFORCED`")
        .with_detail("Rows with an existing key replace it; the key is not checked.")
        .with_hint("Write `PRIMARY KEY (…) NOT ENFORCED`."))
}

fn primary_key(found: &mut Columns, columns: Vec<Name>, span: Span) -> Parsed<()> {
    if !found.primary_key.is_empty() {
        return Err(Diagnostic::new(span, "a second primary key"));
    }
    found.primary_key = columns;
    Ok(())
}

/// `name TYPE constraint…`.
fn column(cursor: &mut Cursor<'_>, found: &mut Columns) -> Parsed<()> {
    let start = cursor.position();
    let name = cursor.name("a column's name")?;
    if cursor.sees(&["AS"]) {
        return Err(not_yet(cursor.span(), "a computed column").with_hint(
            "Compute it in a view: `CREATE VIEW v AS SELECT *, a + b AS c FROM s`. What is computed from the watermark's column there (shifted, truncated) is event time; another field is one when the source declares it, with `WATERMARK FOR`.",
        ));
    }
    let data_type = data_type(cursor)?;
    let mut column = Column { name, data_type, nullable: true, origin: None, span: Span::default() };
    loop {
        let at = cursor.position();
        if cursor.eat(&["NOT", "NULL"]) {
            column.nullable = false;
        } else if cursor.eat(&["NULL"]) {
            column.nullable = true;
        } else if cursor.sees(&["METADATA"]) || cursor.sees(&["FROM"]) {
            let origin = origin(cursor, &column.name)?;
            if column.origin.replace(origin).is_some() {
                return Err(Diagnostic::new(cursor.since(at), "the column's origin is given twice"));
            }
        } else if cursor.eat(&["PRIMARY", "KEY"]) {
            enforcement(cursor, at)?;
            primary_key(found, vec![column.name.clone()], cursor.since(at))?;
        } else if cursor.sees(&["CHECK"]) {
            let check = check(cursor, None)?;
            found.checks.push(check);
        } else if let Some(word) = ["COMMENT", "DEFAULT", "GENERATED", "UNIQUE", "REFERENCES", "COLLATE"]
            .into_iter()
            .find(|word| cursor.sees(&[word]))
        {
            return Err(not_yet(cursor.span(), &format!("`{word}`")));
        } else {
            break;
        }
    }
    if !matches!(cursor.peek(), Some(Token::Comma | Token::RParen)) {
        let hint = cursor
            .peek_word()
            .and_then(|word| super::super::suggest::did_you_mean(word, ["METADATA", "CHECK", "FROM"]));
        return Err(cursor.expected("`,`, `)` or a constraint").or_hint(hint));
    }
    column.span = cursor.since(start);
    found.columns.push(column);
    Ok(())
}

/// `FROM 'a.b'` or `METADATA [FROM 'key'] [VIRTUAL]`.
fn origin(cursor: &mut Cursor<'_>, column: &Name) -> Parsed<Origin> {
    if cursor.eat(&["FROM"]) {
        let field = cursor.string("the field's name in quotes")?;
        return Ok(Origin::Field(field));
    }
    cursor.expect(&["METADATA"])?;
    let key = if cursor.eat(&["FROM"]) { cursor.string("the metadata's name in quotes")? } else { column.clone() };
    cursor.eat(&["VIRTUAL"]);
    Ok(Origin::Metadata(key))
}
