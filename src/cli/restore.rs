//! `weir restore`: a warehouse made of a backup; with `--epoch`, see [`go_back`].

use std::path::PathBuf;

use super::output::say;
use super::project::environment;
use super::report::size;
use super::{Failure, go_back};
use crate::backup::{Backup, BackupPlace, ListedBackups, RestoreInto, restore};
use crate::config::Config;
use crate::delta::TableStore;
use crate::error::{Error, Result};

/// What was typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// With --epoch: the pipeline's SQL files, if it has exactly-once Kafka sinks or tables with storage options of their own
    #[arg(requires = "epoch")]
    files: Vec<PathBuf>,
    /// The pipeline to take back
    #[arg(long, requires = "epoch")]
    pipeline: Option<String>,
    /// The epoch that the pipeline goes back to: the last one that stays
    #[arg(long, requires = "pipeline", value_parser = clap::value_parser!(u64).range(1..))]
    epoch: Option<u64>,
    /// The folder or URL that keeps the backups
    #[arg(long, value_name = "PLACE", conflicts_with = "epoch", required_unless_present = "epoch")]
    from: Option<String>,
    /// Which backup, by its id or the beginning of it [default: the newest]
    #[arg(long, value_name = "ID", requires = "from")]
    backup: Option<String>,
    /// The warehouse to make [default: the configured one]
    #[arg(long, value_name = "WAREHOUSE", requires = "from")]
    to: Option<String>,
    /// Delete everything in the warehouse first
    #[arg(long, requires = "from")]
    replace: bool,
}

/// Restores a whole warehouse, or takes a pipeline back. Errors: no such backup; the warehouse is not empty; a file of the backup is missing or damaged.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    if let (Some(pipeline), Some(epoch)) = (&args.pipeline, args.epoch) {
        return go_back::run(pipeline, epoch, &args.files, config).await;
    }
    let from = args.from.as_deref().unwrap_or_default();
    let env = environment()?;
    let place = BackupPlace::new(&TableStore::open(from, &config.storage, &env)?);
    let backup = chosen(place.list().await?, args.backup.as_deref(), place.location())?;
    let to = args.to.as_deref().unwrap_or(&config.warehouse);
    let warehouse = TableStore::open(to, &config.storage, &env)?;
    let into = if args.replace { RestoreInto::Replaced } else { RestoreInto::Empty };
    restore(&place, &backup, &warehouse, into).await?;
    say!("restored backup {}  to {to}  {} files, {}", backup.id, backup.files.len(), size(backup.bytes()));
    for (pipeline, at) in &backup.pipelines {
        say!("  pipeline {pipeline}  epoch {}", at.epoch);
    }
    Ok(())
}

/// The backup whose id begins with `id`, or the newest. Errors: none, several, or one that cannot be read.
fn chosen(listed: ListedBackups, id: Option<&str>, place: &str) -> Result<Backup> {
    let ListedBackups { mut backups, unreadable } = listed;
    let Some(id) = id else {
        let newest = backups.pop();
        let later = unreadable.into_iter().rfind(|(id, _)| newest.as_ref().is_none_or(|newest| *id > newest.id));
        return match (newest, later) {
            (newest, Some((_, error))) => Err(error.with_hint(newest.map_or_else(
                || "No other backup in this place can be read.".to_owned(),
                |newest| format!("The newest that can be read is restored with `--backup {}`.", newest.id),
            ))),
            (Some(newest), None) => Ok(newest),
            (None, None) => {
                Err(Error::config(format!("no backup in `{place}`")).with_hint("`weir backup` takes one there."))
            }
        };
    };
    let readable = backups.into_iter().map(|backup| (backup.id.clone(), Ok(backup)));
    let found = readable.chain(unreadable.into_iter().map(|(id, error)| (id, Err(error))));
    let mut found = found.filter(|(known, _)| known.starts_with(id));
    match (found.next(), found.next()) {
        (Some((_, backup)), None) => backup,
        (None, _) => Err(Error::config(format!("no backup `{id}` in `{place}`"))
            .with_hint("`weir backup PLACE --list` shows those that exist.")),
        (Some(_), Some(_)) => Err(Error::config(format!("more than one backup in `{place}` begins with `{id}`"))
            .with_hint("Write more of its id.")),
    }
}
