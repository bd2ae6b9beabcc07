//! Rows to Parquet files that no table names yet.
//!
//! Promises: after [`TableWriter::close`] every staged file is complete and durable, and its `Add` action can be stored
//! and committed later, by another process if need be. Files of an aborted or dropped writer are orphans for VACUUM.
//! Does not check constraints (see [`validate`](super::validate)) and does not commit.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use serde::{Deserialize, Serialize};

use super::actions::{Add, AddCDCFile, Remove};
use super::cast::as_type;
use super::lengths::TextLengths;
use super::metadata::TableMetadata;
use super::open_files::{FileFormat, FileLimits, OpenFiles};
use super::partitions::{ShortPaths, as_stored, short_path};
use super::store::TableStore;
use crate::config::{ByteSize, parse_compression};
use crate::error::{Context, Error, ErrorKind, Result};

/// The column that files of the change feed have besides the table's.
pub(super) const CHANGE_TYPE: &str = "_change_type";
/// Properties of a table that say how its files are written.
const SPARK_FILE_SIZE: &str = "delta.targetFileSize";
const FILE_SIZE: &str = "weir.target_file_size";
const COMPRESSION: &str = "weir.compression";
/// Rows of a row group.
const ROW_GROUP_ROWS: usize = 1024 * 1024;

/// Settings with which files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterOptions {
    /// Bytes after which a file is closed and the next one begun; 0 = never.
    pub target_file_size: u64,
    pub compression: Compression,
    /// Bytes that a writer's open files may take together: beyond it files end early.
    pub memory: u64,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { target_file_size: 128 << 20, compression: Compression::ZSTD(ZstdLevel::default()), memory: 256 << 20 }
    }
}

impl WriterOptions {
    /// These options, overridden by a table's properties: `weir.target_file_size` and `weir.compression`, written as in the
    /// configuration, and `delta.targetFileSize`, written as for Spark.
    pub fn for_table(&self, properties: &BTreeMap<String, String>) -> Result<Self> {
        let mut options = *self;
        let bad = |key: &str, value: &str, reason: String| {
            Error::sql(format!("bad value `{value}` of table property `{key}`")).with_detail(format!("{reason}."))
        };
        if let Some(value) = properties.get(SPARK_FILE_SIZE) {
            let size = ByteSize::of_spark(value).map_err(|reason| bad(SPARK_FILE_SIZE, value, reason))?;
            options.target_file_size = size.0;
        }
        if let Some(value) = properties.get(FILE_SIZE) {
            let size: ByteSize = value.parse().map_err(|reason| bad(FILE_SIZE, value, reason))?;
            options.target_file_size = size.0;
        }
        if let Some(value) = properties.get(COMPRESSION) {
            options.compression = parse_compression(value).map_err(|reason| bad(COMPRESSION, value, reason))?;
        }
        Ok(options)
    }

    fn parquet(&self, limits: &FileLimits, dictionaries: bool) -> Result<WriterProperties> {
        Ok(WriterProperties::builder()
            .set_compression(self.compression)
            .set_dictionary_enabled(dictionaries)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_max_row_group_bytes(Some(limits.row_group_bytes()))
            .set_created_by(format!("weir version {}", env!("CARGO_PKG_VERSION")))
            .build())
    }
}

/// Details that an upsert commit adds to the files it names; part of the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpsertCommit {
    /// The version that the files were computed from.
    pub read_version: u64,
    /// The key columns.
    pub key: Vec<String>,
    /// Number of the added files, from the first on, that hold the epoch's own rows and nothing else.
    pub fresh: usize,
    /// The keys that the epoch deletes, as an Arrow IPC stream in hexadecimal digits.
    pub deleted: Option<String>,
    pub rows_inserted: u64,
    pub rows_updated: u64,
    pub rows_deleted: u64,
}

/// Files that are durable and in no table yet.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StagedFiles {
    pub adds: Vec<Add>,
    /// Files that go, and files of the change feed: upserts only.
    #[serde(default)]
    pub removes: Vec<Remove>,
    #[serde(default)]
    pub cdc: Vec<AddCDCFile>,
    /// Version that upserted files were computed from.
    #[serde(default)]
    pub upsert: Option<UpsertCommit>,
    pub rows: u64,
    pub bytes: u64,
}

impl StagedFiles {
    /// True when there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.adds.is_empty() && self.removes.is_empty()
    }

    /// Takes over the files of another writer of the same table. An upsert has one writer.
    pub fn merge(&mut self, other: Self) {
        self.adds.extend(other.adds);
        self.removes.extend(other.removes);
        self.cdc.extend(other.cdc);
        self.upsert = other.upsert.or_else(|| self.upsert.take());
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// Writes rows of one table into files of about the target size, at most one open file per partition and within its memory.
pub struct TableWriter {
    files: OpenFiles,
    partition_columns: Vec<String>,
    lengths: TextLengths,
    schema: SchemaRef,
    rows: u64,
}

impl TableWriter {
    pub(super) fn new(store: &TableStore, metadata: &TableMetadata, options: &WriterOptions) -> Result<Self> {
        Self::open(store, store.object_store(), metadata.schema.clone(), metadata, options)
    }

    /// A writer of the table's change feed: its columns and [`CHANGE_TYPE`], in files below `_change_data`. Paths of the
    /// files are relative to that folder.
    pub(super) fn change_feed(store: &TableStore, metadata: &TableMetadata, options: &WriterOptions) -> Result<Self> {
        let mut fields = metadata.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, false)));
        let folder = Arc::new(PrefixStore::new(store.object_store(), "_change_data"));
        Self::open(store, folder, Arc::new(Schema::new(fields)), metadata, options)
    }

    fn open(
        store: &TableStore,
        folder: Arc<dyn ObjectStore>,
        schema: SchemaRef,
        metadata: &TableMetadata,
        options: &WriterOptions,
    ) -> Result<Self> {
        let properties = metadata.table_properties();
        let stats_columns = properties.data_skipping_stats_columns.as_ref();
        let file_bytes = NonZeroU64::new(options.target_file_size);
        let limits = FileLimits { memory: options.memory, file_bytes };
        let format = FileFormat {
            location: store.location().to_owned(),
            schema: schema.clone(),
            partition_columns: metadata.partition_columns.clone(),
            properties: options.parquet(&limits, true)?,
            plain: options.parquet(&limits, false)?,
            limits,
            indexed_columns: properties.data_skipping_num_indexed_cols.unwrap_or_default(),
            stats_columns: stats_columns.map(|columns| columns.iter().map(ToString::to_string).collect()),
        };
        let files = OpenFiles::new(Arc::new(ShortPaths(folder)), format)?;
        let (partition_columns, lengths) = (metadata.partition_columns.clone(), metadata.lengths.clone());
        Ok(Self { files, partition_columns, lengths, schema, rows: 0 })
    }

    /// Adds rows. Columns are matched by name; those the batch lacks are null, and so is an empty partition value.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = conform(&as_stored(batch, &self.partition_columns, &self.lengths)?, &self.schema)?;
        self.files.write(&batch).await?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Bytes that its open files take, about.
    pub fn bytes(&self) -> u64 {
        self.files.bytes()
    }

    /// Files that are finished already.
    pub fn finished(&self) -> usize {
        self.files.ended()
    }

    /// Finishes all files. Without rows there are none.
    pub async fn close(self) -> Result<StagedFiles> {
        let written = self.files.close().await?;
        let adds = written.into_iter().map(|add| {
            let path = short_path(&add.path);
            Add::of_written(deltalake::kernel::Add { path, ..add })
        });
        let adds: Vec<Add> = adds.collect();
        let bytes = adds.iter().map(|add| add.size.unsigned_abs()).sum();
        Ok(StagedFiles { adds, rows: self.rows, bytes, ..StagedFiles::default() })
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
            Ok(index) => as_type(batch.column(index), field.data_type())
                .context(ErrorKind::Sql, || format!("column `{}` does not fit its table", field.name())),
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    RecordBatch::try_new(schema.clone(), columns).internal(|| "rows do not fit their table".to_owned())
}

#[cfg(test)]
mod tests {
    use deltalake::parquet::basic::GzipLevel;

    use super::*;

    #[test]
    fn properties_choose_size_and_compression() {
        let properties = |pairs: &[(&str, &str)]| {
            WriterOptions::default().for_table(&pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
        };
        assert_eq!(properties(&[]).unwrap(), WriterOptions::default());
        let compression = |value: &str| properties(&[("weir.compression", value)]).unwrap().compression;
        assert_eq!(compression("ZSTD(3)"), Compression::ZSTD(ZstdLevel::try_new(3).unwrap()));
        assert_eq!(compression("gzip"), Compression::GZIP(GzipLevel::try_new(6).unwrap()));
        assert_eq!(compression("gzip(9)"), Compression::GZIP(GzipLevel::try_new(9).unwrap()));
        assert_eq!(compression("lz4_raw"), Compression::LZ4_RAW);
        assert_eq!(compression("none"), Compression::UNCOMPRESSED);
        assert!(properties(&[("weir.compression", "gzip(10)")]).is_err());
        let error = properties(&[("weir.compression", "zstd(30)")]).unwrap_err();
        assert_eq!(error.message(), "bad value `zstd(30)` of table property `weir.compression`");
        assert!(properties(&[("weir.target_file_size", "0")]).is_err());
    }

    #[test]
    fn sizes_mean_what_they_mean_in_the_configuration_and_to_spark_in_its_own_property() {
        let size = |pairs: &[(&str, &str)]| {
            let options = WriterOptions::default();
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            options.for_table(&pairs.collect()).map(|options| options.target_file_size)
        };
        for (text, bytes) in
            [("64 MB", 64_000_000), ("64m", 64_000_000), ("64MiB", 64 << 20), ("1.5 KiB", 1536), ("7", 7)]
        {
            assert_eq!(size(&[(FILE_SIZE, text)]).unwrap(), bytes, "{text}");
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for (text, bytes) in [("1gb", 1 << 30), ("64 MB", 64 << 20), ("64m", 64 << 20), ("7", 7)] {
            assert_eq!(size(&[(SPARK_FILE_SIZE, text)]).unwrap(), bytes, "{text}");
        }
        assert_eq!(size(&[(SPARK_FILE_SIZE, "1gb"), (FILE_SIZE, "64MiB")]).unwrap(), 64 << 20);
        for (key, text) in
            [(FILE_SIZE, "64 XB"), (FILE_SIZE, "many"), (SPARK_FILE_SIZE, "64MiB"), (SPARK_FILE_SIZE, "0")]
        {
            let error = size(&[(key, text)]).unwrap_err();
            assert!(error.message().contains(key) && error.detail().is_some_and(|detail| detail.contains(text)));
        }
    }
}
