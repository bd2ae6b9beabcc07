//! Converts a batch's values to ranks, in blocks of 64 rows.
//!
//! A block is `columns` times 64 bytes, column by column, so that the mask kernels load the ranks of 64 rows in one column
//! with one instruction.

use std::hint::select_unpredictable;

use super::layout::{Layout, RankedFeature, SetColumn};
use super::{Batch, Column};
use crate::model::forest::{ZERO_THRESHOLD, holds_category};

/// Rows per block.
pub(super) const BLOCK: usize = 64;
/// Number of values searched at a time, so that their loads overlap.
const LANES: usize = 8;
/// Up to this many thresholds are compared one after another.
const FEW_THRESHOLDS: usize = 8;

/// Ranks the `rows` rows from `start` on (at most [`BLOCK`]) into `block`.
pub(super) fn rank_block(layout: &Layout, batch: &Batch<'_>, start: usize, rows: usize, block: &mut [u8]) {
    rank_block_with(layout, batch, start, rows, block, search_bytes);
}

/// [`rank_block`] with a given search for features of at most 255 thresholds, which counts the thresholds below each
/// of the first `rows` values.
#[inline(always)]
pub(super) fn rank_block_with(
    layout: &Layout,
    batch: &Batch<'_>,
    start: usize,
    rows: usize,
    block: &mut [u8],
    search: impl Fn(&RankedFeature, &[f64; BLOCK], usize) -> [u8; BLOCK],
) {
    for feature in &layout.features {
        rank_feature_with(feature, &batch.columns()[feature.feature], start, rows, block, &search);
    }
    rank_sets(layout, batch, start, rows, block);
}

/// Ranks one feature's values into its columns of `block`.
#[inline(always)]
pub(super) fn rank_feature_with(
    feature: &RankedFeature,
    column: &Column<'_>,
    start: usize,
    rows: usize,
    block: &mut [u8],
    search: impl Fn(&RankedFeature, &[f64; BLOCK], usize) -> [u8; BLOCK],
) {
    let values = Values::load(column, start, rows);
    if feature.count <= 255 {
        let ranks = search(feature, &values.values, rows);
        for column in &feature.columns {
            let target = &mut block[column.index * BLOCK..][..BLOCK];
            target.copy_from_slice(&ranks);
            values.substitute(column.nan, column.zero, target);
        }
    } else {
        let ranks = search_wide(&feature.thresholds, &values.values);
        for column in &feature.columns {
            let target = &mut block[column.index * BLOCK..][..BLOCK];
            for (target, &rank) in target.iter_mut().zip(&ranks) {
                *target = rank.saturating_sub(column.base).min(255) as u8;
            }
            values.substitute(column.nan, column.zero, target);
        }
    }
}

/// Ranks the values of categorical splits.
pub(super) fn rank_sets(layout: &Layout, batch: &Batch<'_>, start: usize, rows: usize, block: &mut [u8]) {
    for set in &layout.sets {
        rank_set(set, &batch.columns()[set.feature], start, rows, block);
    }
}

/// One feature's values in a block: nulls are NaN, values that count as zero are zero.
struct Values {
    values: [f64; BLOCK],
    nan: bool,
    zero: bool,
}

impl Values {
    #[inline(always)]
    fn load(column: &Column<'_>, start: usize, rows: usize) -> Self {
        let mut values = [0.0; BLOCK];
        if rows == BLOCK {
            column.copy_to(start, &mut values);
        } else {
            column.copy_to(start, &mut values[..rows]);
        }
        let (mut nan, mut zero) = (false, false);
        for value in &mut values {
            *value = if value.abs() <= ZERO_THRESHOLD { 0.0 } else { *value };
            nan |= value.is_nan();
            zero |= *value == 0.0;
        }
        Self { values, nan, zero }
    }

    /// Replaces the ranks of missing values.
    #[inline(always)]
    fn substitute(&self, nan: u8, zero: Option<u8>, ranks: &mut [u8]) {
        if self.nan {
            for (rank, value) in ranks.iter_mut().zip(&self.values) {
                *rank = if value.is_nan() { nan } else { *rank };
            }
        }
        if let Some(zero) = zero.filter(|_| self.zero) {
            for (rank, value) in ranks.iter_mut().zip(&self.values) {
                *rank = if *value == 0.0 { zero } else { *rank };
            }
        }
    }
}

/// Ranks by at most [`FEW_THRESHOLDS`] comparisons, or by binary search.
#[inline(always)]
pub(super) fn search_bytes(feature: &RankedFeature, values: &[f64; BLOCK], rows: usize) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    if feature.count <= FEW_THRESHOLDS {
        let mut counts = [0_u64; BLOCK];
        for threshold in &feature.thresholds[..feature.count] {
            for (count, value) in counts.iter_mut().zip(values) {
                *count += u64::from(threshold < value);
            }
        }
        for (byte, count) in bytes.iter_mut().zip(counts) {
            *byte = count as u8;
        }
    } else {
        let pieces = rows.div_ceil(LANES);
        for (values, bytes) in values.as_chunks().0.iter().zip(bytes.as_chunks_mut::<LANES>().0).take(pieces) {
            *bytes = search::<LANES>(&feature.thresholds, values).map(|rank| rank as u8);
        }
    }
    bytes
}

fn search_wide(thresholds: &[f64], values: &[f64; BLOCK]) -> [u32; BLOCK] {
    let mut ranks = [0; BLOCK];
    for (values, ranks) in values.as_chunks().0.iter().zip(ranks.as_chunks_mut::<LANES>().0) {
        *ranks = search::<LANES>(thresholds, values).map(|rank| rank as u32);
    }
    ranks
}

/// Counts the thresholds below each value by binary search without branches.
#[inline(always)]
fn search<const N: usize>(thresholds: &[f64], values: &[f64; N]) -> [usize; N] {
    let mut found = [0; N];
    let mut step = thresholds.len() / 2;
    while step > 0 {
        for lane in 0..N {
            let probe = thresholds[found[lane] + step - 1];
            found[lane] = select_unpredictable(probe < values[lane], found[lane] + step, found[lane]);
        }
        step /= 2;
    }
    found
}

/// Ranks one row, one byte per column; `search` counts a feature's thresholds below a value.
#[inline(always)]
pub(super) fn rank_row_with(
    layout: &Layout,
    batch: &Batch<'_>,
    row: usize,
    ranks: &mut [u8],
    search: impl Fn(&RankedFeature, f64) -> usize,
) {
    for feature in &layout.features {
        let value = batch.columns()[feature.feature].value(row);
        let value = if value.abs() <= ZERO_THRESHOLD { 0.0 } else { value };
        let rank = search(feature, value);
        for column in &feature.columns {
            ranks[column.index] = match column.zero {
                _ if value.is_nan() => column.nan,
                Some(zero) if value == 0.0 => zero,
                _ => rank.saturating_sub(column.base as usize).min(255) as u8,
            };
        }
    }
    for set in &layout.sets {
        let value = batch.columns()[set.feature].value(row);
        ranks[set.index] = u8::from(!holds_category(&set.words, value));
    }
}

/// Ranks one row, one byte per column.
pub(super) fn rank_row(layout: &Layout, batch: &Batch<'_>, row: usize, ranks: &mut [u8]) {
    rank_row_with(layout, batch, row, ranks, |feature, value| search(&feature.thresholds, &[value])[0]);
}

fn rank_set(set: &SetColumn, column: &Column<'_>, start: usize, rows: usize, block: &mut [u8]) {
    for (row, target) in block[set.index * BLOCK..][..rows].iter_mut().enumerate() {
        *target = u8::from(!holds_category(&set.words, column.value(start + row)));
    }
}
