//! Rows that come too late for some of their windows only: they count in those that are still open.
//!
//! Of each window the table has the row with all late rows or that without them. Dead letters name the rows, not the windows, so both are
//! taken for right, as long as there are as many as there are windows.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::compare::{Withheld, collect};
use crate::error::Result;

/// The number of rows that are still held back, if `found` has a row of each window from one of both answers: `with` has all rows, `without`
/// lacks those that are late. `None` where the table has other rows or lacks some.
pub(super) fn mixed(
    schema: &SchemaRef,
    found: &[RecordBatch],
    [with, without]: [&[RecordBatch]; 2],
    held: &Withheld,
) -> Result<Option<u64>> {
    let mut found = collect(schema, found)?;
    let mut waiting = collect(schema, &held.rows)?;
    let mut retracted = collect(schema, &held.retracted)?;
    let (mut with, mut without) = (collect(schema, with)?, collect(schema, without)?);
    let mut pending = 0;
    let mut is_missing = false;
    // Windows without late rows.
    for (key, doubles) in with.shared(&mut without) {
        if !found.take(&key, &doubles) {
            let waits = waiting.take(&key, &doubles);
            pending += u64::from(waits);
            is_missing |= !waits;
        }
    }
    let (most, least) = (with.len(), without.len());
    let mut closed = 0;
    for (key, doubles) in found.rest() {
        if with.take(&key, &doubles) || without.take(&key, &doubles) {
            closed += 1;
        } else if !retracted.take(&key, &doubles) {
            is_missing = true;
        }
    }
    for (key, doubles) in waiting.rest() {
        if with.take(&key, &doubles) || without.take(&key, &doubles) {
            pending += 1;
            closed += 1;
        }
    }
    Ok((!is_missing && (least..=most).contains(&closed)).then_some(pending))
}
