//! The manifest of an epoch, and the folder that manifests live in.
//!
//! A manifest is written once, before any sink commits its epoch, and never changed. It holds the offset ranges that were
//! read and, for every Delta table, the exact actions that the epoch commits: files added and, by upserts, files removed and
//! files of the change feed. A crash between two sinks is therefore repaired without recomputing anything: missing commits
//! are made from the manifest.
//!
//! The choice between several manifests of an epoch is made elsewhere: the first sink of the pipeline names the valid one in
//! its commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::pins::Pins;
use super::snapshot::OperatorSnapshot;
use crate::delta::{Add, AddCDCFile, Remove, StagedFiles, UpsertCommit, folder_below};
use crate::error::{Context, Error, Result};
use crate::source::chunk::{Offset, PartitionId, TopicIdentity};
use crate::standing::{CommitPermit, Epoch, ManifestId, Standing};
use crate::time::Watermark;

/// One sink of the pipeline at an epoch: its last commit before, and whether it takes part in the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRecord {
    /// The table's name in the SQL; `kafka` for all exactly-once Kafka sinks together.
    pub name: String,
    /// `None` for Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TablePlace>,
    /// The last epoch before this one in which it took part, with its manifest.
    pub before: Option<Standing>,
    pub takes_part: bool,
}

/// Location of a table, and the length of its log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePlace {
    pub location: String,
    /// The location relative to the warehouse, which may be moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The newest version that the writer of the manifest had seen.
    pub version: u64,
    /// The Delta table's own id; `None` in manifests of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl SinkRecord {
    /// The sink's last commit once `epoch` is committed everywhere.
    pub fn after(&self, epoch: Standing) -> Option<Standing> {
        if self.takes_part { Some(epoch) } else { self.before }
    }
}

impl TablePlace {
    /// `true` if this is the table that is now at `location`, or at `path` relative to the warehouse.
    pub fn is(&self, location: &str, path: Option<&str>) -> bool {
        self.location == location
            || (path.is_some() && self.path.as_deref() == path)
            || folder_below(&self.location, location).is_some_and(|below| below.is_empty())
    }

    /// The place among `known` whose table, with id `found`, is here instead of the one that should be: folders were exchanged, or
    /// one was copied over another. A new id says nothing: other engines give a table that they replace one.
    pub fn exchanged_for<'a>(
        &self,
        found: Option<&str>,
        mut known: impl Iterator<Item = &'a Self>,
    ) -> Option<&'a Self> {
        let (found, own) = (found?, self.id.as_deref()?);
        known.find(|other| found != own && other.id.as_deref() == Some(found))
    }
}

/// `[start, end)` of one source partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRange {
    pub start: Offset,
    pub end: Offset,
}

/// The commit of one Delta table in an epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TableCommit {
    /// The table's name in the SQL.
    pub name: String,
    /// Location of the table.
    pub location: String,
    pub rows: u64,
    pub bytes: u64,
    /// Added files, as written to the Delta log.
    pub adds: Vec<Add>,
    /// Removed files, likewise; this and all fields below are for upserts only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removes: Vec<Remove>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdc: Vec<AddCDCFile>,
    /// The inputs that the files were computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upsert: Option<UpsertCommit>,
}

impl TableCommit {
    /// The commit of the table at `location`.
    pub fn new(name: &str, location: &str, files: StagedFiles) -> Self {
        let StagedFiles { adds, removes, cdc, upsert, rows, bytes } = files;
        Self { name: name.to_owned(), location: location.to_owned(), rows, bytes, adds, removes, cdc, upsert }
    }

    /// The staged files.
    pub fn staged(&self) -> StagedFiles {
        StagedFiles {
            adds: self.adds.clone(),
            removes: self.removes.clone(),
            cdc: self.cdc.clone(),
            upsert: self.upsert.clone(),
            rows: self.rows,
            bytes: self.bytes,
        }
    }
}

/// Everything needed to finish an epoch after a crash, and to begin the next one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout of this object; 1.
    pub format: u32,
    pub pipeline: String,
    pub epoch: Epoch,
    pub id: ManifestId,
    /// The process that wrote it.
    pub run: String,
    /// Milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// Fingerprint of the dataflow that produced the rows.
    pub fingerprint: String,
    /// The offset ranges of this epoch, per source and partition.
    pub ranges: BTreeMap<String, BTreeMap<PartitionId, OffsetRange>>,
    /// The next offset of every partition known so far, per source.
    pub positions: BTreeMap<String, BTreeMap<PartitionId, Offset>>,
    /// Model name to hash.
    pub models: BTreeMap<String, String>,
    /// In commit order.
    pub tables: Vec<TableCommit>,
    /// All sinks of the pipeline, in commit order; `None` in manifests that older versions of weir wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sinks: Option<Vec<SinkRecord>>,
    pub rows_in: u64,
    pub dead_letters: u64,
    /// The operators' state after this epoch.
    #[serde(default)]
    pub state: Vec<OperatorSnapshot>,
    /// Event time after this epoch, per source.
    #[serde(default)]
    pub times: BTreeMap<String, SourceTime>,
    /// The watermark that each operator has reached, by its address.
    #[serde(default)]
    pub watermarks: BTreeMap<String, Watermark>,
    /// The version of each Delta table that rows of this epoch were joined to.
    #[serde(default)]
    pub lookups: BTreeMap<String, u64>,
    /// Location of the Delta table of each source that reads one: a backup must include the data read from it.
    #[serde(default)]
    pub reads: BTreeMap<String, String>,
    /// The topic that a Kafka source's positions belong to; absent in manifests of older versions, which ignore it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub topics: BTreeMap<String, TopicIdentity>,
}

impl Manifest {
    /// The epoch and id that its sinks name in their commits.
    pub fn standing(&self) -> Standing {
        Standing { epoch: self.epoch, manifest: self.id }
    }
}

/// Event time of a source, as recorded in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTime {
    /// The source's watermark.
    pub watermark: Watermark,
    /// The greatest watermark of each partition.
    pub partitions: BTreeMap<PartitionId, Watermark>,
}

impl Default for SourceTime {
    fn default() -> Self {
        Self { watermark: Watermark::NONE, partitions: BTreeMap::new() }
    }
}

/// The object that marks a restore in progress.
const RESTORING: &str = "restoring";

/// The object that names the topics that the pipeline has begun to read.
const TOPICS: &str = "topics.json";

/// The folder of a pipeline's manifests.
#[derive(Debug, Clone)]
pub struct ManifestStore {
    store: Arc<dyn ObjectStore>,
    /// The folder of [`TOPICS`].
    beside: Arc<dyn ObjectStore>,
    pins: Option<Pins>,
}

impl ManifestStore {
    /// Manifests at the root of `store`, which must make a write durable before it returns.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { beside: Arc::clone(&store), store, pins: None }
    }

    /// The same manifests, with `topics.json` in `folder`.
    #[must_use]
    pub fn beside(self, folder: Arc<dyn ObjectStore>) -> Self {
        Self { beside: folder, ..self }
    }

    /// The same manifests; none is removed while a pin holds.
    #[must_use]
    pub fn pinned_by(self, pins: Pins) -> Self {
        Self { pins: Some(pins), ..self }
    }

    fn path(epoch: Epoch, id: ManifestId) -> Path {
        Path::from(format!("{:020}-{id}.json", epoch.0))
    }

    /// Parses the epoch and the id from a manifest's name.
    pub fn named(name: &str) -> Option<(Epoch, ManifestId)> {
        let (epoch, id) = name.strip_suffix(".json")?.split_once('-')?;
        Some((Epoch(epoch.parse().ok()?), ManifestId(i64::from_str_radix(id, 16).ok()?)))
    }

    /// Writes a manifest durably. Repeating is harmless, since the name holds the id; the store retries by itself.
    pub async fn write(&self, manifest: &Manifest) -> Result<CommitPermit> {
        let path = Self::path(manifest.epoch, manifest.id);
        let bytes = serde_json::to_vec(manifest).internal(|| "manifest cannot be encoded".to_owned())?;
        let written = self.store.put(&path, bytes.into()).await;
        written.environment(|| format!("manifest `{path}` cannot be written"))?;
        Ok(CommitPermit::of_durable(manifest.epoch, manifest.id))
    }

    /// The manifest of `epoch` with `id`; `None` when it does not exist. Errors: damaged content.
    pub async fn read(&self, epoch: Epoch, id: ManifestId) -> Result<Option<(Manifest, CommitPermit)>> {
        let path = Self::path(epoch, id);
        let got = match self.store.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = match got {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => {
                return Err(Error::environment(format!("manifest `{path}` cannot be read")).with_source(error));
            }
        };
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| {
            Error::damaged(format!("manifest `{path}` is damaged")).with_source(error).with_hint(
                "Restore the file from a backup; without it the pipeline cannot tell what its last epoch wrote.",
            )
        })?;
        if manifest.format > 1 {
            return Err(Error::damaged(format!("manifest `{path}` has format {}, and 1 is read", manifest.format))
                .with_detail("A newer version of weir wrote it.")
                .with_hint("Run that version, or go back to a backup that was made before it ran."));
        }
        if manifest.format != 1 || manifest.epoch != epoch || manifest.id != id {
            return Err(Error::damaged(format!("manifest `{path}` does not hold what its name says")));
        }
        Ok(Some((manifest, CommitPermit::of_durable(epoch, id))))
    }

    /// The epochs and ids of all manifests, oldest first.
    pub async fn list(&self) -> Result<Vec<Standing>> {
        let listed: Vec<_> =
            self.store.list(None).try_collect().await.environment(|| "manifests cannot be listed".to_owned())?;
        let mut found: Vec<(Standing, chrono::DateTime<chrono::Utc>)> = listed
            .iter()
            .filter_map(|object| {
                let (epoch, manifest) = Self::named(object.location.filename()?)?;
                Some((Standing { epoch, manifest }, object.last_modified))
            })
            .collect();
        found.sort_by_key(|(standing, modified)| (standing.epoch, *modified));
        Ok(found.into_iter().map(|(standing, _)| standing).collect())
    }

    /// The manifest of the newest epoch that has one. For display, not for recovery: its epoch may not be committed.
    pub async fn newest(&self) -> Result<Option<Manifest>> {
        let Some(newest) = self.list().await?.pop() else { return Ok(None) };
        Ok(self.read(newest.epoch, newest.manifest).await?.map(|(manifest, _)| manifest))
    }

    /// Removes manifests of epochs before `keep_from`; their epochs are committed everywhere.
    pub async fn remove_before(&self, keep_from: Epoch) -> Result<usize> {
        if let Some(pins) = &self.pins
            && pins.any().await?
        {
            return Ok(0);
        }
        let mut removed = 0;
        for old in self.list().await?.into_iter().filter(|manifest| manifest.epoch < keep_from) {
            let path = Self::path(old.epoch, old.manifest);
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => removed += 1,
                Err(error) => tracing::warn!(%path, %error, "old manifest stays"),
            }
        }
        Ok(removed)
    }

    /// The topics that the pipeline has begun to read, by source. Used for sources without an entry in a manifest, since a
    /// run may die before its first one. Damaged content counts as none.
    pub async fn topics(&self) -> Result<BTreeMap<String, TopicIdentity>> {
        let failed = || "the names of the topics cannot be read".to_owned();
        let bytes = match self.beside.get(&Path::from(TOPICS)).await {
            Ok(found) => found.bytes().await.environment(failed)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error).environment(failed),
        };
        Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "`topics.json` of a pipeline is damaged, and left aside");
            BTreeMap::new()
        }))
    }

    /// Records durably that the pipeline begins to read these topics.
    pub async fn write_topics(&self, topics: &BTreeMap<String, TopicIdentity>) -> Result<()> {
        let bytes = serde_json::to_vec(topics).internal(|| "the names of topics cannot be encoded".to_owned())?;
        let written = self.beside.put(&Path::from(TOPICS), bytes.into()).await;
        written.environment(|| "the names of the topics that are read cannot be written".to_owned())?;
        Ok(())
    }

    /// The target epoch of an unfinished restore; 0 if the mark is unreadable.
    pub async fn restoring(&self) -> Result<Option<Epoch>> {
        let failed = || "the mark of a restore cannot be read".to_owned();
        let bytes = match self.store.get(&Path::from(RESTORING)).await {
            Ok(found) => found.bytes().await.environment(failed)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error).environment(failed),
        };
        let epoch = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
        Ok(Some(Epoch(epoch.unwrap_or(0))))
    }

    /// Records durably that a restore to `epoch` has begun: until it ends, nothing else may run.
    pub async fn begin_restore(&self, epoch: Epoch) -> Result<()> {
        let written = self.store.put(&Path::from(RESTORING), epoch.to_string().into()).await;
        written.environment(|| "the mark of a restore cannot be written".to_owned())?;
        Ok(())
    }

    /// Removes the mark of a restore.
    pub async fn end_restore(&self) -> Result<()> {
        match self.store.delete(&Path::from(RESTORING)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error).environment(|| "the mark of a restore cannot be removed".to_owned()),
        }
    }

    /// Removes manifests of epochs after `last`, to which the pipeline was restored. Errors: one cannot be removed.
    pub async fn remove_after(&self, last: Epoch) -> Result<()> {
        // Newest first: if this ends early, the remaining manifests still show that later epochs were committed.
        for later in self.list().await?.into_iter().rev().filter(|manifest| manifest.epoch > last) {
            let path = Self::path(later.epoch, later.manifest);
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error).environment(|| format!("manifest `{path}` cannot be removed")),
            }
        }
        Ok(())
    }
}
