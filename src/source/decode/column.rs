//! Growing Arrow columns that can be truncated, so that a bad record leaves no trace.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, Decimal128Array, ListArray, MapArray, PrimitiveArray,
    StringArray, StructArray, TimestampMicrosecondArray, types,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, FieldRef, Fields, TimeUnit};

use super::fault::sql_name;
use super::plan::Names;
use crate::catalog::TimestampUnit;
use crate::error::{Context, Error, Result};

/// A column under construction.
#[derive(Debug)]
pub(super) enum Column {
    Boolean(Values<bool>),
    Int8(Values<i8>),
    Int16(Values<i16>),
    Int32(Values<i32>),
    Int64(Values<i64>),
    Float32(Values<f32>),
    Float64(Values<f64>),
    Date(Values<i32>),
    Timestamp(Values<i64>, Option<Arc<str>>, TimestampUnit),
    Decimal(Values<i128>, u8, i8),
    Utf8(Bytes),
    Binary(Bytes),
    List(Box<List>),
    Map(Box<Map>),
    Struct(Box<Struct>),
}

/// Values of fixed size; for null, the type's default.
#[derive(Debug, Default)]
pub(super) struct Values<T> {
    pub(super) values: Vec<T>,
    pub(super) nulls: Nulls,
}

/// Indices of the null rows, ascending. Nulls are few in most columns.
#[derive(Debug, Default)]
pub(super) struct Nulls(Vec<u32>);

/// Byte strings of any length.
#[derive(Debug)]
pub(super) struct Bytes {
    pub(super) data: Vec<u8>,
    /// `len + 1` boundaries in `data`.
    pub(super) offsets: Vec<i32>,
    pub(super) nulls: Nulls,
}

/// ARRAY.
#[derive(Debug)]
pub(super) struct List {
    pub(super) field: FieldRef,
    pub(super) offsets: Vec<i32>,
    pub(super) items: Column,
    pub(super) nulls: Nulls,
}

/// MAP; keys are strings, as in JSON.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) entries: FieldRef,
    pub(super) pair: Fields,
    pub(super) sorted: bool,
    pub(super) offsets: Vec<i32>,
    pub(super) keys: Bytes,
    pub(super) values: Column,
    pub(super) nulls: Nulls,
}

/// STRUCT.
#[derive(Debug)]
pub(super) struct Struct {
    pub(super) fields: Fields,
    pub(super) names: Names,
    pub(super) columns: Vec<Column>,
    /// The number of columns inside it, at any depth: the least number of values that a row takes.
    pub(super) width: u32,
    pub(super) len: usize,
    pub(super) nulls: Nulls,
}

impl Nulls {
    /// Marks row `row` as null; rows must come in ascending order.
    pub(super) fn push(&mut self, row: usize) {
        self.0.push(row as u32);
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) {
        while self.0.last().is_some_and(|row| *row as usize >= len) {
            self.0.pop();
        }
    }

    fn finish(&self, len: usize) -> Option<NullBuffer> {
        if self.0.is_empty() {
            return None;
        }
        let mut valid = vec![true; len];
        for row in &self.0 {
            valid[*row as usize] = false;
        }
        Some(NullBuffer::from(valid))
    }
}

impl<T: Default> Values<T> {
    fn push_null(&mut self) {
        self.nulls.push(self.values.len());
        self.values.push(T::default());
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.nulls.truncate(len);
    }
}

impl Bytes {
    fn new() -> Self {
        Self { data: Vec::new(), offsets: vec![0], nulls: Nulls::default() }
    }

    /// Ends the value whose bytes were appended to `data`.
    #[inline(always)]
    pub(super) fn end_value(&mut self) {
        self.offsets.push(self.data.len() as i32);
    }

    /// Appends a value.
    #[inline(always)]
    pub(super) fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.end_value();
    }

    /// Appends `data[start..end]`; short values by one copy of fixed length, which is much cheaper than `memcpy`.
    #[inline(always)]
    pub(super) fn push_slice(&mut self, data: &[u8], start: usize, end: usize) {
        const BLOCK: usize = 32;
        let len = end - start;
        match data.get(start..start + BLOCK) {
            Some(block) if len <= BLOCK => {
                self.data.reserve(BLOCK);
                let old = self.data.len();
                // SAFETY: there is room for BLOCK bytes after `old`, `block` is BLOCK bytes of another allocation, and all
                // `len <= BLOCK` new bytes are written.
                unsafe {
                    std::ptr::copy_nonoverlapping(block.as_ptr(), self.data.as_mut_ptr().add(old), BLOCK);
                    self.data.set_len(old + len);
                }
            }
            _ => self.data.extend_from_slice(&data[start..end]),
        }
        self.end_value();
    }

    /// Drops bytes that belong to no complete value.
    pub(super) fn discard_partial(&mut self) {
        self.data.truncate(self.offsets.last().map_or(0, |end| *end as usize));
    }

    fn push_null(&mut self) {
        self.nulls.push(self.offsets.len() - 1);
        self.end_value();
    }

    fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len + 1);
        self.nulls.truncate(len);
        self.discard_partial();
    }
}

impl Column {
    /// An empty column; numbers in TIMESTAMP columns are of `unit`. Errors: a type that records cannot be decoded into.
    pub(super) fn new(data_type: &DataType, unit: TimestampUnit) -> Result<Self> {
        Ok(match data_type {
            DataType::Boolean => Self::Boolean(Values::default()),
            DataType::Int8 => Self::Int8(Values::default()),
            DataType::Int16 => Self::Int16(Values::default()),
            DataType::Int32 => Self::Int32(Values::default()),
            DataType::Int64 => Self::Int64(Values::default()),
            DataType::Float32 => Self::Float32(Values::default()),
            DataType::Float64 => Self::Float64(Values::default()),
            DataType::Date32 => Self::Date(Values::default()),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => Self::Timestamp(Values::default(), zone.clone(), unit),
            DataType::Decimal128(precision, scale) => Self::Decimal(Values::default(), *precision, *scale),
            DataType::Utf8 => Self::Utf8(Bytes::new()),
            DataType::Binary => Self::Binary(Bytes::new()),
            DataType::List(field) => Self::List(Box::new(List {
                field: Arc::clone(field),
                offsets: vec![0],
                items: Self::new(field.data_type(), unit)?,
                nulls: Nulls::default(),
            })),
            DataType::Map(entries, sorted) => Self::new_map(entries, *sorted, unit)?,
            DataType::Struct(fields) => Self::Struct(Box::new(Struct {
                fields: fields.clone(),
                names: Names::of(fields.iter().map(|field| field.name().as_bytes())),
                columns: fields.iter().map(|field| Self::new(field.data_type(), unit)).collect::<Result<_>>()?,
                width: fields.iter().map(|field| width(field.data_type())).sum(),
                len: 0,
                nulls: Nulls::default(),
            })),
            other => return Err(Error::sql(format!("records cannot be decoded into type `{}`", sql_name(other)))),
        })
    }

    fn new_map(entries: &FieldRef, sorted: bool, unit: TimestampUnit) -> Result<Self> {
        match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 && pair[0].data_type() == &DataType::Utf8 => {
                Ok(Self::Map(Box::new(Map {
                    entries: Arc::clone(entries),
                    pair: pair.clone(),
                    sorted,
                    offsets: vec![0],
                    keys: Bytes::new(),
                    values: Self::new(pair[1].data_type(), unit)?,
                    nulls: Nulls::default(),
                })))
            }
            other => Err(Error::sql(format!("records cannot be decoded into a MAP of `{}`", sql_name(other)))
                .with_hint("The keys of a MAP must be STRING.")),
        }
    }

    /// The number of rows so far.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Boolean(column) => column.values.len(),
            Self::Int8(column) => column.values.len(),
            Self::Int16(column) => column.values.len(),
            Self::Int32(column) | Self::Date(column) => column.values.len(),
            Self::Int64(column) | Self::Timestamp(column, ..) => column.values.len(),
            Self::Float32(column) => column.values.len(),
            Self::Float64(column) => column.values.len(),
            Self::Decimal(column, ..) => column.values.len(),
            Self::Utf8(column) | Self::Binary(column) => column.offsets.len() - 1,
            Self::List(column) => column.offsets.len() - 1,
            Self::Map(column) => column.offsets.len() - 1,
            Self::Struct(column) => column.len,
        }
    }

    /// True if the newest row is null.
    pub(super) fn last_is_null(&self) -> bool {
        let nulls = match self {
            Self::Boolean(column) => &column.nulls,
            Self::Int8(column) => &column.nulls,
            Self::Int16(column) => &column.nulls,
            Self::Int32(column) | Self::Date(column) => &column.nulls,
            Self::Int64(column) | Self::Timestamp(column, ..) => &column.nulls,
            Self::Float32(column) => &column.nulls,
            Self::Float64(column) => &column.nulls,
            Self::Decimal(column, ..) => &column.nulls,
            Self::Utf8(column) | Self::Binary(column) => &column.nulls,
            Self::List(column) => &column.nulls,
            Self::Map(column) => &column.nulls,
            Self::Struct(column) => &column.nulls,
        };
        nulls.0.last().is_some_and(|row| *row as usize + 1 == self.len())
    }

    /// Appends a null.
    pub(super) fn push_null(&mut self) {
        match self {
            Self::Boolean(column) => column.push_null(),
            Self::Int8(column) => column.push_null(),
            Self::Int16(column) => column.push_null(),
            Self::Int32(column) | Self::Date(column) => column.push_null(),
            Self::Int64(column) | Self::Timestamp(column, ..) => column.push_null(),
            Self::Float32(column) => column.push_null(),
            Self::Float64(column) => column.push_null(),
            Self::Decimal(column, ..) => column.push_null(),
            Self::Utf8(column) | Self::Binary(column) => column.push_null(),
            Self::List(column) => {
                column.nulls.push(column.offsets.len() - 1);
                column.offsets.push(column.items.len() as i32);
            }
            Self::Map(column) => {
                column.nulls.push(column.offsets.len() - 1);
                column.offsets.push(column.values.len() as i32);
            }
            Self::Struct(column) => {
                column.nulls.push(column.len);
                column.len += 1;
                column.columns.iter_mut().for_each(Self::push_null);
            }
        }
    }

    /// Truncates the column to `len` rows, and drops an incomplete value.
    pub(super) fn truncate(&mut self, len: usize) {
        match self {
            Self::Boolean(column) => column.truncate(len),
            Self::Int8(column) => column.truncate(len),
            Self::Int16(column) => column.truncate(len),
            Self::Int32(column) | Self::Date(column) => column.truncate(len),
            Self::Int64(column) | Self::Timestamp(column, ..) => column.truncate(len),
            Self::Float32(column) => column.truncate(len),
            Self::Float64(column) => column.truncate(len),
            Self::Decimal(column, ..) => column.truncate(len),
            Self::Utf8(column) | Self::Binary(column) => column.truncate(len),
            Self::List(column) => {
                column.offsets.truncate(len + 1);
                column.nulls.truncate(len);
                column.items.truncate(column.offsets[len] as usize);
            }
            Self::Map(column) => {
                column.offsets.truncate(len + 1);
                column.nulls.truncate(len);
                column.keys.truncate(column.offsets[len] as usize);
                column.values.truncate(column.offsets[len] as usize);
            }
            Self::Struct(column) => {
                column.len = len;
                column.nulls.truncate(len);
                column.columns.iter_mut().for_each(|inner| inner.truncate(len));
            }
        }
    }

    /// Makes room for `rows` more rows of the mean length so far.
    pub(super) fn reserve(&mut self, rows: usize) {
        match self {
            Self::Boolean(column) => column.values.reserve(rows),
            Self::Int8(column) => column.values.reserve(rows),
            Self::Int16(column) => column.values.reserve(rows),
            Self::Int32(column) | Self::Date(column) => column.values.reserve(rows),
            Self::Int64(column) | Self::Timestamp(column, ..) => column.values.reserve(rows),
            Self::Float32(column) => column.values.reserve(rows),
            Self::Float64(column) => column.values.reserve(rows),
            Self::Decimal(column, ..) => column.values.reserve(rows),
            Self::Utf8(column) | Self::Binary(column) => {
                let seen = (column.offsets.len() - 1).max(1);
                let mean = column.data.len().div_ceil(seen);
                column.data.reserve(mean * rows + mean * rows / 16 + 64);
                column.offsets.reserve(rows);
            }
            Self::List(column) => column.offsets.reserve(rows),
            Self::Map(column) => column.offsets.reserve(rows),
            Self::Struct(column) => column.columns.iter_mut().for_each(|inner| inner.reserve(rows)),
        }
    }

    /// The Arrow array.
    pub(super) fn finish(self) -> Result<ArrayRef> {
        Ok(match self {
            Self::Boolean(column) => {
                let nulls = column.nulls.finish(column.values.len());
                Arc::new(BooleanArray::new(BooleanBuffer::from(column.values), nulls))
            }
            Self::Int8(column) => primitive::<types::Int8Type>(column),
            Self::Int16(column) => primitive::<types::Int16Type>(column),
            Self::Int32(column) => primitive::<types::Int32Type>(column),
            Self::Int64(column) => primitive::<types::Int64Type>(column),
            Self::Float32(column) => primitive::<types::Float32Type>(column),
            Self::Float64(column) => primitive::<types::Float64Type>(column),
            Self::Date(column) => primitive::<types::Date32Type>(column),
            Self::Timestamp(column, zone, _) => {
                let nulls = column.nulls.finish(column.values.len());
                Arc::new(TimestampMicrosecondArray::new(column.values.into(), nulls).with_timezone_opt(zone))
            }
            Self::Decimal(column, precision, scale) => {
                let nulls = column.nulls.finish(column.values.len());
                let array = Decimal128Array::new(column.values.into(), nulls);
                Arc::new(array.with_precision_and_scale(precision, scale).internal(|| "bad decimal type".to_owned())?)
            }
            Self::Utf8(column) => Arc::new(column.finish_utf8()),
            Self::Binary(column) => {
                let nulls = column.nulls.finish(column.offsets.len() - 1);
                Arc::new(BinaryArray::new(offsets(column.offsets), column.data.into(), nulls))
            }
            Self::List(column) => {
                let nulls = column.nulls.finish(column.offsets.len() - 1);
                let items = column.items.finish()?;
                let array = ListArray::try_new(column.field, offsets(column.offsets), items, nulls);
                Arc::new(array.internal(|| "an ARRAY column does not fit together".to_owned())?)
            }
            Self::Map(column) => {
                let nulls = column.nulls.finish(column.offsets.len() - 1);
                let entries = StructArray::try_new(
                    column.pair,
                    vec![Arc::new(column.keys.finish_utf8()), column.values.finish()?],
                    None,
                );
                let entries = entries.internal(|| "a MAP column does not fit together".to_owned())?;
                let array = MapArray::try_new(column.entries, offsets(column.offsets), entries, nulls, column.sorted);
                Arc::new(array.internal(|| "a MAP column does not fit together".to_owned())?)
            }
            Self::Struct(column) => {
                let nulls = column.nulls.finish(column.len);
                let arrays = column.columns.into_iter().map(Self::finish).collect::<Result<_>>()?;
                let array = StructArray::try_new_with_length(column.fields, arrays, nulls, column.len);
                Arc::new(array.internal(|| "a STRUCT column does not fit together".to_owned())?)
            }
        })
    }
}

impl Bytes {
    fn finish_utf8(self) -> StringArray {
        let nulls = self.nulls.finish(self.offsets.len() - 1);
        // SAFETY: `json` and `csv` append to STRING columns only whole strings, map keys and source texts of records that
        // were checked to be UTF-8, cut at ASCII bytes, or characters from valid escapes.
        unsafe { StringArray::new_unchecked(offsets(self.offsets), self.data.into(), nulls) }
    }
}

/// The number of columns that a value of a type fills, even if only with nulls.
fn width(data_type: &DataType) -> u32 {
    match data_type {
        DataType::Struct(fields) => 1 + fields.iter().map(|field| width(field.data_type())).sum::<u32>(),
        _ => 1,
    }
}

fn primitive<T: ArrowPrimitiveType>(column: Values<T::Native>) -> ArrayRef {
    let nulls = column.nulls.finish(column.values.len());
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(column.values), nulls))
}

/// Offsets from boundaries that only grow, as `end_value` and the like append them; checked again in one pass.
fn offsets(boundaries: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(boundaries))
}
