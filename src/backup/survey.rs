//! What a warehouse holds: its pipelines, its tables, and the facts that a [`cut`](super::cut) is chosen by.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;

use super::cut::{EpochCommit, Facts, ManifestFacts, PipelineFacts, TableFacts};
use crate::catalog::Secret;
use crate::delta::{Table, TableStore, read_entry};
use crate::epoch::below;
use crate::error::{Context, Error, Result};
use crate::source::delta::version_read;
use crate::state::{Epoch, Manifest, ManifestId, ManifestStore};

/// Log entries of each table that are looked through for epochs.
const TAIL: u64 = 24;

/// Manifests of each pipeline that are read: the newest epochs'.
const MANIFESTS: usize = 12;

/// A warehouse, for reading.
pub struct Warehouse {
    pub store: TableStore,
    pub storage: BTreeMap<String, Secret>,
}

/// What was found.
pub struct Survey {
    pub facts: Facts,
    /// Location in manifests to folder below the warehouse.
    pub locations: BTreeMap<String, String>,
    /// Per pipeline, its manifests' objects, paths below the warehouse.
    pub manifests: BTreeMap<String, Vec<(Epoch, ManifestId, ObjectMeta)>>,
    /// Manifests that were read.
    pub read: BTreeMap<(String, Epoch, ManifestId), Manifest>,
}

impl Warehouse {
    /// The names of the pipelines that have a folder.
    pub async fn pipelines(&self) -> Result<Vec<String>> {
        let listed = self.store.object_store().list_with_delimiter(Some(&Path::from("_weir"))).await;
        let listed = listed.environment(|| format!("cannot list `{}`", self.store.location()))?;
        let names = listed.common_prefixes.iter().filter_map(|folder| folder.filename().map(str::to_owned));
        Ok(names.collect())
    }

    /// A folder below the warehouse.
    pub fn folder(&self, name: &str) -> Result<TableStore> {
        self.store.child(name)
    }

    /// The folder below the warehouse that a location is; `None` for one outside.
    pub fn below(&self, location: &str) -> Result<Option<String>> {
        let store = TableStore::open(location, &self.storage, self.store.env())?;
        let (base, url) = (self.store.url(), store.url());
        if (base.scheme(), base.host_str()) != (url.scheme(), url.host_str()) {
            return Ok(None);
        }
        let below = Path::from_url_path(url.path()).internal(|| format!("bad location `{location}`"))?;
        let base = Path::from_url_path(base.path()).internal(|| "bad warehouse".to_owned())?;
        let parts: Option<Vec<String>> =
            below.prefix_match(&base).map(|parts| parts.map(|part| part.as_ref().to_owned()).collect());
        Ok(parts.map(|parts| parts.join("/")).filter(|below| !below.is_empty()))
    }

    /// Gathers the facts. Manifests come first: what a pipeline has read by then, the tables have.
    pub async fn survey(&self) -> Result<Survey> {
        let mut survey = Survey {
            facts: Facts::default(),
            locations: BTreeMap::new(),
            manifests: BTreeMap::new(),
            read: BTreeMap::new(),
        };
        let mut folders: BTreeSet<String> = BTreeSet::new();
        for pipeline in self.pipelines().await? {
            let facts = self.manifests(&pipeline, &mut survey).await?;
            folders.extend(facts.values().flat_map(|manifest| manifest.tables.iter().cloned()));
            let letters = format!("_weir/{pipeline}/dead_letters");
            if self.folder(&letters)?.is_table().await? {
                folders.insert(letters);
            }
            survey.facts.pipelines.insert(pipeline, facts);
        }
        for folder in survey.locations.values() {
            if folders.contains(folder) {
                continue;
            }
            if self.folder(folder)?.is_table().await? {
                folders.insert(folder.clone());
            } else {
                tracing::warn!(folder, "a table that a pipeline has written is gone, and so not in the backup");
            }
        }
        folders.extend(self.store.tables().await?.into_iter().map(|(name, _)| name));
        let tables = futures::stream::iter(folders.into_iter().map(|folder| async move {
            let facts = self.table(&folder).await?;
            Ok::<_, Error>((folder, facts))
        }));
        survey.facts.tables = tables.buffered(8).try_collect().await?;
        Ok(survey)
    }

    async fn manifests(&self, pipeline: &str, survey: &mut Survey) -> Result<PipelineFacts> {
        let folder = self.folder(&format!("_weir/{pipeline}/manifests"))?;
        let failed = || format!("manifests of pipeline `{pipeline}` cannot be listed");
        let listed: Vec<ObjectMeta> = folder.object_store().list(None).try_collect().await.environment(failed)?;
        let named = listed.into_iter().filter_map(|object| {
            let (epoch, id) = ManifestStore::named(object.location.filename()?)?;
            Some((epoch, id, object))
        });
        let mut named: Vec<_> = named.collect();
        named.sort_by_key(|(epoch, id, _)| (*epoch, *id));
        let store = ManifestStore::new(folder.object_store());
        let mut facts = PipelineFacts::new();
        for (epoch, id, _) in named.iter().rev().take(MANIFESTS) {
            let Some((manifest, _)) = store.read(*epoch, *id).await? else { continue };
            facts.insert((*epoch, *id), self.of_manifest(&manifest, survey)?);
            survey.read.insert((pipeline.to_owned(), *epoch, *id), manifest);
        }
        survey.manifests.insert(pipeline.to_owned(), named);
        Ok(facts)
    }

    fn of_manifest(&self, manifest: &Manifest, survey: &mut Survey) -> Result<ManifestFacts> {
        let mut facts = ManifestFacts::default();
        for table in &manifest.tables {
            let folder = self.folder_of(manifest, &table.name, &table.location)?;
            survey.locations.insert(table.location.clone(), folder.clone());
            facts.tables.push(folder);
        }
        // Also those that the epoch has nothing for.
        for record in manifest.sinks.iter().flatten() {
            let Some(place) = &record.table else { continue };
            let folder = self.folder_of(manifest, &record.name, &place.location)?;
            survey.locations.insert(place.location.clone(), folder);
        }
        for (source, location) in &manifest.reads {
            let offsets = manifest.positions.get(source).into_iter().flatten();
            let version = offsets.filter_map(|(_, offset)| version_read(*offset)).max();
            facts.reads.extend(self.below(location)?.zip(version));
        }
        Ok(facts)
    }

    /// Where a table of a manifest is below the warehouse, which may have been moved. Errors: it is outside.
    fn folder_of(&self, manifest: &Manifest, name: &str, location: &str) -> Result<String> {
        let mut places = manifest.sinks.iter().flatten().filter(|record| record.name == name);
        let path = places.find_map(|record| record.table.as_ref()?.path.as_ref());
        let location = path.map_or_else(|| location.to_owned(), |path| below(self.store.location(), path));
        self.below(&location)?.ok_or_else(|| {
            let (pipeline, warehouse) = (&manifest.pipeline, self.store.location());
            Error::config(format!("table `{name}` lies outside of the warehouse"))
                .with_detail(format!(
                    "Pipeline `{pipeline}` writes it to `{location}`; a backup holds what is below `{warehouse}`."
                ))
                .with_hint(
                    "Move the table into the warehouse, or back up both by other means, with the pipeline stopped.",
                )
        })
    }

    async fn table(&self, folder: &str) -> Result<TableFacts> {
        let store = self.folder(folder)?;
        let table = Table::open(store.clone()).await?;
        let transactions = table.transactions("weir:").await?;
        let latest = table.version().await;
        let standing = epochs(transactions.iter().map(|(id, version)| (id.as_str(), *version)));
        let mut versions = futures::stream::iter((latest.saturating_sub(TAIL - 1)..=latest).rev())
            .map(|version| {
                let store = store.clone();
                async move { Ok::<_, Error>((version, read_entry(&store, version).await?)) }
            })
            .buffered(8);
        let (mut tail, mut tail_from) = (Vec::new(), latest + 1);
        // Entries before a checkpoint may be gone.
        while let Some((version, Some(entry))) = versions.try_next().await? {
            tail_from = version;
            tail.extend(commits(version, &entry));
        }
        tail.reverse();
        Ok(TableFacts { latest, standing, tail, tail_from })
    }
}

/// Epoch and manifest of every pipeline among transactions.
fn epochs<'a>(transactions: impl Iterator<Item = (&'a str, i64)>) -> BTreeMap<String, (Epoch, ManifestId)> {
    let transactions: BTreeMap<&str, i64> = transactions.collect();
    let of = |(id, epoch): (&&str, &i64)| {
        let pipeline = id.strip_prefix("weir:").filter(|pipeline| !pipeline.contains(':'))?;
        let manifest = transactions.get(format!("weir:{pipeline}:manifest").as_str())?;
        Some((pipeline.to_owned(), (Epoch(u64::try_from(*epoch).ok()?), ManifestId(*manifest))))
    };
    transactions.iter().filter_map(of).collect()
}

fn commits(version: u64, entry: &[u8]) -> Vec<EpochCommit> {
    let lines = entry.split(|byte| *byte == b'\n');
    let txns: Vec<(String, i64)> = lines
        .filter(|line| line.starts_with(br#"{"txn""#))
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter_map(|line| Some((line["txn"]["appId"].as_str()?.to_owned(), line["txn"]["version"].as_i64()?)))
        .collect();
    let epochs = epochs(txns.iter().map(|(id, version)| (id.as_str(), *version)));
    let commit = |(pipeline, (epoch, manifest))| EpochCommit { version, pipeline, epoch, manifest };
    epochs.into_iter().map(commit).collect()
}
