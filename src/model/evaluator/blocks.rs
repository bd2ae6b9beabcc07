//! Our own evaluator: ranks, then trees, in tiles of rows that stay in the cache.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::aligned::Aligned;
use super::kernel::{Kernel, Masks};
use super::layout::{LaidTree, Layout, TreeView};
use super::ranks::BLOCK;
use super::rows::{ROOM, Rows};
use super::walk::{WALKS, walk};
use super::{Batch, Evaluator};
use crate::error::Result;
use crate::model::forest::Forest;

/// Blocks per tile: a tree's nodes are read once per tile, a tile's ranks once per tree.
const TILE_BLOCKS: usize = 8;
const TILE: usize = TILE_BLOCKS * BLOCK;

/// Evaluates in blocks of 64 rows with one of the kernels; rows that would leave a block mostly empty are scored one by one.
pub struct Blocks {
    forest: Arc<Forest>,
    layout: Arc<Layout>,
    kernel: Kernel,
    rows: Arc<Rows>,
    /// Up to this many rows are scored one by one.
    few: usize,
    idle: Mutex<Vec<Scratch>>,
}

/// Working memory of one thread.
struct Scratch {
    ranks: Aligned<u8>,
    /// Sums by output, then by row of the tile.
    sums: Aligned<f64>,
    masks: Masks,
    /// The ranks of a single row.
    row: Aligned<u8>,
}

impl Blocks {
    /// An evaluator that scores the last rows of a batch one by one if there are at most `few`.
    pub(super) fn new(forest: Arc<Forest>, layout: Arc<Layout>, kernel: Kernel, rows: Arc<Rows>, few: usize) -> Self {
        Self { forest, layout, kernel, rows, few: few.min(BLOCK), idle: Mutex::new(Vec::new()) }
    }

    fn scratch(&self) -> Scratch {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| Scratch {
            ranks: Aligned::new(TILE * self.layout.columns.max(1)),
            sums: Aligned::new(TILE * self.layout.outputs),
            masks: Masks::default(),
            row: Aligned::new(self.layout.columns.max(ROOM)),
        })
    }

    /// Sums the trees for the rows `start..start + scores.len() / outputs`, at most a tile.
    fn score_tile(&self, batch: &Batch<'_>, start: usize, scores: &mut [f64], scratch: &mut Scratch) {
        let outputs = self.layout.outputs;
        let rows = scores.len() / outputs;
        let block_size = BLOCK * self.layout.columns.max(1);
        let (full, rest) = (rows / BLOCK, rows % BLOCK);
        let blocks = if rest > self.few { full + 1 } else { full };
        for (index, block) in scratch.ranks.chunks_exact_mut(block_size).take(blocks).enumerate() {
            let done = index * BLOCK;
            self.kernel.rank_block(&self.layout, batch, start + done, BLOCK.min(rows - done), block);
        }
        if blocks > 0 {
            scratch.sums.fill(0.0);
            let ranks = &scratch.ranks[..blocks * block_size];
            for (index, tree) in self.layout.trees.iter().enumerate() {
                let sums = &mut scratch.sums[index % outputs * TILE..][..blocks * BLOCK];
                match &tree.steps {
                    Some(steps) => {
                        let tree = TreeView { steps, leaves: &tree.leaves };
                        self.kernel.add_tree(tree, ranks, block_size / BLOCK, sums, &mut scratch.masks);
                    }
                    None => self.walk_rows(tree, ranks, block_size, sums),
                }
            }
            for (row, scores) in scores.chunks_exact_mut(outputs).take(blocks * BLOCK).enumerate() {
                for (output, score) in scores.iter_mut().enumerate() {
                    *score = scratch.sums[output * TILE + row];
                }
            }
        }
        for row in blocks * BLOCK..rows {
            self.score_row(batch, start + row, &mut scores[row * outputs..][..outputs], scratch);
        }
    }

    /// Sums the trees for one row.
    fn score_row(&self, batch: &Batch<'_>, row: usize, sums: &mut [f64], scratch: &mut Scratch) {
        sums.fill(0.0);
        self.kernel.rank_row(&self.layout, batch, row, &mut scratch.row);
        self.rows.add_trees(&self.layout, &scratch.row, sums);
    }

    /// Adds one tree to the sums of many rows.
    fn walk_rows(&self, tree: &LaidTree, ranks: &[u8], block_size: usize, sums: &mut [f64]) {
        for (index, sums) in sums.chunks_exact_mut(WALKS).enumerate() {
            let row = index * WALKS;
            let first = row / BLOCK * block_size + row % BLOCK;
            let places = std::array::from_fn(|walk| first + walk);
            let leaves = walk::<BLOCK>(&self.layout.walk, ranks, [tree.root; WALKS], places);
            for (sum, leaf) in sums.iter_mut().zip(leaves) {
                *sum += self.layout.walk_values[leaf as usize];
            }
        }
    }
}

impl Evaluator for Blocks {
    fn name(&self) -> &'static str {
        self.kernel.name()
    }

    fn score(&self, batch: &Batch<'_>, scores: &mut [f64]) -> Result<()> {
        let outputs = self.layout.outputs;
        let mut scratch = self.scratch();
        for (index, scores) in scores.chunks_mut(TILE * outputs).enumerate() {
            self.score_tile(batch, index * TILE, scores, &mut scratch);
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        self.forest.finish(scores);
        Ok(())
    }
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks")
            .field("kernel", &self.kernel)
            .field("rows", &self.rows.name())
            .field("few", &self.few)
            .finish_non_exhaustive()
    }
}
