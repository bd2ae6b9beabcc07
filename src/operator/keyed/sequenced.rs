//! Waiting rows, with the changes to their state table.
//!
//! Each row has a sequence number that grows with arrival; in the state table the routing key and the sequence number
//! identify it. A key's rows are in one shard at a time, and a shard continues after the largest number it restored, so
//! numbers never clash within a key, however often the pipeline is rescaled; rows of different keys may share a number.
//!
//! Two rows arrive; one is removed before a snapshot, one after:
//!
//! ```text
//! reserve x2, fill        sequences 0 1   fresh [0, 1]   written 0
//! remove sequence 0       not written yet, so there is nothing to delete
//! changes                 upserts the row with sequence 1; fresh [], written 2
//! remove sequence 1       1 < written, so its key and sequence number are added to the deletes
//! ```

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::layout::Layout;
use super::rows::{RowStore, pick};
use crate::error::{Context, Error, Result};
use crate::state::{KeyEquality, StateChange, StateTable};
use crate::time::Watermark;

const SEQUENCE: &str = "__sequence";

/// A waiting row: its number in the store and its sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting {
    pub sequence: i64,
    pub row: u32,
}

/// Waiting rows in the schema of an operator's input.
#[derive(Debug)]
pub struct SequencedRows {
    rows: RowStore,
    layout: Layout,
    routing: usize,
    next: i64,
    /// Rows below this sequence number have been written.
    written: i64,
    /// The sequence number of each row in the store; -1 for removed rows.
    sequences: Vec<i64>,
    /// Rows that arrived since the last `changes`; some may have been removed again.
    fresh: Vec<Waiting>,
    deletes: Vec<RecordBatch>,
}

impl SequencedRows {
    /// An empty store, for rows of schema `input`, routed by columns `keys`.
    pub fn new(input: &SchemaRef, keys: &[usize]) -> Self {
        Self {
            rows: RowStore::new(Arc::clone(input)),
            layout: Layout::new(input, keys, &[(SEQUENCE, DataType::Int64)]),
            routing: keys.len(),
            next: 0,
            written: 0,
            sequences: Vec::new(),
            fresh: Vec::new(),
            deletes: Vec::new(),
        }
    }

    /// The state table that holds the rows.
    pub fn table(&self, name: &'static str) -> StateTable {
        let mut key: Vec<usize> = (0..self.routing).collect();
        key.push(self.layout.width());
        let schema = Arc::clone(self.layout.schema());
        StateTable {
            name,
            schema,
            routing: self.routing,
            key,
            time: None,
            equality: KeyEquality::Bits,
            append_only: false,
        }
    }

    /// Reserves a place for the next row, in order of arrival; [`SequencedRows::fill`] stores it.
    pub fn reserve(&mut self) -> Waiting {
        let waiting = Waiting { sequence: self.next, row: self.rows.reserve() };
        self.next += 1;
        self.note(waiting);
        self.fresh.push(waiting);
        waiting
    }

    fn note(&mut self, waiting: Waiting) {
        let row = waiting.row as usize;
        if self.sequences.len() <= row {
            self.sequences.resize(row + 1, -1);
        }
        self.sequences[row] = waiting.sequence;
    }

    /// Stores reserved rows: the given rows of a batch.
    pub fn fill(&mut self, waiting: Vec<u32>, batch: &RecordBatch, rows: Vec<u32>) -> Result<()> {
        if !rows.is_empty() {
            self.rows.fill(waiting, pick(batch, rows)?);
        }
        Ok(())
    }

    /// The rows, in order.
    pub fn gather(&self, rows: &[u32]) -> Result<RecordBatch> {
        self.rows.gather(rows)
    }

    /// Removes rows.
    pub fn remove(&mut self, gone: &[u32]) -> Result<()> {
        let sequences = &self.sequences;
        let of_state: Vec<u32> = gone.iter().copied().filter(|&row| sequences[row as usize] < self.written).collect();
        if !of_state.is_empty() {
            let numbers: Int64Array = of_state.iter().map(|&row| sequences[row as usize]).collect();
            let rows = self.rows.gather(&of_state)?;
            let state = self.layout.to_state(rows.columns(), vec![Arc::new(numbers)])?;
            let mut columns: Vec<usize> = (0..self.routing).collect();
            columns.push(self.layout.width());
            self.deletes.push(state.project(&columns).internal(|| "keys cannot be projected".to_owned())?);
        }
        for &row in gone {
            self.sequences[row as usize] = -1;
            self.rows.remove(row);
        }
        Ok(())
    }

    /// Frees memory; to be called at the end of a step.
    pub fn tidy(&mut self) -> Result<()> {
        self.rows.tidy()
    }

    /// The changes since the last call, as changes of state table `table`.
    pub fn changes(&mut self, table: usize) -> Result<StateChange> {
        let sequences = &self.sequences;
        self.fresh.retain(|waiting| sequences[waiting.row as usize] == waiting.sequence);
        let mut upserts = Vec::new();
        if !self.fresh.is_empty() {
            let rows: Vec<u32> = self.fresh.iter().map(|waiting| waiting.row).collect();
            let numbers: Int64Array = self.fresh.iter().map(|waiting| Some(waiting.sequence)).collect();
            let numbers: ArrayRef = Arc::new(numbers);
            upserts.push(self.layout.to_state(self.rows.gather(&rows)?.columns(), vec![numbers])?);
        }
        self.fresh.clear();
        self.written = self.next;
        Ok(StateChange { table, upserts, deletes: std::mem::take(&mut self.deletes), cutoff: Watermark::NONE })
    }

    /// Restores rows from state: returns them in the input's schema, with their numbers.
    pub fn restore(&mut self, state: &RecordBatch) -> Result<(RecordBatch, Vec<Waiting>)> {
        let input = self.layout.to_input(state)?;
        let Some(numbers) = state.column(self.layout.width()).as_primitive_opt::<Int64Type>() else {
            return Err(Error::damaged("state rows have no sequence number"));
        };
        let mut waiting = Vec::with_capacity(input.num_rows());
        for &sequence in numbers.values() {
            let one = Waiting { sequence, row: self.rows.reserve() };
            self.note(one);
            self.next = self.next.max(sequence + 1);
            waiting.push(one);
        }
        self.written = self.next;
        let places = waiting.iter().map(|one| one.row).collect();
        self.fill(places, &input, (0..input.num_rows() as u32).collect())?;
        Ok((input, waiting))
    }

    /// Number of waiting rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.rows.bytes()
            + self.sequences.capacity() * size_of::<i64>()
            + self.fresh.capacity() * size_of::<Waiting>()
            + self.deletes.iter().map(RecordBatch::get_array_memory_size).sum::<usize>()
    }
}
