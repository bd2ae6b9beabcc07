//! `CREATE VIEW name [(columns)] AS query` and `CREATE MATERIALIZED VIEW name [(columns)] [clauses] AS query`.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::super::cursor::{Cursor, Parsed};
use super::super::embedded;
use super::super::statement::{CreateMaterializedView, CreateView, Head, Insert, Name};
use super::relation;

/// Parses the rest of CREATE VIEW after the name.
pub fn create(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreateView> {
    let columns = column_names(cursor)?;
    cursor.expect(&["AS"])?;
    if cursor.at_end() {
        return Err(cursor.expected("a query"));
    }
    let query = embedded::query(cursor.rest())?;
    Ok(CreateView { head, columns, query })
}

/// Parses the rest of CREATE MATERIALIZED VIEW after the name.
pub fn create_materialized(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreateMaterializedView> {
    let start = cursor.position();
    let columns = column_names(cursor)?;
    let table = relation::materialized(cursor, head)?;
    cursor.expect(&["AS"])?;
    if cursor.at_end() {
        return Err(cursor.expected("a query"));
    }
    let query = embedded::query(cursor.rest())?;
    let name = table.head.name.clone();
    let span = name.span.to(cursor.since(start));
    let insert = Insert { query: read_all(&name)?, target: name, columns: Vec::new(), span };
    Ok(CreateMaterializedView { table, columns, query, insert })
}

fn column_names(cursor: &mut Cursor<'_>) -> Parsed<Vec<Name>> {
    if cursor.sees_symbol(&Token::LParen) {
        cursor.parenthesised(|cursor| cursor.name("a column's name"))
    } else {
        Ok(Vec::new())
    }
}

/// `SELECT * FROM name` with the span of the name.
fn read_all(name: &Name) -> Parsed<Box<datafusion::sql::sqlparser::ast::Query>> {
    let tokens = [
        Token::make_keyword("SELECT"),
        Token::Mul,
        Token::make_keyword("FROM"),
        Token::make_word(&name.value, Some('"')),
    ];
    embedded::query(&tokens.map(|token| TokenWithSpan::new(token, name.span.into())))
}
