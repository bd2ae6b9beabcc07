//! `${NAME}` and `${NAME:-default}`: the one grammar and rule for references to environment variables, in the configuration
//! and in option values of SQL.
//!
//! A variable that is empty counts as unset: a default is used, and without one the reference is an error. An empty text is
//! written `${NAME:-}`.

/// A reference at the start of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    pub name: &'a str,
    default: Option<&'a str>,
    /// Bytes from `$` to `}`.
    pub length: usize,
}

/// An error of a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadReference {
    /// The variable is not set and has no default.
    Unset(String),
    /// The variable is set to an empty text and has no default.
    Empty(String),
    /// There is no `}`.
    Open,
    /// Between the braces is no name: these bytes from `$` to `}`.
    NoName(usize),
}

impl BadReference {
    /// The message and the hint of a variable without a value.
    pub fn of_variable(&self) -> Option<(String, String)> {
        match self {
            Self::Unset(name) => Some((
                format!("environment variable `{name}` is not set"),
                format!("Set it, or give a default: `${{{name}:-default}}`."),
            )),
            Self::Empty(name) => Some((
                format!("environment variable `{name}` is empty"),
                format!("Set it, or give a default: `${{{name}:-default}}`; `${{{name}:-}}` is an empty text."),
            )),
            Self::Open | Self::NoName(_) => None,
        }
    }
}

impl<'a> Reference<'a> {
    /// The reference that `text` begins with; `text` begins with `${`.
    pub fn at(text: &'a str) -> Result<Self, BadReference> {
        let end = text.find('}').ok_or(BadReference::Open)?;
        let inside = &text[2..end];
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(BadReference::NoName(end + 1));
        }
        Ok(Self { name, default, length: end + 1 })
    }

    /// Its value in an environment.
    pub fn value(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, BadReference> {
        match (environment(self.name), self.default) {
            (Some(value), _) if !value.is_empty() => Ok(value),
            (_, Some(default)) => Ok(default.to_owned()),
            (Some(_), None) => Err(BadReference::Empty(self.name.to_owned())),
            (None, None) => Err(BadReference::Unset(self.name.to_owned())),
        }
    }
}
