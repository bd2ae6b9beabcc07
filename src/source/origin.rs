//! The origins of decoded rows, kept beside them so that a row that cannot be computed can be named.

use std::sync::Arc;

use super::chunk::{Offset, PartitionId};

/// The positions of some rows of one partition, in the rows' order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOrigins {
    pub partition: PartitionId,
    pub offsets: RowOffsets,
    /// Milliseconds since 1970 UTC per row, -1 = unknown; empty when no row has one.
    pub timestamps_ms: Vec<i64>,
}

/// Offsets of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowOffsets {
    /// This many rows that follow one another from an offset.
    Run(Offset, usize),
    Each(Vec<Offset>),
}

/// One row's position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub partition: PartitionId,
    pub offset: Offset,
    /// -1 = unknown.
    pub timestamp_ms: i64,
}

/// The positions of a lane's rows.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    each: Arc<Vec<RowOrigins>>,
    /// Rows at the beginning that are not the lane's any more.
    skipped: usize,
}

impl RowOffsets {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Run(_, rows) => *rows,
            Self::Each(offsets) => offsets.len(),
        }
    }

    fn get(&self, row: usize) -> Option<Offset> {
        match self {
            Self::Run(start, rows) => (row < *rows).then(|| start + row as Offset),
            Self::Each(offsets) => offsets.get(row).copied(),
        }
    }
}

impl Origins {
    /// Those of rows that stand one after the other.
    pub fn new(each: Vec<RowOrigins>) -> Self {
        Self { each: Arc::new(each), skipped: 0 }
    }

    /// Those of the rows behind the first `rows`.
    pub fn after(&self, rows: usize) -> Self {
        Self { each: Arc::clone(&self.each), skipped: self.skipped + rows }
    }

    /// The position of row `row`, if it is known.
    pub fn of(&self, row: usize) -> Option<Origin> {
        let mut row = row + self.skipped;
        for origins in self.each.iter() {
            if let Some(offset) = origins.offsets.get(row) {
                let timestamp_ms = origins.timestamps_ms.get(row).copied().unwrap_or(-1);
                return Some(Origin { partition: Arc::clone(&origins.partition), offset, timestamp_ms });
            }
            row -= origins.offsets.rows();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_across_partitions_and_slices() {
        let of = |partition: &str, offsets| RowOrigins {
            partition: partition.into(),
            offsets,
            timestamps_ms: if partition == "a" { vec![70, 71] } else { Vec::new() },
        };
        let origins = Origins::new(vec![
            of("a", RowOffsets::Each(vec![4, 9])),
            of("b", RowOffsets::Run(20, 0)),
            of("c", RowOffsets::Run(7, 3)),
        ]);
        let found =
            |origins: &Origins, row| origins.of(row).map(|at| (at.partition.to_string(), at.offset, at.timestamp_ms));
        assert_eq!(found(&origins, 1), Some(("a".to_owned(), 9, 71)));
        assert_eq!(found(&origins, 2), Some(("c".to_owned(), 7, -1)));
        assert_eq!(found(&origins.after(1).after(2), 1), Some(("c".to_owned(), 9, -1)));
        assert_eq!(found(&origins, 5), None);
    }
}
