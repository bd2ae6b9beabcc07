//! Rows to Parquet files that no table names yet.
//!
//! Promises: after [`TableWriter::close`] every staged file is complete and durable, and its `Add` action can be stored
//! and committed later, by another process if need be. Files of an aborted or dropped writer are orphans for VACUUM.
//! Does not check constraints (see [`validate`](super::validate)) and does not commit.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::SchemaRef;
use deltalake::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake::kernel::Add;
use deltalake::parquet::basic::{Compression as ParquetCompression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use super::metadata::TableMetadata;
use super::store::TableStore;
use crate::error::{Context, Error, ErrorKind, Result};

/// Rows handed to the Parquet writer between two looks at the file's size.
const SLICE_ROWS: usize = 64 * 1024;
/// Rows of a row group.
const ROW_GROUP_ROWS: usize = 1024 * 1024;

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd of this level, 1 to 22.
    Zstd(i32),
    Snappy,
    None,
}

/// How files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterOptions {
    /// Bytes after which a file is closed and the next one begun.
    pub target_file_size: u64,
    pub compression: Compression,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { target_file_size: 128 << 20, compression: Compression::Zstd(1) }
    }
}

impl WriterOptions {
    /// These options but for what a table's properties ask: `weir.target_file_size` or `delta.targetFileSize` (bytes,
    /// or with a unit as in `64mb`) and `weir.compression` (`zstd`, `zstd(3)`, `snappy`, `none`).
    pub fn for_table(&self, properties: &BTreeMap<String, String>) -> Result<Self> {
        let mut options = *self;
        let bad = |key: &str, value: &str| Error::sql(format!("bad value `{value}` of table property `{key}`"));
        for key in ["delta.targetFileSize", "weir.target_file_size"] {
            if let Some(value) = properties.get(key) {
                options.target_file_size = parse_size(value).ok_or_else(|| bad(key, value))?;
            }
        }
        if let Some(value) = properties.get("weir.compression") {
            options.compression = parse_compression(value).ok_or_else(|| bad("weir.compression", value))?;
        }
        Ok(options)
    }

    fn parquet(&self) -> Result<WriterProperties> {
        let compression = match self.compression {
            Compression::Zstd(level) => ParquetCompression::ZSTD(
                ZstdLevel::try_new(level).context(ErrorKind::Sql, || format!("bad zstd level {level}"))?,
            ),
            Compression::Snappy => ParquetCompression::SNAPPY,
            Compression::None => ParquetCompression::UNCOMPRESSED,
        };
        Ok(WriterProperties::builder()
            .set_compression(compression)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_created_by(format!("weir version {}", env!("CARGO_PKG_VERSION")))
            .build())
    }
}

/// Files that are durable and in no table yet.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StagedFiles {
    pub adds: Vec<Add>,
    pub rows: u64,
    pub bytes: u64,
}

impl StagedFiles {
    /// Takes over the files of another writer of the same table.
    pub fn merge(&mut self, other: Self) {
        self.adds.extend(other.adds);
        self.rows += other.rows;
        self.bytes += other.bytes;
    }

    /// The `add` actions as they go into the Delta log.
    pub fn adds_json(&self) -> Vec<serde_json::Value> {
        self.adds.iter().filter_map(|add| serde_json::to_value(add).ok()).collect()
    }

    /// The actions that [`StagedFiles::adds_json`] made.
    pub fn parse_adds(adds: &[serde_json::Value]) -> Result<Vec<Add>> {
        let parsed = adds.iter().map(Add::deserialize).collect::<Result<_, _>>();
        parsed.context(ErrorKind::Damaged, || "a staged file in a manifest cannot be read".to_owned())
    }
}

/// Writes rows of one table into files of about the target size, one open file per partition.
pub struct TableWriter {
    inner: DeltaWriter,
    schema: SchemaRef,
    location: String,
    rows: u64,
}

impl TableWriter {
    pub(super) fn new(store: &TableStore, metadata: &TableMetadata, options: &WriterOptions) -> Result<Self> {
        let properties = metadata.table_properties();
        let stats_columns = properties.data_skipping_stats_columns.as_ref();
        let config = WriterConfig::new(
            metadata.schema.clone(),
            metadata.partition_columns.clone(),
            Some(options.parquet()?),
            NonZeroU64::new(options.target_file_size),
            Some(SLICE_ROWS),
            properties.data_skipping_num_indexed_cols.unwrap_or_default(),
            stats_columns.map(|columns| columns.iter().map(ToString::to_string).collect()),
        );
        let inner = DeltaWriter::new(store.object_store(), config);
        Ok(Self { inner, schema: metadata.schema.clone(), location: store.location().to_owned(), rows: 0 })
    }

    /// Adds rows. Columns are matched by name; those the batch lacks are null.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = conform(batch, &self.schema)?;
        let written = self.inner.write(&batch).await;
        written.environment(|| format!("cannot write a file of `{}`", self.location))?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Rows added so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Finishes all files. Without rows there are none.
    pub async fn close(self) -> Result<StagedFiles> {
        let adds = self.inner.close().await.environment(|| format!("cannot finish a file of `{}`", self.location))?;
        let bytes = adds.iter().map(|add| add.size.unsigned_abs()).sum();
        Ok(StagedFiles { adds, rows: self.rows, bytes })
    }

    /// Gives up; whatever was written already stays unnamed.
    pub async fn abort(self) -> Result<()> {
        self.inner.abort().await.environment(|| format!("cannot abandon a file of `{}`", self.location))
    }
}

/// The batch with exactly the columns of `schema`, matched by name; a batch that has them already is only relabelled.
pub(super) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.schema().index_of(field.name()) {
            Err(_) => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Ok(index) if batch.column(index).data_type() == field.data_type() => Ok(batch.column(index).clone()),
            Ok(index) => {
                let options = CastOptions { safe: false, ..CastOptions::default() };
                cast_with_options(batch.column(index), field.data_type(), &options)
                    .context(ErrorKind::Sql, || format!("column `{}` does not fit its table", field.name()))
            }
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    RecordBatch::try_new(schema.clone(), columns).internal(|| "rows do not fit their table".to_owned())
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let factor = match text[digits.len()..].trim() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|size| *size > 0)
}

fn parse_compression(text: &str) -> Option<Compression> {
    let text = text.trim().to_ascii_lowercase();
    match text.as_str() {
        "zstd" => Some(Compression::Zstd(1)),
        "snappy" => Some(Compression::Snappy),
        "none" | "uncompressed" => Some(Compression::None),
        _ => {
            let level = text.strip_prefix("zstd(")?.strip_suffix(')')?.parse().ok()?;
            (1..=22).contains(&level).then_some(Compression::Zstd(level))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_choose_size_and_compression() {
        let properties = |pairs: &[(&str, &str)]| {
            WriterOptions::default().for_table(&pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
        };
        assert_eq!(properties(&[]).unwrap(), WriterOptions::default());
        let both = properties(&[("delta.targetFileSize", "1gb"), ("weir.target_file_size", "64 MB")]).unwrap();
        assert_eq!(both.target_file_size, 64 << 20);
        assert_eq!(properties(&[("weir.compression", "ZSTD(3)")]).unwrap().compression, Compression::Zstd(3));
        let error = properties(&[("weir.compression", "zstd(30)")]).unwrap_err();
        assert_eq!(error.message(), "bad value `zstd(30)` of table property `weir.compression`");
        assert!(properties(&[("weir.target_file_size", "0")]).is_err());
    }
}
