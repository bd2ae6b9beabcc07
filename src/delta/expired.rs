//! Files that the log took out of a table so long ago that no reader may ask for them.
//!
//! An upsert takes files out with every epoch, and until they are deleted a table's folder grows for ever. Promises: a file goes
//! only if the log itself removed it longer than `delta.deletedFileRetentionDuration` ago (7 days unless the table says
//! otherwise), and neither the table nor a younger removal names it. Files that no log entry names are left to VACUUM: they may
//! belong to a commit that is still to come.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::schema::{DataType, StructField, StructType};
use deltalake::kernel::{DeletionVectorDescriptor, StorageType};
use futures::StreamExt;
use object_store::path::Path;
use serde::Deserialize;

use super::actions::LogPath;
use super::files::vector_path;
use super::listing::files_of;
use super::log::{KernelTable, with_snapshot};
use super::table::Table;
use crate::error::{Context, Result};

/// Retention of removed files if a table does not state one: Delta's default.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

impl Table {
    /// Deletes the files that were removed longer ago than the table keeps them; returns how many.
    pub async fn remove_expired_files(&self) -> Result<usize> {
        let retention = self.metadata().table_properties().deleted_file_retention_duration.unwrap_or(RETENTION);
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.store().env().unix_ms().saturating_sub(retention_ms);
        let url = self.store().url().clone();
        let expired = with_snapshot(self.store(), None, move |table| expired(table, &url, before_ms)).await?;
        let (store, count) = (self.store().object_store(), expired.len());
        let mut deleting = store.delete_stream(futures::stream::iter(expired.into_iter().map(Ok)).boxed());
        while let Some(deleted) = deleting.next().await {
            match deleted {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error).environment(|| format!("cannot delete files of `{}`", self.name())),
            }
        }
        Ok(count)
    }
}

/// A removal that the log still has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tombstone {
    path: LogPath,
    #[serde(default)]
    deletion_timestamp: Option<i64>,
    #[serde(default)]
    deletion_vector: Option<Vector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vector {
    storage_type: String,
    path_or_inline_dv: String,
}

/// Files that were removed before `before_ms` and are named by nothing else. Blocks.
fn expired(table: &KernelTable, url: &url::Url, before_ms: i64) -> Result<Vec<Path>> {
    let (old, young): (Vec<_>, Vec<_>) =
        tombstones(table)?.into_iter().partition(|tombstone| tombstone.deletion_timestamp.unwrap_or(0) < before_ms);
    if old.is_empty() {
        return Ok(Vec::new());
    }
    let mut needed: BTreeSet<Path> = BTreeSet::new();
    for file in files_of(table)? {
        needed.extend(file.path.object());
        needed.extend(file.deletion_vector.as_ref().and_then(|vector| vector_path(vector, url)));
    }
    needed.extend(young.iter().flat_map(|tombstone| files(tombstone, url)));
    let gone: BTreeSet<Path> = old.iter().flat_map(|tombstone| files(tombstone, url)).collect();
    Ok(gone.difference(&needed).cloned().collect())
}

/// The data file and the file of its deletion vector.
fn files(tombstone: &Tombstone, url: &url::Url) -> impl Iterator<Item = Path> {
    let vector = tombstone.deletion_vector.as_ref().and_then(|vector| {
        let relative = vector.storage_type == "u";
        relative.then(|| DeletionVectorDescriptor {
            storage_type: StorageType::UuidRelativePath,
            path_or_inline_dv: vector.path_or_inline_dv.clone(),
            offset: Some(1),
            size_in_bytes: 1,
            cardinality: 1,
        })
    });
    let vector = vector.and_then(|vector| vector_path(&vector, url));
    tombstone.path.object().ok().into_iter().chain(vector)
}

fn tombstones(table: &KernelTable) -> Result<Vec<Tombstone>> {
    let fail = || "the log cannot be replayed".to_owned();
    let vector = StructType::try_new([
        StructField::not_null("storageType", DataType::STRING),
        StructField::not_null("pathOrInlineDv", DataType::STRING),
    ]);
    let remove = StructType::try_new([
        StructField::not_null("path", DataType::STRING),
        StructField::nullable("deletionTimestamp", DataType::LONG),
        StructField::nullable("deletionVector", vector.internal(fail)?),
    ]);
    let schema = StructType::try_new([StructField::nullable("remove", remove.internal(fail)?)]);
    let schema = Arc::new(schema.internal(fail)?);
    let mut found = Vec::new();
    for batch in table.snapshot.log_segment().read_actions(table.engine.as_ref(), schema).environment(fail)? {
        let data = batch.and_then(|batch| ArrowEngineData::try_from_engine_data(batch.actions)).environment(fail)?;
        let mut writer = WriterBuilder::new().build::<_, LineDelimited>(Vec::new());
        writer.write(data.record_batch()).and_then(|()| writer.finish()).internal(fail)?;
        for line in writer.into_inner().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            #[derive(Deserialize)]
            struct Line {
                remove: Option<Tombstone>,
            }
            found.extend(serde_json::from_slice::<Line>(line).internal(fail)?.remove);
        }
    }
    Ok(found)
}
