//! `${NAME}` and `${NAME:-default}` in a YAML text, replaced before it is parsed so that errors keep their lines.
//!
//! A value is inserted so that YAML reads it as it is: escaped inside quotes, and refused outside of them where it holds
//! characters that mean something to YAML. Comments are left alone; `$${` stands for a plain `${`.

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
                let end = rest.find('}').ok_or_else(|| Error::config("`${` has no `}`"))?;
                let value = look_up(&rest[2..end], environment)?;
                insert(&value, &rest[2..end], *place, out)?;
                rest = &rest[end + 1..];
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

fn look_up(inside: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Error::config(format!("`${{{inside}}}` does not name an environment variable")));
    }
    match (environment(name).filter(|value| !value.is_empty()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Error::config(format!("environment variable `{name}` is not set"))
            .with_hint(format!("Set it, or give a default: `${{{name}:-…}}`."))),
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
            let name = name.split(":-").next().unwrap_or(name);
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
