//! Why a table's log cannot be read, found out after it could not.
//!
//! Promises: nothing is looked at while all is well. A damaged log is an error of kind `Damaged` that names the file and the
//! remedy. What is mended is what the protocol lets be absent: `_last_checkpoint`, a hint, is removed where it names a checkpoint that
//! does not exist, and a checkpoint that cannot be read is set aside where the log's entries say the same. Then the log is read without it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor as KernelDescriptor;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use serde::Deserialize;

use super::judge::Entry;
use super::store::TableStore;
use super::store::whole::PUT_BACK;
use crate::error::{Context, Error, ErrorKind, Result};

/// The consequence of damage that nothing in the table makes good.
pub(super) const RESTORE: &str = "Put the file back from a backup, or bring all tables of the pipeline back to an epoch before it with `weir restore`.";

/// Compacted entries that begin this far before the newest version are looked at.
const COMPACTED: u64 = 1_000;

/// Checkpoints that are looked at, the newest first.
const LOOKED_AT: usize = 10;

/// The last version of compacted entries, `<from>.<to>.compacted.json`.
pub fn compacted_to(name: &str) -> Option<u64> {
    let (from, to) = name.strip_suffix(".compacted.json")?.split_once('.')?;
    from.parse::<u64>().ok().and(to.parse().ok())
}

/// A table's `_delta_log`.
pub struct LogFolder {
    store: Arc<dyn ObjectStore>,
    log: Path,
    /// Of the table, for messages.
    location: String,
}

/// Files that the folder lists.
#[derive(Default)]
struct Listed {
    entries: BTreeSet<u64>,
    checkpoints: BTreeSet<u64>,
    /// Names of checkpoint files.
    files: Vec<String>,
}

impl LogFolder {
    /// The log of the table in `folder` of `store`.
    pub fn new(store: Arc<dyn ObjectStore>, folder: &Path, location: impl fmt::Display) -> Self {
        Self { store, log: folder.clone().join("_delta_log"), location: location.to_string() }
    }

    /// `found`, what reading the log gave, or the error that says what is wrong with the log.
    pub async fn explained<T>(&self, found: Result<T>) -> Result<T> {
        match found {
            Err(error) => {
                let told = std::error::Error::source(&error).and_then(Error::behind);
                let told = told.filter(|told| told.kind() == ErrorKind::Damaged);
                if told.is_none() && !may_be_damage(&error) {
                    return Err(error);
                }
                Err(match (self.damage().await, told) {
                    (Some(damage), None) => damage.with_source(error),
                    (Some(damage), Some(_)) | (None, Some(damage)) => damage,
                    (None, None) => error,
                })
            }
            found => found,
        }
    }

    /// Errors: entries up to a version after `newest` were compacted into one file, and they themselves are gone. Readers take versions from
    /// entries alone, so the table would silently be an older one.
    pub async fn refuse_gap(&self, newest: u64) -> Result<()> {
        let failed = || format!("cannot list the log of table `{}`", self.location);
        let offset = self.log.clone().join(format!("{:020}", newest.saturating_sub(COMPACTED)));
        let mut objects = self.store.list_with_offset(Some(&self.log), &offset);
        let mut compacted = None;
        while let Some(object) = objects.try_next().await.environment(failed)? {
            let name = object.location.filename().unwrap_or_default();
            if name == format!("{:020}.json", newest + 1) {
                // Another writer has committed since.
                return Ok(());
            }
            if compacted_to(name).is_some_and(|last| last > newest) {
                compacted = Some(name.to_owned());
            }
        }
        match compacted {
            Some(name) => {
                let missing = self.gap(newest + 1, newest, None);
                Err(missing.with_detail(format!("`_delta_log/{name}` holds later entries than {newest}.")))
            }
            None => Ok(()),
        }
    }

    /// Removes one thing that is damaged and that the log is complete without; true if so: then it is worth reading again.
    pub async fn mend(&self) -> bool {
        let Ok(listed) = self.list().await else { return false };
        self.remove_hint(&listed).await || self.set_checkpoint_aside(&listed).await
    }

    /// Removes `_last_checkpoint` if there is no checkpoint as it says.
    async fn remove_hint(&self, listed: &Listed) -> bool {
        #[derive(Deserialize)]
        struct Hint {
            version: u64,
            parts: Option<usize>,
        }
        let path = self.log.clone().join("_last_checkpoint");
        let Ok(Some(bytes)) = self.get(&path).await else { return false };
        let exists = |hint: Hint| {
            let prefix = format!("{:020}.checkpoint.", hint.version);
            let files = listed.files.iter().filter(|name| name.starts_with(&prefix)).count();
            files > 0 && hint.parts.is_none_or(|parts| parts == files)
        };
        if serde_json::from_slice::<Hint>(&bytes).ok().is_some_and(exists) {
            return false;
        }
        // Should another writer have replaced it meanwhile, readers are slower until its next checkpoint, and no more.
        let removed = self.store.delete(&path).await;
        let (file, table) = (path.as_ref(), &self.location);
        match removed {
            Ok(()) => tracing::warn!(file, table, "removed a hint that named a checkpoint that does not exist"),
            Err(ref error) => tracing::warn!(file, table, %error, "cannot remove a hint that names no checkpoint"),
        }
        removed.is_ok()
    }

    /// Gives a checkpoint that cannot be read a name that readers pass over, if an older one, or the log from its beginning, and the
    /// entries since are there.
    async fn set_checkpoint_aside(&self, listed: &Listed) -> bool {
        let Some(newest) = listed.entries.last() else { return false };
        for at in listed.checkpoints.iter().rev().take(LOOKED_AT) {
            let Some((name, bytes, error)) = self.damaged_part(listed, *at).await else { continue };
            let mut from = 0;
            for older in listed.checkpoints.range(..at).rev() {
                if self.damaged_part(listed, *older).await.is_none() {
                    from = older + 1;
                    break;
                }
            }
            if !(from..=*newest).all(|version| listed.entries.contains(&version)) {
                return false;
            }
            let (path, aside) = (self.log.clone().join(name), self.log.clone().join(format!("_damaged.{name}")));
            let moved = match self.store.put(&aside, bytes.into()).await {
                Ok(_) => self.store.delete(&path).await,
                Err(error) => Err(error),
            };
            let (file, aside, table) = (path.as_ref(), aside.as_ref(), &self.location);
            match moved {
                Ok(()) => {
                    tracing::warn!(file, aside, table, %error, "set a damaged checkpoint aside: the log is complete without it");
                }
                Err(ref error) => tracing::warn!(file, table, %error, "cannot set a damaged checkpoint aside"),
            }
            return moved.is_ok();
        }
        false
    }

    /// A file of the checkpoint at version `at` that cannot be decoded, with its bytes and why.
    async fn damaged_part<'a>(&self, listed: &'a Listed, at: u64) -> Option<(&'a str, Bytes, ParquetError)> {
        let prefix = format!("{at:020}.checkpoint.");
        for name in listed.files.iter().filter(|name| name.starts_with(&prefix) && name.ends_with(".parquet")) {
            // One that the store does not give says nothing about what is in it.
            let Ok(Some(bytes)) = self.get(&self.log.clone().join(name.as_str())).await else { continue };
            if let Err(error) = read_all(bytes.clone()) {
                return Some((name, bytes, error));
            }
        }
        None
    }

    async fn list(&self) -> object_store::Result<Listed> {
        let mut listed = Listed::default();
        let mut objects = self.store.list(Some(&self.log));
        while let Some(object) = objects.try_next().await? {
            let Some(name) = object.location.filename() else { continue };
            let Some(version) = name.get(..20).and_then(|digits| digits.parse().ok()) else { continue };
            match &name[20..] {
                ".json" => drop(listed.entries.insert(version)),
                rest if rest.starts_with(".checkpoint.") => {
                    listed.checkpoints.insert(version);
                    listed.files.push(name.to_owned());
                }
                _ => {}
            }
        }
        listed.files.sort();
        Ok(listed)
    }

    async fn get(&self, path: &Path) -> object_store::Result<Option<Bytes>> {
        match self.store.get(path).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn damage(&self) -> Option<Error> {
        let listed = self.list().await.ok()?;
        let newest = *listed.entries.last()?;
        let base = listed.checkpoints.last().copied();
        let first = base.map_or(0, |base| base + 1);
        if let Some(missing) = (first..newest).find(|version| !listed.entries.contains(version)) {
            return Some(self.gap(missing, newest, base));
        }
        for version in first..=newest {
            match self.get(&self.log.clone().join(format!("{version:020}.json"))).await {
                Ok(bytes) => {
                    if let Err(error) = Entry::parse(version, &bytes?) {
                        return Some(damaged_entry(&self.location, version, &error));
                    }
                }
                Err(error) => {
                    Error::behind(&error)?;
                    return Some(damaged_entry(&self.location, version, &error));
                }
            }
        }
        if let Some((name, _, error)) = self.damaged_part(&listed, base?).await {
            return Some(self.bad_checkpoint(name, &listed, base?, newest).with_source(error));
        }
        self.stuck_hint(&listed).await
    }

    /// A hint that names no checkpoint and could not be removed.
    async fn stuck_hint(&self, listed: &Listed) -> Option<Error> {
        let bytes = self.get(&self.log.clone().join("_last_checkpoint")).await.ok()??;
        let version =
            serde_json::from_slice::<serde_json::Value>(&bytes).ok().and_then(|hint| hint["version"].as_u64());
        let stale = version.is_none_or(|version| !listed.checkpoints.contains(&version));
        let error = self.named("the pointer", "_last_checkpoint");
        stale.then(|| {
            error
                .with_detail("It names a checkpoint that does not exist, and could not be removed.")
                .with_hint("Delete the file: it is a hint, and the log is complete without it.")
        })
    }

    fn named(&self, what: &str, name: &str) -> Error {
        Error::damaged(format!("{what} `_delta_log/{name}` of the table at `{}` is damaged", self.location))
    }

    fn gap(&self, missing: u64, newest: u64, base: Option<u64>) -> Error {
        let base = base.map_or_else(|| "there is no checkpoint".to_owned(), |at| format!("the checkpoint is at {at}"));
        Error::damaged(format!(
            "log entry `_delta_log/{missing:020}.json` of the table at `{}` is missing",
            self.location
        ))
        .with_detail(format!("Entries lead up to {newest}, and {base}."))
        .with_hint(PUT_BACK)
    }

    fn bad_checkpoint(&self, name: &str, listed: &Listed, at: u64, newest: u64) -> Error {
        let older = listed.checkpoints.iter().rev().find(|version| **version < at).copied();
        let from = older.map_or(0, |version| version + 1);
        let complete = (from..=newest).all(|version| listed.entries.contains(&version));
        self.named("checkpoint", name).with_hint(match complete {
            true => "Delete it and `_last_checkpoint` beside it: the log's other files say the same, and weir writes a new one.",
            false => RESTORE,
        })
    }
}

/// The error of a log entry that is not whole, or means nothing.
pub fn damaged_entry(location: &str, version: u64, error: &(dyn std::error::Error + 'static)) -> Error {
    let named =
        Error::damaged(format!("log entry `_delta_log/{version:020}.json` of the table at `{location}` is damaged"));
    let detail = Error::behind(error).and_then(|reason| reason.detail().map(str::to_owned));
    named.with_detail(detail.unwrap_or_else(|| format!("{error}."))).with_hint(PUT_BACK)
}

/// Why the data file at `path`, which the log says has `size` bytes, cannot be read.
pub async fn unreadable_file(store: &TableStore, path: &Path, size: Option<u64>, error: ParquetError) -> Error {
    let found = store.object_store().head(path).await.map(|object| object.size);
    let (file, location) = (path.as_ref(), store.location());
    let damage = match found {
        Err(object_store::Error::NotFound { .. }) => format!("file `{file}` of the table at `{location}` is missing"),
        Ok(found) if size.is_some_and(|size| size != found) => {
            let size = size.unwrap_or_default();
            format!("file `{file}` of the table at `{location}` has {found} bytes, not {size}")
        }
        Ok(_) => return damaged_file(location, file, error),
        Err(_) => return Error::environment(format!("cannot read file `{file}` of `{location}`")).with_source(error),
    };
    Error::damaged(damage).with_hint(RESTORE).with_source(error)
}

/// The error of a data file that was opened and then cannot be read on.
pub fn damaged_file(location: &str, file: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(_) => {
            Error::environment(format!("cannot read file `{file}` of `{location}`")).with_source(error)
        }
        _ => Error::damaged(format!("file `{file}` of the table at `{location}` is damaged"))
            .with_hint(RESTORE)
            .with_source(error),
    }
}

/// Why the deletion vector of the data file `file` cannot be read.
pub fn unreadable_vector(
    store: &TableStore,
    file: &str,
    vector: &KernelDescriptor,
    error: delta_kernel::Error,
) -> Error {
    let url = vector.absolute_path(store.url()).ok().flatten();
    let name = url.and_then(|url| url.path_segments()?.next_back().map(str::to_owned));
    let name = name.map_or_else(|| "its log entry".to_owned(), |name| format!("`{name}`"));
    let (what, location) = (format!("the deletion vector of file `{file}`, in {name},"), store.location());
    match error {
        delta_kernel::Error::ObjectStore(_) | delta_kernel::Error::IOError(_) => {
            Error::environment(format!("{what} cannot be read at `{location}`")).with_source(error)
        }
        delta_kernel::Error::FileNotFound(_) => {
            Error::damaged(format!("{what} is missing at `{location}`")).with_hint(RESTORE).with_source(error)
        }
        _ => Error::damaged(format!("{what} is damaged at `{location}`")).with_hint(RESTORE).with_source(error),
    }
}

/// `true` if it is worth looking at the log: it has no part in mistakes of a user.
fn may_be_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Environment | ErrorKind::Damaged | ErrorKind::Internal)
}

fn read_all(bytes: Bytes) -> Result<(), ParquetError> {
    for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
        batch?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
