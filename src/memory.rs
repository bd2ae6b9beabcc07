//! One pool for the memory of a process; it keeps the promise of `memory_limit`.
//!
//! The pool divides the limit into shares, one per [`MemoryUse`]; together they are the limit, and none may use another's.
//! An owner of rows keeps a [`Reserved`] and updates it before its memory changes. A share never refuses: its owner compares
//! itself with [`MemoryPool::share`] and acts before the share is exceeded (closes files, closes the epoch, reads less,
//! moves state to disk). Only DataFusion's operators are refused ([`QueryMemory`]), since they spill or fail by themselves.
//!
//! The memory of a native library is known only by the limit that it was given ([`MemoryPool::fixed`]): it is subtracted
//! before the limit is divided. The program itself, its threads' stacks and the allocator's overhead come on top: see
//! `docs/operations.md`.

pub(crate) mod bounded;
pub(crate) mod concat;
pub(crate) mod counted;
pub(crate) mod growth;
mod shown;
pub(crate) mod size;
pub(crate) mod slice;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit as PoolLimit, MemoryPool as DataFusionPool, MemoryReservation,
};

/// Uses of memory, one share each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryUse {
    /// The operators' state, and the indexes of upserted tables.
    State,
    /// Data of an epoch until it is committed: open files, rows that wait to be upserted, messages, changes of state.
    Output,
    /// Records that are read and decoded, and the running micro-batch.
    Input,
    /// DataFusion's operators: in queries, the embedded server, and seeding.
    Queries,
}

impl MemoryUse {
    /// Every use, in the order of the shares.
    pub const ALL: [Self; 4] = [Self::State, Self::Output, Self::Input, Self::Queries];

    /// The use's label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Output => "output",
            Self::Input => "input",
            Self::Queries => "queries",
        }
    }

    /// Its share of the limit in percent; all shares add up to 100.
    fn percent(self) -> u64 {
        match self {
            Self::State => 40,
            Self::Output => 25,
            Self::Input => 15,
            Self::Queries => 20,
        }
    }
}

/// Parts that a source's share is divided into; a poll returns at most one part: one micro-batch is decoded while another
/// runs, each held as bytes and as columns, together with its results.
const MICRO_BATCHES: u64 = 8;
/// Upper bound of the bytes that a poll of a source returns.
const MOST_POLL_BYTES: u64 = 32 << 20;
/// Lower bound, so that pipelines with tiny limits still make progress.
const LEAST_POLL_BYTES: u64 = 256 << 10;
/// Upper bound of the bytes that wait for an epoch's end: more would take long to write at its end.
const MOST_WAITING_BYTES: u64 = 256 << 20;
const LEAST_WAITING_BYTES: u64 = 1 << 20;
const LEAST_WRITER_BYTES: u64 = 1 << 20;
/// Upper bound of a source's queue in librdkafka.
const MOST_KAFKA_BYTES: u64 = 32 << 20;
const LEAST_KAFKA_BYTES: u64 = 8 << 20;

/// The memory of a process; cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryPool {
    inner: Arc<PoolState>,
}

#[derive(Debug)]
struct PoolState {
    limit: u64,
    /// Bytes promised to native libraries.
    fixed: AtomicU64,
    used: [AtomicU64; MemoryUse::ALL.len()],
    queries: QueryMemory,
}

impl MemoryPool {
    /// A pool of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        let queries = QueryMemory::new(limit / 100 * MemoryUse::Queries.percent());
        Self { inner: Arc::new(PoolState { limit, fixed: AtomicU64::new(0), used: Default::default(), queries }) }
    }

    /// Bytes of the whole process.
    pub fn limit(&self) -> u64 {
        self.inner.limit
    }

    /// Subtracts bytes permanently: a native library may hold this much.
    pub fn fixed(&self, bytes: u64) {
        self.inner.fixed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that this use may take.
    pub fn share(&self, of: MemoryUse) -> u64 {
        let fixed = self.inner.fixed.load(Ordering::Relaxed).min(self.inner.limit / 2);
        (self.inner.limit - fixed) / 100 * of.percent()
    }

    /// Bytes that this use takes now.
    pub fn used(&self, of: MemoryUse) -> u64 {
        match of {
            MemoryUse::Queries => self.inner.queries.reserved() as u64,
            _ => self.inner.used[of as usize].load(Ordering::Relaxed),
        }
    }

    /// A reservation for this use, of 0 bytes so far.
    pub fn reserve(&self, of: MemoryUse) -> Reserved {
        Reserved { pool: self.clone(), of, bytes: AtomicU64::new(0) }
    }

    /// The share of all DataFusion operators of the process.
    pub fn queries(&self) -> QueryMemory {
        self.inner.queries.clone()
    }

    /// Bytes that a poll of one of `sources` may return.
    pub fn poll_bytes(&self, sources: usize) -> usize {
        let each = self.share(MemoryUse::Input) / MICRO_BATCHES / sources.max(1) as u64;
        each.clamp(LEAST_POLL_BYTES, MOST_POLL_BYTES) as usize
    }

    /// Target size in bytes for the results of one slice of a micro-batch, in one of `pipelines`, where one row may become
    /// many.
    pub fn slice_bytes(&self, pipelines: usize) -> u64 {
        (self.share(MemoryUse::Input) / 8 / pipelines.max(1) as u64).clamp(LEAST_POLL_BYTES, MOST_POLL_BYTES)
    }

    /// Bytes that a stage may produce from a slice before the slice is halved, in one of `pipelines`: three times the target
    /// size, since rows differ in size.
    pub fn stage_bytes(&self, pipelines: usize) -> u64 {
        self.slice_bytes(pipelines) * 3
    }

    /// Bytes that librdkafka may hold of one of `sources`.
    pub fn kafka_bytes(&self, sources: usize) -> u64 {
        (self.limit() / 16 / sources.max(1) as u64).clamp(LEAST_KAFKA_BYTES, MOST_KAFKA_BYTES)
    }

    /// Bytes that one of `writers` may hold in open files: all writers together get half of the output share.
    pub fn writer_bytes(&self, writers: usize) -> u64 {
        (self.share(MemoryUse::Output) / 2 / writers.max(1) as u64).max(LEAST_WRITER_BYTES)
    }

    /// Bytes that may wait for the end of an epoch of one of `pipelines`, while as much is being committed: a quarter of the
    /// output share.
    pub fn waiting_bytes(&self, pipelines: usize) -> u64 {
        (self.share(MemoryUse::Output) / 4 / pipelines.max(1) as u64).clamp(LEAST_WAITING_BYTES, MOST_WAITING_BYTES)
    }
}

/// Bytes that an owner holds of a [`MemoryPool`]; released on drop.
#[derive(Debug)]
pub struct Reserved {
    pool: MemoryPool,
    of: MemoryUse,
    bytes: AtomicU64,
}

impl Reserved {
    /// Sets the owner's bytes; to be called before its memory changes.
    pub fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        let used = &self.pool.inner.used[self.of as usize];
        if bytes >= before {
            used.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            used.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }

    /// Adds to the owner's bytes; to be called before its memory grows.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.pool.inner.used[self.of as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// A part of the owner's memory is about to change from `from` to `to` bytes.
    pub fn change(&self, from: u64, to: u64) {
        if to >= from {
            self.add(to - from);
        } else {
            self.bytes.fetch_sub(from - to, Ordering::Relaxed);
            self.pool.inner.used[self.of as usize].fetch_sub(from - to, Ordering::Relaxed);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// DataFusion's share, as a pool: each operator that can spill gets an even part of what those that cannot spill leave.
///
/// Operators reserve memory after it has grown, and copy it when they grow or begin to emit (a join its build side, an
/// aggregate its state). So each reservation counts [`WITH_COPY`] times, except those of sorts and repartitionings, which
/// reserve ahead.
#[derive(Debug, Clone)]
pub struct QueryMemory {
    taken: Arc<Mutex<Taken>>,
    limit: usize,
}

/// Factor that covers the copy an operator makes of its reserved data.
const WITH_COPY: usize = 2;

#[derive(Debug, Default)]
struct Taken {
    /// Number of operators that can spill.
    spillers: usize,
    spillable: usize,
    unspillable: usize,
}

impl QueryMemory {
    /// A pool of its own, independent of a [`MemoryPool`].
    pub fn new(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { taken: Arc::default(), limit }
    }

    /// Bytes that all operators together may take.
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that this consumer counts for `reserved` bytes.
fn with_copy(consumer: &MemoryConsumer, reserved: usize) -> usize {
    let reserves_ahead = consumer.can_spill() && !consumer.name().contains("Aggregate");
    if reserves_ahead { reserved } else { reserved.saturating_mul(WITH_COPY) }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weir(pool_size: {} MiB)", self.limit >> 20)
    }
}

impl DataFusionPool for QueryMemory {
    fn name(&self) -> &'static str {
        "weir"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.taken().spillers += usize::from(consumer.can_spill());
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        let mut taken = self.taken();
        taken.spillers = taken.spillers.saturating_sub(usize::from(consumer.can_spill()));
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        let consumer = reservation.consumer();
        let additional = with_copy(consumer, additional);
        let mut taken = self.taken();
        let held = if consumer.can_spill() { &mut taken.spillable } else { &mut taken.unspillable };
        *held = held.saturating_add(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let consumer = reservation.consumer();
        let shrink = with_copy(consumer, shrink);
        let mut taken = self.taken();
        let held = if consumer.can_spill() { &mut taken.spillable } else { &mut taken.unspillable };
        *held = held.saturating_sub(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        let (wanted, held) = (with_copy(consumer, additional), with_copy(consumer, reservation.size()));
        let mut taken = self.taken();
        let available = if consumer.can_spill() {
            (self.limit.saturating_sub(taken.unspillable) / taken.spillers.max(1)).saturating_sub(held)
        } else {
            self.limit.saturating_sub(taken.unspillable.saturating_add(taken.spillable))
        };
        if wanted > available {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "`{}` holds {} MiB and would need {} MiB more with what it copies, of {} MiB that are free for it",
                consumer.name(),
                held >> 20,
                wanted >> 20,
                available >> 20,
            )));
        }
        let total = if consumer.can_spill() { &mut taken.spillable } else { &mut taken.unspillable };
        *total += wanted;
        Ok(())
    }

    fn reserved(&self) -> usize {
        let taken = self.taken();
        taken.spillable.saturating_add(taken.unspillable)
    }

    fn memory_limit(&self) -> PoolLimit {
        PoolLimit::Finite(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_limit_and_what_is_fixed_is_taken_off_first() {
        let pool = MemoryPool::new(1000 << 20);
        let sum = |pool: &MemoryPool| MemoryUse::ALL.iter().map(|of| pool.share(*of)).sum::<u64>();
        assert_eq!(sum(&pool), 1000 << 20);
        pool.fixed(200 << 20);
        assert_eq!(sum(&pool), 800 << 20);
        pool.fixed(5000 << 20);
        assert_eq!(sum(&pool), 500 << 20);
    }

    #[test]
    fn what_is_reserved_adds_up_and_is_given_back() {
        let pool = MemoryPool::new(1000);
        let (a, b) = (pool.reserve(MemoryUse::Output), pool.reserve(MemoryUse::Output));
        a.set(70);
        b.add(20);
        a.set(60);
        b.add(1);
        assert_eq!((pool.used(MemoryUse::Output), pool.used(MemoryUse::State)), (81, 0));
        drop(a);
        assert_eq!(pool.used(MemoryUse::Output), 21);
    }

    #[test]
    fn parts_of_a_share_stay_within_it_unless_the_limit_is_tiny() {
        let pool = MemoryPool::new(400 << 20);
        let output = pool.share(MemoryUse::Output);
        for writers in [1, 3, 20] {
            let open = pool.writer_bytes(writers) * writers as u64;
            assert!(open + 2 * pool.waiting_bytes(1) <= output, "{writers}: {open}");
        }
        assert!(pool.poll_bytes(1) as u64 * MICRO_BATCHES <= pool.share(MemoryUse::Input));
        let tiny = MemoryPool::new(1);
        assert_eq!((tiny.poll_bytes(1) as u64, tiny.writer_bytes(1)), (LEAST_POLL_BYTES, LEAST_WRITER_BYTES));
    }

    #[test]
    fn queries_of_every_runtime_share_one_pool() {
        let pool = MemoryPool::new(100_000);
        let (one, other): (Arc<dyn DataFusionPool>, Arc<dyn DataFusionPool>) =
            (Arc::new(pool.queries()), Arc::new(pool.queries()));
        let held = MemoryConsumer::new("one").register(&one);
        held.try_grow(7_500).unwrap();
        assert!(MemoryConsumer::new("other").register(&other).try_grow(7_500).is_err());
        assert_eq!(pool.used(MemoryUse::Queries), 15_000);
    }

    #[test]
    fn what_is_copied_counts_twice_and_sorts_share_the_rest_evenly() {
        let memory = QueryMemory::new(1_000);
        let pool: Arc<dyn DataFusionPool> = Arc::new(memory.clone());
        let join = MemoryConsumer::new("HashJoinInput").register(&pool);
        join.try_grow(200).unwrap();
        let sort = MemoryConsumer::new("ExternalSorter").with_can_spill(true).register(&pool);
        let other = MemoryConsumer::new("FinalHashAggregateStream").with_can_spill(true).register(&pool);
        assert!(sort.try_grow(301).is_err());
        sort.try_grow(300).unwrap();
        assert!(other.try_grow(151).is_err());
        other.try_grow(150).unwrap();
        assert_eq!(memory.reserved(), 1_000);
        other.shrink(100);
        join.resize(0);
        assert_eq!(memory.reserved(), 400);
        drop((sort, other, join));
        assert_eq!(memory.reserved(), 0);
    }
}
