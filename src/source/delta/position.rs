//! A position in the history of a table as one number.
//!
//! From the highest bit: the version (28 bits), 1 for its commit and 0 for its snapshot (1 bit), the row among all rows read
//! there (34 bits). So offsets grow along the way: the snapshot of version 7, then commit 8, then commit 9.

use crate::error::{Error, Result};
use crate::source::chunk::Offset;

const ROW_BITS: u32 = 34;
const MAX_ROW: u64 = (1 << ROW_BITS) - 1;
const MAX_VERSION: u64 = (1 << 28) - 1;

/// The rows of a version that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All rows of the table.
    Snapshot,
    /// The rows that the version's commit changed.
    Commit,
}

/// The next row to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub version: u64,
    pub part: Part,
    pub row: u64,
}

impl Position {
    /// The position before the first row of a version's snapshot.
    pub fn snapshot(version: u64) -> Self {
        Self { version, part: Part::Snapshot, row: 0 }
    }

    /// The position before the first row that a version's commit changed.
    pub fn commit(version: u64) -> Self {
        Self { version, part: Part::Commit, row: 0 }
    }

    /// The position behind all rows of this version.
    pub fn next_version(self) -> Self {
        Self::commit(self.version + 1)
    }

    /// The position of an offset. Errors: no position has it.
    pub fn of_offset(offset: Offset) -> Result<Self> {
        let bits =
            u64::try_from(offset).map_err(|_| Error::damaged(format!("offset {offset} is not one of a table")))?;
        let slot = bits >> ROW_BITS;
        let part = if slot & 1 == 1 { Part::Commit } else { Part::Snapshot };
        Ok(Self { version: slot >> 1, part, row: bits & MAX_ROW })
    }

    /// The offset of this position. Errors: the version or row is too large for an offset.
    pub fn offset(self) -> Result<Offset> {
        if self.version > MAX_VERSION || self.row > MAX_ROW {
            return Err(Error::environment("the table has more versions or rows than can be read as a source")
                .with_detail(format!("Version {}, row {}.", self.version, self.row))
                .with_hint("At most 268,435,455 versions, and 17,179,869,183 rows in a commit, can be told apart."));
        }
        let slot = self.version << 1 | u64::from(self.part == Part::Commit);
        Ok((slot << ROW_BITS | self.row) as Offset)
    }
}

/// The newest version that was read, wholly or in part; `None` for offsets that are not a table's.
pub fn version_read(offset: Offset) -> Option<u64> {
    match Position::of_offset(offset).ok()? {
        Position { version, part: Part::Commit, row: 0 } => version.checked_sub(1),
        Position { version, .. } => Some(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_grow_along_the_way_and_lead_back() {
        let way = [
            Position::snapshot(0),
            Position { row: 9, ..Position::snapshot(0) },
            Position::commit(1),
            Position { row: MAX_ROW, ..Position::commit(1) },
            Position::snapshot(2),
            Position::commit(2),
            Position::commit(MAX_VERSION),
            Position { row: MAX_ROW, ..Position::commit(MAX_VERSION) },
        ];
        let offsets: Vec<_> = way.iter().map(|place| place.offset().unwrap()).collect();
        assert!(offsets.is_sorted_by(|a, b| a < b) && offsets[0] == 0, "{offsets:?}");
        for (place, offset) in way.iter().zip(offsets) {
            assert_eq!(Position::of_offset(offset).unwrap(), *place);
        }
        assert!(Position::commit(MAX_VERSION + 1).offset().is_err());
        assert!(Position { row: MAX_ROW + 1, ..Position::commit(1) }.offset().is_err());
        assert!(Position::of_offset(-1).is_err());
    }
}
