//! The columns of a source that is a Delta table: read from the table if none are declared, compared with it if some are.
//!
//! Loading a catalog opens nothing, so a source without columns leaves it incomplete; [`complete`] adds them before anything
//! is planned. A check without `--connect` opens tables on this machine only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};

use crate::catalog::{
    Catalog, ColumnDef, ColumnOrigin, DeltaSourceOptions, Secret, SourceConnector, SourceDef, TableFeed, feed_columns,
};
use crate::delta::{TableShape, TableStore, local_folder};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::sql::suggest::{did_you_mean, list};
use crate::sql::types::sql_name;
use crate::sql::{Diagnostic, Span};

/// The tables that may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those on this machine.
    Local,
    /// All.
    Anywhere,
}

/// Gives every Delta source without declared columns those of its table; `storage` are default options of object stores.
/// Errors are returned at the source's name, and the source counts as broken.
pub async fn complete(
    catalog: &mut Catalog,
    reach: Reach,
    storage: &BTreeMap<String, Secret>,
    env: &Env,
) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let mut failed = Vec::new();
    for def in catalog.sources.values_mut() {
        let SourceConnector::Delta(options) = &mut def.connector else { continue };
        with_defaults(options, storage);
        if !def.columns.is_empty() {
            continue;
        }
        if reach == Reach::Local && local_folder(&options.path).is_none() {
            problems.push(
                Diagnostic::new(
                    def.span,
                    format!("the columns of source `{}` are not known without a connection", def.name),
                )
                .with_hint("Declare them, or check with `--connect`."),
            );
            failed.push(def.name.clone());
            continue;
        }
        let before = problems.len();
        match ask(options, def.span, env).await {
            Ok(columns) => def.columns = columns,
            Err(error) => problems.push(of_error(&error, def.span)),
        }
        problems.extend(check_watermark(def));
        if problems.len() > before {
            failed.push(def.name.clone());
        }
    }
    for name in failed {
        catalog.sources.remove(&name);
        catalog.broken.relations.insert(name);
    }
    problems
}

/// Opens the table and compares it with the declaration, for `weir check --connect`; returns a text with its version.
pub async fn probe(
    def: &SourceDef,
    options: &DeltaSourceOptions,
    storage: &BTreeMap<String, Secret>,
    env: &Env,
) -> Result<String> {
    let mut options = options.clone();
    with_defaults(&mut options, storage);
    let shape = TableShape::read(&TableStore::open(&options.path, &options.storage, env)?, None).await?;
    read_columns(def, options.feed, &shape)?;
    Ok(format!("version {}", shape.version))
}

/// The table's columns that the source's columns read, in the table's order. Errors: a column is missing.
pub(super) fn read_columns(def: &SourceDef, feed: TableFeed, shape: &TableShape) -> Result<SchemaRef> {
    let mut wanted = BTreeSet::new();
    let feed_columns = if feed == TableFeed::Changes { feed_columns(def.span) } else { Vec::new() };
    for column in &def.columns {
        let ColumnOrigin::Field(path) = &column.origin else { continue };
        let Some(name) = path.first() else { continue };
        if feed_columns.iter().any(|column| column.name == *name) {
            continue;
        }
        let fields = shape.schema.fields();
        let exact = fields.iter().position(|field| field.name() == name);
        let found =
            exact.or_else(|| fields.iter().position(|field| field.name().to_lowercase() == name.to_lowercase()));
        let Some(index) = found else {
            let names = || fields.iter().map(|field| field.name().as_str());
            let error = Error::sql(format!("the table of source `{}` has no column `{name}`", def.name))
                .with_detail(format!("It has {}.", list(names())));
            return Err(match did_you_mean(name, names()) {
                Some(hint) => error.with_hint(hint),
                None => error,
            });
        };
        wanted.insert(index);
    }
    let fields = wanted.into_iter().map(|index| Arc::clone(&shape.schema.fields()[index]));
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// Adds the object-store options that the source does not set.
fn with_defaults(options: &mut DeltaSourceOptions, storage: &BTreeMap<String, Secret>) {
    for (name, value) in storage {
        options.storage.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

async fn ask(options: &DeltaSourceOptions, span: Span, env: &Env) -> Result<Vec<ColumnDef>> {
    // For a missing folder, the store would log an error of its own.
    if local_folder(&options.path).is_some_and(|folder| !folder.join("_delta_log").is_dir()) {
        return Err(Error::config(format!("no Delta table at `{}`", options.path)));
    }
    let shape = TableShape::read(&TableStore::open(&options.path, &options.storage, env)?, None).await?;
    let of_field = |field: &Arc<arrow::datatypes::Field>| ColumnDef {
        name: field.name().clone(),
        data_type: field.data_type().clone(),
        nullable: field.is_nullable(),
        origin: ColumnOrigin::Field(vec![field.name().clone()]),
        span,
    };
    let mut columns: Vec<_> = shape.schema.fields().iter().map(of_field).collect();
    if options.feed == TableFeed::Changes {
        columns.extend(feed_columns(span));
    }
    Ok(columns)
}

/// Checks of the watermark that had to wait for the columns.
fn check_watermark(def: &SourceDef) -> Option<Diagnostic> {
    let watermark = def.watermark.as_ref().filter(|_| !def.columns.is_empty())?;
    match def.columns.iter().find(|column| column.name == watermark.column) {
        Some(column) if matches!(column.data_type, DataType::Timestamp(..)) => None,
        Some(column) => {
            let is = sql_name(&column.data_type);
            let message = format!("watermark column `{}` is {is}, not TIMESTAMP", column.name);
            Some(Diagnostic::new(watermark.span, message))
        }
        None => {
            let names = def.columns.iter().map(|column| column.name.as_str());
            let error = Diagnostic::new(watermark.span, format!("unknown column `{}`", watermark.column));
            Some(error.or_hint(did_you_mean(&watermark.column, names)))
        }
    }
}

fn of_error(error: &Error, span: Span) -> Diagnostic {
    let mut diagnostic = Diagnostic::new(span, error.message());
    if let Some(detail) = error.detail() {
        diagnostic = diagnostic.with_detail(detail);
    }
    diagnostic.or_hint(error.hint().map(str::to_owned))
}
