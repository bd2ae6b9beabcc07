//! The keys of one MAP value while it is parsed: the last of equal keys wins, in time linear in the number of keys.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::scan::Text;

/// Up to this number of keys, comparing with each is faster than hashing.
const FEW: usize = 16;

/// A map's keys in the order of their first appearance.
pub(super) struct MapEntries<'a> {
    data: &'a [u8],
    /// Keys that contained escapes, one after the other.
    unescaped: Vec<u8>,
    pub(super) entries: Vec<MapEntry>,
    /// Indices into `entries`, once they are more than [`FEW`]. Hashed with random keys, so that nobody can send colliding
    /// names.
    index: Option<(RandomState, HashTable<u32>)>,
}

/// A key and its newest value.
pub(super) struct MapEntry {
    start: u32,
    end: u32,
    /// The key is in `unescaped`, not in the record.
    is_unescaped: bool,
    /// Position of the value in the record.
    pub(super) value: u32,
}

impl<'a> MapEntries<'a> {
    /// An empty map in `data`, which is shorter than 2 GiB.
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, unescaped: Vec::new(), entries: Vec::new(), index: None }
    }

    /// Records that the value of `key` begins at `value`; `text` is the key in the record. Returns true if the key is new.
    pub(super) fn put(&mut self, text: Text, key: &[u8], value: usize) -> bool {
        if let Some(known) = self.find(key) {
            self.entries[known].value = value as u32;
            return false;
        }
        let (start, end, is_unescaped) = match text {
            Text::Plain(start, end) => (start, end, false),
            Text::Escaped(..) => {
                let start = self.unescaped.len();
                self.unescaped.extend_from_slice(key);
                (start, self.unescaped.len(), true)
            }
        };
        self.entries.push(MapEntry { start: start as u32, end: end as u32, is_unescaped, value: value as u32 });
        self.note();
        true
    }

    /// The bytes of an entry's key.
    pub(super) fn key(&self, entry: &MapEntry) -> &[u8] {
        let within = if entry.is_unescaped { &self.unescaped[..] } else { self.data };
        &within[entry.start as usize..entry.end as usize]
    }

    fn find(&self, key: &[u8]) -> Option<usize> {
        let is_it = |index: usize| self.key(&self.entries[index]) == key;
        match &self.index {
            None => (0..self.entries.len()).find(|index| is_it(*index)),
            Some((hasher, table)) => {
                table.find(hasher.hash_one(key), |index| is_it(*index as usize)).map(|index| *index as usize)
            }
        }
    }

    /// Adds the newest entry to the index; adds all once they are more than [`FEW`].
    fn note(&mut self) {
        if self.entries.len() <= FEW {
            return;
        }
        let fresh = match self.index {
            Some(_) => self.entries.len() - 1,
            None => 0,
        };
        let (hasher, mut table) = self.index.take().unwrap_or_default();
        let hash = |index: u32| hasher.hash_one(self.key(&self.entries[index as usize]));
        for index in fresh..self.entries.len() {
            let index = index as u32;
            table.insert_unique(hash(index), index, |known| hash(*known));
        }
        self.index = Some((hasher, table));
    }
}
