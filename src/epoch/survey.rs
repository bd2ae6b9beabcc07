//! The facts that a start decides from: asks every sink, reads the newest epoch's manifest, looks at the files it names.
//!
//! Nothing is decided or changed here.

use std::collections::BTreeMap;

use super::looked::{Looked, kafka_fact};
use super::protocol::{Before, Facts, Held, Role, SinkFact, SinkKind, newest, recent};
use super::undeclared::{Found, Named, Undeclared, look_at};
use crate::delta::PipelineTxns;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::run::sinks::{Sinks, TableSink};
use crate::source::chunk::TopicIdentity;
use crate::state::{CommitPermit, Epoch, Manifest, ManifestStore, SinkRecord, Standing, TableCommit, TablePlace};

/// The findings of a start.
pub struct Survey {
    pub facts: Facts,
    /// Of the newest epoch that any sink holds.
    pub manifest: Option<(Manifest, CommitPermit)>,
    /// `txn` actions of the pipeline, in the order of [`Sinks::tables`], then of `undeclared`.
    pub transactions: Vec<BTreeMap<String, i64>>,
    /// Tables that recent manifests name and that the SQL no longer names. Their facts come last.
    pub undeclared: Vec<TableSink>,
    /// Files that the manifest names and that do not exist, with the table's name.
    pub missing: Vec<String>,
    /// The topics that were read, as a table's commit of the newest epoch says.
    pub topics: BTreeMap<String, TopicIdentity>,
    /// `weir restore --epoch` needs the SQL: there are Kafka sinks, or tables outside of the warehouse.
    pub restore_needs_sql: bool,
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
    let mut looked = Vec::new();
    for sink in &sinks.tables {
        let found = Looked::at(&sink.location, &sink.table, pipeline).await?;
        if let Some(other) = PipelineTxns::confused_with(pipeline, &found.transactions) {
            return Err(confused(pipeline, &other, &sink.name));
        }
        facts.sinks.push(found.fact(&sink.name));
        looked.push(found);
    }
    let NewestEpoch { after, manifest, named, undeclared } =
        find_newest(pipeline, sinks, manifests, env, (&facts.sinks, &looked, &listed)).await?;
    facts.manifest_exists = manifest.is_some();
    let forgot = |fact: &&SinkFact| fact.kind == SinkKind::Kafka && fact.held == Held::Unknown;
    if facts.sinks.first().filter(forgot).is_some() {
        facts.next_is_in_kafka = is_in_kafka(manifests, &listed, after).await;
    }
    let mut survey = Survey {
        facts,
        manifest,
        transactions: looked.iter().map(|looked| looked.transactions.clone()).collect(),
        undeclared: Vec::new(),
        missing: Vec::new(),
        topics: after.and_then(|after| told(&looked, &undeclared, after, "topics")).unwrap_or_default(),
        restore_needs_sql: sinks.restore_needs_sql(),
    };
    survey.assign_roles(sinks, &looked, (after, named.as_ref()));
    survey.add_undeclared(pipeline, sinks, undeclared, (after, named.as_ref())).await?;
    refuse_exchanged(pipeline, sinks, &survey.undeclared, named.as_ref())?;
    survey.look_for_files(sinks, after).await;
    Ok(survey)
}

/// Errors: where the newest epoch knows a table there is another one that it knows elsewhere.
fn refuse_exchanged(pipeline: &str, sinks: &Sinks, undeclared: &[TableSink], named: Option<&Named>) -> Result<()> {
    let records = named.map_or([].as_slice(), |named| &named.records);
    let places = || records.iter().filter_map(|record| Some((record.name.as_str(), record.table.as_ref()?)));
    for sink in sinks.tables.iter().chain(undeclared) {
        let path = sinks.home.path_of(&sink.location);
        let Some((_, place)) = places().find(|(_, place)| place.is(&sink.location, path.as_deref())) else { continue };
        let Some(other) = place.exchanged_for(sink.table.id().as_deref(), places().map(|(_, place)| place)) else {
            continue;
        };
        let name = places().find(|(_, place)| *place == other).map_or("", |(name, _)| name);
        return Err(exchanged(pipeline, (&sink.name, &sink.location), (name, &other.location)));
    }
    Ok(())
}

/// The folder of a table holds another table of the pipeline, the one that should be at `other`.
pub fn exchanged(pipeline: &str, (table, location): (&str, &str), other: (&str, &str)) -> Error {
    let (other_table, other_location) = other;
    Error::damaged(format!("the folder of table `{table}` of pipeline `{pipeline}` holds the table `{other_table}`"))
        .with_detail(format!(
            "By the id in its log, the table at `{location}` is the one that the pipeline wrote to `{other_location}`: folders were exchanged, or one was copied over another. Nothing was written."
        ))
        .with_hint("Put each table's folder where it was, from a backup if it was overwritten. If the tables are to change places, exchange their LOCATIONs in the SQL instead.")
}

/// The newest epoch that any sink holds.
struct NewestEpoch {
    after: Option<Standing>,
    manifest: Option<(Manifest, CommitPermit)>,
    /// The sinks that the manifest names, or else a table's commit; `None` where nothing says.
    named: Option<Named>,
    undeclared: Vec<Undeclared>,
}

/// Finds it in the declared sinks and in the tables that recent manifests name beside them.
///
/// Errors: its manifest, or a recent one while no sink holds an epoch, is damaged.
async fn find_newest(
    pipeline: &str,
    sinks: &Sinks,
    manifests: &ManifestStore,
    env: &Env,
    (declared, looked, listed): (&[SinkFact], &[Looked], &[Standing]),
) -> Result<NewestEpoch> {
    let (mut undeclared, mut damaged) = (Vec::new(), None);
    for Standing { epoch, manifest } in recent(listed) {
        match manifests.read(epoch, manifest).await {
            Ok(Some((manifest, _))) => {
                look_at(&mut undeclared, &Named::by(&manifest), pipeline, sinks, env).await;
            }
            Ok(None) => {}
            Err(error) => damaged = Some(error),
        }
    }
    loop {
        let dropped: Vec<SinkFact> = undeclared.iter().filter_map(Undeclared::fact).collect();
        let after = newest(declared.iter().chain(&dropped));
        let (manifest, named) = read_newest(manifests, looked, &undeclared, after).await?;
        // The newest epoch may name tables that hold a newer one.
        let unknown = Named::default();
        if look_at(&mut undeclared, named.as_ref().unwrap_or(&unknown), pipeline, sinks, env).await {
            continue;
        }
        return match damaged.filter(|_| after.is_none()) {
            Some(damaged) => Err(damaged),
            None => Ok(NewestEpoch { after, manifest, named, undeclared }),
        };
    }
}

/// The manifest of the newest epoch, and the sinks that it, or else a table's commit, names; `None` where nothing says.
async fn read_newest(
    manifests: &ManifestStore,
    looked: &[Looked],
    undeclared: &[Undeclared],
    after: Option<Standing>,
) -> Result<(Option<(Manifest, CommitPermit)>, Option<Named>)> {
    let Some(after) = after else { return Ok((None, None)) };
    let manifest = manifests.read(after.epoch, after.manifest).await?;
    let named = match &manifest {
        Some((manifest, _)) => Some(Named::by(manifest)),
        None => {
            let records = told(looked, undeclared, after, "sinks");
            records.map(|records| Named { records, by_older_version: false })
        }
    };
    Ok((manifest, named))
}

/// The value of this name in the commit of `epoch`, from a table that has it.
fn told<T: serde::de::DeserializeOwned>(
    looked: &[Looked],
    undeclared: &[Undeclared],
    epoch: Standing,
    name: &str,
) -> Option<T> {
    let dropped = undeclared.iter().filter_map(|table| match &table.found {
        Found::Table(table) => Some(&table.0),
        Found::Nothing | Found::Unknown(_) => None,
    });
    looked.iter().chain(dropped).find_map(|looked| looked.told(epoch, name))
}

impl Survey {
    /// Gives each declared sink its role by the newest epoch's manifest, or else by a table's commit.
    fn assign_roles(&mut self, sinks: &Sinks, looked: &[Looked], (after, named): (Option<Standing>, Option<&Named>)) {
        let Some(after) = after else { return };
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
            match (named, manifest) {
                (Some(Named { records, by_older_version: false }), _) => {
                    let record = records.iter().find(|record| match (&record.table, place) {
                        (Some(table), Some(location)) => table.is(location, sinks.home.path_of(location).as_deref()),
                        (None, None) => true,
                        _ => false,
                    });
                    fact.role = record.map_or(Role::Joins { moved: false }, role);
                    let known = record.and_then(|record| record.table.as_ref()).map_or(0, |table| table.version);
                    fact.log_is_behind = known > version;
                }
                (_, Some(manifest)) => {
                    let commit = place.and_then(|location| unrecorded_commit(manifest, &fact.sink, location));
                    fact.role = match commit {
                        Some(_) => Role::TakesPart(Before::NotRecorded),
                        None => Role::Aside(Before::NotRecorded),
                    };
                    let read = commit.and_then(|commit| commit.upsert.as_ref()).map_or(0, |upsert| upsert.read_version);
                    fact.log_is_behind = read > version;
                }
                (_, None) => fact.role = Role::NotRecorded,
            }
        }
        self.find_moved(sinks, named, after);
    }

    /// A table that joins may be one that the SQL names by another LOCATION now. Then it holds what that one should.
    fn find_moved(&mut self, sinks: &Sinks, named: Option<&Named>, after: Standing) {
        let home = &sinks.home;
        let is_left = |record: &&SinkRecord| {
            let declared = |place: &TablePlace, sink: &TableSink| {
                place.is(&sink.location, home.path_of(&sink.location).as_deref())
            };
            record.table.as_ref().is_some_and(|place| !sinks.tables.iter().any(|sink| declared(place, sink)))
        };
        let holds = |record: &SinkRecord| if record.takes_part { Some(after) } else { record.before };
        let records = named.filter(|named| !named.by_older_version).map_or([].as_slice(), |named| &named.records);
        let left: Vec<Standing> = records.iter().filter(is_left).filter_map(holds).collect();
        for fact in &mut self.facts.sinks {
            if let (Role::Joins { moved }, Held::UpTo(held)) = (&mut fact.role, fact.held) {
                *moved = left.contains(&held);
            }
        }
    }

    /// Tables that an edit of the SQL has dropped. They are owed the newest epoch all the same if they take part in it.
    ///
    /// Errors: one that cannot be looked at, though it matters what it holds.
    async fn add_undeclared(
        &mut self,
        pipeline: &str,
        sinks: &Sinks,
        tables: Vec<Undeclared>,
        (after, named): (Option<Standing>, Option<&Named>),
    ) -> Result<()> {
        let unknown = Named::default();
        let records = named.unwrap_or(&unknown);
        for dropped in &tables {
            let Found::Table(table) = &dropped.found else { continue };
            let (looked, table) = &**table;
            let part = records.part_of(dropped, sinks);
            let before = |record: &SinkRecord| match records.by_older_version {
                true => Before::NotRecorded,
                false => Before::Known(record.before),
            };
            let known = part.and_then(|record| record.table.as_ref()).map_or(0, |place| place.version);
            let role = match part {
                Some(record) => Role::TakesPart(before(record)),
                None if after.is_some() && named.is_none() => Role::NotRecorded,
                None => Role::Left,
            };
            let log_is_behind = known > looked.past.version;
            self.facts.sinks.push(SinkFact { role, log_is_behind, ..looked.fact(&dropped.shown()) });
            self.transactions.push(looked.transactions.clone());
            self.undeclared.push(dropped.sink(table));
        }
        // The newest epoch may be in a table that cannot be looked at.
        let open = after.map(|after| after.epoch) < self.facts.newest_manifest;
        for dropped in tables {
            let part = records.part_of(&dropped, sinks);
            let (table, location) = (&dropped.name, &dropped.location);
            let matters = match part {
                Some(record) => !self.is_known_complete(record, records, sinks) && !self.has_moved(table, sinks).await,
                None => false,
            };
            match dropped.found {
                Found::Table(_) => continue,
                Found::Unknown(error) if (matters || open) && !(self.facts.may_lack && after.is_some()) => {
                    return Err(unseen(error, table, after));
                }
                Found::Unknown(error) => {
                    tracing::warn!(pipeline, table, location, %error, "a table that the SQL no longer names cannot be read");
                }
                Found::Nothing if part.is_some() => {
                    tracing::warn!(pipeline, table, location, "a table that the SQL no longer names is gone");
                }
                Found::Nothing => {}
            }
            if matters {
                self.facts.vanished.push(format!("{table} at {location}"));
            }
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
    fn is_known_complete(&self, record: &SinkRecord, named: &Named, sinks: &Sinks) -> bool {
        let Some(after) = newest(&self.facts.sinks) else { return false };
        let facts = self.facts.sinks.iter().filter(|fact| fact.kind == SinkKind::Table);
        let tables = facts.zip(sinks.tables.iter().chain(&self.undeclared));
        let holders: Vec<&str> =
            tables.filter(|(fact, _)| fact.held == Held::UpTo(after)).map(|(_, sink)| sink.location.as_str()).collect();
        let has = |place: &TablePlace| {
            holders.iter().any(|location| place.is(location, sinks.home.path_of(location).as_deref()))
        };
        let later = named.records.iter().skip_while(|other| *other != record).skip(1);
        later.filter(|other| other.takes_part).any(|other| other.table.as_ref().is_some_and(has))
    }

    /// Looks for the files that tables lack which lack the newest epoch.
    async fn look_for_files(&mut self, sinks: &Sinks, after: Option<Standing>) {
        let (Some((manifest, _)), Some(after)) = (&self.manifest, after) else { return };
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

fn role(record: &SinkRecord) -> Role {
    let before = Before::Known(record.before);
    if record.takes_part { Role::TakesPart(before) } else { Role::Aside(before) }
}

/// Two pipelines whose records in one table cannot be told apart.
fn confused(pipeline: &str, other: &str, table: &str) -> Error {
    Error::config(format!("pipeline `{pipeline}` cannot write table `{table}`: pipeline `{other}` does"))
        .with_detail("A table would record what the two mean differently under one id: epochs, manifests or offsets.")
        .with_hint("Give the pipeline another name, or a table of its own.")
}

/// A table that the SQL no longer names cannot be looked at, and it matters what it holds.
fn unseen(error: Error, table: &str, after: Option<Standing>) -> Error {
    let rebuild = match after {
        Some(Standing { epoch, .. }) => {
            format!(
                " `weir run --allow-rebuild` gives it up and continues after epoch {epoch}, the newest of the others."
            )
        }
        None => String::new(),
    };
    error.with_hint(format!(
        "The SQL no longer names table `{table}`, but the newest epoch of the pipeline may be in it, or pending for it. Make it readable once more; if it has storage options of its own, declare it: `CREATE TABLE … LOCATION '…' OPTIONS (…)`.{rebuild}"
    ))
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
