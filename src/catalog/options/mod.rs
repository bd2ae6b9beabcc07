//! Raw options to typed ones. An object requests each option that it knows from an [`OptionReader`]; options that were never
//! requested are unknown. So the list of known options is never written twice.

mod delta;
mod eventhubs;
mod file;
mod generator;
mod kafka;
mod nexmark;
mod pipeline;

use std::collections::{BTreeMap, BTreeSet};

pub use delta::{feed_columns, source as delta_source};
pub use eventhubs::{sink as eventhubs_sink, source as eventhubs_source};
pub use file::{sink as file_sink, source as file_source};
pub use generator::{columns as generator_columns, source as generator_source};
pub use kafka::{message_format, sink as kafka_sink, source as kafka_source};
pub use nexmark::{columns as nexmark_columns, source as nexmark_source};
pub use pipeline::pipeline;

use super::Secret;
use super::substitute::substitute;
use super::value::Value;
use crate::sql::statement::{Name, OptionEntry, OptionValue, Options};
use crate::sql::suggest::{did_you_mean, list, nearest};
use crate::sql::{Diagnostic, Files, Span};

/// Everything that option values may refer to.
pub struct Scope<'a> {
    pub files: &'a Files,
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Declared secrets: the text, or the reason why it is missing.
    pub secrets: &'a BTreeMap<String, Result<Secret, String>>,
}

/// An option's value with every reference replaced.
pub struct Text {
    pub value: String,
    pub span: Span,
    is_secret: bool,
}

impl Text {
    /// True when it came from a secret and must not be shown.
    pub fn is_secret(&self) -> bool {
        self.is_secret
    }
}

/// Reads the options of one object; errors are collected, so that all of them are found.
pub struct OptionReader<'a> {
    /// The owner of the options, such as ``connector `kafka` `` or ``pipeline `p` ``.
    what: String,
    options: &'a Options,
    /// The span at which missing options are reported.
    anchor: Span,
    scope: &'a Scope<'a>,
    known: Vec<&'static str>,
    prefixes: Vec<&'static str>,
    used: BTreeSet<usize>,
    missing: Vec<String>,
    pub errors: Vec<Diagnostic>,
}

impl<'a> OptionReader<'a> {
    /// A reader of the `options` of `what`; missing ones are reported at `anchor`.
    pub fn new(what: impl Into<String>, options: &'a Options, anchor: Span, scope: &'a Scope<'a>) -> Self {
        Self {
            what: what.into(),
            options,
            anchor,
            scope,
            known: Vec::new(),
            prefixes: Vec::new(),
            used: BTreeSet::new(),
            missing: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Reports an error; reading continues.
    pub fn report(&mut self, error: Diagnostic) {
        self.errors.push(error);
    }

    /// The span at which missing options are reported.
    pub fn anchor(&self) -> Span {
        self.anchor
    }

    /// True if the option is given under exactly this name.
    pub fn has(&self, name: &str) -> bool {
        self.options.get(name).is_some()
    }

    /// The text of an option under one of `names`, if it is plain text, without marking it as read.
    pub fn peek(&self, names: &[&str]) -> Option<&'a str> {
        let entry = self.options.entries.iter().find(|entry| names.contains(&entry.key.value.as_str()))?;
        match &entry.value {
            OptionValue::Text(text) => Some(text),
            OptionValue::Secret(_) => None,
        }
    }

    /// Marks these options as known without reading them (they belong to the other half of a Flink table).
    pub fn skip(&mut self, names: &[&'static str]) {
        for name in names {
            self.entry(&[name]);
        }
    }

    /// The entry under one of `names`: the option's name and its aliases.
    fn entry(&mut self, names: &[&'static str]) -> Option<&'a OptionEntry> {
        self.known.extend(names.first());
        let mut found: Option<&'a OptionEntry> = None;
        for (index, entry) in self.options.entries.iter().enumerate() {
            if !names.contains(&entry.key.value.as_str()) {
                continue;
            }
            self.used.insert(index);
            match found {
                Some(first) if first.key.value != entry.key.value => {
                    let message = format!("options `{}` and `{}` mean the same", first.key.value, entry.key.value);
                    self.errors.push(Diagnostic::new(entry.key.span, message).with_hint("Leave one of them out."));
                }
                _ => found = Some(entry),
            }
        }
        found
    }

    /// The text of an option, secret or not.
    fn resolve(&mut self, entry: &OptionEntry) -> Option<Text> {
        match resolve(entry, self.scope) {
            Ok(text) => Some(text),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    /// A text that may be shown, under one of `names`.
    pub fn text(&mut self, names: &[&'static str]) -> Option<Text> {
        let entry = self.entry(names)?;
        let text = self.resolve(entry)?;
        if text.is_secret {
            let message = format!("option `{}` cannot be a secret", entry.key.value);
            self.errors
                .push(Diagnostic::new(text.span, message).with_hint("It is shown in plans and logs: write a string."));
            return None;
        }
        Some(text)
    }

    /// A text that is never shown.
    pub fn secret(&mut self, names: &[&'static str]) -> Option<(Secret, Span)> {
        let entry = self.entry(names)?;
        let text = self.resolve(entry)?;
        Some((Secret::new(text.value), text.span))
    }

    /// A text that must be given and must not be empty.
    pub fn required(&mut self, names: &[&'static str]) -> Option<Text> {
        let is_given = self.options.entries.iter().any(|entry| names.contains(&entry.key.value.as_str()));
        if !is_given {
            self.known.extend(names.first());
            self.missing(names.first().unwrap_or(&""));
            return None;
        }
        let text = self.text(names)?;
        if text.value.trim().is_empty() {
            let message = format!("option `{}` is empty", names.first().unwrap_or(&""));
            self.errors.push(Diagnostic::new(text.span, message));
            return None;
        }
        Some(text)
    }

    /// Reports at the end that option `name` is missing, unless it turns out to be misspelt.
    pub fn missing(&mut self, name: &str) {
        self.missing.push(name.to_owned());
    }

    /// An option that `parse` reads; the error of `parse` is a hint with the right form.
    pub fn parsed<T>(&mut self, names: &[&'static str], parse: impl FnOnce(&str) -> Value<T>) -> Option<T> {
        let text = self.text(names)?;
        match parse(&text.value) {
            Ok(value) => Some(value),
            Err(hint) => {
                self.invalid(names.first().unwrap_or(&""), &text, hint);
                None
            }
        }
    }

    /// One of `words`, in any case.
    pub fn choice<T: Copy>(&mut self, names: &[&'static str], words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(names)?;
        let wanted = text.value.trim();
        if let Some((_, value)) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(wanted)) {
            return Some(*value);
        }
        let hint = did_you_mean(wanted, words.iter().map(|(word, _)| *word))
            .unwrap_or_else(|| format!("Write one of {}.", list(words.iter().map(|(word, _)| *word))));
        self.invalid(names.first().unwrap_or(&""), &text, hint);
        None
    }

    /// Reports a value that option `name` cannot have.
    pub fn invalid(&mut self, name: &str, text: &Text, hint: String) {
        let message = format!("bad value `{}` of option `{name}`", text.value);
        self.errors.push(Diagnostic::new(text.span, message).with_hint(hint));
    }

    /// All options that begin with `prefix`, without the prefix and without those already read.
    pub fn prefixed(&mut self, prefix: &'static str) -> Vec<(Name, Secret)> {
        self.prefixes.push(prefix);
        let mut found = Vec::new();
        for (index, entry) in self.options.entries.iter().enumerate() {
            let Some(name) = entry.key.value.strip_prefix(prefix) else { continue };
            if self.used.insert(index)
                && let Some(text) = self.resolve(entry)
            {
                found.push((Name { value: name.to_owned(), span: entry.key.span }, Secret::new(text.value)));
            }
        }
        found
    }

    /// Reports every option that was not requested; returns all errors.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.known.sort_unstable();
        self.known.dedup();
        for (index, entry) in self.options.entries.iter().enumerate() {
            if self.used.contains(&index) {
                continue;
            }
            let key = entry.key.value.as_str();
            let error = Diagnostic::new(entry.key.span, format!("unknown option `{key}` of {}", self.what));
            match nearest(key, self.known.iter().copied()) {
                Some(near) => {
                    self.missing.retain(|missing| missing != near);
                    self.errors.push(error.with_hint(format!("Did you mean `{near}`?")));
                }
                None => {
                    let known = list(self.known.iter().copied().chain(self.prefixes.iter().copied()));
                    self.errors.push(error.with_detail(format!("Known are {known}.")));
                }
            }
        }
        for name in &self.missing {
            let error = Diagnostic::new(self.anchor, format!("{} needs option `{name}`", self.what));
            self.errors.push(error.with_hint(format!("Add `{name} = '…'` to `WITH (…)`.")));
        }
        self.errors
    }
}

/// The value of an entry with its references replaced.
pub fn resolve(entry: &OptionEntry, scope: &Scope<'_>) -> Result<Text, Diagnostic> {
    match &entry.value {
        OptionValue::Text(raw) => {
            let value = substituted(raw, entry.span, scope)?;
            Ok(Text { value, span: entry.span, is_secret: false })
        }
        OptionValue::Secret(name) => match scope.secrets.get(name) {
            Some(Ok(secret)) => Ok(Text { value: secret.expose().to_owned(), span: entry.span, is_secret: true }),
            Some(Err(reason)) => {
                Err(Diagnostic::new(entry.span, format!("secret `{name}` cannot be read")).with_detail(reason.clone()))
            }
            None => Err(Diagnostic::new(entry.span, format!("unknown secret `{name}`"))
                .or_hint(did_you_mean(name, scope.secrets.keys().map(String::as_str)))
                .or_hint(Some(format!("Declare it: `CREATE SECRET {name} FROM ENV …`.")))),
        },
    }
}

/// `raw` with its `${…}` replaced; `span` is the literal's.
pub fn substituted(raw: &str, span: Span, scope: &Scope<'_>) -> Result<String, Diagnostic> {
    substitute(raw, scope.lookup).map_err(|unresolved| {
        let reference = &raw[unresolved.start..unresolved.end];
        let place = within(raw, unresolved.start..unresolved.end, span, scope.files);
        match unresolved.problem.of_variable() {
            Some((message, hint)) => Diagnostic::new(place, message).with_hint(hint),
            None => Diagnostic::new(place, format!("`{reference}` is not a reference"))
                .with_hint("Write `${NAME}` or `${NAME:-default}`; `$${` stands for a plain `${`."),
        }
    })
}

/// The span of a part of a literal, if the file contains the literal verbatim; else the span of the whole literal.
fn within(raw: &str, part: std::ops::Range<usize>, span: Span, files: &Files) -> Span {
    if files.slice(span) != format!("'{raw}'") || raw.contains('\n') {
        return span;
    }
    let columns = |byte: usize| 1 + raw[..byte].chars().count() as u32;
    Span { start: span.start.right(columns(part.start)), end: span.start.right(columns(part.end)), ..span }
}
