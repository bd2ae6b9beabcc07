//! Keyed state in memory: rows found by key, their values in columns, and the changes since the last call of `changes`.
//!
//! A [`KeyedTable`] assigns every key a slot and keeps the values of all slots column by column, so that an operator reads
//! and writes all keys of a micro-batch at once. It tracks which keys were written or deleted, so that the cost of
//! [`KeyedTable::changes`] is proportional to the changes. The meaning of the values is left to the operator.
//!
//! One key, followed through its mark:
//!
//! ```text
//! intern [ann]    slot 0    marks[0] = 0                 changed []
//! put [0] [10]              marks[0] = LIVE | CHANGED    changed [0]   1 live row
//! changes                   marks[0] = LIVE | TOLD       changed []    upserts [0]
//! delete [0]                marks[0] = CHANGED | TOLD    changed [0]   no live row; the slot stays taken
//! changes                   marks[0] = 0                 changed []    deletes [ann]; slot 0 is free
//! ```
//!
//! A row that is put and deleted between two calls of `changes` never gets TOLD, so nothing is reported for it.

mod column;
mod index;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};

use crate::error::{Context, Error, Result};
use column::{Column, column};

pub use index::KeySlots;

const LIVE: u8 = 1;
/// In the list of changes.
const CHANGED: u8 = 2;
/// Reported by `changes`, so its deletion must be reported too.
const TOLD: u8 = 4;

/// Rows by key.
pub struct KeyedTable {
    converter: RowConverter,
    key_types: Vec<DataType>,
    index: KeySlots,
    columns: Vec<Box<dyn Column>>,
    marks: Vec<u8>,
    changed: Vec<u32>,
    live: usize,
}

/// Changes to a [`KeyedTable`].
#[derive(Debug, Default)]
pub struct KeyedChanges {
    /// The slots of the rows written.
    pub upserts: Vec<u32>,
    /// Keys of deleted rows, and their number.
    pub deletes: Vec<ArrayRef>,
    pub deleted: usize,
}

impl KeyedTable {
    /// An empty table. Without key columns all rows have the same key.
    pub fn new(keys: &[DataType], values: &[DataType]) -> Result<Self> {
        let fields = keys.iter().map(|key| SortField::new(key.clone())).collect();
        let converter = RowConverter::new(fields)
            .map_err(|error| Error::sql("a column of this type cannot be a key").with_detail(error.to_string()))?;
        Ok(Self {
            converter,
            key_types: keys.to_vec(),
            index: KeySlots::default(),
            columns: values.iter().map(column).collect(),
            marks: Vec::new(),
            changed: Vec::new(),
            live: 0,
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(|column| column.bytes()).sum();
        self.index.bytes() + columns + self.marks.capacity() + self.changed.capacity() * size_of::<u32>()
    }

    /// The slots of `rows` keys. A key that is not in the table gets a slot, which must then be written or deleted.
    pub fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let mut slots = Vec::with_capacity(rows);
        if keys.is_empty() {
            slots.resize(rows, if rows == 0 { 0 } else { self.index.intern(&[]) });
        } else {
            let encoded = self.converter.convert_columns(keys).internal(|| "keys cannot be encoded".to_owned())?;
            slots.extend(encoded.iter().map(|key| self.index.intern(key.data())));
        }
        let reach = self.index.slots();
        if self.marks.len() < reach {
            self.marks.resize(reach, 0);
            for column in &mut self.columns {
                column.reach(reach);
            }
        }
        Ok(slots)
    }

    /// `true` if the slot holds a row.
    pub fn is_live(&self, slot: u32) -> bool {
        self.marks[slot as usize] & LIVE != 0
    }

    /// `true` if the row in a slot was written or deleted since the last [`KeyedTable::changes`].
    pub fn is_changed(&self, slot: u32) -> bool {
        self.marks[slot as usize] & CHANGED != 0
    }

    /// The slots of all rows.
    pub fn live_slots(&self) -> Vec<u32> {
        (0..self.marks.len() as u32).filter(|slot| self.is_live(*slot)).collect()
    }

    /// The keys of slots in use.
    pub fn keys(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        if self.key_types.is_empty() {
            return Ok(Vec::new());
        }
        let parser = self.converter.parser();
        let rows = slots.iter().map(|slot| parser.parse(self.index.key(*slot)));
        let keys = self.converter.convert_rows(rows).internal(|| "keys cannot be decoded".to_owned())?;
        let typed = |(key, data_type): (ArrayRef, &DataType)| {
            // Dictionaries are encoded by their values.
            if key.data_type() == data_type {
                Ok(key)
            } else {
                arrow::compute::cast(&key, data_type).internal(|| "keys cannot be decoded".to_owned())
            }
        };
        keys.into_iter().zip(&self.key_types).map(typed).collect()
    }

    /// The encoded bytes of a key, which compare like the keys.
    pub fn key_bytes(&self, slot: u32) -> &[u8] {
        self.index.key(slot)
    }

    /// The values in some slots, column by column.
    pub fn gather(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        self.columns.iter().map(|column| column.gather(slots)).collect()
    }

    /// One column of some slots.
    pub fn gather_column(&self, column: usize, slots: &[u32]) -> Result<ArrayRef> {
        self.columns.get(column).ok_or_else(|| Error::internal(format!("no state column {column}")))?.gather(slots)
    }

    /// Writes the rows in some distinct slots.
    pub fn put(&mut self, slots: &[u32], values: &[ArrayRef]) -> Result<()> {
        self.write(slots, values)?;
        for slot in slots {
            self.mark_changed(*slot);
        }
        Ok(())
    }

    /// Restores rows that `changes` has reported before.
    pub fn restore(&mut self, keys: &[ArrayRef], values: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let slots = self.intern(keys, rows)?;
        self.write(&slots, values)?;
        for slot in &slots {
            self.marks[*slot as usize] |= TOLD;
        }
        Ok(slots)
    }

    /// Deletes the rows in some slots; the slots stay taken until `changes` has reported the deletion.
    pub fn delete(&mut self, slots: &[u32]) -> Result<()> {
        for slot in slots {
            let mark = &mut self.marks[*slot as usize];
            self.live -= usize::from(*mark & LIVE);
            *mark &= !LIVE;
            self.mark_changed(*slot);
        }
        for column in &mut self.columns {
            column.clear(slots)?;
        }
        Ok(())
    }

    /// Removes rows without reporting a deletion, since the table's cutoff in time already implies it.
    pub fn forget(&mut self, slots: &[u32]) -> Result<()> {
        for slot in slots {
            let mark = std::mem::take(&mut self.marks[*slot as usize]);
            self.live -= usize::from(mark & LIVE);
            self.index.remove(*slot);
        }
        let marks = &self.marks;
        self.changed.retain(|slot| marks[*slot as usize] & CHANGED != 0);
        for column in &mut self.columns {
            column.clear(slots)?;
        }
        Ok(())
    }

    /// The changes since the last call.
    pub fn changes(&mut self) -> Result<KeyedChanges> {
        let mut upserts = Vec::new();
        let mut gone = Vec::new();
        let mut told = Vec::new();
        for slot in std::mem::take(&mut self.changed) {
            let mark = &mut self.marks[slot as usize];
            if *mark & LIVE != 0 {
                *mark = LIVE | TOLD;
                upserts.push(slot);
            } else {
                if *mark & TOLD != 0 {
                    told.push(slot);
                }
                *mark = 0;
                gone.push(slot);
            }
        }
        let deletes = if told.is_empty() { Vec::new() } else { self.keys(&told)? };
        for slot in gone {
            self.index.remove(slot);
        }
        Ok(KeyedChanges { upserts, deletes, deleted: told.len() })
    }

    fn write(&mut self, slots: &[u32], values: &[ArrayRef]) -> Result<()> {
        if values.len() != self.columns.len() {
            return Err(Error::internal(format!("{} values for {} state columns", values.len(), self.columns.len())));
        }
        for (column, values) in self.columns.iter_mut().zip(values) {
            column.put(slots, values)?;
        }
        for slot in slots {
            let mark = &mut self.marks[*slot as usize];
            self.live += usize::from(*mark & LIVE == 0);
            *mark |= LIVE;
        }
        Ok(())
    }

    fn mark_changed(&mut self, slot: u32) {
        let mark = &mut self.marks[slot as usize];
        if *mark & CHANGED == 0 {
            *mark |= CHANGED;
            self.changed.push(slot);
        }
    }
}

#[cfg(test)]
mod tests;
