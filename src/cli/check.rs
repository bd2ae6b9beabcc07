//! `weir check`: finds every error in SQL files without running them.

use std::path::PathBuf;

use super::Failure;
use super::output::say;
use super::project::{Project, memory_pool, runtime};
use super::statements::Statements;
use crate::catalog::{Catalog, PipelineDef};
use crate::config::Config;
use crate::env::Env;
use crate::error::Error;
use crate::plan::{Dataflow, OperatorSpec};
use crate::source::delta::Reach;

/// Arguments of `weir check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// SQL files, bound together
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Also try every source and sink, step by step
    #[arg(long)]
    connect: bool,
    /// Also compare with the state of the pipelines: print which operators keep theirs; exit 1 if any would lose it
    #[arg(long)]
    against_state: bool,
}

/// Parses, binds and plans; prints the results. Errors: every problem at once, exit 1.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let mut project = Project::read(&args.files)?;
    let reach = if args.connect { Reach::Anywhere } else { Reach::Local };
    project.complete(reach, config, &Env::system()?).await;
    let statements = Statements::of(&project, config, &Env::system()?, reach, memory_pool(config).queries())?;
    let mut known = project.undeclared_columns(reach, config, &Env::system()?).await;
    let (existing, unfit) = project.existing(reach, config, &Env::system()?).await;
    known.extend(existing);
    let mut problems = project.problems(&known, &[], runtime(config)?).await;
    problems.extend(unfit);
    problems.extend(statements.problems(&project).await?);
    let found = project.diagnostics(problems);
    if !found.is_empty() {
        return Err(Failure::Sql(found));
    }
    for pipeline in &project.catalog.pipelines {
        let targets: Vec<_> = pipeline.inserts.iter().map(|insert| insert.target.as_str()).collect();
        say!("ok  pipeline {} -> {}", pipeline.name, targets.join(", "));
        costs(&project.catalog, pipeline, &super::migration::planned(&project, pipeline, &known, config).await?);
    }
    if project.catalog.pipelines.is_empty() {
        say!("ok  no pipeline in these files");
    }
    if args.against_state {
        against_state(&project, config).await?;
    }
    if args.connect {
        super::connect::connect(&project.catalog, config, Env::system()?).await?;
    }
    Ok(())
}

/// Warns of model arguments that look mixed up; notes keys that several rows of a query may share, and functions whose cost
/// per row grows with their frames.
fn costs(catalog: &Catalog, pipeline: &PipelineDef, dataflow: &Dataflow) {
    for mixed in crate::plan::mixed_up_features(catalog, pipeline, dataflow) {
        say!("    warning: {mixed}");
    }
    for operator in &dataflow.operators {
        if let OperatorSpec::Newest(spec) = &operator.spec {
            let key: Vec<_> = spec.keys.iter().map(|key| spec.input.field(*key).name().as_str()).collect();
            say!(
                "    note: several rows of the query may have one PRIMARY KEY ({}) of `{}`: operator `{}` keeps them all and shows the one that came last",
                key.join(", "),
                spec.target,
                operator.id
            );
        }
        let OperatorSpec::Rolling(spec) = &operator.spec else { continue };
        for name in crate::operator::collecting(spec) {
            say!(
                "    note: `{name}` reads its whole frame again for every row, and its result is as long; a frame of more than {} rows stops the pipeline (`rolling_collect_limit`)",
                spec.collect_limit
            );
        }
    }
}

async fn against_state(project: &Project, config: &Config) -> Result<(), Failure> {
    let around = super::project::surroundings(config, Env::system()?)?;
    let mut lossless = true;
    for pipeline in &project.catalog.pipelines {
        let dataflow = super::migration::planned_as_started(project, pipeline, &around).await?;
        let seed = super::migration::seed_table(project, pipeline);
        lossless &= super::migration::against_state(&dataflow, seed, &around).await?;
    }
    if lossless {
        return Ok(());
    }
    Err(Error::sql("this SQL does not keep all of the state that the warehouse has")
        .with_hint("Undo the edit, give the pipeline another name to read everything again, or start once with `weir run --allow-rebuild`.")
        .into())
}
