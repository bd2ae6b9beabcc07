//! Walks trees node by node, eight walks at a time so that their loads overlap: for a few rows, where blocks would be mostly
//! empty, and for trees with more leaves than a byte can number.

use super::layout::WalkNode;

/// Number of walks at a time.
pub(super) const WALKS: usize = 8;

/// Walks from the nodes `at`; walk `i` reads the ranks of a row at `rows[i]`; a row's ranks are `STRIDE` bytes apart.
/// Returns the leaves' indices.
#[inline]
pub(super) fn walk<const STRIDE: usize>(
    nodes: &[WalkNode],
    ranks: &[u8],
    mut at: [u32; WALKS],
    rows: [usize; WALKS],
) -> [u32; WALKS] {
    loop {
        let mut moved = 0;
        for _ in 0..3 {
            moved = 0;
            for walk in 0..WALKS {
                let node = nodes[at[walk] as usize];
                let rank = ranks[rows[walk] + usize::from(node.column()) * STRIDE];
                moved |= node.first() ^ at[walk];
                at[walk] = node.first() + u32::from(rank > node.rank());
            }
        }
        if moved == 0 {
            return at;
        }
    }
}
