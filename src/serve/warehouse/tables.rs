//! Delta tables by location, each at its newest version.
//!
//! Promises never to return a version older than the newest at the time of the call, and to open a version once: later calls
//! cost two HEAD requests (is the version's commit still the same file; does a next one exist).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use object_store::{ObjectMeta, ObjectStoreExt};

use super::location::Location;
use crate::delta::{AsOf, TableVersion, open_version};
use crate::error::{Context, Result};

/// The opened tables, by address.
#[derive(Debug, Default)]
pub struct Tables {
    open: Mutex<BTreeMap<String, Cached>>,
}

#[derive(Debug, Clone)]
struct Cached {
    table: TableVersion,
    commit: Option<CommitTag>,
}

/// Distinguishes commit files of the same version, in case a table was dropped and created again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CommitTag {
    e_tag: Option<String>,
    last_modified: DateTime<Utc>,
    size: u64,
}

impl Tables {
    /// The table at `location` as of `as_of`; `None` if it does not exist.
    pub async fn open(&self, location: &Location, as_of: AsOf) -> Result<Option<TableVersion>> {
        let key = location.place().as_str();
        if as_of == AsOf::Newest
            && let Some(cached) = self.cached(key)
            && is_newest(location, &cached).await?
        {
            return Ok(Some(cached.table));
        }
        if !location.child("_delta_log").exists().await? {
            self.lock().remove(key);
            return Ok(None);
        }
        let table = open_version(location.url(), Arc::clone(location.store()), as_of).await?;
        if as_of == AsOf::Newest {
            let commit = commit_tag(location, table.version).await?;
            self.lock().insert(key.to_owned(), Cached { table: table.clone(), commit });
        }
        Ok(Some(table))
    }

    fn cached(&self, key: &str) -> Option<Cached> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Cached>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn is_newest(location: &Location, cached: &Cached) -> Result<bool> {
    let (same, next) = futures::future::try_join(
        commit_tag(location, cached.table.version),
        commit_tag(location, cached.table.version + 1),
    )
    .await?;
    Ok(next.is_none() && same.is_some() && same == cached.commit)
}

async fn commit_tag(location: &Location, version: u64) -> Result<Option<CommitTag>> {
    let path = location.path().clone().join("_delta_log").join(format!("{version:020}.json"));
    match location.store().head(&path).await {
        Ok(ObjectMeta { e_tag, last_modified, size, .. }) => Ok(Some(CommitTag { e_tag, last_modified, size })),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error).environment(|| format!("log of table `{}` cannot be read", location.place())),
    }
}
