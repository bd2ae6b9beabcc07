//! The statements of SQL files that declare nothing: SELECT, SHOW, DESCRIBE, EXPLAIN, VERIFY PIPELINE.
//!
//! All are checked with the rest of the files. `weir run` runs them in their order before pipelines start; `weir explain`
//! runs the EXPLAINs. They read the warehouse's current contents; a declared table that no pipeline has written yet is
//! empty.

use std::path::Path;
use std::sync::Arc;

use super::format::OutputFormat;
use super::output::{Output, say};
use super::project::Project;
use super::{Failure, migration, query, serve, verify};
use crate::config::Config;
use crate::delta::local_folder;
use crate::env::Env;
use crate::epoch::Surroundings;
use crate::error::{Error, Result};
use crate::memory::QueryMemory;
use crate::plan::hangs_on_broken;
use crate::serve::warehouse::Warehouse;
use crate::source::delta::Reach;
use crate::sql::statement::{AsOf, Describe, Migration, Name, Verify};
use crate::sql::suggest::did_you_mean;
use crate::sql::{Diagnostic, Statement, StatementKind};

/// The statements of a project, and the warehouse on which they run.
pub struct Statements {
    /// `None` = there are no statements.
    warehouse: Option<Arc<Warehouse>>,
    /// `true` if the warehouse is the configured one, not an empty substitute.
    connected: bool,
}

impl Statements {
    /// The statements of `project`, whose queries share `memory`; with [`Reach::Local`] a remote warehouse is not opened.
    pub fn of(project: &Project, config: &Config, env: &Env, reach: Reach, memory: QueryMemory) -> Result<Self> {
        if project.catalog.statements.is_empty() {
            return Ok(Self { warehouse: None, connected: false });
        }
        let connected = reach == Reach::Anywhere || local_folder(&config.warehouse).is_some();
        let mut declared = project.declared();
        declared.empty_tables = true;
        let path = (!connected).then_some("memory://unconnected/warehouse");
        let warehouse = serve::warehouse_of(project, declared, config, path, env, memory)?;
        Ok(Self { warehouse: Some(warehouse), connected })
    }

    /// True if the files have no such statement.
    pub fn is_empty(&self) -> bool {
        self.warehouse.is_none()
    }

    /// The errors in them. Errors: the warehouse cannot be read.
    pub async fn problems(&self, project: &Project) -> Result<Vec<Diagnostic>> {
        let mut found = Vec::new();
        for statement in &project.catalog.statements {
            if !hangs_on_what_is_broken(project, &statement.kind) {
                found.extend(self.problems_of(project, statement).await?);
            }
        }
        Ok(found)
    }

    async fn problems_of(&self, project: &Project, statement: &Statement) -> Result<Vec<Diagnostic>> {
        match &statement.kind {
            StatementKind::Verify(verify) => return Ok(wrong_verify(project, verify).into_iter().collect()),
            StatementKind::Migration(Migration { from }) => {
                return Ok(from.as_ref().and_then(wrong_file).into_iter().collect());
            }
            _ => {}
        }
        let Some(warehouse) = &self.warehouse else { return Ok(Vec::new()) };
        match warehouse.plan_part(&project.catalog.files, statement.span).await {
            Ok(_) => Ok(Vec::new()),
            Err(Failure::Sql(diagnostics)) => {
                Ok(diagnostics.list.into_iter().map(|found| self.unknown(found)).collect())
            }
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// Adds a hint to an unknown name if the real warehouse, where it may exist, was not opened.
    fn unknown(&self, found: Diagnostic) -> Diagnostic {
        if self.connected || !found.message.ends_with("does not exist") {
            return found;
        }
        let hint = "Declare it in these files, or check with `--connect`: the warehouse is not on this machine.";
        Diagnostic { hint: Some(hint.to_owned()), ..found }
    }

    /// Runs all of them, in their order. Errors: the first that fails; a VERIFY that finds a difference.
    pub async fn run(
        &self,
        project: &Project,
        config: &Config,
        around: &Surroundings,
        json: bool,
    ) -> Result<(), Failure> {
        let format = if json { OutputFormat::Json } else { OutputFormat::Table };
        for statement in &project.catalog.statements {
            match &statement.kind {
                StatementKind::Verify(asked) => {
                    let Some(pipeline) = project.catalog.pipeline(&asked.pipeline.value) else { continue };
                    match verify::pipeline(project, pipeline, around).await? {
                        None => say!("pipeline {}  has not run yet: there is nothing to verify", pipeline.name),
                        Some(0) => {}
                        Some(differing) => return Err(verify::differ(differing).into()),
                    }
                }
                StatementKind::Migration(asked) => migrate(project, asked, config, around).await?,
                _ => self.print(project, statement, format).await?,
            }
        }
        Ok(())
    }

    /// Runs the EXPLAINs, in their order.
    pub async fn explain(&self, project: &Project, config: &Config, around: &Surroundings) -> Result<(), Failure> {
        for statement in &project.catalog.statements {
            match &statement.kind {
                StatementKind::Explain(_) => self.print(project, statement, OutputFormat::Table).await?,
                StatementKind::Migration(asked) => migrate(project, asked, config, around).await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn print(&self, project: &Project, statement: &Statement, format: OutputFormat) -> Result<(), Failure> {
        let Some(warehouse) = &self.warehouse else { return Ok(()) };
        let planned = warehouse.plan_part(&project.catalog.files, statement.span).await?;
        query::print(&planned, format, Output::default()).await?;
        if format == OutputFormat::Table {
            say!("");
        }
        Ok(())
    }
}

async fn migrate(project: &Project, asked: &Migration, config: &Config, around: &Surroundings) -> Result<(), Failure> {
    match &asked.from {
        Some(old) => migration::from_file(project, Path::new(&old.value), None, config).await,
        None => {
            for pipeline in &project.catalog.pipelines {
                let dataflow = migration::planned_as_started(project, pipeline, around).await?;
                let seed = migration::seed_table(project, pipeline);
                let _lossless = migration::against_state(&dataflow, seed, around).await?;
            }
            Ok(())
        }
    }
}

/// True if the statement depends on an object whose error is already reported.
fn hangs_on_what_is_broken(project: &Project, kind: &StatementKind) -> bool {
    let catalog = &project.catalog;
    match kind {
        StatementKind::Query(query) => hangs_on_broken(catalog, query),
        StatementKind::Explain(explain) => match &explain.statement.kind {
            StatementKind::Insert(insert) => hangs_on_broken(catalog, &insert.query),
            inner => hangs_on_what_is_broken(project, inner),
        },
        StatementKind::Describe(Describe { name, .. }) => {
            let broken = &catalog.broken;
            [&broken.relations, &broken.callables, &broken.models].iter().any(|names| names.contains(&name.value))
        }
        _ => false,
    }
}

fn wrong_verify(project: &Project, verify: &Verify) -> Option<Diagnostic> {
    let name = &verify.pipeline;
    let catalog = &project.catalog;
    if catalog.pipeline(&name.value).is_none() && !catalog.broken.callables.contains(&name.value) {
        let known = catalog.pipelines.iter().map(|pipeline| pipeline.name.as_str());
        let hint = did_you_mean(&name.value, known);
        return Some(Diagnostic::new(name.span, format!("unknown pipeline `{}`", name.value)).or_hint(hint));
    }
    let span = match &verify.as_of {
        None => return None,
        Some(AsOf::Timestamp(time)) => time.span,
        Some(AsOf::Version(_)) => name.span,
    };
    Some(
        Diagnostic::new(span, "`VERIFY PIPELINE … AS OF` is not supported yet")
            .with_hint("Leave `AS OF` out: what is verified ends with the last epoch."),
    )
}

fn wrong_file(file: &Name) -> Option<Diagnostic> {
    let error: Error = match std::fs::read_to_string(&file.value) {
        Ok(_) => return None,
        Err(error) => {
            Error::config(format!("SQL file `{}` cannot be read", file.value)).with_detail(format!("{error}."))
        }
    };
    Some(super::project::of_error(file.span, &error))
}
