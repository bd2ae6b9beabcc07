//! One row at a time with AVX2: a row's ranks are registers of 16 bytes, and a piece's splits fetch theirs with a byte
//! shuffle from each register. See [`super::pieces`].

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_adds_epu8, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_castsi256_ps,
    _mm256_cmpeq_epi8, _mm256_cmpeq_epi32, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8,
    _mm256_movemask_ps, _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_sub_epi8, _mm256_xor_si256,
};

use super::pieces::{COLUMNS, EXITS, Exits, Pieces};

/// Bytes of a register that a shuffle reads from.
const REGISTER: usize = 16;

/// `true` if the processor has the instructions.
pub(super) fn is_able() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1")
}

/// Adds all trees to the sums of the row with these ranks.
///
/// # Safety
/// [`is_able`] must be `true` for the processor.
pub(super) unsafe fn add_trees(pieces: &Pieces, ranks: &[u8; COLUMNS], sums: &mut [f64]) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match pieces.columns.div_ceil(REGISTER) {
            0..=1 => add_by_depth::<1>(pieces, ranks, sums),
            2 => add_by_depth::<2>(pieces, ranks, sums),
            3..=4 => add_by_depth::<4>(pieces, ranks, sums),
            5..=8 => add_by_depth::<8>(pieces, ranks, sums),
            _ => add_by_depth::<16>(pieces, ranks, sums),
        }
    }
}

#[target_feature(enable = "avx2,bmi1")]
fn add_by_depth<const REGISTERS: usize>(pieces: &Pieces, ranks: &[u8; COLUMNS], sums: &mut [f64]) {
    if pieces.pieces.is_empty() {
        add::<REGISTERS, false>(pieces, ranks, sums);
    } else {
        add::<REGISTERS, true>(pieces, ranks, sums);
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi1")]
fn add<const REGISTERS: usize, const DEEP: bool>(pieces: &Pieces, ranks: &[u8; COLUMNS], sums: &mut [f64]) {
    let row = Row::<REGISTERS>::load(ranks);
    pieces.add_with(sums, |pair| {
        let (columns, ranks) = (pair.columns.as_chunks().0, pair.ranks.as_chunks().0);
        let [first, second] = &pair.exits;
        let low = find(first, row.left(&columns[0], &ranks[0]));
        let high = find(second, row.left(&columns[1], &ranks[1]));
        if DEEP {
            (follow(pieces, first, low, &row), follow(pieces, second, high, &row))
        } else {
            (first.values[low], second.values[high])
        }
    });
}

/// Follows the pieces from an exit to the value of a leaf.
#[inline]
#[target_feature(enable = "avx2,bmi1")]
fn follow<const REGISTERS: usize>(pieces: &Pieces, exits: &Exits, exit: usize, row: &Row<REGISTERS>) -> f64 {
    let (mut exits, mut exit) = (exits, exit);
    while let Some(index) = exits.next[exit].checked_sub(1) {
        let piece = &pieces.pieces[index as usize];
        exits = &piece.exits;
        exit = find(exits, row.left(&piece.columns, &piece.ranks));
    }
    exits.values[exit]
}

/// The exit whose path has these bits: the first match, since unused exits match any bits and come last.
#[inline]
#[target_feature(enable = "avx2,bmi1")]
fn find(exits: &Exits, bits: u32) -> usize {
    let bits = _mm256_set1_epi32(bits as i32);
    let (want, care) = (exits.want.as_chunks::<8>().0, exits.care.as_chunks::<8>().0);
    let mut found = 0;
    for (at, (want, care)) in want.iter().zip(care).enumerate() {
        // SAFETY: both chunks have eight words.
        let (want, care) =
            unsafe { (_mm256_loadu_si256(want.as_ptr().cast()), _mm256_loadu_si256(care.as_ptr().cast())) };
        let wrong = _mm256_and_si256(_mm256_xor_si256(bits, want), care);
        let right = _mm256_cmpeq_epi32(wrong, _mm256_setzero_si256());
        found |= (_mm256_movemask_ps(_mm256_castsi256_ps(right)) as u32) << (at * 8);
    }
    found.trailing_zeros() as usize % EXITS
}

/// A row's ranks in registers, each 16 bytes twice.
struct Row<const REGISTERS: usize>([__m256i; REGISTERS]);

impl<const REGISTERS: usize> Row<REGISTERS> {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(ranks: &[u8; COLUMNS]) -> Self {
        let ranks = ranks.as_chunks::<REGISTER>().0;
        // SAFETY: a chunk has 16 bytes.
        Self(std::array::from_fn(|part| unsafe {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(ranks[part].as_ptr().cast()))
        }))
    }

    /// A bit per split: set if the row goes left there.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn left(&self, columns: &[u8; EXITS], ranks: &[u8; EXITS]) -> u32 {
        // SAFETY: both arrays have 32 bytes.
        let (columns, ranks) =
            unsafe { (_mm256_loadu_si256(columns.as_ptr().cast()), _mm256_loadu_si256(ranks.as_ptr().cast())) };
        let values = self.fetch(columns);
        _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(values, ranks), values)) as u32
    }

    /// The ranks at 32 columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn fetch(&self, columns: __m256i) -> __m256i {
        if REGISTERS == 1 {
            return _mm256_shuffle_epi8(self.0[0], columns);
        }
        let mut values = _mm256_setzero_si256();
        for (part, register) in self.0.iter().enumerate() {
            // A column of this register keeps its low four bits and gets no high bit; all others get it, which gives 0.
            let within = _mm256_sub_epi8(columns, _mm256_set1_epi8((part * REGISTER) as i8));
            let within = _mm256_adds_epu8(within, _mm256_set1_epi8(0x70));
            values = _mm256_or_si256(values, _mm256_shuffle_epi8(*register, within));
        }
        values
    }
}
