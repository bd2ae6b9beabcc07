//! `${NAME}` and `${NAME:-default}` in option values. `$${` stands for a plain `${`.

/// A reference that cannot be replaced, with its byte range in the value.
#[derive(Debug, PartialEq, Eq)]
pub struct Unresolved {
    pub start: usize,
    pub end: usize,
    pub problem: Problem,
}

/// The error of a reference.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// The variable is not set and has no default.
    Unset(String),
    /// `${` without `}` or without a name.
    Malformed,
}

/// The value with every reference replaced. An empty variable counts as set, unless the reference has a default.
pub fn substitute(value: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, Unresolved> {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let start = value.len() - rest.len() + at;
        let inner = &rest[at + 2..];
        let Some(length) = inner.find('}') else {
            return Err(Unresolved { start, end: value.len(), problem: Problem::Malformed });
        };
        let end = start + 2 + length + 1;
        let (name, default) = match inner[..length].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inner[..length], None),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(Unresolved { start, end, problem: Problem::Malformed });
        }
        match (lookup(name), default) {
            (Some(found), None) => out.push_str(&found),
            (Some(found), Some(_)) if !found.is_empty() => out.push_str(&found),
            (_, Some(default)) => out.push_str(default),
            (None, None) => return Err(Unresolved { start, end, problem: Problem::Unset(name.to_owned()) }),
        }
        rest = &inner[length + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn references_and_defaults_are_replaced() {
        for (value, expected) in [
            ("${A}/x", "alpha/x"),
            ("${B:-beta}${A:-no}", "betaalpha"),
            ("${EMPTY}|${EMPTY:-full}", "|full"),
            ("$ConnectionString $${A} $", "$ConnectionString ${A} $"),
            ("${B:-}", ""),
        ] {
            assert_eq!(substitute(value, &lookup).as_deref(), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_unset_or_malformed_is_named_with_its_place() {
        assert_eq!(
            substitute("x${B}", &lookup),
            Err(Unresolved { start: 1, end: 5, problem: Problem::Unset("B".to_owned()) })
        );
        assert_eq!(substitute("x${A", &lookup), Err(Unresolved { start: 1, end: 4, problem: Problem::Malformed }));
        assert_eq!(substitute("${A-b}", &lookup), Err(Unresolved { start: 0, end: 6, problem: Problem::Malformed }));
    }
}
