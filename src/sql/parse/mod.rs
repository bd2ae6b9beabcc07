//! Tokens to statements: one file per family of statements. Each statement is parsed on its own, so that every error of
//! a file is found at once.

mod column;
mod command;
mod function;
mod model;
mod option;
mod pipeline;
mod relation;
mod secret;
mod view;

use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;

use super::cursor::{Cursor, Parsed, is_keyword};
use super::lexer::tokenize;
use super::limits::{check_file_text, check_tokens};
use super::split::{OBJECTS, split};
use super::statement::{Head, Name, OnExisting, Statement, StatementKind};
use super::{Diagnostic, Position, SourceFile, Span, embedded};
use crate::error::SqlState;

/// The statements of file number `index`, and every error in it.
pub fn parse(file: &SourceFile, index: u16) -> (Vec<Statement>, Vec<Diagnostic>) {
    let mut errors = Vec::new();
    let start = Position { line: 1, column: 1 };
    if let Err(error) = check_file_text(&file.text, Span { file: index, start, end: start.right(1) }) {
        return (Vec::new(), vec![error]);
    }
    let tokens = tokenize(&file.text, index, &mut errors);
    let is_cut = !errors.is_empty();
    let mut statements = Vec::new();
    for range in split(&tokens, &mut errors) {
        let ends_at_cut = is_cut && range.end == tokens.len();
        let tokens = &tokens[range];
        let mut found = Vec::new();
        let read = statement(tokens, &mut found);
        // The rest of the statement is missing, so only its name is used.
        statements.extend(if ends_at_cut { broken(tokens) } else { read });
        // An error at the end of a statement is caused by the unreadable text that follows.
        let end = last_span(tokens).end;
        errors.extend(found.into_iter().filter(|error| !(ends_at_cut && error.span.start >= end)));
    }
    (statements, errors)
}

fn last_span(tokens: &[TokenWithSpan]) -> Span {
    tokens.last().map(|token| token.span.into()).unwrap_or_default()
}

/// Parses one statement. Errors go to `errors`; a CREATE or INSERT that failed leaves its name as a broken statement.
fn statement(tokens: &[TokenWithSpan], errors: &mut Vec<Diagnostic>) -> Option<Statement> {
    if let Err(error) = check_tokens(tokens) {
        errors.push(error);
        return broken(tokens);
    }
    let mut cursor = Cursor::new(tokens);
    let outcome = kind(&mut cursor).and_then(|kind| cursor.finish().map(|()| kind));
    let span = last_span(&tokens[..1]).to(last_span(tokens));
    let failed = outcome.is_err() || !cursor.errors.is_empty();
    errors.append(&mut cursor.errors);
    match outcome {
        Ok(kind) if !failed => return Some(Statement { kind, span }),
        // An error in one INSERT of a pipeline does not hide errors in the others.
        Ok(kind @ StatementKind::CreatePipeline(_)) => return Some(Statement { kind, span }),
        Ok(_) => {}
        Err(error) => errors.push(error),
    }
    broken(tokens)
}

/// The name that a statement which could not be parsed creates or inserts into.
fn broken(tokens: &[TokenWithSpan]) -> Option<Statement> {
    let kind = match created_name(tokens) {
        Some(name) => StatementKind::Broken(name),
        None => StatementKind::BrokenInsert(insert_target(tokens)?),
    };
    Some(Statement { kind, span: last_span(&tokens[..1]).to(last_span(tokens)) })
}

/// First words of statements.
const FIRST_WORDS: &[&str] =
    &["CREATE", "DROP", "INSERT", "SELECT", "WITH", "EXPLAIN", "SHOW", "DESCRIBE", "VALUES", "DESC", "VERIFY"];

fn kind(cursor: &mut Cursor<'_>) -> Parsed<StatementKind> {
    if cursor.eat(&["CREATE"]) {
        return create(cursor);
    }
    if cursor.sees(&["INSERT"]) {
        return pipeline::insert(cursor).map(StatementKind::Insert);
    }
    if cursor.eat(&["DROP"]) {
        return command::drop(cursor).map(StatementKind::Drop);
    }
    if cursor.eat(&["EXPLAIN"]) {
        return command::explain(cursor);
    }
    if cursor.eat(&["SHOW"]) {
        return command::show(cursor);
    }
    if cursor.eat(&["VERIFY", "PIPELINE"]) {
        return command::verify(cursor).map(StatementKind::Verify);
    }
    if cursor.eat(&["DESCRIBE"]) || cursor.eat(&["DESC"]) {
        return command::describe(cursor).map(StatementKind::Describe);
    }
    if begins_query(cursor) {
        return embedded::query(cursor.rest()).map(StatementKind::Query);
    }
    Err(command::unsupported(cursor).unwrap_or_else(|| no_statement(cursor)))
}

/// Parses a request about declared or running objects in weir's own syntax: DESCRIBE, EXPLAIN of a query or an INSERT,
/// VERIFY, EXPLAIN MIGRATION. `None` = a query, or a form that DataFusion handles.
///
/// Errors: a statement that cannot be read, or that weir does not run.
pub fn asked(tokens: &[TokenWithSpan]) -> Parsed<Option<StatementKind>> {
    let mut cursor = Cursor::new(tokens);
    let explains = cursor.eat(&["EXPLAIN"]);
    let describes = !explains && (cursor.eat(&["DESCRIBE"]) || cursor.eat(&["DESC"]));
    if explains {
        let verbose = usize::from(cursor.sees(&["VERBOSE"]));
        let ours = ["INSERT", "MIGRATION"].iter().any(|word| is_keyword(cursor.peek_at(verbose), word));
        let found = command::explain(&mut cursor).and_then(|kind| cursor.finish().map(|()| kind));
        // For an error in a query DataFusion's parser gives the message, because it knows its own forms of EXPLAIN.
        return if ours { found.map(Some) } else { Ok(found.ok()) };
    }
    if describes {
        let ours = cursor.peek_at(1).is_some() && (cursor.sees(&["DETAIL"]) || cursor.sees(&["HISTORY"]));
        let found = command::describe(&mut cursor).and_then(|found| cursor.finish().map(|()| found));
        return match found {
            Ok(found) => Ok(Some(StatementKind::Describe(found))),
            Err(error) if ours => Err(error),
            Err(_) => Ok(None),
        };
    }
    if cursor.eat(&["VERIFY", "PIPELINE"]) {
        let found = command::verify(&mut cursor)?;
        return cursor.finish().map(|()| Some(StatementKind::Verify(found)));
    }
    if begins_query(&cursor) || ["SHOW", "CREATE", "DROP", "INSERT"].iter().any(|word| cursor.sees(&[word])) {
        return Ok(None);
    }
    Err(command::unsupported(&mut cursor).unwrap_or_else(|| no_statement(&cursor)))
}

/// The error for a text that begins like no statement.
fn no_statement(cursor: &Cursor<'_>) -> Diagnostic {
    let found = cursor.found();
    Diagnostic::new(cursor.span(), format!("expected a statement, found {found}"))
        .or_hint(cursor.peek_word().and_then(|word| super::suggest::did_you_mean(word, FIRST_WORDS.iter().copied())))
}

/// True when a query comes next.
fn begins_query(cursor: &Cursor<'_>) -> bool {
    use datafusion::sql::sqlparser::tokenizer::Token;
    cursor.sees_symbol(&Token::LParen) || ["SELECT", "WITH", "VALUES", "FROM"].iter().any(|word| cursor.sees(&[word]))
}

/// Parses the rest of CREATE.
fn create(cursor: &mut Cursor<'_>) -> Parsed<StatementKind> {
    let replaces = cursor.eat(&["OR", "REPLACE"]);
    if cursor.eat(&["MATERIALIZED", "VIEW"]) {
        let head = head(cursor, replaces, "materialized view")?;
        return view::create_materialized(cursor, head).map(StatementKind::CreateMaterializedView);
    }
    let word = cursor.peek_word().map(str::to_ascii_uppercase);
    let Some(word) = word.filter(|word| OBJECTS.contains(&word.as_str())) else {
        return Err(cursor.expected_one_of(OBJECTS));
    };
    cursor.advance();
    let head = head(cursor, replaces, &word.to_lowercase())?;
    match word.as_str() {
        "SECRET" => secret::create(cursor, head).map(StatementKind::CreateSecret),
        "SOURCE" => relation::source(cursor, head).map(StatementKind::CreateSource),
        "TABLE" => relation::table(cursor, head).map(StatementKind::CreateTable),
        "SINK" => relation::sink(cursor, head).map(StatementKind::CreateSink),
        "VIEW" => view::create(cursor, head).map(StatementKind::CreateView),
        "FUNCTION" => function::create(cursor, head).map(StatementKind::CreateFunction),
        "MODEL" => model::create(cursor, head).map(StatementKind::CreateModel),
        "PIPELINE" => pipeline::create(cursor, head).map(StatementKind::CreatePipeline),
        _ => Err(cursor.expected_one_of(OBJECTS)),
    }
}

/// `[IF NOT EXISTS] name`.
fn head(cursor: &mut Cursor<'_>, replaces: bool, object: &str) -> Parsed<Head> {
    let start = cursor.position();
    let keeps = cursor.eat(&["IF", "NOT", "EXISTS"]);
    if replaces && keeps {
        return Err(Diagnostic::new(cursor.since(start), "`OR REPLACE` and `IF NOT EXISTS` exclude each other"));
    }
    let on_existing = match (replaces, keeps) {
        (true, _) => OnExisting::Replace,
        (_, true) => OnExisting::Keep,
        _ => OnExisting::Fail,
    };
    let name = cursor.object_name(&format!("the {object}'s name"))?;
    Ok(Head { on_existing, name })
}

/// The name in a CREATE that could not be parsed completely.
fn created_name(tokens: &[TokenWithSpan]) -> Option<Name> {
    let mut cursor = Cursor::new(tokens);
    cursor.expect(&["CREATE"]).ok()?;
    cursor.eat(&["OR", "REPLACE"]);
    cursor.eat(&["MATERIALIZED"]);
    OBJECTS.iter().find(|object| is_keyword(cursor.peek(), object))?;
    cursor.advance();
    cursor.eat(&["IF", "NOT", "EXISTS"]);
    cursor.name("a name").ok()
}

/// The target of an INSERT that could not be parsed completely.
fn insert_target(tokens: &[TokenWithSpan]) -> Option<Name> {
    let mut cursor = Cursor::new(tokens);
    cursor.expect(&["INSERT", "INTO"]).ok()?;
    cursor.eat(&["TABLE"]);
    cursor.name("a name").ok()
}

/// The error for `what`, which is part of the language but cannot run yet.
fn not_yet(span: Span, what: &str) -> Diagnostic {
    Diagnostic::new(span, format!("{what} is not supported yet")).with_state(SqlState::UNSUPPORTED)
}

#[cfg(test)]
mod tests;
