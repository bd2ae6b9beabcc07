//! The files that make up the table now, and how their rows are read back.
//!
//! Files are read as Parquet, directly: partition columns come from the file's own `add`, columns that a file lacks are null, and
//! rows that its deletion vector marks are left out. What a protocol feature would make of a file beyond that is refused when
//! the table is opened for writing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBufferBuilder, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection};
use deltalake::parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringBitmap;
use serde::Deserialize;

use super::super::actions::{Add, LogPath, Remove};
use super::super::batch_rows;
use super::super::cast::partition_value;
use super::super::damage::{damaged_file, unreadable_file};
use super::super::metadata::TableMetadata;
use super::super::store::TableStore;
use super::super::times::with_micros;
use super::super::writer::conform;
use super::key::Location;
use super::stored::StoredFile;
use super::vectors;
use crate::error::{Context, Error, ErrorKind, Result};

/// Rows of a batch that is read, at most.
const BATCH_ROWS: usize = 64 * 1024;

/// A file of the table.
#[derive(Debug, Clone)]
pub struct LiveFile {
    pub add: Add,
    /// Physical rows.
    pub rows: u32,
    /// Rows that its deletion vector marks.
    pub dead: RoaringBitmap,
    /// Rows that are not dead and whose keys lie elsewhere: the next commit deletes them.
    pub doubles: RoaringBitmap,
    /// Its partition, comparable.
    pub group: Vec<u8>,
    /// Its partition values, one row each, in the order of the partition columns.
    pub values: Vec<ArrayRef>,
}

impl LiveFile {
    /// The rows that are not dead, in order.
    pub fn live_positions(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.rows).filter(|row| !self.dead.contains(*row))
    }

    /// The action that takes the file out of the table.
    pub fn remove_action(&self, now_ms: i64) -> Remove {
        self.add.removal(now_ms, true)
    }
}

/// All files of the table, each with a number that is never used again.
#[derive(Debug, Default)]
pub struct LiveFiles {
    by_id: BTreeMap<u32, LiveFile>,
    by_path: HashMap<LogPath, u32>,
    next: u32,
}

impl LiveFiles {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &LiveFile)> {
        self.by_id.iter().map(|(id, file)| (*id, file))
    }

    pub fn get(&self, id: u32) -> Option<&LiveFile> {
        self.by_id.get(&id)
    }

    /// The number that the next file gets.
    pub fn next(&self) -> u32 {
        self.next
    }

    pub fn add(&mut self, file: LiveFile) -> u32 {
        let id = self.next;
        self.add_as(id, file);
        id
    }

    /// Adds a file under a number that was given out in advance.
    pub fn add_as(&mut self, id: u32, file: LiveFile) {
        self.by_path.insert(file.add.path.clone(), id);
        self.by_id.insert(id, file);
        self.next = self.next.max(id + 1);
    }

    pub fn remove(&mut self, id: u32) {
        if let Some(file) = self.by_id.remove(&id) {
            self.by_path.remove(&file.add.path);
        }
    }

    pub fn remove_path(&mut self, path: &LogPath) -> Option<u32> {
        let id = self.by_path.remove(path)?;
        self.by_id.remove(&id);
        Some(id)
    }

    /// Gives a file another deletion vector.
    pub fn revise(&mut self, id: u32, add: Add, dead: RoaringBitmap) {
        if let Some(file) = self.by_id.get_mut(&id) {
            file.doubles -= &dead;
            (file.add, file.dead) = (add, dead);
        }
    }

    /// Notes that the key of a row lies elsewhere.
    pub fn double(&mut self, at: Location) {
        if let Some(file) = self.by_id.get_mut(&at.file) {
            file.doubles.insert(at.row);
        }
    }

    /// `true` if a row is its key's: neither dead nor a double.
    pub fn lives(&self, at: Location) -> bool {
        let is_there = |file: &LiveFile| !file.dead.contains(at.row) && !file.doubles.contains(at.row);
        self.by_id.get(&at.file).is_some_and(is_there)
    }

    /// Rows that are not dead: one per key.
    pub fn live_rows(&self) -> u64 {
        let of_file = |file: &LiveFile| u64::from(file.rows).saturating_sub(file.dead.len() + file.doubles.len());
        self.by_id.values().map(of_file).sum()
    }

    /// Memory, roughly.
    pub fn bytes(&self) -> u64 {
        let one = |file: &LiveFile| {
            let stats = file.add.stats.as_ref().map_or(0, String::len);
            512 + 2 * file.add.path.as_str().len() as u64 + stats as u64 + file.dead.serialized_size() as u64
        };
        self.by_id.values().map(one).sum()
    }
}

/// The way in which partition values are read and compared.
#[derive(Debug)]
pub struct Partitioning {
    pub columns: Vec<String>,
    schema: SchemaRef,
    converter: Option<RowConverter>,
}

impl Partitioning {
    pub fn new(metadata: &TableMetadata) -> Result<Self> {
        let columns = metadata.partition_columns.clone();
        let fields = columns.iter().map(|name| metadata.schema.field_with_name(name).cloned());
        let fields = fields.collect::<Result<Vec<_>, _>>().internal(|| "a partition column is missing".to_owned())?;
        let sorted = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect::<Vec<_>>();
        let converter = (!sorted.is_empty()).then(|| RowConverter::new(sorted)).transpose();
        let converter = converter.internal(|| "partition values cannot be compared".to_owned())?;
        Ok(Self { columns, schema: Arc::new(Schema::new(fields)), converter })
    }

    /// The partition of each row, comparable; `None` when the table has no partitions.
    pub fn groups(&self, rows: &RecordBatch) -> Result<Option<Vec<Vec<u8>>>> {
        let Some(converter) = &self.converter else { return Ok(None) };
        let fail = || "partition values cannot be compared".to_owned();
        let columns = self.columns.iter().map(|name| {
            let index = rows.schema().index_of(name).internal(fail)?;
            Ok(Arc::clone(rows.column(index)))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let groups = converter.convert_columns(&columns).internal(fail)?;
        Ok(Some(groups.iter().map(|row| row.as_ref().to_vec()).collect()))
    }

    /// A file's partition values, typed, and its partition, comparable.
    pub fn of_file(&self, add: &Add) -> Result<(Vec<ArrayRef>, Vec<u8>)> {
        let damaged = || format!("the partition values of file `{}` cannot be read", add.path);
        let values = self.schema.fields().iter().map(|field| {
            let text = add.partition_values.get(field.name()).and_then(Option::as_deref);
            partition_value(text, field.data_type()).context(ErrorKind::Damaged, damaged)
        });
        let values = values.collect::<Result<Vec<ArrayRef>>>()?;
        let group = match &self.converter {
            None => Vec::new(),
            Some(converter) => converter.convert_columns(&values).internal(damaged)?.row(0).as_ref().to_vec(),
        };
        Ok((values, group))
    }
}

/// Rows of a file that are wanted.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Live,
    These(&'a RoaringBitmap),
    LiveWithout(&'a RoaringBitmap),
}

/// Reads rows of the table's files.
pub struct FileReader {
    store: TableStore,
    schema: SchemaRef,
    partitions: Result<Partitioning>,
}

impl FileReader {
    pub fn new(store: TableStore, metadata: &TableMetadata) -> Self {
        let partitions = Partitioning::new(metadata);
        Self { store, schema: Arc::clone(&metadata.schema), partitions }
    }

    /// The table's columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn partitions(&self) -> Result<&Partitioning> {
        match &self.partitions {
            Ok(partitions) => Ok(partitions),
            Err(error) => Err(Error::new(error.kind(), error.message())),
        }
    }

    /// Looks at a file and its deletion vector.
    pub async fn open(&self, add: Add) -> Result<LiveFile> {
        let dead = vectors::read(&self.store, &add).await?;
        let rows = self.parquet(&add).await?.metadata().file_metadata().num_rows();
        let too_many = || Error::config(format!("file `{}` has more than 2^32 rows", add.path));
        let rows = u32::try_from(rows).map_err(|_| too_many())?;
        let (values, group) = self.partitions()?.of_file(&add)?;
        Ok(LiveFile { add, rows, dead, doubles: RoaringBitmap::new(), group, values })
    }

    /// The rows that are not dead, in order, in these columns.
    pub async fn live_rows(
        &self,
        file: &LiveFile,
        columns: &SchemaRef,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.read(file, columns, Wanted::Live).await
    }

    /// All columns of the rows that are not dead and not among `without`, in order.
    pub async fn rows_without(
        &self,
        file: &LiveFile,
        without: &RoaringBitmap,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.read(file, &self.schema, Wanted::LiveWithout(without)).await
    }

    /// These columns of these rows, in order.
    pub async fn these_rows(
        &self,
        file: &LiveFile,
        columns: &SchemaRef,
        rows: &RoaringBitmap,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.read(file, columns, Wanted::These(rows)).await
    }

    async fn parquet(&self, add: &Add) -> Result<ParquetRecordBatchStreamBuilder<StoredFile>> {
        let (path, size) = (add.path.object()?, add.size.unsigned_abs());
        let mut reader = StoredFile::new(self.store.object_store(), path.clone(), size);
        let loaded = ArrowReaderMetadata::load_async(&mut reader, ArrowReaderOptions::default()).await;
        match loaded.and_then(|loaded| with_micros(loaded, ArrowReaderOptions::default())) {
            Ok(metadata) => Ok(ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata)),
            Err(error) => Err(unreadable_file(&self.store, &path, Some(size), error).await),
        }
    }

    async fn read(
        &self,
        file: &LiveFile,
        columns: &SchemaRef,
        wanted: Wanted<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let (path, location) = (file.add.path.object()?.to_string(), self.store.location().to_owned());
        let failed = move |error| damaged_file(&location, &path, error);
        let builder = self.parquet(&file.add).await?;
        let roots = columns.fields().iter().filter_map(|field| builder.schema().index_of(field.name()).ok());
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.collect::<Vec<_>>());
        let holds_none = holds_none(&builder, columns);
        let selection = select(file, wanted);
        let rows = batch_rows(builder.metadata(), BATCH_ROWS);
        let mut builder = builder.with_batch_size(rows);
        if !holds_none {
            builder = builder.with_projection(mask);
        }
        if let Some(selection) = selection {
            builder = builder.with_row_selection(selection);
        }
        let stream = builder.build().map_err(&failed)?;
        let constants: HashMap<String, ArrayRef> =
            self.partitions()?.columns.iter().cloned().zip(file.values.iter().cloned()).collect();
        let columns = Arc::clone(columns);
        Ok(stream.map_err(failed).map(move |batch| with_constants(&batch?, &constants, &columns)).boxed())
    }
}

/// True when the file holds none of the columns: then some column must be read all the same, to count rows.
fn holds_none(builder: &ParquetRecordBatchStreamBuilder<StoredFile>, columns: &SchemaRef) -> bool {
    !columns.fields().iter().any(|field| builder.schema().index_of(field.name()).is_ok())
}

fn select(file: &LiveFile, wanted: Wanted<'_>) -> Option<RowSelection> {
    let rows = file.rows as usize;
    match wanted {
        Wanted::Live if file.dead.is_empty() => None,
        Wanted::Live => Some(all_but(rows, &file.dead)),
        Wanted::LiveWithout(without) if without.is_empty() && file.dead.is_empty() => None,
        Wanted::LiveWithout(without) => Some(all_but(rows, &(&file.dead | without))),
        Wanted::These(wanted) => {
            let single = wanted.iter().map(|row| row as usize..row as usize + 1);
            Some(RowSelection::from_consecutive_ranges(single, rows))
        }
    }
}

fn all_but(rows: usize, dead: &RoaringBitmap) -> RowSelection {
    let mut keep = BooleanBufferBuilder::new(rows);
    keep.append_n(rows, true);
    for row in dead {
        if (row as usize) < rows {
            keep.set_bit(row as usize, false);
        }
    }
    RowSelection::from_boolean_buffer(keep.finish())
}

/// The rows in `columns`, with the file's partition values.
fn with_constants(
    rows: &RecordBatch,
    constants: &HashMap<String, ArrayRef>,
    columns: &SchemaRef,
) -> Result<RecordBatch> {
    if constants.is_empty() {
        return conform(rows, columns);
    }
    let fail = || "partition values cannot be repeated".to_owned();
    let mut fields = rows.schema().fields().to_vec();
    let mut arrays = rows.columns().to_vec();
    for field in columns.fields() {
        if let Some(value) = constants.get(field.name()) {
            let value = ScalarValue::try_from_array(value, 0).internal(fail)?;
            arrays.push(value.to_array_of_size(rows.num_rows()).internal(fail)?);
            fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
        }
    }
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).internal(fail)?;
    conform(&rows, columns)
}

/// The files that a log entry removes and adds.
pub fn moved_files(entry: &[u8]) -> Result<(Vec<Remove>, Vec<Add>)> {
    #[derive(Deserialize)]
    struct Action {
        add: Option<Add>,
        remove: Option<Remove>,
    }
    let (mut removes, mut adds) = (Vec::new(), Vec::new());
    for line in entry.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let action: Action =
            serde_json::from_slice(line).context(ErrorKind::Damaged, || "a log entry cannot be read".to_owned())?;
        removes.extend(action.remove);
        adds.extend(action.add);
    }
    Ok((removes, adds))
}
