//! Errors in a SQL text, their positions, and their printed form.
//!
//! Every error of all files is collected before anything is printed. The form is rustc's: message, position, the line with
//! carets, then notes and help. The values of options are shown only as they occur in the text.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use super::{Files, SourceFile, Span};
use crate::error::{Error, SqlState};

/// One error with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub span: Span,
    /// Lower case, objects in backticks, no full stop.
    pub message: String,
    /// A sentence of explanation.
    pub detail: Option<String>,
    /// A sentence on the remedy.
    pub hint: Option<String>,
    /// The SQLSTATE; `None` = that of a SQL error in general.
    pub state: Option<SqlState>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), detail: None, hint: None, state: None }
    }

    /// Adds a sentence of explanation.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a sentence on the remedy.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the SQLSTATE.
    #[must_use]
    pub fn with_state(mut self, state: SqlState) -> Self {
        self.state = Some(state);
        self
    }

    /// Adds a hint unless there is one already.
    #[must_use]
    pub fn or_hint(mut self, hint: Option<String>) -> Self {
        self.hint = self.hint.or(hint);
        self
    }
}

/// All errors found in some files, in the order of their positions.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    pub files: Files,
    pub list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// The errors `list` of `files`, sorted by position, without duplicates.
    pub fn new(files: &[Arc<SourceFile>], mut list: Vec<Diagnostic>) -> Self {
        list.sort_by_key(|d| (d.span.is_empty(), d.span.file, d.span.start));
        let mut unlike: Vec<Diagnostic> = Vec::with_capacity(list.len());
        for diagnostic in list {
            if !unlike
                .iter()
                .rev()
                .take_while(|other| other.span.start == diagnostic.span.start)
                .any(|other| *other == diagnostic)
            {
                unlike.push(diagnostic);
            }
        }
        let list = unlike;
        Self { files: Files::new(files), list }
    }

    /// A single error.
    pub fn one(files: &[Arc<SourceFile>], diagnostic: Diagnostic) -> Self {
        Self::new(files, vec![diagnostic])
    }

    /// True when there are no errors.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The number of errors.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// All errors in printed form, with a closing line that counts them if there are several.
    pub fn render(&self, color: bool) -> String {
        let style = if color { Style::COLOR } else { Style::PLAIN };
        let mut out = String::new();
        for diagnostic in &self.list {
            self.render_one(diagnostic, style, &mut out);
            out.push('\n');
        }
        if self.list.len() > 1 {
            let _ = writeln!(out, "{}error{}: {} errors", style.error, style.off, self.list.len());
        }
        out
    }

    fn render_one(&self, diagnostic: &Diagnostic, style: Style, out: &mut String) {
        let Style { error, bold, blue, off, .. } = style;
        let _ = writeln!(out, "{error}error{off}{bold}: {}{off}", diagnostic.message);
        let Diagnostic { span, detail, hint, .. } = diagnostic;
        let margin = match (self.files.place(*span), self.files.get(usize::from(span.file))) {
            (Some(place), Some(file)) => {
                let number = span.start.line.to_string();
                let margin = " ".repeat(number.len());
                let (text, before, carets) = underline(&mask(file.line(span.start.line)), *span);
                let _ = writeln!(out, "{margin}{blue}-->{off} {place}");
                let _ = writeln!(out, "{margin} {blue}|{off}");
                let _ = writeln!(out, "{blue}{number} |{off} {text}");
                let (blank, marks) = (" ".repeat(before), "^".repeat(carets));
                let _ = writeln!(out, "{margin} {blue}|{off} {blank}{error}{marks}{off}");
                margin
            }
            _ => String::new(),
        };
        for (word, colour, text) in [("note", bold, detail), ("help", style.help, hint)] {
            if let Some(text) = text {
                let indent = format!("\n{margin}         ");
                let text = text.trim_end().replace('\n', &indent);
                let _ = writeln!(out, "{margin} {blue}={off} {colour}{word}{off}: {text}");
            }
        }
    }
}

/// The line with the values of secret options replaced by `*`, at the same width.
fn mask(line: &str) -> String {
    const SECRET: &[&str] = &["password", "connection_string", "secret", "token", "credential", "_key", "jaas.config"];
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('\'') {
        let (before, quoted) = rest.split_at(at + 1);
        let length = quoted.find('\'').unwrap_or(quoted.len());
        out.push_str(before);
        // The text before this string, from its option's name on.
        let lead = last_part(out[..out.len() - 1].trim_end()).to_lowercase();
        let lead = lead.rsplit([',', '(']).next().unwrap_or("");
        let is_option = lead.ends_with('=') && SECRET.iter().any(|word| lead.contains(word));
        let is_secret = is_option || (lead.contains("secret") && lead.ends_with(" from"));
        if is_secret && !quoted.starts_with("${") {
            out.extend(quoted[..length].chars().map(|_| '*'));
        } else {
            out.push_str(&quoted[..length]);
        }
        out.push_str(quoted.get(length..length + 1).unwrap_or(""));
        rest = quoted.get(length + 1..).unwrap_or("");
    }
    out + rest
}

/// The end of a text, long enough for an option and its name. Bounds the search, because a line may have any number of
/// strings.
fn last_part(text: &str) -> &str {
    const CHARS: usize = 512;
    let start = text.char_indices().rev().nth(CHARS).map_or(0, |(at, _)| at);
    &text[start..]
}

/// The line with tabs as four spaces, the number of spaces before the carets, and the number of carets (at least one).
fn underline(line: &str, span: Span) -> (String, usize, usize) {
    let width = |c: char| if c == '\t' { 4 } else { 1 };
    let first = (span.start.column as usize).saturating_sub(1);
    let last = if span.end.line > span.start.line { usize::MAX } else { (span.end.column as usize).saturating_sub(1) };
    let before = line.chars().take(first).map(width).sum();
    let under: usize = line.trim_end().chars().take(last).skip(first).map(width).sum();
    (line.trim_end().replace('\t', "    "), before, under.max(1))
}

#[derive(Clone, Copy)]
struct Style {
    error: &'static str,
    bold: &'static str,
    blue: &'static str,
    help: &'static str,
    off: &'static str,
}

impl Style {
    const PLAIN: Self = Self { error: "", bold: "", blue: "", help: "", off: "" };
    const COLOR: Self =
        Self { error: "\x1b[1;31m", bold: "\x1b[1m", blue: "\x1b[1;34m", help: "\x1b[1;36m", off: "\x1b[0m" };
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostics> for Error {
    /// The first error's message; the whole rendering is the cause.
    fn from(diagnostics: Diagnostics) -> Self {
        let message = match diagnostics.list.as_slice() {
            [only] => only.message.clone(),
            many => format!("{} errors in the SQL", many.len()),
        };
        Self::sql(message).with_source(diagnostics)
    }
}

/// The text with its first letter in lower case, unless it begins with an abbreviation.
pub fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if second.is_uppercase() && first.is_uppercase() => text.to_owned(),
        (Some(first), _) => first.to_lowercase().collect::<String>() + &text[first.len_utf8()..],
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Position;

    fn at(line: u32, from: u32, to_line: u32, to: u32) -> Span {
        Span { file: 0, start: Position { line, column: from }, end: Position { line: to_line, column: to } }
    }

    #[test]
    fn carets_stand_under_the_span_also_behind_tabs_and_across_lines() {
        assert_eq!(underline("\ta b", at(1, 2, 1, 3)), ("    a b".to_owned(), 4, 1));
        assert_eq!(underline("select  ", at(1, 4, 3, 1)), ("select  ".trim_end().to_owned(), 3, 3));
        assert_eq!(underline("ab", at(1, 3, 1, 4)), ("ab".to_owned(), 2, 1));
    }

    #[test]
    fn secrets_in_the_text_are_blotted_out() {
        for (line, shown) in [
            ("  sasl_password = 'hunter2', topic = 'x'", "  sasl_password = '*******', topic = 'x'"),
            ("OPTIONS (AWS_SECRET_ACCESS_KEY='abc'", "OPTIONS (AWS_SECRET_ACCESS_KEY='***'"),
            ("CREATE SECRET s FROM 'é1'", "CREATE SECRET s FROM '**'"),
            ("CREATE SECRET s FROM FILE '/x'", "CREATE SECRET s FROM FILE '/x'"),
            ("password = '${PW}', x = 'it''s'", "password = '${PW}', x = 'it''s'"),
            ("'properties.sasl.password' = 'p', 'open", "'properties.sasl.password' = '*', 'open"),
        ] {
            assert_eq!(mask(line), shown);
        }
    }

    #[test]
    fn a_line_with_any_number_of_strings_is_shown_in_time() {
        // Searching back to the beginning from every string would read 7 GB.
        let line = "{'a': ".repeat(50_000);
        assert_eq!(mask(&line), line);
    }

    #[test]
    fn colour_adds_escapes_and_nothing_else() {
        let files = [Arc::new(SourceFile::new("a.sql", "select x"))];
        let found = Diagnostic::new(at(1, 8, 1, 9), "unknown column `x`").with_hint("Did you mean `y`?");
        let diagnostics = Diagnostics::one(&files, found);
        let mut coloured = diagnostics.render(true);
        for escape in ["\x1b[1;31m", "\x1b[1;34m", "\x1b[1;36m", "\x1b[1m", "\x1b[0m"] {
            coloured = coloured.replace(escape, "");
        }
        assert_eq!(coloured, diagnostics.render(false));
    }

    #[test]
    fn errors_come_in_the_order_of_their_places() {
        let files = [Arc::new(SourceFile::new("a.sql", "a\nb"))];
        let list = vec![
            Diagnostic::new(Span::default(), "third"),
            Diagnostic::new(at(2, 1, 2, 2), "second"),
            Diagnostic::new(at(1, 1, 1, 2), "first"),
        ];
        let sorted = Diagnostics::new(&files, list);
        let messages: Vec<_> = sorted.list.iter().map(|d| d.message.as_str()).collect();
        assert_eq!(messages, ["first", "second", "third"]);
    }
}
