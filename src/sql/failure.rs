//! The reason why SQL was not planned or run: errors in it, with their positions, or another failure.

use std::sync::Arc;

use super::{Diagnostic, Diagnostics, Files, Position, SourceFile, Span};
use crate::error::{Error, SqlState};

/// SQL that was not planned or run.
#[derive(Debug)]
pub enum Failure {
    /// The SQL is wrong: all errors found, with their positions.
    Sql(Diagnostics),
    /// Anything else.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
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
