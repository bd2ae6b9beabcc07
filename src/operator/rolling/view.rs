//! A function over frames, and the rows and frames that it sees.

use arrow::array::ArrayRef;

use super::store::Store;
use crate::error::Result;

/// Rows to emit, and one frame of each.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) store: &'a Store,
    pub(super) keys: &'a [u32],
    /// First slot in the frame, and one past the last.
    pub(super) starts: &'a [u32],
    pub(super) ends: &'a [u32],
}

impl View<'_> {
    /// First slot in a row's frame, and one past the last.
    pub(super) fn frame(&self, row: usize) -> (usize, usize) {
        (self.starts[row] as usize, self.ends[row] as usize)
    }

    pub(super) fn frames(&self) -> impl ExactSizeIterator<Item = (usize, usize)> {
        self.starts.iter().zip(self.ends).map(|(start, end)| (*start as usize, *end as usize))
    }
}

/// A function over frames.
pub(super) trait Function: Send {
    /// The function's column for the rows of `view`.
    fn column(&mut self, view: View) -> Result<ArrayRef>;

    /// A row of the key was inserted at this ordinal, before existing rows.
    fn squeezed(&mut self, _key: u32, _ordinal: u64) {}

    /// The key was removed.
    fn forget(&mut self, _key: u32) {}

    /// Memory beyond the store.
    fn size(&self) -> usize {
        0
    }
}
