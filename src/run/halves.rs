//! A stage of the dataflow, computed before anything of it is written, so that it can be computed again of fewer rows.
//!
//! Only where plans may grow rows ([`crate::plan::Growing`]). What a stage makes is held until all lanes are through; it is bounded by
//! the budget of the pipeline, and where the budget does not suffice nothing has happened yet: the lanes are cut in two. A single
//! row has no limit but those of single values, and is written as it is made.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use futures::FutureExt;

use super::finder::RowFinder;
use super::open::Outputs;
use crate::error::{Context, Error, Result};
use crate::evaluate::evaluate;
use crate::memory::slice::{TooMuch, is_overflow, is_too_much};
use crate::plan::{Dataflow, Growing, Lane};

/// The output of a lane: branches and their rows.
type Made = Vec<(usize, Vec<RecordBatch>)>;

/// The result of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageEnd {
    /// Everything is written.
    Written,
    /// It makes too much of these rows; nothing is written.
    TooMuch,
}

impl Outputs {
    /// Computes a stage in full, then writes what it has made.
    pub(super) async fn run_whole_stage(
        self: &Arc<Self>,
        stage: usize,
        source: Option<usize>,
        lanes: &[Arc<Lane>],
    ) -> Result<StageEnd> {
        let budget = &self.dataflow.budget;
        budget.begin_slice(Some(self.sinks.memory.stage_bytes()));
        let make = |number: usize| {
            let (outputs, lane) = (Arc::clone(self), Arc::clone(&lanes[number]));
            async move {
                let made = AssertUnwindSafe(outputs.make_lane(stage, &lane)).catch_unwind().await;
                made.unwrap_or_else(|panic| Err(of_panic(panic.as_ref())))
            }
        };
        let filled: Vec<usize> = (0..lanes.len()).filter(|number| !lanes[*number].is_empty()).collect();
        let made = side_by_side(filled.iter().map(|number| make(*number)).collect()).await;
        let bytes = budget.end_slice();
        let made = match made {
            Ok(made) => made,
            Err(error) if is_too_much(&error) => return Ok(StageEnd::TooMuch),
            Err(error) => return Err(error),
        };
        self.made(bytes);
        let write = |(number, made): (usize, Made)| {
            let (outputs, lanes) = (Arc::clone(self), lanes.to_vec());
            async move {
                for (branch, rows) in made {
                    outputs.write(&RowFinder::new(branch, &lanes, number), number, rows).await?;
                }
                Ok(())
            }
        };
        for lane in lanes {
            self.refuse_rows(source, lane).await?;
        }
        let made = filled.into_iter().zip(made).filter(|(_, made)| !made.is_empty());
        side_by_side(made.map(write).collect()).await?;
        Ok(StageEnd::Written)
    }

    /// Runs one lane through one stage: fragments, branches, and what operators are going to compute of their rows.
    async fn make_lane(&self, stage: usize, lane: &Lane) -> Result<Made> {
        lane.run_fragments(&self.dataflow, stage, |_| true).await?;
        let mut made = Vec::new();
        for (index, _) in self.of_stage(stage) {
            let rows = lane.make_branch(&self.dataflow, index).await?;
            if !rows.is_empty() {
                made.push((index, rows));
            }
        }
        rehearse(&self.dataflow, stage, lane)?;
        Ok(made)
    }
}

/// Runs all of them to their end, even when one fails: none may still compute when the next thing begins. One alone needs no task.
async fn side_by_side<T: Send + 'static>(
    mut work: Vec<impl Future<Output = Result<T>> + Send + 'static>,
) -> Result<Vec<T>> {
    if work.len() == 1
        && let Some(only) = work.pop()
    {
        return Ok(vec![only.await?]);
    }
    let tasks: Vec<_> = work.into_iter().map(tokio::spawn).collect();
    let mut done = Vec::with_capacity(tasks.len());
    for task in tasks {
        done.push(task.await.internal(|| "a lane ended abnormally".to_owned()).and_then(|done| done));
    }
    done.into_iter().collect()
}

/// Computes what the operators behind a stage will compute of their input, and drops it. They cannot be run again once they have begun,
/// so that it must be known before whether it is too much. Only what may grow rows is computed twice.
fn rehearse(dataflow: &Dataflow, stage: usize, lane: &Lane) -> Result<()> {
    for (_, operator) in dataflow.operators_of(stage) {
        let expressions = operator.spec.over_input().into_iter().filter(|expr| Growing::of_expression(expr).grows());
        for (expression, stream) in expressions.flat_map(|expr| operator.inputs.iter().map(move |s| (expr.clone(), s)))
        {
            for rows in lane.rows(*stream) {
                // A row that fails is kept from the operator later.
                if let Err(error) = evaluate(&expression, rows)
                    && is_too_much(&error)
                {
                    return Err(error.into());
                }
            }
        }
    }
    Ok(())
}

fn of_panic(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("a lane ended abnormally");
    let error = Error::internal(text);
    if is_overflow(text) { error.with_source(TooMuch) } else { error }
}

/// Rows of the streams that a stage is made from, in all lanes.
pub fn rows_before(dataflow: &Dataflow, stage: usize, lanes: &[Arc<Lane>]) -> usize {
    let recomputes = lanes.iter().any(|lane| lane.recomputes());
    let reads = dataflow.reads_of(stage, recomputes);
    let streams = || dataflow.streams_before(stage).into_iter().filter(|stream| reads.contains(&stream.0));
    lanes.iter().flat_map(|lane| streams().flat_map(|stream| lane.rows(stream))).map(RecordBatch::num_rows).sum()
}

/// The rows that a stage and those behind it are made from, in two parts of about one half; each row is in one of them.
pub fn halves(dataflow: &Dataflow, stage: usize, lanes: &[Arc<Lane>]) -> Result<[Vec<Arc<Lane>>; 2]> {
    let (mut first, mut second) = (Vec::with_capacity(lanes.len()), Vec::with_capacity(lanes.len()));
    // Single rows go to either part in turn.
    let mut upper = false;
    for lane in lanes {
        let (one, other) = (dataflow.lane(), dataflow.lane());
        one.fail_as(lane);
        other.fail_as(lane);
        for stream in dataflow.streams_before(stage) {
            let rows = lane.rows(stream);
            let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
            if count == 0 {
                continue;
            }
            let middle = count / 2 + usize::from(count % 2 == 1 && upper);
            upper ^= count % 2 == 1;
            let mut rest = rows.to_vec();
            one.take_part(lane, stream, 0, take_rows(&mut rest, middle))?;
            other.take_part(lane, stream, middle, rest)?;
        }
        first.push(Arc::new(one));
        second.push(Arc::new(other));
    }
    Ok([first, second])
}

/// Takes the first `most` rows, or all if there are fewer.
pub(super) fn take_rows(rows: &mut Vec<RecordBatch>, most: usize) -> Vec<RecordBatch> {
    let (mut taken, mut left, mut room) = (Vec::new(), Vec::new(), most);
    for batch in std::mem::take(rows) {
        let part = room.min(batch.num_rows());
        room -= part;
        if part > 0 {
            taken.push(batch.slice(0, part));
        }
        if part < batch.num_rows() {
            left.push(batch.slice(part, batch.num_rows() - part));
        }
    }
    *rows = left;
    taken
}
