//! The AVX2 form of [`super::ranks`].

use std::arch::x86_64::{
    __m128i, __m256d, __m256i, _CMP_LE_OQ, _CMP_LT_OQ, _CMP_UNORD_Q, _mm_add_epi64, _mm_blendv_epi8, _mm_cvtsi128_si64,
    _mm_packs_epi16, _mm_set1_epi8, _mm_setr_epi8, _mm_shuffle_epi8, _mm_storeu_si128, _mm_unpackhi_epi64,
    _mm256_and_pd, _mm256_andnot_pd, _mm256_castpd_si256, _mm256_castps_si256, _mm256_castsi256_pd,
    _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cmp_pd, _mm256_extracti128_si256, _mm256_loadu_pd,
    _mm256_or_si256, _mm256_packs_epi32, _mm256_set1_epi64x, _mm256_set1_pd, _mm256_setzero_pd, _mm256_setzero_si256,
    _mm256_shuffle_ps, _mm256_sub_epi64, _mm256_testz_si256,
};

use super::layout::{Layout, RankColumn, RankedFeature};
use super::ranks::{BLOCK, rank_feature_with, rank_row_with, rank_sets, search_bytes};
use super::{Batch, Column};
use crate::model::forest::ZERO_THRESHOLD;

/// Up to this many thresholds are compared one after another.
const FEW_THRESHOLDS: usize = 32;
/// Number of values compared at a time.
const SIDE: usize = 16;

/// Ranks a block of rows; see [`super::ranks::rank_block`].
#[target_feature(enable = "avx2")]
pub(super) fn rank_block(layout: &Layout, batch: &Batch<'_>, start: usize, rows: usize, block: &mut [u8]) {
    for feature in &layout.features {
        let values = &batch.columns()[feature.feature];
        match feature.columns.as_slice() {
            [column] if feature.count <= FEW_THRESHOLDS => {
                let target = &mut block[column.index * BLOCK..][..BLOCK];
                rank_few(&feature.thresholds[..feature.count], column, values, start, rows, target);
            }
            _ => rank_feature_with(feature, values, start, rows, block, search_bytes),
        }
    }
    rank_sets(layout, batch, start, rows, block);
}

/// Ranks a feature of few thresholds and one column: every value is compared with every threshold.
#[target_feature(enable = "avx2")]
fn rank_few(
    thresholds: &[f64],
    column: &RankColumn,
    values: &Column<'_>,
    start: usize,
    rows: usize,
    target: &mut [u8],
) {
    for (index, target) in target.as_chunks_mut::<SIDE>().0.iter_mut().take(rows.div_ceil(SIDE)).enumerate() {
        let first = start + index * SIDE;
        match values.plain_from(first).and_then(<[f64]>::first_chunk) {
            Some(values) => rank_side(thresholds, column, values, target),
            None => {
                let mut copy = [0.0; SIDE];
                values.copy_to(first, &mut copy[..SIDE.min(rows - index * SIDE)]);
                rank_side(thresholds, column, &copy, target);
            }
        }
    }
}

/// Ranks 16 values by comparing all of them with one threshold after another.
#[inline]
#[target_feature(enable = "avx2")]
fn rank_side(thresholds: &[f64], column: &RankColumn, values: &[f64; SIDE], target: &mut [u8; SIDE]) {
    // Loops, not closures: code called by a closure is compiled for AVX2 only if it happens to be inlined.
    let magnitude = _mm256_castsi256_pd(_mm256_set1_epi64x(i64::MAX));
    let tiny = _mm256_set1_pd(ZERO_THRESHOLD);
    let mut fours = [_mm256_setzero_pd(); 4];
    let mut zeros = [_mm256_setzero_si256(); 4];
    let mut nans = [_mm256_setzero_si256(); 4];
    for piece in 0..4 {
        // SAFETY: each of the four pieces has four doubles.
        let four = unsafe { _mm256_loadu_pd(values[piece * 4..].as_ptr()) };
        let zero = _mm256_cmp_pd::<_CMP_LE_OQ>(_mm256_and_pd(four, magnitude), tiny);
        fours[piece] = _mm256_andnot_pd(zero, four);
        zeros[piece] = _mm256_castpd_si256(zero);
        nans[piece] = _mm256_castpd_si256(_mm256_cmp_pd::<_CMP_UNORD_Q>(four, four));
    }
    let mut below = [_mm256_setzero_si256(); 4];
    for &threshold in thresholds {
        let threshold = _mm256_set1_pd(threshold);
        for piece in 0..4 {
            // A true comparison is -1.
            let holds = _mm256_castpd_si256(_mm256_cmp_pd::<_CMP_LT_OQ>(threshold, fours[piece]));
            below[piece] = _mm256_sub_epi64(below[piece], holds);
        }
    }
    let mut ranks = bytes(below);
    let any = _mm256_or_si256(_mm256_or_si256(nans[0], nans[1]), _mm256_or_si256(nans[2], nans[3]));
    if _mm256_testz_si256(any, any) == 0 {
        ranks = _mm_blendv_epi8(ranks, _mm_set1_epi8(column.nan as i8), bytes(nans));
    }
    if let Some(zero) = column.zero {
        ranks = _mm_blendv_epi8(ranks, _mm_set1_epi8(zero as i8), bytes(zeros));
    }
    // SAFETY: the target has 16 bytes.
    unsafe { _mm_storeu_si128(target.as_mut_ptr().cast(), ranks) }
}

/// Sixteen numbers of -128 to 127 as bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes(numbers: [__m256i; 4]) -> __m128i {
    let (a, b) = (_mm256_castsi256_ps(numbers[0]), _mm256_castsi256_ps(numbers[1]));
    let (c, d) = (_mm256_castsi256_ps(numbers[2]), _mm256_castsi256_ps(numbers[3]));
    // The low halves, then 16 bits of each: the first two of each four in the lower lane, the others in the upper.
    let (ab, cd) = (_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0x88>(c, d));
    let words = _mm256_packs_epi32(_mm256_castps_si256(ab), _mm256_castps_si256(cd));
    let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
    _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15))
}

/// Ranks one row; see [`super::ranks::rank_row`].
#[target_feature(enable = "avx2")]
pub(super) fn rank_row(layout: &Layout, batch: &Batch<'_>, row: usize, ranks: &mut [u8]) {
    rank_row_with(layout, batch, row, ranks, |feature, value| {
        if feature.count <= 255 { rank_of(feature, _mm256_set1_pd(value)) } else { feature.rank(value) }
    });
}

/// Compares a value with the pivots, then with the 16 thresholds that remain.
#[inline]
#[target_feature(enable = "avx2")]
fn rank_of(feature: &RankedFeature, value: __m256d) -> usize {
    let group = if feature.count < 16 { 0 } else { count_below(&feature.pivots, value) };
    group * 16 + count_below(&feature.thresholds.as_chunks::<16>().0[group], value)
}

/// Number of thresholds, of 16, below the value.
#[inline]
#[target_feature(enable = "avx2")]
fn count_below(thresholds: &[f64; 16], value: __m256d) -> usize {
    let mut below = _mm256_setzero_si256();
    for four in thresholds.as_chunks::<4>().0 {
        // SAFETY: a chunk has four doubles.
        let four = unsafe { _mm256_loadu_pd(four.as_ptr()) };
        // A true comparison is -1.
        below = _mm256_sub_epi64(below, _mm256_castpd_si256(_mm256_cmp_pd::<_CMP_LT_OQ>(four, value)));
    }
    let two = _mm_add_epi64(_mm256_castsi256_si128(below), _mm256_extracti128_si256::<1>(below));
    _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two))) as usize
}
