//! One row at a time with AVX-512: a row's ranks are four vector registers, from which one byte permutation fetches the
//! ranks that two first pieces, or one later piece, compare. See [`super::pieces`].

use std::arch::x86_64::{
    __m512i, _mm256_loadu_si256, _mm512_castsi256_si512, _mm512_cmple_epu8_mask, _mm512_loadu_si512,
    _mm512_mask_blend_epi8, _mm512_movepi8_mask, _mm512_permutex2var_epi8, _mm512_permutexvar_epi8, _mm512_set1_epi32,
    _mm512_testn_epi32_mask, _mm512_xor_si512,
};

use super::pieces::{COLUMNS, EXITS, Exits, Pair, Pieces};

/// `true` if the processor has the instructions.
pub(super) fn is_able() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("bmi1")
}

/// Adds all trees to the sums of the row with these ranks.
///
/// # Safety
/// [`is_able`] must be `true` for the processor.
pub(super) unsafe fn add_trees(pieces: &Pieces, ranks: &[u8; COLUMNS], sums: &mut [f64]) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match (pieces.columns, pieces.pieces.is_empty()) {
            (0..=64, true) => add::<1, false>(pieces, ranks, sums),
            (0..=64, false) => add::<1, true>(pieces, ranks, sums),
            (65..=128, true) => add::<2, false>(pieces, ranks, sums),
            (65..=128, false) => add::<2, true>(pieces, ranks, sums),
            _ => add::<4, true>(pieces, ranks, sums),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1")]
fn add<const REGISTERS: usize, const DEEP: bool>(pieces: &Pieces, ranks: &[u8; COLUMNS], sums: &mut [f64]) {
    let row = Row::load(ranks);
    pieces.add_with(sums, |pair| values::<REGISTERS, DEEP>(pieces, pair, &row));
}

/// The values of the row's leaves in two trees.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1")]
fn values<const REGISTERS: usize, const DEEP: bool>(pieces: &Pieces, pair: &Pair, row: &Row) -> (f64, f64) {
    // SAFETY: both arrays have 64 bytes.
    let (columns, ranks) =
        unsafe { (_mm512_loadu_si512(pair.columns.as_ptr().cast()), _mm512_loadu_si512(pair.ranks.as_ptr().cast())) };
    let left = _mm512_cmple_epu8_mask(row.fetch::<REGISTERS>(columns), ranks);
    let [first, second] = &pair.exits;
    let (low, high) = (find(first, left as u32), find(second, (left >> 32) as u32));
    if DEEP {
        (follow::<REGISTERS>(pieces, first, low, row), follow::<REGISTERS>(pieces, second, high, row))
    } else {
        (first.values[low], second.values[high])
    }
}

/// Follows the pieces from an exit to the value of a leaf.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1")]
fn follow<const REGISTERS: usize>(pieces: &Pieces, exits: &Exits, exit: usize, row: &Row) -> f64 {
    let (mut exits, mut exit) = (exits, exit);
    while let Some(index) = exits.next[exit].checked_sub(1) {
        let piece = &pieces.pieces[index as usize];
        // SAFETY: both arrays have 32 bytes.
        let (columns, ranks) = unsafe {
            (_mm256_loadu_si256(piece.columns.as_ptr().cast()), _mm256_loadu_si256(piece.ranks.as_ptr().cast()))
        };
        let values = row.fetch::<REGISTERS>(_mm512_castsi256_si512(columns));
        let left = _mm512_cmple_epu8_mask(values, _mm512_castsi256_si512(ranks));
        exits = &piece.exits;
        exit = find(exits, left as u32);
    }
    exits.values[exit]
}

/// The exit whose path has these bits: the first match, since unused exits match any bits and come last.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,bmi1")]
fn find(exits: &Exits, bits: u32) -> usize {
    let bits = _mm512_set1_epi32(bits as i32);
    let half = |at: usize| {
        // SAFETY: `at` is 0 or 16 and 16 words follow it.
        let (want, care) = unsafe {
            (_mm512_loadu_si512(exits.want[at..].as_ptr().cast()), _mm512_loadu_si512(exits.care[at..].as_ptr().cast()))
        };
        u32::from(_mm512_testn_epi32_mask(_mm512_xor_si512(bits, want), care))
    };
    (half(0) | half(16) << 16).trailing_zeros() as usize % EXITS
}

/// A row's ranks in registers.
struct Row([__m512i; 4]);

impl Row {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(ranks: &[u8; COLUMNS]) -> Self {
        // SAFETY: the ranks are four times 64 bytes.
        Self(std::array::from_fn(|part| unsafe { _mm512_loadu_si512(ranks[part * 64..].as_ptr().cast()) }))
    }

    /// The ranks at 64 columns, which are in the first `REGISTERS` registers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn fetch<const REGISTERS: usize>(&self, columns: __m512i) -> __m512i {
        let [first, second, third, fourth] = self.0;
        match REGISTERS {
            1 => _mm512_permutexvar_epi8(columns, first),
            2 => _mm512_permutex2var_epi8(first, columns, second),
            _ => {
                let low = _mm512_permutex2var_epi8(first, columns, second);
                let high = _mm512_permutex2var_epi8(third, columns, fourth);
                _mm512_mask_blend_epi8(_mm512_movepi8_mask(columns), low, high)
            }
        }
    }
}
