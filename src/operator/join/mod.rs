//! Joins of two streams on equal keys.
//!
//! Both sides are stored in columns ([`side`]); a step's rows of one side look up candidates on the other by hash, and the
//! candidates are compared and combined in batches of pairs ([`pairs`]). The joins differ in how long rows stay and what is
//! emitted when: [`interval`] for joins with time bounds, [`updating`] for those without, [`asof`] for the newest earlier
//! row.
//!
//! With ΔL and ΔR the rows of a step, ΔL is joined with the stored R, then ΔR with L including ΔL: each pair is found once.

pub mod spec;
mod segments;
mod chains;
mod buckets;
mod layout;
mod intake;
mod consolidate;
mod side;
mod pairs;
mod interval;
mod updating;
mod versions;
mod asof;
#[cfg(test)]
mod tests;

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;

use crate::error::{Context, Error, Result};
use crate::operator::Operator;
use crate::operator::spec::{AsofSpec, JoinSpec};
use crate::state::StateChange;
use crate::time::{EventTime, Watermark};
use intake::{Intake, pick};
use side::{Arriving, Side};

/// One shard of a join of two streams; port 0 is left, port 1 right. Errors: a spec that contradicts itself.
pub fn join(spec: JoinSpec) -> Result<Box<dyn Operator>> {
    Ok(match spec.bounds {
        Some(bounds) => Box::new(interval::IntervalJoin::new(spec, bounds)?),
        None => Box::new(updating::UpdatingJoin::new(spec)?),
    })
}

/// One shard of an ASOF join; port 0 is left, port 1 right. Errors: a spec that contradicts itself.
pub fn asof(spec: AsofSpec) -> Result<Box<dyn Operator>> {
    Ok(Box::new(asof::AsofJoin::new(spec)?))
}

fn changes(sides: &mut [Side; 2]) -> Result<Vec<StateChange>> {
    let mut changes = Vec::new();
    for (table, side) in sides.iter_mut().enumerate() {
        changes.extend(side.changes(table)?);
    }
    Ok(changes)
}

/// Restores rows of a state table, those with a time at or after `cutoff`. Returns the first slot.
fn restore(
    sides: &mut [Side; 2],
    intakes: &[Intake; 2],
    table: usize,
    written: &RecordBatch,
    cutoff: Watermark,
) -> Result<u32> {
    let (Some(side), Some(intake)) = (sides.get_mut(table), intakes.get(table)) else {
        return Err(Error::internal(format!("a join has no state table {table}")));
    };
    let (mut rows, mut noted) = side.read(written)?;
    let mut times =
        if noted.clock.is_empty() { intake.times(&rows, EventTime(0))? } else { std::mem::take(&mut noted.clock) };
    let is_dead = |time: &i64| EventTime(*time).is_below(cutoff);
    if times.iter().any(is_dead) {
        let live = BooleanArray::from_iter(times.iter().map(|time| Some(!is_dead(time))));
        rows = filter_record_batch(&rows, &live).internal(segments::refused)?;
        for values in [&mut times, &mut noted.seqs, &mut noted.weights, &mut noted.matches] {
            *values = pick(values, live.values());
        }
    }
    let hashes = intake.hashes(&rows)?;
    let (weights, matches) = (noted.weights, noted.matches);
    side.restore(Arriving { rows, hashes: &hashes, times: &times, weights, matches }, noted.seqs)
}
