//! Numbers the distinct keys of a shard: each has one small number until it is removed.
//!
//! ```text
//! resolve [ann, bo, ann]   numbers 0 1 0   keys [ann, bo]   free []
//! remove(0)                                keys [-, bo]     free [0]
//! resolve [cy, bo]         numbers 0 1     keys [cy, bo]    free []
//! ```

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::encoder::Encoder;
use super::slots::{SlotTable, WARM};
use crate::error::Result;

/// Maps the distinct keys of a shard to numbers. Numbers of removed keys are reused, so an owner can keep its data per key
/// in a plain `Vec` next to the index.
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

    /// Writes the number of each row's key to `numbers`; new keys are assigned one.
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

    /// Removes a key; its number may be reused.
    pub fn remove(&mut self, number: u32) {
        if let Some(key) = self.keys.get_mut(number as usize).and_then(Option::take) {
            self.key_bytes -= key.len();
            self.table.remove(SlotTable::hash(&key), number);
            self.free.push(number);
        }
    }

    /// One more than the largest number ever assigned.
    pub fn bound(&self) -> usize {
        self.keys.len()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len() - self.free.len()
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.encoder.bytes()
            + self.table.bytes()
            + self.key_bytes
            + self.keys.capacity() * size_of::<Option<Box<[u8]>>>()
            + self.free.capacity() * size_of::<u32>()
    }
}
