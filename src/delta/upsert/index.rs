//! From a primary key to the row that holds it.
//!
//! Keys are kept as 128-bit hashes (SipHash-1-3 under a random key of this process), 24 bytes a row whatever the key's type: a
//! collision among 10^9 keys has a chance of 10^-21, and nobody can make one without the random key. The hashes never leave
//! the process.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use siphasher::sip128::SipHasher13;

use crate::env::Env;
use crate::equality::key_values;
use crate::error::{Context, ErrorKind, Result};

/// A key, or any row, as its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64, u64);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Keys are hashes already.
#[derive(Debug, Default, Clone, Copy)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A map by key.
pub type KeyMap<V> = HashMap<Key, V, BuildHasherDefault<Identity>>;

/// Makes keys of columns of fixed types.
#[derive(Debug)]
pub struct KeyHasher {
    converter: RowConverter,
    sip: SipHasher13,
}

impl KeyHasher {
    /// For columns of these types. Errors: a type that cannot be compared.
    pub fn new(schema: &SchemaRef, env: &Env) -> Result<Self> {
        Self::with_sip(schema, SipHasher13::new_with_keys(env.random_u64(), env.random_u64()))
    }

    /// For columns of other types, under the same random key.
    pub fn of_types(&self, schema: &SchemaRef) -> Result<Self> {
        Self::with_sip(schema, self.sip)
    }

    fn with_sip(schema: &SchemaRef, sip: SipHasher13) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).context(ErrorKind::Sql, || {
            let names: Vec<_> = schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
            format!("values of {} cannot be compared", names.join(", "))
        })?;
        Ok(Self { converter, sip })
    }

    /// One key per row.
    pub fn hash(&self, columns: &[ArrayRef]) -> Result<Vec<Key>> {
        let keys: Vec<ArrayRef> = columns.iter().map(key_values).collect();
        let rows = self.converter.convert_columns(&keys).internal(|| "keys cannot be encoded".to_owned())?;
        Ok(rows
            .iter()
            .map(|row| {
                let hash = self.sip.hash(row.as_ref());
                Key(hash.h1, hash.h2)
            })
            .collect())
    }
}

/// Where a row lies: a file by its number in this process, and the row in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub file: u32,
    pub row: u32,
}

/// Parts of the index, and the number of equal ranges of hashes that are divided among them.
const PARTS: usize = 64;
const RANGES: usize = 4096;

/// Every key of the table.
///
/// A hash table doubles when it is full and for that moment is there twice over. So there are parts, the last about twice as large
/// as the first: they double one after the other, and the index as a whole grows steadily.
#[derive(Debug)]
pub struct KeyIndex {
    parts: Vec<KeyMap<Location>>,
    part_of: Vec<u8>,
}

impl Default for KeyIndex {
    fn default() -> Self {
        let weights: Vec<f64> = (0..PARTS).map(|part| (part as f64 / PARTS as f64).exp2()).collect();
        let total: f64 = weights.iter().sum();
        let mut part_of = Vec::with_capacity(RANGES);
        let mut end = 0.0;
        for (part, weight) in weights.iter().enumerate() {
            end += weight / total * RANGES as f64;
            part_of.resize((end.round() as usize).min(RANGES), part as u8);
        }
        part_of.resize(RANGES, (PARTS - 1) as u8);
        Self { parts: vec![KeyMap::default(); PARTS], part_of }
    }
}

impl KeyIndex {
    /// Other bits than those that the part's table goes by.
    fn part(&self, key: &Key) -> usize {
        usize::from(self.part_of[(key.1 >> (u64::BITS - RANGES.ilog2())) as usize])
    }

    pub fn get(&self, key: &Key) -> Option<Location> {
        self.parts[self.part(key)].get(key).copied()
    }

    /// Returns where the key was before.
    pub fn insert(&mut self, key: Key, at: Location) -> Option<Location> {
        let part = self.part(&key);
        self.parts[part].insert(key, at)
    }

    pub fn remove(&mut self, key: &Key) {
        let part = self.part(key);
        self.parts[part].remove(key);
    }

    /// Drops all keys of a file; looks at every key.
    pub fn forget_file(&mut self, file: u32) {
        self.parts.iter_mut().for_each(|part| part.retain(|_, at| at.file != file));
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(HashMap::len).sum()
    }

    /// Memory of the tables, by their capacity.
    pub fn bytes(&self) -> u64 {
        let slot = size_of::<(Key, Location)>() + 1;
        self.parts.iter().map(|part| (part.capacity() * 8 / 7 * slot) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_grows_steadily_and_finds_every_key() {
        let mut index = KeyIndex::default();
        let mixed = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let key = |n: u64| Key(mixed(n), mixed(n ^ 0xABCD));
        let at = |n: u64| Location { file: (n % 7) as u32, row: n as u32 };
        for n in 0..300_000 {
            index.insert(key(n), at(n));
            if n > 100_000 && n % 1_000 == 0 {
                let each = index.bytes() as f64 / index.len() as f64;
                assert!((28.0..52.0).contains(&each), "{each} bytes a key at {n}");
            }
        }
        assert!((0..300_000).all(|n| index.get(&key(n)) == Some(at(n))));
        index.forget_file(3);
        index.remove(&key(0));
        assert_eq!(index.len(), (1..300_000).filter(|n| n % 7 != 3).count());
    }
}
