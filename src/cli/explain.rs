//! `weir explain`: the plan of a pipeline.

use std::path::PathBuf;

use super::output::say;
use super::project::{Project, memory_pool, runtime, surroundings};
use super::statements::Statements;
use super::{Failure, migration};
use crate::config::Config;
use crate::env::Env;
use crate::source::delta::Reach;

/// Arguments of `weir explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// SQL files, bound together
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only this pipeline
    #[arg(long)]
    pipeline: Option<String>,
    /// Effect on the operators' state of replacing that file by these files
    #[arg(long, value_name = "OLD.sql")]
    migration: Option<PathBuf>,
}

/// Plans and prints pipelines, then runs the EXPLAINs of the files. Errors: as `weir check`.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let mut project = Project::read(&args.files)?;
    project.complete(Reach::Local, config, &Env::system()?).await;
    let statements = Statements::of(&project, config, &Env::system()?, Reach::Local, memory_pool(config).queries())?;
    let known = project.undeclared_columns(Reach::Local, config, &Env::system()?).await;
    let mut problems = project.problems(&known, &[], runtime(config)?).await;
    problems.extend(statements.problems(&project).await?);
    let found = project.diagnostics(problems);
    if !found.is_empty() {
        return Err(Failure::Sql(found));
    }
    let only = args.pipeline.as_deref();
    if let Some(old) = &args.migration {
        return migration::from_file(&project, old, only, config).await;
    }
    for pipeline in project.pipelines(only)? {
        let dataflow = migration::planned(&project, pipeline, &known, config).await?;
        say!("{}", crate::plan::explain(&dataflow));
        for (name, described) in project.models() {
            say!("model {name}  {described}");
        }
    }
    if statements.is_empty() {
        return Ok(());
    }
    statements.explain(&project, config, &surroundings(config, Env::system()?)?).await
}
