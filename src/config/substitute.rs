//! `${NAME}` and `${NAME:-default}` in a YAML text, replaced before it is parsed so that errors keep their lines.
//!
//! A value is inserted so that YAML reads it as it is: escaped inside quotes, and refused outside of them where it holds
//! characters that mean something to YAML. Comments are left alone; `$${` stands for a plain `${`.

use super::reference::{BadReference, Reference};
use crate::error::{Error, Result};

/// The quoting at a position in a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Plain,
    SingleQuoted,
    DoubleQuoted,
}

/// `text` with every variable replaced. Errors carry the line, counted from 1.
pub(super) fn substitute(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, (usize, Error)> {
    let mut out = String::with_capacity(text.len());
    let mut place = Place::Plain;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        substitute_line(line, &mut place, environment, &mut out).map_err(|error| (index + 1, error))?;
    }
    Ok(out)
}

fn substitute_line(
    line: &str,
    place: &mut Place,
    environment: &dyn Fn(&str) -> Option<String>,
    out: &mut String,
) -> Result<()> {
    let mut rest = line;
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        match (*place, next) {
            (Place::Plain, '#') if before.is_whitespace() => {
                out.push_str(rest);
                return Ok(());
            }
            (_, '$') if rest.starts_with("$${") => {
                out.push_str("${");
                rest = &rest[3..];
                before = '{';
                continue;
            }
            (_, '$') if rest.starts_with("${") => {
                let reference = Reference::at(rest).map_err(|problem| refused(&problem, rest))?;
                let value = reference.value(environment).map_err(|problem| refused(&problem, rest))?;
                insert(&value, reference.name, *place, out)?;
                rest = &rest[reference.length..];
                before = '}';
                continue;
            }
            (Place::DoubleQuoted, '\\') => {
                let escape = rest.chars().take(2).map(char::len_utf8).sum();
                out.push_str(&rest[..escape]);
                rest = &rest[escape..];
                continue;
            }
            (Place::Plain, '"') if opens(before) => *place = Place::DoubleQuoted,
            (Place::Plain, '\'') if opens(before) => *place = Place::SingleQuoted,
            (Place::DoubleQuoted, '"') | (Place::SingleQuoted, '\'') => *place = Place::Plain,
            _ => {}
        }
        out.push(next);
        before = next;
        rest = &rest[next.len_utf8()..];
    }
    Ok(())
}

/// `true` if a quote after this character begins a quoted text (and is not an apostrophe inside a plain one). A doubled
/// quote inside a single-quoted text closes it and opens it again.
fn opens(before: char) -> bool {
    before.is_whitespace() || matches!(before, '[' | '{' | ',' | '\'')
}

/// The error of the reference that `text` begins with.
fn refused(problem: &BadReference, text: &str) -> Error {
    match (problem.of_variable(), problem) {
        (Some((message, hint)), _) => Error::config(message).with_hint(hint),
        (None, BadReference::NoName(length)) => {
            Error::config(format!("`{}` does not name an environment variable", &text[..*length]))
        }
        (None, _) => Error::config("`${` has no `}`"),
    }
}

fn insert(value: &str, name: &str, place: Place, out: &mut String) -> Result<()> {
    match place {
        Place::DoubleQuoted => {
            for c in value.chars() {
                match c {
                    '"' | '\\' => out.extend(['\\', c]),
                    '\n' => out.push_str("\\n"),
                    '\t' => out.push_str("\\t"),
                    c => out.push(c),
                }
            }
        }
        Place::SingleQuoted if !value.contains('\n') => out.push_str(&value.replace('\'', "''")),
        Place::Plain if is_plain(value) => out.push_str(value),
        _ => {
            return Err(Error::config(format!("the value of `{name}` has characters that YAML reads specially"))
                .with_hint(format!("Put double quotes around `${{{name}}}`.")));
        }
    }
    Ok(())
}

/// `true` if YAML reads the value literally outside quotes.
fn is_plain(value: &str) -> bool {
    let special = |c: char| {
        c.is_control()
            || matches!(c, '#' | '"' | '\'' | '{' | '}' | '[' | ']' | ',' | '&' | '*' | '!' | '|' | '>' | '`')
    };
    !value.contains(special)
        && !value.contains(": ")
        && !value.ends_with(':')
        && !value.starts_with(['%', '@', '?', '-', ' '])
        && !value.ends_with(' ')
}
