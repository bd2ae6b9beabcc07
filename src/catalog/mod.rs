//! Names to objects: the only resolver.
//!
//! [`Catalog::load`] reads SQL files and returns either everything that they declare, with every option parsed and every
//! object name resolved, or every error in them at once. It makes no connection and reads no data except secrets. Columns
//! and functions that queries name are bound by the planner.

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

/// Everything that a set of SQL files declares.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// The files that spans refer to.
    pub files: Files,
    pub sources: BTreeMap<String, SourceDef>,
    pub tables: BTreeMap<String, TableDef>,
    pub sinks: BTreeMap<String, SinkDef>,
    pub views: BTreeMap<String, ViewDef>,
    /// Materialized views: each is a table (without columns: they are the query's), a view, and an INSERT with this span.
    pub materialized: BTreeMap<String, Span>,
    /// The names of `views` in the order of their declarations.
    pub view_order: Vec<String>,
    pub functions: BTreeMap<String, FunctionDef>,
    pub models: BTreeMap<String, ModelDef>,
    /// In the order of the files; the INSERTs outside of `CREATE PIPELINE` form one pipeline per file, named after it.
    pub pipelines: Vec<PipelineDef>,
    /// Names of declared secrets; their texts are only in the options that use them.
    pub secrets: Vec<String>,
    /// SELECT, EXPLAIN, SHOW and DESCRIBE, in order.
    pub statements: Vec<Statement>,
    /// Empty in a catalog without errors.
    pub broken: Broken,
}

/// Objects that could not be built. Their errors are reported at their statements; errors about anything that depends on
/// them are suppressed, so that each cause is reported once and everything else is still checked.
#[derive(Debug, Clone, Default)]
pub struct Broken {
    /// Sources, tables, sinks and views of which only the name is known.
    pub relations: BTreeSet<String>,
    /// Functions and models whose type is unknown.
    pub callables: BTreeSet<String>,
    /// Models that could not be built: calls of them return DOUBLE, for any arguments.
    pub models: BTreeSet<String>,
    /// INSERTs whose column list is wrong, by their target's span.
    pub inserts: Vec<Span>,
}

impl Broken {
    /// True if one of these relations could not be built.
    pub fn reads_any<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> bool {
        names.into_iter().any(|name| self.relations.contains(name))
    }
}

impl Catalog {
    /// The declarations of `files`; `lookup` resolves environment variables.
    ///
    /// Errors: every error of every file.
    pub fn load(files: &[Arc<SourceFile>], lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Diagnostics> {
        let (catalog, errors) = Self::read(files, lookup);
        if errors.is_empty() { Ok(catalog) } else { Err(Diagnostics::new(files, errors)) }
    }

    /// The same, but keeps everything that could be read beside the errors, so that planning can find further errors. Such a
    /// catalog is for checking only: partial declarations replace broken ones.
    pub fn read(files: &[Arc<SourceFile>], lookup: &dyn Fn(&str) -> Option<String>) -> (Self, Vec<Diagnostic>) {
        load::read(files, lookup)
    }

    /// `true` if a retracting query can be written to this table or sink.
    pub fn accepts_retractions(&self, target: &str) -> bool {
        match (self.tables.get(target), self.sinks.get(target)) {
            (Some(table), _) => table.accepts_retractions(),
            (_, Some(sink)) => sink.accepts_retractions(),
            _ => false,
        }
    }

    /// The key columns of a table or sink; empty if rows are only appended.
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
