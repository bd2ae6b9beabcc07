//! The data files of a table, one by one: which there are at a version, and their rows from any row on.
//!
//! Promises: the files of a version come in a fixed order, the rows of a file in the order they were written, in the table's
//! columns: partition values filled in, deletion vectors applied, columns that the file lacks null. Queries do not come this
//! way (see [`scan`](super::scan)); it is for whoever must remember where it stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, SchemaRef};
use bytes::Bytes;
use chrono::DateTime;
use datafusion::common::ScalarValue;
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor as KernelDescriptor;
use deltalake::kernel::DeletionVectorDescriptor;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryFutureExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use url::Url;

use super::actions::{Add, AddCDCFile, LogPath, PartitionValues, Remove};
use super::cast::{as_type, partition_value};
use super::damage::{damaged_file, unreadable_file, unreadable_vector};
use super::listing::files_of;
use super::log::with_snapshot;
use super::metadata::TableMetadata;
use super::shown::FileColumns;
use super::store::TableStore;
use super::times::with_micros;
use crate::error::{Context, Error, ErrorKind, Result};

/// A table at one version, as its readers need it.
#[derive(Debug, Clone, PartialEq)]
pub struct TableShape {
    pub version: u64,
    /// All columns as they are shown, strings as Utf8.
    pub schema: SchemaRef,
    pub columns: FileColumns,
}

impl TableShape {
    /// The table at `version`, or as it is now. Errors: no table or no such version any more; its columns have other names in files.
    pub async fn read(store: &TableStore, version: Option<u64>) -> Result<Self> {
        let name = store.location().to_owned();
        with_snapshot(store, version, move |table| {
            let configuration = table.snapshot.table_configuration();
            let to_json = || "cannot read a table's metadata".to_owned();
            let protocol = serde_json::to_value(configuration.protocol()).internal(to_json)?;
            let metadata = serde_json::to_value(configuration.metadata()).internal(to_json)?;
            Self::of(&name, table.snapshot.version(), &TableMetadata::read(&name, &protocol, &metadata)?)
        })
        .await
    }

    /// The shape that `metadata` describes. Errors: the table cannot be read file by file.
    pub(super) fn of(table: &str, version: u64, metadata: &TableMetadata) -> Result<Self> {
        let mapped = metadata.properties.get("delta.columnMapping.mode").filter(|mode| *mode != "none");
        if let Some(mode) = mapped {
            return Err(Error::config(format!("table `{table}` cannot be read file by file"))
                .with_detail(format!("It maps its columns (`delta.columnMapping.mode` = `{mode}`)."))
                .with_hint("Query it, or copy it into a table without column mapping."));
        }
        let columns = metadata.file_columns.clone();
        Ok(Self { version, schema: columns.shown_schema(&metadata.schema), columns })
    }
}

/// A data file as one version knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    /// Relative to the table.
    pub path: String,
    pub partition_values: PartitionValues,
    /// Bytes, if the log says so.
    pub size: Option<u64>,
    /// Milliseconds since 1970 UTC.
    pub modified_ms: i64,
    /// Rows without the deleted ones, if the log says so.
    pub rows: Option<u64>,
    /// The least value of TIMESTAMP columns, microseconds, where the log says it.
    pub least_times: BTreeMap<String, i64>,
    pub deletion_vector: Option<DeletionVectorDescriptor>,
    /// Only rows that this vector marks are meant.
    pub among: Option<DeletionVectorDescriptor>,
}

impl DataFile {
    /// The file that an `add` action brings.
    pub fn of_add(add: Add) -> Self {
        let counted = add.stats.as_deref().and_then(parsed);
        let physical = counted.as_ref().and_then(|stats| stats["numRecords"].as_u64());
        let deleted = add.deletion_vector.as_ref().map_or(0, |vector| vector.cardinality.unsigned_abs());
        Self {
            path: decoded(&add.path),
            partition_values: add.partition_values,
            size: u64::try_from(add.size).ok(),
            modified_ms: add.modification_time,
            rows: physical.and_then(|rows| rows.checked_sub(deleted)),
            least_times: counted.as_ref().map(least_times).unwrap_or_default(),
            deletion_vector: add.deletion_vector,
            among: None,
        }
    }

    /// The file that a `remove` action takes away.
    pub fn of_remove(remove: Remove) -> Self {
        Self {
            path: decoded(&remove.path),
            partition_values: remove.partition_values.unwrap_or_default(),
            size: remove.size.and_then(|size| u64::try_from(size).ok()),
            modified_ms: remove.deletion_timestamp.unwrap_or(0),
            rows: None,
            least_times: BTreeMap::new(),
            deletion_vector: remove.deletion_vector,
            among: None,
        }
    }

    /// A file of the change feed.
    pub fn of_cdc(cdc: AddCDCFile) -> Self {
        Self {
            path: decoded(&cdc.path),
            partition_values: cdc.partition_values,
            size: u64::try_from(cdc.size).ok(),
            modified_ms: 0,
            rows: None,
            least_times: BTreeMap::new(),
            deletion_vector: None,
            among: None,
        }
    }

    /// Of its rows those that `other`, the same file in another state, marks as deleted and this one does not; `None` if it marks none.
    pub fn rows_marked_by(&self, other: &Self) -> Option<Self> {
        let among = other.deletion_vector.clone()?;
        (self.deletion_vector.as_ref() != Some(&among)).then(|| Self { rows: None, among: Some(among), ..self.clone() })
    }

    /// Tells this file, with what is deleted in it, apart from any other of the table.
    pub fn identity(&self) -> String {
        match &self.deletion_vector {
            None => self.path.clone(),
            Some(vector) => format!("{}#{}@{}", self.path, vector.path_or_inline_dv, vector.offset.unwrap_or(0)),
        }
    }
}

fn parsed(stats: &str) -> Option<serde_json::Value> {
    serde_json::from_str(stats).ok()
}

/// Columns whose least value is a time, by name.
fn least_times(stats: &serde_json::Value) -> BTreeMap<String, i64> {
    let Some(least) = stats["minValues"].as_object() else { return BTreeMap::new() };
    let time = |value: &serde_json::Value| Some(DateTime::parse_from_rfc3339(value.as_str()?).ok()?.timestamp_micros());
    least.iter().filter_map(|(name, value)| Some((name.clone(), time(value)?))).collect()
}

/// The file's decoded path; one outside of the table keeps its spelling, and is refused when it is opened.
fn decoded(path: &LogPath) -> String {
    path.object().map_or_else(|_| path.to_string(), |object| object.to_string())
}

/// Brings files into the order in which they are read: by time of writing, then by path.
pub fn in_order(files: &mut [DataFile]) {
    files.sort_by(|a, b| (a.modified_ms, &a.path).cmp(&(b.modified_ms, &b.path)));
}

/// The files of a version, in order. Errors: the log does not reach back to it.
pub async fn files_at(store: &TableStore, version: u64) -> Result<Vec<DataFile>> {
    let location = store.location().to_owned();
    let mut files = with_snapshot(store, Some(version), move |table| {
        let adds = files_of(table).map_err(|error| {
            let failed = format!("cannot list the files of version {version} of `{location}`");
            Error::new(error.kind(), failed).with_source(error)
        })?;
        Ok(adds.into_iter().map(DataFile::of_add).collect::<Vec<_>>())
    })
    .await?;
    in_order(&mut files);
    Ok(files)
}

/// The rows of one file, from some row on.
pub struct FileRows {
    stream: ParquetRecordBatchStream<StoredFile>,
    /// The columns that come out.
    schema: SchemaRef,
    columns: FileColumns,
    /// Per column: its value in this file, if the file's place says it.
    constants: Vec<Option<ScalarValue>>,
    /// Physical row numbers of deleted rows, ascending.
    deleted: Vec<u64>,
    /// Physical row numbers of the rows that are wanted, ascending; `None` = all.
    among: Option<Vec<u64>>,
    /// Physical number of the next row.
    next_row: u64,
    /// Rows still to be passed over.
    skip: u64,
    path: String,
    /// Of the table.
    location: String,
}

impl FileRows {
    /// Opens `file` at row `skip`. `schema` is what comes out: columns of the table, or others that only the file has.
    pub async fn open(
        store: &TableStore,
        file: &DataFile,
        schema: &SchemaRef,
        columns: &FileColumns,
        skip: u64,
        batch_rows: usize,
    ) -> Result<Self> {
        let failed = || format!("cannot read file `{}` of `{}`", file.path, store.location());
        let path = path_of(store, file)?;
        let objects = store.object_store();
        let size = match file.size {
            Some(size) => size,
            None => objects.head(&path).await.map_err(|error| gone(store, file, error))?.size,
        };
        let constants = constants(file, schema, columns)?;
        let deleted = match &file.deletion_vector {
            Some(vector) => deleted_rows(store, &file.path, vector).await?,
            None => Vec::new(),
        };
        let among = match &file.among {
            Some(vector) => Some(deleted_rows(store, &file.path, vector).await?),
            None => None,
        };
        let mut stored = StoredFile { objects, path: path.clone(), size };
        // The writer's Arrow types are ignored: the table's schema decides.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let loaded = ArrowReaderMetadata::load_async(&mut stored, options.clone()).await;
        let builder = match loaded.and_then(|loaded| with_micros(loaded, options)) {
            Ok(metadata) => ParquetRecordBatchStreamBuilder::new_with_metadata(stored, metadata),
            Err(error) if not_found(&error) => return Err(gone(store, file, error)),
            Err(error) => return Err(unreadable_file(store, &path, file.size, error).await),
        };
        let wanted: Vec<usize> = (builder.parquet_schema().root_schema().get_fields().iter().enumerate())
            .filter(|(_, field)| schema.index_of(field.name()).is_ok_and(|index| constants[index].is_none()))
            .map(|(index, _)| index)
            .collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        // Physical and visible rows are the same where nothing is deleted, and whole pages can be passed over.
        let jump = if deleted.is_empty() && among.is_none() { usize::try_from(skip).unwrap_or(usize::MAX) } else { 0 };
        let batch_rows = super::batch_rows(builder.metadata(), batch_rows);
        let builder = builder.with_projection(mask).with_batch_size(batch_rows).with_offset(jump);
        let stream = builder.build().environment(failed)?;
        let (skip, path) = (skip - jump as u64, file.path.clone());
        let location = store.location().to_owned();
        Ok(Self {
            stream,
            schema: schema.clone(),
            columns: columns.clone(),
            constants,
            deleted,
            among,
            next_row: jump as u64,
            skip,
            path,
            location,
        })
    }

    /// The next rows, never none; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(batch) = self.stream.next().await {
            let batch = batch.map_err(|error| damaged_file(&self.location, &self.path, error))?;
            let mut rows = self.conform(&batch)?;
            let first = self.next_row;
            self.next_row += batch.num_rows() as u64;
            if !self.deleted.is_empty() || self.among.is_some() {
                let wanted = |row: u64| self.among.as_ref().is_none_or(|among| among.binary_search(&row).is_ok());
                let is_alive = |row| Some(self.deleted.binary_search(&row).is_err() && wanted(row));
                let alive: BooleanArray = (first..self.next_row).map(is_alive).collect();
                rows = filter_record_batch(&rows, &alive).internal(|| "deleted rows cannot be removed".to_owned())?;
            }
            let pass = self.skip.min(rows.num_rows() as u64);
            self.skip -= pass;
            let rows = rows.slice(pass as usize, rows.num_rows() - pass as usize);
            if rows.num_rows() > 0 {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let column = |(field, constant): (&Arc<Field>, &Option<ScalarValue>)| -> Result<ArrayRef> {
            let misfit = || format!("column `{}` of file `{}` does not fit its table", field.name(), self.path);
            if let Some(value) = constant {
                return value.to_array_of_size(rows).context(ErrorKind::Damaged, misfit);
            }
            let Some(found) = batch.column_by_name(field.name()) else {
                return Ok(new_null_array(field.data_type(), rows));
            };
            let shown = self.columns.show(field.name(), found).context(ErrorKind::Damaged, misfit)?;
            as_type(&shown, field.data_type()).context(ErrorKind::Damaged, misfit)
        };
        let columns = self.schema.fields().iter().zip(&self.constants).map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .context(ErrorKind::Damaged, || format!("the rows of file `{}` do not fit their table", self.path))
    }
}

impl fmt::Debug for FileRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRows").field("path", &self.path).field("next_row", &self.next_row).finish_non_exhaustive()
    }
}

/// Reads all rows of a file.
pub async fn read_file(
    store: &TableStore,
    file: &DataFile,
    schema: &SchemaRef,
    columns: &FileColumns,
) -> Result<Vec<RecordBatch>> {
    const BATCH_ROWS: usize = 64 * 1024;
    let mut rows = FileRows::open(store, file, schema, columns, 0, BATCH_ROWS).await?;
    let mut batches = Vec::new();
    while let Some(batch) = rows.next().await? {
        batches.push(batch);
    }
    Ok(batches)
}

/// A file's path relative to its table.
fn path_of(store: &TableStore, file: &DataFile) -> Result<Path> {
    if file.path.contains("://") || file.path.starts_with('/') || file.path.split('/').any(|name| name == "..") {
        return Err(Error::config(format!("file `{}` of `{}` lies outside of the table", file.path, store.location()))
            .with_hint("Shallow clones cannot be read as streams: copy the table."));
    }
    Ok(Path::parse(&file.path).unwrap_or_else(|_| Path::from(file.path.as_str())))
}

/// Per column of `schema`: its value in this file, if it is a partition column.
fn constants(file: &DataFile, schema: &SchemaRef, columns: &FileColumns) -> Result<Vec<Option<ScalarValue>>> {
    let constant = |field: &Arc<Field>| -> Result<Option<ScalarValue>> {
        if !columns.is_partition(field.name()) {
            return Ok(None);
        }
        let damaged = || format!("file `{}` has no usable value for partition column `{}`", file.path, field.name());
        // Some writers leave out a column that is null.
        let text = file.partition_values.get(field.name()).and_then(Option::as_deref);
        let typed = partition_value(text, field.data_type()).context(ErrorKind::Damaged, damaged)?;
        let typed = columns.show(field.name(), &typed).context(ErrorKind::Damaged, damaged)?;
        Ok(Some(ScalarValue::try_from_array(&typed, 0).context(ErrorKind::Damaged, damaged)?))
    };
    schema.fields().iter().map(constant).collect()
}

/// `true` if a file, and the file of its deletion vector, still exist.
pub async fn is_there(store: &TableStore, file: &DataFile) -> Result<bool> {
    let vector = file.deletion_vector.as_ref().and_then(|vector| vector_path(vector, store.url()));
    for path in std::iter::once(path_of(store, file)?).chain(vector) {
        match store.object_store().head(&path).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => {
                return Err(error).environment(|| format!("cannot look for `{path}` of `{}`", store.location()));
            }
        }
    }
    Ok(true)
}

/// The path of a deletion vector's file below the table; `None` if the vector is stored in the log or outside of the table.
pub(super) fn vector_path(vector: &DeletionVectorDescriptor, url: &Url) -> Option<Path> {
    let kernel = KernelDescriptor::try_from(vector.clone()).ok()?;
    let file = kernel.absolute_path(url).ok()??;
    Path::from_url_path(file.path().strip_prefix(url.path())?).ok()
}

/// The rows that a deletion vector deletes, ascending.
pub(super) async fn deleted_rows(
    store: &TableStore,
    file: &str,
    vector: &DeletionVectorDescriptor,
) -> Result<Vec<u64>> {
    let failed = || format!("the deletion vector of file `{file}` cannot be read");
    let (engine, url) = (store.log_store().engine(None), store.url().clone());
    let vector = KernelDescriptor::try_from(vector.clone()).context(ErrorKind::Damaged, failed)?;
    let reading = vector.clone();
    let read = tokio::task::spawn_blocking(move || reading.row_indexes(engine.storage_handler(), &url));
    read.await.internal(failed)?.map_err(|error| unreadable_vector(store, file, &vector, error))
}

fn not_found(error: &ParquetError) -> bool {
    let ParquetError::External(cause) = error else { return false };
    matches!(cause.downcast_ref::<object_store::Error>(), Some(object_store::Error::NotFound { .. }))
}

fn gone(store: &TableStore, file: &DataFile, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::environment(format!("file `{}` of `{}` is gone", file.path, store.location()))
        .with_detail("VACUUM removes files that newer versions of the table no longer need.")
        .with_hint("Read the table from a newer version, and keep files longer than its readers lag behind.")
        .with_source(error)
}

/// A Parquet file in an object store.
struct StoredFile {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.objects.get_range(&self.path, range).map_err(|error| ParquetError::External(Box::new(error))).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            let read = self.objects.get_ranges(&self.path, &ranges).await;
            read.map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(64 * 1024));
            let reader = reader.with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
