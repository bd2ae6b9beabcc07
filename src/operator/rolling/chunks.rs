//! Values of any type, in chunks of arrow arrays, and references to their rows.
//!
//! A chunk lives as long as one of its rows is referred to; when most rows are dead the chunks are rewritten. A reference
//! has the chunk's number in its upper half and the row in its lower half.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef};
use arrow::compute::{concat, interleave};

use crate::error::{Context, Result};

/// Maximum number of rows in a chunk that batches are appended to.
const FULL: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunks: BTreeMap<u32, Chunk>,
    next: u32,
    held: usize,
    live: usize,
}

#[derive(Debug)]
struct Chunk {
    columns: Vec<ArrayRef>,
    rows: usize,
    live: usize,
}

impl Chunks {
    /// Stores rows, all referred to; the reference of row i is the returned value plus i.
    pub(super) fn push(&mut self, columns: Vec<ArrayRef>, rows: usize) -> Result<u64> {
        self.held += rows;
        self.live += rows;
        if let Some((number, last)) = self.chunks.last_key_value()
            && last.rows + rows <= FULL
        {
            let (number, before) = (*number, last.rows);
            let joined = last.columns.iter().zip(&columns).map(|(old, new)| concat(&[old, new]));
            let columns = joined.collect::<Result<Vec<_>, _>>().internal(failed)?;
            let live = last.live + rows;
            self.chunks.insert(number, Chunk { columns, rows: before + rows, live });
            return Ok(u64::from(number) << 32 | before as u64);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.chunks.insert(number, Chunk { columns, rows, live: rows });
        Ok(u64::from(number) << 32)
    }

    /// Drops a reference.
    pub(super) fn release(&mut self, reference: u64) {
        let number = (reference >> 32) as u32;
        let Some(chunk) = self.chunks.get_mut(&number) else { return };
        chunk.live -= 1;
        self.live -= 1;
        if chunk.live == 0 {
            self.held -= chunk.rows;
            self.chunks.remove(&number);
        }
    }

    /// The values of a column at the references, in their order; `None` takes row 0 of `default`.
    pub(super) fn gather(
        &self,
        column: usize,
        references: impl Iterator<Item = Option<u64>>,
        default: &ArrayRef,
    ) -> Result<ArrayRef> {
        let mut arrays: Vec<&dyn Array> = vec![default.as_ref()];
        let mut known: HashMap<u32, usize> = HashMap::new();
        let mut last = (u32::MAX, 0);
        let mut picks = Vec::with_capacity(references.size_hint().0);
        for reference in references {
            let Some(reference) = reference else {
                picks.push((0, 0));
                continue;
            };
            let (number, row) = ((reference >> 32) as u32, reference as u32 as usize);
            if last.1 == 0 || last.0 != number {
                let at = *known.entry(number).or_insert(arrays.len());
                if at == arrays.len() {
                    let chunk = self.chunks.get(&number);
                    let chunk =
                        chunk.ok_or_else(|| crate::error::Error::internal("a rolling row refers to nothing"))?;
                    arrays.push(chunk.columns[column].as_ref());
                }
                last = (number, at);
            }
            picks.push((last.1, row));
        }
        interleave(&arrays, &picks).internal(failed)
    }

    /// `true` if more than half of the stored rows are dead, and they are many.
    pub(super) fn is_wasteful(&self) -> bool {
        self.held > 2 * self.live + 4 * FULL
    }

    /// Keeps only the rows referred to, and returns their new references.
    pub(super) fn rewrite(&mut self, references: &[u64]) -> Result<Vec<u64>> {
        let columns = self.chunks.first_key_value().map_or(0, |(_, chunk)| chunk.columns.len());
        let mut renewed = Self { next: self.next, ..Self::default() };
        let mut new = Vec::with_capacity(references.len());
        for part in references.chunks(FULL) {
            let gathered = (0..columns).map(|column| {
                let of = part.first().and_then(|first| self.chunks.get(&((first >> 32) as u32)));
                let of = of.map(|chunk| chunk.columns[column].data_type().clone());
                let empty = arrow::array::new_null_array(&of.unwrap_or(arrow::datatypes::DataType::Null), 1);
                self.gather(column, part.iter().map(|reference| Some(*reference)), &empty)
            });
            let first = renewed.push(gathered.collect::<Result<Vec<_>>>()?, part.len())?;
            new.extend((0..part.len() as u64).map(|row| first + row));
        }
        *self = renewed;
        Ok(new)
    }

    /// Memory, in bytes; shared buffers count in full.
    pub(super) fn size(&self) -> usize {
        self.chunks.values().flat_map(|chunk| &chunk.columns).map(|column| column.get_array_memory_size()).sum()
    }
}

fn failed() -> String {
    "rolling rows cannot be gathered".to_owned()
}
