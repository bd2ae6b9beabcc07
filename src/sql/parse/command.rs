//! DROP, EXPLAIN, SHOW, DESCRIBE, VERIFY, and known statements that weir does not run.

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

/// Kinds of objects that SHOW lists.
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

/// Remedy for changes of a table.
const TABLE_TOOL: &str =
    "Stop the pipelines that write the table and change it with another program, such as Python's `deltalake`";

/// Statements that weir does not run, with a hint on how to do their work.
const LATER: &[(&[&str], &str)] = &[
    (
        &["REFRESH", "MODEL"],
        "Train with LightGBM, save the model over the file that `path` names, and start the pipeline again.",
    ),
    (&["REFRESH", "MATERIALIZED", "VIEW"], "A materialized view is kept up to date by its pipeline: `weir run`."),
    (
        &["REFRESH"],
        "Tables are read at their newest version, and materialized views are kept up to date by `weir run`.",
    ),
    (
        &["ALTER", "MODEL"],
        "The model that answers is the file that `path` names: put another in its place and start the pipeline again.",
    ),
    (&["ALTER", "TABLE"], "{}: `DeltaTable(path).alter.add_columns(…)` or `.alter.set_table_properties({…})`."),
    (
        &["ALTER", "PIPELINE"],
        "Change the options in `CREATE PIPELINE … WITH (…)` and start it again: it goes on where it was.",
    ),
    (&["ALTER"], "Change the CREATE statement in the file and start the pipeline again: it goes on where it was."),
    (&["OPTIMIZE"], "{}: `DeltaTable(path).optimize.compact()`, or `.optimize.z_order([…])`."),
    (
        &["VACUUM"],
        "Use another program, such as Python's `deltalake`: `DeltaTable(path).vacuum(retention_hours=168, dry_run=False)`.",
    ),
    (
        &["RESTORE"],
        "{}: `DeltaTable(path).restore(version)`. Older versions can be read without: `SELECT … FROM t VERSION AS OF 3`.",
    ),
    (
        &["DELETE"],
        "{}: `DeltaTable(path).delete(\"…\")`. A table with `PRIMARY KEY (…) NOT ENFORCED` drops the rows that its query takes back.",
    ),
    (
        &["UPDATE"],
        "{}: `DeltaTable(path).update(…)`. `INSERT INTO` a table with `PRIMARY KEY (…) NOT ENFORCED` replaces rows by key.",
    ),
    (
        &["MERGE", "INTO"],
        "Declare `PRIMARY KEY (…) NOT ENFORCED` on the table: `INSERT INTO` it then replaces rows by key.",
    ),
    (&["MERGE"], "Declare `PRIMARY KEY (…) NOT ENFORCED` on the table: `INSERT INTO` it then replaces rows by key."),
    (&["START", "PIPELINE"], "Start it from the command line: `weir run file.sql --pipeline name`."),
    (&["STOP", "PIPELINE"], "Stop its process with Ctrl-C or SIGTERM: it commits what it has and ends."),
    (
        &["REPLAY", "DEAD", "LETTERS"],
        "Read them from `weir.dead_letters` (the bytes are in `payload`), mend them, and send them to the source again.",
    ),
    (&["TRUNCATE"], "{}: `DeltaTable(path).delete()`."),
    (&["COPY"], "Write with `INSERT INTO` a sink with connector `file`, or print with `weir query … --format csv`."),
    (&["ANALYZE"], "Statistics are written with every file: there is nothing to gather."),
    (
        &["SET"],
        "Options stand in the `WITH (…)` of statements and in `config/weir.yaml`; `weir config` explains its keys.",
    ),
    (&["GRANT"], "Who may read is for the object store to say; the Flight SQL server has one token, `flight.token`."),
    (&["BEGIN"], "INSERTs that commit together stand in one `CREATE PIPELINE … AS BEGIN … END`."),
    (&["COMMIT"], "INSERTs that commit together stand in one `CREATE PIPELINE … AS BEGIN … END`."),
];

/// Parses the rest of DROP.
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

/// Consumes the words of `keywords` if they come next.
fn eat(cursor: &mut Cursor<'_>, keywords: &str) -> bool {
    cursor.eat(&keywords.split(' ').collect::<Vec<_>>())
}

/// The keywords of a table.
fn words<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(word, _)| *word).collect()
}

/// Parses the rest of EXPLAIN.
pub fn explain(cursor: &mut Cursor<'_>) -> Parsed<StatementKind> {
    if cursor.eat(&["MIGRATION"]) {
        return migration(cursor).map(StatementKind::Migration);
    }
    if cursor.sees(&["ANALYZE"]) {
        return Err(not_yet(cursor.span(), "`EXPLAIN ANALYZE`").with_hint(
            "`weir query 'EXPLAIN ANALYZE SELECT …'` runs one over tables; of a running pipeline `weir status` tells what each epoch took.",
        ));
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

/// Parses the rest of EXPLAIN MIGRATION.
fn migration(cursor: &mut Cursor<'_>) -> Parsed<Migration> {
    let names_file = cursor.eat(&["FROM"]) || !cursor.at_end();
    let from = if names_file { Some(cursor.string("the old file in quotes")?) } else { None };
    Ok(Migration { from })
}

/// Parses the rest of SHOW.
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

/// Parses the rest of VERIFY PIPELINE.
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

/// Parses the rest of DESCRIBE.
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
    let limit = match aspect == Aspect::History && cursor.eat(&["LIMIT"]) {
        false => None,
        true => Some(count(cursor)?),
    };
    Ok(Describe { aspect, object, name, limit })
}

fn count(cursor: &mut Cursor<'_>) -> Parsed<usize> {
    let number = match cursor.peek() {
        Some(Token::Number(text, _)) => text.parse().ok(),
        _ => None,
    };
    let number = number.ok_or_else(|| cursor.expected("a number of entries"))?;
    cursor.advance();
    Ok(number)
}

/// A diagnostic if the next statement is one that weir does not run.
pub fn unsupported(cursor: &mut Cursor<'_>) -> Option<Diagnostic> {
    let start = cursor.position();
    let (words, hint) = LATER.iter().find(|(words, _)| cursor.eat(words))?;
    let error = not_yet(cursor.since(start), &format!("`{}`", words.join(" ")));
    Some(error.with_hint(hint.replace("{}", TABLE_TOOL)))
}
