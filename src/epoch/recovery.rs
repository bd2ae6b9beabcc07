//! What a start does before it reads: asks every sink what it has, finishes the newest epoch where it is missing, and
//! says where to go on.

use std::collections::BTreeMap;

use super::commit::commit_table;
use super::protocol::{Decision, SinkFact, decide, lacks};
use super::sinks::{Sinks, TableSink};
use crate::delta::{Table, TableStore, WriterOptions};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::source::chunk::Offsets;
use crate::state::{
    CommitPermit, Epoch, Manifest, ManifestId, ManifestStore, OperatorSnapshot, SourceTime, TableCommit,
};

/// Where a pipeline goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumed {
    /// The next epoch to fill.
    pub next: Epoch,
    /// Next offsets per source name.
    pub positions: BTreeMap<String, Offsets>,
    /// Sinks that a crash had left behind and that now have their epoch.
    pub rolled_forward: Vec<String>,
    /// What the operators remembered.
    pub state: Vec<OperatorSnapshot>,
    pub times: BTreeMap<String, SourceTime>,
    pub watermarks: BTreeMap<String, i64>,
    /// False when the manifest is gone: then what operators remembered is not known.
    pub state_known: bool,
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
            state_known: true,
        }
    }
}

/// Brings every sink to the newest committed epoch, and the indexes of upserted tables into memory.
///
/// Errors: `Damaged` when sinks contradict each other or the manifest that a sink names is gone.
pub async fn recover(pipeline: &str, sinks: &Sinks, manifests: &ManifestStore, env: &Env) -> Result<Resumed> {
    let resumed = roll_all_forward(pipeline, sinks, manifests, env).await?;
    for upsert in sinks.tables.iter().filter_map(|sink| sink.upsert.as_ref()) {
        upsert.load().await?;
    }
    Ok(resumed)
}

async fn roll_all_forward(pipeline: &str, sinks: &Sinks, manifests: &ManifestStore, env: &Env) -> Result<Resumed> {
    let mut facts = Vec::new();
    if let Some(producer) = &sinks.transaction {
        let committed = producer.committed_epoch().await?;
        let committed = committed.map(|(epoch, manifest)| (Epoch(epoch), ManifestId(manifest)));
        facts.push(SinkFact { sink: "kafka".to_owned(), committed });
    }
    let mut transactions = Vec::new();
    for sink in &sinks.tables {
        let found = sink.table.transactions(&format!("weir:{pipeline}")).await?;
        facts.push(SinkFact { sink: sink.name.clone(), committed: committed(pipeline, &found) });
        transactions.push(found);
    }
    let (epoch, id) = match decide(&facts) {
        Decision::Begin => {
            return Ok(Resumed::at(Epoch(1), BTreeMap::new()));
        }
        Decision::Conflict { epoch, sinks: [a, b] } => {
            return Err(Error::damaged(format!(
                "`{a}` and `{b}` have epoch {epoch} of pipeline `{pipeline}` from two different runs"
            ))
            .with_detail("One of them was restored or written by hand, or the pipeline's folder was copied.")
            .with_hint("Restore all tables of the pipeline to versions of one epoch; `DESCRIBE HISTORY` shows them."));
        }
        Decision::RollForward { epoch, manifest } => (epoch, manifest),
    };
    let Some((manifest, permit)) = manifests.read(epoch, id).await? else {
        return without_manifest(pipeline, epoch, id, &facts, &transactions);
    };
    let mut rolled_forward = Vec::new();
    for table in &manifest.tables {
        if roll_forward(sinks, &facts, &manifest, table, permit, env).await? {
            rolled_forward.push(table.name.clone());
        }
    }
    let Manifest { positions, state, times, watermarks, .. } = manifest;
    Ok(Resumed { rolled_forward, state, times, watermarks, ..Resumed::at(epoch.next(), positions) })
}

async fn roll_forward(
    sinks: &Sinks,
    facts: &[SinkFact],
    manifest: &Manifest,
    table: &TableCommit,
    permit: CommitPermit,
    env: &Env,
) -> Result<bool> {
    if let Some(sink) = sinks.tables.iter().find(|sink| sink.location == table.location) {
        let fact = facts.iter().find(|fact| fact.sink == sink.name).and_then(|fact| fact.committed);
        if !lacks(fact, manifest.epoch) {
            return Ok(false);
        }
        commit_table(sink, manifest, table, permit).await?;
        return Ok(true);
    }
    // The SQL was edited between the crash and now, and no longer names this table: its epoch is owed all the same.
    let store = TableStore::open(&table.location, &BTreeMap::new(), env)?;
    let opened = Table::open(store).await?;
    let found = opened.transactions(&format!("weir:{}", manifest.pipeline)).await?;
    if !lacks(committed(&manifest.pipeline, &found), manifest.epoch) {
        return Ok(false);
    }
    let sink = TableSink {
        name: table.name.clone(),
        location: table.location.clone(),
        table: opened,
        options: WriterOptions::default(),
        upsert: None,
    };
    commit_table(&sink, manifest, table, permit).await?;
    Ok(true)
}

/// Without the manifest progress is still in the tables: enough when no sink is behind.
fn without_manifest(
    pipeline: &str,
    epoch: Epoch,
    id: ManifestId,
    facts: &[SinkFact],
    transactions: &[BTreeMap<String, i64>],
) -> Result<Resumed> {
    let first = facts.first().and_then(|fact| fact.committed).map(|(epoch, _)| epoch);
    if facts.len() > 1 && first != Some(epoch) {
        return Err(Error::damaged(format!("manifest {id} of epoch {epoch} of pipeline `{pipeline}` is missing"))
            .with_detail(
                "A sink has committed this epoch and names the manifest; without it the others cannot be brought up.",
            )
            .with_hint(
                "Restore the `_weir` folder of the warehouse, or restore all tables to versions of one epoch.",
            ));
    }
    tracing::warn!(pipeline, epoch = epoch.0, "manifest is missing; going on with the offsets that the tables hold");
    let prefix = format!("weir:{pipeline}:");
    let mut positions: BTreeMap<String, Offsets> = BTreeMap::new();
    for (app, offset) in transactions.iter().flatten() {
        let Some(rest) = app.strip_prefix(&prefix) else { continue };
        let Some((source, partition)) = rest.split_once(':') else { continue };
        let known = positions.entry(source.to_owned()).or_default().entry(partition.into()).or_insert(*offset);
        *known = (*known).max(*offset);
    }
    Ok(Resumed { state_known: false, ..Resumed::at(epoch.next(), positions) })
}

/// The epoch and manifest in a table's transactions.
fn committed(pipeline: &str, transactions: &BTreeMap<String, i64>) -> Option<(Epoch, ManifestId)> {
    let epoch = transactions.get(&format!("weir:{pipeline}"))?;
    let manifest = transactions.get(&format!("weir:{pipeline}:manifest"))?;
    Some((Epoch(u64::try_from(*epoch).ok()?), ManifestId(*manifest)))
}
