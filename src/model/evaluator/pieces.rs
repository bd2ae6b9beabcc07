//! Trees cut into pieces for scoring one row at a time: many splits are compared at once, then all exits are checked at once
//! for the one that the row's path leads to.
//!
//! A piece has at most 31 splits and so at most 32 exits: leaves, or the roots of further pieces. It splits the largest
//! subtrees first, so that a path seldom crosses more than two or three pieces. A row's ranks are at most 256 bytes, which
//! fit in registers; `row256` and `row512` fetch from them the ranks that a piece compares. The comparison gives a bit per
//! split; the row leaves by the exit whose path has exactly these bits, and there is exactly one.

use super::layout::{LaidTree, Layout, Step};

/// Maximum number of exits of a piece; it has one split less.
pub(super) const EXITS: usize = 32;
/// Maximum number of columns of a row.
pub(super) const COLUMNS: usize = 256;

/// A forest cut into pieces.
#[derive(Debug)]
pub(super) struct Pieces {
    /// The first pieces of the trees, in pairs.
    pub tops: Vec<Pair>,
    /// All other pieces.
    pub pieces: Vec<Piece>,
    pub trees: usize,
    pub columns: usize,
}

/// The first pieces of two trees, whose splits share a register of 64 bytes.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Pair {
    pub columns: [u8; 2 * EXITS],
    pub ranks: [u8; 2 * EXITS],
    pub exits: [Exits; 2],
}

/// At most 31 splits and their exits.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Piece {
    pub columns: [u8; EXITS],
    pub ranks: [u8; EXITS],
    pub exits: Exits,
}

/// The exits of a piece: an exit's path has the bits `want` at the splits of `care`.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Exits {
    pub want: [u32; EXITS],
    pub care: [u32; EXITS],
    /// One more than the index of the next piece; 0 at a leaf.
    pub next: [u32; EXITS],
    pub values: [f64; EXITS],
}

impl Pieces {
    /// Cuts the trees; `None` if one is too large or there are too many columns.
    pub fn new(layout: &Layout) -> Option<Self> {
        if layout.columns > COLUMNS || layout.trees.iter().any(|tree| tree.steps.is_none()) {
            return None;
        }
        let mut pieces = Vec::new();
        let tops = layout.trees.chunks(2).map(|trees| Pair::new(trees, &mut pieces)).collect();
        Some(Self { tops, pieces, trees: layout.trees.len(), columns: layout.columns })
    }

    /// Adds the values of the row's leaves in the order of the trees; `values` finds them for two trees at a time.
    #[inline(always)]
    pub fn add_with(&self, sums: &mut [f64], values: impl Fn(&Pair) -> (f64, f64)) {
        if let [sum] = sums {
            // The unused half of an odd pair adds 0, which changes no sum: sums begin at 0, so none is -0.
            let mut total = *sum;
            for pair in &self.tops {
                let (first, second) = values(pair);
                total += first;
                total += second;
            }
            *sum = total;
            return;
        }
        let mut output = 0;
        for (index, pair) in self.tops.iter().enumerate() {
            let (first, second) = values(pair);
            for value in [first, second].into_iter().take(self.trees - index * 2) {
                sums[output] += value;
                output = if output + 1 == sums.len() { 0 } else { output + 1 };
            }
        }
    }
}

impl Exits {
    /// Unused exits: the first one matches, a leaf with the value 0.
    const UNUSED: Self = Self { want: [0; EXITS], care: [0; EXITS], next: [0; EXITS], values: [0.0; EXITS] };
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

/// A run of steps in preorder, with the path to it within a piece.
#[derive(Clone, Copy)]
struct Subtree {
    start: usize,
    /// Number of its splits; it has one leaf more.
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
    /// Cuts the piece at the root of a subtree, and appends the pieces below it to `pieces`.
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
