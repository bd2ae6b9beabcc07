//! The AVX-512 form of [`super::kernel`]: a mask register holds the rows at a node, and small leaf tables stay in
//! vector registers.

use std::arch::x86_64::{
    __m512d, __m512i, _CMP_LT_OQ, _mm_loadl_epi64, _mm_storel_epi64, _mm512_add_pd, _mm512_cmp_pd_mask,
    _mm512_cvtepi64_epi8, _mm512_cvtepu8_epi64, _mm512_i64gather_pd, _mm512_loadu_pd, _mm512_loadu_si512,
    _mm512_mask_add_epi8, _mm512_mask_add_epi64, _mm512_mask_blend_pd, _mm512_mask_cmple_epu8_mask,
    _mm512_permutex2var_pd, _mm512_set1_epi8, _mm512_set1_epi64, _mm512_set1_pd, _mm512_setzero_pd,
    _mm512_setzero_si512, _mm512_storeu_pd, _mm512_storeu_si512, _mm512_test_epi64_mask,
};

use super::Batch;
use super::layout::{Layout, RankedFeature, Step, TreeView};
use super::ranks::{BLOCK, rank_block_with, rank_row_with};

/// Up to this many thresholds are compared one after another.
const FEW_THRESHOLDS: usize = 24;

/// Masks of two blocks by slot.
type Slots = [[u64; 2]; 256];

/// Adds the tree's value to the sum of every row; see [`super::kernel::Kernel::add_tree`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn add_tree(tree: TreeView<'_>, ranks: &[u8], columns: usize, sums: &mut [f64], slots: &mut Slots) {
    match tree.leaves.len() {
        16 => add_tree_of::<16>(tree, ranks, columns, sums, slots),
        32 => add_tree_of::<32>(tree, ranks, columns, sums, slots),
        64 => add_tree_of::<64>(tree, ranks, columns, sums, slots),
        _ => add_tree_of::<256>(tree, ranks, columns, sums, slots),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_tree_of<const N: usize>(tree: TreeView<'_>, ranks: &[u8], columns: usize, sums: &mut [f64], slots: &mut Slots) {
    let size = columns * BLOCK;
    let table = Table::<N>::new(tree.leaves);
    let mut pairs = ranks.chunks_exact(2 * size);
    let mut sum_pairs = sums.chunks_exact_mut(2 * BLOCK);
    for (ranks, sums) in pairs.by_ref().zip(sum_pairs.by_ref()) {
        let leaves = leaf_numbers::<2>(tree.steps, ranks, size, slots);
        table.add(leaves[0], &mut sums[..BLOCK]);
        table.add(leaves[1], &mut sums[BLOCK..]);
    }
    let (ranks, sums) = (pairs.remainder(), sum_pairs.into_remainder());
    if ranks.len() >= size && sums.len() >= BLOCK {
        let leaves = leaf_numbers::<1>(tree.steps, ranks, size, slots);
        table.add(leaves[0], &mut sums[..BLOCK]);
    }
}

/// The leaf numbers of the rows of `B` blocks of `size` bytes each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn leaf_numbers<const B: usize>(steps: &[Step], ranks: &[u8], size: usize, slots: &mut Slots) -> [__m512i; B] {
    assert!(ranks.len() >= B * size && B <= 2);
    let mut leaves = [_mm512_setzero_si512(); B];
    slots[0] = [u64::MAX; 2];
    for step in steps {
        let offset = usize::from(step.column) * BLOCK;
        let rank = _mm512_set1_epi8(step.rank as i8);
        let skip = _mm512_set1_epi8(step.skip as i8);
        let own = slots[usize::from(step.own)];
        let (mut left, mut right) = ([0; 2], [0; 2]);
        for block in 0..B {
            debug_assert!(offset + BLOCK <= size);
            // SAFETY: the layout only names columns below `columns`, so the load ends within this block.
            let values = unsafe { _mm512_loadu_si512(ranks.as_ptr().add(block * size + offset).cast()) };
            left[block] = _mm512_mask_cmple_epu8_mask(own[block], values, rank);
            right[block] = own[block] & !left[block];
            leaves[block] = _mm512_mask_add_epi8(leaves[block], right[block], leaves[block], skip);
        }
        slots[usize::from(step.left)] = left;
        slots[usize::from(step.right)] = right;
    }
    leaves
}

/// Ranks a block of rows; see [`super::ranks::rank_block`].
#[target_feature(enable = "avx512f,avx512bw,popcnt")]
pub(super) fn rank_block(layout: &Layout, batch: &Batch<'_>, start: usize, rows: usize, block: &mut [u8]) {
    rank_block_with(layout, batch, start, rows, block, |feature, values, rows| {
        if feature.count <= FEW_THRESHOLDS {
            count_by_threshold(&feature.thresholds[..feature.count], values)
        } else {
            count_by_value(feature, values, rows)
        }
    });
}

/// Ranks one row; see [`super::ranks::rank_row`].
#[target_feature(enable = "avx512f,avx512bw,popcnt")]
pub(super) fn rank_row(layout: &Layout, batch: &Batch<'_>, row: usize, ranks: &mut [u8]) {
    rank_row_with(layout, batch, row, ranks, |feature, value| {
        if feature.count <= 255 { rank_of(feature, _mm512_set1_pd(value)) } else { feature.rank(value) }
    });
}

/// Compares a value with the pivots, then with the 16 thresholds that remain.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,popcnt")]
fn rank_of(feature: &RankedFeature, value: __m512d) -> usize {
    let group = if feature.count < 16 { 0 } else { count_below(&feature.pivots, value) };
    group * 16 + count_below(&feature.thresholds.as_chunks::<16>().0[group], value)
}

/// Compares all values with one threshold after another.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn count_by_threshold(thresholds: &[f64], values: &[f64; BLOCK]) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    let one = _mm512_set1_epi64(1);
    for (values, bytes) in values.chunks_exact(32).zip(bytes.chunks_exact_mut(32)) {
        let mut counts = [_mm512_setzero_si512(); 4];
        // SAFETY: each of the four pieces has eight values.
        let values: [__m512d; 4] =
            std::array::from_fn(|piece| unsafe { _mm512_loadu_pd(values[piece * 8..].as_ptr()) });
        for &threshold in thresholds {
            let threshold = _mm512_set1_pd(threshold);
            for (count, values) in counts.iter_mut().zip(values) {
                let above = _mm512_cmp_pd_mask::<_CMP_LT_OQ>(threshold, values);
                *count = _mm512_mask_add_epi64(*count, above, *count, one);
            }
        }
        for (bytes, count) in bytes.chunks_exact_mut(8).zip(counts) {
            // SAFETY: eight bytes are written to a piece of eight.
            unsafe { _mm_storel_epi64(bytes.as_mut_ptr().cast(), _mm512_cvtepi64_epi8(count)) };
        }
    }
    bytes
}

/// Ranks one value after another.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,popcnt")]
fn count_by_value(feature: &RankedFeature, values: &[f64; BLOCK], rows: usize) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    for (value, byte) in values[..rows].iter().zip(&mut bytes) {
        *byte = rank_of(feature, _mm512_set1_pd(*value)) as u8;
    }
    bytes
}

/// Number of thresholds, of 16, below the value.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,popcnt")]
fn count_below(thresholds: &[f64; 16], value: __m512d) -> usize {
    // SAFETY: both loads lie within the 16 thresholds.
    let (low, high) = unsafe { (_mm512_loadu_pd(thresholds.as_ptr()), _mm512_loadu_pd(thresholds[8..].as_ptr())) };
    let low = _mm512_cmp_pd_mask::<_CMP_LT_OQ>(low, value);
    let high = _mm512_cmp_pd_mask::<_CMP_LT_OQ>(high, value);
    (u16::from(high) << 8 | u16::from(low)).count_ones() as usize
}

/// A tree's leaf values, in registers when there are at most 64.
struct Table<'a, const N: usize> {
    registers: [__m512d; 8],
    values: &'a [f64],
}

impl<'a, const N: usize> Table<'a, N> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(values: &'a [f64]) -> Self {
        let mut registers = [_mm512_setzero_pd(); 8];
        if N <= 64 {
            for (register, chunk) in registers.iter_mut().zip(values.chunks_exact(8)) {
                // SAFETY: a chunk has eight doubles.
                *register = unsafe { _mm512_loadu_pd(chunk.as_ptr()) };
            }
        }
        Self { registers, values }
    }

    /// Adds the value of each row's leaf to its sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn add(&self, leaves: __m512i, sums: &mut [f64]) {
        let mut numbers = [0_u8; BLOCK];
        // SAFETY: the array has 64 bytes.
        unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), leaves) };
        for (numbers, sums) in numbers.chunks_exact(8).zip(sums.chunks_exact_mut(8)) {
            // SAFETY: both chunks have eight elements; leaf numbers are below the number of leaves.
            unsafe {
                let numbers = _mm512_cvtepu8_epi64(_mm_loadl_epi64(numbers.as_ptr().cast()));
                let sum = _mm512_add_pd(_mm512_loadu_pd(sums.as_ptr()), self.look_up(numbers));
                _mm512_storeu_pd(sums.as_mut_ptr(), sum);
            }
        }
    }

    /// The values of eight leaves.
    ///
    /// # Safety
    /// The numbers are below `values.len()`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn look_up(&self, numbers: __m512i) -> __m512d {
        let pair = |at: usize| _mm512_permutex2var_pd(self.registers[at], numbers, self.registers[at + 1]);
        if N == 16 {
            return pair(0);
        }
        if N > 64 {
            // SAFETY: every number indexes `values`.
            return unsafe { _mm512_i64gather_pd::<8>(numbers, self.values.as_ptr()) };
        }
        let upper = _mm512_test_epi64_mask(numbers, _mm512_set1_epi64(16));
        let low = _mm512_mask_blend_pd(upper, pair(0), pair(2));
        if N == 32 {
            return low;
        }
        let high = _mm512_mask_blend_pd(upper, pair(4), pair(6));
        _mm512_mask_blend_pd(_mm512_test_epi64_mask(numbers, _mm512_set1_epi64(32)), low, high)
    }
}
