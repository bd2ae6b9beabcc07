//! Names to objects: the only resolver.
//!
//! [`Catalog::load`] reads SQL files and gives either everything they declare, with every option parsed and every name
//! of an object resolved, or every error in them at once. It makes no connection and reads no data; secrets are the only
//! thing it fetches. What columns and functions the queries name is for the planner to bind.

mod file_format;
mod definition;
mod substitute;
mod value;
mod options;
mod columns;
mod relations;
mod folders;
mod materialized;
mod names;
mod pipelines;
mod weight;
mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use definition::*;
pub use file_format::{CsvDialect, TimestampUnit};
pub use options::{feed_columns, nexmark_columns};
pub use value::trigger as parse_trigger;

use crate::sql::{Diagnostic, Diagnostics, Files, SourceFile, Span, Statement};

/// Everything that some SQL files declare.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// The files, for spans to lead back to.
    pub files: Files,
    pub sources: BTreeMap<String, SourceDef>,
    pub tables: BTreeMap<String, TableDef>,
    pub sinks: BTreeMap<String, SinkDef>,
    pub views: BTreeMap<String, ViewDef>,
    /// Materialized views: each is a table (without columns: they are the query's), a view, and an INSERT whose place this is.
    pub materialized: BTreeMap<String, Span>,
    /// The names of `views` in the order of their declarations.
    pub view_order: Vec<String>,
    pub functions: BTreeMap<String, FunctionDef>,
    pub models: BTreeMap<String, ModelDef>,
    /// In the order of the files; the INSERTs outside of `CREATE PIPELINE` form one pipeline per file, named after it.
    pub pipelines: Vec<PipelineDef>,
    /// Declared secrets' names; their texts stand only in the options that use them.
    pub secrets: Vec<String>,
    /// SELECT, EXPLAIN, SHOW and DESCRIBE, in order.
    pub statements: Vec<Statement>,
    /// Empty in a catalog without errors.
    pub broken: Broken,
}

/// What could not be made. Its errors are told where they are; whatever hangs on it is passed over, so that a cause is told
/// once and everything that does not hang on it is still checked.
#[derive(Debug, Clone, Default)]
pub struct Broken {
    /// Sources, tables, sinks and views of which nothing more is known than the name.
    pub relations: BTreeSet<String>,
    /// Functions and models of which not even the type is known.
    pub callables: BTreeSet<String>,
    /// Models that are not there: calls of them give DOUBLE, whatever their arguments.
    pub models: BTreeSet<String>,
    /// INSERTs whose list of columns is wrong, by their target's place.
    pub inserts: Vec<Span>,
}

impl Broken {
    /// True when the names of these relations stand for something that could not be made.
    pub fn reads_any<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> bool {
        names.into_iter().any(|name| self.relations.contains(name))
    }
}

impl Catalog {
    /// What `files` declare; `lookup` answers for environment variables.
    ///
    /// Errors: every error of every file.
    pub fn load(files: &[Arc<SourceFile>], lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Diagnostics> {
        let (catalog, errors) = Self::read(files, lookup);
        if errors.is_empty() { Ok(catalog) } else { Err(Diagnostics::new(files, errors)) }
    }

    /// The same, with all that could be read beside what is wrong: planning that finds the errors of its own stage. Such a
    /// catalog is for checking only; stand-ins take the place of what is broken.
    pub fn read(files: &[Arc<SourceFile>], lookup: &dyn Fn(&str) -> Option<String>) -> (Self, Vec<Diagnostic>) {
        load::read(files, lookup)
    }

    /// Whether a query that takes rows back can be written to this table or sink.
    pub fn accepts_retractions(&self, target: &str) -> bool {
        match (self.tables.get(target), self.sinks.get(target)) {
            (Some(table), _) => table.accepts_retractions(),
            (_, Some(sink)) => sink.accepts_retractions(),
            _ => false,
        }
    }

    /// The columns that tell the rows of a table or sink apart; none where rows are only appended.
    pub fn key_of(&self, target: &str) -> &[String] {
        match (self.tables.get(target), self.sinks.get(target).map(|sink| &sink.connector)) {
            (Some(table), _) => &table.primary_key,
            (_, Some(SinkConnector::Kafka(options))) => options.changes.as_ref().map_or(&[], |changes| &changes.key),
            _ => &[],
        }
    }

    /// The pipeline of this name.
    pub fn pipeline(&self, name: &str) -> Option<&PipelineDef> {
        self.pipelines.iter().find(|pipeline| pipeline.name == name)
    }
}

#[cfg(test)]
mod tests;
