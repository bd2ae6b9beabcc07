//! `weir restore --epoch`: resets a pipeline's tables, state and offsets to one epoch, together.

use std::path::PathBuf;

use super::Failure;
use super::output::say;
use super::project::{Project, environment, surroundings};
use crate::config::Config;
use crate::epoch::{RestoredSink, rewind};
use crate::error::{Error, Result};
use crate::state::Epoch;

/// Resets the pipeline and prints the result for each sink. Errors: a pipeline that is running; an epoch that cannot be
/// restored.
pub async fn run(pipeline: &str, epoch: u64, files: &[PathBuf], config: &Config) -> Result<(), Failure> {
    let around = surroundings(config, environment()?)?;
    let project = if files.is_empty() { None } else { Some(Project::load(files)?) };
    let sql = match &project {
        None => None,
        Some(project) => {
            let mut found = project.pipelines(Some(pipeline))?;
            let def = found.pop().ok_or_else(|| Error::config(format!("no pipeline `{pipeline}`")))?;
            Some((&project.catalog, def))
        }
    };
    let restored = rewind(pipeline, Epoch(epoch), &around, sql).await?;
    say!("pipeline {pipeline}  back to epoch {epoch}");
    restored.iter().for_each(print);
    say!("The next run computes the later epochs again; its sources must still have their records.");
    Ok(())
}

fn print(sink: &RestoredSink) {
    match sink {
        RestoredSink::Kafka => say!(
            "  kafka: messages of later epochs stay in the topics, and the next run sends them again; drop repeats by a key"
        ),
        RestoredSink::MadeAgain { name } => say!("  {name}: was gone, made again, empty"),
        RestoredSink::Table { name, epoch, restored, foreign } => {
            let holds = epoch.map_or_else(|| "no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
            let done = match restored {
                None => "left as it is".to_owned(),
                Some((target, version)) => format!("version {version} brings version {target} back"),
            };
            let others = match foreign {
                0 => String::new(),
                others => format!("; {others} commits of other writers are undone, too"),
            };
            say!("  {name}: {holds}, {done}{others}");
        }
    }
}
