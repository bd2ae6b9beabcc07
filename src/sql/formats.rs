//! Date and time patterns of PostgreSQL and Java (Spark), translated to chrono's, which DataFusion uses.
//!
//! A pattern with `%` is chrono's already. `date_format` takes Java's, `to_char` PostgreSQL's; functions that parse take
//! either, told apart by the case of the letters. A part without an equivalent is refused rather than printed as text.

use chrono::format::{Item, StrftimeItems};

/// The system that a pattern belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    PostgreSql,
    Java,
}

/// The reason why a pattern is refused.
pub type Problem = String;

/// The dialect of `pattern` in a call of `function`; `None` = chrono's.
///
/// Errors: a pattern that could be either, or one of chrono's with a part that chrono does not know.
pub fn dialect(function: &str, pattern: &str) -> Result<Option<Dialect>, Problem> {
    if pattern.contains('%') {
        return match StrftimeItems::new(pattern).any(|item| item == Item::Error) {
            true => Err("what follows a `%` in it is no part of a date or time".to_owned()),
            false => Ok(None),
        };
    }
    let has_lower = |letter: char| pattern.contains(letter);
    match function {
        "date_format" => Ok(Some(Dialect::Java)),
        "to_char" if pattern.contains("MM") && pattern.contains("mm") => {
            Err("`mm` is the month in PostgreSQL and the minute in Java".to_owned())
        }
        "to_char" => Ok(Some(Dialect::PostgreSql)),
        _ if has_lower('y') && pattern.contains("mm") && !pattern.contains('M') => {
            Err("`mm` is the month in PostgreSQL and the minute in Java".to_owned())
        }
        _ if has_lower('y') || has_lower('d') || has_lower('s') || has_lower('u') => Ok(Some(Dialect::Java)),
        _ => Ok(Some(Dialect::PostgreSql)),
    }
}

/// The pattern in chrono's form. Errors: the first part that has no equivalent.
pub fn translate(dialect: Dialect, pattern: &str) -> Result<String, Problem> {
    let (translated, fields) = match dialect {
        Dialect::PostgreSql => postgresql(pattern)?,
        Dialect::Java => java(pattern)?,
    };
    if fields == 0 { Err("it names no part of a date or time".to_owned()) } else { Ok(translated) }
}

/// PostgreSQL's fields, longest first; those that begin with FM have no padding.
const POSTGRESQL: &[(&str, &str)] = &[
    ("TZH:TZM", "%:z"),
    ("FMHH24", "%-H"),
    ("FMHH12", "%-I"),
    ("IYYY", "%G"),
    ("YYYY", "%Y"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("FMDDD", "%-j"),
    ("FMMM", "%-m"),
    ("FMDD", "%-d"),
    ("FMHH", "%-I"),
    ("FMMI", "%-M"),
    ("FMSS", "%-S"),
    ("DDD", "%j"),
    ("FF3", "%3f"),
    ("FF6", "%6f"),
    ("IY", "%g"),
    ("YY", "%y"),
    ("MM", "%m"),
    ("DD", "%d"),
    ("ID", "%u"),
    ("IW", "%V"),
    ("HH", "%I"),
    ("MI", "%M"),
    ("SS", "%S"),
    ("MS", "%3f"),
    ("US", "%6f"),
];

/// Fields whose case counts, longest first.
const POSTGRESQL_CASED: &[(&str, &str)] = &[
    ("FMMonth", "%B"),
    ("FMDay", "%A"),
    ("FMMon", "%b"),
    ("FMDy", "%a"),
    ("Mon", "%b"),
    ("Dy", "%a"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("am", "%P"),
    ("pm", "%P"),
];

/// Fields that begin like one of the above and are not supported.
const POSTGRESQL_OTHER: &[&str] = &["SSSS", "FMMONTH", "FMDAY", "MONTH", "MON", "DAY", "DY", "Y,YYY", "YYY", "IYY"];

fn postgresql(pattern: &str) -> Result<(String, usize), Problem> {
    let (mut out, mut fields) = (String::new(), 0);
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let text = &rest[1..];
            let end = text.find('"').ok_or("a quote is not closed")?;
            out.push_str(&text[..end]);
            rest = &text[end + 1..];
            continue;
        }
        let other = POSTGRESQL_OTHER.iter().filter(|field| starts_with(rest, field)).map(|field| field.len()).max();
        let matches =
            |(field, _): &&(&str, &str)| starts_with(rest, field) && other.is_none_or(|other| other < field.len());
        let cased = POSTGRESQL_CASED.iter().find(|(field, _)| rest.starts_with(field));
        let found = cased.or_else(|| POSTGRESQL.iter().find(matches));
        match found {
            Some((field, meant)) => {
                out.push_str(meant);
                fields += 1;
                rest = &rest[field.len()..];
            }
            None if first.is_alphanumeric() => return Err(unknown(rest)),
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    Ok((out, fields))
}

fn starts_with(text: &str, field: &str) -> bool {
    text.get(..field.len()).is_some_and(|start| start.eq_ignore_ascii_case(field))
}

/// The error for the word at the start of `rest`.
fn unknown(rest: &str) -> Problem {
    let word: String = rest.chars().take_while(|letter| letter.is_alphanumeric()).collect();
    format!("`{word}` has no equivalent here")
}

fn java(pattern: &str) -> Result<(String, usize), Problem> {
    let (mut out, mut fields) = (String::new(), 0);
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        if first == '\'' {
            let text = &rest[1..];
            let end = text.find('\'').ok_or("a quote is not closed")?;
            out.push_str(&text[..end]);
            rest = &text[end + 1..];
            // Two quotes stand for one, inside quotes and outside.
            if end == 0 || rest.starts_with('\'') {
                out.push('\'');
            }
            continue;
        }
        if !first.is_ascii_alphabetic() {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let count = rest.chars().take_while(|letter| *letter == first).count();
        out.push_str(java_field(first, count).ok_or_else(|| format!("`{}` has no equivalent here", &rest[..count]))?);
        fields += 1;
        rest = &rest[count..];
    }
    Ok((out, fields))
}

fn java_field(letter: char, count: usize) -> Option<&'static str> {
    Some(match (letter, count) {
        ('y' | 'u', 1 | 4) => "%Y",
        ('y' | 'u', 2) => "%y",
        ('M' | 'L', 1) => "%-m",
        ('M' | 'L', 2) => "%m",
        ('M' | 'L', 3) => "%b",
        ('M' | 'L', 4) => "%B",
        ('d', 1) => "%-d",
        ('d', 2) => "%d",
        ('D', 1) => "%-j",
        ('D', 3) => "%j",
        ('E', 1..=3) => "%a",
        ('E', 4) => "%A",
        ('H', 1) => "%-H",
        ('H', 2) => "%H",
        ('h', 1) => "%-I",
        ('h', 2) => "%I",
        ('m', 1) => "%-M",
        ('m', 2) => "%M",
        ('s', 1) => "%-S",
        ('s', 2) => "%S",
        ('S', 3) => "%3f",
        ('S', 6) => "%6f",
        ('S', 9) => "%9f",
        ('a', 1) => "%p",
        ('x', 3) => "%:z",
        ('x', 2) | ('Z', 1..=3) => "%z",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    /// 2024-07-04 03:05:09.012345, a Thursday, in this pattern.
    fn shown(function: &str, pattern: &str) -> Result<String, Problem> {
        let time: DateTime<Utc> = DateTime::from_timestamp_micros(1_720_062_309_012_345).unwrap();
        let translated = match dialect(function, pattern)? {
            Some(dialect) => translate(dialect, pattern)?,
            None => pattern.to_owned(),
        };
        Ok(time.format(&translated).to_string())
    }

    /// Values from the manuals of PostgreSQL (Formatting Functions) and Java (DateTimeFormatter).
    #[test]
    fn patterns_print_what_their_databases_print() {
        for (function, pattern, expected) in [
            ("to_char", "YYYY-MM-DD", "2024-07-04"),
            ("to_char", "yyyy-mm-dd hh24:mi:ss", "2024-07-04 03:05:09"),
            ("to_char", "YYYY-MM-DD\"T\"HH24:MI:SS.MS", "2024-07-04T03:05:09.012"),
            ("to_char", "DD.MM.YY HH12:MI AM", "04.07.24 03:05 AM"),
            ("to_char", "FMDD.FMMM. FMHH24:MI:SS.US", "4.7. 3:05:09.012345"),
            ("to_char", "Dy, DD Mon YYYY", "Thu, 04 Jul 2024"),
            ("to_char", "FMDay, FMMonth DDD", "Thursday, July 186"),
            ("to_char", "IYYY-\"W\"IW-ID", "2024-W27-4"),
            ("to_char", "%Y/%m", "2024/07"),
            ("date_format", "yyyy-MM-dd", "2024-07-04"),
            ("date_format", "yyyy-MM-dd'T'HH:mm:ss.SSS", "2024-07-04T03:05:09.012"),
            ("date_format", "d/M/yy h:mm a", "4/7/24 3:05 AM"),
            ("date_format", "EEEE, MMMM d 'o''clock'", "Thursday, July 4 o'clock"),
            ("date_format", "%H", "03"),
            ("to_timestamp", "YYYYMMDDHH24MISS", "20240704030509"),
            ("to_timestamp", "dd/MM/yyyy HH:mm:ss", "04/07/2024 03:05:09"),
        ] {
            assert_eq!(shown(function, pattern).as_deref(), Ok(expected), "{function} {pattern}");
        }
    }

    #[test]
    fn what_has_no_equivalent_is_refused() {
        for (function, pattern) in [
            ("to_char", "Month"),
            ("to_char", "YYYY WW"),
            ("to_char", "DDth"),
            ("to_char", "SSSS"),
            ("to_char", "YYYY \"open"),
            ("to_char", "yyyy-MM-dd HH:mm"),
            ("to_char", "---"),
            ("date_format", "YYYY-MM-dd"),
            ("date_format", "yyyy-MM-ddTHH"),
            ("date_format", "ss.SS"),
            ("date_format", ""),
            ("to_date", "yyyy-mm-dd"),
        ] {
            assert!(shown(function, pattern).is_err(), "{function} {pattern}: {:?}", shown(function, pattern));
        }
    }
}
