//! A start, before it reads: takes stock of every sink ([`survey`]), has [`protocol`](super::protocol) decide, and
//! carries the decision out.

use std::collections::{BTreeMap, BTreeSet};

use super::commit::commit_table;
use super::protocol::{Facts, Held, Outcome, Role, SinkKind, decide};
use super::refusal::refused;
use super::rewind_plan::RewindScope;
use super::standings::Standings;
use super::survey::{Survey, commit_of, survey};
use crate::delta::{OffsetId, PipelineTxns};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::run::sinks::{Sinks, TableSink};
use crate::source::chunk::{Offsets, TopicIdentity};
use crate::state::{
    CommitPermit, Epoch, Manifest, ManifestId, ManifestStore, OperatorSnapshot, SourceTime, Standing, StateStore,
};
use crate::time::Watermark;

/// The position at which a pipeline continues.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumed {
    /// The next epoch to fill.
    pub next: Epoch,
    /// Next offsets per source name.
    pub positions: BTreeMap<String, Offsets>,
    /// Sinks that a crash had left behind and that now have their epoch.
    pub rolled_forward: Vec<String>,
    /// The operators' state.
    pub state: Vec<OperatorSnapshot>,
    pub times: BTreeMap<String, SourceTime>,
    pub watermarks: BTreeMap<String, Watermark>,
    /// The topic that a source's positions are of.
    pub topics: BTreeMap<String, TopicIdentity>,
    /// False when the manifest is gone: then what operators remembered is not known.
    pub state_known: bool,
    /// The epoch that each sink holds now.
    pub standings: Standings,
}

impl Resumed {
    /// A beginning without any past.
    fn at(next: Epoch, positions: BTreeMap<String, Offsets>) -> Self {
        Self {
            next,
            positions,
            rolled_forward: Vec::new(),
            state: Vec::new(),
            times: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            topics: BTreeMap::new(),
            state_known: true,
            standings: Standings::default(),
        }
    }

    fn after(manifest: Manifest) -> Self {
        let Manifest { epoch, positions, state, times, watermarks, topics, .. } = manifest;
        Self { state, times, watermarks, topics, ..Self::at(epoch.next(), positions) }
    }
}

/// Brings every sink to the newest committed epoch, and the indexes of upserted tables into memory.
///
/// Errors: `Damaged` when continuing would lose or repeat rows; it says what each sink has.
pub async fn recover(
    pipeline: &str,
    sources: &BTreeSet<&str>,
    sinks: &Sinks,
    manifests: &ManifestStore,
    states: &StateStore,
    env: &Env,
    may_lack: bool,
) -> Result<Resumed> {
    let mut survey = survey(pipeline, sinks, manifests, env, may_lack).await?;
    let mut outcome = decide(&survey.facts);
    if let (Outcome::TakeBack { .. }, Some((manifest, _))) = (&outcome, &survey.manifest) {
        // Asked for only here: every other start reads the state anyway.
        survey.facts.state_exists = states.missing(&manifest.state).await?.is_none();
        outcome = decide(&survey.facts);
    }
    if let Outcome::Refuse(refusal) = &outcome {
        let possible = RewindScope::of(pipeline, sinks, env).newest_possible().await;
        return Err(refused(pipeline, refusal, &survey, possible));
    }
    let mut resumed = carry_out(pipeline, sources, sinks, manifests, &survey, &outcome).await?;
    for (source, topic) in manifests.topics().await? {
        resumed.topics.entry(source).or_insert(topic);
    }
    resumed.standings = standings(&survey.facts, &outcome, sinks.tables.len());
    if let Some(recorded) = record_in_kafka(sinks, &survey.facts, &outcome).await? {
        resumed.standings.kafka = recorded;
    }
    for upsert in sinks.tables.iter().filter_map(|sink| sink.upsert.as_ref()) {
        upsert.load().await?;
    }
    Ok(resumed)
}

async fn carry_out(
    pipeline: &str,
    sources: &BTreeSet<&str>,
    sinks: &Sinks,
    manifests: &ManifestStore,
    survey: &Survey,
    outcome: &Outcome,
) -> Result<Resumed> {
    let with_manifest = || {
        let found = survey.manifest.clone();
        found.ok_or_else(|| Error::internal("a manifest was decided on that does not exist"))
    };
    match outcome {
        Outcome::Begin => Ok(Resumed::at(Epoch(1), BTreeMap::new())),
        Outcome::Resume { .. } => Ok(Resumed::after(with_manifest()?.0)),
        Outcome::RollForward { owed, .. } => {
            let (manifest, permit) = with_manifest()?;
            for (fact, sink) in table_facts(&survey.facts, sinks, survey) {
                if owed.contains(&fact.sink) {
                    roll_forward(sink, sinks, &manifest, permit).await?;
                }
            }
            Ok(Resumed { rolled_forward: owed.clone(), ..Resumed::after(manifest) })
        }
        Outcome::TakeBack { after } => {
            let (manifest, permit) = with_manifest()?;
            take_back(pipeline, sinks, survey, &manifest, permit).await?;
            manifests.remove_after(after.epoch).await?;
            tracing::warn!(
                pipeline,
                epoch = after.epoch.0,
                "all tables were taken back to this epoch; later ones are computed again"
            );
            Ok(Resumed::after(manifest))
        }
        Outcome::ResumeWithoutState { after } => {
            tracing::warn!(
                pipeline,
                epoch = after.epoch.0,
                "manifest is missing; going on with the offsets that the tables hold"
            );
            let positions = positions(pipeline, sources, &survey.transactions);
            let topics = match survey.topics.is_empty() {
                true => topics_before(manifests, *after).await?,
                false => survey.topics.clone(),
            };
            Ok(Resumed { state_known: false, topics, ..Resumed::at(after.epoch.next(), positions) })
        }
        Outcome::Refuse(_) => Err(Error::internal("a refused start is carried out")),
    }
}

/// The topics in the newest manifest before that of an epoch.
async fn topics_before(manifests: &ManifestStore, epoch: Standing) -> Result<BTreeMap<String, TopicIdentity>> {
    for older in manifests.list().await?.into_iter().rev().filter(|older| older.epoch < epoch.epoch) {
        // One that is damaged tells nothing.
        if let Ok(Some((manifest, _))) = manifests.read(older.epoch, older.manifest).await {
            return Ok(manifest.topics);
        }
    }
    Ok(BTreeMap::new())
}

/// The facts of all tables, with the tables.
fn table_facts<'a>(
    facts: &'a Facts,
    sinks: &'a Sinks,
    survey: &'a Survey,
) -> impl Iterator<Item = (&'a super::protocol::SinkFact, &'a TableSink)> {
    let tables = facts.sinks.iter().filter(|fact| fact.kind == SinkKind::Table);
    tables.zip(sinks.tables.iter().chain(&survey.undeclared))
}

async fn roll_forward(sink: &TableSink, sinks: &Sinks, manifest: &Manifest, permit: CommitPermit) -> Result<()> {
    let Some(commit) = commit_of(manifest, sink, sinks) else {
        return Err(Error::internal(format!("the manifest has nothing for table `{}`", sink.name)));
    };
    commit_table(sink, manifest, commit, permit).await?;
    Ok(())
}

/// Records in the tables that were RESTOREd what they hold now.
async fn take_back(
    pipeline: &str,
    sinks: &Sinks,
    survey: &Survey,
    manifest: &Manifest,
    permit: CommitPermit,
) -> Result<()> {
    for (index, (fact, sink)) in table_facts(&survey.facts, sinks, survey).enumerate() {
        let Held::UpTo(held) = fact.held else { continue };
        if fact.recorded == Some(held) || fact.role == Role::Left {
            continue;
        }
        let none = BTreeMap::new();
        let known = survey.transactions.get(index).unwrap_or(&none);
        let txns = txns_of(pipeline, held, manifest, known);
        let version = sink.table.record(&txns, permit.epoch().0).await?;
        tracing::info!(
            pipeline,
            table = sink.name,
            epoch = held.epoch.0,
            version,
            "recorded what the table was restored to"
        );
    }
    Ok(())
}

/// The `txn` actions of a table that was taken back: its epoch, and the offsets after the pipeline's epoch. `known` are the `txn`
/// actions that it has; partitions that had not been read by then are given -1, since a `txn` action cannot be removed.
pub fn txns_of(pipeline: &str, held: Standing, manifest: &Manifest, known: &BTreeMap<String, i64>) -> PipelineTxns {
    let sources = manifest.positions.keys().map(String::as_str).collect();
    let known = OffsetId::among(pipeline, &sources, known);
    let mut offsets: BTreeMap<String, i64> = known.into_iter().map(|(_, id, _)| (id.to_owned(), -1)).collect();
    for (source, partitions) in &manifest.positions {
        for (partition, next) in partitions {
            offsets.insert(OffsetId::new(pipeline, source, partition).app_id(), *next);
        }
    }
    PipelineTxns {
        pipeline: pipeline.to_owned(),
        epoch: i64::try_from(held.epoch.0).unwrap_or(i64::MAX),
        manifest_id: held.manifest.0,
        offsets: offsets.into_iter().collect(),
    }
}

/// The offsets that the tables hold. `sources` are those that the SQL declares.
fn positions(
    pipeline: &str,
    sources: &BTreeSet<&str>,
    transactions: &[BTreeMap<String, i64>],
) -> BTreeMap<String, Offsets> {
    let mut positions: BTreeMap<String, Offsets> = BTreeMap::new();
    let found = transactions.iter().flat_map(|transactions| OffsetId::among(pipeline, sources, transactions));
    for (id, _, offset) in found.filter(|(_, _, offset)| *offset >= 0) {
        let partition = id.partition.as_str().into();
        let known = positions.entry(id.source).or_default().entry(partition).or_insert(offset);
        *known = (*known).max(offset);
    }
    positions
}

/// The epoch that each sink holds once `outcome` is carried out.
fn standings(facts: &Facts, outcome: &Outcome, tables: usize) -> Standings {
    let (after, owed) = match outcome {
        Outcome::RollForward { after, owed } => (Some(*after), owed.as_slice()),
        Outcome::Resume { after } | Outcome::TakeBack { after } | Outcome::ResumeWithoutState { after } => {
            (Some(*after), [].as_slice())
        }
        Outcome::Begin | Outcome::Refuse(_) => (None, [].as_slice()),
    };
    let mut standings = Standings::default();
    for fact in &facts.sinks {
        let held = match fact.held {
            Held::UpTo(standing) => Some(standing),
            // Kafka without a record: what the manifest says of it.
            Held::Unknown => after.filter(|_| matches!(fact.role, Role::TakesPart(_))),
            Held::Nothing => None,
        };
        match fact.kind {
            SinkKind::Kafka => standings.kafka = held,
            SinkKind::Table => standings.tables.push(if owed.contains(&fact.sink) { after } else { held }),
        }
    }
    standings.tables.truncate(tables);
    standings
}

/// Gives Kafka a record if it has none: from now on its absence says that it was lost. Returns what was recorded.
async fn record_in_kafka(sinks: &Sinks, facts: &Facts, outcome: &Outcome) -> Result<Option<Option<Standing>>> {
    let Some(producer) = &sinks.transaction else { return Ok(None) };
    let without = facts.sinks.iter().any(|fact| fact.kind == SinkKind::Kafka && fact.held == Held::Unknown);
    let after = match outcome {
        Outcome::Begin => None,
        Outcome::Resume { after } | Outcome::RollForward { after, .. } | Outcome::TakeBack { after } => Some(*after),
        Outcome::ResumeWithoutState { .. } | Outcome::Refuse(_) => return Ok(None),
    };
    if !without {
        return Ok(None);
    }
    producer.record(after.unwrap_or(Standing { epoch: Epoch(0), manifest: ManifestId(0) })).await?;
    Ok(Some(after))
}
