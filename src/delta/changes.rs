//! The changes of one table version, from its log entry: added files, removed files, change-feed files.
//!
//! Promises: a commit is read once and whole; files are in a fixed order. Each reader decides if the change
//! matters to it.

use object_store::ObjectStoreExt;
use serde::Deserialize;

use super::actions::{Add, AddCDCFile, Remove};
use super::damage::damaged_entry;
use super::files::{DataFile, in_order};
use super::log::{entry_path, read_entry_patiently};
use super::store::{TableStore, whole};
use crate::error::{Context, Error, Result};

/// One version's log entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    pub version: u64,
    /// When it was made, milliseconds since 1970 UTC: what the entry says, or when the entry was stored.
    pub timestamp_ms: i64,
    /// Files that came, in order, and whether their rows are new (not only rewritten).
    pub adds: Vec<(DataFile, Newness)>,
    /// Files that went, in order, and whether their rows are gone (not only rewritten).
    pub removes: Vec<(DataFile, Newness)>,
    /// Files of the change feed; if there are any, they say everything that changed.
    pub feed: Vec<DataFile>,
    /// True when the table's columns, properties or protocol may have changed.
    pub table_changed: bool,
}

/// The effect of an action on the table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newness {
    /// Rows come or go.
    Changes,
    /// The same rows in other files.
    Rewrites,
}

impl Commit {
    /// The files whose rows are new.
    pub fn new_files(&self) -> impl Iterator<Item = &DataFile> {
        changing(&self.adds)
    }

    /// When it was made, microseconds since 1970 UTC.
    pub fn micros(&self) -> i64 {
        self.timestamp_ms.saturating_mul(1_000)
    }

    /// The files whose rows are gone.
    pub fn gone_files(&self) -> impl Iterator<Item = &DataFile> {
        changing(&self.removes)
    }

    /// The commit that made `version`; `None` when the log has no such entry (not yet, or not any more).
    pub async fn read(store: &TableStore, version: u64) -> Result<Option<Self>> {
        let Some(entry) = read_entry_patiently(store, version).await? else { return Ok(None) };
        if whole::is_blank(&entry) {
            // Read as a commit without rows, it would be skipped for good.
            whole::check(&entry_path(version), &entry)
                .map_err(|error| damaged_entry(store.location(), version, &error))?;
        }
        let (mut commit, told) = Self::parse(version, &entry)?;
        commit.timestamp_ms = match told {
            Some(timestamp_ms) => timestamp_ms,
            None => {
                let failed = || format!("cannot read log entry {version} of `{}`", store.location());
                let stored = store.object_store().head(&entry_path(version)).await.environment(failed)?;
                stored.last_modified.timestamp_millis()
            }
        };
        Ok(Some(commit))
    }

    fn parse(version: u64, entry: &[u8]) -> Result<(Self, Option<i64>)> {
        let mut commit = Self {
            version,
            timestamp_ms: 0,
            adds: Vec::new(),
            removes: Vec::new(),
            feed: Vec::new(),
            table_changed: false,
        };
        let mut told = None;
        for line in entry.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let action: Action = serde_json::from_slice(line)
                .map_err(|error| Error::damaged(format!("log entry {version} cannot be read")).with_source(error))?;
            if let Some(add) = action.add {
                let newness = newness(add.data_change);
                commit.adds.push((DataFile::of_add(add), newness));
            }
            if let Some(remove) = action.remove {
                let newness = newness(remove.data_change);
                commit.removes.push((DataFile::of_remove(remove), newness));
            }
            commit.feed.extend(action.cdc.map(DataFile::of_cdc));
            commit.table_changed |= action.meta_data.is_some() || action.protocol.is_some();
            told = action.commit_info.and_then(|info| info.in_commit_timestamp.or(info.timestamp)).or(told);
        }
        commit.adds.sort_by(|(a, _), (b, _)| (a.modified_ms, &a.path).cmp(&(b.modified_ms, &b.path)));
        commit.removes.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        in_order(&mut commit.feed);
        Ok((commit, told))
    }
}

fn newness(data_change: bool) -> Newness {
    if data_change { Newness::Changes } else { Newness::Rewrites }
}

fn changing(files: &[(DataFile, Newness)]) -> impl Iterator<Item = &DataFile> {
    files.iter().filter(|(_, newness)| *newness == Newness::Changes).map(|(file, _)| file)
}

/// An action as far as a reader is concerned; others are skipped without being built.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Action {
    add: Option<Add>,
    remove: Option<Remove>,
    cdc: Option<AddCDCFile>,
    meta_data: Option<serde::de::IgnoredAny>,
    protocol: Option<serde::de::IgnoredAny>,
    commit_info: Option<CommitInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CommitInfo {
    in_commit_timestamp: Option<i64>,
    timestamp: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn an_entry_tells_new_rows_from_rewritten_ones() {
        let add = |path: &str, change: bool, time: i64| {
            format!(
                "{{\"add\":{{\"path\":\"{path}\",\"partitionValues\":{{\"day\":\"x\"}},\"size\":9,\"modificationTime\":{time},\
                 \"dataChange\":{change},\"stats\":\"{{\\\"numRecords\\\":5}}\"}}}}\n"
            )
        };
        let entry = [
            "{\"commitInfo\":{\"timestamp\":77,\"operation\":\"WRITE\"}}\n".to_owned(),
            add("b", true, 2),
            add("a%20c", true, 2),
            add("z", false, 1),
            "{\"remove\":{\"path\":\"old\",\"dataChange\":true,\"deletionTimestamp\":3}}\n".to_owned(),
            "{\"cdc\":{\"path\":\"_change_data/1\",\"size\":3,\"partitionValues\":{},\"dataChange\":false}}\n"
                .to_owned(),
            "{\"metaData\":{\"id\":\"x\"}}\n{\"domainMetadata\":{\"domain\":\"d\"}}\n".to_owned(),
        ];
        let (commit, told) = Commit::parse(4, entry.concat().as_bytes()).unwrap();
        assert_eq!(told, Some(77));
        assert_eq!(commit.new_files().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a c", "b"]);
        assert_eq!(commit.adds[0].0.path, "z");
        assert_eq!((commit.adds[1].0.rows, commit.adds[1].0.size), (Some(5), Some(9)));
        assert_eq!(commit.gone_files().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["old"]);
        assert_eq!((commit.feed.len(), commit.table_changed), (1, true));
        assert_eq!(Commit::parse(4, b"{\"add\":").unwrap_err().kind(), ErrorKind::Damaged);
    }
}
