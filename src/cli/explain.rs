//! `weir explain`: how a pipeline would run.

use std::path::{Path, PathBuf};

use super::Failure;
use super::migration::{between, planned};
use super::project::{Project, runtime};
use crate::config::Config;
use crate::env::Env;
use crate::epoch::{declared_targets, plan};
use crate::source::delta::Reach;

/// What was typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// SQL files, bound together
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only this pipeline
    #[arg(long)]
    pipeline: Option<String>,
    /// What becomes of the operators' state when these files take the place of that one
    #[arg(long, value_name = "OLD.sql")]
    migration: Option<PathBuf>,
}

/// Plans and prints. Errors: as `weir check`.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let mut project = Project::load(&args.files)?;
    project.complete(Reach::Local, config, &Env::system()?).await?;
    if let Some(old) = &args.migration {
        return migration(&project, old, args.pipeline.as_deref(), config).await;
    }
    for pipeline in project.pipelines(args.pipeline.as_deref())? {
        let targets = declared_targets(&project.catalog, pipeline);
        let planned = plan(&project.catalog, pipeline, &project.functions(), &targets, runtime(config)?).await;
        let dataflow = planned.map_err(|list| Failure::Sql(project.diagnostics(list)))?;
        println!("{}", crate::plan::explain(&dataflow));
        for (name, described) in project.models() {
            println!("model {name}  {described}");
        }
    }
    Ok(())
}

async fn migration(new: &Project, old: &Path, only: Option<&str>, config: &Config) -> Result<(), Failure> {
    let old = Project::load(&[old.to_owned()])?;
    for pipeline in new.pipelines(only)? {
        let after = planned(new, pipeline, config).await?;
        match old.catalog.pipelines.iter().find(|other| other.name == pipeline.name) {
            Some(before) => {
                let before = planned(&old, before, config).await?;
                let seed = pipeline.options.seed_from.as_ref().map(|seed| seed.table.as_str());
                let _lossless = between(&before, &after, seed);
            }
            None => println!("migration of {}  the old file has no such pipeline", pipeline.name),
        }
    }
    Ok(())
}
