//! `${NAME}` and `${NAME:-default}` in option values. `$${` stands for a plain `${`.

use crate::config::{BadReference, Reference};

/// A reference that cannot be replaced, with its byte range in the value.
#[derive(Debug, PartialEq, Eq)]
pub struct Unresolved {
    pub start: usize,
    pub end: usize,
    pub problem: BadReference,
}

/// The value with every reference replaced.
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
        rest = &rest[at..];
        let start = value.len() - rest.len();
        let unresolved = |problem: BadReference, length: usize| Unresolved { start, end: start + length, problem };
        let reference = Reference::at(rest).map_err(|problem| match problem {
            BadReference::NoName(length) => unresolved(problem, length),
            problem => unresolved(problem, rest.len()),
        })?;
        out.push_str(&reference.value(lookup).map_err(|problem| unresolved(problem, reference.length))?);
        rest = &rest[reference.length..];
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
            ("${EMPTY:-}|${EMPTY:-full}", "|full"),
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
            Err(Unresolved { start: 1, end: 5, problem: BadReference::Unset("B".to_owned()) })
        );
        assert_eq!(
            substitute("${A}${EMPTY}", &lookup),
            Err(Unresolved { start: 4, end: 12, problem: BadReference::Empty("EMPTY".to_owned()) })
        );
        assert_eq!(substitute("x${A", &lookup), Err(Unresolved { start: 1, end: 4, problem: BadReference::Open }));
        assert_eq!(
            substitute("${A-b}", &lookup),
            Err(Unresolved { start: 0, end: 6, problem: BadReference::NoName(6) })
        );
    }
}
