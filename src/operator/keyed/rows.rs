//! Rows kept in columns, each found by a number that does not change while the row lives.
//!
//! Rows are added a batch at a time, as segments, and removed one by one. [`RowStore::tidy`] rewrites segments that are at
//! least half dead and merges small ones of similar size, so that a row is copied a few times and memory is proportional to
//! the live rows.
//!
//! Four rows a b c d; a place is (segment, row):
//!
//! ```text
//! reserve x3, fill [0,1,2] [a,b,c]   segment 0: a b c, numbers 0 1 2            places (0,0) (0,1) (0,2)
//! remove(1)                          segment 0: numbers 0 DEAD 2, live 2        free [1]
//! reserve = 1, fill [1] [d]          segment 1: d, numbers 1                    places (0,0) (1,0) (0,2)
//! remove(0)                          segment 0: live 1 of 3, listed in shrunk   free [0]
//! tidy                               segment 0: c, numbers 2                    places (-,-) (1,0) (0,0)
//! ```

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, new_empty_array};
use arrow::compute::{interleave, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Context, Result};
use crate::state::compact_views;

/// A segment with at least this many live rows is not merged with others.
const FULL: usize = 1 << 16;
/// This many segments of similar size are merged.
const FAN_IN: usize = 8;
const DEAD: u32 = u32::MAX;

/// Numbered rows of one schema.
#[derive(Debug)]
pub struct RowStore {
    schema: SchemaRef,
    segments: Vec<Option<Segment>>,
    free_segments: Vec<u32>,
    /// Segment and row of each number.
    places: Vec<(u32, u32)>,
    free: Vec<u32>,
    live: usize,
    bytes: usize,
    /// Segments that may need rewriting.
    shrunk: Vec<u32>,
}

#[derive(Debug)]
struct Segment {
    batch: RecordBatch,
    numbers: Vec<u32>,
    live: usize,
    bytes: usize,
    shrunk: bool,
}

impl RowStore {
    /// An empty store.
    pub fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            segments: Vec::new(),
            free_segments: Vec::new(),
            places: Vec::new(),
            free: Vec::new(),
            live: 0,
            bytes: 0,
            shrunk: Vec::new(),
        }
    }

    /// Assigns a number to a row that [`RowStore::fill`] must store before it is accessed.
    pub fn reserve(&mut self) -> u32 {
        self.live += 1;
        self.free.pop().unwrap_or_else(|| {
            self.places.push((DEAD, 0));
            self.places.len() as u32 - 1
        })
    }

    /// Stores the rows of reserved numbers, in order. The batch must own no more memory than these rows need: see [`pick`].
    pub fn fill(&mut self, numbers: Vec<u32>, batch: RecordBatch) {
        debug_assert_eq!(numbers.len(), batch.num_rows());
        if numbers.is_empty() {
            return;
        }
        let bytes = batch.get_array_memory_size() + numbers.capacity() * size_of::<u32>();
        let number = self.free_segments.pop().unwrap_or(self.segments.len() as u32);
        for (row, &of) in numbers.iter().enumerate() {
            self.places[of as usize] = (number, row as u32);
        }
        let segment = Some(Segment { batch, live: numbers.len(), numbers, bytes, shrunk: false });
        self.bytes += bytes;
        if number as usize == self.segments.len() {
            self.segments.push(segment);
        } else {
            self.segments[number as usize] = segment;
        }
    }

    /// Removes a row; its number may be reused.
    pub fn remove(&mut self, number: u32) {
        let (at, row) = std::mem::replace(&mut self.places[number as usize], (DEAD, 0));
        self.free.push(number);
        self.live -= 1;
        let Some(Some(segment)) = self.segments.get_mut(at as usize) else { return };
        segment.numbers[row as usize] = DEAD;
        segment.live -= 1;
        if segment.live * 2 <= segment.numbers.len() && !segment.shrunk {
            segment.shrunk = true;
            self.shrunk.push(at);
        }
    }

    /// The rows of `numbers`, in order.
    pub fn gather(&self, numbers: &[u32]) -> Result<RecordBatch> {
        let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(numbers.len()));
        let columns = self.gather_columns(&columns, numbers)?;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).internal(unreadable)
    }

    /// Some columns of the rows of `numbers`, in order.
    pub fn gather_columns(&self, columns: &[usize], numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut used = vec![DEAD; self.segments.len()];
        let mut batches = Vec::new();
        let mut picks = Vec::with_capacity(numbers.len());
        for &number in numbers {
            let (at, row) = self.places[number as usize];
            let slot = &mut used[at as usize];
            if *slot == DEAD {
                *slot = batches.len() as u32;
                batches.extend(self.segments[at as usize].as_ref().map(|segment| &segment.batch));
            }
            picks.push((*slot as usize, row as usize));
        }
        match batches.as_slice() {
            [] => Ok(columns.iter().map(|&column| new_empty_array(self.schema.field(column).data_type())).collect()),
            [batch] => {
                let rows = UInt32Array::from_iter_values(picks.iter().map(|(_, row)| *row as u32));
                columns.iter().map(|&column| take(batch.column(column), &rows, None).internal(unreadable)).collect()
            }
            batches => {
                let gather = |&column: &usize| {
                    let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(column).as_ref()).collect();
                    interleave(&arrays, &picks).internal(unreadable)
                };
                columns.iter().map(gather).collect()
            }
        }
    }

    /// Frees memory; to be called at the end of a step.
    pub fn tidy(&mut self) -> Result<()> {
        for at in std::mem::take(&mut self.shrunk) {
            self.join(&[at])?;
        }
        let mut classes: Vec<Vec<u32>> = Vec::new();
        for (at, segment) in self.segments.iter().enumerate() {
            let Some(segment) = segment else { continue };
            if segment.live >= FULL {
                continue;
            }
            let class = segment.live.max(1).ilog(FAN_IN) as usize;
            if classes.len() <= class {
                classes.resize(class + 1, Vec::new());
            }
            classes[class].push(at as u32);
        }
        for class in classes {
            if class.len() >= FAN_IN {
                self.join(&class)?;
            }
        }
        Ok(())
    }

    /// Number of live rows.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes + self.places.capacity() * size_of::<(u32, u32)>() + self.free.capacity() * size_of::<u32>()
    }

    /// Merges the live rows of some segments into one.
    fn join(&mut self, segments: &[u32]) -> Result<()> {
        let mut numbers = Vec::new();
        for &at in segments {
            if let Some(segment) = &self.segments[at as usize] {
                numbers.extend(segment.numbers.iter().copied().filter(|&number| number != DEAD));
            }
        }
        let batch = compact_views(self.gather(&numbers)?)?;
        for &at in segments {
            if let Some(segment) = self.segments[at as usize].take() {
                self.bytes -= segment.bytes;
                self.free_segments.push(at);
            }
        }
        self.fill(numbers, batch);
        Ok(())
    }
}

fn unreadable() -> String {
    "remembered rows cannot be read".to_owned()
}

/// Copies some rows of a batch, without keeping the rest of it alive.
pub fn pick(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    let rows = UInt32Array::from(rows);
    compact_views(take_record_batch(batch, &rows).internal(|| "rows cannot be picked".to_owned())?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array, StringViewArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use arrow::record_batch::RecordBatch;
    use rand::rngs::StdRng;
    use rand::seq::IteratorRandom;
    use rand::{Rng, SeedableRng};

    use super::{RowStore, pick};

    #[test]
    fn rows_keep_their_numbers_and_memory_follows_the_living() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8View, true),
        ]));
        let mut rng = StdRng::seed_from_u64(3);
        let mut store = RowStore::new(Arc::clone(&schema));
        let mut expected: BTreeMap<u32, i64> = BTreeMap::new();
        let mut next = 0;
        for step in 0..400 {
            let rows = rng.random_range(0..60_i64);
            let values: Vec<i64> = (next..next + rows).collect();
            next += rows;
            let texts = values.iter().map(|v| Some(format!("a text too long to be inlined {v}")));
            let columns: Vec<arrow::array::ArrayRef> =
                vec![Arc::new(Int64Array::from(values.clone())), Arc::new(texts.collect::<StringViewArray>())];
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
            let chosen: Vec<u32> = (0..rows as u32).filter(|_| rng.random_bool(0.7)).collect();
            let numbers: Vec<u32> = chosen.iter().map(|_| store.reserve()).collect();
            expected.extend(numbers.iter().copied().zip(chosen.iter().map(|&row| values[row as usize])));
            store.fill(numbers, pick(&batch, chosen).unwrap());
            // The store holds at most about 500 rows.
            while expected.len() > 500 || (!expected.is_empty() && rng.random_bool(0.9)) {
                let number = *expected.keys().choose(&mut rng).unwrap();
                expected.remove(&number);
                store.remove(number);
            }
            store.tidy().unwrap();
            let numbers: Vec<u32> = expected.keys().copied().collect();
            let got = store.gather(&numbers).unwrap();
            let values: Vec<i64> = expected.values().copied().collect();
            assert_eq!(got.column(0).as_primitive::<Int64Type>().values(), values.as_slice(), "step {step}");
            assert_eq!(store.len(), expected.len());
        }
        assert!(store.bytes() < 400_000, "{} bytes for {} rows", store.bytes(), store.len());
    }
}
