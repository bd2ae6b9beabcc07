//! A stream joined to a Delta table that others write: the table's rows are kept in memory and follow its versions.
//!
//! [`Lookup::refresh`] advances to the newest version, between epochs; it reads the changes, not the table. An epoch that any
//! sink has is never computed again (what others lack is committed from its manifest), so no older version is needed for a
//! replay. [`Lookup::apply`] joins rows and changes nothing, so lanes may share it. With `as_of`, each row is joined to the
//! version that was the newest at its time: [`Lookup::prepare`] loads the versions that some rows need, including those
//! committed a moment ago, and [`Lookup::forget`] drops those that no future row will need. The version of a time is defined
//! by `delta::lives`, as for queries.

pub mod spec;
mod index;
mod join;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{max, min};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use chrono::DateTime;
use datafusion::common::JoinType;
use futures::{StreamExt, TryStreamExt, stream};

use self::index::{ALIVE, FileContents, Index, Keys};
use super::StateUsage;
use super::spec::LookupSpec;
use crate::delta::{
    BeforeFirst, Commit, DataFile, FileColumns, LivedRows, TablePast, TableShape, TableStore, TimedVersion,
    commits_back_to, files_at, lived_rows, oldest_readable, oldest_with_rows, read_file, version_times,
};
use crate::error::{Error, Result};
use crate::state::MemoryShare;
use crate::time::{EventTime, Watermark};

/// Files that are read at the same time.
const PARALLEL_FILES: usize = 8;

/// The join; see the module.
#[derive(Debug)]
pub struct Lookup {
    spec: LookupSpec,
    store: TableStore,
    memory: MemoryShare,
    left_keys: Keys,
    right_keys: Keys,
    columns: FileColumns,
    index: Index,
    /// The loaded versions; ascending, never empty.
    versions: Vec<TimedVersion>,
    /// `true` if no version older than the loaded ones can be read.
    is_oldest: bool,
    /// The time of the last check for new versions, microseconds; rows of later times may need a version that is not loaded.
    checked: i64,
    /// `true` while no version has had a row: all of them then count as before the first version.
    is_unfilled: bool,
    /// Number of rows so far whose time was before the oldest version.
    too_early: u64,
}

impl Lookup {
    /// Reads the newest version of the table; `memory` is a pinned share.
    ///
    /// Errors: no such table or column; key types that differ; not enough memory.
    pub async fn open(spec: LookupSpec, store: TableStore, memory: MemoryShare) -> Result<Self> {
        check(&spec)?;
        let shape = TableShape::read(&store, None).await?;
        check_columns(&spec, &shape)?;
        let mut lookup = Self {
            left_keys: Keys::new(&spec.left, &spec.left_keys, spec.null_equals_null)?,
            right_keys: Keys::new(&spec.right, &spec.right_keys, spec.null_equals_null)?,
            index: Index::new(spec.right.clone(), spec.right_keys.clone()),
            columns: shape.columns.clone(),
            versions: Vec::new(),
            is_oldest: false,
            checked: micros(&store),
            is_unfilled: false,
            too_early: 0,
            spec,
            store,
            memory,
        };
        lookup.load(shape.version, shape.version).await?;
        Ok(lookup)
    }

    /// The table's name and the version that rows are joined to (with `as_of`: the newest loaded version).
    pub fn version(&self) -> (&str, u64) {
        (&self.spec.table, self.newest())
    }

    /// Advances to the newest version; `true` if there was a newer one. Costs one request when there is none.
    pub async fn refresh(&mut self) -> Result<bool> {
        let (before, now) = (self.newest(), micros(&self.store));
        while self.step().await? {}
        self.checked = now;
        Ok(self.newest() != before)
    }

    /// Loads the versions that `rows` need. Without `as_of` there is nothing to do.
    pub async fn prepare(&mut self, rows: &[RecordBatch]) -> Result<()> {
        let Some(column) = self.spec.as_of else { return Ok(()) };
        let times = || rows.iter().map(|batch| batch.column(column).as_primitive::<TimestampMicrosecondType>());
        let latest = times().filter_map(max).max();
        if latest.is_some_and(|latest| latest >= self.checked) {
            self.refresh().await?;
        }
        let earliest = times().filter_map(min).min();
        let Some(earliest) = earliest.filter(|earliest| *earliest < self.versions[0].0) else { return Ok(()) };
        if !self.is_oldest {
            self.reach_back(earliest).await?;
        }
        let oldest = self.versions[0].0;
        let early = times().flat_map(|times| times.iter().flatten()).filter(|time| *time < oldest).count() as u64;
        if early > 0 && self.spec.before_first == BeforeFirst::Nothing {
            self.note_early(early, earliest);
        }
        Ok(())
    }

    /// Number of rows so far whose time was before the oldest readable version of the table, and which therefore matched
    /// nothing.
    pub fn too_early(&self) -> u64 {
        self.too_early
    }

    /// Loads the version at the time `earliest` and those after it, as far back as they can be read.
    async fn reach_back(&mut self, earliest: i64) -> Result<()> {
        let commits = commits_back_to(&self.store, self.newest(), earliest).await?;
        let versions = version_times(&commits);
        let first = versions.partition_point(|(time, _)| *time <= earliest).saturating_sub(1);
        let (mut readable, mut files) = match commits.get(first..).filter(|commits| !commits.is_empty()) {
            Some(commits) => oldest_readable(&self.store, commits).await?,
            None => (self.newest(), Vec::new()),
        };
        let mut all = None;
        if files.is_empty() && !commits.is_empty() {
            // Versions from before the first rows count as before the first version.
            let log = commits_back_to(&self.store, self.newest(), i64::MIN).await?;
            let filled = oldest_with_rows(&self.store, &log).await?;
            if filled.0 > readable {
                (readable, files) = filled;
            }
            all = Some(log);
        }
        if readable < self.versions[0].1 {
            self.load_past(TablePast::of(all.as_deref().unwrap_or(&commits), readable, files)).await?;
        }
        self.is_oldest = self.versions[0].0 > earliest;
        Ok(())
    }

    /// Reloads the versions of `past`; each file is read once, however often rows of it were deleted.
    async fn load_past(&mut self, past: TablePast) -> Result<()> {
        let (store, schema, columns) = (&self.store, &self.spec.right, &self.columns);
        let reads: Vec<_> = past.files.iter().map(|life| lived_rows(store, life, schema, columns)).collect();
        let lived: Vec<Vec<LivedRows>> = stream::iter(reads).buffered(PARALLEL_FILES).try_collect().await?;
        let mut by_version: BTreeMap<u64, Vec<FileContents>> = BTreeMap::new();
        for LivedRows { identity, from, until, batches } in lived.into_iter().flatten() {
            let contents = FileContents { identity, batches, until: until.unwrap_or(ALIVE) };
            by_version.entry(from).or_default().push(contents);
        }
        let mut index = Index::new(self.spec.right.clone(), self.spec.right_keys.clone());
        for (version, files) in by_version {
            index.add(&self.right_keys, files, version)?;
        }
        index.forget_before(&self.right_keys, past.versions.first().map_or(0, |(_, first)| *first))?;
        (self.index, self.versions, self.is_unfilled) = (index, past.versions, past.files.is_empty());
        self.check_memory()
    }

    fn note_early(&mut self, rows: u64, earliest: i64) {
        if self.too_early == 0 {
            let time = |micros| DateTime::from_timestamp_micros(micros).map(|time| time.to_rfc3339());
            let (row, first) = (time(earliest).unwrap_or_default(), time(self.versions[0].0).unwrap_or_default());
            tracing::warn!(
                table = self.spec.table,
                row,
                first,
                "rows are older than the first version of the table that can be read, and find nothing in it; `FOR SYSTEM_TIME AS OF … OR FIRST` joins them to that version"
            );
        }
        self.too_early += rows;
    }

    /// Drops versions that no row with a time at or after `watermark` needs. Without `as_of` there is nothing
    /// to do.
    pub fn forget(&mut self, watermark: Watermark) -> Result<()> {
        let needed =
            self.versions.partition_point(|(time, _)| watermark.has_reached(EventTime(*time))).saturating_sub(1);
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

    /// The rows and bytes in memory.
    pub fn usage(&self) -> StateUsage {
        StateUsage { rows: self.index.rows() as u64, bytes: self.index.bytes() as u64, oldest: None }
    }

    fn newest(&self) -> u64 {
        self.versions.last().map_or(0, |(_, version)| *version)
    }

    /// The version that a row of `time` is joined to, if there is one.
    fn version_at(&self, EventTime(time): EventTime) -> Option<u64> {
        let after = self.versions.partition_point(|(at, _)| *at <= time);
        match self.spec.before_first {
            BeforeFirst::Nothing => Some(self.versions[after.checked_sub(1)?].1),
            BeforeFirst::First => Some(self.versions[after.saturating_sub(1)].1),
        }
    }

    /// Reloads the versions from `first` to `last`.
    async fn load(&mut self, first: u64, last: u64) -> Result<()> {
        // Without its log entry (a checkpoint covers it) the version's time is unknown: it counts as older than all times.
        let time = match Commit::read(&self.store, first).await? {
            None => i64::MIN,
            // Its writer's clock may have been behind the clock of the previous version's writer.
            Some(commit) => match first.checked_sub(1) {
                Some(before) => Commit::read(&self.store, before).await?.map_or(i64::MIN, |commit| commit.micros()),
                None => i64::MIN,
            }
            .max(commit.micros()),
        };
        let files = files_at(&self.store, first).await?;
        self.is_unfilled = first == 0 && files.is_empty();
        let files = self.read_files(&files).await?;
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

    /// Advances by one version; `false` if there is none.
    async fn step(&mut self) -> Result<bool> {
        let version = self.newest() + 1;
        let Some(commit) = Commit::read(&self.store, version).await? else { return Ok(false) };
        if commit.table_changed {
            let shape = TableShape::read(&self.store, Some(version)).await?;
            check_columns(&self.spec, &shape)?;
            self.columns = shape.columns;
        }
        let added: Vec<DataFile> = commit.adds.iter().map(|(file, _)| file.clone()).collect();
        // Everything is read before anything is changed: after a failure the previous version is intact.
        let files = self.read_files(&added).await?;
        // A file that is added again, for example with other statistics, replaces itself.
        for file in commit.removes.iter().map(|(file, _)| file).chain(&added) {
            self.index.end(&file.identity(), version);
        }
        self.index.add(&self.right_keys, files, version)?;
        let time = commit.micros().max(self.versions.last().map_or(i64::MIN, |(time, _)| *time));
        if self.spec.as_of.is_none() || self.is_unfilled {
            self.versions.clear();
        }
        self.is_unfilled &= added.is_empty();
        self.versions.push((time, version));
        self.index.forget_before(&self.right_keys, self.versions[0].1)?;
        self.check_memory()?;
        Ok(true)
    }

    async fn read_files(&self, files: &[DataFile]) -> Result<Vec<FileContents>> {
        let read = files.iter().map(|file| {
            let (store, schema, columns) = (&self.store, &self.spec.right, &self.columns);
            async move {
                let batches = read_file(store, file, schema, columns).await?;
                Ok(FileContents { identity: file.identity(), batches, until: ALIVE })
            }
        });
        // Collected first: a stream over borrowed items would tie the future to one lifetime.
        let read: Vec<_> = read.collect();
        stream::iter(read).buffered(PARALLEL_FILES).try_collect().await
    }

    fn check_memory(&mut self) -> Result<()> {
        let bytes = self.index.bytes();
        self.memory.set(bytes as u64);
        let budget = self.memory.budget();
        if budget.pinned_fits() {
            return Ok(());
        }
        let (rows, limit) = (self.index.rows(), budget.limit());
        Err(Error::environment(format!("lookup table `{}` does not fit into memory", self.spec.table))
            .with_detail(format!(
                "It takes {bytes} bytes in {rows} rows; all tables that streams are joined to may take {limit} together."
            ))
            .with_hint(
                "Raise `memory_limit`, select fewer of its columns, or read it as a source and join two streams.",
            ))
    }
}

/// The current time, microseconds.
fn micros(store: &TableStore) -> i64 {
    store.env().unix_ms().saturating_mul(1_000)
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

/// Refuses a table that lacks a column that is read.
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
