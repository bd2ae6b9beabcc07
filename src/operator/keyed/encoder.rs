//! Encodes some columns of a batch as one comparable byte string per row, and decodes them.
//!
//! The bytes are arrow's row format: equal values give equal bytes, nulls equal each other, NaN equals NaN, and byte order
//! is the order of the sort options. No byte string of an encoder is a prefix of another. The buffer is reused.
//!
//! Two rows of a BIGINT and a VARCHAR, ascending (a byte that tells null from values, then the value; short strings in
//! blocks of 8 bytes, the last of which is followed by its length):
//!
//! ```text
//! ( 1, 'ab')   01 80 00 00 00 00 00 00 01   02 61 62 00 00 00 00 00 00 02
//! (-1, NULL)   01 7f ff ff ff ff ff ff ff   00
//! ```

use arrow::array::ArrayRef;
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};

use crate::equality::key_values;
use crate::error::{Context, Error, Result};

/// Encodes the same columns of batch after batch.
#[derive(Debug)]
pub struct Encoder {
    columns: Vec<usize>,
    types: Vec<DataType>,
    /// `None` without columns: then every row is the empty string.
    converter: Option<(RowConverter, Rows)>,
    rows: usize,
    /// `true` if values are normalized as keys: see [`key_values`].
    keys: bool,
}

impl Encoder {
    /// An encoder of `columns` of batches with `schema`, ordered by the options: equal values are peers.
    pub fn new(schema: &SchemaRef, columns: &[(usize, SortOptions)]) -> Result<Self> {
        let mut types = Vec::with_capacity(columns.len());
        let mut fields = Vec::with_capacity(columns.len());
        for &(column, options) in columns {
            let Some(field) = schema.fields().get(column) else {
                return Err(Error::internal(format!("column {column} is not in the input")));
            };
            types.push(field.data_type().clone());
            fields.push(SortField::new_with_options(field.data_type().clone(), options));
        }
        let converter = if fields.is_empty() {
            None
        } else {
            let converter = RowConverter::new(fields).internal(|| "columns cannot be encoded".to_owned())?;
            let rows = converter.empty_rows(0, 0);
            Some((converter, rows))
        };
        Ok(Self { columns: columns.iter().map(|(column, _)| *column).collect(), types, converter, rows: 0, keys: true })
    }

    /// An encoder of key columns: keys that are equal by [`key_values`] give equal bytes.
    pub fn of_keys(schema: &SchemaRef, columns: &[usize]) -> Result<Self> {
        Self::new(schema, &ascending(columns))
    }

    /// An encoder of `columns` that distinguishes, and restores, every bit.
    pub fn of_rows(schema: &SchemaRef, columns: &[usize]) -> Result<Self> {
        Ok(Self { keys: false, ..Self::new(schema, &ascending(columns))? })
    }

    /// Encodes a batch's rows in place of the previous ones.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<()> {
        let arrays: Vec<_> = self.columns.iter().map(|&column| ArrayRef::clone(batch.column(column))).collect();
        self.encode_arrays(&arrays, batch.num_rows())
    }

    /// Like [`Encoder::encode`], with the columns themselves.
    pub fn encode_arrays(&mut self, arrays: &[ArrayRef], rows: usize) -> Result<()> {
        self.rows = rows;
        if let Some((converter, encoded)) = &mut self.converter {
            let keys: Vec<ArrayRef>;
            let arrays = if self.keys {
                keys = arrays.iter().map(key_values).collect();
                &keys
            } else {
                arrays
            };
            encoded.clear();
            converter.append(encoded, arrays).internal(|| "columns cannot be encoded".to_owned())?;
        }
        Ok(())
    }

    /// Number of encoded rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// A row's bytes.
    pub fn row(&self, row: usize) -> &[u8] {
        self.converter.as_ref().map_or(&[], |(_, rows)| rows.row(row).data())
    }

    /// The columns that the bytes encode, typed as in the input.
    pub fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let Some((converter, _)) = &self.converter else { return Ok(Vec::new()) };
        let undecodable = || "encoded columns cannot be decoded".to_owned();
        let rows: Vec<&[u8]> = rows.collect();
        let parser = converter.parser();
        let decoded = converter.convert_rows(rows.iter().map(|bytes| parser.parse(bytes))).internal(undecodable)?;
        let typed = |(array, wanted): (ArrayRef, &DataType)| {
            if array.data_type() == wanted { Ok(array) } else { cast(&array, wanted).internal(undecodable) }
        };
        decoded.into_iter().zip(&self.types).map(typed).collect()
    }

    /// Memory of the buffer, in bytes.
    pub fn bytes(&self) -> usize {
        self.converter.as_ref().map_or(0, |(converter, rows)| converter.size() + rows.size())
    }
}

fn ascending(columns: &[usize]) -> Vec<(usize, SortOptions)> {
    columns.iter().map(|&column| (column, SortOptions::default())).collect()
}
