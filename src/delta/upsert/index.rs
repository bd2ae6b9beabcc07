//! From a primary key to the row that holds it.
//!
//! An entry takes 24 bytes: the key's hash ([`super::key`]) and the row's place.

use std::io;
use std::path::{Path, PathBuf};

use super::key::{Key, KeyMap, Location};
use super::run::{Run, merged};
use crate::error::{Context, Result};

/// Parts of the index, and the number of equal ranges of hashes that are divided among them.
const PARTS: usize = 64;
const RANGES: usize = 4096;

/// The folder for the parts of an index that do not fit into memory.
#[derive(Debug, Clone)]
pub struct IndexRoom {
    /// Bytes that it may take in memory.
    pub bytes: u64,
    /// A folder on local disk.
    pub folder: PathBuf,
}

/// Every key of the table.
///
/// A hash table doubles when it is full and for that moment is there twice over. So there are parts, the last about twice as large
/// as the first: they double one after the other, and the index as a whole grows steadily. Parts go to disk one by one, largest
/// first, when the index is to [`RowLocations::shrink`]: then memory holds what has changed since, and looking keys up reads the blocks that
/// they would be in.
#[derive(Debug)]
pub struct RowLocations {
    parts: Vec<IndexPart>,
    part_of: Vec<u8>,
}

#[derive(Debug, Default)]
struct IndexPart {
    /// Keys that are not in the run, or differ from it; `None` = the key is gone.
    recent: KeyMap<Option<Location>>,
    run: Option<Run>,
}

impl IndexPart {
    fn bytes(&self) -> u64 {
        let slot = size_of::<(Key, Option<Location>)>() + 1;
        (self.recent.capacity() * 8 / 7 * slot) as u64 + self.run.as_ref().map_or(0, Run::bytes)
    }

    /// Writes everything to a new run; returns keys that both have, with where they were.
    fn write(&mut self, folder: &Path) -> io::Result<Vec<Location>> {
        let mut recent: Vec<_> = self.recent.iter().map(|(key, at)| (*key, *at)).collect();
        recent.sort_unstable_by_key(|(key, _)| *key);
        let mut replaced = Vec::new();
        let old = self.run.as_ref().map(Run::records).transpose()?;
        let records = merged(old.into_iter().flatten(), recent.into_iter(), |_, at| replaced.push(at));
        let run = Run::write(folder, records)?;
        (self.run, self.recent) = (Some(run), KeyMap::default());
        Ok(replaced)
    }
}

impl Default for RowLocations {
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
        Self { parts: (0..PARTS).map(|_| IndexPart::default()).collect(), part_of }
    }
}

impl RowLocations {
    /// Other bits than those that the part's table goes by.
    fn part(&self, key: &Key) -> usize {
        usize::from(self.part_of[(key.parts().1 >> (u64::BITS - RANGES.ilog2())) as usize])
    }

    /// Looks up the rows of these keys. Errors: the disk.
    pub fn locate(&self, keys: &[Key]) -> Result<Vec<Option<Location>>> {
        let mut found = vec![None; keys.len()];
        let mut on_disk: Vec<Vec<(Key, usize)>> = vec![Vec::new(); PARTS];
        for (place, key) in keys.iter().enumerate() {
            let number = self.part(key);
            let part = &self.parts[number];
            match part.recent.get(key) {
                Some(at) => found[place] = *at,
                None if part.run.is_some() => on_disk[number].push((*key, place)),
                None => {}
            }
        }
        for (part, mut keys) in self.parts.iter().zip(on_disk) {
            if let Some(run) = part.run.as_ref().filter(|_| !keys.is_empty()) {
                keys.sort_unstable();
                run.find(&keys, |place, at| found[place] = Some(at)).environment(unreadable)?;
            }
        }
        Ok(found)
    }

    /// Returns where the key was before, unless that is on disk.
    pub fn insert(&mut self, key: Key, at: Location) -> Option<Location> {
        let part = self.part(&key);
        self.parts[part].recent.insert(key, Some(at)).flatten()
    }

    pub fn remove(&mut self, key: &Key) {
        let number = self.part(key);
        let part = &mut self.parts[number];
        match part.run {
            Some(_) => drop(part.recent.insert(*key, None)),
            None => drop(part.recent.remove(key)),
        }
    }

    /// Drops all keys of a file; looks at every key. Errors: the disk.
    pub fn forget_file(&mut self, file: u32, room: Option<&IndexRoom>) -> Result<()> {
        for part in &mut self.parts {
            let Some(run) = &part.run else {
                part.recent.retain(|_, at| at.is_some_and(|at| at.file != file));
                continue;
            };
            for record in run.records().environment(unreadable)? {
                let (key, at) = record.environment(unreadable)?;
                if at.file == file {
                    part.recent.entry(key).or_insert(None);
                }
            }
            for at in part.recent.values_mut().filter(|at| at.is_some_and(|at| at.file == file)) {
                *at = None;
            }
        }
        match room {
            Some(room) => self.shrink(room).map(drop),
            None => Ok(()),
        }
    }

    /// Writes parts to disk, largest first, until memory holds half of what it may; nothing while it does not hold more than that.
    /// Returns where keys were that memory and disk both had. Errors: the disk; everything is as it was.
    pub fn shrink(&mut self, room: &IndexRoom) -> Result<Vec<Location>> {
        let mut bytes = self.bytes();
        if bytes <= room.bytes {
            return Ok(Vec::new());
        }
        let mut order: Vec<usize> = (0..PARTS).collect();
        order.sort_unstable_by_key(|part| std::cmp::Reverse(self.parts[*part].bytes()));
        let mut replaced = Vec::new();
        for number in order {
            if bytes <= room.bytes / 2 {
                break;
            }
            replaced.extend(self.write_part(number, room)?);
            bytes = self.bytes();
        }
        Ok(replaced)
    }

    /// Writes what memory holds of all parts that are on disk. Returns where keys were that both had. Errors: the disk.
    pub fn settle(&mut self, room: &IndexRoom) -> Result<Vec<Location>> {
        let mut replaced = Vec::new();
        for number in 0..PARTS {
            if self.parts[number].run.is_some() && !self.parts[number].recent.is_empty() {
                replaced.extend(self.write_part(number, room)?);
            }
        }
        Ok(replaced)
    }

    fn write_part(&mut self, number: usize, room: &IndexRoom) -> Result<Vec<Location>> {
        let message = || format!("keys of an upserted table cannot be written to `{}`", room.folder.display());
        self.parts[number].write(&room.folder).environment(message)
    }

    /// Memory of the tables, by their capacity.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(IndexPart::bytes).sum()
    }
}

fn unreadable() -> String {
    "keys of an upserted table cannot be read from the spill folder".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;

    fn key(n: u64) -> Key {
        let mixed = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Key::of_parts(mixed(n), mixed(n ^ 0xABCD))
    }

    fn at(n: u64) -> Location {
        Location { file: (n % 7) as u32, row: n as u32 }
    }

    fn located(index: &RowLocations, keys: std::ops::Range<u64>) -> Vec<Option<Location>> {
        index.locate(&keys.map(key).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_index_grows_steadily_and_finds_every_key() {
        let mut index = RowLocations::default();
        for n in 0..300_000 {
            index.insert(key(n), at(n));
            if n > 100_000 && n % 1_000 == 0 {
                let each = index.bytes() as f64 / (n + 1) as f64;
                assert!((28.0..60.0).contains(&each), "{each} bytes a key at {n}");
            }
        }
        assert_eq!(located(&index, 0..300_000), (0..300_000).map(|n| Some(at(n))).collect::<Vec<_>>());
        index.forget_file(3, None).unwrap();
        index.remove(&key(0));
        let kept = |n: u64| Some(at(n)).filter(|at| n > 0 && at.file != 3);
        assert_eq!(located(&index, 0..300_000), (0..300_000).map(kept).collect::<Vec<_>>());
    }

    #[test]
    fn an_index_that_has_gone_to_disk_answers_as_one_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let room = IndexRoom { bytes: 200_000, folder: folder.path().to_owned() };
        let (mut index, mut model) = (RowLocations::default(), RowLocations::default());
        let random = Env::manual(0, 7);
        for step in 0..60 {
            for _ in 0..1_000 {
                let n = random.random_u64() % 30_000;
                if random.random_u64().is_multiple_of(4) {
                    index.remove(&key(n));
                    model.remove(&key(n));
                } else {
                    index.insert(key(n), at(n + step));
                    model.insert(key(n), at(n + step));
                }
            }
            if step % 20 == 19 {
                index.forget_file(3, Some(&room)).unwrap();
                model.forget_file(3, None).unwrap();
            }
            index.shrink(&room).unwrap();
            assert!(index.bytes() <= room.bytes, "{}", index.bytes());
            assert_eq!(located(&index, 0..30_000), located(&model, 0..30_000), "step {step}");
        }
        assert!(index.parts.iter().any(|part| part.run.is_some()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "runs have no names");
    }

    #[test]
    fn keys_that_memory_and_disk_both_have_are_reported_when_they_meet() {
        let folder = tempfile::tempdir().unwrap();
        let room = IndexRoom { bytes: 0, folder: folder.path().to_owned() };
        let mut index = RowLocations::default();
        for n in 0..1_000 {
            index.insert(key(n), at(n));
        }
        assert_eq!(index.shrink(&room).unwrap(), []);
        assert_eq!(index.insert(key(500), at(1)), None);
        index.insert(key(1_000), at(2));
        assert_eq!(index.settle(&room).unwrap(), [at(500)]);
        assert_eq!(located(&index, 500..501), [Some(at(1))]);
    }
}
