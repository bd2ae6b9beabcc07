//! `CREATE SOURCE | TABLE | SINK name [(columns)] clauses`. The three share their syntax; a clause that the object cannot
//! have is refused with a hint on where it belongs.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::super::cursor::{Cursor, Parsed};
use super::super::statement::{CreateRelation, Head, ObjectKind, Origin};
use super::super::{Diagnostic, Span};
use super::column::{Columns, columns};
use super::{not_yet, option};

/// Parses the rest of CREATE SOURCE after the name.
pub fn source(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreateRelation> {
    relation(cursor, head, ObjectKind::Source)
}

/// Parses the rest of CREATE TABLE after the name.
pub fn table(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreateRelation> {
    relation(cursor, head, ObjectKind::Table)
}

/// Parses the rest of CREATE SINK after the name.
pub fn sink(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreateRelation> {
    relation(cursor, head, ObjectKind::Sink)
}

/// Parses a materialized view from after its columns to its `AS`.
pub fn materialized(cursor: &mut Cursor<'_>, head: Head) -> Parsed<CreateRelation> {
    relation(cursor, head, ObjectKind::MaterializedView)
}

fn relation(cursor: &mut Cursor<'_>, head: Head, object: ObjectKind) -> Parsed<CreateRelation> {
    let has_list = object != ObjectKind::MaterializedView && cursor.sees_symbol(&Token::LParen);
    let listed = if has_list { columns(cursor)? } else { Columns::default() };
    let Columns { columns, watermark, primary_key, checks } = listed;
    let mut relation = CreateRelation {
        head,
        columns,
        watermark,
        primary_key,
        checks,
        partitioned_by: Vec::new(),
        location: None,
        properties: None,
        storage: None,
        with: None,
    };
    clauses(cursor, &mut relation, object)?;
    belongs(cursor, &relation, object);
    Ok(relation)
}

/// The clauses after the column list, in any order, each once.
fn clauses(cursor: &mut Cursor<'_>, relation: &mut CreateRelation, object: ObjectKind) -> Parsed<()> {
    const CLAUSES: &[&str] = &["USING", "PARTITIONED BY", "LOCATION", "TBLPROPERTIES", "OPTIONS", "WITH"];
    const MATERIALIZED: &[&str] =
        &["USING", "PARTITIONED BY", "LOCATION", "TBLPROPERTIES", "OPTIONS", "PRIMARY KEY", "AS"];
    let is_view = object == ObjectKind::MaterializedView;
    let is_table = object == ObjectKind::Table || is_view;
    let known = if is_view { MATERIALIZED } else { CLAUSES };
    let mut seen: Vec<&str> = Vec::new();
    while !cursor.at_end() && (!is_view || !cursor.sees(&["AS"])) {
        let span = cursor.span();
        let Some(clause) = known.iter().find(|clause| cursor.eat(&clause.split(' ').collect::<Vec<_>>())) else {
            return Err(foreign_clause(cursor)
                .unwrap_or_else(|| cursor.expected_one_of(if is_table { known } else { &["WITH"] })));
        };
        if seen.contains(clause) {
            return Err(Diagnostic::new(span, format!("a second `{clause}`")));
        }
        if !is_table && *clause != "WITH" {
            return Err(Diagnostic::new(span, format!("`{clause}` belongs to `CREATE TABLE`"))
                .with_hint(format!("A {} has its options in `WITH (…)`.", object.word())));
        }
        seen.push(clause);
        match *clause {
            "USING" => format(cursor)?,
            "PARTITIONED BY" => {
                relation.partitioned_by = cursor.parenthesised(|cursor| {
                    let name = cursor.name("a column's name")?;
                    if cursor.sees_symbol(&Token::LParen) {
                        return Err(not_yet(name.span, "partitioning by an expression")
                            .with_hint("Add a column with the value and partition by it."));
                    }
                    Ok(name)
                })?;
            }
            "LOCATION" => relation.location = Some(cursor.string("the location in quotes")?),
            "TBLPROPERTIES" => relation.properties = Some(option::properties(cursor)?),
            "OPTIONS" => relation.storage = Some(option::properties(cursor)?),
            "PRIMARY KEY" => {
                relation.primary_key = cursor.parenthesised(|cursor| cursor.name("a column's name"))?;
                cursor.eat(&["NOT", "ENFORCED"]);
            }
            _ => relation.with = Some(option::options(cursor)?),
        }
    }
    Ok(())
}

/// A table's format: Delta.
fn format(cursor: &mut Cursor<'_>) -> Parsed<()> {
    let name = cursor.name("a table format")?;
    if name.value == "delta" {
        return Ok(());
    }
    Err(Diagnostic::new(name.span, format!("unknown table format `{}`", name.value))
        .with_hint("Tables are Delta tables: write `USING DELTA`, or leave it out."))
}

/// The error for a clause of another system.
fn foreign_clause(cursor: &Cursor<'_>) -> Option<Diagnostic> {
    let span = cursor.span();
    if cursor.sees(&["CLUSTER", "BY"]) {
        return Some(not_yet(span, "`CLUSTER BY`"));
    }
    if cursor.sees(&["COMMENT"]) {
        return Some(not_yet(span, "`COMMENT`"));
    }
    if cursor.sees(&["AS"]) {
        return Some(
            not_yet(span, "`CREATE … AS SELECT`").with_hint("Declare the columns and write `INSERT INTO … SELECT`."),
        );
    }
    if cursor.sees(&["FORMAT"]) {
        let error = Diagnostic::new(span, "the format is an option");
        return Some(error.with_hint("Write `WITH (…, format = 'json')`."));
    }
    None
}

/// Reports parts of the column list that the object cannot have.
fn belongs(cursor: &mut Cursor<'_>, relation: &CreateRelation, object: ObjectKind) {
    let mut refuse = |span: Span, message: String, hint: &str| {
        cursor.errors.push(Diagnostic::new(span, message).with_hint(hint));
    };
    let word = object.word();
    let is_flink = object == ObjectKind::Table && relation.with.is_some();
    if object != ObjectKind::Source && !is_flink {
        if let Some(watermark) = &relation.watermark {
            refuse(watermark.span, format!("a {word} has no watermark"), "Declare it on the source.");
        }
        for column in &relation.columns {
            if let Some(Origin::Field(name) | Origin::Metadata(name)) = &column.origin {
                let message = format!("a {word}'s column has no `FROM` or `METADATA`");
                refuse(name.span, message, "Choose the field in the source's columns or in the SELECT.");
            }
        }
    }
    if !matches!(object, ObjectKind::Table | ObjectKind::MaterializedView) {
        if let Some(key) = relation.primary_key.first() {
            refuse(key.span, format!("a {word} has no primary key"), "Keys belong to tables.");
        }
        if let Some(check) = relation.checks.first() {
            refuse(check.span, format!("a {word} has no checks"), "Checks belong to tables; filter with WHERE.");
        }
    }
}
