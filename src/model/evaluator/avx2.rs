//! The AVX2 form of [`super::ranks`].

use std::arch::x86_64::{
    __m256d, _CMP_LT_OQ, _mm_add_epi64, _mm_cvtsi128_si64, _mm_unpackhi_epi64, _mm256_add_epi64, _mm256_castpd_si256,
    _mm256_castsi256_si128, _mm256_cmp_pd, _mm256_extracti128_si256, _mm256_loadu_pd, _mm256_set1_pd,
    _mm256_setzero_si256, _mm256_storeu_si256, _mm256_sub_epi64,
};

use super::Batch;
use super::layout::{Layout, RankedFeature};
use super::ranks::{BLOCK, rank_block_with, rank_row_with, search_bytes};

/// Up to this many thresholds are compared one after another.
const FEW_THRESHOLDS: usize = 16;

/// Ranks a block of rows; see [`super::ranks::rank_block`].
#[target_feature(enable = "avx2")]
pub(super) fn rank_block(layout: &Layout, batch: &Batch<'_>, start: usize, rows: usize, block: &mut [u8]) {
    rank_block_with(layout, batch, start, rows, block, |feature, values, rows| {
        if feature.count <= FEW_THRESHOLDS {
            count_by_threshold(&feature.thresholds[..feature.count], values, rows)
        } else {
            search_bytes(feature, values, rows)
        }
    });
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

/// How many of 16 thresholds are below the value.
#[inline]
#[target_feature(enable = "avx2")]
fn count_below(thresholds: &[f64; 16], value: __m256d) -> usize {
    let mut below = _mm256_setzero_si256();
    for four in thresholds.as_chunks::<4>().0 {
        // SAFETY: a chunk has four doubles.
        let four = unsafe { _mm256_loadu_pd(four.as_ptr()) };
        // A comparison that holds is -1.
        below = _mm256_sub_epi64(below, _mm256_castpd_si256(_mm256_cmp_pd::<_CMP_LT_OQ>(four, value)));
    }
    let two = _mm_add_epi64(_mm256_castsi256_si128(below), _mm256_extracti128_si256::<1>(below));
    _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two))) as usize
}

/// Compares all values with one threshold after another.
#[inline]
#[target_feature(enable = "avx2")]
fn count_by_threshold(thresholds: &[f64], values: &[f64; BLOCK], rows: usize) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    let pieces = values.as_chunks::<16>().0.iter().zip(bytes.as_chunks_mut::<16>().0);
    for (values, bytes) in pieces.take(rows.div_ceil(16)) {
        let values: [__m256d; 4] = std::array::from_fn(|piece| {
            // SAFETY: each of the four pieces has four doubles.
            unsafe { _mm256_loadu_pd(values[piece * 4..].as_ptr()) }
        });
        let mut counts = [_mm256_setzero_si256(); 4];
        for &threshold in thresholds {
            let threshold = _mm256_set1_pd(threshold);
            for (count, values) in counts.iter_mut().zip(values) {
                let above = _mm256_castpd_si256(_mm256_cmp_pd::<_CMP_LT_OQ>(threshold, values));
                *count = _mm256_add_epi64(*count, above);
            }
        }
        let mut numbers = [0_i64; 16];
        for (numbers, count) in numbers.as_chunks_mut::<4>().0.iter_mut().zip(counts) {
            // SAFETY: a chunk has four numbers.
            unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), count) };
        }
        for (byte, number) in bytes.iter_mut().zip(numbers) {
            *byte = number.unsigned_abs() as u8;
        }
    }
    bytes
}
