//! Layout of an operator's input rows in a state table: the routing key first, then the other columns, then columns that the
//! operator adds.
//!
//! Input columns `(id, user, amount)` routed by `user`, with an added `__sequence`:
//!
//! ```text
//! state    (user, id, amount, __sequence)
//! order    [1, 0, 2]    input column of each state column
//! places   [1, 0, 2]    state column of each input column
//! ```

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Context, ErrorKind, Result};

/// Maps the order of the input's columns to that of the state table, and back.
#[derive(Debug)]
pub struct Layout {
    input: SchemaRef,
    /// The input column of each state column; added columns follow.
    order: Vec<usize>,
    /// The state column of each input column.
    places: Vec<usize>,
    added: Vec<Field>,
    state: SchemaRef,
}

impl Layout {
    /// State rows of the columns of `input`: first the `routing` columns, at the end the `added` columns, which are never
    /// null.
    pub fn new(input: &SchemaRef, routing: &[usize], added: &[(&str, DataType)]) -> Self {
        let columns = input.fields().len();
        let mut order = routing.to_vec();
        order.extend((0..columns).filter(|column| !routing.contains(column)));
        let mut places = vec![0; columns];
        for (place, &column) in order.iter().enumerate().rev() {
            places[column] = place;
        }
        let added: Vec<_> = added.iter().map(|(name, kind)| Field::new(*name, kind.clone(), false)).collect();
        let mut fields: Vec<Field> = order.iter().map(|&column| input.field(column).clone()).collect();
        fields.extend(added.iter().cloned());
        Self { input: Arc::clone(input), order, places, added, state: Arc::new(Schema::new(fields)) }
    }

    /// The state table's schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.state
    }

    /// Number of state columns that hold input columns.
    pub fn width(&self) -> usize {
        self.order.len()
    }

    /// The state column of an input column.
    pub fn place(&self, column: usize) -> usize {
        self.places[column]
    }

    /// State rows from input columns and added columns.
    pub fn to_state(&self, columns: &[ArrayRef], added: Vec<ArrayRef>) -> Result<RecordBatch> {
        debug_assert_eq!(added.len(), self.added.len());
        let mut all: Vec<ArrayRef> = self.order.iter().map(|&column| Arc::clone(&columns[column])).collect();
        all.extend(added);
        RecordBatch::try_new(Arc::clone(&self.state), all).internal(|| "state rows do not fit their table".to_owned())
    }

    /// Input rows from state rows.
    pub fn to_input(&self, state: &RecordBatch) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = self.places.iter().map(|&place| Arc::clone(state.column(place))).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(state.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.input), columns, &options)
            .context(ErrorKind::Damaged, || "state rows do not fit the operator".to_owned())
    }
}

/// A batch in `schema`: the columns of `batch` followed by `added`.
pub fn with_columns(batch: &RecordBatch, added: Vec<ArrayRef>, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    columns.extend(added);
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .internal(|| "output rows do not fit the schema".to_owned())
}
