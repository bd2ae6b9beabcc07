//! Chooses a model's evaluator: the one that is fastest on it, on this machine.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::blocks::Blocks;
use super::kernel::Kernel;
use super::layout::Layout;
use super::ranks::BLOCK;
use super::rows::Rows;
use super::{Batch, Column, Evaluator};
use crate::error::Result;
use crate::model::forest::{Forest, Test};

/// Rows of the synthetic batch.
const ROWS: usize = 4 * BLOCK;
/// Number of rows that are scored one by one.
const SINGLE_ROWS: usize = 16;
/// Number of runs, of which the fastest counts: the others were interrupted or met a cold cache.
const RUNS: usize = 5;
/// Number of runs of LightGBM, which takes most of the time.
const LIGHTGBM_RUNS: usize = 2;

/// Every evaluator that can score `forest` on this machine, LightGBM's first.
pub(crate) fn all(forest: &Arc<Forest>, lightgbm: Box<dyn Evaluator>) -> Vec<Box<dyn Evaluator>> {
    let mut evaluators = vec![lightgbm];
    if let Some(layout) = Layout::new(forest).map(Arc::new) {
        for rows in Rows::available(&layout).into_iter().map(Arc::new) {
            for kernel in Kernel::available() {
                for few in [0, 8, BLOCK] {
                    let (forest, layout, rows) = (Arc::clone(forest), Arc::clone(&layout), Arc::clone(&rows));
                    evaluators.push(Box::new(Blocks::new(forest, layout, kernel, rows, few)));
                }
            }
        }
    }
    evaluators
}

/// An evaluator's name and its time per row, nanoseconds.
pub(crate) type Measured = (&'static str, f64);

/// The fastest evaluator by measurement on synthetic rows, and the measurements; none if there is no choice.
pub(crate) fn fastest(
    forest: &Arc<Forest>,
    lightgbm: Box<dyn Evaluator>,
) -> Result<(Box<dyn Evaluator>, Vec<Measured>)> {
    let Some(layout) = Layout::new(forest).map(Arc::new) else {
        return Ok((lightgbm, Vec::new()));
    };
    let columns = synthetic_columns(forest);
    let batch = |rows: Range<usize>| {
        Batch::new(columns.iter().map(|column| Column::plain(&column[rows.clone()])).collect(), rows.len())
    };
    // Nanoseconds per row of one batch, and per row of single-row batches.
    let time = |evaluator: &dyn Evaluator, rows: usize, runs: usize| {
        nanoseconds(evaluator, &[batch(0..rows)?], forest.outputs, runs)
    };
    let time_single = |evaluator: &dyn Evaluator| {
        let rows = (0..SINGLE_ROWS).map(|row| batch(row..row + 1)).collect::<Result<Vec<_>>>()?;
        nanoseconds(evaluator, &rows, forest.outputs, RUNS)
    };
    let walks = Arc::new(Rows::Walks);
    let mut best = (time(lightgbm.as_ref(), BLOCK, LIGHTGBM_RUNS)?, None);
    let mut measured = vec![(lightgbm.name(), best.0)];
    for kernel in Kernel::available() {
        let evaluator = Blocks::new(Arc::clone(forest), Arc::clone(&layout), kernel, Arc::clone(&walks), 0);
        let taken = time(&evaluator, ROWS, RUNS)?;
        measured.push((evaluator.name(), taken));
        if taken < best.0 {
            best = (taken, Some(kernel));
        }
    }
    let (per_row, Some(kernel)) = best else {
        return Ok((lightgbm, measured));
    };
    let of_rows = |rows: &Arc<Rows>, few: usize| {
        Blocks::new(Arc::clone(forest), Arc::clone(&layout), kernel, Arc::clone(rows), few)
    };
    let mut single = (f64::INFINITY, walks);
    for rows in Rows::available(&layout).into_iter().map(Arc::new) {
        let taken = time_single(&of_rows(&rows, 1))?;
        measured.push((rows.name(), taken));
        if taken < single.0 {
            single = (taken, rows);
        }
    }
    // A block costs the same however few of its rows are used: below this number, scoring rows one by one is cheaper.
    let few = ((per_row * BLOCK as f64 / single.0) as usize).clamp(1, BLOCK);
    Ok((Box::new(of_rows(&single.1, few)), measured))
}

/// Nanoseconds per row over all the batches, in the fastest of several runs.
fn nanoseconds(evaluator: &dyn Evaluator, batches: &[Batch<'_>], outputs: usize, runs: usize) -> Result<f64> {
    let rows: usize = batches.iter().map(Batch::rows).sum();
    let mut scores = vec![0.0; rows * outputs];
    let mut shortest = Duration::MAX;
    for _ in 0..runs {
        let start = Instant::now();
        for batch in batches {
            evaluator.score(batch, &mut scores[..batch.rows() * outputs])?;
        }
        shortest = shortest.min(start.elapsed());
    }
    Ok(shortest.as_nanos().max(1) as f64 / rows as f64)
}

/// Values on both sides of the model's own thresholds; always the same for the same model.
fn synthetic_columns(forest: &Forest) -> Vec<Vec<f64>> {
    let mut thresholds = vec![Vec::new(); forest.features.len()];
    for node in forest.trees.iter().flat_map(|tree| &tree.nodes) {
        if let Test::Numerical { threshold, .. } = node.test {
            thresholds[node.feature].push(threshold);
        }
    }
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let value = |thresholds: &Vec<f64>, pick: usize, above: bool| match thresholds.get(pick) {
        Some(threshold) if above => threshold.next_up(),
        Some(threshold) => *threshold,
        None => pick as f64,
    };
    let column = |thresholds: &Vec<f64>| {
        (0..ROWS).map(|_| value(thresholds, next(thresholds.len().max(64)), next(2) == 0)).collect()
    };
    thresholds.iter().map(column).collect()
}
