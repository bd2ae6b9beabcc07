//! The pipeline's tables as its last epoch left them.
//!
//! A table may have held rows before the pipeline's first epoch, which its query never gave; and a pipeline that runs on commits later epochs
//! while it is verified. The table's log tells both: it says which version is of which epoch.

use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;
use serde_json::Value;

use super::compare::{filled, those_found};
use crate::catalog::TableDef;
use crate::delta::{Table, TableStore};
use crate::error::Result;
use crate::standing::Epoch;
use crate::state::Manifest;

/// Looks for a commit whose manifest is durable, and the time between two of them.
const LOOKS: u32 = 15;
const PAUSE: Duration = Duration::from_millis(200);

/// A table that is compared.
pub(super) struct Written {
    pub(super) table: Table,
    /// Its columns, as they are shown.
    pub(super) schema: SchemaRef,
    /// The rows of the pipeline's epochs; of a keyed table all rows.
    pub(super) found: Vec<RecordBatch>,
    /// Rows of a keyed table before the pipeline's first epoch, which may be there still.
    pub(super) before: Vec<RecordBatch>,
    /// The number of rows before the pipeline's first epoch that are there still and not in `found`.
    pub(super) others: u64,
    /// Why nothing can be said about it.
    pub(super) unknown: Option<String>,
    /// Why nothing can be said about rows that are too many.
    pub(super) unknown_before: Option<String>,
}

impl Written {
    /// Reads the table that `def` declares as it was after the manifest's epoch.
    pub(super) async fn read(store: TableStore, def: &TableDef, manifest: &Manifest) -> Result<Self> {
        // With the CHECKs that only the declaration has.
        let table = match Table::open_declared(&store, def).await? {
            Some(table) => table,
            None => Table::open(store).await?,
        };
        let (commits, unknown) = arrived(&table, &def.name, manifest).await?;
        let schema = table.shown_schema();
        let mut found = rows_at(&table, commits.last).await?;
        let (mut before, mut unknown_before) = (Vec::new(), None);
        if let Some(version) = commits.first.and_then(|first| first.checked_sub(1)) {
            match rows_at(&table, Some(version)).await {
                Ok(rows) => before = rows,
                Err(error) => {
                    tracing::debug!(%error, version, "rows before the first epoch cannot be read");
                    unknown_before = Some(format!(
                        "what it held before `{}` first wrote it, its version {version}, cannot be read any more",
                        manifest.pipeline
                    ));
                }
            }
        }
        let mut others = 0;
        if def.primary_key.is_empty() && !before.is_empty() {
            let (old, new) = those_found(&schema, &before, &found)?;
            others = old.iter().map(RecordBatch::num_rows).sum::<usize>() as u64;
            (found, before) = (new, Vec::new());
        }
        Ok(Self { table, schema, found, before, others, unknown, unknown_before })
    }
}

async fn rows_at(table: &Table, version: Option<u64>) -> Result<Vec<RecordBatch>> {
    let provider = table.provider(version).await?;
    let rows = SessionContext::new().read_table(provider)?.collect().await?;
    let rows: Vec<_> = rows.into_iter().filter(|rows| rows.num_rows() > 0).collect();
    // Columns that were added later are null in earlier versions.
    rows.iter().map(|rows| filled(&table.shown_schema(), rows)).collect()
}

/// The versions of a table that count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Commits {
    /// Of the pipeline's first commit.
    first: Option<u64>,
    /// The last that has no epoch after the manifest's.
    last: Option<u64>,
    /// The commit of the manifest's epoch is there.
    is_there: bool,
}

impl Commits {
    /// `history` is newest first.
    fn of(history: &[(u64, Value)], pipeline: &str, last: Epoch) -> Self {
        let mut commits = Self { last: history.first().map(|(version, _)| *version), ..Self::default() };
        let mut is_restored = false;
        for (version, info) in history {
            let Some(told) = epoch_of(info).filter(|told| told["pipeline"] == pipeline) else {
                continue;
            };
            // Epochs before a restore were numbered alike.
            is_restored |= !told["restoredToEpoch"].is_null();
            let Some(epoch) = told["epoch"].as_u64() else { continue };
            commits.first = Some(*version);
            if !is_restored {
                commits.is_there |= epoch == last.0;
                if epoch > last.0 {
                    commits.last = version.checked_sub(1);
                }
            }
        }
        commits
    }
}

/// Waits for the commit of an epoch whose manifest is durable: the pipeline that is about to make it is running.
pub(super) async fn arrived_in(table: &Table, name: &str, manifest: &Manifest) -> Result<()> {
    arrived(table, name, manifest).await.map(drop)
}

async fn arrived(table: &Table, name: &str, manifest: &Manifest) -> Result<(Commits, Option<String>)> {
    let takes_part = manifest.sinks.iter().flatten().any(|sink| sink.name == name && sink.takes_part);
    let mut commits = Commits::default();
    for _ in 0..LOOKS {
        commits = Commits::of(&table.history(usize::MAX).await?, &manifest.pipeline, manifest.epoch);
        let is_there = !takes_part || commits.is_there;
        // The entry of the epoch's commit may be gone, the number of the epoch is not.
        if is_there || table.recorded_epoch(&manifest.pipeline).await? >= i64::try_from(manifest.epoch.0).ok() {
            return Ok((commits, None));
        }
        table.store().env().sleep(PAUSE).await;
    }
    let epoch = manifest.epoch;
    Ok((commits, Some(format!("epoch {epoch} is not committed to it yet, which the next run does"))))
}

/// Contents of a commit of weir about its epoch.
pub(super) fn epoch_of(info: &Value) -> Option<Value> {
    let mut told: Value = serde_json::from_str(info["userMetadata"].as_str()?).ok()?;
    Some(told["weir"].take())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A log, oldest entry first; a negative number is a restore to that epoch.
    fn history(entries: &[(&str, i64)]) -> Vec<(u64, Value)> {
        let entry = |(pipeline, epoch): &(&str, i64)| {
            let told = match epoch {
                ..0 => json!({ "weir": { "pipeline": pipeline, "restoredToEpoch": -epoch } }),
                _ => json!({ "weir": { "pipeline": pipeline, "epoch": epoch } }),
            };
            json!({ "userMetadata": told.to_string() })
        };
        (0..).zip(entries.iter().map(entry)).collect::<Vec<_>>().into_iter().rev().collect()
    }

    #[test]
    fn the_log_tells_which_versions_are_of_the_epochs_up_to_one() {
        let of = |entries: &[(&str, i64)], last: u64| {
            let Commits { first, last, is_there } = Commits::of(&history(entries), "p", Epoch(last));
            (first, last, is_there)
        };
        assert_eq!(of(&[], 1), (None, None, false));
        assert_eq!(of(&[("", 0)], 1), (None, Some(0), false));
        let log = [("", 0), ("q", 7), ("p", 1), ("q", 8), ("p", 2), ("p", 4), ("q", 9)];
        assert_eq!(of(&log, 1), (Some(2), Some(3), true));
        assert_eq!(of(&log, 2), (Some(2), Some(4), true));
        assert_eq!(of(&log, 3), (Some(2), Some(4), false));
        assert_eq!(of(&log, 4), (Some(2), Some(6), true));
        // Epochs before a restore had the same numbers.
        let log = [("p", 1), ("p", 2), ("p", 3), ("p", -1), ("p", 2)];
        assert_eq!(of(&log, 2), (Some(0), Some(4), true));
        assert_eq!(of(&log[..4], 1), (Some(0), Some(3), false));
    }
}
