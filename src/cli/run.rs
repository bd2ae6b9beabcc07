//! `weir run`: the pipelines of some SQL files, until stopped or until their sources end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::project::{Project, environment, surroundings};
use super::report::Report;
use super::server::Server;
use super::statements::Statements;
use super::{Failure, Printing, signals};
use crate::catalog::Trigger;
use crate::config::Config;
use crate::epoch::{self, Finish, Progress, ProgressFile, ProgressSink, Stop, Surroundings, known_lookups, prepare};
use crate::error::{Context, Error, Result};
use crate::memory::MemoryUse;
use crate::metrics::Metrics;
use crate::plan::Targets;
use crate::source::delta::Reach;
use crate::time::{EventTime, Lag};

/// Arguments of `weir run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// SQL files, bound together
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only this pipeline
    #[arg(long)]
    pipeline: Option<String>,
    /// The end of epochs: an interval such as '1 second', 'available now' or 'continuous'; overrides the SQL
    #[arg(long, value_parser = parse_trigger)]
    trigger: Option<Trigger>,
    /// Also serve Flight SQL and HTTP (addresses in the configuration)
    #[arg(long)]
    serve: bool,
    /// Operators that have no state after an edit of the SQL begin empty; state that no operator uses any more is dropped
    #[arg(long)]
    allow_rebuild: bool,
}

/// The time limit for the last round of upkeep.
const UPKEEP_ENDS: Duration = Duration::from_secs(60);

fn parse_trigger(text: &str) -> Result<Trigger, String> {
    crate::catalog::parse_trigger(text)
}

/// Runs every pipeline. Errors: SQL errors before anything is opened; the first pipeline that fails ends all.
pub async fn run(args: Args, config: &Config, printing: &Printing) -> Result<(), Failure> {
    let stop = Stop::default();
    signals::listen(stop.clone(), printing.log.clone())?;
    let started = tokio::select! {
        biased;
        () = stop.wait() => None,
        started = start(&args, config, printing) => started?,
    };
    let Some(Started { runner, jobs, server }) = started else { return Ok(()) };
    let upkeep = runner.upkeep(config, &jobs, stop.clone());
    let finish = run_all(jobs, stop.clone()).await;
    // Upkeep ends after its current round: if it were aborted, it would leave a thread without a runtime.
    stop.now();
    if tokio::time::timeout(UPKEEP_ENDS, upkeep).await.is_err() {
        tracing::warn!("upkeep has not ended in time");
    }
    runner.report.end();
    if let Some(server) = server {
        server.stop().await;
    }
    let finish = finish?;
    tracing::info!(epochs = finish.epochs, records = finish.records, "ended");
    Ok(())
}

/// Pipelines that are ready to run.
struct Started {
    runner: Runner,
    jobs: Vec<epoch::Job>,
    server: Option<Server>,
}

/// Does everything before the first record: opens stores, connects brokers, answers statements, starts servers. `None` if
/// the files have no pipeline, only statements.
async fn start(args: &Args, config: &Config, printing: &Printing) -> Result<Option<Started>, Failure> {
    let mut project = Project::read(&args.files)?;
    let env = environment()?.with_output(printing.output.clone());
    project.complete(Reach::Anywhere, config, &env).await;
    let report = Arc::new(Report::new(printing.json, printing.output.clone()));
    let around =
        Surroundings { allow_rebuild: args.allow_rebuild, ..surroundings(config, env)?.shared_by(&project.catalog) };
    let metrics = Arc::clone(&around.metrics);
    let runner = Runner { around, report };
    let memory = runner.around.limits.pool.queries();
    let statements = Statements::of(&project, config, &runner.around.env, Reach::Anywhere, memory)?;
    runner.check(&project, &statements).await?;
    statements.run(&project, config, &runner.around, printing.json).await?;
    if project.catalog.pipelines.is_empty() && !statements.is_empty() {
        return Ok(None);
    }
    let jobs = runner.jobs(&project, args.pipeline.as_deref(), args.trigger).await?;
    let server = if args.serve { Some(Server::start(config, &runner.around, &project, metrics).await?) } else { None };
    if let Some(server) = &server {
        server.announce(printing);
    }
    Ok(Some(Started { runner, jobs, server }))
}

/// Makes jobs of a project's pipelines.
pub struct Runner {
    pub around: Surroundings,
    pub report: Arc<Report>,
}

impl Runner {
    /// Finds all errors in the files, before anything is created or run.
    async fn check(&self, project: &Project, statements: &Statements) -> Result<(), Failure> {
        let (mut known, mut failed) = (Targets::new(), Vec::new());
        for pipeline in &project.catalog.pipelines {
            let (columns, unopened) = known_lookups(&project.catalog, pipeline, &self.around).await;
            known.extend(columns);
            failed.extend(unopened);
        }
        let missing: Vec<String> = failed.iter().map(|(name, _)| name.clone()).collect();
        let mut problems = project.problems(&known, &missing, Arc::clone(&self.around.runtime)).await;
        problems.extend(statements.problems(project).await?);
        let found = project.diagnostics(problems);
        if !found.is_empty() {
            return Err(Failure::Sql(found));
        }
        match failed.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Prepares every pipeline, or the one named `only`.
    pub async fn jobs(
        &self,
        project: &Project,
        only: Option<&str>,
        trigger: Option<Trigger>,
    ) -> Result<Vec<epoch::Job>, Failure> {
        let pipelines = project.pipelines(only)?;
        let unplanned = project.diagnostics(Vec::new());
        if !unplanned.is_empty() {
            return Err(Failure::Sql(unplanned));
        }
        if pipelines.is_empty() {
            return Err(Error::config("nothing to run: these files have no INSERT")
                .with_hint("Add `INSERT INTO table SELECT … FROM source;`.")
                .into());
        }
        let mut jobs = Vec::new();
        for pipeline in pipelines {
            let progress = self.progress(&pipeline.name)?;
            let functions = project.functions();
            let prepared =
                prepare(&project.catalog, pipeline, &functions, project.hashes.clone(), &self.around, progress).await;
            let mut job = prepared.map_err(|refused| project.failure(refused))?;
            job.trigger = trigger.unwrap_or(job.trigger);
            jobs.push(job);
        }
        Ok(jobs)
    }

    fn progress(&self, pipeline: &str) -> Result<ProgressSink> {
        let (report, metrics) = (Arc::clone(&self.report), Arc::clone(&self.around.metrics));
        let (env, pool) = (self.around.env.clone(), self.around.limits.pool.clone());
        let folder = self.around.pipeline_location(pipeline);
        let kept = match crate::delta::local_folder(&folder) {
            Some(folder) => Some(ProgressFile::open(&folder)?),
            None => None,
        };
        Ok(Arc::new(move |progress: &Progress| {
            report.epoch(progress);
            record(&metrics, progress, env.unix_ms());
            for of in [MemoryUse::Output, MemoryUse::Input] {
                metrics.memory_reserved_bytes.with([of.name()]).set(pool.used(of) as f64);
            }
            if let Some(file) = &kept {
                file.append(progress);
            }
        }))
    }

    /// Starts upkeep beside the commits: log checkpoints, log cleanup, removal of old manifests.
    pub fn upkeep(&self, config: &Config, jobs: &[epoch::Job], stop: Stop) -> tokio::task::JoinHandle<()> {
        let policy = epoch::UpkeepPolicy {
            checkpoint_every_commits: config.maintenance.checkpoint_every_commits,
            log_cleanup: config.maintenance.log_cleanup,
            remove_expired_files: config.maintenance.remove_expired_files,
            keep_manifests: config.maintenance.keep_manifests,
        };
        let upkeep: Vec<_> = jobs.iter().map(|job| epoch::Upkeep::of(job, policy)).collect();
        tokio::spawn(async move {
            let mut tasks: JoinSet<()> = upkeep.into_iter().map(|upkeep| upkeep.run(stop.clone())).collect();
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "upkeep ended abnormally: log checkpoints and cleanup rest until the next start");
                }
            }
        })
    }
}

/// Runs jobs side by side; the first failure stops the others, which commit what they have.
pub async fn run_all(jobs: Vec<epoch::Job>, stop: Stop) -> Result<Finish> {
    let mut tasks: JoinSet<Result<Finish>> = jobs.into_iter().map(|job| epoch::run(job, stop.clone())).collect();
    let mut total = Finish::default();
    let mut failed = None;
    while let Some(ended) = tasks.join_next().await {
        match ended.internal(|| "a pipeline ended abnormally".to_owned()).and_then(|finish| finish) {
            Ok(finish) => {
                total.epochs += finish.epochs;
                total.records += finish.records;
            }
            Err(error) => {
                stop.now();
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(total), Err)
}

fn record(metrics: &Metrics, progress: &Progress, now_ms: i64) {
    let pipeline = progress.name.as_str();
    for source in &progress.sources {
        let rows: i64 = source
            .end_offset
            .iter()
            .map(|(partition, end)| end - source.start_offset.get(partition).copied().unwrap_or(*end))
            .sum();
        // With one source the count of records is exact; offsets of compacted topics have gaps.
        let rows = if progress.sources.len() == 1 { progress.num_input_rows } else { rows.max(0) as u64 };
        metrics.rows_in.with([pipeline, &source.description]).add(rows);
        metrics.sources.doubtful_times.with([pipeline, &source.description]).set(source.num_doubtful_times as f64);
        if let Some(lag) = source.lag {
            metrics.sources.lag_records.with([pipeline, &source.description]).set(lag as f64);
        }
    }
    for sink in &progress.sinks {
        metrics.rows_out.with([pipeline, &sink.description]).add(sink.num_output_rows);
        metrics.rows_refused.with([pipeline, &sink.description]).add(sink.num_refused_rows);
    }
    for operator in &progress.state_operators {
        let labels = [pipeline, operator.operator.as_str()];
        metrics.operators.state_rows.with(labels).set(operator.num_rows_total as f64);
        metrics.operators.state_bytes.with(labels).set(operator.memory_used_bytes as f64);
        metrics.operators.late_rows.with(labels).set(operator.num_rows_late as f64);
        if operator.kind == "deduplicate" {
            metrics.operators.deduplicated.with(labels).set(operator.num_rows_deduplicated as f64);
        }
        if operator.kind == "lookup_join" {
            metrics.operators.lookup_too_early.with(labels).set(operator.num_rows_too_early as f64);
        }
    }
    let source = progress.sources.first().map_or("", |source| source.description.as_str());
    metrics.dead_letters.with([pipeline, source]).add(progress.dead_letters);
    metrics.bytes_out.with([pipeline, "files"]).add(progress.bytes);
    metrics.epochs.with([pipeline]).add(1);
    metrics.last_epoch.with([pipeline]).set(progress.epoch as f64);
    metrics.last_commit_timestamp.with([pipeline]).set(now_ms as f64 / 1000.0);
    let took: u64 =
        ["close", "state", "manifest", "commit"].iter().filter_map(|step| progress.duration_ms.get(*step)).sum();
    metrics.commit_seconds.with([pipeline]).observe(took as f64 / 1000.0);
    let (micro_batches, ages) =
        (metrics.micro_batch_seconds.with([pipeline]), metrics.event_to_commit.with([pipeline]));
    progress.micro_batch_latencies.iter().for_each(|latency| micro_batches.observe(latency.as_secs_f64()));
    for (event_time, rows) in &progress.event_times {
        let age = EventTime::of_millis(now_ms).since(*event_time).max(Lag::ZERO);
        ages.observe_many(age.0 as f64 / 1e6, *rows);
    }
}
