//! Rows that are emitted in the step in which they arrive (with `'on_arrival'`, and late rows): each is computed from the rows
//! that arrived before it, however a step is cut.
//!
//! A step's rows are placed in rounds. Within a round the times of a key's rows increase, so that no frame that ends at its
//! row reaches a row that arrived later; where frames reach ahead, a round holds one row of a key. A row that expires at
//! once ends its round. Keys are independent, so the n-th rounds of all keys are placed together.

use arrow::array::UInt64Array;
use arrow::compute::{concat_batches, take_record_batch};
use arrow::record_batch::RecordBatch;
use datafusion::common::HashMap;

use super::Rolling;
use super::waiting::times;
use crate::error::{Context, Result};
use crate::operator::Stepped;
use crate::time::{EventTime, Watermark};

impl Rolling {
    /// Computes the functions of the rows and emits them in the order of arrival.
    pub(super) fn arrive(&mut self, arrived: &[RecordBatch], stepped: &mut Stepped) -> Result<()> {
        let rows = match arrived {
            [] => return Ok(()),
            [one] => one.clone(),
            several => concat_batches(&self.plan.input, several).internal(|| "rows cannot be joined".to_owned())?,
        };
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let keys = self.numbers(&rows)?;
        let when = times(rows.column(self.plan.time));
        let Some(rounds) = rounds(&keys, when, self.plan.wait.is_any(), self.plan.needed(self.watermark).from) else {
            let settled = self.settle(&rows)?;
            let positions = self.positions(&settled);
            stepped.rows.push(self.output(&rows, &settled.keys, &positions)?);
            return Ok(());
        };
        let shown = self.plan.shown.as_ref().map_or(Ok(None), |condition| condition.of(&rows))?;
        let (mut out, mut order) = (Vec::with_capacity(rounds.len()), Vec::with_capacity(when.len()));
        for mut round in rounds {
            round.sort_by_key(|row| when[*row as usize]);
            let part = pick(&rows, round.clone())?;
            let settled = self.settle(&part)?;
            let positions = self.positions(&settled);
            out.push(self.output(&part, &settled.keys, &positions)?);
            order.extend(round.into_iter().filter(|row| shown.as_ref().is_none_or(|shown| shown.value(*row as usize))));
        }
        let out = concat_batches(&self.plan.output, &out).internal(|| "rows cannot be joined".to_owned())?;
        let mut places: Vec<u64> = (0..order.len() as u64).collect();
        places.sort_by_key(|place| order[*place as usize]);
        stepped.rows.push(pick(&out, places)?);
        Ok(())
    }

    /// Emits the rows whose time was complete `before` they arrived, if late rows are emitted: each is computed from the rows that
    /// arrived before it. Returns the others.
    pub(super) fn emit_late(
        &mut self,
        rows: RecordBatch,
        before: Watermark,
        stepped: &mut Stepped,
    ) -> Result<RecordBatch> {
        let is_late = |time: &i64| EventTime(*time).is_late(before);
        let when = times(rows.column(self.plan.time));
        if !self.plan.emits_late || !when.iter().any(is_late) {
            return Ok(rows);
        }
        let (late, others): (Vec<u64>, Vec<u64>) =
            (0..when.len() as u64).partition(|row| is_late(&when[*row as usize]));
        let late = pick(&rows, late)?;
        let keys = self.numbers(&late)?;
        let needed = self.plan.needed(self.watermark).from;
        let rounds = rounds(&keys, times(late.column(self.plan.time)), self.plan.wait.is_any(), needed);
        let rounds = rounds.unwrap_or_else(|| vec![(0..late.num_rows() as u64).collect()]);
        for round in rounds {
            let round = self.sequenced(&pick(&late, round)?)?;
            self.early.push(round);
            self.advance(before, stepped)?;
        }
        pick(&rows, others)
    }
}

fn pick(rows: &RecordBatch, picked: Vec<u64>) -> Result<RecordBatch> {
    take_record_batch(rows, &UInt64Array::from(picked)).internal(|| "rows cannot be sorted".to_owned())
}

/// The rows of each round, in order of arrival; `None` if all are in one round and in order of time. Rows before `needed`
/// are in no other row's frame.
fn rounds(keys: &[u32], times: &[i64], one_of_a_key: bool, needed: Watermark) -> Option<Vec<Vec<u64>>> {
    let may_be_seen = |time: &i64| !EventTime(*time).is_below(needed);
    if !one_of_a_key && times.first().is_none_or(may_be_seen) && times.is_sorted_by(|one, next| one < next) {
        return None;
    }
    let mut rounds: Vec<Vec<u64>> = vec![Vec::new()];
    // By key: the round of its last row, and that row's time.
    let mut last: HashMap<u32, (usize, i64)> = HashMap::new();
    for (row, (key, time)) in keys.iter().zip(times).enumerate() {
        let round = match last.get(key) {
            None => 0,
            Some((round, before)) if before < time && may_be_seen(before) && !one_of_a_key => *round,
            Some((round, _)) => round + 1,
        };
        last.insert(*key, (round, *time));
        if round == rounds.len() {
            rounds.push(Vec::new());
        }
        rounds[round].push(row as u64);
    }
    (rounds.len() > 1 || !times.is_sorted()).then_some(rounds)
}
