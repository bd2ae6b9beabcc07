//! Memory that begins at a cache line. Loads that cross lines slow down a kernel by up to half, and without alignment the
//! speed would depend on the address that an allocation happens to get.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// A slice of fixed length whose first value begins a cache line.
pub(super) struct Aligned<T> {
    room: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` default values.
    pub fn new(len: usize) -> Self {
        let spare = LINE / size_of::<T>().max(1);
        let room = vec![T::default(); len + spare];
        // Zero-sized or unalignable values begin wherever they can.
        let start = room.as_ptr().align_offset(LINE).min(spare);
        Self { room, start, len }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.room[self.start..][..self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.room[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_at_a_line_wherever_the_struct_moves() {
        for len in [0, 1, 63, 64, 1_000] {
            let bytes = Box::new(Aligned::<u8>::new(len));
            let doubles = Aligned::<f64>::new(len);
            assert_eq!((bytes.len(), doubles.len()), (len, len));
            assert_eq!(bytes.as_ptr().addr() % LINE, 0);
            assert_eq!(doubles.as_ptr().addr() % LINE, 0);
        }
    }
}
