//! The facts that a start decides from: asks every sink, reads the newest epoch's manifest, looks at the files it names.
//!
//! Nothing is decided or changed here.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::protocol::{Before, Facts, Held, Role, SinkFact, SinkKind, newest};
use super::sinks::{Sinks, TableSink};
use super::standings::KAFKA;
use crate::delta::{Contents, LoggedEpoch, PipelinePast, Table, TableStore, WriterOptions};
use crate::env::Env;
use crate::error::Result;
use crate::source::chunk::TopicIdentity;
use crate::state::{
    CommitPermit, Epoch, Manifest, ManifestId, ManifestStore, SinkRecord, Standing, TableCommit, TablePlace,
};

/// The findings of a start.
pub struct Survey {
    pub facts: Facts,
    /// Of the newest epoch that any sink holds.
    pub manifest: Option<(Manifest, CommitPermit)>,
    /// `txn` actions of the pipeline, in the order of [`Sinks::tables`].
    pub transactions: Vec<BTreeMap<String, i64>>,
    /// Tables that took part in the newest epoch and that the SQL no longer names. Their facts come last.
    pub undeclared: Vec<TableSink>,
    /// Files that the manifest names and that do not exist, with the table's name.
    pub missing: Vec<String>,
    /// The topics that were read, as a table's commit of the newest epoch says.
    pub topics: BTreeMap<String, TopicIdentity>,
    /// `weir restore --epoch` needs the SQL: there are Kafka sinks, or tables outside of the warehouse.
    pub restore_needs_sql: bool,
}

/// A table and what its log shows.
struct Looked {
    past: PipelinePast,
    location: String,
}

/// Asks everything that a pipeline's start depends on.
pub async fn survey(
    pipeline: &str,
    sinks: &Sinks,
    manifests: &ManifestStore,
    env: &Env,
    may_lack: bool,
) -> Result<Survey> {
    let listed = manifests.list().await?;
    let mut facts = Facts {
        sinks: Vec::new(),
        manifest_exists: false,
        state_exists: true,
        newest_manifest: listed.last().map(|manifest| manifest.epoch),
        next_is_in_kafka: false,
        restoring: manifests.restoring().await?,
        vanished: Vec::new(),
        may_lack,
    };
    if let Some(producer) = &sinks.transaction {
        facts.sinks.push(kafka_fact(producer.committed_epoch().await?));
    }
    let (mut transactions, mut looked) = (Vec::new(), Vec::new());
    for sink in &sinks.tables {
        let (found, past) = look(pipeline, &sink.table).await?;
        facts.sinks.push(table_fact(&sink.name, &past));
        transactions.push(found);
        looked.push(Looked { past, location: sink.location.clone() });
    }
    let after = newest(&facts.sinks);
    let manifest = match after {
        Some(after) => manifests.read(after.epoch, after.manifest).await?,
        None => None,
    };
    facts.manifest_exists = manifest.is_some();
    if let Some(fact) = facts.sinks.first().filter(|fact| fact.kind == SinkKind::Kafka)
        && fact.held == Held::Unknown
    {
        facts.next_is_in_kafka = is_in_kafka(manifests, &listed, after).await;
    }
    let mut survey = Survey {
        facts,
        manifest,
        transactions,
        undeclared: Vec::new(),
        missing: Vec::new(),
        topics: BTreeMap::new(),
        restore_needs_sql: sinks.restore_needs_sql(),
    };
    if let Some(after) = after {
        survey.topics = told(&looked, after, "topics").unwrap_or_default();
        let records = records(&survey, &looked, after);
        survey.assign_roles(sinks, &looked, records.as_deref());
        survey.find_moved(sinks, records.as_deref().unwrap_or_default(), after);
        survey.add_undeclared(pipeline, sinks, env, records.unwrap_or_default()).await?;
        survey.look_for_files(sinks, after).await;
    }
    Ok(survey)
}

impl Survey {
    /// Gives each declared sink its role by the newest epoch's manifest, or else by a table's commit.
    fn assign_roles(&mut self, sinks: &Sinks, looked: &[Looked], records: Option<&[SinkRecord]>) {
        let mut tables = looked.iter();
        let manifest = self.manifest.as_ref().map(|(manifest, _)| manifest);
        for fact in &mut self.facts.sinks {
            let (place, version) = match fact.kind {
                SinkKind::Kafka => (None, 0),
                SinkKind::Table => match tables.next() {
                    Some(looked) => (Some(looked.location.as_str()), looked.past.version),
                    None => continue,
                },
            };
            match (records, manifest) {
                (Some(records), _) => {
                    let record = records.iter().find(|record| match (&record.table, place) {
                        (Some(table), Some(location)) => table.is(location, sinks.home.path_of(location).as_deref()),
                        (None, None) => true,
                        _ => false,
                    });
                    fact.role = record.map_or(Role::Joins { moved: false }, role);
                    let known = record.and_then(|record| record.table.as_ref()).map_or(0, |table| table.version);
                    fact.log_is_behind = known > version;
                }
                (None, Some(manifest)) => {
                    let commit = place.and_then(|location| unrecorded_commit(manifest, &fact.sink, location));
                    fact.role = match commit {
                        Some(_) => Role::TakesPart(Before::NotRecorded),
                        None => Role::Aside(Before::NotRecorded),
                    };
                    let read = commit.and_then(|commit| commit.upsert.as_ref()).map_or(0, |upsert| upsert.read_version);
                    fact.log_is_behind = read > version;
                }
                (None, None) => fact.role = Role::NotRecorded,
            }
        }
    }

    /// A table that joins may be one that the SQL names by another LOCATION now. Then it holds what that one should.
    fn find_moved(&mut self, sinks: &Sinks, records: &[SinkRecord], after: Standing) {
        let home = &sinks.home;
        let is_left = |record: &&SinkRecord| {
            let declared = |place: &TablePlace, sink: &TableSink| {
                place.is(&sink.location, home.path_of(&sink.location).as_deref())
            };
            record.table.as_ref().is_some_and(|place| !sinks.tables.iter().any(|sink| declared(place, sink)))
        };
        let holds = |record: &SinkRecord| if record.takes_part { Some(after) } else { record.before };
        let left: Vec<Standing> = records.iter().filter(is_left).filter_map(holds).collect();
        for fact in &mut self.facts.sinks {
            if let (Role::Joins { moved }, Held::UpTo(held)) = (&mut fact.role, fact.held) {
                *moved = left.contains(&held);
            }
        }
    }

    /// Tables that take part in the newest epoch and that an edit of the SQL has dropped since: they are owed it all the same.
    async fn add_undeclared(
        &mut self,
        pipeline: &str,
        sinks: &Sinks,
        env: &Env,
        records: Vec<SinkRecord>,
    ) -> Result<()> {
        let mut records = records;
        let unrecorded_manifest = self.manifest.as_ref().filter(|(manifest, _)| manifest.sinks.is_none());
        let is_unrecorded = unrecorded_manifest.is_some();
        if let Some((manifest, _)) = unrecorded_manifest {
            records = manifest.tables.iter().map(unrecorded).collect();
        }
        let home = &sinks.home;
        for record in records.iter().filter(|record| record.takes_part) {
            let Some(place) = &record.table else { continue };
            let is_declared = |sink: &TableSink| {
                place.is(&sink.location, home.path_of(&sink.location).as_deref())
                    || (is_unrecorded && sink.name == record.name)
            };
            if sinks.tables.iter().any(is_declared) {
                continue;
            }
            let location = home.location_of(place);
            let store = TableStore::open(&location, &home.storage, env)?;
            if !store.is_table().await? {
                tracing::warn!(pipeline, table = record.name, location, "a table that the SQL no longer names is gone");
                if !self.is_known_complete(&record.name, &records) && !self.has_moved(&record.name, sinks).await {
                    self.facts.vanished.push(format!("{} at {location}", record.name));
                }
                continue;
            }
            let table = Table::open(store).await?;
            let (_, past) = look(pipeline, &table).await?;
            let before = if is_unrecorded { Before::NotRecorded } else { Before::Known(record.before) };
            // The SQL may name another table like it.
            let name = format!("{} at {location}", record.name);
            let mut fact = table_fact(&name, &past);
            (fact.role, fact.log_is_behind) = (Role::TakesPart(before), place.version > past.version);
            self.facts.sinks.push(fact);
            self.undeclared.push(TableSink { name, location, table, options: WriterOptions::default(), upsert: None });
        }
        Ok(())
    }

    /// True if a table that joins, with the newest epoch, is the one of this name elsewhere: it has the epoch's files.
    async fn has_moved(&self, name: &str, sinks: &Sinks) -> bool {
        let Some((manifest, _)) = &self.manifest else { return false };
        let Some(commit) = manifest.tables.iter().find(|commit| commit.name == name) else { return false };
        let after = Held::UpTo(Standing { epoch: manifest.epoch, manifest: manifest.id });
        let tables = self.facts.sinks.iter().filter(|fact| fact.kind == SinkKind::Table).zip(&sinks.tables);
        for (fact, sink) in tables {
            let joins = matches!(fact.role, Role::Joins { .. }) && fact.held == after;
            if joins && sink.table.missing_files(&commit.adds).await.is_empty() {
                return true;
            }
        }
        false
    }

    /// Tables commit in the order of the records: one that holds the newest epoch shows that those before it have it.
    fn is_known_complete(&self, name: &str, records: &[SinkRecord]) -> bool {
        let Some(after) = newest(&self.facts.sinks) else { return false };
        let later = records.iter().skip_while(|record| record.name != name).skip(1);
        let has = |record: &SinkRecord| {
            let named = |fact: &&SinkFact| fact.sink == record.name && !matches!(fact.role, Role::Joins { .. });
            self.facts.sinks.iter().find(named).is_some_and(|fact| fact.held == Held::UpTo(after))
        };
        later.filter(|record| record.takes_part && record.table.is_some()).any(has)
    }

    /// Looks for the files that tables lack which lack the newest epoch.
    async fn look_for_files(&mut self, sinks: &Sinks, after: Standing) {
        let Some((manifest, _)) = &self.manifest else { return };
        let tables = self.facts.sinks.iter_mut().filter(|fact| fact.kind == SinkKind::Table);
        for (fact, sink) in tables.zip(sinks.tables.iter().chain(&self.undeclared)) {
            if fact.held == Held::UpTo(after) {
                continue;
            }
            let Some(commit) = commit_of(manifest, sink, sinks) else { continue };
            let gone = sink.table.missing_files(&commit.adds).await;
            fact.files_exist = gone.is_empty();
            self.missing.extend(gone.into_iter().map(|path| format!("{}/{path}", sink.location)));
        }
    }
}

/// The commit of `manifest` to a table.
pub fn commit_of<'a>(manifest: &'a Manifest, sink: &TableSink, sinks: &Sinks) -> Option<&'a TableCommit> {
    if manifest.sinks.is_none() {
        return unrecorded_commit(manifest, &sink.name, &sink.location);
    }
    let path = sinks.home.path_of(&sink.location);
    let place = |commit: &TableCommit| {
        let record = manifest.sinks.iter().flatten().find(|record| record.name == commit.name);
        record.and_then(|record| record.table.clone())
    };
    manifest.tables.iter().find(|commit| {
        commit.location == sink.location || place(commit).is_some_and(|place| place.is(&sink.location, path.as_deref()))
    })
}

/// The same in a manifest of an older version, which does not say where a table is below the warehouse: if it is not where
/// it was, the warehouse was moved, and the table is known by its name.
fn unrecorded_commit<'a>(manifest: &'a Manifest, name: &str, location: &str) -> Option<&'a TableCommit> {
    let mut tables = manifest.tables.iter();
    tables.clone().find(|table| table.location == location).or_else(|| tables.find(|table| table.name == name))
}

async fn look(pipeline: &str, table: &Table) -> Result<(BTreeMap<String, i64>, PipelinePast)> {
    let found = table.transactions("weir").await?;
    let past = table.past(pipeline, &found).await?;
    Ok((found, past))
}

fn kafka_fact(committed: Option<(u64, i64)>) -> SinkFact {
    let held = match committed {
        None => Held::Unknown,
        Some((0, _)) => Held::Nothing,
        Some((epoch, manifest)) => Held::UpTo(Standing { epoch: Epoch(epoch), manifest: ManifestId(manifest) }),
    };
    SinkFact { kind: SinkKind::Kafka, ..fact(KAFKA, held, None) }
}

fn table_fact(name: &str, past: &PipelinePast) -> SinkFact {
    let held = match past.contents {
        Contents::Unknown => Held::Unknown,
        Contents::UpTo(epoch) => epoch.and_then(standing).map_or(Held::Nothing, Held::UpTo),
    };
    fact(name, held, past.recorded.and_then(standing))
}

fn fact(name: &str, held: Held, recorded: Option<Standing>) -> SinkFact {
    SinkFact {
        sink: name.to_owned(),
        kind: SinkKind::Table,
        held,
        recorded,
        role: Role::Joins { moved: false },
        files_exist: true,
        log_is_behind: false,
    }
}

/// Epoch 0 says that a table was taken back to before its first epoch. An epoch without a manifest names none that exists.
fn standing((epoch, manifest): LoggedEpoch) -> Option<Standing> {
    let epoch = u64::try_from(epoch).ok().filter(|epoch| *epoch > 0)?;
    Some(Standing { epoch: Epoch(epoch), manifest: ManifestId(manifest.unwrap_or(-1)) })
}

/// The records of all sinks: in the manifest, or in the commit of a table that has the epoch.
fn records(survey: &Survey, looked: &[Looked], after: Standing) -> Option<Vec<SinkRecord>> {
    if let Some((manifest, _)) = &survey.manifest {
        return manifest.sinks.clone();
    }
    told(looked, after, "sinks")
}

/// Reads the value of this name from the commit of a table that has the epoch.
fn told<T: DeserializeOwned>(looked: &[Looked], after: Standing, name: &str) -> Option<T> {
    let holds = |looked: &&Looked| matches!(looked.past.contents, Contents::UpTo(Some(epoch)) if standing(epoch) == Some(after));
    let info = looked.iter().find(holds)?.past.info.as_ref()?;
    serde_json::from_value(info["weir"][name].clone()).ok()
}

fn role(record: &SinkRecord) -> Role {
    let before = Before::Known(record.before);
    if record.takes_part { Role::TakesPart(before) } else { Role::Aside(before) }
}

/// A table in a manifest of an older version.
fn unrecorded(commit: &TableCommit) -> SinkRecord {
    let version = commit.upsert.as_ref().map_or(0, |upsert| upsert.read_version);
    let place = TablePlace { location: commit.location.clone(), path: None, version };
    SinkRecord { name: commit.name.clone(), table: Some(place), before: None, takes_part: true }
}

/// True if Kafka may hold the epoch after `after`: one of its manifests says that Kafka takes part, or does not say.
async fn is_in_kafka(manifests: &ManifestStore, listed: &[Standing], after: Option<Standing>) -> bool {
    let next = after.map_or(Epoch(1), |after| after.epoch.next());
    for candidate in listed.iter().filter(|manifest| manifest.epoch == next) {
        let sinks = match manifests.read(candidate.epoch, candidate.manifest).await {
            Ok(Some((manifest, _))) => manifest.sinks,
            Ok(None) => continue,
            Err(_) => return true,
        };
        if sinks.is_none_or(|sinks| sinks.iter().any(|sink| sink.table.is_none())) {
            return true;
        }
    }
    false
}
