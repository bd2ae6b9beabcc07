//! Keys as small numbers: each distinct key has one, for as long as its owner wants.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::encoder::Encoder;
use super::slots::{SlotTable, WARM};
use crate::error::Result;

/// Numbers the distinct keys of a shard. Numbers of removed keys are given out again, so owners keep what they know of a key in a
/// plain `Vec` beside the index.
#[derive(Debug)]
pub struct KeyIndex {
    encoder: Encoder,
    table: SlotTable,
    keys: Vec<Option<Box<[u8]>>>,
    free: Vec<u32>,
    key_bytes: usize,
    hashes: Vec<u32>,
}

impl KeyIndex {
    /// An index of the key in `columns` of batches with `schema`.
    pub fn new(schema: &SchemaRef, columns: &[usize]) -> Result<Self> {
        let encoder = Encoder::of_keys(schema, columns)?;
        Ok(Self {
            encoder,
            table: SlotTable::new(),
            keys: Vec::new(),
            free: Vec::new(),
            key_bytes: 0,
            hashes: Vec::new(),
        })
    }

    /// The numbers of each row's key into `numbers`; keys not known yet get one.
    pub fn resolve(&mut self, batch: &RecordBatch, numbers: &mut Vec<u32>) -> Result<()> {
        self.encoder.encode(batch)?;
        numbers.clear();
        self.hashes.clear();
        self.hashes.extend((0..self.encoder.len()).map(|row| SlotTable::hash(self.encoder.row(row))));
        for row in 0..self.encoder.len() {
            if row % WARM == 0 {
                self.table.warm(&self.hashes[row..self.hashes.len().min(row + WARM)]);
            }
            let (key, hash) = (self.encoder.row(row), self.hashes[row]);
            let keys = &self.keys;
            let known = self.table.find(hash, |number| keys[number as usize].as_deref() == Some(key));
            let number = known.unwrap_or_else(|| {
                let number = self.free.pop().unwrap_or(self.keys.len() as u32);
                self.key_bytes += key.len();
                if number as usize == self.keys.len() {
                    self.keys.push(Some(key.into()));
                } else {
                    self.keys[number as usize] = Some(key.into());
                }
                self.table.insert(hash, number);
                number
            });
            numbers.push(number);
        }
        Ok(())
    }

    /// The bytes of a known key.
    pub fn key(&self, number: u32) -> &[u8] {
        self.keys.get(number as usize).and_then(|key| key.as_deref()).unwrap_or_default()
    }

    /// Forgets a key; its number may be given to another one.
    pub fn remove(&mut self, number: u32) {
        if let Some(key) = self.keys.get_mut(number as usize).and_then(Option::take) {
            self.key_bytes -= key.len();
            self.table.remove(SlotTable::hash(&key), number);
            self.free.push(number);
        }
    }

    /// One more than the largest number given out.
    pub fn bound(&self) -> usize {
        self.keys.len()
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.keys.len() - self.free.len()
    }

    /// Memory.
    pub fn bytes(&self) -> usize {
        self.encoder.bytes()
            + self.table.bytes()
            + self.key_bytes
            + self.keys.capacity() * size_of::<Option<Box<[u8]>>>()
            + self.free.capacity() * size_of::<u32>()
    }
}
