//! Key groups: the fixed number of hash partitions that state is kept by, so that a pipeline can be rescaled.
//!
//! The hash is part of the format: it depends on types and values only, never on the process, the CPU or a crate's version.

use arrow::array::ArrayRef;
use arrow::row::{RowConverter, SortField};
use datafusion::common::utils::normalize_float_zero;
use std::hash::Hasher;
use twox_hash::XxHash64;

use crate::error::{Context, Result};

/// How many key groups there are; never changes.
pub const KEY_GROUPS: u16 = 128;

/// The key group of each row, `0..KEY_GROUPS`. Without columns every row is in group 0.
pub fn key_groups(columns: &[ArrayRef], rows: usize) -> Result<Vec<u16>> {
    if columns.is_empty() {
        return Ok(vec![0; rows]);
    }
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let converter = RowConverter::new(fields).internal(|| "routing columns cannot be encoded".to_owned())?;
    // Zero has two signs and is one key.
    let columns: Vec<ArrayRef> = columns.iter().map(normalize_float_zero).collect();
    let encoded = converter.convert_columns(&columns).internal(|| "routing columns cannot be encoded".to_owned())?;
    let group = |row: arrow::row::Row<'_>| {
        let mut hash = XxHash64::with_seed(0);
        hash.write(row.as_ref());
        (hash.finish() % u64::from(KEY_GROUPS)) as u16
    };
    Ok(encoded.iter().map(group).collect())
}

/// The shard, of `shards`, that owns a key group.
pub fn shard_of(group: u16, shards: usize) -> usize {
    usize::from(group) * shards / usize::from(KEY_GROUPS)
}
