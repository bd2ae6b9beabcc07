//! Layout of a side's rows as a state table.
//!
//! The key columns come first, since they route; then the other columns, the row's number, and its facts: its weight, the
//! number of its matches, its arrival time.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::intake::batch;
use crate::error::{Context, Error, Result};
use crate::state::{KeyEquality, StateTable};

/// The facts that a side keeps of a row beyond its columns.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts {
    pub(super) weight: bool,
    pub(super) matches: bool,
    /// The arrival time, where the time is not a column.
    pub(super) clock: bool,
}

/// Values of those facts, a vector per fact; vectors of facts that are not kept are empty.
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) seqs: Vec<i64>,
    pub(super) weights: Vec<i64>,
    pub(super) matches: Vec<i64>,
    pub(super) clock: Vec<i64>,
}

pub(super) struct Layout {
    row: SchemaRef,
    keys: Vec<usize>,
    /// The row's columns that are not keys.
    rest: Vec<usize>,
    /// The position in the table of each of the row's columns.
    places: Vec<usize>,
    time: Option<usize>,
    facts: Facts,
    table: SchemaRef,
}

impl Layout {
    /// For rows of `row`, routed by `keys`; `time` is the column that they expire by.
    pub(super) fn new(row: SchemaRef, keys: &[usize], time: Option<usize>, facts: Facts) -> Self {
        let rest: Vec<usize> = (0..row.fields().len()).filter(|column| !keys.contains(column)).collect();
        let order: Vec<usize> = keys.iter().chain(&rest).copied().collect();
        let place = |column| order.iter().position(|&c| c == column).unwrap_or_default();
        let places = (0..row.fields().len()).map(place).collect();
        let mut fields: Vec<Arc<Field>> = order.iter().map(|&column| Arc::clone(&row.fields()[column])).collect();
        let extra =
            [(true, "__seq"), (facts.weight, "__weight"), (facts.matches, "__matches"), (facts.clock, "__came")];
        let extra = extra.into_iter().filter(|(kept, _)| *kept);
        fields.extend(extra.map(|(_, name)| Arc::new(Field::new(name, DataType::Int64, false))));
        let table = Arc::new(Schema::new(fields));
        Self { row, keys: keys.to_vec(), rest, places, time, facts, table }
    }

    fn seq(&self) -> usize {
        self.keys.len() + self.rest.len()
    }

    pub(super) fn table(&self, name: &'static str, append_only: bool) -> StateTable {
        let clock = self.facts.clock.then(|| self.table.fields().len() - 1);
        StateTable {
            name,
            schema: Arc::clone(&self.table),
            routing: self.keys.len(),
            key: (0..self.keys.len()).chain([self.seq()]).collect(),
            time: self.time.map(|column| self.places[column]).or(clock),
            equality: KeyEquality::Bits,
            append_only,
        }
    }

    /// The row's columns in the order that [`Layout::rows`] expects.
    pub(super) fn order(&self) -> Vec<usize> {
        self.keys.iter().chain(&self.rest).copied().collect()
    }

    /// Rows of the table, from columns in [`Layout::order`].
    pub(super) fn rows(&self, mut columns: Vec<ArrayRef>, noted: Noted) -> Result<RecordBatch> {
        let Facts { weight, matches, clock } = self.facts;
        let extra =
            [(true, noted.seqs), (weight, noted.weights), (matches, noted.matches), (clock, noted.clock)].into_iter();
        columns
            .extend(extra.filter(|(kept, _)| *kept).map(|(_, values)| Arc::new(Int64Array::from(values)) as ArrayRef));
        RecordBatch::try_new(Arc::clone(&self.table), columns)
            .internal(|| "state of a join cannot be written".to_owned())
    }

    /// The deletes of rows, from their key columns and numbers.
    pub(super) fn deletes(&self, mut columns: Vec<ArrayRef>, seqs: Vec<i64>) -> Result<RecordBatch> {
        let named: Vec<usize> = (0..self.keys.len()).chain([self.seq()]).collect();
        let schema = self.table.project(&named).internal(|| "state of a join cannot be written".to_owned())?;
        columns.push(Arc::new(Int64Array::from(seqs)));
        RecordBatch::try_new(Arc::new(schema), columns).internal(|| "state of a join cannot be written".to_owned())
    }

    /// The inverse of [`Layout::rows`]. Errors: the rows are not of this table.
    pub(super) fn read(&self, rows: &RecordBatch) -> Result<(RecordBatch, Noted)> {
        if rows.num_columns() != self.table.fields().len() {
            return Err(Error::damaged("state of a join has the wrong columns"));
        }
        let columns = self.places.iter().map(|&place| Arc::clone(rows.column(place))).collect();
        let row = batch(&self.row, columns, rows.num_rows())
            .map_err(|error| Error::damaged("state of a join has the wrong columns").with_source(error))?;
        let mut next = self.seq();
        let mut number = |kept: bool| -> Result<Vec<i64>> {
            if !kept {
                return Ok(Vec::new());
            }
            let column = rows.column(next).as_primitive_opt::<Int64Type>().filter(|column| column.null_count() == 0);
            next += 1;
            column
                .map(|column| column.values().to_vec())
                .ok_or_else(|| Error::damaged("state of a join has the wrong columns"))
        };
        let seqs = number(true)?;
        let weights = number(self.facts.weight)?;
        let matches = number(self.facts.matches)?;
        let clock = number(self.facts.clock)?;
        Ok((row, Noted { seqs, weights, matches, clock }))
    }
}
