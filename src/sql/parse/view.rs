//! `CREATE VIEW name [(columns)] AS query`.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::super::cursor::{Cursor, Parsed};
use super::super::embedded;
use super::super::statement::{CreateView, Head};

/// What follows the view's name.
pub fn create(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreateView> {
    let columns = if cursor.sees_symbol(&Token::LParen) {
        cursor.parenthesised(|cursor| cursor.name("a column's name"))?
    } else {
        Vec::new()
    };
    cursor.expect(&["AS"])?;
    if cursor.at_end() {
        return Err(cursor.expected("a query"));
    }
    let query = embedded::query(cursor.rest())?;
    Ok(CreateView { head, columns, query })
}
