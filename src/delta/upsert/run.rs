//! Keys on local disk: a file of records sorted by key, none of which is there twice. It is never changed and outlives nothing: the
//! index is built from the table.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::key::{Key, Location};

const RECORD: usize = 24;
/// Records that are read at a time to find a key; the first key of each block is kept in memory.
const BLOCK: usize = 256;

/// A sorted file of keys and where their rows lie.
#[derive(Debug)]
pub struct Run {
    file: File,
    count: u64,
    fences: Vec<Key>,
}

impl Run {
    /// Writes `records`, which are sorted, to a file in `folder` that nobody else can open and that goes with this value.
    pub fn write(folder: &Path, records: impl Iterator<Item = io::Result<(Key, Location)>>) -> io::Result<Self> {
        let file = nameless(folder)?;
        let mut writer = BufWriter::with_capacity(1 << 18, &file);
        let (mut count, mut fences) = (0_u64, Vec::new());
        for record in records {
            let (key, at) = record?;
            if count.is_multiple_of(BLOCK as u64) {
                fences.push(key);
            }
            writer.write_all(&encode(key, at))?;
            count += 1;
        }
        writer.flush()?;
        drop(writer);
        Ok(Self { file, count, fences })
    }

    /// Calls `found` for each of the sorted `keys` that is there, with its place among them.
    pub fn find(&self, keys: &[(Key, usize)], mut found: impl FnMut(usize, Location)) -> io::Result<()> {
        let mut block = vec![0; BLOCK * RECORD];
        let (mut loaded, mut records) = (None, 0);
        for (key, place) in keys {
            let Some(number) = self.fences.partition_point(|fence| fence <= key).checked_sub(1) else { continue };
            if loaded != Some(number) {
                let first = (number * BLOCK) as u64;
                records = (self.count - first).min(BLOCK as u64) as usize;
                self.file.read_exact_at(&mut block[..records * RECORD], first * RECORD as u64)?;
                loaded = Some(number);
            }
            let (mut low, mut high) = (0, records);
            while low < high {
                let middle = low.midpoint(high);
                let (at, location) = decode(&block[middle * RECORD..(middle + 1) * RECORD]);
                match at.cmp(key) {
                    std::cmp::Ordering::Less => low = middle + 1,
                    std::cmp::Ordering::Greater => high = middle,
                    std::cmp::Ordering::Equal => {
                        found(*place, location);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// All records, in order.
    pub fn records(&self) -> io::Result<impl Iterator<Item = io::Result<(Key, Location)>>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut reader = BufReader::with_capacity(1 << 18, file);
        Ok((0..self.count).map(move |_| {
            let mut record = [0; RECORD];
            reader.read_exact(&mut record).map(|()| decode(&record))
        }))
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> u64 {
        (self.fences.capacity() * size_of::<Key>()) as u64
    }
}

/// A new file that has lost its name.
fn nameless(folder: &Path) -> io::Result<File> {
    // Another table's may have its name still.
    for number in 0.. {
        let path = folder.join(format!("keys-{number}"));
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1_000 => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The records of `old` and of `new`, both sorted; where a key is in both the new one counts, and `None` takes it out.
pub fn merged(
    old: impl Iterator<Item = io::Result<(Key, Location)>>,
    new: impl Iterator<Item = (Key, Option<Location>)>,
    mut replaced: impl FnMut(Key, Location),
) -> impl Iterator<Item = io::Result<(Key, Location)>> {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    std::iter::from_fn(move || {
        loop {
            let take_old = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(Err(_)), _) | (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some(Ok((a, _))), Some((b, _))) => a < b,
            };
            if take_old {
                return old.next();
            }
            let (key, at) = new.next()?;
            if let Some(Ok((_, before))) = old.next_if(|old| matches!(old, Ok((other, _)) if *other == key))
                && at.is_some()
            {
                replaced(key, before);
            }
            if let Some(at) = at {
                return Some(Ok((key, at)));
            }
        }
    })
}

fn encode(key: Key, at: Location) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let (high, low) = key.parts();
    record[..8].copy_from_slice(&high.to_le_bytes());
    record[8..16].copy_from_slice(&low.to_le_bytes());
    record[16..20].copy_from_slice(&at.file.to_le_bytes());
    record[20..].copy_from_slice(&at.row.to_le_bytes());
    record
}

fn decode(record: &[u8]) -> (Key, Location) {
    let long = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&record[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let at = long(16);
    (Key::of_parts(long(0), long(8)), Location { file: at as u32, row: (at >> 32) as u32 })
}
