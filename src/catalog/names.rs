//! The names in use, with the kind and position of their objects. Sources, tables, sinks and views share one namespace,
//! functions and models another; secrets and pipelines have their own.

use std::collections::BTreeMap;

use crate::sql::statement::{Head, Name, ObjectKind, OnExisting};
use crate::sql::suggest::did_you_mean;
use crate::sql::{Diagnostic, Files, Span};

/// A set of names that must be distinct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespace {
    Relations,
    Callables,
    Secrets,
    Pipelines,
}

impl Namespace {
    /// The namespace of objects of this kind.
    pub fn of(kind: ObjectKind) -> Self {
        match kind {
            ObjectKind::Source
            | ObjectKind::Table
            | ObjectKind::Sink
            | ObjectKind::View
            | ObjectKind::MaterializedView => Self::Relations,
            ObjectKind::Function | ObjectKind::Model => Self::Callables,
            ObjectKind::Secret => Self::Secrets,
            ObjectKind::Pipeline => Self::Pipelines,
        }
    }
}

/// The effect of a CREATE statement on its name.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The name was free.
    New,
    /// The old object is removed.
    Replace,
    /// The old object stays; the statement does nothing.
    Keep,
}

/// The names in use.
#[derive(Debug, Default)]
pub struct Names {
    taken: BTreeMap<(Namespace, String), (ObjectKind, Span)>,
    /// Names of CREATE statements that could not be parsed: no further errors about them are reported.
    broken: Vec<String>,
}

impl Names {
    /// Takes the name in `head` for an object of `kind`. Errors: it is in use.
    pub fn claim(&mut self, head: &Head, kind: ObjectKind, files: &Files) -> Result<Claim, Diagnostic> {
        let key = (Namespace::of(kind), head.name.value.clone());
        let Some((other, first)) = self.taken.get(&key).copied() else {
            self.taken.insert(key, (kind, head.name.span));
            return Ok(Claim::New);
        };
        match head.on_existing {
            OnExisting::Keep if other == kind => Ok(Claim::Keep),
            OnExisting::Replace if other == kind => {
                self.taken.insert(key, (kind, head.name.span));
                Ok(Claim::Replace)
            }
            _ => {
                let name = &head.name.value;
                let place = files.place(first).unwrap_or_default();
                let error = Diagnostic::new(head.name.span, format!("{} `{name}` exists already", other.word()))
                    .with_detail(format!("It is created at {place}."));
                Err(error.with_hint(if other == kind {
                    "Write `CREATE OR REPLACE` or `CREATE … IF NOT EXISTS`, or choose another name."
                } else {
                    "Choose another name."
                }))
            }
        }
    }

    /// Frees a name; returns false if it was not in use and `if_exists` allows that.
    pub fn release(&mut self, name: &Name, kind: ObjectKind, if_exists: bool) -> Result<bool, Diagnostic> {
        let key = (Namespace::of(kind), name.value.clone());
        match self.taken.get(&key) {
            Some((other, _)) if *other == kind => {
                self.taken.remove(&key);
                Ok(true)
            }
            Some((other, _)) => {
                let message = format!("`{}` is a {}, not a {}", name.value, other.word(), kind.word());
                let hint = format!("Write `DROP {} {}`.", other.word().to_uppercase(), name.value);
                Err(Diagnostic::new(name.span, message).with_hint(hint))
            }
            None if if_exists || self.is_broken(&name.value) => Ok(false),
            None => {
                let same =
                    self.taken.iter().filter(|(_, (other, _))| *other == kind).map(|((_, name), _)| name.as_str());
                Err(Diagnostic::new(name.span, format!("unknown {} `{}`", kind.word(), name.value))
                    .or_hint(did_you_mean(&name.value, same))
                    .or_hint(Some("Write `IF EXISTS` if it may be missing.".to_owned())))
            }
        }
    }

    /// Marks `name` as used by an object that could not be built.
    pub fn set_broken(&mut self, name: String) {
        self.broken.push(name);
    }

    /// The names about which no errors are reported.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// True if the object with this name could not be built.
    pub fn is_broken(&self, name: &str) -> bool {
        self.broken.iter().any(|broken| broken == name)
    }

    /// The kind of the relation with this name.
    pub fn relation(&self, name: &str) -> Option<ObjectKind> {
        self.kind(ObjectKind::Table, name)
    }

    /// The kind of the object with this name in the namespace of `like`.
    pub fn kind(&self, like: ObjectKind, name: &str) -> Option<ObjectKind> {
        self.taken.get(&(Namespace::of(like), name.to_owned())).map(|(kind, _)| *kind)
    }

    /// Records the final kind of a relation (a table in another system's form).
    pub fn set_relation(&mut self, name: &str, kind: ObjectKind) {
        if let Some(entry) = self.taken.get_mut(&(Namespace::Relations, name.to_owned())) {
            entry.0 = kind;
        }
    }
}
