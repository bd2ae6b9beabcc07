//! Bringing back what operators remembered, and saying what an edit of the SQL does to it.
//!
//! State is found by the address of its operator. An operator that has none begins empty, which is right for a new pipeline and
//! wrong for one that has read input already: then it is refused, unless rebuilding is allowed. State that no operator asks for is
//! never dropped in silence either.

use super::coordinator::Job;
use super::memory::Memory;
use super::recovery::Resumed;
use super::seed::seed;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Dataflow, OperatorNode, OperatorSpec};
use crate::state::{NO_WATERMARK, OperatorSnapshot};

/// What becomes of the state of one operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The operator is there as it was: its state goes on.
    Keep,
    /// The operator is new, or remembers other things than before: it begins empty.
    Build,
    /// No operator asks for this state any more.
    Drop,
}

/// Every operator, old and new, with its fate.
pub fn migration(dataflow: &Dataflow, state: &[OperatorSnapshot]) -> Vec<(String, Fate)> {
    let remembering = |node: &&OperatorNode| !matches!(node.spec, OperatorSpec::Lookup(_));
    let mut fates: Vec<(String, Fate)> = dataflow
        .operators
        .iter()
        .filter(remembering)
        .map(|node| {
            let known = state.iter().any(|snapshot| snapshot.operator == node.id);
            (node.id.clone(), if known { Fate::Keep } else { Fate::Build })
        })
        .collect();
    for snapshot in state {
        if !dataflow.operators.iter().any(|node| node.id == snapshot.operator) {
            fates.push((snapshot.operator.clone(), Fate::Drop));
        }
    }
    fates
}

/// The operators' memory as the last epoch left it.
pub async fn restore(job: &Job, resumed: &Resumed) -> Result<Memory> {
    let mut memory = Memory::new(&job.dataflow, job.lanes, &job.lookups, job.limits.clone()).await?;
    let began = resumed.next.0 > 1;
    check(job, resumed, began)?;
    for (index, node) in job.dataflow.operators.iter().enumerate() {
        let Some(snapshot) = resumed.state.iter().find(|snapshot| snapshot.operator == node.id) else { continue };
        let watermark = resumed.watermarks.get(&node.id).copied().unwrap_or(NO_WATERMARK);
        match memory.restore(index, &job.states, snapshot, watermark).await {
            Ok(()) => {}
            Err(error) if job.allow_rebuild && error.kind() == ErrorKind::Damaged => {
                tracing::warn!(operator = node.id, %error, "state is damaged; the operator begins empty");
                memory.forget(index, node)?;
            }
            Err(error) => return Err(error),
        }
        memory.resume(index, watermark);
    }
    if began {
        for operator in seed(job, resumed, &mut memory).await? {
            tracing::info!(pipeline = job.dataflow.pipeline, operator, "memory filled from the table of `seed_from`");
        }
    }
    Ok(memory)
}

/// Refuses what would lose state or begin without it.
fn check(job: &Job, resumed: &Resumed, began: bool) -> Result<()> {
    let pipeline = &job.dataflow.pipeline;
    if !resumed.state_known && !job.dataflow.operators.is_empty() && !job.allow_rebuild {
        return Err(Error::damaged(format!("the last manifest of pipeline `{pipeline}` is gone, and with it what its operators remembered"))
            .with_hint("Restore the `_weir` folder of the warehouse; `--allow-rebuild` begins with empty memory where the tables left off."));
    }
    let lost: Vec<String> = migration(&job.dataflow, &resumed.state)
        .into_iter()
        .filter(|(_, fate)| *fate != Fate::Keep && !(*fate == Fate::Build && job.seed.is_some()))
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
