//! Evaluating one tree for blocks of 64 rows at a time, without branching on the data.
//!
//! Every inner node is evaluated for all rows of a block: their ranks are compared with the node's rank, and the mask of
//! rows that reached the node is split into those that go left and those that go right. A row's leaf number, counted from
//! the left, is the sum of the leaves to the left of its path; the leaf's value is then added to the row's sum. The cost
//! does not depend on the data, and a comparison costs a fraction of a cycle per row, against a mispredicted jump in a walk.
//!
//! The same body is compiled for the plain instruction set and for AVX2 (the compiler vectorises it); for AVX-512 it is
//! written with mask registers and in-register table look-ups. The idea of rank bytes and row blocks follows RapidScorer (Ye
//! et al., KDD 2018); row masks replace its leaf masks, which makes the cost of a node independent of the number of leaves.

use super::Batch;
use super::layout::{Layout, Step, TreeView};
use super::ranks::{BLOCK, rank_block, rank_row};

/// A byte per row and slot, each slot in one cache line.
#[repr(align(64))]
struct ByteMasks([[u8; BLOCK]; 256]);

/// Buffers for the masks of rows that wait for a node, by slot.
pub(super) struct Masks {
    bytes: Box<ByteMasks>,
    #[cfg(target_arch = "x86_64")]
    bits: Box<[[u64; 2]; 256]>,
}

impl Default for Masks {
    fn default() -> Self {
        Self {
            bytes: Box::new(ByteMasks([[0; BLOCK]; 256])),
            #[cfg(target_arch = "x86_64")]
            bits: Box::new([[0; 2]; 256]),
        }
    }
}

/// An evaluation kernel that is available on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Detected),
    #[cfg(target_arch = "x86_64")]
    Avx512(Detected),
}

/// Proof that the processor was checked.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Detected(());

#[cfg(target_arch = "x86_64")]
impl Detected {
    /// A proof, if the processor is `able`.
    pub fn if_so(able: bool) -> Option<Self> {
        able.then_some(Self(()))
    }
}

impl Kernel {
    /// The kernels that this machine can run.
    pub fn available() -> Vec<Self> {
        let mut kernels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                kernels.push(Self::Avx2(Detected(())));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("popcnt")
            {
                kernels.push(Self::Avx512(Detected(())));
            }
        }
        kernels
    }

    /// A short name for display.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "blocks (portable)",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "blocks (avx2)",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "blocks (avx512)",
        }
    }

    /// Ranks a block of rows; see [`rank_block`].
    pub fn rank_block(self, layout: &Layout, batch: &Batch<'_>, start: usize, rows: usize, block: &mut [u8]) {
        match self {
            // SAFETY: a `Detected` is only made when the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => unsafe { super::avx512::rank_block(layout, batch, start, rows, block) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => unsafe { super::avx2::rank_block(layout, batch, start, rows, block) },
            Self::Portable => rank_block(layout, batch, start, rows, block),
        }
    }

    /// Ranks one row; see [`rank_row`].
    pub fn rank_row(self, layout: &Layout, batch: &Batch<'_>, row: usize, ranks: &mut [u8]) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => unsafe { super::avx512::rank_row(layout, batch, row, ranks) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => unsafe { super::avx2::rank_row(layout, batch, row, ranks) },
            Self::Portable => rank_row(layout, batch, row, ranks),
        }
    }

    /// Adds the tree's value to the sum of every row. `ranks` holds whole blocks of `columns` columns, and `sums` 64 sums
    /// per block.
    pub fn add_tree(self, tree: TreeView<'_>, ranks: &[u8], columns: usize, sums: &mut [f64], masks: &mut Masks) {
        debug_assert_eq!(ranks.len(), sums.len() * columns);
        match self {
            Self::Portable => portable(tree, ranks, columns, sums, masks),
            // SAFETY: a `Detected` is only made when the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => unsafe { avx2(tree, ranks, columns, sums, masks) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => unsafe { super::avx512::add_tree(tree, ranks, columns, sums, &mut masks.bits) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(tree: TreeView<'_>, ranks: &[u8], columns: usize, sums: &mut [f64], masks: &mut Masks) {
    portable(tree, ranks, columns, sums, masks);
}

#[inline(always)]
fn portable(tree: TreeView<'_>, ranks: &[u8], columns: usize, sums: &mut [f64], masks: &mut Masks) {
    for (ranks, sums) in ranks.chunks_exact(columns * BLOCK).zip(sums.as_chunks_mut::<BLOCK>().0) {
        let leaves = leaf_numbers(tree.steps, ranks.as_chunks().0, &mut masks.bytes.0);
        add_leaves(tree.leaves, &leaves, sums);
    }
}

/// The number of the leaf that each row of a block reaches.
#[inline(always)]
fn leaf_numbers(steps: &[Step], ranks: &[[u8; BLOCK]], masks: &mut [[u8; BLOCK]; 256]) -> [u8; BLOCK] {
    let mut leaves = [0_u8; BLOCK];
    masks[0] = [255; BLOCK];
    for step in steps {
        let own = masks[usize::from(step.own)];
        let ranks = &ranks[usize::from(step.column)];
        let (mut left, mut right) = ([0; BLOCK], [0; BLOCK]);
        for row in 0..BLOCK {
            let below = if ranks[row] <= step.rank { 255 } else { 0 };
            left[row] = own[row] & below;
            right[row] = own[row] & !below;
            leaves[row] = leaves[row].wrapping_add(right[row] & step.skip);
        }
        masks[usize::from(step.left)] = left;
        masks[usize::from(step.right)] = right;
    }
    leaves
}

/// Adds the value of each row's leaf to its sum.
#[inline(always)]
fn add_leaves(values: &[f64], leaves: &[u8; BLOCK], sums: &mut [f64; BLOCK]) {
    match values.len() {
        16 => add_from::<16>(values, leaves, sums),
        32 => add_from::<32>(values, leaves, sums),
        64 => add_from::<64>(values, leaves, sums),
        128 => add_from::<128>(values, leaves, sums),
        _ => add_from::<256>(values, leaves, sums),
    }
}

#[inline(always)]
fn add_from<const N: usize>(values: &[f64], leaves: &[u8; BLOCK], sums: &mut [f64; BLOCK]) {
    let Some(values) = values.first_chunk::<N>() else { return };
    for (sum, &leaf) in sums.iter_mut().zip(leaves) {
        *sum += values[usize::from(leaf) % N];
    }
}
