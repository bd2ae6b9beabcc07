//! Names to objects: the only resolver.
//!
//! [`Catalog::load`] reads SQL files and gives either everything they declare, with every option parsed and every name
//! of an object resolved, or every error in them at once. It makes no connection and reads no data; secrets are the only
//! thing it fetches. What columns and functions the queries name is for the planner to bind.

mod definition;
mod substitute;
mod value;
mod options;
mod columns;
mod relations;
mod materialized;
mod names;
mod pipelines;
mod load;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use definition::*;
pub use options::{feed_columns, nexmark_columns};
pub use value::trigger as parse_trigger;

use crate::sql::{Diagnostics, Files, SourceFile, Span, Statement};

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
}

impl Catalog {
    /// What `files` declare; `lookup` answers for environment variables.
    ///
    /// Errors: every error of every file.
    pub fn load(files: &[Arc<SourceFile>], lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Diagnostics> {
        load::load(files, lookup)
    }

    /// Whether a query that takes rows back can be written to this table or sink.
    pub fn accepts_retractions(&self, target: &str) -> bool {
        match (self.tables.get(target), self.sinks.get(target)) {
            (Some(table), _) => table.accepts_retractions(),
            (_, Some(sink)) => sink.accepts_retractions(),
            _ => false,
        }
    }

    /// The pipeline of this name.
    pub fn pipeline(&self, name: &str) -> Option<&PipelineDef> {
        self.pipelines.iter().find(|pipeline| pipeline.name == name)
    }
}

#[cfg(test)]
mod tests;
