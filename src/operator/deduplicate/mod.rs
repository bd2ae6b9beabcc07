//! The first row per key: DISTINCT, DEDUPLICATE and `row_number() … ORDER BY time` = 1.
//!
//! A row is a duplicate if a row of the same key was let through whose time is less than `within` away (without `within`: at
//! any time). A key is kept in state while a row that is not late could still be its duplicate: until the time of the row
//! let through plus `within` is complete. Keys are compared exactly, as bytes: no row is dropped because of a hash
//! collision.
//!
//! - [`arrival`]: the first row to arrive is emitted at once.
//! - [`complete`]: rows wait until their time is complete and are then taken in order of time.

pub mod spec;
mod arrival;
mod complete;
mod seen;
#[cfg(test)]
mod tests;

use super::contract::Operator;
use super::spec::{DeduplicateEmit, DeduplicateSpec};
use crate::error::{Error, Result};
use crate::time::Lag;

/// The operator that `spec` describes.
pub fn deduplicate(spec: DeduplicateSpec) -> Result<Box<dyn Operator>> {
    // Rows at the same instant are always duplicates.
    let spec = DeduplicateSpec { within: spec.within.map(|within| within.max(Lag::MICROSECOND)), ..spec };
    match (spec.emit, spec.time) {
        (DeduplicateEmit::OnArrival, _) => Ok(Box::new(arrival::OnArrival::new(&spec)?)),
        (DeduplicateEmit::OnWatermark, Some(time)) => Ok(Box::new(complete::OnWatermark::new(&spec, time)?)),
        (DeduplicateEmit::OnWatermark, None) => {
            Err(Error::internal("deduplication by watermark was planned without a time column"))
        }
    }
}
