//! `weir check --connect`: tries every source, sink, table and pipeline folder, step by step.

use std::path::Path;

use super::output::say;
use crate::catalog::{
    Catalog, Delivery, FileSourceOptions, KafkaSinkOptions, KafkaSourceOptions, SinkConnector, SinkDef,
    SourceConnector, SourceDef,
};
use crate::config::Config;
use crate::delta::TableStore;
use crate::env::Env;
use crate::epoch::Surroundings;
use crate::error::{Context, Error, Result};
use crate::sink::kafka::TransactionalProducer;
use crate::source::kafka::{ProbeStep, probe_sink, probe_source};
use crate::source::sample;

/// A step's finding; or its failure, with a hint on how to fix it.
struct Step {
    name: String,
    outcome: Result<String, String>,
    hint: Option<String>,
}

impl Step {
    fn new(name: &str, outcome: Result<String, String>, hint: &str) -> Self {
        Self { name: name.to_owned(), outcome, hint: Some(hint.to_owned()) }
    }

    fn of<T>(name: &str, outcome: Result<T>, found: impl FnOnce(T) -> String, hint: &str) -> Self {
        match outcome {
            Ok(value) => Self::new(name, Ok(found(value)), hint),
            Err(error) => {
                let said = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
                Self::new(name, Err(format!("{}{said}", error.message())), error.hint().unwrap_or(hint))
            }
        }
    }
}

impl From<ProbeStep> for Step {
    fn from(step: ProbeStep) -> Self {
        Self { name: step.name, outcome: step.outcome, hint: step.hint }
    }
}

/// Tries everything; each step prints a line. Errors: some steps failed; the message counts them. Exit 2.
pub async fn connect(catalog: &Catalog, config: &Config, env: Env) -> Result<()> {
    let around = super::project::surroundings(config, env)?;
    let mut failed = 0;
    for source in catalog.sources.values() {
        say!("source {}", source.name);
        failed += show(of_source(source, &around).await?);
    }
    for sink in catalog.sinks.values() {
        say!("sink {}", sink.name);
        failed += show(of_sink(sink, catalog, &around).await?);
    }
    failed += tables(catalog, &around).await;
    for pipeline in &catalog.pipelines {
        say!("pipeline {}", pipeline.name);
        let location = around.pipeline_location(&pipeline.name);
        let tried = match TableStore::open(&location, &around.storage, &around.env) {
            Ok(store) => store.probe().await,
            Err(error) => Err(error),
        };
        let hint = "Grant list, write, read and delete on the warehouse: manifests and state are kept there.";
        failed += show([Step::of("manifests", tried, |()| format!("{location}: list, write, read, delete"), hint)]);
    }
    match failed {
        0 => Ok(()),
        failed => Err(Error::environment(format!("{failed} of the steps above failed"))),
    }
}

async fn of_source(source: &SourceDef, around: &Surroundings) -> Result<Vec<Step>> {
    Ok(match &source.connector {
        SourceConnector::Kafka(options) => kafka_source(source, options, around).await?,
        SourceConnector::File(options) => file_source(source, options, &around.env).await,
        SourceConnector::Generator(_) | SourceConnector::Nexmark(_) => {
            vec![Step::new("generator", Ok("makes its rows itself".to_owned()), "")]
        }
        SourceConnector::Delta(options) => {
            let found = crate::source::delta::probe(source, options, &around.storage, &around.env).await;
            vec![Step::of("table", found, |found| found, "Check the location and the permissions.")]
        }
    })
}

async fn kafka_source(source: &SourceDef, options: &KafkaSourceOptions, around: &Surroundings) -> Result<Vec<Step>> {
    let (source, options, env) = (source.clone(), options.clone(), around.env.clone());
    blocking(move || probe_source(&source, &options, &env)).await
}

async fn file_source(source: &SourceDef, options: &FileSourceOptions, env: &Env) -> Vec<Step> {
    let root = match options.path.split_once('*') {
        Some((before, _)) => {
            before.rsplit_once('/').map_or(".", |(folder, _)| if folder.is_empty() { "/" } else { folder })
        }
        None => &options.path,
    };
    let root = root.strip_prefix("file://").unwrap_or(root);
    let found = std::fs::metadata(root).map(|_| options.path.clone()).map_err(|error| format!("`{root}`: {error}"));
    let is_there = found.is_ok();
    let mut steps = vec![Step::new("path", found, "Check the option `path` and its permissions.")];
    if is_there {
        steps.push(Step::new("sample", sample::of_file(source, options, env).await, sample::HINT));
    }
    steps
}

async fn of_sink(sink: &SinkDef, catalog: &Catalog, around: &Surroundings) -> Result<Vec<Step>> {
    Ok(match &sink.connector {
        SinkConnector::Kafka(options) => kafka_sink(&sink.name, options, catalog, around).await?,
        SinkConnector::File { path } => vec![file_sink(path)],
        SinkConnector::Console => vec![Step::new("console", Ok("standard output".to_owned()), "")],
        SinkConnector::Blackhole => vec![Step::new("blackhole", Ok("keeps nothing".to_owned()), "")],
    })
}

async fn kafka_sink(
    name: &str,
    options: &KafkaSinkOptions,
    catalog: &Catalog,
    around: &Surroundings,
) -> Result<Vec<Step>> {
    let (connection, topic, env) = (options.connection.clone(), options.topic.clone(), around.env.clone());
    let mut steps = {
        let (connection, topic, env) = (connection.clone(), topic.clone(), env.clone());
        blocking(move || probe_sink(&connection, &topic, &env)).await?
    };
    if options.delivery == Delivery::ExactlyOnce && steps.iter().all(|step| step.outcome.is_ok()) {
        // With another name, so that no running pipeline is fenced; a grant by prefix covers both.
        let writes =
            |pipeline: &&crate::catalog::PipelineDef| pipeline.inserts.iter().any(|insert| insert.target == name);
        let pipeline = catalog.pipelines.iter().find(writes).map_or("check", |pipeline| &pipeline.name);
        let pipeline = format!("{pipeline}-check");
        let opened = TransactionalProducer::open(&connection, &pipeline, "", &[topic], &env).await;
        let hint = format!("Grant the user WRITE on the transactional ids `weir-{pipeline}…`.");
        steps.push(Step::of("transactions", opened, |_| "the user may begin them".to_owned(), &hint));
    }
    Ok(steps)
}

/// Tries whether files can be created in the folder, or in the nearest existing one above it.
fn file_sink(path: &str) -> Step {
    let folder = Path::new(path.strip_prefix("file://").unwrap_or(path));
    let there = folder.ancestors().find(|folder| folder.is_dir());
    let there = there.unwrap_or_else(|| Path::new("."));
    let tried = there.join(".weir-check");
    let outcome = std::fs::write(&tried, b"").and_then(|()| std::fs::remove_file(&tried));
    let outcome = match outcome {
        Ok(()) if there == folder => Ok(format!("{path} takes files")),
        Ok(()) => Ok(format!("{path} will be made")),
        Err(error) => Err(format!("`{}` takes no files: {error}", there.display())),
    };
    Step::new("write", outcome, "Check the option `path` and the folder's permissions.")
}

async fn tables(catalog: &Catalog, around: &Surroundings) -> usize {
    let mut failed = 0;
    for table in catalog.tables.values() {
        say!("table {}", table.name);
        // Its columns are its query's; the first run creates it.
        if table.columns.is_empty() && catalog.materialized.contains_key(&table.name) {
            say!("  ok    made by its pipeline");
            continue;
        }
        let mut storage = around.storage.clone();
        storage.extend(table.storage.clone());
        let steps = crate::delta::probe(&around.table_location(table), &storage, table, &around.env).await;
        failed += show(steps.into_iter().map(|step| Step {
            name: step.name.to_owned(),
            outcome: step.outcome,
            hint: step.hint,
        }));
    }
    failed
}

async fn blocking(act: impl FnOnce() -> Vec<ProbeStep> + Send + 'static) -> Result<Vec<Step>> {
    let steps = tokio::task::spawn_blocking(act).await.internal(|| "a probe ended abnormally".to_owned())?;
    Ok(steps.into_iter().map(Step::from).collect())
}

/// Prints steps; returns the number that failed.
fn show(steps: impl IntoIterator<Item = Step>) -> usize {
    let mut failed = 0;
    for Step { name, outcome, hint } in steps {
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
