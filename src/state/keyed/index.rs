//! The slot of each key: a hash table over keys in Arrow's row format.
//!
//! Slots are small numbers, assigned densely and reused after removal, so that values per key can be kept in plain columns.
//! The index owns the key bytes. Hashes stay in memory: nothing here is part of a format.
//!
//! Three keys, of two or three bytes each, followed through the arrays; a span is (start, length):
//!
//! ```text
//!                bytes     spans            free   garbage   result
//! intern "ann"   ann       [(0,3)]          []     0         slot 0
//! intern "bo"    annbo     [(0,3), (3,2)]   []     0         slot 1
//! intern "ann"   annbo     [(0,3), (3,2)]   []     0         slot 0, found in the hash table
//! remove 0       annbo     [(0,0), (3,2)]   [0]    3
//! intern "cy"    annbocy   [(5,2), (3,2)]   []     3         slot 0, reused
//! ```
//!
//! Once at least [`GARBAGE_FLOOR`] bytes and half of `bytes` are garbage, `sweep` copies the keys in use into a new buffer
//! and rewrites their spans; slots do not change.

use datafusion::common::hash_utils::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// Garbage, in bytes, below which the keys are not compacted.
const GARBAGE_FLOOR: usize = 1 << 16;
/// A span packs the start of a key (40 bits) and its length (24 bits).
const LENGTH_BITS: u32 = 24;

/// Keys, each in a slot.
#[derive(Debug)]
pub struct KeySlots {
    hasher: RandomState,
    table: HashTable<Entry>,
    /// The bytes of all keys, and of removed keys until they are swept.
    bytes: Vec<u8>,
    /// Per slot the span of its key; 0 for free slots.
    spans: Vec<u64>,
    free: Vec<u32>,
    garbage: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    slot: u32,
}

impl Entry {
    /// Spreads the 32 stored bits over the 64 that the table uses.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    }
}

impl Default for KeySlots {
    fn default() -> Self {
        Self {
            hasher: RandomState::with_seed(0),
            table: HashTable::new(),
            bytes: Vec::new(),
            spans: Vec::new(),
            free: Vec::new(),
            garbage: 0,
        }
    }
}

impl KeySlots {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// One more than the largest slot ever assigned.
    pub fn slots(&self) -> usize {
        self.spans.len()
    }

    /// The key's slot, if it has one.
    #[cfg(test)]
    pub fn get(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hash(key);
        self.table
            .find(Entry::spread(hash), |entry| entry.hash == hash && self.key(entry.slot) == key)
            .map(|entry| entry.slot)
    }

    /// The key's slot; a new key is assigned one.
    pub fn intern(&mut self, key: &[u8]) -> u32 {
        let hash = self.hash(key);
        let found = self
            .table
            .find(Entry::spread(hash), |entry| entry.hash == hash && at(&self.bytes, &self.spans, entry.slot) == key);
        if let Some(entry) = found {
            return entry.slot;
        }
        let span = pack(self.bytes.len(), key.len());
        self.bytes.extend_from_slice(key);
        let slot = if let Some(slot) = self.free.pop() {
            self.spans[slot as usize] = span;
            slot
        } else {
            self.spans.push(span);
            (self.spans.len() - 1) as u32
        };
        self.table.insert_unique(Entry::spread(hash), Entry { hash, slot }, |entry| Entry::spread(entry.hash));
        slot
    }

    /// The key in a slot that is in use.
    pub fn key(&self, slot: u32) -> &[u8] {
        at(&self.bytes, &self.spans, slot)
    }

    /// Frees a slot that is in use.
    pub fn remove(&mut self, slot: u32) {
        let hash = self.hash(self.key(slot));
        if let Ok(entry) = self.table.find_entry(Entry::spread(hash), |entry| entry.slot == slot) {
            entry.remove();
            self.garbage += unpack(self.spans[slot as usize]).1;
            self.spans[slot as usize] = 0;
            self.free.push(slot);
            self.sweep();
        }
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.table.capacity() * (size_of::<Entry>() + 1)
            + self.bytes.capacity()
            + self.spans.capacity() * size_of::<u64>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn hash(&self, key: &[u8]) -> u32 {
        (self.hasher.hash_one(key) >> 32) as u32
    }

    /// Compacts the keys once at least half of the bytes are garbage.
    fn sweep(&mut self) {
        if self.garbage < GARBAGE_FLOOR || self.garbage * 2 < self.bytes.len() {
            return;
        }
        let mut bytes = Vec::with_capacity(self.bytes.len() - self.garbage);
        for entry in &self.table {
            let key = at(&self.bytes, &self.spans, entry.slot);
            let span = pack(bytes.len(), key.len());
            bytes.extend_from_slice(key);
            self.spans[entry.slot as usize] = span;
        }
        self.bytes = bytes;
        self.garbage = 0;
    }
}

fn at<'a>(bytes: &'a [u8], spans: &[u64], slot: u32) -> &'a [u8] {
    let (start, length) = unpack(spans[slot as usize]);
    &bytes[start..start + length]
}

fn pack(start: usize, length: usize) -> u64 {
    ((start as u64) << LENGTH_BITS) | length as u64
}

fn unpack(span: u64) -> (usize, usize) {
    ((span >> LENGTH_BITS) as usize, (span & ((1 << LENGTH_BITS) - 1)) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::HashMap;

    #[test]
    fn keys_keep_their_slot_until_removed() {
        let mut random = StdRng::seed_from_u64(7);
        let mut index = KeySlots::default();
        let mut model: HashMap<Vec<u8>, u32> = HashMap::new();
        for _ in 0..200_000 {
            let number: u32 = random.random_range(0..5_000);
            let key =
                vec![number as u8; (number % 60) as usize].into_iter().chain(number.to_le_bytes()).collect::<Vec<_>>();
            if random.random_bool(0.5) {
                let slot = index.intern(&key);
                assert_eq!(*model.entry(key).or_insert(slot), slot);
            } else if let Some(slot) = model.remove(&key) {
                assert_eq!(index.get(&key), Some(slot));
                index.remove(slot);
            } else {
                assert_eq!(index.get(&key), None);
            }
        }
        assert_eq!(index.len(), model.len());
        assert!(index.slots() <= 5_000, "slots are reused");
        for (key, slot) in &model {
            assert_eq!(index.key(*slot), key);
        }
        let mut slots: Vec<_> = model.into_values().collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), index.len());
    }
}
