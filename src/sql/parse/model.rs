//! `CREATE MODEL name WITH (…)`.

use super::super::Diagnostic;
use super::super::cursor::{Cursor, Parsed};
use super::super::statement::{CreateModel, Head};
use super::{not_yet, option};

/// Parses the rest of CREATE MODEL after the name.
pub fn create(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreateModel> {
    let with = if cursor.eat(&["WITH"]) { option::options(cursor)? } else { Default::default() };
    if cursor.sees(&["AS"]) || cursor.sees(&["USING"]) {
        return Err(training(cursor));
    }
    if with.entries.is_empty() {
        return Err(cursor.expected("`WITH (provider = 'lightgbm', path = '…')`"));
    }
    Ok(CreateModel { head, with })
}

fn training(cursor: &Cursor<'_>) -> Diagnostic {
    not_yet(cursor.span(), "training by `CREATE MODEL … AS SELECT`")
        .with_hint("Name a trained model file: `WITH (provider = 'lightgbm', path = '…')`.")
}
