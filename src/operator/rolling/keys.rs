//! Maps key values to dense numbers.
//!
//! Owns the hash table from PARTITION BY values to key numbers, which index all other data that an operator keeps per key.
//! Numbers of removed keys are reused. Equal values (nulls equal each other) have one number. Knows nothing of rows.

use std::hash::BuildHasher;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Date32Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use datafusion::common::hash_utils::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::equality::key_values;
use crate::error::{Context, Result};

/// Garbage of removed keys, in bytes, is tolerated up to this size, or up to half of all key bytes.
const GARBAGE: usize = 1 << 16;

/// The keys in state, each with its number.
pub(super) struct Keys {
    encoding: Encoding,
    table: HashTable<u32>,
    hasher: RandomState,
    null: Option<u32>,
    /// Both by number; the encoding determines which of them is used.
    natives: Vec<u64>,
    spans: Vec<Span>,
    bytes: Vec<u8>,
    garbage: usize,
    free: Vec<u32>,
    next: u32,
}

/// Representation of keys for comparison.
enum Encoding {
    /// No columns: one key.
    Unit,
    /// One column of at most 64 bits.
    Native,
    /// One column of strings.
    Text,
    /// Anything else, as row bytes.
    Rows(RowConverter),
}

#[derive(Clone, Copy, Default)]
struct Span {
    start: usize,
    len: u32,
}

impl Keys {
    /// An empty table for key columns of these types.
    pub(super) fn new(types: &[DataType]) -> Result<Self> {
        use DataType as T;
        let encoding = match types {
            [] => Encoding::Unit,
            [T::Int64 | T::Int32 | T::Date32 | T::Timestamp(TimeUnit::Microsecond, _)] => Encoding::Native,
            [T::Utf8] => Encoding::Text,
            _ => {
                let fields = types.iter().map(|of| SortField::new(of.clone())).collect();
                Encoding::Rows(RowConverter::new(fields).internal(|| "keys cannot be encoded".to_owned())?)
            }
        };
        Ok(Self {
            encoding,
            table: HashTable::new(),
            hasher: RandomState::default(),
            null: None,
            natives: Vec::new(),
            spans: Vec::new(),
            bytes: Vec::new(),
            garbage: 0,
            free: Vec::new(),
            next: 0,
        })
    }

    /// One past the greatest number ever assigned.
    pub(super) fn bound(&self) -> usize {
        self.next as usize
    }

    /// Approximate memory, in bytes.
    pub(super) fn size(&self) -> usize {
        self.table.capacity() * 5
            + self.natives.capacity() * 8
            + self.spans.capacity() * size_of::<Span>()
            + self.bytes.capacity()
            + self.free.capacity() * 4
    }

    /// The number of each row's key; new keys are assigned one.
    pub(super) fn numbers(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        match &self.encoding {
            Encoding::Unit => {
                let only = self.null_number();
                Ok(vec![only; rows])
            }
            Encoding::Native => Ok(self.native_numbers(&columns[0])),
            Encoding::Text => {
                let texts = columns[0].as_string::<i32>();
                let number = |row| match texts.is_null(row) {
                    true => self.null_number(),
                    false => self.bytes_number(texts.value(row).as_bytes()),
                };
                Ok((0..rows).map(number).collect())
            }
            Encoding::Rows(converter) => {
                let keys: Vec<ArrayRef> = columns.iter().map(key_values).collect();
                let encoded = converter.convert_columns(&keys).internal(|| "keys cannot be encoded".to_owned())?;
                Ok(encoded.iter().map(|row| self.bytes_number(row.as_ref())).collect())
            }
        }
    }

    fn native_numbers(&mut self, column: &ArrayRef) -> Vec<u32> {
        match column.data_type() {
            DataType::Int32 => {
                let values = column.as_primitive::<Int32Type>();
                values.iter().map(|value| self.native_number(value.map(|v| v as u64))).collect()
            }
            DataType::Date32 => {
                let values = column.as_primitive::<Date32Type>();
                values.iter().map(|value| self.native_number(value.map(|v| v as u64))).collect()
            }
            DataType::Int64 => {
                let values = column.as_primitive::<Int64Type>();
                values.iter().map(|value| self.native_number(value.map(|v| v as u64))).collect()
            }
            _ => {
                let values = column.as_primitive::<TimestampMicrosecondType>();
                values.iter().map(|value| self.native_number(value.map(|v| v as u64))).collect()
            }
        }
    }

    fn null_number(&mut self) -> u32 {
        match self.null {
            Some(number) => number,
            None => {
                let number = take_number(&mut self.free, &mut self.next);
                self.natives.resize(self.natives.len().max(number as usize + 1), 0);
                self.spans.resize(self.spans.len().max(number as usize + 1), Span::default());
                self.null = Some(number);
                number
            }
        }
    }

    #[inline]
    fn native_number(&mut self, value: Option<u64>) -> u32 {
        let Some(value) = value else { return self.null_number() };
        let (natives, hasher) = (&mut self.natives, &self.hasher);
        let found = self.table.entry(
            hasher.hash_one(value),
            |&number| natives[number as usize] == value,
            |&number| hasher.hash_one(natives[number as usize]),
        );
        match found {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(slot) => {
                let number = take_number(&mut self.free, &mut self.next);
                slot.insert(number);
                natives.resize(natives.len().max(number as usize + 1), 0);
                natives[number as usize] = value;
                number
            }
        }
    }

    #[inline]
    fn bytes_number(&mut self, key: &[u8]) -> u32 {
        let (spans, bytes, hasher) = (&mut self.spans, &mut self.bytes, &self.hasher);
        let found = self.table.entry(
            hasher.hash_one(key),
            |&number| slice(spans, bytes, number) == key,
            |&number| hasher.hash_one(slice(spans, bytes, number)),
        );
        match found {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(slot) => {
                let number = take_number(&mut self.free, &mut self.next);
                slot.insert(number);
                spans.resize(spans.len().max(number as usize + 1), Span::default());
                spans[number as usize] = Span { start: bytes.len(), len: key.len() as u32 };
                bytes.extend_from_slice(key);
                number
            }
        }
    }

    /// Removes a key; its number may be reused.
    pub(super) fn remove(&mut self, number: u32) {
        if self.null == Some(number) {
            self.null = None;
            self.free.push(number);
            return;
        }
        let hash = match self.encoding {
            Encoding::Native => self.hasher.hash_one(self.natives[number as usize]),
            _ => self.hasher.hash_one(slice(&self.spans, &self.bytes, number)),
        };
        if let Ok(known) = self.table.find_entry(hash, |&other| other == number) {
            known.remove();
            self.free.push(number);
            if let Some(span) = self.spans.get_mut(number as usize) {
                self.garbage += span.len as usize;
                *span = Span::default();
            }
            if self.garbage > GARBAGE && self.garbage * 2 > self.bytes.len() {
                self.compact();
            }
        }
    }

    fn compact(&mut self) {
        let mut kept = Vec::with_capacity(self.bytes.len() - self.garbage);
        for span in &mut self.spans {
            let start = kept.len();
            kept.extend_from_slice(&self.bytes[span.start..span.start + span.len as usize]);
            span.start = start;
        }
        self.bytes = kept;
        self.garbage = 0;
    }
}

fn take_number(free: &mut Vec<u32>, next: &mut u32) -> u32 {
    free.pop().unwrap_or_else(|| {
        *next += 1;
        *next - 1
    })
}

#[inline]
fn slice<'a>(spans: &[Span], bytes: &'a [u8], number: u32) -> &'a [u8] {
    let span = spans[number as usize];
    &bytes[span.start..span.start + span.len as usize]
}
