//! DROP, EXPLAIN, SHOW, DESCRIBE, VERIFY, and what is known but cannot run yet.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::super::Diagnostic;
use super::super::cursor::{Cursor, Parsed};
use super::super::embedded;
use super::super::statement::{
    AsOf, Aspect, Describe, Drop, Explain, Migration, ObjectKind, Show, ShowState, Statement, StatementKind, Verify,
};
use super::{begins_query, not_yet, pipeline};

/// Kinds of objects by keyword.
const KINDS: &[(&str, ObjectKind)] = &[
    ("SECRET", ObjectKind::Secret),
    ("SOURCE", ObjectKind::Source),
    ("TABLE", ObjectKind::Table),
    ("SINK", ObjectKind::Sink),
    ("VIEW", ObjectKind::View),
    ("MATERIALIZED VIEW", ObjectKind::MaterializedView),
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
    ("MATERIALIZED VIEWS", Show::MaterializedViews),
    ("FUNCTIONS", Show::Functions),
    ("MODELS", Show::Models),
    ("SECRETS", Show::Secrets),
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
    &["REPLAY", "DEAD", "LETTERS"],
    &["TRUNCATE"],
    &["COPY"],
    &["ANALYZE"],
];

/// What follows DROP.
pub fn drop(cursor: &mut Cursor<'_>) -> Parsed<Drop> {
    let object = kind(cursor)?;
    let if_exists = cursor.eat(&["IF", "EXISTS"]);
    let name = cursor.object_name(&format!("the {}'s name", object.word()))?;
    Ok(Drop { object, name, if_exists })
}

fn kind(cursor: &mut Cursor<'_>) -> Parsed<ObjectKind> {
    match KINDS.iter().find(|(word, _)| eat(cursor, word)) {
        Some((_, kind)) => Ok(*kind),
        None => Err(cursor.expected_one_of(&words(KINDS))),
    }
}

/// Consumes the words of `keywords` if all come next.
fn eat(cursor: &mut Cursor<'_>, keywords: &str) -> bool {
    cursor.eat(&keywords.split(' ').collect::<Vec<_>>())
}

/// The keywords of a table.
fn words<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(word, _)| *word).collect()
}

/// What follows EXPLAIN.
pub fn explain(cursor: &mut Cursor<'_>) -> Parsed<StatementKind> {
    if cursor.eat(&["MIGRATION"]) {
        return migration(cursor).map(StatementKind::Migration);
    }
    if cursor.sees(&["ANALYZE"]) {
        return Err(not_yet(cursor.span(), "`EXPLAIN ANALYZE`"));
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
    Ok(StatementKind::Explain(Explain { verbose, statement: Box::new(Statement { kind, span }) }))
}

/// What follows EXPLAIN MIGRATION.
fn migration(cursor: &mut Cursor<'_>) -> Parsed<Migration> {
    let names_file = cursor.eat(&["FROM"]) || !cursor.at_end();
    let from = if names_file { Some(cursor.string("the old file in quotes")?) } else { None };
    Ok(Migration { from })
}

/// What follows SHOW.
pub fn show(cursor: &mut Cursor<'_>) -> Parsed<StatementKind> {
    if cursor.eat(&["STATE"]) {
        let names_pipeline = cursor.eat(&["FOR"]);
        cursor.eat(&["PIPELINE"]);
        let pipeline = if names_pipeline { Some(cursor.object_name("the pipeline's name")?) } else { None };
        return Ok(StatementKind::ShowState(ShowState { pipeline }));
    }
    match SHOWN.iter().find(|(word, _)| eat(cursor, word)) {
        Some((_, what)) => Ok(StatementKind::Show(*what)),
        None => {
            let mut known = words(SHOWN);
            known.push("STATE");
            Err(cursor.expected_one_of(&known))
        }
    }
}

/// What follows VERIFY PIPELINE.
pub fn verify(cursor: &mut Cursor<'_>) -> Parsed<Verify> {
    let pipeline = cursor.object_name("the pipeline's name")?;
    if cursor.at_end() {
        return Ok(Verify { pipeline, as_of: None });
    }
    let is_version = cursor.eat(&["VERSION"]);
    let is_timestamp = !is_version && cursor.eat(&["TIMESTAMP"]);
    cursor.expect(&["AS", "OF"])?;
    let number = match cursor.peek() {
        Some(Token::Number(text, _)) if !is_timestamp => text.parse().ok(),
        _ => None,
    };
    let as_of = match number {
        Some(version) => {
            cursor.advance();
            AsOf::Version(version)
        }
        None if is_version => return Err(cursor.expected("an epoch's number")),
        None => AsOf::Timestamp(cursor.string("a time in quotes")?),
    };
    Ok(Verify { pipeline, as_of: Some(as_of) })
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
    let object = KINDS.iter().find(|(word, _)| has_more && eat(cursor, word)).map(|(_, kind)| *kind);
    let name = cursor.object_name("an object's name")?;
    Ok(Describe { aspect, object, name })
}

/// A diagnostic if a statement comes next that only a later version can run.
pub fn unsupported(cursor: &mut Cursor<'_>) -> Option<Diagnostic> {
    let start = cursor.position();
    let words = LATER.iter().find(|words| cursor.eat(words))?;
    Some(not_yet(cursor.since(start), &format!("`{}`", words.join(" "))))
}
