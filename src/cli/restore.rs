//! `weir restore`: creates a warehouse from a backup; with `--epoch`, see [`go_back`].

use std::path::PathBuf;

use super::output::say;
use super::project::environment;
use super::report::size;
use super::{Failure, go_back};
use crate::backup::{Backup, BackupPlace, ListedBackups, RestoreInto, restore};
use crate::config::Config;
use crate::delta::TableStore;
use crate::error::{Error, Result};

/// Arguments of `weir restore`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// With --epoch: the pipeline's SQL files, if it has exactly-once Kafka sinks or tables with storage options of their
    /// own
    files: Vec<PathBuf>,
    /// The pipeline to reset
    #[arg(long)]
    pipeline: Option<String>,
    /// The epoch to which the pipeline is reset: the last one that stays
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    epoch: Option<u64>,
    /// The folder or URL that keeps the backups
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// The backup's id or the beginning of it [default: the newest]
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// The warehouse to create [default: the configured one]
    #[arg(long, value_name = "WAREHOUSE")]
    to: Option<String>,
    /// Delete everything in the warehouse first
    #[arg(long)]
    replace: bool,
}

/// The target of a restore.
#[derive(Debug, PartialEq)]
enum Wanted<'a> {
    Pipeline { pipeline: &'a str, epoch: u64 },
    Warehouse { from: &'a str },
}

impl Args {
    /// Parses the target of the restore. Errors: options of both kinds, or not enough of one. No option is ignored, because
    /// data that it was meant to exclude or protect would be overwritten.
    fn wanted(&self) -> Result<Wanted<'_>> {
        const WAYS: &str = "`weir restore --pipeline p --epoch n` takes one pipeline back; `weir restore --from PLACE` makes a warehouse of a backup, into an \
             empty one or with --replace.";
        let refused = |what: String| Err(Error::config(what).with_hint(WAYS));
        let given =
            |options: [(&str, bool); 3]| options.into_iter().find(|(_, given)| *given).map(|(name, _)| name.to_owned());
        let of_backup =
            given([("--backup", self.backup.is_some()), ("--to", self.to.is_some()), ("--replace", self.replace)]);
        let of_pipeline = given([
            ("--pipeline", self.pipeline.is_some()),
            ("--epoch", self.epoch.is_some()),
            ("an SQL file", !self.files.is_empty()),
        ]);
        match (self.from.as_deref(), self.pipeline.as_deref(), self.epoch) {
            (Some(from), ..) => match of_pipeline {
                Some(option) => refused(format!("{option} does not go with --from, which restores a whole warehouse")),
                None => Ok(Wanted::Warehouse { from }),
            },
            (None, Some(pipeline), Some(epoch)) => match of_backup {
                Some(option) => refused(format!("{option} does not go with --pipeline and --epoch: it needs --from")),
                None => Ok(Wanted::Pipeline { pipeline, epoch }),
            },
            (None, ..) if of_backup.is_some() => refused(format!("{} needs --from", of_backup.unwrap_or_default())),
            (None, Some(_), None) => refused("--pipeline needs --epoch, too".to_owned()),
            (None, None, Some(_)) => refused("--epoch needs --pipeline, too".to_owned()),
            (None, None, None) => refused("nothing to restore is named".to_owned()),
        }
    }
}

/// Restores a whole warehouse, or resets a pipeline. Errors: no such backup; the warehouse is not empty; a file of the
/// backup is missing or damaged.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let from = match args.wanted()? {
        Wanted::Pipeline { pipeline, epoch } => return go_back::run(pipeline, epoch, &args.files, config).await,
        Wanted::Warehouse { from } => from,
    };
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: Args,
    }

    /// The target of the restore, or the refusal.
    fn said(options: &str) -> String {
        let typed = Typed::try_parse_from(std::iter::once("restore").chain(options.split_whitespace())).unwrap();
        match typed.args.wanted() {
            Ok(Wanted::Pipeline { pipeline, epoch }) => format!("{pipeline} to {epoch}"),
            Ok(Wanted::Warehouse { from }) => format!("from {from}"),
            Err(error) => {
                assert!(error.hint().is_some());
                error.message().to_owned()
            }
        }
    }

    #[test]
    fn no_option_is_passed_over() {
        assert_eq!(said("--pipeline p --epoch 3 a.sql b.sql"), "p to 3");
        assert_eq!(said("--from b --backup x --to w --replace"), "from b");
        assert_eq!(said(""), "nothing to restore is named");
        assert_eq!(said("a.sql"), "nothing to restore is named");
        assert_eq!(said("--pipeline p"), "--pipeline needs --epoch, too");
        assert_eq!(said("--epoch 3"), "--epoch needs --pipeline, too");
        for option in ["--backup x", "--to w", "--replace"] {
            let name = option.split(' ').next().unwrap();
            assert_eq!(said(option), format!("{name} needs --from"));
            assert_eq!(said(&format!("--pipeline p {option}")), format!("{name} needs --from"));
            let both = format!("{name} does not go with --pipeline and --epoch: it needs --from");
            assert_eq!(said(&format!("--pipeline p --epoch 3 {option}")), both);
        }
        for (option, name) in [("--pipeline p", "--pipeline"), ("--epoch 3", "--epoch"), ("a.sql", "an SQL file")] {
            let whole = format!("{name} does not go with --from, which restores a whole warehouse");
            assert_eq!(said(&format!("--from b {option}")), whole);
            assert_eq!(said(&format!("--from b --replace {option}")), whole);
        }
    }
}
