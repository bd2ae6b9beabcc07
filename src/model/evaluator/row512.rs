//! One row at a time with AVX-512: many splits are compared at once, then all exits are asked at once whether the row's
//! path is theirs.
//!
//! Trees are cut into pieces of at most 31 splits, which have at most 32 exits: leaves, or the roots of further pieces.
//! A piece takes the largest subtrees first, so that a path seldom crosses more than two or three. A row's ranks are
//! at most 256 bytes, four vector registers, from which one byte permutation fetches the ranks that a piece compares.
//! The comparison gives a bit per split; an exit is the row's when the splits on its path have the bits that lead to
//! it, and exactly one is. The first pieces of two trees share a register.

use std::arch::x86_64::{
    __m512i, _mm256_loadu_si256, _mm512_castsi256_si512, _mm512_cmple_epu8_mask, _mm512_loadu_si512,
    _mm512_mask_blend_epi8, _mm512_movepi8_mask, _mm512_permutex2var_epi8, _mm512_permutexvar_epi8, _mm512_set1_epi32,
    _mm512_testn_epi32_mask, _mm512_xor_si512,
};

use super::layout::{LaidTree, Layout, Step};

/// Most exits of a piece; it has one split less.
const EXITS: usize = 32;
/// Most columns of a row.
pub(super) const COLUMNS: usize = 256;

/// A forest cut into pieces.
#[derive(Debug)]
pub(super) struct RowTrees {
    /// The first pieces of the trees, two by two.
    tops: Vec<Pair>,
    /// All other pieces.
    pieces: Vec<Piece>,
    trees: usize,
    columns: usize,
}

#[derive(Debug, Clone)]
#[repr(C, align(64))]
struct Pair {
    columns: [u8; 2 * EXITS],
    ranks: [u8; 2 * EXITS],
    exits: [Exits; 2],
}

#[derive(Debug, Clone)]
#[repr(C, align(64))]
struct Piece {
    columns: [u8; EXITS],
    ranks: [u8; EXITS],
    exits: Exits,
}

/// Where a piece leads: an exit's path has the bits `want` at the splits of `care`.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
struct Exits {
    want: [u32; EXITS],
    care: [u32; EXITS],
    /// One more than the index of the next piece, 0 at a leaf.
    next: [u32; EXITS],
    values: [f64; EXITS],
}

/// Whether the processor has the instructions.
fn is_able() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("bmi1")
}

impl RowTrees {
    /// Cuts the trees, unless one is too large, there are too many columns or the processor lacks an instruction.
    pub fn new(layout: &Layout) -> Option<Self> {
        if !is_able() || layout.columns > COLUMNS || layout.trees.iter().any(|tree| tree.steps.is_none()) {
            return None;
        }
        let mut pieces = Vec::new();
        let tops = layout.trees.chunks(2).map(|trees| Pair::new(trees, &mut pieces)).collect();
        Some(Self { tops, pieces, trees: layout.trees.len(), columns: layout.columns })
    }

    /// Adds all trees to the sums of the row with these ranks.
    pub fn add_to(&self, ranks: &[u8; COLUMNS], sums: &mut [f64]) {
        // SAFETY: the processor has the features, or `new` would have made nothing.
        unsafe {
            match (self.columns, self.pieces.is_empty()) {
                (0..=64, true) => self.add::<1, false>(ranks, sums),
                (0..=64, false) => self.add::<1, true>(ranks, sums),
                (65..=128, true) => self.add::<2, false>(ranks, sums),
                (65..=128, false) => self.add::<2, true>(ranks, sums),
                _ => self.add::<4, true>(ranks, sums),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1")]
    fn add<const REGISTERS: usize, const DEEP: bool>(&self, ranks: &[u8; COLUMNS], sums: &mut [f64]) {
        let row = Row::load(ranks);
        if let [sum] = sums {
            // The unused half of an odd pair adds 0, which changes no sum: sums begin at 0, so none is -0.
            let mut total = *sum;
            for pair in &self.tops {
                let (first, second) = self.values::<REGISTERS, DEEP>(pair, &row);
                total += first;
                total += second;
            }
            *sum = total;
            return;
        }
        let mut output = 0;
        for (index, pair) in self.tops.iter().enumerate() {
            let (first, second) = self.values::<REGISTERS, DEEP>(pair, &row);
            for value in [first, second].into_iter().take(self.trees - index * 2) {
                sums[output] += value;
                output = if output + 1 == sums.len() { 0 } else { output + 1 };
            }
        }
    }

    /// The values of the row's leaves in two trees.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1")]
    fn values<const REGISTERS: usize, const DEEP: bool>(&self, pair: &Pair, row: &Row) -> (f64, f64) {
        // SAFETY: both arrays have 64 bytes.
        let (columns, ranks) = unsafe {
            (_mm512_loadu_si512(pair.columns.as_ptr().cast()), _mm512_loadu_si512(pair.ranks.as_ptr().cast()))
        };
        let left = _mm512_cmple_epu8_mask(row.fetch::<REGISTERS>(columns), ranks);
        let [first, second] = &pair.exits;
        let (low, high) = (first.find(left as u32), second.find((left >> 32) as u32));
        if DEEP {
            (self.follow::<REGISTERS>(first, low, row), self.follow::<REGISTERS>(second, high, row))
        } else {
            (first.values[low], second.values[high])
        }
    }

    /// Goes on from an exit to the value of a leaf.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1")]
    fn follow<const REGISTERS: usize>(&self, exits: &Exits, exit: usize, row: &Row) -> f64 {
        let (mut exits, mut exit) = (exits, exit);
        while let Some(index) = exits.next[exit].checked_sub(1) {
            let piece = &self.pieces[index as usize];
            // SAFETY: both arrays have 32 bytes.
            let (columns, ranks) = unsafe {
                (_mm256_loadu_si256(piece.columns.as_ptr().cast()), _mm256_loadu_si256(piece.ranks.as_ptr().cast()))
            };
            let values = row.fetch::<REGISTERS>(_mm512_castsi256_si512(columns));
            let left = _mm512_cmple_epu8_mask(values, _mm512_castsi256_si512(ranks));
            exits = &piece.exits;
            exit = exits.find(left as u32);
        }
        exits.values[exit]
    }
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

    /// The ranks at 64 columns, which lie in the first `REGISTERS` registers.
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

impl Exits {
    /// Unused exits: the first is found, a leaf with the value 0.
    const UNUSED: Self = Self { want: [0; EXITS], care: [0; EXITS], next: [0; EXITS], values: [0.0; EXITS] };

    /// The exit whose path has these bits: the first that does, since unused exits have any bits and come last.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,bmi1")]
    fn find(&self, bits: u32) -> usize {
        let bits = _mm512_set1_epi32(bits as i32);
        let half = |at: usize| {
            // SAFETY: `at` is 0 or 16 and 16 words follow it.
            let (want, care) = unsafe {
                (
                    _mm512_loadu_si512(self.want[at..].as_ptr().cast()),
                    _mm512_loadu_si512(self.care[at..].as_ptr().cast()),
                )
            };
            u32::from(_mm512_testn_epi32_mask(_mm512_xor_si512(bits, want), care))
        };
        (half(0) | half(16) << 16).trailing_zeros() as usize % EXITS
    }
}

impl Pair {
    fn new(trees: &[LaidTree], pieces: &mut Vec<Piece>) -> Self {
        let mut pair = Self { columns: [0; 64], ranks: [0; 64], exits: [Exits::UNUSED; 2] };
        for (half, tree) in trees.iter().enumerate() {
            let steps = tree.steps.as_deref().unwrap_or_default();
            let top = Piece::cut(steps, &tree.leaves, Subtree::whole(steps), pieces);
            pair.columns[half * EXITS..][..EXITS].copy_from_slice(&top.columns);
            pair.ranks[half * EXITS..][..EXITS].copy_from_slice(&top.ranks);
            pair.exits[half] = top.exits;
        }
        pair
    }
}

/// A run of steps in preorder with the path that leads to it within a piece.
#[derive(Clone, Copy)]
struct Subtree {
    start: usize,
    /// Its splits; it has one leaf more.
    inner: usize,
    /// Its leftmost leaf.
    first: usize,
    care: u32,
    want: u32,
}

impl Subtree {
    fn whole(steps: &[Step]) -> Self {
        Self { start: 0, inner: steps.len(), first: 0, care: 0, want: 0 }
    }
}

impl Piece {
    /// Cuts the piece at the root of a subtree, and below it, into `pieces`, those that follow.
    fn cut(steps: &[Step], leaves: &[f64], root: Subtree, pieces: &mut Vec<Self>) -> Self {
        let mut piece = Self { columns: [0; EXITS], ranks: [0; EXITS], exits: Exits::UNUSED };
        let mut open = vec![Subtree { care: 0, want: 0, ..root }];
        for split in 0..EXITS - 1 {
            let Some(largest) = (0..open.len()).max_by_key(|&at| open[at].inner).filter(|&at| open[at].inner > 0)
            else {
                break;
            };
            let Subtree { start, inner, first, care, want } = open.swap_remove(largest);
            let step = steps[start];
            (piece.columns[split], piece.ranks[split]) = (step.column as u8, step.rank);
            let skip = usize::from(step.skip);
            let care = care | 1 << split;
            open.push(Subtree { start: start + 1, inner: skip - 1, first, care, want: want | 1 << split });
            open.push(Subtree { start: start + skip, inner: inner - skip, first: first + skip, care, want });
        }
        for (exit, subtree) in open.into_iter().enumerate() {
            (piece.exits.care[exit], piece.exits.want[exit]) = (subtree.care, subtree.want);
            if subtree.inner == 0 {
                piece.exits.values[exit] = leaves[subtree.first];
            } else {
                let next = Self::cut(steps, leaves, subtree, pieces);
                pieces.push(next);
                piece.exits.next[exit] = pieces.len() as u32;
            }
        }
        piece
    }
}
