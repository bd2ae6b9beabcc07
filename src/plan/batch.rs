//! The batch form of a pipeline: the same SQL over tables of everything that was read.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};

use super::compile::Targets;
use super::fit::fit_and_generate;
use super::meaning::as_meant;
use super::relation::RelationMode;
use super::session::{FunctionSet, bound_calls, session_state_for};
use super::share::reading;
use super::size::check_plan;
use crate::catalog::{Catalog, PipelineDef};
use crate::error::Result;
use crate::function::shorten_names;

/// One INSERT as a batch query.
#[derive(Debug)]
pub struct BatchInsert {
    pub target: String,
    /// Gives the rows as the target wants them.
    pub plan: LogicalPlan,
}

/// The INSERTs of a pipeline as batch queries, and the session to run them in.
#[derive(Debug)]
pub struct Batch {
    pub session: SessionState,
    pub inserts: Vec<BatchInsert>,
}

/// Plans `pipeline` over `inputs`: sources and lookup tables by name.
///
/// Errors: SQL that has no batch form.
pub async fn batch(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    functions: &FunctionSet,
    targets: &Targets,
    inputs: BTreeMap<String, Arc<dyn TableProvider>>,
    runtime: Arc<RuntimeEnv>,
) -> Result<Batch> {
    let mut session = session_state_for(catalog, functions, runtime, RelationMode::Batch).map_err(|problems| {
        crate::error::Error::sql(problems.first().map_or("", |problem| problem.message.as_str()))
    })?;
    bound_calls(&mut session);
    for (name, table) in inputs {
        register(&session, &name, table)?;
    }
    for name in &reading(catalog, pipeline).views {
        let view = &catalog.views[name];
        let plan = plan(&session, &view.query).await?;
        let plan = super::compile::renamed(plan, &view.columns)?;
        register(&session, name, Arc::new(ViewTable::new(plan, None)))?;
    }
    let mut inserts = Vec::new();
    for insert in &pipeline.inserts {
        let mut plan = plan(&session, &insert.query).await?;
        if let Some(target) = targets.get(&insert.target) {
            plan = fit_and_generate(plan, &insert.target, target, &insert.columns)?;
        }
        inserts.push(BatchInsert { target: insert.target.clone(), plan });
    }
    Ok(Batch { session, inserts })
}

/// A session in which the catalog's views can be queried over `inputs`, in batch. Views that cannot be planned (their model is not trained
/// yet) are left out.
pub async fn views(
    catalog: &Catalog,
    functions: &FunctionSet,
    inputs: BTreeMap<String, Arc<dyn TableProvider>>,
    runtime: Arc<RuntimeEnv>,
) -> Result<SessionState> {
    let session = session_state_for(catalog, functions, runtime, RelationMode::Batch).map_err(|problems| {
        crate::error::Error::sql(problems.first().map_or("", |problem| problem.message.as_str()))
    })?;
    for (name, table) in inputs {
        register(&session, &name, table)?;
    }
    for name in &catalog.view_order {
        let view = &catalog.views[name];
        let Ok(plan) = plan(&session, &view.query).await else { continue };
        let plan = super::compile::renamed(plan, &view.columns)?;
        register(&session, name, Arc::new(ViewTable::new(plan, None)))?;
    }
    Ok(session)
}

fn register(session: &SessionState, name: &str, table: Arc<dyn TableProvider>) -> Result<()> {
    let schema = session.schema_for_ref(datafusion::common::TableReference::bare(name))?;
    let _previous = schema.register_table(name.to_owned(), table)?;
    Ok(())
}

async fn plan(session: &SessionState, query: &Query) -> Result<LogicalPlan> {
    let mut query = query.clone();
    shorten_names(&mut query, session);
    let statement = Statement::Statement(Box::new(SqlStatement::Query(Box::new(query))));
    let plan = session.statement_to_plan(statement).await?;
    check_plan(&plan)?;
    Ok(as_meant(plan)?)
}
