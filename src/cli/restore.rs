//! `weir restore`: a warehouse made of a backup.

use super::Failure;
use super::output::say;
use super::project::environment;
use super::report::size;
use crate::backup::{Backup, BackupPlace, RestoreInto, restore};
use crate::config::Config;
use crate::delta::TableStore;
use crate::error::{Error, Result};

/// What was typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder or URL that keeps the backups
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// Which backup, by its id or the beginning of it [default: the newest]
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// The warehouse to make [default: the configured one]
    #[arg(long, value_name = "WAREHOUSE")]
    to: Option<String>,
    /// Delete everything in the warehouse first
    #[arg(long)]
    replace: bool,
}

/// Restores a whole warehouse. Errors: no such backup; the warehouse is not empty; a file of the backup is missing or damaged.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let env = environment()?;
    let place = BackupPlace::new(&TableStore::open(&args.from, &config.storage, &env)?);
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

fn chosen(mut backups: Vec<Backup>, id: Option<&str>, place: &str) -> Result<Backup> {
    let Some(id) = id else {
        return backups.pop().ok_or_else(|| {
            Error::config(format!("no backup in `{place}`")).with_hint("`weir backup` takes one there.")
        });
    };
    let mut found = backups.into_iter().filter(|backup| backup.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(backup), None) => Ok(backup),
        (None, _) => Err(Error::config(format!("no backup `{id}` in `{place}`"))
            .with_hint("`weir backup --list` shows those that are there.")),
        (Some(_), Some(_)) => Err(Error::config(format!("more than one backup in `{place}` begins with `{id}`"))
            .with_hint("Write more of its id.")),
    }
}
