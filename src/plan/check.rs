//! Everything that planning finds wrong with SQL files, in one go: in every pipeline, and in what no pipeline uses.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::sql::sqlparser::ast::Query;

use super::calls::calls_any;
use super::compile::{Targets, compile, declarations};
use super::relation::RelationMode;
use super::session::{FunctionSet, session_and_problems};
use super::share::relation_names;
use crate::catalog::{Catalog, PipelineDef};
use crate::sql::Diagnostic;

/// The errors of every function, watermark, view and pipeline of `catalog`; `targets` answers for what is known of the tables
/// that a pipeline writes and looks up.
///
/// Skips everything that depends on something [`broken`](crate::catalog::Broken). The same error may be listed more than once.
pub async fn problems(
    catalog: &Catalog,
    functions: &FunctionSet,
    targets: &dyn Fn(Option<&PipelineDef>) -> Targets,
    runtime: Arc<RuntimeEnv>,
) -> Vec<Diagnostic> {
    let session = || session_and_problems(catalog, functions, Arc::clone(&runtime), RelationMode::Stream);
    let (state, mut found) = session();
    found.extend(declarations(catalog, &targets(None), state).await);
    for pipeline in &catalog.pipelines {
        found.extend(compile(catalog, pipeline, &targets(Some(pipeline)), session().0).await.err().unwrap_or_default());
    }
    found
}

/// True when the query reads or calls something that could not be made.
pub fn hangs_on_broken(catalog: &Catalog, query: &Query) -> bool {
    let broken = &catalog.broken;
    broken.reads_any(&relation_names(query)) || calls_any(query, &broken.callables) || calls_any(query, &broken.models)
}

/// The columns of a view; `None` when it cannot be planned.
pub async fn columns_of(catalog: &Catalog, functions: &FunctionSet, view: &str) -> Option<SchemaRef> {
    let (session, _) = session_and_problems(catalog, functions, Arc::default(), RelationMode::Stream);
    let _problems = declarations(catalog, &Targets::new(), session.clone()).await;
    let schema = session.schema_for_ref(TableReference::bare(view)).ok()?;
    Some(schema.table(view).await.ok()??.schema())
}
