//! Errors that a server reports about a statement, at their positions in it.

use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::sql::{Diagnostic, Failure, Position, STATEMENT, SourceFile, Span};

/// The position in `text`, if it is a sentence made by [`Failure::into_error`].
fn place_of(text: &str) -> Option<Span> {
    let (line, columns) = text.strip_prefix("At line ")?.strip_suffix('.')?.split_once(", columns ")?;
    let (first, last) = columns.split_once(" to ")?;
    let line: u32 = line.parse().ok()?;
    let place = |column: u32| Position { line, column };
    Some(Span { file: 0, start: place(first.parse().ok()?), end: place(last.parse::<u32>().ok()?.checked_add(1)?) })
}

/// A server's error about `sql`, at its position if it gives one.
pub fn of_server(error: Error, sql: &str) -> Failure {
    let detail = error.detail().unwrap_or_default();
    let place = detail.lines().find_map(place_of).filter(|_| error.kind() == ErrorKind::Sql);
    let Some(place) = place else { return Failure::Other(error) };
    let rest: Vec<&str> = detail.lines().filter(|line| place_of(line).is_none()).collect();
    let mut diagnostic = Diagnostic::new(place, error.message()).or_hint(error.hint().map(str::to_owned));
    diagnostic.state = Some(error.state());
    if !rest.is_empty() {
        diagnostic = diagnostic.with_detail(rest.join("\n"));
    }
    Failure::at(&[Arc::new(SourceFile::new(STATEMENT, sql))], diagnostic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SqlState;

    #[test]
    fn a_place_survives_the_way_through_a_server() {
        let sql = "SELECT\n  nmae FROM t";
        let files = [Arc::new(SourceFile::new(STATEMENT, sql))];
        let span = Span { file: 0, start: Position { line: 2, column: 3 }, end: Position { line: 2, column: 7 } };
        let found = Diagnostic::new(span, "column `nmae` does not exist")
            .with_detail("A.")
            .with_hint("Did you mean `name`?")
            .with_state(SqlState::UNDEFINED_COLUMN);
        let error = Failure::at(&files, found.clone()).into_error();
        assert_eq!(error.detail(), Some("A.\nAt line 2, columns 3 to 6."));
        let Failure::Sql(found_again) = of_server(error, sql) else { panic!("no place") };
        assert_eq!(found_again.list, [found]);
        assert!(matches!(of_server(Error::sql("x").with_detail("At sea."), sql), Failure::Other(_)));
    }
}
