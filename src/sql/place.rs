//! Positions in SQL texts: files, positions, spans.
//!
//! A [`Span`] names its file by index into the list of files that are read together, so it is small and `Copy`. sqlparser's
//! positions have no room for a file, so the tokens of file `n` carry `n` in the upper half of their line number: every span
//! of a syntax tree (and of a DataFusion error made from it) leads back to its file.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use datafusion::sql::sqlparser::tokenizer as tokens;

/// A SQL text, with its name in error messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// A path as the user wrote it, or `<query>`.
    pub name: String,
    pub text: String,
}

impl SourceFile {
    /// A file with this name and text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// Line `number` (from 1) without its line end; empty if it does not exist.
    pub fn line(&self, number: u32) -> &str {
        self.text.lines().nth((number as usize).saturating_sub(1)).unwrap_or("")
    }

    /// The byte offset of `position`; the text's length if it is beyond the end.
    pub fn offset(&self, position: Position) -> usize {
        let mut start = 0;
        for _ in 1..position.line {
            match self.text[start..].find('\n') {
                Some(end) => start += end + 1,
                None => return self.text.len(),
            }
        }
        let skip = (position.column as usize).saturating_sub(1);
        self.text[start..].char_indices().nth(skip).map_or(self.text.len(), |(byte, _)| start + byte)
    }

    /// The text under `span`.
    pub fn slice(&self, span: Span) -> &str {
        let (start, end) = (self.offset(span.start), self.offset(span.end));
        self.text.get(start..end.max(start)).unwrap_or("")
    }

    /// The file's stem in `[a-z0-9_]`: the name of the pipeline that its bare INSERTs form.
    pub fn stem(&self) -> String {
        let stem = Path::new(&self.name).file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        let clean = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let name: String = stem.chars().map(clean).collect();
        let name = name.trim_matches('_');
        if name.is_empty() { "query".to_owned() } else { name.to_owned() }
    }
}

/// The files that are read together; spans name them by index.
#[derive(Debug, Clone, Default)]
pub struct Files(Vec<Arc<SourceFile>>);

impl Files {
    /// The files in the order of their indexes.
    pub fn new(files: &[Arc<SourceFile>]) -> Self {
        Self(files.to_vec())
    }

    /// A span of a syntax tree as ours, or `fallback` if it is empty.
    pub fn span(&self, span: tokens::Span, fallback: Span) -> Span {
        let span = Span::from(span);
        if span.is_empty() || usize::from(span.file) >= self.0.len() { fallback } else { span }
    }

    /// The text under `span`.
    pub fn slice(&self, span: Span) -> &str {
        self.0.get(usize::from(span.file)).map_or("", |file| file.slice(span))
    }

    /// `file:line:column` of the start of `span`; `None` if the span is empty.
    pub fn place(&self, span: Span) -> Option<String> {
        let file = self.0.get(usize::from(span.file)).filter(|_| !span.is_empty())?;
        Some(format!("{}:{}:{}", file.name, span.start.line, span.start.column))
    }
}

impl Deref for Files {
    type Target = [Arc<SourceFile>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A place between two characters: line and column, both from 1, columns in characters; 0 = unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl Position {
    /// This many characters further on the same line.
    #[must_use]
    pub fn right(self, by: u32) -> Self {
        Self { line: self.line, column: self.column.saturating_add(by) }
    }
}

/// A range of one SQL text; the default span is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// Index into the files that are read together.
    pub file: u16,
    pub start: Position,
    /// One past the last character.
    pub end: Position,
}

impl Span {
    /// True when the span points nowhere.
    pub fn is_empty(self) -> bool {
        self.start.line == 0
    }

    /// The smallest span that covers both; an empty one is ignored.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => Self { file: self.file, start: self.start.min(other.start), end: self.end.max(other.end) },
        }
    }

    /// The position right after this span, one character wide.
    #[must_use]
    pub fn after(self) -> Self {
        Self { file: self.file, start: self.end, end: self.end.right(1) }
    }

    /// True when `other` lies within this span.
    pub fn contains(self, other: Self) -> bool {
        self.file == other.file && self.start <= other.start && other.end <= self.end
    }
}

/// Bits of a sqlparser line number that hold the line; the bits above hold the file's index.
const LINE_BITS: u32 = 32;

impl From<tokens::Span> for Span {
    fn from(span: tokens::Span) -> Self {
        Self {
            file: (span.start.line >> LINE_BITS) as u16,
            start: Position { line: span.start.line as u32, column: span.start.column as u32 },
            end: Position { line: span.end.line as u32, column: span.end.column as u32 },
        }
    }
}

impl From<Span> for tokens::Span {
    fn from(span: Span) -> Self {
        let location = |position: Position| {
            let line = u64::from(position.line) | (u64::from(span.file) << LINE_BITS);
            tokens::Location::new(line, u64::from(position.column))
        };
        if span.is_empty() { Self::empty() } else { Self::new(location(span.start), location(span.end)) }
    }
}

impl From<datafusion::common::Span> for Span {
    fn from(span: datafusion::common::Span) -> Self {
        let location = |l: datafusion::common::Location| tokens::Location::new(l.line, l.column);
        tokens::Span::new(location(span.start), location(span.end)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_not_bytes() {
        let file = SourceFile::new("a.sql", "é\nüb'x'\n");
        let span = Span { file: 0, start: Position { line: 2, column: 2 }, end: Position { line: 2, column: 3 } };
        assert_eq!(file.slice(span), "b");
        assert_eq!(file.offset(Position { line: 9, column: 1 }), file.text.len());
    }

    #[test]
    fn the_file_survives_the_way_through_sqlparser() {
        let span = Span { file: 7, start: Position { line: 3, column: 4 }, end: Position { line: 5, column: 6 } };
        assert_eq!(Span::from(tokens::Span::from(span)), span);
        assert_eq!(tokens::Span::from(Span::default()), tokens::Span::empty());
    }

    #[test]
    fn a_pipeline_name_is_made_of_the_file_stem() {
        assert_eq!(SourceFile::new("sql/Fraud-v2.sql", "").stem(), "fraud_v2");
        assert_eq!(SourceFile::new("", "").stem(), "query");
    }
}
