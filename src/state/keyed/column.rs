//! Columns that are read and written by slot: plain vectors for fixed-width types, pieces of Arrow arrays for all others.
//!
//! A `Pieces` column keeps per slot a place, (piece, row). Four strings are written, then two of them replaced:
//!
//! ```text
//! put [0,1,2,3] [a,b,c,d]   piece 0: a b c d, owners 0 1 2 3, live 4     places (0,0) (0,1) (0,2) (0,3)
//! put [1] [B]               piece 0: live 3; piece 1: B, owner 1         places (0,0) (1,0) (0,2) (0,3)
//! put [2] [C]               piece 0: live 2; piece 2: C, owner 2         places (0,0) (1,0) (2,0) (0,3)
//!   then tidy               piece 2: a d B C, owners 0 3 1 2, live 4     places (2,0) (2,2) (2,3) (2,1)
//! ```
//!
//! After the second call the pieces stay apart, since piece 0 has more than twice as many live rows as all younger pieces
//! together. After the third, half of piece 0 is dead, and pieces 1 and 2 are young and small: all three are rewritten as
//! one, which reuses the number that was freed last.

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray, downcast_primitive, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::interleave;
use arrow::datatypes::DataType;
use std::sync::Arc;

use crate::error::{Context, Error, Result};

/// Pieces of at least this many live rows are not merged with younger ones, unless at least half of them is dead.
const LARGE: usize = 1 << 15;

/// Values of one type, one per slot; a slot that was never written is null.
pub(super) trait Column: Send {
    /// Makes room for slots below `slots`.
    fn reach(&mut self, slots: usize);

    /// The values of some slots, in the order of `slots`.
    fn gather(&self, slots: &[u32]) -> Result<ArrayRef>;

    /// Replaces the values of distinct slots.
    fn put(&mut self, slots: &[u32], values: &ArrayRef) -> Result<()>;

    /// Drops the values of slots where they own memory.
    fn clear(&mut self, slots: &[u32]) -> Result<()>;

    /// Memory, in bytes.
    fn bytes(&self) -> usize;
}

/// An empty column of a type.
pub(super) fn column(data_type: &DataType) -> Box<dyn Column> {
    macro_rules! primitive {
        ($t:ty, $data_type:expr) => {
            Box::new(Primitive::<$t>::new($data_type.clone()))
        };
    }
    downcast_primitive! {
        data_type => (primitive, data_type),
        DataType::Boolean => Box::new(Flags::default()),
        _ => Box::new(Pieces::new(data_type.clone())),
    }
}

fn mismatch(expected: &DataType, actual: &DataType) -> Error {
    Error::internal(format!("a state column of type `{expected}` was given values of type `{actual}`"))
}

/// Fixed-width values.
struct Primitive<T: ArrowPrimitiveType> {
    data_type: DataType,
    values: Vec<T::Native>,
    /// Per slot; empty until the first null is written.
    valid: Vec<bool>,
}

impl<T: ArrowPrimitiveType> Primitive<T> {
    fn new(data_type: DataType) -> Self {
        Self { data_type, values: Vec::new(), valid: Vec::new() }
    }
}

impl<T: ArrowPrimitiveType> Column for Primitive<T> {
    fn reach(&mut self, slots: usize) {
        if self.values.len() < slots {
            self.values.resize(slots, T::Native::default());
            if !self.valid.is_empty() {
                self.valid.resize(slots, false);
            }
        }
    }

    fn gather(&self, slots: &[u32]) -> Result<ArrayRef> {
        let values: Vec<T::Native> = slots.iter().map(|slot| self.values[*slot as usize]).collect();
        let nulls = (!self.valid.is_empty())
            .then(|| NullBuffer::from_iter(slots.iter().map(|slot| self.valid[*slot as usize])))
            .filter(|nulls| nulls.null_count() > 0);
        Ok(Arc::new(PrimitiveArray::<T>::new(values.into(), nulls).with_data_type(self.data_type.clone())))
    }

    fn put(&mut self, slots: &[u32], values: &ArrayRef) -> Result<()> {
        let values = values.as_primitive_opt::<T>().ok_or_else(|| mismatch(&self.data_type, values.data_type()))?;
        for (slot, value) in slots.iter().zip(values.values()) {
            self.values[*slot as usize] = *value;
        }
        if values.null_count() > 0 && self.valid.is_empty() {
            self.valid = vec![true; self.values.len()];
        }
        if !self.valid.is_empty() {
            for (row, slot) in slots.iter().enumerate() {
                self.valid[*slot as usize] = values.is_valid(row);
            }
        }
        Ok(())
    }

    fn clear(&mut self, _slots: &[u32]) -> Result<()> {
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<T::Native>() + self.valid.capacity()
    }
}

/// Booleans: null, false and true as 0, 1 and 2.
#[derive(Default)]
struct Flags {
    values: Vec<u8>,
}

impl Column for Flags {
    fn reach(&mut self, slots: usize) {
        if self.values.len() < slots {
            self.values.resize(slots, 0);
        }
    }

    fn gather(&self, slots: &[u32]) -> Result<ArrayRef> {
        let value = |slot: &u32| match self.values[*slot as usize] {
            0 => None,
            flag => Some(flag == 2),
        };
        Ok(Arc::new(slots.iter().map(value).collect::<BooleanArray>()))
    }

    fn put(&mut self, slots: &[u32], values: &ArrayRef) -> Result<()> {
        let values = values.as_boolean_opt().ok_or_else(|| mismatch(&DataType::Boolean, values.data_type()))?;
        for (slot, value) in slots.iter().zip(values) {
            self.values[*slot as usize] = value.map_or(0, |flag| 1 + u8::from(flag));
        }
        Ok(())
    }

    fn clear(&mut self, _slots: &[u32]) -> Result<()> {
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.values.capacity()
    }
}

/// Values of any type, kept in the arrays that they were written as. A piece of which at least half is dead is rewritten,
/// and young small pieces are merged, so that pieces stay few and waste small at an amortized logarithmic cost per value
/// written.
struct Pieces {
    data_type: DataType,
    places: Vec<Place>,
    pieces: Vec<Option<Piece>>,
    free: Vec<u32>,
    /// Pieces by age, the youngest last.
    ages: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    piece: u32,
    row: u32,
}

const NOWHERE: Place = Place { piece: u32::MAX, row: 0 };

struct Piece {
    values: ArrayRef,
    owners: Vec<u32>,
    live: usize,
    bytes: usize,
}

impl Pieces {
    fn new(data_type: DataType) -> Self {
        Self { data_type, places: Vec::new(), pieces: Vec::new(), free: Vec::new(), ages: Vec::new() }
    }

    fn piece(&self, id: u32) -> Option<&Piece> {
        self.pieces.get(id as usize).and_then(Option::as_ref)
    }

    /// Detaches slots from their pieces; adds pieces that are now mostly dead to `wasted`.
    fn leave(&mut self, slots: &[u32], wasted: &mut Vec<u32>) {
        for slot in slots {
            let place = std::mem::replace(&mut self.places[*slot as usize], NOWHERE);
            if let Some(piece) = self.pieces.get_mut(place.piece as usize).and_then(Option::as_mut) {
                piece.live -= 1;
                if piece.live * 2 <= piece.owners.len() && wasted.last() != Some(&place.piece) {
                    wasted.push(place.piece);
                }
            }
        }
    }

    fn add(&mut self, owners: Vec<u32>, values: ArrayRef) {
        let piece = Piece { bytes: values.get_array_memory_size(), live: owners.len(), values, owners };
        let id = self.free.pop().unwrap_or_else(|| {
            self.pieces.push(None);
            (self.pieces.len() - 1) as u32
        });
        for (row, slot) in piece.owners.iter().enumerate() {
            self.places[*slot as usize] = Place { piece: id, row: row as u32 };
        }
        self.pieces[id as usize] = Some(piece);
        self.ages.push(id);
    }

    /// Copies the live rows of pieces into one new piece.
    fn rewrite(&mut self, ids: &[u32]) -> Result<()> {
        let mut owners = Vec::new();
        let mut rows = Vec::new();
        let old: Vec<Piece> = ids.iter().filter_map(|id| self.pieces[*id as usize].take()).collect();
        for (source, (piece, id)) in old.iter().zip(ids).enumerate() {
            for (row, slot) in piece.owners.iter().enumerate() {
                if self.places[*slot as usize] == (Place { piece: *id, row: row as u32 }) {
                    owners.push(*slot);
                    rows.push((source, row));
                }
            }
        }
        self.ages.retain(|age| !ids.contains(age));
        self.free.extend(ids);
        if rows.is_empty() {
            return Ok(());
        }
        let sources: Vec<&dyn Array> = old.iter().map(|piece| piece.values.as_ref()).collect();
        let values = interleave(&sources, &rows).internal(|| "state values cannot be moved".to_owned())?;
        self.add(owners, values);
        Ok(())
    }

    /// Rewrites mostly dead pieces, together with young ones that have at most twice the live rows of all younger pieces.
    fn tidy(&mut self, mut wasted: Vec<u32>) -> Result<()> {
        wasted.sort_unstable();
        wasted.dedup();
        let mut sum = 0;
        let mut young = 0;
        for (position, id) in self.ages.iter().rev().enumerate() {
            let live = self.piece(*id).map_or(0, |piece| piece.live);
            if live >= LARGE || (position > 0 && live > 2 * sum) {
                break;
            }
            sum += live;
            young = position + 1;
        }
        if young > 1 {
            wasted.extend(
                self.ages[self.ages.len() - young..]
                    .iter()
                    .filter(|id| !wasted.contains(id))
                    .copied()
                    .collect::<Vec<_>>(),
            );
        }
        if wasted.is_empty() { Ok(()) } else { self.rewrite(&wasted) }
    }
}

impl Column for Pieces {
    fn reach(&mut self, slots: usize) {
        if self.places.len() < slots {
            self.places.resize(slots, NOWHERE);
        }
    }

    fn gather(&self, slots: &[u32]) -> Result<ArrayRef> {
        let nothing = new_null_array(&self.data_type, 1);
        let mut sources: Vec<&dyn Array> = vec![nothing.as_ref()];
        let mut source_of = vec![0; self.pieces.len()];
        let mut rows = Vec::with_capacity(slots.len());
        for slot in slots {
            let place = self.places[*slot as usize];
            let Some(piece) = self.piece(place.piece) else {
                rows.push((0, 0));
                continue;
            };
            let source = &mut source_of[place.piece as usize];
            if *source == 0 {
                *source = sources.len();
                sources.push(piece.values.as_ref());
            }
            rows.push((*source, place.row as usize));
        }
        interleave(&sources, &rows).internal(|| "state values cannot be read".to_owned())
    }

    fn put(&mut self, slots: &[u32], values: &ArrayRef) -> Result<()> {
        if !values.data_type().equals_datatype(&self.data_type) {
            return Err(mismatch(&self.data_type, values.data_type()));
        }
        if slots.is_empty() {
            return Ok(());
        }
        let mut wasted = Vec::new();
        self.leave(slots, &mut wasted);
        self.add(slots.to_vec(), Arc::clone(values));
        self.tidy(wasted)
    }

    fn clear(&mut self, slots: &[u32]) -> Result<()> {
        let mut wasted = Vec::new();
        self.leave(slots, &mut wasted);
        self.tidy(wasted)
    }

    fn bytes(&self) -> usize {
        let pieces: usize =
            self.pieces.iter().flatten().map(|piece| piece.bytes + piece.owners.capacity() * size_of::<u32>()).sum();
        pieces + self.places.capacity() * size_of::<Place>()
    }
}
