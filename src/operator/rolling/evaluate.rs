//! Evaluates functions over frames: for the rows to emit, first the slots of every frame, then one column per function.

use arrow::array::ArrayRef;

use super::bound::{Bound, Shift, seek};
use super::plan::Plan;
use super::store::{Store, TOGETHER};
use super::view::View;
use crate::error::Result;
use crate::time::{EventTime, Lag};

/// Reports rows that were inserted before existing rows to the functions.
pub(super) fn squeeze(plan: &mut Plan, store: &mut Store) {
    let squeezed = std::mem::take(&mut store.squeezed);
    for (_, function) in &mut plan.functions {
        for (key, ordinal) in &squeezed {
            function.squeezed(*key, *ordinal);
        }
    }
}

/// The columns of all functions, for rows given by key, time and position among the key's rows.
pub(super) fn columns(
    plan: &mut Plan,
    store: &mut Store,
    keys: &[u32],
    times: &[i64],
    positions: &[u32],
) -> Result<Vec<ArrayRef>> {
    squeeze(plan, store);
    let firsts: Vec<u32> = keys.iter().map(|key| store.block(*key).first() as u32).collect();
    let bounds = positions_of(plan, store, keys, times, positions);
    let frames: Vec<_> = plan
        .frames
        .iter()
        .map(|frame| {
            let floor = frame.floor.map(|floor| bounds[floor].as_slice());
            slots(&firsts, &bounds[frame.start], &bounds[frame.end], floor)
        })
        .collect();
    let view = |frame: usize| View { store, keys, starts: &frames[frame].0, ends: &frames[frame].1 };
    plan.functions.iter_mut().map(|(frame, function)| function.column(view(*frame))).collect()
}

/// Position of each bound for each row.
fn positions_of(plan: &Plan, store: &mut Store, keys: &[u32], times: &[i64], positions: &[u32]) -> Vec<Vec<u32>> {
    let mut found: Vec<Vec<u32>> = plan.bounds.iter().map(|_| Vec::with_capacity(keys.len())).collect();
    for (row, (key, time)) in keys.iter().zip(times).enumerate() {
        if row % TOGETHER == 0 {
            store.warm_cursors(&keys[row..keys.len().min(row + TOGETHER)]);
        }
        let (block, position) = (store.block(*key), positions[row] as usize);
        for (index, (bound, found)) in plan.bounds.iter().zip(&mut found).enumerate() {
            let at = match bound {
                Bound::First => 0,
                Bound::Last => block.len(),
                Bound::Row(by) => (position as i64 + by).clamp(0, block.len() as i64) as usize,
                Bound::Time { shift, past } => {
                    let target = shift.target(&store.times(block)[..=position], EventTime(*time));
                    let target = target.saturating_add(Lag(i64::from(*past)));
                    match *shift == Shift::ZERO {
                        true => seek(store.times(block), position + usize::from(*past), target),
                        false => store.seek(*key, block, index, target),
                    }
                }
            };
            found.push(at as u32);
        }
    }
    found
}

fn slots(firsts: &[u32], starts: &[u32], ends: &[u32], floor: Option<&[u32]>) -> (Vec<u32>, Vec<u32>) {
    let start = |row: usize| firsts[row] + floor.map_or(starts[row], |floor| starts[row].max(floor[row]));
    let starts: Vec<u32> = (0..firsts.len()).map(start).collect();
    let ends = (0..firsts.len()).map(|row| (firsts[row] + ends[row]).max(starts[row])).collect();
    (starts, ends)
}
