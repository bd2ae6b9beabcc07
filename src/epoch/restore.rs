//! Brings back the operators' state, and reports what an edit of the SQL does to it.
//!
//! State is found by the address of its operator. An operator that has none begins empty, which is right for a new pipeline and
//! wrong for one that has read input already: then it is refused, unless rebuilding is allowed. State that no operator asks for is
//! never dropped in silence either.

use std::collections::{BTreeMap, BTreeSet};

use super::job::Job;
use super::progress::instant;
use super::recovery::Resumed;
use super::refusal::state_unknown;
use super::rewind_plan::RewindScope;
use super::seed::{Seeded, seed};
use crate::catalog::SourceConnector;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Dataflow, OperatorNode, OperatorSpec};
use crate::run::memory::Memory;
use crate::source::chunk::{Offsets, TopicIdentity};
use crate::state::OperatorSnapshot;
use crate::time::Watermark;

/// The fate of one operator's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The operator is there as it was: its state goes on.
    Keep,
    /// The operator is new, and so are all sources that it reads: it begins empty, as it should.
    Begin,
    /// The operator is new, or remembers other things than before: it begins empty, though rows of its sources were read.
    Build,
    /// No operator asks for this state any more.
    Drop,
}

/// Every operator, old and new, with its fate. `positions` says how far each source was read.
pub fn migration(
    dataflow: &Dataflow,
    state: &[OperatorSnapshot],
    positions: &BTreeMap<String, Offsets>,
) -> Vec<(String, Fate)> {
    let was_read =
        |source: &usize| positions.get(&dataflow.sources[*source].def.name).is_some_and(|offsets| !offsets.is_empty());
    let remembering = |node: &&OperatorNode| !matches!(node.spec, OperatorSpec::Lookup(_));
    let mut fates: Vec<(String, Fate)> = dataflow
        .operators
        .iter()
        .filter(remembering)
        .map(|node| {
            let known = state.iter().any(|snapshot| snapshot.operator == node.id);
            let fate = match known {
                true => Fate::Keep,
                // Sinks that it does not know it leaves to the table, as if they were not there.
                false if matches!(node.spec, OperatorSpec::Newest(_)) => Fate::Begin,
                false if node.sources.iter().any(was_read) => Fate::Build,
                false => Fate::Begin,
            };
            (node.id.clone(), fate)
        })
        .collect();
    for snapshot in state {
        if !dataflow.operators.iter().any(|node| node.id == snapshot.operator) {
            fates.push((snapshot.operator.clone(), Fate::Drop));
        }
    }
    fates
}

/// Sources whose SQL names another topic than was read last, and what that means.
pub fn other_topics(
    dataflow: &Dataflow,
    positions: &BTreeMap<String, Offsets>,
    topics: &BTreeMap<String, TopicIdentity>,
) -> Vec<String> {
    let mut found = Vec::new();
    for source in &dataflow.sources {
        let (name, SourceConnector::Kafka(options)) = (&source.def.name, &source.def.connector) else { continue };
        let partitions = positions.get(name).into_iter().flat_map(Offsets::keys);
        let read: BTreeSet<&str> = partitions.filter_map(|id| Some(id.rsplit_once('/')?.0)).collect();
        let now = options.topic.as_str();
        let resumed = read.contains(now);
        let last = match topics.get(name) {
            Some(last) => Some(last.topic.as_str()),
            // An older version did not record it.
            None if resumed => None,
            None => read.first().copied(),
        };
        let Some(last) = last.filter(|last| *last != now) else { continue };
        let is_known = topics.get(name).and_then(|known| known.named(now)).is_some_and(|known| known.id.is_some());
        let begins = match resumed {
            true if is_known => format!("`{now}` continues where it was left"),
            true => format!("`{now}` continues where it was left, and must not have been created again since"),
            false => format!("`{now}` begins at its `starting_offsets`"),
        };
        found.push(format!(
            "source `{name}` reads topic `{now}` instead of `{last}`: what was not read of `{last}` stays unread, and {begins}"
        ));
    }
    found
}

/// The operators' memory, and how it differs from what the last epoch wrote.
pub struct Restored {
    pub memory: Memory,
    /// The snapshots that it goes on from; operators that begin anew have none.
    pub state: Vec<OperatorSnapshot>,
    /// Operators were filled, begun anew or dropped: the next epoch has something to write even without input.
    pub changed: bool,
    /// Per source an operator that has seen the end of time, to which whatever comes is late.
    pub over: Vec<Option<String>>,
}

/// The operators' memory as the last epoch left it; new ones filled from the table of `seed_from`, or empty.
pub async fn restore(job: &Job, resumed: &Resumed) -> Result<Restored> {
    let dataflow = &job.dataflow;
    let mut memory = Memory::new(dataflow, job.lanes, &job.lookups, job.limits.clone()).await?;
    let began = resumed.next.0 > 1;
    check(job, resumed, began).await?;
    for source in other_topics(dataflow, &resumed.positions, &resumed.topics) {
        tracing::warn!(pipeline = dataflow.pipeline, "{source}");
    }
    let fates = migration(dataflow, &resumed.state, &resumed.positions);
    memory.expect(dataflow, &resumed.state)?;
    let mut fresh = Vec::new();
    let mut over = vec![None; dataflow.sources.len()];
    for (index, node) in dataflow.operators.iter().enumerate() {
        let reached = reached(node, dataflow, resumed);
        let Some(snapshot) = resumed.state.iter().find(|snapshot| snapshot.operator == node.id) else {
            if began {
                memory.resume(index, reached);
            }
            let builds = fates.iter().any(|(id, fate)| *id == node.id && *fate == Fate::Build);
            fresh.extend(Some(index).filter(|_| builds));
            if began && matches!(node.spec, OperatorSpec::Newest(_)) {
                tracing::warn!(
                    pipeline = dataflow.pipeline,
                    operator = node.id,
                    "begins empty: {}",
                    node.spec.begins_empty()
                );
            }
            continue;
        };
        let watermark = resumed.watermarks.get(&node.id).copied().unwrap_or(Watermark::NONE);
        memory.resume(index, watermark);
        let ended = watermark == Watermark::END && node.spec.follows_time();
        if ended && job.allow_rebuild {
            fresh.push(index);
            memory.resume(index, reached);
            continue;
        }
        if ended {
            node.sources.iter().for_each(|source| over[*source] = Some(node.id.clone()));
        }
        match memory.restore(index, &job.states, snapshot, watermark).await {
            Ok(()) => {}
            Err(error) if job.allow_rebuild && error.kind() == ErrorKind::Damaged => {
                tracing::warn!(operator = node.id, %error, "state is damaged; the operator begins empty");
                memory.forget(index, node)?;
                fresh.push(index);
            }
            Err(error) => return Err(error),
        }
    }
    if began {
        fill(job, resumed, &fresh, &mut memory).await?;
    }
    let changed = began && (!fresh.is_empty() || fates.iter().any(|(_, fate)| *fate != Fate::Keep));
    let anew = |id: &str| fresh.iter().any(|index| dataflow.operators[*index].id == id);
    let state = resumed.state.iter().filter(|snapshot| !anew(&snapshot.operator)).cloned().collect();
    Ok(Restored { memory, state, changed, over })
}

/// Watermarks of an operator's sources.
fn reached(node: &OperatorNode, dataflow: &Dataflow, resumed: &Resumed) -> Watermark {
    let time = |source: &usize| resumed.times.get(&dataflow.sources[*source].def.name).map(|time| time.watermark);
    node.sources.iter().map(|source| time(source).unwrap_or(Watermark::NONE)).min().unwrap_or(Watermark::NONE)
}

/// Fills operators that have no state, where the pipeline says from what; says so where they begin empty.
async fn fill(job: &Job, resumed: &Resumed, fresh: &[usize], memory: &mut Memory) -> Result<()> {
    let pipeline = &job.dataflow.pipeline;
    match seed(job, resumed, fresh, memory).await {
        Ok(Some(Seeded { operators, rows, oldest })) => {
            let (operators, oldest) = (operators.join(", "), oldest.and_then(instant));
            tracing::info!(pipeline, operators, rows, oldest, "memory filled from the table of `seed_from`");
            return Ok(());
        }
        Ok(None) => {}
        Err(error) if job.allow_rebuild && error.kind() == ErrorKind::Sql => {
            tracing::warn!(pipeline, %error, "memory is not filled from the table of `seed_from`");
        }
        Err(error) => return Err(error),
    }
    for node in fresh.iter().map(|index| &job.dataflow.operators[*index]) {
        let at = instant(reached(node, &job.dataflow, resumed).time());
        tracing::warn!(pipeline, operator = node.id, at, "begins empty: {}", node.spec.begins_empty());
    }
    Ok(())
}

/// Refuses what would lose state or begin without it.
async fn check(job: &Job, resumed: &Resumed, began: bool) -> Result<()> {
    let pipeline = &job.dataflow.pipeline;
    if !resumed.state_known && !job.dataflow.operators.is_empty() && !job.allow_rebuild {
        let possible = RewindScope::of(pipeline, &job.sinks, &job.env).newest_possible().await;
        return Err(state_unknown(pipeline, possible, job.sinks.restore_needs_sql()));
    }
    let lost: Vec<String> = migration(&job.dataflow, &resumed.state, &resumed.positions)
        .into_iter()
        .filter(|(_, fate)| *fate == Fate::Drop || (*fate == Fate::Build && job.seed.is_none()))
        .map(|(operator, fate)| match fate {
            Fate::Drop => format!("{operator}: its state would be dropped"),
            _ => format!("{operator}: has no state and would begin empty"),
        })
        .collect();
    if lost.is_empty() || !began || job.allow_rebuild {
        return Ok(());
    }
    Err(Error::sql(format!("pipeline `{pipeline}` was edited in a way that loses state"))
        .with_detail(lost.join("; "))
        .with_hint("`weir check --against-state` tells what each operator keeps. Undo the edit, give the pipeline another name to read everything again, or start once with `--allow-rebuild`."))
}
