//! DataFusion's planning errors as weir's diagnostics: at their position in the file, in weir's wording, with a suggestion
//! if a name is nearly right. Positions come from DataFusion's spans (`datafusion.sql_parser.collect_spans`); an error
//! without a span that names something gets that name's position in the statement.

use std::sync::Arc;

use datafusion::common::{Column, DataFusionError, Diagnostic as Planned, SchemaError};
use datafusion::execution::SessionStateDefaults;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::cursor::{Cursor, is_keyword};
use super::diagnostic::lower_first;
use super::lexer::{fold, tokenize};
use super::split::split;
use super::suggest::{did_you_mean, list};
use super::{Diagnostic, SourceFile, Span};
use crate::error::{Error, SqlState};

/// `error` as a diagnostic of `files`; `fallback` is the span of the statement or clause that was planned.
pub fn diagnose(error: &DataFusionError, files: &[Arc<SourceFile>], fallback: Span) -> Diagnostic {
    Reporter { files, fallback }.report(error, None)
}

/// The first position of `name` within `place`, or within the statement around it.
pub fn find_name(name: &str, files: &[Arc<SourceFile>], place: Span) -> Option<Span> {
    Reporter { files, fallback: place }.find(name, false)
}

/// Message and remedy for a construct that DataFusion cannot plan and reports in its internal terms.
pub fn unsupported(text: &str) -> Option<(&'static str, &'static str)> {
    let is_arithmetic =
        text.contains("Cannot coerce arithmetic expression") || text.contains("Invalid interval arithmetic operation");
    if is_arithmetic && text.contains("Interval") {
        return Some((
            "an INTERVAL cannot be multiplied, divided or added to a number",
            "Write its length out: `INTERVAL '3 hours'`.",
        ));
    }
    let is_subquery = text.contains("does not support logical expression") && text.contains("ubquery")
        || text.contains("Exists(")
        || text.contains("OuterReferenceColumn")
        || text.contains("orrelated");
    is_subquery.then_some((
        "this subquery cannot be turned into a join",
        "EXISTS and IN (SELECT …) stand in WHERE, joined by AND, and may refer to the outer query by conditions in their WHERE; otherwise write a join.",
    ))
}

/// The table that DataFusion did not find, as it qualifies it.
pub fn missing_table(text: &str) -> Option<&str> {
    between(text, "table '", "' not found").or_else(|| text.strip_prefix("Table not found: "))
}

struct Reporter<'a> {
    files: &'a [Arc<SourceFile>],
    fallback: Span,
}

impl Reporter<'_> {
    fn report(&self, error: &DataFusionError, planned: Option<&Planned>) -> Diagnostic {
        match error {
            DataFusionError::Diagnostic(planned, inner) => self.report(inner, Some(planned)),
            DataFusionError::Context(_, inner) => self.report(inner, planned),
            DataFusionError::Shared(inner) => self.report(inner, planned),
            DataFusionError::Collection(errors) => match errors.first() {
                Some(first) => self.report(first, planned),
                None => Diagnostic::new(self.fallback, "the query cannot be planned"),
            },
            DataFusionError::SchemaError(schema, _) => self.schema(schema, planned),
            DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
                Some(ours) => self.ours(ours),
                None => Diagnostic::new(self.fallback, lower_first(&inner.to_string())),
            },
            other => self.text(&other.message(), planned),
        }
    }

    /// DataFusion's span; else the position of `name` in the statement; else the statement.
    fn place(&self, planned: Option<&Planned>, name: Option<&str>, is_call: bool) -> Span {
        if let Some(span) = planned.and_then(|planned| planned.span) {
            return span.into();
        }
        name.and_then(|name| self.find(name, is_call)).unwrap_or(self.fallback)
    }

    /// The first position of the name in the statement; with `is_call`, before a parenthesis.
    fn find(&self, name: &str, is_call: bool) -> Option<Span> {
        let file = self.files.get(usize::from(self.fallback.file))?;
        let tokens = tokenize(&file.text, self.fallback.file, &mut Vec::new());
        let within = |outer: Span| {
            tokens.iter().enumerate().find_map(|(index, token)| {
                let span = Span::from(token.span);
                let called = tokens.get(index + 1).is_some_and(|next| next.token == Token::LParen);
                (outer.contains(span) && (called || !is_call) && names(token, name)).then_some(span)
            })
        };
        within(self.fallback).or_else(|| {
            // The span may cover an object's name only: then its whole statement is searched.
            let statements = split(&tokens, &mut Vec::new()).into_iter();
            let spans =
                statements.map(|range| Span::from(tokens[range.start].span).to(tokens[range.end - 1].span.into()));
            spans.into_iter().find(|span| span.contains(self.fallback)).and_then(within)
        })
    }

    fn schema(&self, error: &SchemaError, planned: Option<&Planned>) -> Diagnostic {
        match error {
            SchemaError::FieldNotFound { field, valid_fields } => self.unknown_column(field, valid_fields, planned),
            SchemaError::AmbiguousReference { field } => {
                let span = self.place(planned, Some(&field.name), false);
                Diagnostic::new(span, format!("column `{}` is ambiguous", field.name))
                    .with_hint(format!("Say which one is meant: `table.{}`.", field.name))
            }
            SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
                let span = self.place(planned, None, false);
                Diagnostic::new(span, format!("two columns are named `{name}`"))
                    .with_hint("Rename one of them with `AS`.")
            }
        }
    }

    fn unknown_column(&self, field: &Column, valid: &[Column], planned: Option<&Planned>) -> Diagnostic {
        let span = field.spans.first().map(Span::from);
        let span = span.unwrap_or_else(|| self.place(planned, Some(&field.name), false));
        let wanted = field.relation.as_ref();
        let of_table = |column: &&Column| wanted.is_none() || column.relation.as_ref() == wanted;
        let mut candidates: Vec<&str> = valid.iter().filter(of_table).map(Column::name).collect();
        if candidates.is_empty() {
            candidates = valid.iter().map(Column::name).collect();
        }
        candidates.dedup();
        let message = match wanted.filter(|wanted| valid.iter().any(|column| column.relation.as_ref() == Some(wanted)))
        {
            Some(table) => format!("unknown column `{}` of `{}`", field.name, table.table()),
            None => match wanted {
                Some(table) => format!("unknown column `{}.{}`", table.table(), field.name),
                None => format!("unknown column `{}`", field.name),
            },
        };
        let found = Diagnostic::new(span, message).or_hint(did_you_mean(&field.name, candidates.iter().copied()));
        if candidates.is_empty() { found } else { found.with_detail(format!("Columns here: {}.", some(&candidates))) }
    }

    fn ours(&self, error: &Error) -> Diagnostic {
        let found = Diagnostic::new(self.fallback, error.message()).or_hint(error.hint().map(str::to_owned));
        let found = found.with_state(error.state());
        match error.detail() {
            Some(detail) => found.with_detail(detail),
            None => found,
        }
    }

    /// Errors that are recognised by their wording only.
    fn text(&self, text: &str, planned: Option<&Planned>) -> Diagnostic {
        let text = text.split("\n\nbacktrace:").next().unwrap_or(text).trim();
        if let Some(name) = between(text, "table function '", "' not found") {
            let found =
                Diagnostic::new(self.place(planned, Some(name), true), format!("unknown table function `{name}`"));
            return match name.eq_ignore_ascii_case("unnest") {
                true => found.with_hint("Write `unnest(list)` in the SELECT list: a row for each element."),
                false => found,
            };
        }
        if let Some(name) = missing_table(text) {
            return self.unknown_table(name.rsplit('.').next().unwrap_or(name), planned);
        }
        if let Some(name) = between(text, "Invalid function '", "'") {
            let known = self.functions();
            return Diagnostic::new(self.place(planned, Some(name), true), format!("unknown function `{name}`"))
                .or_hint(did_you_mean(name, known.iter().map(String::as_str)));
        }
        if let Some(name) = between(text, "Unknown parameter name '", "'") {
            let known: Vec<&str> = between(text, "Valid parameters are: [", "]")
                .map(|list| list.split(", ").collect())
                .unwrap_or_default();
            let found =
                Diagnostic::new(self.place(planned, Some(name), false), format!("no argument is named `{name}`"));
            let found = found.or_hint(did_you_mean(name, known.iter().copied()));
            return if known.is_empty() {
                found
            } else {
                found.with_detail(format!("Arguments are {}.", some(&known)))
            };
        }
        if let Some(call) = between(text, "No function matches the given name and argument types '", "'") {
            return self.wrong_arguments(call, text, planned);
        }
        if let Some(found) = self.unsupported(text, planned) {
            return found;
        }
        let (message, rest) = text.split_once('\n').unwrap_or((text, ""));
        let message = match planned {
            Some(planned) => planned.message.as_str(),
            None => message,
        };
        let name = message.split('\'').nth(1);
        let mut found =
            Diagnostic::new(self.place(planned, name, false), ticks(&lower_first(message.trim_end_matches('.'))));
        if let Some(planned) = planned {
            found.detail = planned.notes.first().map(|note| sentence(&note.message));
            found.hint = planned.helps.first().map(|help| sentence(&help.message));
        } else if !rest.is_empty() {
            found.detail = Some(rest.trim().to_owned());
        }
        found
    }

    fn unsupported(&self, text: &str, planned: Option<&Planned>) -> Option<Diagnostic> {
        let (message, hint) = unsupported(text)?;
        Some(Diagnostic::new(self.place(planned, None, false), message).with_hint(hint))
    }

    fn unknown_table(&self, name: &str, planned: Option<&Planned>) -> Diagnostic {
        let known = self.created(&["SOURCE", "TABLE", "VIEW"]);
        let span = self.place(planned, Some(name), false);
        let found = Diagnostic::new(span, format!("unknown table `{name}`"));
        if self.created(&["SINK"]).iter().any(|sink| sink == name) {
            return found.with_detail(format!("`{name}` is a sink: it can be written but not read."));
        }
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        let found = found.or_hint(did_you_mean(name, names.iter().copied()));
        if names.is_empty() { found } else { found.with_detail(format!("Known are {}.", some(&names))) }
    }

    fn wrong_arguments(&self, call: &str, text: &str, planned: Option<&Planned>) -> Diagnostic {
        let name = call.split('(').next().unwrap_or(call);
        let span = self.place(planned, Some(name), true);
        let found =
            Diagnostic::new(span, format!("wrong arguments: `{call}`")).with_state(SqlState::UNDEFINED_FUNCTION);
        let candidates: Vec<_> =
            text.lines().skip_while(|line| !line.contains("Candidate functions")).skip(1).collect();
        let candidates: Vec<_> = candidates.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
        if let [features] = candidates.as_slice()
            && self.created(&["MODEL"]).iter().any(|model| model == name)
        {
            return wrong_features(name, call, features, span).with_state(SqlState::UNDEFINED_FUNCTION);
        }
        let found = found.with_hint("Cast the arguments with `CAST(… AS …)`.");
        if candidates.is_empty() { found } else { found.with_detail(format!("It takes {}.", some(&candidates))) }
    }

    /// The names of all functions that can be called, those of the files first. DataFusion suggests names too, but among
    /// equally near ones it takes an arbitrary one.
    fn functions(&self) -> Vec<String> {
        let mut known = Vec::new();
        for function in SessionStateDefaults::default_scalar_functions() {
            known.extend(function.aliases().iter().cloned().chain([function.name().to_owned()]));
        }
        for function in SessionStateDefaults::default_aggregate_functions() {
            known.extend(function.aliases().iter().cloned().chain([function.name().to_owned()]));
        }
        for function in SessionStateDefaults::default_window_functions() {
            known.extend(function.aliases().iter().cloned().chain([function.name().to_owned()]));
        }
        known.sort();
        known.dedup();
        let mut all = self.created(&["FUNCTION", "MODEL"]);
        all.extend(known);
        all
    }

    /// Names that the files create as one of `kinds`.
    fn created(&self, kinds: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for (index, file) in self.files.iter().enumerate() {
            let tokens = tokenize(&file.text, index as u16, &mut Vec::new());
            for at in 0..tokens.len() {
                if is_keyword(Some(&tokens[at].token), "CREATE") {
                    let mut cursor = Cursor::new(&tokens[at + 1..]);
                    cursor.eat(&["OR", "REPLACE"]);
                    cursor.eat(&["MATERIALIZED"]);
                    if kinds.iter().any(|kind| cursor.eat(&[kind])) {
                        cursor.eat(&["IF", "NOT", "EXISTS"]);
                        found.extend(cursor.name("a name").map(|name| name.value));
                    }
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

/// A call of a model with arguments other than its features; `features` is the correct call.
fn wrong_features(model: &str, call: &str, features: &str, span: Span) -> Diagnostic {
    let wanted = arguments(features);
    let given = arguments(call);
    if given.len() != wanted.len() {
        let counted = |count: usize| if count == 1 { "1 argument".to_owned() } else { format!("{count} arguments") };
        let verb = if given.len() == 1 { "is" } else { "are" };
        let message = format!("model `{model}` takes {}, {} {verb} given", counted(wanted.len()), given.len());
        let named: Vec<String> = wanted.iter().take(2).map(|name| format!("{name} => …")).collect();
        return Diagnostic::new(span, message).with_detail(format!("Its features are {}.", some(&wanted))).with_hint(
            format!(
                "Give a number for each, in this order: `{features}`; or by name: `{model}({}, …)`.",
                named.join(", ")
            ),
        );
    }
    let is_number = |kind: &&str| {
        ["Int", "UInt", "Float", "Decimal", "Boolean", "Null"].iter().any(|number| kind.starts_with(number))
    };
    let wrong = given.iter().zip(&wanted).enumerate().find(|(_, (kind, _))| !is_number(kind));
    let message = match wrong {
        Some((at, (kind, name))) => {
            format!("argument {} (`{name}`) of model `{model}` is {kind}, not a number", at + 1)
        }
        None => format!("wrong arguments: `{call}`"),
    };
    Diagnostic::new(span, message)
        .with_detail(format!("The call is `{features}`."))
        .with_hint("Give numbers or booleans: encode it as it was encoded when the model was trained.")
}

/// The arguments of a printed call such as `f(a, Decimal128(10, 2))`, split at its outermost commas.
fn arguments(call: &str) -> Vec<&str> {
    let inner = call.split_once('(').map_or("", |(_, rest)| rest.strip_suffix(')').unwrap_or(rest));
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(inner[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(inner[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// True when the token is this identifier.
fn names(token: &TokenWithSpan, name: &str) -> bool {
    match &token.token {
        Token::Word(word) if word.quote_style.is_some() => word.value == name,
        Token::Word(word) => fold(&word.value) == fold(name),
        _ => false,
    }
}

/// The text between `before` and `after`.
fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let start = text.find(before)? + before.len();
    let length = text[start..].find(after)?;
    Some(&text[start..start + length])
}

/// Up to twenty names in backticks.
fn some(names: &[&str]) -> String {
    let shown = list(names.iter().take(20).copied());
    match names.len() {
        0..=20 => shown,
        more => format!("{shown} and {} more", more - 20),
    }
}

/// Replaces single quotes around words by backticks; apostrophes and quoted phrases stay.
fn ticks(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find('\'') {
        let (before, quoted) = (&rest[..at], &rest[at + 1..]);
        out.push_str(before);
        let opens = !before.ends_with(char::is_alphanumeric);
        match quoted.find('\'').filter(|end| opens && *end > 0 && !quoted[..*end].contains(char::is_whitespace)) {
            Some(end) => {
                out.push('`');
                out.push_str(&quoted[..end]);
                out.push('`');
                rest = &quoted[end + 1..];
            }
            None => {
                out.push('\'');
                rest = quoted;
            }
        }
    }
    out + rest
}

/// The text as a sentence.
fn sentence(text: &str) -> String {
    let text = ticks(text.trim());
    let mut chars = text.chars();
    let upper: String = chars.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    let end = if text.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{upper}{}{end}", chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_become_ticked_and_apostrophes_stay() {
        assert_eq!(
            ticks("'t.a' must appear because it's not 'x y' of 'b'"),
            "`t.a` must appear because it's not 'x y' of `b`"
        );
        assert_eq!(sentence("possible column t.a"), "Possible column t.a.");
    }

    #[test]
    fn arguments_are_told_apart_at_outermost_commas() {
        assert_eq!(arguments("f(Float64, Decimal128(10, 2))"), ["Float64", "Decimal128(10, 2)"]);
        assert!(arguments("f()").is_empty());
    }
}
