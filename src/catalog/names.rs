//! Which names are taken, by what, and where. Sources, tables, sinks and views share one namespace, functions and models
//! another; secrets and pipelines have their own.

use std::collections::BTreeMap;

use crate::sql::statement::{Head, Name, ObjectKind, OnExisting};
use crate::sql::suggest::did_you_mean;
use crate::sql::{Diagnostic, Files, Span};

/// A set of names that must differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespace {
    Relations,
    Callables,
    Secrets,
    Pipelines,
}

impl Namespace {
    /// Where objects of this kind have their names.
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

/// What a CREATE must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The name was free.
    New,
    /// The old object goes.
    Replace,
    /// The old object stays, the statement does nothing.
    Keep,
}

/// The names that are taken.
#[derive(Debug, Default)]
pub struct Names {
    taken: BTreeMap<(Namespace, String), (ObjectKind, Span)>,
    /// Names of CREATE statements that could not be read: nothing more is said about them.
    broken: Vec<String>,
}

impl Names {
    /// Takes the name in `head` for an object of `kind`.
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

    /// Frees a name; gives false when it was not there and that is fine.
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

    /// Counts `name` as taken by something that could not be read.
    pub fn set_broken(&mut self, name: String) {
        self.broken.push(name);
    }

    /// The names that nothing more is said about.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// True when a statement about `name` could not be read.
    pub fn is_broken(&self, name: &str) -> bool {
        self.broken.iter().any(|broken| broken == name)
    }

    /// The kind of the relation of this name.
    pub fn relation(&self, name: &str) -> Option<ObjectKind> {
        self.kind(ObjectKind::Table, name)
    }

    /// The kind of the object that has this name where objects like `like` have theirs.
    pub fn kind(&self, like: ObjectKind, name: &str) -> Option<ObjectKind> {
        self.taken.get(&(Namespace::of(like), name.to_owned())).map(|(kind, _)| *kind)
    }

    /// Notes that a relation turned out to be of another kind (a table of another system's form).
    pub fn set_relation(&mut self, name: &str, kind: ObjectKind) {
        if let Some(entry) = self.taken.get_mut(&(Namespace::Relations, name.to_owned())) {
            entry.0 = kind;
        }
    }
}
