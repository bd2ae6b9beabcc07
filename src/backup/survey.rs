//! Surveys a warehouse: its pipelines, its tables, and the facts from which a [`cut`](super::cut) is chosen.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;

use super::cut::{EpochCommit, Facts, ManifestFacts, PipelineFacts, TableFacts};
use crate::delta::{AppId, Contents, Entry, LoggedEpoch, Table, TableStore, folder_below, logged_epoch, read_entry};
use crate::epoch::{below, pipelines};
use crate::error::{Context, Error, Result};
use crate::source::delta::version_read;
use crate::state::{Epoch, Manifest, ManifestId, ManifestStore};

/// Newest log entries of each table that are searched for epochs.
const TAIL: u64 = 24;

/// Newest manifests of each pipeline that are read, beside those of epochs in tables.
const MANIFESTS: usize = 12;

/// Depth of nested folders that are searched for tables.
const DEPTH: usize = 16;

/// A warehouse, opened for reading.
pub struct Warehouse {
    pub store: TableStore,
}

/// The result of a survey.
pub struct Survey {
    pub facts: Facts,
    /// Locations in manifests, with their folders below the warehouse.
    pub locations: BTreeMap<String, String>,
    /// The manifest objects of each pipeline, with paths below the warehouse.
    pub manifests: BTreeMap<String, Vec<(Epoch, ManifestId, ObjectMeta)>>,
    /// The manifests that were read.
    pub read: BTreeMap<(String, Epoch, ManifestId), Manifest>,
}

impl Warehouse {
    /// The names of the pipelines that have a folder.
    pub async fn pipelines(&self) -> Result<Vec<String>> {
        pipelines(&self.store.object_store(), self.store.location()).await
    }

    /// All tables in folders below the warehouse; folders inside tables are not searched.
    async fn tables(&self) -> Result<BTreeSet<String>> {
        let (mut tables, mut open) = (BTreeSet::new(), vec![String::new()]);
        let store = self.store.object_store();
        while let Some(name) = open.pop() {
            let failed = || format!("cannot list `{name}` in `{}`", self.store.location());
            let prefix = Path::parse(&name).internal(failed)?;
            let listed = store.list_with_delimiter(Some(&prefix)).await.environment(failed)?;
            let folders: Vec<&str> = listed.common_prefixes.iter().filter_map(Path::filename).collect();
            if !name.is_empty() && folders.contains(&"_delta_log") && self.folder(&name)?.is_table().await? {
                tables.insert(name);
                continue;
            }
            let is_hidden = |folder: &str| folder.starts_with('.') || (name.is_empty() && folder == "_weir");
            let below = |folder: &&str| if name.is_empty() { (*folder).to_owned() } else { format!("{name}/{folder}") };
            if name.matches('/').count() < DEPTH {
                open.extend(folders.iter().filter(|folder| !is_hidden(folder)).map(below));
            }
        }
        Ok(tables)
    }

    /// A folder below the warehouse.
    pub fn folder(&self, name: &str) -> Result<TableStore> {
        self.store.child(name)
    }

    /// The folder of a location below the warehouse; `None` for a location outside.
    pub fn below(&self, location: &str) -> Option<String> {
        folder_below(self.store.location(), location).filter(|below| !below.is_empty())
    }

    /// Gathers the facts. Manifests come first: the tables then contain everything that they say was read.
    pub async fn survey(&self) -> Result<Survey> {
        let mut survey = Survey {
            facts: Facts::default(),
            locations: BTreeMap::new(),
            manifests: BTreeMap::new(),
            read: BTreeMap::new(),
        };
        let mut folders: BTreeSet<String> = BTreeSet::new();
        let pipelines = self.pipelines().await?;
        for pipeline in &pipelines {
            let facts = self.manifests(pipeline, &mut survey).await?;
            folders.extend(facts.values().flat_map(|manifest| manifest.tables.iter().cloned()));
            let letters = format!("_weir/{pipeline}/dead_letters");
            if self.folder(&letters)?.is_table().await? {
                folders.insert(letters);
            }
            survey.facts.pipelines.insert(pipeline.clone(), facts);
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
        folders.extend(self.tables().await?);
        let pipelines = &pipelines;
        let tables = futures::stream::iter(folders.into_iter().map(|folder| async move {
            let facts = self.table(&folder, pipelines).await;
            (folder, facts)
        }));
        for (folder, facts) in tables.buffered(8).collect::<Vec<_>>().await {
            match facts {
                Ok(facts) => drop(survey.facts.tables.insert(folder, facts)),
                Err(error) if is_foreign(&folder, &survey) => {
                    tracing::warn!(folder, %error, "a table of no pipeline cannot be read, and so is not in the backup");
                }
                Err(error) => return Err(error),
            }
        }
        self.add_held_manifests(&mut survey).await?;
        Ok(survey)
    }

    /// Reads the manifests of epochs in tables that were not among the newest manifests: tables may have been RESTOREd, and
    /// an epoch may have been committed since.
    async fn add_held_manifests(&self, survey: &mut Survey) -> Result<()> {
        let standings = survey.facts.tables.values().flat_map(|table| table.standing.clone());
        let held: BTreeSet<(String, (Epoch, ManifestId))> = standings.collect();
        for (pipeline, (epoch, id)) in held {
            let is_known = survey.facts.pipelines.get(&pipeline).is_none_or(|known| known.contains_key(&(epoch, id)));
            if is_known {
                continue;
            }
            let folder = self.folder(&format!("_weir/{pipeline}/manifests"))?;
            let Some((manifest, _)) = ManifestStore::new(folder.object_store()).read(epoch, id).await? else {
                continue;
            };
            self.list_manifest(&pipeline, (epoch, id), survey).await?;
            let facts = self.of_manifest(&manifest, survey)?;
            survey.facts.pipelines.entry(pipeline.clone()).or_default().insert((epoch, id), facts);
            survey.read.insert((pipeline, epoch, id), manifest);
        }
        Ok(())
    }

    /// Adds a manifest's file to the listed ones, from which the backup's are taken.
    async fn list_manifest(&self, pipeline: &str, at: (Epoch, ManifestId), survey: &mut Survey) -> Result<()> {
        let known = survey.manifests.entry(pipeline.to_owned()).or_default();
        if known.iter().any(|(epoch, id, _)| (*epoch, *id) == at) {
            return Ok(());
        }
        let folder = self.folder(&format!("_weir/{pipeline}/manifests"))?;
        let failed = || format!("manifests of pipeline `{pipeline}` cannot be listed");
        let listed: Vec<ObjectMeta> = folder.object_store().list(None).try_collect().await.environment(failed)?;
        let is_it = |object: &ObjectMeta| object.location.filename().and_then(ManifestStore::named) == Some(at);
        known.extend(listed.into_iter().find(is_it).map(|object| (at.0, at.1, object)));
        known.sort_by_key(|(epoch, id, _)| (*epoch, *id));
        Ok(())
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
        // Includes tables for which the epoch has no rows.
        for record in manifest.sinks.iter().flatten() {
            let Some(place) = &record.table else { continue };
            let folder = self.folder_of(manifest, &record.name, &place.location)?;
            survey.locations.insert(place.location.clone(), folder);
        }
        for (source, location) in &manifest.reads {
            let offsets = manifest.positions.get(source).into_iter().flatten();
            let version = offsets.filter_map(|(_, offset)| version_read(*offset)).max();
            facts.reads.extend(self.below(location).zip(version));
        }
        Ok(facts)
    }

    /// The folder below the warehouse of a manifest's table, even if the warehouse was moved since. Errors: it is outside.
    fn folder_of(&self, manifest: &Manifest, name: &str, location: &str) -> Result<String> {
        let mut places = manifest.sinks.iter().flatten().filter(|record| record.name == name);
        let path = places.find_map(|record| record.table.as_ref()?.path.as_ref());
        let location = path.map_or_else(|| location.to_owned(), |path| below(self.store.location(), path));
        self.below(&location).ok_or_else(|| {
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

    /// The epochs of pipelines in a table. A RESTORE ends the tail: epochs of earlier entries count only if it brought them
    /// back, and then as of its own version.
    async fn table(&self, folder: &str, pipelines: &[String]) -> Result<TableFacts> {
        let store = self.folder(folder)?;
        let table = Table::open(store.clone()).await?;
        let transactions = table.transactions(AppId::PREFIX).await?;
        let latest = table.version().await;
        let mut facts = TableFacts { latest, tail_from: latest + 1, ..TableFacts::default() };
        let mut entries = futures::stream::iter((latest.saturating_sub(TAIL - 1)..=latest).rev())
            .map(|version| {
                let store = store.clone();
                async move { Ok::<_, Error>((version, read_entry(&store, version).await?)) }
            })
            .buffered(8);
        let mut restored = None;
        // Entries before a checkpoint may have been deleted.
        while let Some((version, Some(entry))) = entries.try_next().await? {
            let entry = Entry::parse(version, &entry)?;
            facts.tail_from = version;
            facts.tail.extend(pipelines.iter().filter_map(|pipeline| commit(version, pipeline, &entry)));
            if entry.restore.is_some() {
                restored = Some(version);
                break;
            }
        }
        // Reads that were started but are no longer awaited would block further ones.
        drop(entries);
        for pipeline in pipelines {
            if logged_epoch(pipeline, |id| transactions.get(id).copied()).and_then(standing).is_none() {
                continue;
            }
            if let Some(newest) = facts.tail.iter().find(|commit| commit.pipeline == *pipeline) {
                facts.standing.insert(pipeline.clone(), (newest.epoch, newest.manifest));
                continue;
            }
            let held = match table.past(pipeline, &transactions).await?.contents {
                Contents::UpTo(held) => held.and_then(standing),
                Contents::Unknown => return Err(unclear(folder, pipeline)),
            };
            let Some((epoch, manifest)) = held else { continue };
            facts.standing.insert(pipeline.clone(), (epoch, manifest));
            let brought_back =
                restored.map(|version| EpochCommit { version, pipeline: pipeline.clone(), epoch, manifest });
            facts.tail.extend(brought_back);
        }
        facts.tail.sort_by_key(|commit| commit.version);
        Ok(facts)
    }
}

/// True for a table that no pipeline writes or reads.
fn is_foreign(folder: &str, survey: &Survey) -> bool {
    let mut manifests = survey.facts.pipelines.values().flat_map(PipelineFacts::values);
    let is_read = manifests.any(|manifest| manifest.reads.iter().any(|(read, _)| read == folder));
    !is_read && !folder.starts_with("_weir/") && !survey.locations.values().any(|written| written == folder)
}

fn unclear(folder: &str, pipeline: &str) -> Error {
    Error::damaged(format!("table `{folder}` does not say which epoch of pipeline `{pipeline}` it holds"))
        .with_detail("It was RESTOREd to a version that its log no longer describes.")
        .with_hint("Take the pipeline to one epoch with `weir restore --pipeline`, then back up again.")
}

/// `None` for epoch 0, which means that the table was reset to before its first epoch.
fn standing((epoch, manifest): LoggedEpoch) -> Option<(Epoch, ManifestId)> {
    let epoch = u64::try_from(epoch).ok().filter(|epoch| *epoch > 0)?;
    Some((Epoch(epoch), ManifestId(manifest?)))
}

/// The pipeline's epoch that a log entry commits.
fn commit(version: u64, pipeline: &str, entry: &Entry) -> Option<EpochCommit> {
    let (epoch, manifest) = logged_epoch(pipeline, |id| entry.txn(id)).and_then(standing)?;
    Some(EpochCommit { version, pipeline: pipeline.to_owned(), epoch, manifest })
}
