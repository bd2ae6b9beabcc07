//! `weir backup`: copies of the whole warehouse.

use std::collections::BTreeMap;

use super::Failure;
use super::output::say;
use super::project::environment;
use super::report::{grouped, size};
use crate::backup::{Backup, BackupPlace, ListedBackups, Taken, Warehouse, take};
use crate::config::Config;
use crate::delta::TableStore;
use crate::error::Error;

/// Arguments of `weir backup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder or URL that keeps backups; created if missing
    place: String,
    /// List the existing backups instead of taking one
    #[arg(long)]
    list: bool,
    /// Show every epoch and version as JSON
    #[arg(long)]
    json: bool,
}

/// Takes a backup, or lists them. Errors: no consistent state of the warehouse can be found; a store that fails.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let env = environment()?;
    // The warehouse's storage options also apply to the place: both are usually with one provider.
    let place = BackupPlace::new(&TableStore::open(&args.place, &config.storage, &env)?);
    if args.list {
        return list(&place, args.json).await;
    }
    let store = TableStore::open(&config.warehouse, &config.storage, &env)?;
    let warehouse = Warehouse { store };
    let Taken { backup, new_files, new_bytes } = take(&warehouse, &place).await?;
    print(&backup, args.json)?;
    if !args.json {
        say!("  {} files new, {}", grouped(new_files), size(new_bytes));
    }
    Ok(())
}

/// Prints the backups of a place. Errors: some cannot be read; the others are printed first.
async fn list(place: &BackupPlace, json: bool) -> Result<(), Failure> {
    let ListedBackups { backups, unreadable } = place.list().await?;
    for backup in &backups {
        print(backup, json)?;
    }
    if backups.is_empty() && unreadable.is_empty() {
        say!("no backup in `{}`", place.location());
    }
    if unreadable.is_empty() {
        return Ok(());
    }
    let what = if unreadable.len() == 1 { "a backup" } else { "backups" };
    let each: Vec<String> = unreadable.iter().map(|(_, error)| error.message().to_owned()).collect();
    Err(Error::damaged(format!("{what} in `{}` cannot be read", place.location()))
        .with_detail(each.join("\n        "))
        .with_hint("The others can be restored with `weir restore --from PLACE --backup ID`. To drop a backup, delete its list.")
        .into())
}

fn print(backup: &Backup, json: bool) -> Result<(), Failure> {
    if json {
        let summary = serde_json::json!({
            "id": backup.id,
            "created_ms": backup.created_ms,
            "weir": backup.weir,
            "warehouse": backup.warehouse,
            "pipelines": backup.pipelines,
            "tables": backup.tables,
            "files": backup.files.len(),
            "bytes": backup.bytes(),
        });
        say!("{summary}");
        return Ok(());
    }
    say!(
        "backup {}  of {}  {} tables, {} files, {}",
        backup.id,
        backup.warehouse,
        backup.tables.len(),
        grouped(backup.files.len() as u64),
        size(backup.bytes())
    );
    let epochs: BTreeMap<_, _> = backup.pipelines.iter().map(|(pipeline, at)| (pipeline, at.epoch)).collect();
    for (pipeline, epoch) in epochs {
        say!("  pipeline {pipeline}  epoch {epoch}");
    }
    Ok(())
}
