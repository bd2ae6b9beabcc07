//! `weir verify`: the same SQL in batch, compared with what was streamed.

use std::path::PathBuf;

use super::Failure;
use super::migration::{newest_manifest, planned};
use super::project::{Project, environment, surroundings};
use super::report::grouped;
use crate::config::Config;
use crate::epoch::{Comparison, verify};
use crate::error::Error;

/// What was typed.
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
    let project = Project::load(&args.files)?;
    let around = surroundings(config, environment()?)?;
    let mut differing = 0;
    for pipeline in project.pipelines(args.pipeline.as_deref())? {
        let dataflow = planned(&project, pipeline, config).await?;
        let Some(manifest) = newest_manifest(&around, &pipeline.name).await? else {
            return Err(Error::config(format!("pipeline `{}` has not run in this warehouse", pipeline.name))
                .with_hint("Run it first: `weir run`.")
                .into());
        };
        println!("pipeline {}  up to epoch {}", pipeline.name, manifest.epoch);
        let functions = project.functions();
        let compared = verify(&project.catalog, pipeline, &functions, &dataflow, &manifest, &around).await?;
        for comparison in &compared {
            print(comparison);
        }
        differing += compared.iter().filter(|comparison| !comparison.agrees()).count();
    }
    match differing {
        0 => Ok(()),
        count => Err(Error::sql(format!("{count} of the tables differ from what the SQL says in batch"))
            .with_detail(
                "Late rows, rows that a TTL forgot and rows emitted on arrival make a stream differ from its batch.",
            )
            .with_hint("`weir status` counts late rows.")
            .into()),
    }
}

fn print(comparison: &Comparison) {
    let verdict = if comparison.agrees() { "ok   " } else { "DIFFER" };
    println!(
        "  {verdict} {}  {} rows streamed, {} in batch, {} not due yet, {} missing, {} too many",
        comparison.target,
        grouped(comparison.streamed),
        grouped(comparison.batch),
        grouped(comparison.pending),
        grouped(comparison.missing),
        grouped(comparison.surplus)
    );
    for example in &comparison.examples {
        println!("         {example}");
    }
}
