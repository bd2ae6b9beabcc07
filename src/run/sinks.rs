//! A pipeline's opened targets, branch by branch, and the order in which they commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::lease::Lease;
use crate::catalog::{KafkaConnection, Secret};
use crate::delta::{Table, TableStore, UpsertTable, WriterOptions, folder_below};
use crate::env::Env;
use crate::error::Result;
use crate::memory::{MemoryPool, MemoryUse, Reserved};
use crate::sink::Sink;
use crate::sink::kafka::TransactionalProducer;
use crate::state::TablePlace;

/// The warehouse, for finding tables again that the SQL no longer names.
#[derive(Debug, Clone, Default)]
pub struct Home {
    /// A folder or URL.
    pub warehouse: String,
    /// Object-store options of the configuration.
    pub storage: BTreeMap<String, Secret>,
    /// The tables that the SQL declares, with their own storage options, whether or not the pipeline writes them.
    pub declared: Vec<TableStore>,
}

impl Home {
    /// The folder of a table below the warehouse; `None` when it is elsewhere.
    pub fn path_of(&self, location: &str) -> Option<String> {
        let warehouse = Some(self.warehouse.as_str()).filter(|warehouse| !warehouse.is_empty())?;
        folder_below(warehouse, location).filter(|path| !path.is_empty())
    }

    /// The table at `location`, with the storage options that the SQL declares for it, else those of the configuration.
    pub fn open(&self, location: &str, env: &Env) -> Result<TableStore> {
        let is_it =
            |store: &&TableStore| folder_below(store.location(), location).is_some_and(|below| below.is_empty());
        match self.declared.iter().find(is_it) {
            Some(declared) => Ok(declared.clone()),
            None => TableStore::open(location, &self.storage, env),
        }
    }

    /// The present location of a table that a manifest knows at `place`.
    pub fn location_of(&self, place: &TablePlace) -> String {
        match &place.path {
            Some(path) => below(&self.warehouse, path),
            None => place.location.clone(),
        }
    }
}

/// `name` below a folder or URL.
pub fn below(base: &str, name: &str) -> String {
    format!("{}/{name}", base.trim_end_matches('/'))
}

/// A Delta table that takes part in the commit.
#[derive(Debug)]
pub struct TableSink {
    pub name: String,
    pub location: String,
    pub table: Table,
    pub options: WriterOptions,
    /// Present if a primary key is declared.
    pub upsert: Option<UpsertTable>,
}

/// Everything a pipeline writes to.
pub struct Sinks {
    /// In the order of the dataflow's branches.
    pub branches: Vec<Arc<dyn Sink>>,
    /// In commit order: by name, dead letters last.
    pub tables: Vec<TableSink>,
    /// Index of the dead letters in `tables`.
    pub dead_letters: usize,
    /// One per pipeline: a transaction cannot span clusters.
    pub transaction: Option<TransactionalProducer>,
    pub memory: OutputMemory,
    pub home: Home,
    /// Says that the pipeline runs.
    pub lease: Option<Lease>,
}

impl Sinks {
    /// True if `weir restore --epoch` needs the pipeline's SQL: there are Kafka sinks, or tables outside of the warehouse.
    pub fn restore_needs_sql(&self) -> bool {
        self.transaction.is_some() || self.tables.iter().any(|sink| self.home.path_of(&sink.location).is_none())
    }
}

/// The memory that the epochs of one pipeline may hold.
#[derive(Debug, Clone)]
pub struct OutputMemory {
    pool: MemoryPool,
    pipelines: usize,
    unfolding: Arc<Unfolding>,
    /// Rows that the next micro-batch may have.
    rows: Arc<AtomicUsize>,
    /// No micro-batch is made smaller than this.
    least: usize,
}

/// Measurements of plans that make many rows of one.
#[derive(Debug)]
struct Unfolding {
    /// Bytes that a row becomes, at worst of late.
    row_bytes: AtomicU64,
    /// Rows of the next slice, at most.
    most: AtomicU64,
}

/// Rows of the first micro-batch, and how much larger the next may be.
const FIRST_ROWS: usize = 8_192;
const ROWS_GROWTH: u64 = 4;
const LEAST_ROWS: usize = 256;
/// The same where plans may make much of few rows.
const FIRST_GROWING_ROWS: usize = 64;
const LEAST_GROWING_ROWS: usize = 16;

/// Rows of the first slice of a micro-batch whose rows may become many, and how much larger the next may be.
const FIRST_SLICE: u64 = 16;
const SLICE_GROWTH: u64 = 8;

impl OutputMemory {
    /// For one of so many pipelines.
    pub fn new(pool: MemoryPool, pipelines: usize) -> Self {
        let unfolding = Unfolding { row_bytes: AtomicU64::new(0), most: AtomicU64::new(FIRST_SLICE) };
        let rows = Arc::new(AtomicUsize::new(FIRST_ROWS));
        Self { pool, pipelines, unfolding: Arc::new(unfolding), rows, least: LEAST_ROWS }
    }

    /// The same for plans that may make much of few rows: what waits for an epoch's end is known once a micro-batch is through, so that
    /// the first ones are to be small.
    #[must_use]
    pub fn growing(self) -> Self {
        Self { rows: Arc::new(AtomicUsize::new(FIRST_GROWING_ROWS)), least: LEAST_GROWING_ROWS, ..self }
    }

    /// Bytes that may wait for the end of an epoch.
    pub fn waiting_bytes(&self) -> u64 {
        self.pool.waiting_bytes(self.pipelines)
    }

    /// Rows of each of `lanes` that may run through plans that make many rows of one (`unfolds`), or `row_bytes` of each.
    pub fn slice_rows(&self, unfolds: bool, row_bytes: u64, lanes: usize) -> usize {
        let learnt = self.unfolding.row_bytes.load(Ordering::Relaxed);
        let pairs = (lanes as u64).div_ceil(2).max(1);
        let fit = self.pool.slice_bytes(self.pipelines) / (learnt.max(row_bytes).max(1) * pairs);
        // A slice that grows otherwise than by an unnest is cut in two when it is too large.
        let most = if unfolds { self.unfolding.most.load(Ordering::Relaxed) } else { u64::MAX };
        usize::try_from(fit.clamp(1, most)).unwrap_or(usize::MAX)
    }

    /// Bytes that a stage may make of a slice.
    pub fn stage_bytes(&self) -> u64 {
        self.pool.stage_bytes(self.pipelines)
    }

    /// So many rows have become so many bytes.
    pub fn unfolded(&self, rows: u64, bytes: u64) {
        if rows == 0 {
            return;
        }
        let Unfolding { row_bytes, most } = &*self.unfolding;
        let before = row_bytes.load(Ordering::Relaxed);
        // Quick to see more, slow to trust in less.
        row_bytes.store((bytes / rows).max(before - before / 8), Ordering::Relaxed);
        most.store((rows.saturating_mul(SLICE_GROWTH)).max(FIRST_SLICE), Ordering::Relaxed);
    }

    /// Rows that the next micro-batch may have.
    pub fn micro_batch_rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// A micro-batch of `rows` rows has made `waits` bytes that wait for the end of its epoch: the next ones are to make what may wait
    /// divided by `per_epoch`, at most.
    pub fn micro_batch(&self, rows: usize, waits: u64, per_epoch: u64) {
        if rows < self.least {
            return;
        }
        let may_wait = self.waiting_bytes() / per_epoch.max(1);
        let now = self.micro_batch_rows();
        if waits > may_wait {
            let fit = u128::from(may_wait) * rows as u128 / u128::from(waits);
            self.rows.store((fit as usize).max(self.least).min(now), Ordering::Relaxed);
        } else if rows >= now / 2 {
            let growth = (may_wait / waits.max(1)).min(ROWS_GROWTH);
            self.rows.store(now.saturating_mul(growth as usize), Ordering::Relaxed);
        }
    }

    /// Nothing yet, of what is read.
    pub fn reserve_input(&self) -> Reserved {
        self.pool.reserve(MemoryUse::Input)
    }

    /// Nothing yet.
    pub fn reserve(&self) -> Reserved {
        self.pool.reserve(MemoryUse::Output)
    }
}

/// The cluster of the `exactly_once` sinks, when there is exactly one.
///
/// Errors: the two clusters, when a pipeline names more than one.
pub fn one_cluster<'a>(
    connections: impl Iterator<Item = &'a KafkaConnection>,
) -> Result<Option<&'a KafkaConnection>, [String; 2]> {
    let mut by_servers: BTreeMap<&str, &KafkaConnection> = BTreeMap::new();
    for connection in connections {
        by_servers.insert(&connection.bootstrap_servers, connection);
    }
    let mut clusters = by_servers.into_iter();
    match (clusters.next(), clusters.next()) {
        (first, None) => Ok(first.map(|(_, connection)| connection)),
        (Some((a, _)), Some((b, _))) => Err([a.to_owned(), b.to_owned()]),
        (None, Some(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_the_pipeline_no_longer_writes_is_opened_with_the_options_of_its_declaration() {
        let env = Env::manual(0, 1);
        let options = |name: &str| BTreeMap::from([(name.to_owned(), Secret::new("x"))]);
        let declared = vec![TableStore::open("s3://bucket/dropped", &options("aws_region"), &env).unwrap()];
        // An option that the store does not know: with those of the configuration it cannot be opened.
        let home = Home { warehouse: "/w".to_owned(), storage: options("of_another_store"), declared };
        assert_eq!(home.open("s3://bucket/dropped/", &env).unwrap().location(), "s3://bucket/dropped");
        assert!(home.open("s3://bucket/other", &env).is_err());
    }

    fn memory() -> OutputMemory {
        OutputMemory::new(MemoryPool::new(300 << 20), 1)
    }

    #[test]
    fn micro_batches_grow_while_they_make_little_and_shrink_when_they_make_much() {
        let memory = memory();
        assert_eq!(memory.micro_batch_rows(), FIRST_ROWS);
        memory.micro_batch(FIRST_ROWS, 0, 4);
        assert_eq!(memory.micro_batch_rows(), FIRST_ROWS * ROWS_GROWTH as usize);
        // Few rows say nothing, whatever they make.
        memory.micro_batch(LEAST_ROWS - 1, u64::MAX, 4);
        memory.micro_batch(1_000, 1, 4);
        assert_eq!(memory.micro_batch_rows(), FIRST_ROWS * ROWS_GROWTH as usize);
        memory.micro_batch(10_000, memory.waiting_bytes(), 4);
        assert_eq!(memory.micro_batch_rows(), 2_500);
        memory.micro_batch(2_500, u64::MAX, 4);
        assert_eq!(memory.micro_batch_rows(), LEAST_ROWS);
    }

    #[test]
    fn a_micro_batch_may_be_all_that_an_epoch_holds() {
        let memory = memory();
        let row_bytes = memory.waiting_bytes() / 70_000;
        for _ in 0..4 {
            let rows = memory.micro_batch_rows();
            memory.micro_batch(rows, rows as u64 * row_bytes, 1);
        }
        assert_eq!(memory.micro_batch_rows(), FIRST_ROWS * 8);
        memory.micro_batch(FIRST_ROWS * 8, FIRST_ROWS as u64 * 8 * row_bytes, 4);
        assert!((15_000..20_000).contains(&memory.micro_batch_rows()), "{}", memory.micro_batch_rows());
    }

    #[test]
    fn slices_fit_what_rows_became_and_grow_slowly() {
        let memory = memory();
        let fit = memory.pool.slice_bytes(1);
        assert_eq!(memory.slice_rows(true, 0, 1) as u64, FIRST_SLICE);
        memory.unfolded(FIRST_SLICE, 0);
        assert_eq!(memory.slice_rows(true, 0, 1) as u64, FIRST_SLICE * SLICE_GROWTH);
        memory.unfolded(1, fit / 2);
        assert_eq!(memory.slice_rows(true, 0, 1), 2);
        memory.unfolded(1, fit * 100);
        assert_eq!(memory.slice_rows(true, 0, 1), 1);
        // One harmless slice does not make it forget.
        memory.unfolded(1, 0);
        assert_eq!(memory.slice_rows(true, 0, 1), 1);
    }
}
