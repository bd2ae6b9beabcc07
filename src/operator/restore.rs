//! Restores an operator from its snapshot.

use super::contract::Operator;
use crate::error::{Error, Result};
use crate::state::{OperatorSnapshot, StateStore};
use crate::time::Watermark;

/// Restores a new instance, which is shard `shard` of `shards`, from its part of a snapshot that was written at watermark
/// `watermark`. The number of shards that wrote it does not matter.
///
/// Errors: of kind `Damaged` when a file fails a check, or the snapshot has a table that the operator does not know.
pub async fn restore(
    operator: &mut dyn Operator,
    store: &StateStore,
    snapshot: &OperatorSnapshot,
    (shard, shards): (usize, usize),
    watermark: Watermark,
) -> Result<()> {
    let tables = operator.state();
    if let Some(unknown) = snapshot.tables.iter().find(|stored| tables.iter().all(|table| table.name != stored.name)) {
        return Err(Error::damaged(format!("operator `{}` has no state table `{}`", snapshot.operator, unknown.name))
            .with_detail("The snapshot was written by another version of the operator.")
            .with_hint("Run the version of weir that wrote it, or rebuild the state with `--allow-rebuild`."));
    }
    for (index, table) in tables.iter().enumerate() {
        store.read(snapshot, table, shard, shards, |rows| operator.restore(index, rows, watermark)).await?;
    }
    Ok(())
}
