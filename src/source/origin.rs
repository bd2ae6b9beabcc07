//! The origins of decoded rows, kept beside them so that a row that cannot be computed can be identified.

use std::sync::Arc;

use super::chunk::{Offset, OptionalBytes, PartitionId};

/// The positions of consecutive rows of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOrigins {
    pub partition: PartitionId,
    pub offsets: RowOffsets,
    /// Milliseconds since 1970 UTC per row, -1 = unknown; empty if no row has one.
    pub timestamps_ms: Vec<i64>,
    /// The records from which they were decoded; `None` if the source has columns already.
    pub records: Option<Arc<RecordBytes>>,
}

/// The bytes of records, kept until their rows are processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBytes {
    /// Payloads, one after the other, and their boundaries.
    pub data: Vec<u8>,
    pub bounds: Vec<u32>,
    pub keys: Option<OptionalBytes>,
    /// The record of each row.
    pub rows: Vec<u32>,
}

impl RecordBytes {
    /// Key and payload of the record of row `row`.
    fn of(&self, row: usize) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let Some(record) = self.rows.get(row).map(|record| *record as usize) else { return (None, None) };
        let bounds = |bounds: &[u32]| Some(*bounds.get(record)? as usize..*bounds.get(record + 1)? as usize);
        let payload = bounds(&self.bounds).and_then(|range| self.data.get(range)).map(<[u8]>::to_vec);
        let keys = self.keys.as_ref().filter(|keys| keys.valid.get(record) == Some(&true));
        let key = keys.and_then(|keys| keys.data.get(bounds(&keys.bounds)?)).map(<[u8]>::to_vec);
        (key, payload)
    }
}

/// Offsets of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowOffsets {
    /// This many consecutive rows from an offset.
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
    /// The record's key and payload, if they are kept.
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
}

/// The positions of a lane's rows.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    each: Arc<Vec<RowOrigins>>,
    /// Rows at the beginning that no longer belong to the lane.
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

    /// The offset of row `row`.
    pub fn get(&self, row: usize) -> Option<Offset> {
        match self {
            Self::Run(start, rows) => (row < *rows).then(|| start + row as Offset),
            Self::Each(offsets) => offsets.get(row).copied(),
        }
    }
}

impl Origins {
    /// The origins of rows in this order.
    pub fn new(each: Vec<RowOrigins>) -> Self {
        Self { each: Arc::new(each), skipped: 0 }
    }

    /// The origins without the first `rows` rows.
    pub fn after(&self, rows: usize) -> Self {
        Self { each: Arc::clone(&self.each), skipped: self.skipped + rows }
    }

    /// The position of row `row`, if it is known.
    pub fn of(&self, row: usize) -> Option<Origin> {
        let mut row = row + self.skipped;
        for origins in self.each.iter() {
            if let Some(offset) = origins.offsets.get(row) {
                let timestamp_ms = origins.timestamps_ms.get(row).copied().unwrap_or(-1);
                let (key, payload) = origins.records.as_ref().map_or((None, None), |records| records.of(row));
                return Some(Origin { partition: Arc::clone(&origins.partition), offset, timestamp_ms, key, payload });
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
            records: (partition == "a").then(|| {
                let keys =
                    OptionalBytes { data: b"k".to_vec(), bounds: vec![0, 0, 1, 1], valid: vec![false, true, true] };
                let (data, bounds) = (b"zerotwo".to_vec(), vec![0, 4, 4, 7]);
                Arc::new(RecordBytes { data, bounds, keys: Some(keys), rows: vec![0, 2] })
            }),
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
        let bytes = |row| origins.of(row).map(|at| (at.key, at.payload));
        assert_eq!(bytes(0), Some((None, Some(b"zero".to_vec()))));
        assert_eq!(bytes(1), Some((Some(Vec::new()), Some(b"two".to_vec()))));
        assert_eq!(bytes(2), Some((None, None)));
    }
}
