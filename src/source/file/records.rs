//! Splits a text into records: lines, or CSV records, whose quoted fields may contain line ends.

use crate::catalog::CsvDialect;

/// The rule for the end of a record.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ends<'a> {
    /// At every line end.
    Lines,
    /// At line ends outside of quotes: `\n`, `\r\n` or `\r`.
    Csv(&'a CsvDialect),
}

impl Ends<'_> {
    /// The byte after the record that begins at `at` and its line end; `None` if it does not end in `text`.
    pub(super) fn end(self, text: &[u8], at: usize) -> Option<usize> {
        let line = self.line_end(text, at);
        let Self::Csv(CsvDialect { delimiter, quote: Some(quote), escape, .. }) = self else { return line };
        match line {
            Some(end) if memchr::memchr(*quote, &text[at..end]).is_none() => line,
            _ => quoted_end(text, at, *delimiter, *quote, escape.unwrap_or(*quote)),
        }
    }

    /// The byte after the line that begins at `at`, ignoring quotes; `None` if it does not end in `text`.
    pub(super) fn line_end(self, text: &[u8], at: usize) -> Option<usize> {
        match self {
            Self::Lines => memchr::memchr(b'\n', &text[at..]).map(|length| at + length + 1),
            Self::Csv(_) => {
                let found = at + memchr::memchr2(b'\n', b'\r', &text[at..])?;
                after_line_end(text, found)
            }
        }
    }

    /// True if a line end after `text` would end the record that begins at `at`: no quoted field is open.
    pub(super) fn is_closed(self, text: &[u8], at: usize) -> bool {
        self.end(&[&text[at..], b"\n"].concat(), 0).is_some()
    }
}

/// The byte after the line end at `at`: `\n`, `\r\n` or `\r`. `None` if that depends on a byte after `text`.
fn after_line_end(text: &[u8], at: usize) -> Option<usize> {
    match (text[at], text.get(at + 1)) {
        (b'\r', None) => None,
        (b'\r', Some(b'\n')) => Some(at + 2),
        _ => Some(at + 1),
    }
}

fn quoted_end(text: &[u8], mut at: usize, delimiter: u8, quote: u8, escape: u8) -> Option<usize> {
    loop {
        if text.get(at) == Some(&quote) {
            at = closing(text, at + 1, quote, escape)?;
        }
        at += memchr::memchr3(delimiter, b'\n', b'\r', text.get(at..)?)?;
        if text[at] != delimiter {
            return after_line_end(text, at);
        }
        at += 1;
    }
}

/// The byte after the quote that ends the field whose text begins at `at`; `None` if it does not end in `text`.
fn closing(text: &[u8], mut at: usize, quote: u8, escape: u8) -> Option<usize> {
    loop {
        at += memchr::memchr2(quote, escape, &text[at..])?;
        let next = *text.get(at + 1)?;
        if text[at] == escape && (next == quote || next == escape) {
            at += 2;
        } else if text[at] == quote {
            return Some(at + 1);
        } else {
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str, dialect: &CsvDialect) -> Vec<String> {
        let (mut at, mut found) = (0, Vec::new());
        while let Some(end) = Ends::Csv(dialect).end(text.as_bytes(), at) {
            found.push(text[at..end].to_owned());
            at = end;
        }
        found.push(text[at..].to_owned());
        found
    }

    #[test]
    fn line_ends_inside_of_quotes_end_no_record() {
        let usual = CsvDialect::default();
        assert_eq!(records("1,\"a\nb\",2\n3,c,4\n", &usual), ["1,\"a\nb\",2\n", "3,c,4\n", ""]);
        assert_eq!(records("\"a\"\"\n\"\"\"\nb\n", &usual), ["\"a\"\"\n\"\"\"\n", "b\n", ""]);
        assert_eq!(records("a\"b\nc\n", &usual), ["a\"b\n", "c\n", ""]);
        assert_eq!(records("\"a\nb", &usual), ["\"a\nb"]);
        assert_eq!(records("a,b\rc,\"d\re\"\rf\r\n\rg\r", &usual), ["a,b\r", "c,\"d\re\"\r", "f\r\n", "\r", "g\r"]);
        assert_eq!(records("\"a\n\"x,1\nb\n", &usual), ["\"a\n\"x,1\n", "b\n", ""]);
        assert_eq!(records("\"\",\"\"\r\n\"\"\n", &usual), ["\"\",\"\"\r\n", "\"\"\n", ""]);
        let other = CsvDialect { delimiter: b';', quote: Some(b'\''), escape: Some(b'\\'), ..CsvDialect::default() };
        assert_eq!(records("1;'it\\'s\n;'\n2;\"\n", &other), ["1;'it\\'s\n;'\n", "2;\"\n", ""]);
        let none = CsvDialect { quote: None, ..CsvDialect::default() };
        assert_eq!(records("\"a\nb\"\n", &none), ["\"a\n", "b\"\n", ""]);
    }
}
