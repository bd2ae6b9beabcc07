//! A hash table from hashes to small numbers that grows a page at a time.
//!
//! Extendible hashing: the upper bits of a hash choose a page, the lower bits the home place in it; collisions go to the
//! next free place. A full page is doubled until it has [`PAGE`] places, then split in two, so that no step moves a large
//! table and memory never doubles at once. A place holds the 32 bits of the hash and the number, so growing need not read
//! the keys. Several numbers may have the same hash.
//!
//! Two hashes with the same lower bits, in a new table of one page with 16 places:
//!
//! ```text
//! insert(0x0000_0003, 7)   home 3            place 3: 7
//! insert(0x8000_0003, 8)   home 3 is taken   place 3: 7, place 4: 8
//! remove(0x0000_0003, 7)   8 moves back      place 3: 8
//! ```
//!
//! Once the page has 4096 places and 13/16 of them are used, the next insertion splits it by the uppermost bit: depth 1,
//! directory `[0, 1]`, and 8 is in page 1.

use twox_hash::XxHash64;

/// Places of a page of full size: 32 KiB.
const PAGE: usize = 4096;
/// Pages of this depth are doubled instead of split: most places of such a page share their upper hash bits.
const MAX_DEPTH: u32 = 20;
/// Number of hashes to warm at a time.
pub const WARM: usize = 128;
const EMPTY: u64 = u64::MAX;

/// A table of numbers below `u32::MAX`, found by hash and a test.
#[derive(Debug)]
pub struct SlotTable {
    /// The page number for each value of the upper `depth` bits of a hash.
    directory: Vec<u32>,
    depth: u32,
    pages: Vec<Page>,
    /// Number of places over all pages.
    places: usize,
    /// Buffer for a page's places while they are moved.
    moved: Vec<u64>,
}

#[derive(Debug)]
struct Page {
    places: Vec<u64>,
    used: usize,
    depth: u32,
}

impl SlotTable {
    /// An empty table.
    pub fn new() -> Self {
        let page = Page { places: vec![EMPTY; 16], used: 0, depth: 0 };
        Self { directory: vec![0], depth: 0, pages: vec![page], places: 16, moved: Vec::new() }
    }

    /// The hash of a key. Differs from the hash that routes, of which a shard sees only some values.
    pub fn hash(key: &[u8]) -> u32 {
        (XxHash64::oneshot(0x9e37_79b9, key) >> 32) as u32
    }

    /// Reads the home places of some hashes at once, so that later accesses find them in the cache: memory serves many
    /// independent reads in about the time of one.
    pub fn warm(&self, hashes: &[u32]) {
        let first = |hash: u32| {
            let page = &self.pages[self.page_of(hash)];
            page.places[hash as usize & (page.places.len() - 1)]
        };
        std::hint::black_box(hashes.iter().fold(0, |read, &hash| read ^ first(hash)));
    }

    /// The first number under `hash` that the test accepts.
    pub fn find(&self, hash: u32, mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let page = &self.pages[self.page_of(hash)];
        let mask = page.places.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let place = page.places[at];
            if place == EMPTY {
                return None;
            }
            if (place >> 32) as u32 == hash && accept(place as u32) {
                return Some(place as u32);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a number under `hash`.
    pub fn insert(&mut self, hash: u32, number: u32) {
        let mut page = self.page_of(hash);
        while (self.pages[page].used + 1) * 16 > self.pages[page].places.len() * 13 {
            self.make_room(page, hash);
            page = self.page_of(hash);
        }
        self.pages[page].place(u64::from(hash) << 32 | u64::from(number));
    }

    /// Removes a number from under `hash`.
    pub fn remove(&mut self, hash: u32, number: u32) {
        let page = self.page_of(hash);
        self.pages[page].remove(u64::from(hash) << 32 | u64::from(number));
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.places * size_of::<u64>()
            + self.directory.capacity() * size_of::<u32>()
            + self.pages.capacity() * size_of::<Page>()
    }

    fn page_of(&self, hash: u32) -> usize {
        self.directory[(u64::from(hash) >> (32 - self.depth)) as usize] as usize
    }

    fn make_room(&mut self, page: usize, hash: u32) {
        let depth = self.pages[page].depth;
        let len = self.pages[page].places.len();
        self.moved.clear();
        self.moved.extend(self.pages[page].places.iter().filter(|&&place| place != EMPTY));
        self.pages[page].places.fill(EMPTY);
        if len < PAGE || depth >= MAX_DEPTH {
            self.places += len;
            self.pages[page].places.resize(len * 2, EMPTY);
            self.pages[page].refill(self.moved.iter().copied());
            return;
        }
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&page| [page, page]).collect();
            self.depth += 1;
        }
        let is_upper = |place: &u64| place >> (63 - depth) & 1 == 1;
        self.pages[page].depth = depth + 1;
        self.pages[page].refill(self.moved.iter().copied().filter(|place| !is_upper(place)));
        let mut sibling = Page { places: vec![EMPTY; len], used: 0, depth: depth + 1 };
        sibling.refill(self.moved.iter().copied().filter(is_upper));
        self.places += len;
        let number = self.pages.len() as u32;
        self.pages.push(sibling);
        // The directory entries of this page are adjacent; the upper half becomes the sibling's.
        let entries = 1_usize << (self.depth - depth);
        let first = ((u64::from(hash) >> (32 - depth)) as usize) << (self.depth - depth);
        self.directory[first + entries / 2..first + entries].fill(number);
    }
}

impl Page {
    /// Puts numbers into the page, whose places are empty.
    fn refill(&mut self, places: impl Iterator<Item = u64>) {
        self.used = 0;
        places.for_each(|place| self.place(place));
    }

    fn place(&mut self, place: u64) {
        let mask = self.places.len() - 1;
        let mut at = (place >> 32) as usize & mask;
        while self.places[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.places[at] = place;
        self.used += 1;
    }

    /// Closes the gap by moving back entries that probing had pushed past it, so that no tombstone is needed.
    fn remove(&mut self, place: u64) {
        let mask = self.places.len() - 1;
        let mut hole = (place >> 32) as usize & mask;
        while self.places[hole] != place {
            if self.places[hole] == EMPTY {
                return;
            }
            hole = (hole + 1) & mask;
        }
        let mut next = (hole + 1) & mask;
        while self.places[next] != EMPTY {
            let home = (self.places[next] >> 32) as usize & mask;
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                self.places[hole] = self.places[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.places[hole] = EMPTY;
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::SlotTable;

    #[test]
    fn numbers_are_found_as_in_a_set_through_growth_and_removal() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut table = SlotTable::new();
        let mut expected = BTreeSet::new();
        // Few hashes for some numbers, so that long runs of equal hashes occur too.
        let hash_of =
            |number: u32| if number.is_multiple_of(50) { number % 7 } else { SlotTable::hash(&number.to_le_bytes()) };
        for _ in 0..200_000 {
            let number = rng.random_range(0..40_000);
            let hash = hash_of(number);
            let found = table.find(hash, |candidate| candidate == number).is_some();
            assert_eq!(found, expected.contains(&number), "number {number}");
            if found && rng.random_bool(0.6) {
                table.remove(hash, number);
                expected.remove(&number);
            } else if !found {
                table.insert(hash, number);
                expected.insert(number);
            }
        }
        assert!(expected.len() > 10_000);
        for &number in &expected {
            assert_eq!(table.find(hash_of(number), |candidate| candidate == number), Some(number));
        }
    }
}
