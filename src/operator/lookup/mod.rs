//! A stream joined to a Delta table that others write: the table's rows are held in memory and follow its versions.
//!
//! [`Lookup::refresh`] goes on to the newest version, between epochs; what changed is read, not the table. [`Lookup::pin`] goes to
//! a given version, so that a replay answers as the first run did. [`Lookup::apply`] answers rows and changes nothing, so
//! lanes may share it. With `as_of`, each row is answered from the version that was the newest at its time:
//! [`Lookup::prepare`] makes sure that the versions that some rows need are held, and [`Lookup::forget`] gives up those that
//! none will need.
//!
//! When a version was committed is what its `commitInfo` says, in milliseconds; a version is never older than the one before.

mod index;
mod join;

#[cfg(test)]
mod tests;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::min;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::JoinType;
use futures::{StreamExt, TryStreamExt, stream};

use self::index::{FileContents, Index, Keys};
use super::StateUsage;
use super::spec::LookupSpec;
use crate::delta::{Commit, DataFile, TableShape, TableStore, files_at, read_file};
use crate::error::{Error, Result};

/// Files that are read at the same time.
const PARALLEL_FILES: usize = 8;

/// The join; see the module.
#[derive(Debug)]
pub struct Lookup {
    spec: LookupSpec,
    store: TableStore,
    memory_limit: usize,
    left_keys: Keys,
    right_keys: Keys,
    partition_columns: Vec<String>,
    index: Index,
    /// The versions that are held, with the time of each, microseconds; ascending, never empty.
    versions: Vec<(i64, u64)>,
    /// True when the log has no older version than those held.
    is_oldest: bool,
}

impl Lookup {
    /// Reads the table: at `version` (a replay), or as it is now. `memory_limit` is in bytes.
    ///
    /// Errors: no such table, column or version; key types that differ; more memory needed than allowed.
    pub async fn open(spec: LookupSpec, store: TableStore, version: Option<u64>, memory_limit: usize) -> Result<Self> {
        check(&spec)?;
        let shape = TableShape::read(&store, version).await?;
        check_columns(&spec, &shape)?;
        let mut lookup = Self {
            left_keys: Keys::new(&spec.left, &spec.left_keys, spec.null_equals_null)?,
            right_keys: Keys::new(&spec.right, &spec.right_keys, spec.null_equals_null)?,
            index: Index::new(spec.right.clone(), spec.right_keys.clone()),
            partition_columns: shape.partition_columns.clone(),
            versions: Vec::new(),
            is_oldest: false,
            spec,
            store,
            memory_limit,
        };
        lookup.load(shape.version, shape.version).await?;
        Ok(lookup)
    }

    /// The table's name and the version that rows are answered from (with `as_of`: the newest that any row is). Part of what a
    /// replay must know.
    pub fn version(&self) -> (&str, u64) {
        (&self.spec.table, self.newest())
    }

    /// Goes on to the newest version; true if there was one. Costs one request when there is none.
    pub async fn refresh(&mut self) -> Result<bool> {
        let before = self.newest();
        while self.step().await? {}
        Ok(self.newest() != before)
    }

    /// Goes to `version`, forward or back.
    pub async fn pin(&mut self, version: u64) -> Result<()> {
        if version < self.newest() {
            return self.load(version, version).await;
        }
        while self.newest() < version {
            if !self.step().await? {
                // The entry may be gone because a checkpoint covers it; the version may still be there.
                return self.load(version, version).await;
            }
        }
        Ok(())
    }

    /// Makes sure that the versions which `rows` need are held. Without `as_of` there is nothing to do.
    pub async fn prepare(&mut self, rows: &[RecordBatch]) -> Result<()> {
        let Some(column) = self.spec.as_of else { return Ok(()) };
        let times =
            rows.iter().filter_map(|batch| min(batch.column(column).as_primitive::<TimestampMicrosecondType>()));
        let Some(earliest) = times.min().filter(|earliest| *earliest < self.versions[0].0) else { return Ok(()) };
        if self.is_oldest {
            return Ok(());
        }
        let mut first = self.versions[0].1;
        let mut is_oldest = false;
        while let Some(before) = first.checked_sub(1) {
            let Some(commit) = Commit::read(&self.store, before).await? else {
                is_oldest = true;
                break;
            };
            first = before;
            if micros(&commit) <= earliest {
                break;
            }
        }
        if first == self.versions[0].1 {
            self.is_oldest = true;
            return Ok(());
        }
        self.load(first, self.newest()).await?;
        self.is_oldest = is_oldest || first == 0;
        Ok(())
    }

    /// Gives up versions that no row from `watermark` (microseconds) on needs. Without `as_of` there is nothing to do.
    pub fn forget(&mut self, watermark: i64) -> Result<()> {
        let needed = self.versions.partition_point(|(time, _)| *time <= watermark).saturating_sub(1);
        if needed == 0 {
            return Ok(());
        }
        self.versions.drain(..needed);
        self.is_oldest = false;
        self.index.forget_before(&self.right_keys, self.versions[0].1)
    }

    /// Joins rows of the left side.
    pub fn apply(&self, rows: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
        let mut joined = Vec::with_capacity(rows.len());
        for batch in rows {
            let batch = join::join(self, batch)?;
            if batch.num_rows() > 0 {
                joined.push(batch);
            }
        }
        Ok(joined)
    }

    /// How much is held.
    pub fn usage(&self) -> StateUsage {
        StateUsage { rows: self.index.rows() as u64, bytes: self.index.bytes() as u64, oldest: None }
    }

    fn newest(&self) -> u64 {
        self.versions.last().map_or(0, |(_, version)| *version)
    }

    /// The version that was the newest at `time`, if one is held.
    fn version_at(&self, time: i64) -> Option<u64> {
        let after = self.versions.partition_point(|(at, _)| *at <= time);
        Some(self.versions[after.checked_sub(1)?].1)
    }

    /// Reads the versions from `first` to `last` anew.
    async fn load(&mut self, first: u64, last: u64) -> Result<()> {
        // Without its entry (a checkpoint covers it) nothing is known of when it was made: it answers for all times before.
        let time = Commit::read(&self.store, first).await?.map_or(i64::MIN, |commit| micros(&commit));
        let files = self.read_files(&files_at(&self.store, first).await?).await?;
        let mut index = Index::new(self.spec.right.clone(), self.spec.right_keys.clone());
        index.add(&self.right_keys, files, first)?;
        index.forget_before(&self.right_keys, first)?;
        (self.index, self.versions, self.is_oldest) = (index, vec![(time, first)], first == 0);
        self.check_memory()?;
        while self.newest() < last {
            if !self.step().await? {
                let (name, version) = (&self.spec.table, self.newest() + 1);
                return Err(Error::environment(format!(
                    "version {version} of lookup table `{name}` is not in its log"
                )));
            }
        }
        Ok(())
    }

    /// Goes on by one version; false if there is none.
    async fn step(&mut self) -> Result<bool> {
        let version = self.newest() + 1;
        let Some(commit) = Commit::read(&self.store, version).await? else { return Ok(false) };
        if commit.table_changed {
            let shape = TableShape::read(&self.store, Some(version)).await?;
            check_columns(&self.spec, &shape)?;
            self.partition_columns = shape.partition_columns;
        }
        let added: Vec<DataFile> = commit.adds.iter().map(|(file, _)| file.clone()).collect();
        // Everything is read before anything is changed: a failure leaves the version before.
        let files = self.read_files(&added).await?;
        // A file that comes again, say with other statistics, takes the place of itself.
        for file in commit.removes.iter().map(|(file, _)| file).chain(&added) {
            self.index.end(&file.identity(), version);
        }
        self.index.add(&self.right_keys, files, version)?;
        let time = micros(&commit).max(self.versions.last().map_or(i64::MIN, |(time, _)| *time));
        if self.spec.as_of.is_none() {
            self.versions.clear();
        }
        self.versions.push((time, version));
        self.index.forget_before(&self.right_keys, self.versions[0].1)?;
        self.check_memory()?;
        Ok(true)
    }

    async fn read_files(&self, files: &[DataFile]) -> Result<Vec<FileContents>> {
        let read = files.iter().map(|file| {
            let (store, schema, partition_columns) = (&self.store, &self.spec.right, &self.partition_columns);
            async move {
                let batches = read_file(store, file, schema, partition_columns).await?;
                Ok(FileContents { identity: file.identity(), batches })
            }
        });
        // Collected first: a stream over borrowed items would tie the future to one lifetime.
        let read: Vec<_> = read.collect();
        stream::iter(read).buffered(PARALLEL_FILES).try_collect().await
    }

    fn check_memory(&self) -> Result<()> {
        let (bytes, limit) = (self.index.bytes(), self.memory_limit);
        if bytes <= limit {
            return Ok(());
        }
        Err(Error::environment(format!("lookup table `{}` does not fit into memory", self.spec.table))
            .with_detail(format!("It takes {bytes} bytes in {} rows; {limit} are allowed.", self.index.rows()))
            .with_hint(
                "Raise `memory_limit`, select fewer of its columns, or read it as a source and join two streams.",
            ))
    }
}

fn micros(commit: &Commit) -> i64 {
    commit.timestamp_ms.saturating_mul(1_000)
}

/// Refuses a spec that contradicts itself.
fn check(spec: &LookupSpec) -> Result<()> {
    let wrong = |what: &str| Err(Error::internal(format!("lookup of `{}`: {what}", spec.table)));
    if !matches!(spec.join_type, JoinType::Inner | JoinType::Left) {
        return wrong("neither an inner nor a left join");
    }
    if spec.left_keys.is_empty() || spec.left_keys.len() != spec.right_keys.len() {
        return wrong("keys do not pair");
    }
    for (left, right) in spec.left_keys.iter().zip(&spec.right_keys) {
        if spec.left.field(*left).data_type() != spec.right.field(*right).data_type() {
            return wrong("keys of different types");
        }
    }
    let is_time =
        |column: usize| matches!(spec.left.field(column).data_type(), DataType::Timestamp(TimeUnit::Microsecond, _));
    if spec.as_of.is_some_and(|column| !is_time(column)) {
        return wrong("time that is not TIMESTAMP");
    }
    if spec.output.fields().len() != spec.left.fields().len() + spec.right.fields().len() {
        return wrong("output of other columns than both sides have");
    }
    Ok(())
}

/// Refuses a table without the columns that are read.
fn check_columns(spec: &LookupSpec, shape: &TableShape) -> Result<()> {
    for field in spec.right.fields() {
        let name = &spec.table;
        let Ok(found) = shape.schema.field_with_name(field.name()) else {
            return Err(Error::sql(format!("lookup table `{name}` has no column `{}`", field.name())));
        };
        if found.data_type() != field.data_type() {
            let (is, wanted) = (found.data_type(), field.data_type());
            return Err(Error::sql(format!(
                "column `{}` of lookup table `{name}` is {is}, not {wanted}",
                field.name()
            )));
        }
    }
    Ok(())
}
