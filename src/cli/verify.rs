//! `weir verify`: runs the same SQL in batch and compares the result with the streamed tables.

use std::path::PathBuf;

use super::Failure;
use super::migration::{newest_manifest, planned_as_run};
use super::output::say;
use super::project::{Project, environment, surroundings};
use super::report::grouped;
use crate::catalog::PipelineDef;
use crate::config::Config;
use crate::epoch::{Comparison, Surroundings, verify};
use crate::error::Error;
use crate::source::delta::Reach;

/// Attempts to verify a pipeline that goes on meanwhile.
const ATTEMPTS: u32 = 5;

/// Arguments of `weir verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// SQL files, bound together
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only this pipeline
    #[arg(long)]
    pipeline: Option<String>,
}

/// Compares every Delta table of the pipelines. Errors: tables that differ, exit 1; sources that cannot be read again.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let env = environment()?;
    let project = Project::complete_from(&args.files, Reach::Anywhere, config, &env).await?;
    let around = surroundings(config, env)?;
    let mut differing = 0;
    for def in project.pipelines(args.pipeline.as_deref())? {
        let Some(count) = pipeline(&project, def, &around).await? else {
            return Err(Error::config(format!("pipeline `{}` has not run in this warehouse", def.name))
                .with_hint("Run it first: `weir run`.")
                .into());
        };
        differing += count;
    }
    if differing == 0 { Ok(()) } else { Err(differ(differing).into()) }
}

/// Compares the tables of one pipeline and prints each; returns the number that differ, `None` if the pipeline has not run.
pub async fn pipeline(
    project: &Project,
    pipeline: &PipelineDef,
    around: &Surroundings,
) -> Result<Option<usize>, Failure> {
    let Some(mut manifest) = newest_manifest(around, &pipeline.name).await? else { return Ok(None) };
    let dataflow = planned_as_run(project, pipeline, around).await?;
    let functions = project.functions();
    let mut attempt = 1;
    let compared = loop {
        match verify(&project.catalog, pipeline, &functions, &dataflow, &manifest, around).await {
            Ok(compared) => break compared,
            // A pipeline that runs on removes the state of an epoch that it no longer needs.
            Err(error) => match newest_manifest(around, &pipeline.name).await? {
                Some(newest) if newest.epoch > manifest.epoch && attempt < ATTEMPTS => manifest = newest,
                _ => return Err(error.into()),
            },
        }
        attempt += 1;
    };
    say!("pipeline {}  up to epoch {}", pipeline.name, manifest.epoch);
    for comparison in &compared {
        print(comparison);
    }
    Ok(Some(compared.iter().filter(|comparison| comparison.differs()).count()))
}

/// The error that `count` tables differ.
pub fn differ(count: usize) -> Error {
    Error::sql(format!("{count} of the tables differ from what the SQL says in batch"))
        .with_detail(
            "Late rows, rows that a TTL forgot and rows emitted on arrival make a stream differ from its batch.",
        )
        .with_hint("`weir status` counts late rows.")
}

fn print(comparison: &Comparison) {
    let verdict = match (comparison.agrees(), &comparison.incomparable) {
        (true, _) => "ok   ",
        (false, None) => "DIFFER",
        (false, Some(_)) => "UNSURE",
    };
    say!(
        "  {verdict} {}  {} rows streamed, {} in batch, {} not due yet, {} missing, {} too many",
        comparison.target,
        grouped(comparison.streamed),
        grouped(comparison.batch),
        grouped(comparison.pending),
        grouped(comparison.missing),
        grouped(comparison.surplus)
    );
    if comparison.refused > 0 {
        say!(
            "         {} more rows in batch violate the table's NOT NULL or CHECK: dead letters",
            grouped(comparison.refused)
        );
    }
    if let Some(reason) = comparison.incomparable.as_ref().filter(|_| !comparison.agrees()) {
        say!("         cannot be compared: {reason}, so these differences prove nothing");
    }
    if comparison.before > 0 {
        say!("         {} more rows were there before the pipeline's first epoch", grouped(comparison.before));
    }
    let left_out = [
        (comparison.late, "that dead letters call late"),
        (comparison.without_time, "whose event time is NULL"),
        (comparison.not_computed, "of which dead letters say that an expression cannot be computed"),
    ];
    for (rows, which) in left_out.iter().filter(|(rows, _)| *rows > 0) {
        say!("         without {} rows {which}", grouped(*rows));
    }
    for example in &comparison.examples {
        say!("         {example}");
    }
}
