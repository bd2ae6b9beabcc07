//! DROP, EXPLAIN, SHOW, DESCRIBE, and what is known but cannot run yet.

use super::super::Diagnostic;
use super::super::cursor::{Cursor, Parsed};
use super::super::embedded;
use super::super::statement::{Aspect, Describe, Drop, Explain, ObjectKind, Show, Statement, StatementKind};
use super::{begins_query, not_yet, pipeline};

/// Kinds of objects by keyword.
const KINDS: &[(&str, ObjectKind)] = &[
    ("SECRET", ObjectKind::Secret),
    ("SOURCE", ObjectKind::Source),
    ("TABLE", ObjectKind::Table),
    ("SINK", ObjectKind::Sink),
    ("VIEW", ObjectKind::View),
    ("FUNCTION", ObjectKind::Function),
    ("MODEL", ObjectKind::Model),
    ("PIPELINE", ObjectKind::Pipeline),
];

/// What SHOW lists.
const SHOWN: &[(&str, Show)] = &[
    ("PIPELINES", Show::Pipelines),
    ("SOURCES", Show::Sources),
    ("TABLES", Show::Tables),
    ("SINKS", Show::Sinks),
    ("VIEWS", Show::Views),
    ("FUNCTIONS", Show::Functions),
    ("MODELS", Show::Models),
    ("SECRETS", Show::Secrets),
    ("STATE", Show::State),
    ("PROGRESS", Show::Progress),
];

/// Statements that DIALECT.md has and a later version will run.
const LATER: &[&[&str]] = &[
    &["REFRESH", "MODEL"],
    &["ALTER", "MODEL"],
    &["ALTER", "TABLE"],
    &["ALTER"],
    &["OPTIMIZE"],
    &["VACUUM"],
    &["RESTORE"],
    &["DELETE"],
    &["UPDATE"],
    &["MERGE", "INTO"],
    &["MERGE"],
    &["START", "PIPELINE"],
    &["STOP", "PIPELINE"],
    &["VERIFY", "PIPELINE"],
    &["REPLAY", "DEAD", "LETTERS"],
    &["TRUNCATE"],
    &["COPY"],
    &["ANALYZE"],
];

/// What follows DROP.
pub fn drop(cursor: &mut Cursor<'_>) -> Parsed<Drop> {
    if cursor.sees(&["MATERIALIZED", "VIEW"]) {
        return Err(not_yet(cursor.span(), "`DROP MATERIALIZED VIEW`"));
    }
    let object = kind(cursor)?;
    let if_exists = cursor.eat(&["IF", "EXISTS"]);
    let name = cursor.object_name(&format!("the {}'s name", object.word()))?;
    Ok(Drop { object, name, if_exists })
}

fn kind(cursor: &mut Cursor<'_>) -> Parsed<ObjectKind> {
    match KINDS.iter().find(|(word, _)| cursor.eat(&[word])) {
        Some((_, kind)) => Ok(*kind),
        None => Err(cursor.expected_one_of(&words(KINDS))),
    }
}

/// The keywords of a table.
fn words<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(word, _)| *word).collect()
}

/// What follows EXPLAIN.
pub fn explain(cursor: &mut Cursor<'_>) -> Parsed<Explain> {
    for word in ["MIGRATION", "ANALYZE"] {
        if cursor.sees(&[word]) {
            return Err(not_yet(cursor.span(), &format!("`EXPLAIN {word}`")));
        }
    }
    let verbose = cursor.eat(&["VERBOSE"]);
    let start = cursor.span();
    let kind = if cursor.sees(&["INSERT"]) {
        StatementKind::Insert(pipeline::insert(cursor)?)
    } else if begins_query(cursor) {
        StatementKind::Query(embedded::query(cursor.rest())?)
    } else {
        return Err(cursor.expected_one_of(&["INSERT", "SELECT"]));
    };
    let span = start.to(cursor.last_span());
    Ok(Explain { verbose, statement: Box::new(Statement { kind, span }) })
}

/// What follows SHOW.
pub fn show(cursor: &mut Cursor<'_>) -> Parsed<Show> {
    match SHOWN.iter().find(|(word, _)| cursor.eat(&[word])) {
        Some((_, what)) => Ok(*what),
        None => Err(cursor.expected_one_of(&words(SHOWN))),
    }
}

/// What follows DESCRIBE.
pub fn describe(cursor: &mut Cursor<'_>) -> Parsed<Describe> {
    let has_more = cursor.peek_at(1).is_some();
    let aspect = if has_more && cursor.eat(&["DETAIL"]) {
        Aspect::Detail
    } else if has_more && cursor.eat(&["HISTORY"]) {
        Aspect::History
    } else {
        Aspect::Columns
    };
    let has_more = cursor.peek_at(1).is_some();
    let object = KINDS.iter().find(|(word, _)| has_more && cursor.eat(&[word])).map(|(_, kind)| *kind);
    let name = cursor.object_name("an object's name")?;
    Ok(Describe { aspect, object, name })
}

/// A diagnostic if a statement comes next that only a later version can run.
pub fn unsupported(cursor: &mut Cursor<'_>) -> Option<Diagnostic> {
    let start = cursor.position();
    let words = LATER.iter().find(|words| cursor.eat(words))?;
    Some(not_yet(cursor.since(start), &format!("`{}`", words.join(" "))))
}
