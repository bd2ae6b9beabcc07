//! From a statement to a plan, or to rows that answer it; every error at its position.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::provider_as_source;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;

use super::answer::Place;
use super::budget::QueryBudget;
use super::catalog::RequestCatalogs;
use super::query::Query;
use super::{SYSTEM, Warehouse, declared, repeated, statement, system};
use crate::error::{Error, ErrorKind, Result, SqlState};
use crate::memory::bounded::Bounding;
use crate::plan::{as_meant, bound_relations, check_plan};
use crate::serve::failure::{nearest, query_error, quoted};
use crate::serve::interrupt::Interrupt;
use crate::sql::cursor::is_keyword;
use crate::sql::limits::MAX_STATEMENT_FIELDS;
use crate::sql::{Diagnostic, Failure, Position, STATEMENT, SourceFile, Span, asked, find_name, missing_table};

impl Warehouse {
    /// Plans the one statement of `sql` against the current tables. Errors give their position in `sql`.
    pub async fn plan(self: &Arc<Self>, sql: &str) -> Result<Query> {
        self.plan_statement(sql).await.map_err(Failure::into_error)
    }

    /// The same, with every error at its position.
    pub async fn plan_statement(self: &Arc<Self>, sql: &str) -> Result<Query, Failure> {
        // The statement comes after the declared files, whose positions an error may also name.
        let mut files = self.declared.as_ref().map(|declared| declared.catalog.files.to_vec()).unwrap_or_default();
        let file = u16::try_from(files.len()).unwrap_or(u16::MAX);
        files.push(Arc::new(SourceFile::new(STATEMENT, sql)));
        let start = Position { line: 1, column: 1 };
        let lines = sql.lines().count().max(1);
        let width = sql.lines().last().map_or(0, |line| line.chars().count());
        let end = Position { line: lines as u32, column: width as u32 + 1 };
        self.plan_part(&files, Span { file, start, end: end.max(start.right(1)) }).await
    }

    /// Plans the one statement at `span` of `files`, which begin with the files declared here.
    pub async fn plan_part(self: &Arc<Self>, files: &[Arc<SourceFile>], span: Span) -> Result<Query, Failure> {
        let text = files.get(usize::from(span.file)).map_or("", |file| file.slice(span));
        let at = |diagnostic| Failure::at(files, diagnostic);
        let tokens = statement::tokens(text, span).map_err(at)?;
        let refused = |found| at(statement::not_served(found, &tokens, span));
        if let Some(asked) = asked(&tokens).map_err(refused)?
            && let Some(rows) = self.answer(&asked, Place { files, span }).await?
        {
            return self.all_of(rows);
        }
        if let Some((table, query)) = statement::system_query(&tokens) {
            if self.declared.is_none() && declared::is_declared(table) {
                return Err(at(no_files(table, span)));
            }
            let start = Position { line: 1, column: 1 };
            let tokens = statement::tokens(&query, Span { file: span.file, start, end: start }).map_err(at)?;
            return self.plan_tokens(tokens, files, span).await;
        }
        let writes = ["CREATE", "DROP", "INSERT"].iter().any(|word| is_keyword(tokens.first().map(|t| &t.token), word));
        if writes {
            return Err(at(statement::writes(span)));
        }
        self.plan_tokens(tokens, files, span).await
    }

    async fn plan_tokens(
        self: &Arc<Self>,
        tokens: Vec<TokenWithSpan>,
        files: &[Arc<SourceFile>],
        span: Span,
    ) -> Result<Query, Failure> {
        let mut statement = statement::parse(tokens).map_err(|error| Failure::at(files, error))?;
        let mut state = self.state.as_ref().clone();
        let references = state.resolve_table_references(&statement).map_err(query_error)?;
        let lists = references.iter().any(|reference| reference.schema() == Some("information_schema"));
        let listed = if lists { self.list_tables().await? } else { Vec::new() };
        state.register_catalog_list(Arc::new(RequestCatalogs::new(Arc::clone(self), &listed)));
        state.mark_start_execution();
        let interrupt = Interrupt::default();
        let budget = Arc::new(QueryBudget::new(Arc::clone(&self.runtime().memory_pool), interrupt.clone()));
        state.register_function_rewrite(Arc::new(Bounding::of_query(budget))).map_err(query_error)?;
        bound_relations(&mut state, Some(MAX_STATEMENT_FIELDS)).map_err(query_error)?;
        statement::shorten_names(&mut statement, &state);
        let (planned, shown) = repeated::planned(&state, statement).await;
        let plan = match planned.and_then(|plan| check_plan(&plan).map(|()| plan)).and_then(as_meant) {
            Ok(plan) => plan,
            Err(error) => {
                let found = crate::sql::diagnose(&error, files, span);
                // DataFusion's diagnostic describes a wrong call better.
                if found.state == Some(SqlState::UNDEFINED_FUNCTION) {
                    return Err(Failure::at(files, found));
                }
                let missing = missing_table(&error.message()).map(str::to_owned);
                let error = match missing {
                    Some(missing) => self.explain_missing_table(&missing).await,
                    None => query_error(error),
                };
                return Err(placed(error, files, found.span, span));
            }
        };
        let read_only_options =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        if read_only_options.verify_plan(&plan).is_err() {
            return Err(Failure::at(files, statement::writes(span)));
        }
        Ok(Query::new(plan, state, interrupt).showing(shown))
    }

    /// A query that returns existing rows.
    fn all_of(&self, rows: Arc<dyn TableProvider>) -> Result<Query, Failure> {
        let scan = LogicalPlanBuilder::scan("answer", provider_as_source(rows), None);
        let plan = scan.and_then(LogicalPlanBuilder::build).map_err(query_error)?;
        Ok(Query::new(plan, self.state.as_ref().clone(), Interrupt::default()))
    }

    /// Turns DataFusion's "table … not found" into an error that suggests existing tables.
    async fn explain_missing_table(&self, missing: &str) -> Error {
        let missing = missing.strip_prefix("weir.").unwrap_or(missing);
        let shown = missing.strip_prefix("public.").unwrap_or(missing);
        let (shown, _) = statement::split_version(shown);
        let refused = Error::sql(format!("table `{shown}` does not exist")).with_state(SqlState::UNDEFINED_TABLE);
        let Ok(listed) = self.list_tables().await else { return refused };
        let mut names: Vec<String> = listed.into_iter().map(|entry| entry.name).collect();
        names.extend(system::NAMES.map(|name| format!("{SYSTEM}.{name}")));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match nearest(shown, &names) {
            Some(name) => refused.with_hint(format!("Did you mean `{name}`?")),
            None => refused.with_hint(format!("There are {}.", quoted(&names))),
        }
    }
}

/// A SQL error at `place`, or at the name that it is about; other errors unchanged.
fn placed(error: Error, files: &[Arc<SourceFile>], place: Span, statement: Span) -> Failure {
    if error.kind() != ErrorKind::Sql {
        return Failure::Other(error);
    }
    let named = || error.message().split('`').nth(1).and_then(|name| find_name(name, files, statement));
    let place = if place == statement { named().unwrap_or(place) } else { place };
    let mut diagnostic = Diagnostic::new(place, error.message()).or_hint(error.hint().map(str::to_owned));
    diagnostic.state = Some(error.state());
    diagnostic.detail = error.detail().map(str::to_owned);
    Failure::at(files, diagnostic)
}

/// The error for `SHOW SOURCES` and the like without files.
fn no_files(table: &str, span: Span) -> Diagnostic {
    let what = table.replace('_', " ");
    Diagnostic::new(span, format!("no SQL files are known here, and {what} are declared in files")).with_hint(
        "Name them: `weir query --file file.sql …`, `weir serve --file file.sql`; `weir run --serve` knows its own.",
    )
}
