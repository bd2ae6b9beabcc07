//! The open files of one writer: at most one per partition, and together within the writer's memory.
//!
//! A file's memory is estimated from the rows it was given: they are encoded at once, and a row group is written out when
//! it has [`FileLimits::row_group_bytes`]. When all open files together exceed [`FileLimits::memory`], those that were not written to
//! for the longest time end; a later row of their partition begins a new file. So 100,000 partitions cost files, not memory.

use std::collections::HashMap;
use std::num::NonZeroU64;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Fields, SchemaRef};
use arrow::row::{RowConverter, SortField};
use delta_kernel::expressions::Scalar;
use delta_kernel::table_properties::DataSkippingNumIndexedCols;
use deltalake::DeltaTableError;
use deltalake::datafile::writer::{PartitionWriter, PartitionWriterConfig};
use deltalake::kernel::Add;
use deltalake::kernel::scalars::ScalarExt;
use deltalake::logstore::ObjectStoreRef;
use deltalake::parquet::file::properties::WriterProperties;
use futures::StreamExt;

use super::bounds::{FileStats, SeenValues};
use crate::error::{Context, Error, Result};

/// Rows handed to the Parquet writer between two looks at the file's size.
const SLICE_ROWS: usize = 64 * 1024;
/// Memory of an open file without rows, and in addition per column: encoders, page buffers, statistics.
const FILE_BYTES: u64 = 8 << 10;
const COLUMN_BYTES: u64 = 2 << 10;
/// Memory of a column's dictionary, however few its values.
const DICTIONARY_BYTES: u64 = 80 << 10;
/// A part of an upload, and how many are under way where memory allows.
const PART_BYTES: u64 = 5 << 20;
const MOST_UPLOADS: u64 = 10;
/// Files that end at the same time.
const ENDING: usize = 16;

/// Limits of a writer's open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileLimits {
    /// Bytes of all of them.
    pub memory: u64,
    /// A file ends beyond this; `None` = never.
    pub file_bytes: Option<NonZeroU64>,
}

impl FileLimits {
    /// A row group is written out when it has so many bytes.
    pub(super) fn row_group_bytes(&self) -> usize {
        usize::try_from((self.memory / 2).clamp(1 << 20, 1 << 30)).unwrap_or(usize::MAX)
    }

    fn uploads(&self) -> usize {
        (self.memory / 4 / PART_BYTES).clamp(1, MOST_UPLOADS) as usize
    }
}

/// The format of written files.
#[derive(Debug, Clone)]
pub(super) struct FileFormat {
    /// The table, for errors.
    pub location: String,
    pub schema: SchemaRef,
    pub partition_columns: Vec<String>,
    pub properties: WriterProperties,
    /// The same without dictionaries, for when memory is short.
    pub plain: WriterProperties,
    pub limits: FileLimits,
    pub indexed_columns: DataSkippingNumIndexedCols,
    pub stats_columns: Option<Vec<String>>,
}

/// Writes rows into one open file per partition.
pub(super) struct OpenFiles {
    store: ObjectStoreRef,
    format: FileFormat,
    file_schema: SchemaRef,
    /// The partition columns, by index.
    partition: Vec<usize>,
    keys: Option<RowConverter>,
    open: HashMap<Box<[u8]>, OpenFile>,
    /// Estimated memory of all open files.
    bytes: u64,
    writes: u64,
    done: Vec<Add>,
}

struct OpenFile {
    writer: PartitionWriter,
    seen: SeenValues,
    /// Its columns have dictionaries.
    dictionaries: bool,
    /// Given to it since it began.
    raw: u64,
    /// Estimated memory.
    bytes: u64,
    /// The write that touched it last.
    touched: u64,
}

impl OpenFile {
    /// Ends it, and the files before it that had their full size.
    async fn end(self, columns: &Fields) -> Result<Vec<Add>, DeltaTableError> {
        let sound = |stats: String| Some(FileStats::parse(&stats)?.sound(columns, &self.seen).to_string());
        let adds = self.writer.close().await?;
        Ok(adds.into_iter().map(|add| Add { stats: add.stats.and_then(sound), ..add }).collect())
    }
}

impl OpenFiles {
    pub(super) fn new(store: ObjectStoreRef, format: FileFormat) -> Result<Self> {
        let failed = || "the partition columns cannot be grouped by".to_owned();
        let columns = format.partition_columns.iter().map(|name| format.schema.index_of(name));
        let partition = columns.collect::<Result<Vec<_>, _>>().internal(failed)?;
        let rest: Vec<usize> = (0..format.schema.fields().len()).filter(|index| !partition.contains(index)).collect();
        let file_schema = std::sync::Arc::new(format.schema.project(&rest).internal(failed)?);
        let fields: Vec<_> =
            partition.iter().map(|index| SortField::new(format.schema.field(*index).data_type().clone())).collect();
        let keys = (!fields.is_empty()).then(|| RowConverter::new(fields)).transpose().internal(failed)?;
        let (open, done) = (HashMap::new(), Vec::new());
        Ok(Self { store, format, file_schema, partition, keys, open, bytes: 0, writes: 0, done })
    }

    /// Bytes that the open files take, about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Files that have ended.
    pub(super) fn ended(&self) -> usize {
        self.done.len()
    }

    /// Adds rows in the writer's schema.
    pub(super) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writes += 1;
        let Some(keys) = &self.keys else {
            return self.write_to(Box::default(), batch, &[], 0).await;
        };
        let failed = || "rows cannot be divided into partitions".to_owned();
        let values: Vec<ArrayRef> = self.partition.iter().map(|index| batch.column(*index).clone()).collect();
        let rows = keys.convert_columns(&values).internal(failed)?;
        let mut groups: HashMap<&[u8], Vec<u32>> = HashMap::new();
        let mut order: Vec<&[u8]> = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let group = groups.entry(row.data()).or_insert_with(|| {
                order.push(row.data());
                Vec::new()
            });
            group.push(number as u32);
        }
        let rest: Vec<usize> = (0..batch.num_columns()).filter(|index| !self.partition.contains(index)).collect();
        let columns = batch.project(&rest).internal(failed)?;
        let groups: Vec<(Box<[u8]>, Vec<u32>)> =
            order.into_iter().filter_map(|key| Some((Box::from(key), groups.remove(key)?))).collect();
        for (key, numbers) in groups {
            let first = numbers.first().copied().unwrap_or_default() as usize;
            if numbers.len() == batch.num_rows() {
                self.write_to(key, &columns, &values, first).await?;
            } else {
                let part = take_record_batch(&columns, &UInt32Array::from(numbers)).internal(failed)?;
                self.write_to(key, &part, &values, first).await?;
            }
        }
        Ok(())
    }

    /// Adds rows of one partition, whose values are in row `first` of `values`.
    async fn write_to(&mut self, key: Box<[u8]>, rows: &RecordBatch, values: &[ArrayRef], first: usize) -> Result<()> {
        if !self.open.contains_key(&key) {
            // Dictionaries while there is plenty of room: files that end early cost more than they save.
            let dictionaries = self.bytes + self.file_bytes(0, true) <= self.format.limits.memory / 2;
            self.make_room(self.file_bytes(0, dictionaries)).await?;
            let writer = self.begin(values, first, dictionaries)?;
            self.open.insert(
                key.clone(),
                OpenFile { writer, seen: SeenValues::default(), dictionaries, raw: 0, bytes: 0, touched: 0 },
            );
        }
        let known = self.open.get(&key).map(|file| (file.raw, file.dictionaries));
        let Some((raw, dictionaries)) = known else { return Err(Error::internal("an open file is gone")) };
        let raw = raw + size_of_rows(rows);
        let bytes = self.file_bytes(raw, dictionaries);
        let Some(file) = self.open.get_mut(&key) else { return Err(Error::internal("an open file is gone")) };
        (file.raw, file.touched) = (raw, self.writes);
        self.bytes = self.bytes + bytes - file.bytes;
        file.bytes = bytes;
        file.seen.observe(rows);
        let written = file.writer.write(rows).await;
        written.environment(|| format!("cannot write a file of `{}`", self.format.location))?;
        if self.bytes > self.format.limits.memory {
            self.make_room(0).await?;
        }
        Ok(())
    }

    /// Estimated memory of a file that was given `raw` bytes of rows.
    fn file_bytes(&self, raw: u64, dictionaries: bool) -> u64 {
        let columns = self.file_schema.fields().len() as u64;
        let column = COLUMN_BYTES + if dictionaries { DICTIONARY_BYTES } else { 0 };
        let encoding = raw.min(self.format.limits.row_group_bytes() as u64);
        let uploading = (raw / 2).min(PART_BYTES);
        FILE_BYTES + columns * column + encoding + uploading
    }

    fn begin(&self, values: &[ArrayRef], row: usize, dictionaries: bool) -> Result<PartitionWriter> {
        let failed = || "a file cannot be begun".to_owned();
        let scalars = self.format.partition_columns.iter().zip(values).map(|(name, column)| {
            let unreadable = || Error::internal(format!("value of partition column `{name}` cannot be read"));
            Ok((name.clone(), Scalar::from_array(column.as_ref(), row).ok_or_else(unreadable)?))
        });
        let config = PartitionWriterConfig::try_new(
            self.file_schema.clone(),
            scalars.collect::<Result<_>>()?,
            Some(if dictionaries { self.format.properties.clone() } else { self.format.plain.clone() }),
            self.format.limits.file_bytes,
            Some(SLICE_ROWS),
            Some(self.format.limits.uploads()),
            None,
        );
        let (indexed, stats) = (self.format.indexed_columns, self.format.stats_columns.clone());
        PartitionWriter::try_with_config(self.store.clone(), config.internal(failed)?, indexed, stats).internal(failed)
    }

    /// Ends files until half of the memory is free, if `more` would be too much.
    async fn make_room(&mut self, more: u64) -> Result<()> {
        let limit = self.format.limits.memory;
        if self.bytes + more <= limit || self.open.len() < 2 {
            return Ok(());
        }
        let mut oldest: Vec<(u64, Box<[u8]>)> =
            self.open.iter().map(|(key, file)| (file.touched, key.clone())).collect();
        oldest.sort_unstable();
        let mut ending = Vec::new();
        for (_, key) in oldest {
            if self.bytes + more <= limit / 2 {
                break;
            }
            if let Some(file) = self.open.remove(&key) {
                self.bytes -= file.bytes;
                ending.push(file);
            }
        }
        self.end(ending).await
    }

    async fn end(&mut self, files: Vec<OpenFile>) -> Result<()> {
        let columns = self.file_schema.fields();
        let ending = files.into_iter().map(|file| file.end(columns));
        let mut ended = futures::stream::iter(ending).buffered(ENDING);
        let mut failure = None;
        // After a failure the others end all the same: an upload that is cut off would leave parts that nobody sees.
        while let Some(adds) = ended.next().await {
            match adds {
                Ok(adds) => self.done.extend(adds),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        drop(ended);
        match failure {
            None => Ok(()),
            Some(error) => Err(error).environment(|| format!("cannot finish a file of `{}`", self.format.location)),
        }
    }

    /// Ends all files and returns them.
    pub(super) async fn close(mut self) -> Result<Vec<Add>> {
        let mut files: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.end(files.into_iter().map(|(_, file)| file).collect()).await?;
        Ok(self.done)
    }
}

/// Bytes of these very rows: batches may be parts of larger ones.
pub fn size_of_rows(rows: &RecordBatch) -> u64 {
    rows.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0) as u64).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::DataType;

    use super::super::testing::{WrittenTable, declared};
    use super::super::{Add, WriterOptions};
    use super::*;
    use crate::env::Env;

    /// Rows whose partition is their number modulo `partitions`.
    fn rows(numbers: std::ops::Range<i64>, partitions: i64) -> RecordBatch {
        let id: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.clone()));
        let k: ArrayRef = Arc::new(StringArray::from_iter_values(numbers.map(|n| format!("p{}", n % partitions))));
        RecordBatch::try_from_iter([("id", id), ("k", k)]).unwrap()
    }

    /// Rows per partition value, by the statistics of the files.
    fn counted(adds: &[Add]) -> BTreeMap<String, i64> {
        let mut counted = BTreeMap::new();
        for add in adds {
            let stats: serde_json::Value = serde_json::from_str(add.stats.as_ref().unwrap()).unwrap();
            let value = add.partition_values["k"].clone().unwrap();
            *counted.entry(value).or_default() += stats["numRecords"].as_i64().unwrap();
        }
        counted
    }

    #[tokio::test]
    async fn files_end_early_when_partitions_are_many_and_no_row_is_lost() {
        let columns = [("id", DataType::Int64, true), ("k", DataType::Utf8, true)];
        let written = WrittenTable::create(&declared("t", &columns, &["k"]), &Env::system().unwrap()).await;
        let options = WriterOptions { memory: 1 << 20, ..WriterOptions::default() };
        let mut writer = written.table.writer(&options).unwrap();
        for start in [0, 600, 1_200] {
            writer.write(&rows(start..start + 600, 400)).await.unwrap();
            assert!(writer.bytes() <= options.memory, "{}", writer.bytes());
        }
        let early = writer.finished();
        assert!(early > 400, "{early} files ended early");
        let staged = writer.close().await.unwrap();
        assert_eq!((staged.rows, counted(&staged.adds).len()), (1_800, 400));
        assert!(counted(&staged.adds).values().all(|rows| (4..=5).contains(rows)));
    }

    #[tokio::test]
    async fn the_text_that_names_the_folder_of_nulls_is_not_null() {
        let columns = [("id", DataType::Int64, true), ("k", DataType::Utf8, true)];
        let written = WrittenTable::create(&declared("t", &columns, &["k"]), &Env::system().unwrap()).await;
        let mut writer = written.table.writer(&WriterOptions::default()).unwrap();
        let id: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let k: ArrayRef = Arc::new(StringArray::from(vec![None, Some("__HIVE_DEFAULT_PARTITION__"), None]));
        writer.write(&RecordBatch::try_from_iter([("id", id), ("k", k)]).unwrap()).await.unwrap();
        let adds = writer.close().await.unwrap().adds;
        let mut values: Vec<_> = adds.iter().map(|add| add.partition_values["k"].clone()).collect();
        values.sort();
        assert_eq!(values, [None, Some("__HIVE_DEFAULT_PARTITION__".to_owned())]);
        assert_ne!(adds[0].path, adds[1].path);
    }

    #[tokio::test]
    async fn few_partitions_have_one_file_each() {
        let columns = [("id", DataType::Int64, true), ("k", DataType::Utf8, true)];
        let written = WrittenTable::create(&declared("t", &columns, &["k"]), &Env::system().unwrap()).await;
        let mut writer = written.table.writer(&WriterOptions::default()).unwrap();
        for start in [0, 600] {
            writer.write(&rows(start..start + 600, 3)).await.unwrap();
        }
        let staged = writer.close().await.unwrap();
        assert_eq!(staged.adds.len(), 3);
        assert!(counted(&staged.adds).values().all(|rows| *rows == 400));
    }
}
