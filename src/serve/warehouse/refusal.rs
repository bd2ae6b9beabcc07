//! Reasons why a statement was not planned: errors in it, with their positions, or another failure.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, SqlState};
use crate::sql::{Diagnostic, Diagnostics, Files, Position, SourceFile, Span};

/// A statement that was not planned.
#[derive(Debug)]
pub enum Refusal {
    /// The statement is wrong: all errors found, with their positions.
    Sql(Diagnostics),
    /// Reading failed.
    Other(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Refusal {
    /// One error at its position.
    pub fn at(files: &[Arc<SourceFile>], diagnostic: Diagnostic) -> Self {
        Self::Sql(Diagnostics::one(files, diagnostic))
    }

    /// The first error for a client of a server: without an excerpt, with its position as a sentence.
    pub fn into_error(self) -> Error {
        let Diagnostics { files, list } = match self {
            Self::Sql(diagnostics) => diagnostics,
            Self::Other(error) => return error,
        };
        let more = list.len().saturating_sub(1);
        let Some(first) = list.into_iter().next() else { return Error::sql("statement cannot be planned") };
        let mut detail: Vec<String> = first.detail.into_iter().collect();
        detail.extend(sentence(&files, first.span));
        if more > 0 {
            detail.push(format!("There are {more} more errors."));
        }
        let mut error = Error::sql(first.message).with_state(first.state.unwrap_or(SqlState::SYNTAX));
        if !detail.is_empty() {
            error = error.with_detail(detail.join("\n"));
        }
        match first.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// The file name of a statement that is not in a file.
pub const STATEMENT: &str = "statement";

/// `At line 1, columns 8 to 12.`
fn sentence(files: &Files, span: Span) -> Option<String> {
    let file = files.get(usize::from(span.file)).filter(|_| !span.is_empty())?;
    if file.name != STATEMENT {
        return files.place(span).map(|place| format!("At {place}."));
    }
    let Position { line, column } = span.start;
    let end = if span.end.line == line { span.end.column } else { column + 1 };
    Some(format!("At line {line}, columns {column} to {}.", end.max(column + 1) - 1))
}

/// The position in `text`, if it is a sentence made by [`Refusal::into_error`].
fn place_of(text: &str) -> Option<Span> {
    let (line, columns) = text.strip_prefix("At line ")?.strip_suffix('.')?.split_once(", columns ")?;
    let (first, last) = columns.split_once(" to ")?;
    let line: u32 = line.parse().ok()?;
    let place = |column: u32| Position { line, column };
    Some(Span { file: 0, start: place(first.parse().ok()?), end: place(last.parse::<u32>().ok()?.checked_add(1)?) })
}

/// A server's error about `sql`, at its position if it gives one.
pub fn of_server(error: Error, sql: &str) -> Refusal {
    let detail = error.detail().unwrap_or_default();
    let place = detail.lines().find_map(place_of).filter(|_| error.kind() == ErrorKind::Sql);
    let Some(place) = place else { return Refusal::Other(error) };
    let rest: Vec<&str> = detail.lines().filter(|line| place_of(line).is_none()).collect();
    let mut diagnostic = Diagnostic::new(place, error.message()).or_hint(error.hint().map(str::to_owned));
    diagnostic.state = Some(error.state());
    if !rest.is_empty() {
        diagnostic = diagnostic.with_detail(rest.join("\n"));
    }
    Refusal::at(&[Arc::new(SourceFile::new(STATEMENT, sql))], diagnostic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_the_way_through_a_server() {
        let sql = "SELECT\n  nmae FROM t";
        let files = [Arc::new(SourceFile::new(STATEMENT, sql))];
        let span = Span { file: 0, start: Position { line: 2, column: 3 }, end: Position { line: 2, column: 7 } };
        let found = Diagnostic::new(span, "column `nmae` does not exist")
            .with_detail("A.")
            .with_hint("Did you mean `name`?")
            .with_state(SqlState::UNDEFINED_COLUMN);
        let error = Refusal::at(&files, found.clone()).into_error();
        assert_eq!(error.detail(), Some("A.\nAt line 2, columns 3 to 6."));
        let Refusal::Sql(found_again) = of_server(error, sql) else { panic!("no place") };
        assert_eq!(found_again.list, [found]);
        assert!(matches!(of_server(Error::sql("x").with_detail("At sea."), sql), Refusal::Other(_)));
    }
}
