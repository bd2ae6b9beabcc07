//! A table in all its versions at once: every row with the time from which on, and until which, it was part of the table.
//!
//! In a query, a join to a table `FOR SYSTEM_TIME AS OF` a time is an ordinary join to this, with the condition that the time lies
//! between the two. A data file is read once, however often rows of it were deleted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt, stream};

use super::files::{DataFile, FileRows, deleted_rows, read_file};
use super::lives::{FileLife, TablePast};
use super::shown::FileColumns;
use super::store::TableStore;
use crate::error::{Context, Result};

/// The column that holds from when on a row was part of the table, microseconds since 1970 UTC.
pub const ROW_FROM: &str = "__weir_from";
/// The column that holds from when on it was no more.
pub const ROW_UNTIL: &str = "__weir_until";

/// The rows that are joined for a time before the table's oldest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BeforeFirst {
    Nothing,
    /// The rows of the oldest version.
    First,
}

/// See the module.
#[derive(Debug)]
pub(super) struct AllVersions {
    source: Source,
    newest: u64,
    schema: SchemaRef,
}

/// Everything that is needed to read files.
#[derive(Debug, Clone)]
struct Source {
    store: TableStore,
    columns: FileColumns,
    before_first: BeforeFirst,
}

impl AllVersions {
    /// The versions of the table at `store` up to `newest`, whose columns are `schema`.
    pub fn new(
        store: TableStore,
        newest: u64,
        schema: &SchemaRef,
        partition_columns: Vec<String>,
        before_first: BeforeFirst,
    ) -> Self {
        let times = [ROW_FROM, ROW_UNTIL].map(|name| Arc::new(Field::new(name, DataType::Int64, false)));
        let fields: Vec<_> = schema.fields().iter().cloned().chain(times).collect();
        Self {
            source: Source { store, columns: FileColumns::as_stored(partition_columns), before_first },
            newest,
            schema: Arc::new(Schema::new(fields)),
        }
    }
}

#[async_trait]
impl TableProvider for AllVersions {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        let mut past = TablePast::read(&self.source.store, self.newest).await?;
        let files: Vec<Arc<FileLife>> = std::mem::take(&mut past.files).into_iter().map(Arc::new).collect();
        let past = Arc::new(past);
        let count = session.config().target_partitions().min(files.len()).max(1);
        let part = |number: usize| {
            let files = files.iter().skip(number).step_by(count).map(Arc::clone).collect();
            let (source, past) = (self.source.clone(), Arc::clone(&past));
            Arc::new(Part { source, past, files, schema: Arc::clone(&schema) }) as Arc<dyn PartitionStream>
        };
        let parts = (0..count).map(part).collect();
        Ok(Arc::new(StreamingTableExec::try_new(schema, parts, None, Vec::new(), false, limit)?))
    }
}

/// Some of the files.
#[derive(Debug)]
struct Part {
    source: Source,
    past: Arc<TablePast>,
    files: Vec<Arc<FileLife>>,
    schema: SchemaRef,
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batch_rows = context.session_config().batch_size();
        let (source, past, schema) = (self.source.clone(), Arc::clone(&self.past), Arc::clone(&self.schema));
        let rows = stream::iter(self.files.clone()).then(move |life| {
            let (source, past, schema) = (source.clone(), Arc::clone(&past), Arc::clone(&schema));
            async move {
                let stretches = stretches(&source.store, &life).await?;
                let reads = stretches.into_iter().map(move |stretch| Reading {
                    source: source.clone(),
                    past: Arc::clone(&past),
                    life: Arc::clone(&life),
                    stretch,
                    schema: Arc::clone(&schema),
                });
                let rows = stream::iter(reads).then(move |reading| reading.rows(batch_rows)).try_flatten();
                Ok::<_, DataFusionError>(rows)
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows.try_flatten()))
    }
}

/// Versions of a file in which rows of it only go.
struct Stretch {
    from: u64,
    until: Option<u64>,
    /// By physical row number: the version that deleted it. Rows that [`Stretch::from`] lacks have that.
    deleted: HashMap<u64, u64>,
}

/// Cuts a file's life where deleted rows come back, as a RESTORE brings them.
async fn stretches(store: &TableStore, life: &FileLife) -> Result<Vec<Stretch>> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let began = std::iter::once((life.from, life.file.deletion_vector.clone()));
    for (version, vector) in began.chain(life.marks.iter().cloned()) {
        let rows = match &vector {
            Some(vector) => deleted_rows(store, &life.file.path, vector).await?,
            None => Vec::new(),
        };
        if let Some(current) = stretches.last_mut() {
            let known = rows.iter().filter(|row| current.deleted.contains_key(row)).count();
            if known == current.deleted.len() {
                rows.into_iter().for_each(|row| {
                    current.deleted.entry(row).or_insert(version);
                });
                continue;
            }
            current.until = Some(version);
        }
        let deleted = rows.into_iter().map(|row| (row, version)).collect();
        stretches.push(Stretch { from: version, until: life.until, deleted });
    }
    Ok(stretches)
}

/// Rows of a file that came and went together.
#[derive(Debug)]
pub struct LivedRows {
    /// Of the file as it was last.
    pub identity: String,
    /// The first version that has them.
    pub from: u64,
    /// The first version that has them no more.
    pub until: Option<u64>,
    pub batches: Vec<RecordBatch>,
}

/// The rows of a file, parted by when they came and went.
pub async fn lived_rows(
    store: &TableStore,
    life: &FileLife,
    schema: &SchemaRef,
    columns: &FileColumns,
) -> Result<Vec<LivedRows>> {
    let file = DataFile { deletion_vector: None, ..life.file.clone() };
    let mut parts: BTreeMap<(u64, Option<u64>), Vec<RecordBatch>> = BTreeMap::new();
    for Stretch { from, until, deleted } in stretches(store, life).await? {
        let mut first = 0;
        for batch in read_file(store, &file, schema, columns).await? {
            let mut rows: BTreeMap<Option<u64>, Vec<u64>> = BTreeMap::new();
            for row in 0..batch.num_rows() as u64 {
                let until = deleted.get(&(first + row)).copied().or(until);
                if until != Some(from) {
                    rows.entry(until).or_default().push(row);
                }
            }
            first += batch.num_rows() as u64;
            for (until, rows) in rows {
                let part = match rows.len() == batch.num_rows() {
                    true => batch.clone(),
                    false => take_record_batch(&batch, &UInt64Array::from(rows))
                        .internal(|| "the versions of a file cannot be parted".to_owned())?,
                };
                parts.entry((from, until)).or_default().push(part);
            }
        }
    }
    let identity = life.identity();
    let lived = |((from, until), batches)| LivedRows { identity: identity.clone(), from, until, batches };
    Ok(parts.into_iter().map(lived).collect())
}

struct Reading {
    source: Source,
    past: Arc<TablePast>,
    life: Arc<FileLife>,
    stretch: Stretch,
    schema: SchemaRef,
}

impl Reading {
    async fn rows(
        self,
        batch_rows: usize,
    ) -> DataFusionResult<impl stream::Stream<Item = DataFusionResult<RecordBatch>> + Send> {
        let mut file = self.life.file.clone();
        file.deletion_vector = None;
        let is_stored = |field: &&Arc<Field>| field.name() != ROW_FROM && field.name() != ROW_UNTIL;
        let stored: Vec<_> = self.schema.fields().iter().filter(is_stored).cloned().collect();
        let Source { store, columns, .. } = &self.source;
        let stored: SchemaRef = Arc::new(Schema::new(stored));
        let rows = FileRows::open(store, &file, &stored, columns, 0, batch_rows).await?;
        Ok(stream::try_unfold((self, rows, 0), |(reading, mut rows, first)| async move {
            let Some(batch) = rows.next().await? else { return Ok(None) };
            let next = first + batch.num_rows() as u64;
            let batch = reading.timed(&batch, first)?;
            Ok(Some((batch, (reading, rows, next))))
        }))
    }

    /// The rows of a batch that the table had, with their times; `first` is the physical number of the first.
    fn timed(&self, batch: &RecordBatch, first: u64) -> Result<RecordBatch> {
        let wrong = || format!("the versions of file `{}` cannot be put together", self.life.file.path);
        let Stretch { from, until, deleted } = &self.stretch;
        let oldest = self.past.versions.first().map(|(_, version)| *version);
        let is_from_the_first = self.source.before_first == BeforeFirst::First && oldest == Some(*from);
        let began = if is_from_the_first { i64::MIN } else { self.past.time_of(*from) };
        let ended = until.map_or(i64::MAX, |version| self.past.time_of(version));
        let numbers = first..first + batch.num_rows() as u64;
        let mut stored = batch.columns().iter();
        let column = |field: &Arc<Field>| -> Option<ArrayRef> {
            match field.name().as_str() {
                ROW_FROM => Some(Arc::new(Int64Array::from_value(began, batch.num_rows()))),
                ROW_UNTIL => {
                    let time = |row| deleted.get(&row).map_or(ended, |version| self.past.time_of(*version));
                    Some(Arc::new(numbers.clone().map(time).collect::<Int64Array>()))
                }
                _ => stored.next().cloned(),
            }
        };
        let columns: Vec<ArrayRef> = self.schema.fields().iter().filter_map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let all = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).internal(wrong)?;
        let was_there: BooleanArray = numbers.map(|row| Some(deleted.get(&row) != Some(from))).collect();
        filter_record_batch(&all, &was_there).internal(wrong)
    }
}

#[cfg(test)]
mod tests;
