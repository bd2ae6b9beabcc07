//! Unfinished files whose writers died, and how they are told from those of writers that live.
//!
//! A writer of ours holds a lock on its unfinished file for as long as it is open; the operating system lets go of it when the
//! process ends, however it ends. So a file of ours that can be locked is a leftover, whichever process asks. Other programs
//! (delta-rs, older versions of weir) lock nothing: their files are leftovers after [`FOREIGN_AGE_MS`].

use std::fs::{DirEntry, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::OURS;

/// Age after which an unfinished file that is not ours is a leftover: a day.
const FOREIGN_AGE_MS: i64 = 24 * 3600 * 1000;

/// Marks a new file as one whose writer lives; false when it was taken for a leftover before, and removed.
pub(super) fn claim(file: &File) -> bool {
    // On a file system without locks no file can be locked, so none of ours is taken for a leftover.
    let _ = file.lock();
    file.metadata().map_or(true, |metadata| metadata.nlink() > 0)
}

/// Removes leftovers below `folder`; returns how many. A folder that does not exist has none.
pub fn remove_below(folder: &Path, now_ms: i64) -> io::Result<u64> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            removed += remove_below(&entry.path(), now_ms)?;
        } else if kind.is_file() {
            removed += u64::from(remove_leftover(&entry, now_ms));
        }
    }
    Ok(removed)
}

/// Removes the file if it is unfinished and its writer is gone.
fn remove_leftover(entry: &DirEntry, now_ms: i64) -> bool {
    let name = entry.file_name();
    let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
    let Some(number) = number.filter(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit())) else {
        return false;
    };
    if number.starts_with(OURS) {
        return remove_unlocked(&entry.path());
    }
    let modified = entry.metadata().map(|metadata| metadata.mtime().saturating_mul(1000));
    modified.is_ok_and(|modified_ms| modified_ms < now_ms - FOREIGN_AGE_MS)
        && std::fs::remove_file(entry.path()).is_ok()
}

/// Removes a file of ours that no writer holds. The lock is kept until it is gone: a writer that has made the file and not yet
/// locked it waits, and then notices ([`claim`]).
fn remove_unlocked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    if file.try_lock().is_err() {
        return false;
    }
    // The name may belong to another file since it was opened.
    let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let (opened, named) = (file.metadata(), std::fs::metadata(path));
    matches!((&opened, &named), (Ok(opened), Ok(named)) if same(opened, named)) && std::fs::remove_file(path).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    const NOW_MS: i64 = 1 << 50;

    fn create(folder: &Path, name: &str) -> File {
        OpenOptions::new().write(true).create_new(true).open(folder.join(name)).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_of_ours_goes_when_its_writer_is_gone_and_not_before() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("t/_delta_log");
        std::fs::create_dir_all(&folder).unwrap();
        let alive = create(&folder, "1.json#01");
        assert!(claim(&alive));
        drop(create(&folder, "2.json#01"));
        drop(create(&folder, "3.json"));
        drop(create(&folder, "p=#01x"));
        assert_eq!(remove_below(root.path(), 0).unwrap(), 1);
        assert_eq!(names(&folder), ["1.json#01", "3.json", "p=#01x"]);
        drop(alive);
        assert_eq!(remove_below(root.path(), 0).unwrap(), 1);
    }

    #[test]
    fn another_programs_file_goes_after_a_day() {
        let root = tempfile::tempdir().unwrap();
        drop(create(root.path(), "part.parquet#1"));
        let modified = std::fs::metadata(root.path().join("part.parquet#1")).unwrap().mtime() * 1000;
        assert_eq!(remove_below(root.path(), modified + FOREIGN_AGE_MS).unwrap(), 0);
        assert_eq!(remove_below(root.path(), modified + FOREIGN_AGE_MS + 1000).unwrap(), 1);
        assert_eq!(remove_below(&root.path().join("nowhere"), NOW_MS).unwrap(), 0);
    }

    #[test]
    fn a_writer_notices_that_its_new_file_was_removed() {
        let root = tempfile::tempdir().unwrap();
        let file = create(root.path(), "1.json#01");
        assert_eq!(remove_below(root.path(), 0).unwrap(), 1);
        assert!(!claim(&file));
    }
}
