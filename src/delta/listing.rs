//! The files of the newest version, each with its path as the log spells it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use deltalake::kernel::DeletionVectorDescriptor;
use serde::Deserialize;

use super::actions::{Add, LogPath, PartitionValues};
use super::log::{KernelTable, with_snapshot};
use super::table::Table;
use crate::error::{Context, Error, Result};

/// The newest version and its files.
pub async fn active(table: &Table) -> Result<(u64, Vec<Add>)> {
    let name = table.name().to_owned();
    with_snapshot(table.store(), None, move |table| {
        let files = files_of(table).map_err(|error| {
            Error::new(error.kind(), format!("cannot list the files of table `{name}`")).with_source(error)
        })?;
        Ok((table.snapshot.version(), files))
    })
    .await
}

/// The files of a snapshot. Blocks.
pub fn files_of(table: &KernelTable) -> Result<Vec<Add>> {
    let fail = || "the log cannot be replayed".to_owned();
    let scan = Arc::clone(&table.snapshot).scan_builder().build().environment(fail)?;
    let mut files = Vec::new();
    for found in scan.scan_metadata(table.engine.as_ref()).environment(fail)? {
        let selected = found.and_then(|found| found.scan_files.apply_selection_vector()).environment(fail)?;
        let rows = ArrowEngineData::try_from_engine_data(selected).environment(fail)?;
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
        writer.write(rows.record_batch()).and_then(|()| writer.finish()).internal(fail)?;
        for line in writer.into_inner().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            files.push(serde_json::from_slice::<ScanRow>(line).internal(fail)?.into_add());
        }
    }
    Ok(files)
}

/// A file as the kernel's replay reports it (`scan_row_schema`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScanRow {
    path: LogPath,
    size: i64,
    modification_time: i64,
    stats: Option<String>,
    deletion_vector: Option<DeletionVectorDescriptor>,
    file_constant_values: Constants,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Constants {
    #[serde(default)]
    partition_values: Option<PartitionValues>,
    #[serde(default)]
    tags: Option<BTreeMap<String, Option<String>>>,
}

impl ScanRow {
    fn into_add(self) -> Add {
        Add {
            path: self.path,
            partition_values: self.file_constant_values.partition_values.unwrap_or_default(),
            size: self.size,
            modification_time: self.modification_time,
            data_change: true,
            stats: self.stats,
            tags: self.file_constant_values.tags,
            deletion_vector: self.deletion_vector,
            others: BTreeMap::new(),
        }
    }
}
