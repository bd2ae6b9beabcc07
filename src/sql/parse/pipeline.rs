//! `CREATE PIPELINE name [WITH (…)] AS BEGIN INSERT …; CREATE MATERIALIZED VIEW …; END` and `INSERT INTO target [(columns)]
//! query`.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::super::cursor::{Cursor, Parsed};
use super::super::split::split_body;
use super::super::statement::{CreateMaterializedView, CreatePipeline, Head, Insert};
use super::super::{Diagnostic, embedded};
use super::{not_yet, option};

/// Parses the rest of CREATE PIPELINE after the name; continues after an error in one INSERT.
pub fn create(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreatePipeline> {
    let with = if cursor.eat(&["WITH"]) { option::options(cursor)? } else { Default::default() };
    cursor.expect(&["AS"])?;
    if cursor.sees(&["INSERT"]) {
        let insert = insert(cursor)?;
        return Ok(CreatePipeline { head, with, inserts: vec![insert], views: Vec::new() });
    }
    let begin = cursor.expect(&["BEGIN"])?;
    let tokens = cursor.rest();
    let tokens = match tokens {
        [body @ .., end] if super::is_keyword(Some(&end.token), "END") => body,
        body => body,
    };
    let mut inserts = Vec::new();
    let mut views = Vec::new();
    for range in split_body(tokens, &mut cursor.errors) {
        let mut inner = Cursor::new(&tokens[range]);
        let outcome = if inner.sees(&["CREATE"]) {
            materialized_view(&mut inner).map(|view| views.push(view))
        } else {
            insert(&mut inner).map(|insert| inserts.push(insert))
        };
        if let Err(error) = outcome.and_then(|()| inner.finish()) {
            cursor.errors.push(error);
        }
        cursor.errors.append(&mut inner.errors);
    }
    if inserts.is_empty() && views.is_empty() && cursor.errors.is_empty() {
        return Err(Diagnostic::new(begin, "this pipeline has no INSERT"));
    }
    Ok(CreatePipeline { head, with, inserts, views })
}

/// The only CREATE that is allowed in a block.
fn materialized_view(cursor: &mut Cursor<'_>) -> Parsed<CreateMaterializedView> {
    let start = cursor.position();
    cursor.advance();
    let replaces = cursor.eat(&["OR", "REPLACE"]);
    if !cursor.eat(&["MATERIALIZED", "VIEW"]) {
        let span = cursor.since(start).to(cursor.span());
        return Err(Diagnostic::new(span, "only INSERT and CREATE MATERIALIZED VIEW stand between BEGIN and END")
            .with_hint("Declare everything else before the pipeline."));
    }
    let head = super::head(cursor, replaces, "materialized view")?;
    super::view::create_materialized(cursor, head)
}

/// Parses an INSERT to the end of the statement.
pub fn insert(cursor: &mut Cursor<'_>) -> Parsed<Insert> {
    let start = cursor.position();
    if !cursor.sees(&["INSERT"]) {
        return Err(cursor
            .expected_one_of(&["INSERT"])
            .or_hint(Some("Only INSERT and CREATE MATERIALIZED VIEW stand between BEGIN and END.".to_owned())));
    }
    cursor.advance();
    if cursor.sees(&["OVERWRITE"]) {
        return Err(not_yet(cursor.span(), "`INSERT OVERWRITE`").with_hint(
            "A stream has no end to replace a table with: write `INSERT INTO` a table with `PRIMARY KEY (…) NOT ENFORCED`.",
        ));
    }
    cursor.expect(&["INTO"])?;
    cursor.eat(&["TABLE"]);
    let target = cursor.object_name("the target's name")?;
    let names_columns = cursor.sees_symbol(&Token::LParen) && !encloses_query(cursor);
    let columns =
        if names_columns { cursor.parenthesised(|cursor| cursor.name("a column's name"))? } else { Vec::new() };
    for (index, column) in columns.iter().enumerate() {
        if columns[..index].iter().any(|earlier| earlier.value == column.value) {
            cursor.errors.push(Diagnostic::new(column.span, format!("column `{}` is named twice", column.value)));
        }
    }
    if cursor.at_end() {
        return Err(cursor.expected("a query"));
    }
    let query = embedded::query(cursor.rest())?;
    Ok(Insert { target, columns, query, span: cursor.since(start) })
}

/// True when the next parenthesis encloses a query.
fn encloses_query(cursor: &Cursor<'_>) -> bool {
    let token = cursor.peek_at(1);
    token == Some(&Token::LParen) || ["SELECT", "WITH", "VALUES"].iter().any(|word| super::is_keyword(token, word))
}
