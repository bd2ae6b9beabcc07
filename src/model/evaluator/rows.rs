//! Scoring one row at a time: by pieces of trees where the processor has the instructions, otherwise by walks.

#[cfg(target_arch = "x86_64")]
use super::kernel::Detected;
use super::layout::Layout;
#[cfg(target_arch = "x86_64")]
use super::pieces::Pieces;
use super::walk::{WALKS, walk};
#[cfg(target_arch = "x86_64")]
use super::{row256, row512};

/// Number of bytes of a row's ranks that every method may read.
pub(super) const ROOM: usize = 256;

/// A method to sum the trees of one row.
#[derive(Debug)]
pub(super) enum Rows {
    /// Node by node.
    Walks,
    #[cfg(target_arch = "x86_64")]
    Avx2(Pieces, Detected),
    #[cfg(target_arch = "x86_64")]
    Avx512(Pieces, Detected),
}

impl Rows {
    /// The methods available on this machine for the forest.
    pub fn available(layout: &Layout) -> Vec<Self> {
        let mut ways = vec![Self::Walks];
        #[cfg(target_arch = "x86_64")]
        {
            ways.extend(
                Detected::if_so(row256::is_able())
                    .zip(Pieces::new(layout))
                    .map(|(able, pieces)| Self::Avx2(pieces, able)),
            );
            ways.extend(
                Detected::if_so(row512::is_able())
                    .zip(Pieces::new(layout))
                    .map(|(able, pieces)| Self::Avx512(pieces, able)),
            );
        }
        ways
    }

    /// A short name for display.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Walks => "walks (single rows)",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(..) => "pieces (avx2, single rows)",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(..) => "pieces (avx512, single rows)",
        }
    }

    /// Adds all trees to the sums of the row with these ranks, one per column; the bytes after them up to [`ROOM`] are
    /// ignored.
    pub fn add_trees(&self, layout: &Layout, ranks: &[u8], sums: &mut [f64]) {
        match self {
            Self::Walks => walk_trees(layout, ranks, sums),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(pieces, _) => {
                let Some(ranks) = ranks.first_chunk() else { return };
                // SAFETY: a `Detected` is only made when the processor has the features.
                unsafe { row256::add_trees(pieces, ranks, sums) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(pieces, _) => {
                let Some(ranks) = ranks.first_chunk() else { return };
                // SAFETY: as above.
                unsafe { row512::add_trees(pieces, ranks, sums) }
            }
        }
    }
}

/// Walks eight trees at a time.
fn walk_trees(layout: &Layout, ranks: &[u8], sums: &mut [f64]) {
    let mut output = 0;
    for trees in layout.trees.chunks(WALKS) {
        let roots = std::array::from_fn(|walk| trees[walk.min(trees.len() - 1)].root);
        let leaves = walk::<1>(&layout.walk, ranks, roots, [0; WALKS]);
        for leaf in &leaves[..trees.len()] {
            sums[output] += layout.walk_values[*leaf as usize];
            output = if output + 1 == sums.len() { 0 } else { output + 1 };
        }
    }
}
