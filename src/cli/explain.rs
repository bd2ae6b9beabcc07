//! `weir explain`: how a pipeline would run.

use std::path::PathBuf;

use super::Failure;
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
}

/// Plans and prints. Errors: as `weir check`.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let mut project = Project::load(&args.files)?;
    project.complete(Reach::Local, config, &Env::system()?).await?;
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
