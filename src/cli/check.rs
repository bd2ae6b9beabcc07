//! `weir check`: everything that can be said about SQL files without running them.

use std::path::PathBuf;

use super::Failure;
use super::output::say;
use super::project::{Project, runtime};
use super::statements::Statements;
use crate::catalog::{Catalog, KafkaConnection, SinkConnector, SourceConnector};
use crate::config::Config;
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::plan::Targets;
use crate::source::delta::Reach;

/// What was typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// SQL files, bound together
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Also try every source and sink, step by step
    #[arg(long)]
    connect: bool,
    /// Also compare with what running pipelines remember: says which operators keep their state; exit 1 if any would lose it
    #[arg(long)]
    against_state: bool,
}

/// Parses, binds and plans; prints what was found. Errors: every problem at once, exit 1.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let mut project = Project::read(&args.files)?;
    let reach = if args.connect { Reach::Anywhere } else { Reach::Local };
    project.complete(reach, config, &Env::system()?).await;
    let statements = Statements::of(&project, config, &Env::system()?, reach)?;
    let mut problems = project.problems(&Targets::new(), &[], runtime(config)?).await;
    problems.extend(statements.problems(&project).await?);
    let found = project.diagnostics(problems);
    if !found.is_empty() {
        return Err(Failure::Sql(found));
    }
    for pipeline in &project.catalog.pipelines {
        let targets: Vec<_> = pipeline.inserts.iter().map(|insert| insert.target.as_str()).collect();
        say!("ok  pipeline {} -> {}", pipeline.name, targets.join(", "));
    }
    if project.catalog.pipelines.is_empty() {
        say!("ok  no pipeline in these files");
    }
    if args.against_state {
        against_state(&project, config).await?;
    }
    if args.connect {
        connect(&project.catalog, config, Env::system()?).await?;
    }
    Ok(())
}

async fn against_state(project: &Project, config: &Config) -> Result<(), Failure> {
    let around = super::project::surroundings(config, Env::system()?)?;
    let mut lossless = true;
    for pipeline in &project.catalog.pipelines {
        let dataflow = super::migration::planned(project, pipeline, config).await?;
        lossless &= super::migration::against_state(&dataflow, &around).await?;
    }
    if lossless {
        return Ok(());
    }
    Err(Error::sql("this SQL does not keep all of the state that the warehouse has")
        .with_hint("Undo the edit, give the pipeline another name to read everything again, or start once with `weir run --allow-rebuild`.")
        .into())
}

/// Tries every source and sink; each step prints a line. Errors: the number of steps that failed, exit 2.
async fn connect(catalog: &Catalog, config: &Config, env: Env) -> Result<()> {
    let mut failed = 0;
    for source in catalog.sources.values() {
        say!("source {}", source.name);
        match &source.connector {
            SourceConnector::Kafka(options) => {
                failed += kafka(&options.connection, &options.topic, &env).await?;
            }
            SourceConnector::File(options) => {
                let root = options.path.split('*').next().unwrap_or_default();
                let root =
                    root.rsplit_once('/').map_or(root, |(folder, _)| if root.ends_with('/') { root } else { folder });
                let found = std::fs::metadata(if options.path.contains('*') { root } else { &options.path });
                let outcome = found.map(|_| options.path.clone()).map_err(|error| error.to_string());
                failed += show([("path".to_owned(), outcome, Some("Check the path and its permissions.".to_owned()))]);
            }
            SourceConnector::Generator(_) => say!("  ok    generator"),
            SourceConnector::Nexmark(_) => say!("  ok    nexmark"),
            SourceConnector::Delta(options) => {
                let found = crate::source::delta::probe(source, options, &config.storage, &env).await;
                let (outcome, hint) = match found {
                    Ok(found) => (Ok(found), None),
                    Err(error) => (Err(error.message().to_owned()), error.hint().map(str::to_owned)),
                };
                failed += show([("table".to_owned(), outcome, hint)]);
            }
        }
    }
    for sink in catalog.sinks.values() {
        if let SinkConnector::Kafka(options) = &sink.connector {
            say!("sink {}", sink.name);
            failed += kafka(&options.connection, &options.topic, &env).await?;
        }
    }
    let around = super::project::surroundings(config, env)?;
    for table in catalog.tables.values() {
        // Its columns are its query's: made by the first run.
        if table.columns.is_empty() && catalog.materialized.contains_key(&table.name) {
            say!("table {}\n  ok    made by its pipeline", table.name);
            continue;
        }
        say!("table {}", table.name);
        let location = around.table_location(table);
        let mut storage = around.storage.clone();
        storage.extend(table.storage.clone());
        let steps = crate::delta::probe(&location, &storage, table, &around.env).await;
        failed += show(steps.into_iter().map(|step| (step.name.to_owned(), step.outcome, step.hint)));
    }
    if failed == 0 {
        return Ok(());
    }
    Err(Error::environment(format!("{failed} of the steps above failed")))
}

async fn kafka(connection: &KafkaConnection, topic: &str, env: &Env) -> Result<usize> {
    let (connection, topic, env) = (connection.clone(), topic.to_owned(), env.clone());
    let task = tokio::task::spawn_blocking(move || crate::source::kafka::probe(&connection, &topic, &env));
    let steps = task.await.internal(|| "a probe ended abnormally".to_owned())?;
    Ok(show(steps.into_iter().map(|step| (step.name, step.outcome, step.hint))))
}

fn show(steps: impl IntoIterator<Item = (String, Result<String, String>, Option<String>)>) -> usize {
    let mut failed = 0;
    for (name, outcome, hint) in steps {
        match outcome {
            Ok(found) => say!("  ok    {name}: {found}"),
            Err(wrong) => {
                failed += 1;
                say!("  FAIL  {name}: {wrong}");
                if let Some(hint) = hint {
                    say!("        {hint}");
                }
            }
        }
    }
    failed
}
