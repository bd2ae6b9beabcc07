//! From a catalog and a pipeline to a [`Dataflow`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};

use super::dataflow::{Branch, Dataflow, Fragment, SourceInput};
use super::fit::fit;
use super::refusal::{check_plan, refusals};
use super::share::{reading, relation_names};
use crate::catalog::{Catalog, InsertDef, PipelineDef, ViewDef};
use crate::error::Error;
use crate::operator::{HeldTable, StreamId};
use crate::sql::{Diagnostic, Span, diagnose};

/// What is known of the schemas of INSERT targets, by name. A target that is missing takes whatever the query gives.
pub type Targets = BTreeMap<String, SchemaRef>;

type Compiled<T> = Result<T, Vec<Diagnostic>>;

/// Plans `pipeline`: all its INSERTs as one dataflow, shared views once.
///
/// Errors: every problem of every statement at once, each with its place.
pub async fn compile(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    targets: &Targets,
    session: SessionState,
) -> Compiled<Dataflow> {
    let reading = reading(catalog, pipeline);
    let mut compiler = Compiler { catalog, session, streams: 0, problems: Vec::new(), broken: BTreeSet::new() };
    let mut sources = Vec::new();
    for name in &reading.sources {
        let def = catalog.sources[name].clone();
        let stream = compiler.stream(name, def.schema());
        sources.push(SourceInput { def, stream });
    }
    let mut fragments = Vec::new();
    for name in &reading.views {
        let before = compiler.problems.len();
        fragments.extend(compiler.view(&catalog.views[name], reading.shared.contains(name)).await);
        if compiler.problems.len() > before
            || relation_names(&catalog.views[name].query).iter().any(|n| compiler.broken.contains(n))
        {
            compiler.broken.insert(name.clone());
        }
    }
    let mut branches = Vec::new();
    for insert in &pipeline.inserts {
        branches.extend(compiler.insert(insert, targets.get(&insert.target)).await);
    }
    if !compiler.problems.is_empty() {
        return Err(compiler.problems);
    }
    let Compiler { session, streams, .. } = compiler;
    Ok(Dataflow { pipeline: pipeline.name.clone(), sources, fragments, branches, streams, session })
}

struct Compiler<'a> {
    catalog: &'a Catalog,
    session: SessionState,
    streams: usize,
    problems: Vec<Diagnostic>,
    /// Views that could not be planned: what reads them is passed over, the cause has been said.
    broken: BTreeSet<String>,
}

impl Compiler<'_> {
    /// Makes a stream that SQL can read under `name`.
    fn stream(&mut self, name: &str, schema: SchemaRef) -> StreamId {
        let stream = StreamId(self.streams);
        self.streams += 1;
        self.register(name, Arc::new(HeldTable::new(name, stream, schema)));
        stream
    }

    fn register(&self, name: &str, table: Arc<dyn TableProvider>) {
        let schema = self.session.schema_for_ref(datafusion::common::TableReference::bare(name));
        // The in-memory schema takes any table; names are unique because the catalog's are.
        if let Ok(schema) = schema {
            let _previous = schema.register_table(name.to_owned(), table);
        }
    }

    /// A view that is shared becomes a fragment; any other is written into its reader.
    async fn view(&mut self, view: &ViewDef, shared: bool) -> Option<Fragment> {
        let plan = self.query(&view.query, view.span).await?;
        let plan = self.rename(plan, view)?;
        if !shared {
            self.register(&view.name, Arc::new(ViewTable::new(plan, None)));
            return None;
        }
        let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
        let plan = self.physical(&plan, view.span).await?;
        let stream = self.stream(&view.name, schema);
        Some(Fragment { view: view.name.clone(), stream, plan })
    }

    fn rename(&mut self, plan: LogicalPlan, view: &ViewDef) -> Option<LogicalPlan> {
        if view.columns.is_empty() {
            return Some(plan);
        }
        if view.columns.len() != plan.schema().fields().len() {
            let message = format!(
                "view `{}` names {} columns, its query gives {}",
                view.name,
                view.columns.len(),
                plan.schema().fields().len()
            );
            self.problems.push(Diagnostic::new(view.span, message));
            return None;
        }
        let exprs: Vec<_> = plan
            .schema()
            .columns()
            .into_iter()
            .zip(&view.columns)
            .map(|(column, name)| datafusion::logical_expr::Expr::Column(column).alias(name))
            .collect();
        match LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build) {
            Ok(plan) => Some(plan),
            Err(error) => self.problem(&error, view.span),
        }
    }

    async fn insert(&mut self, insert: &InsertDef, target: Option<&SchemaRef>) -> Option<Branch> {
        let mut plan = self.query(&insert.query, insert.span).await?;
        if let Some(target) = target {
            plan = match fit(plan, &insert.target, target, &insert.columns) {
                Ok(plan) => plan,
                Err(error) => {
                    self.problems.push(of_error(&error, insert.target_span));
                    return None;
                }
            };
        }
        let physical = self.physical(&plan, insert.span).await?;
        let schema = target.map_or_else(|| physical.schema(), Arc::clone);
        Some(Branch { target: insert.target.clone(), schema, retract: false, plan: physical })
    }

    async fn query(&mut self, query: &Query, span: Span) -> Option<LogicalPlan> {
        if relation_names(query).iter().any(|name| self.broken.contains(name)) {
            return None;
        }
        let refused = refusals(query);
        if !refused.is_empty() {
            for refusal in refused {
                let place = Span::from(refusal.span);
                let place = if place.is_empty() { span } else { place };
                self.problems.push(Diagnostic::new(place, refusal.message).with_hint(refusal.hint));
            }
            return None;
        }
        let statement = Statement::Statement(Box::new(SqlStatement::Query(Box::new(query.clone()))));
        let plan = match self.session.statement_to_plan(statement).await {
            Ok(plan) => plan,
            Err(error) => return self.problem(&error, span),
        };
        match check_plan(&plan) {
            Ok(()) => Some(plan),
            Err(error) => {
                self.problems.push(of_error(&error, span));
                None
            }
        }
    }

    async fn physical(&mut self, plan: &LogicalPlan, span: Span) -> Option<Arc<dyn ExecutionPlan>> {
        match self.session.create_physical_plan(plan).await {
            Ok(plan) => Some(plan),
            Err(error) => self.problem(&error, span),
        }
    }

    fn problem<T>(&mut self, error: &datafusion::error::DataFusionError, span: Span) -> Option<T> {
        self.problems.push(diagnose(error, &self.catalog.files, span));
        None
    }
}

fn of_error(error: &Error, span: Span) -> Diagnostic {
    let mut diagnostic = Diagnostic::new(span, error.message());
    if let Some(detail) = error.detail() {
        diagnostic = diagnostic.with_detail(detail);
    }
    if let Some(hint) = error.hint() {
        diagnostic = diagnostic.with_hint(hint);
    }
    diagnostic
}
