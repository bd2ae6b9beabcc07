//! One pool for the memory of a process: what `memory_limit` promises.
//!
//! The pool divides the limit into shares, one per [`MemoryUse`]; together they are the limit, none may take another's. Whoever holds
//! rows keeps a [`Reserved`] and says what it is about to hold. A share does not refuse: its owner looks at [`MemoryPool::share`] and
//! acts before it is exceeded (closes files, closes the epoch, reads less, moves state to disk). Only DataFusion's operators are
//! refused ([`QueryMemory`]), since they spill or fail by themselves.
//!
//! What a native library holds is known only by the limit that it was given ([`MemoryPool::fixed`]): it is taken off before the
//! limit is divided. The program itself, its threads' stacks and what the allocator keeps come on top: see `docs/operations.md`.

pub mod bounded;
pub mod concat;
pub mod counted;
pub mod growth;
mod shown;
pub mod slice;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit as PoolLimit, MemoryPool as DataFusionPool, MemoryReservation,
};

/// What memory is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryUse {
    /// What operators keep, and the indexes of upserted tables.
    State,
    /// What an epoch holds until it is committed: open files, rows that wait to be upserted, messages, changes of state.
    Output,
    /// Records that are read and decoded, and the micro-batch that runs.
    Input,
    /// DataFusion's operators: of queries, of the embedded server, of seeding.
    Queries,
}

impl MemoryUse {
    /// Every use, in the order of the shares.
    pub const ALL: [Self; 4] = [Self::State, Self::Output, Self::Input, Self::Queries];

    /// As the metric calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Output => "output",
            Self::Input => "input",
            Self::Queries => "queries",
        }
    }

    /// Its share of the limit; together 100.
    fn percent(self) -> u64 {
        match self {
            Self::State => 40,
            Self::Output => 25,
            Self::Input => 15,
            Self::Queries => 20,
        }
    }
}

/// Micro-batches that a pipeline's source holds at a time, as parts of its share: one is decoded while one runs, each as bytes and as
/// columns, with what is made of it.
const MICRO_BATCHES: u64 = 8;
/// A poll of a source returns no more, however much memory there is.
const MOST_POLL_BYTES: u64 = 32 << 20;
/// And no less, so that tiny limits still move on.
const LEAST_POLL_BYTES: u64 = 256 << 10;
/// Rows and messages that wait for an epoch's end take no more, however much memory there is: later they cost time.
const MOST_WAITING_BYTES: u64 = 256 << 20;
const LEAST_WAITING_BYTES: u64 = 1 << 20;
const LEAST_WRITER_BYTES: u64 = 1 << 20;
/// librdkafka's queue of a source, at most.
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
    /// Promised to native libraries.
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

    /// Takes bytes off for good: a native library may hold this much.
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

    /// Nothing yet, of this use.
    pub fn reserve(&self, of: MemoryUse) -> Reserved {
        Reserved { pool: self.clone(), of, bytes: AtomicU64::new(0) }
    }

    /// What DataFusion's operators of the whole process share.
    pub fn queries(&self) -> QueryMemory {
        self.inner.queries.clone()
    }

    /// Bytes that a poll of one of `sources` may return.
    pub fn poll_bytes(&self, sources: usize) -> usize {
        let each = self.share(MemoryUse::Input) / MICRO_BATCHES / sources.max(1) as u64;
        each.clamp(LEAST_POLL_BYTES, MOST_POLL_BYTES) as usize
    }

    /// Bytes that a slice of a micro-batch may become where one row may become many, in one of `pipelines`.
    pub fn slice_bytes(&self, pipelines: usize) -> u64 {
        (self.share(MemoryUse::Input) / 8 / pipelines.max(1) as u64).clamp(LEAST_POLL_BYTES, MOST_POLL_BYTES)
    }

    /// Bytes that a stage may make of a slice before the slice is halved, in one of `pipelines`: three times what slices aim at, since
    /// the bytes of rows differ.
    pub fn stage_bytes(&self, pipelines: usize) -> u64 {
        self.slice_bytes(pipelines) * 3
    }

    /// Bytes that librdkafka may hold of one of `sources`.
    pub fn kafka_bytes(&self, sources: usize) -> u64 {
        (self.limit() / 16 / sources.max(1) as u64).clamp(LEAST_KAFKA_BYTES, MOST_KAFKA_BYTES)
    }

    /// Bytes that one of `writers` may hold in open files: together half of what output may take.
    pub fn writer_bytes(&self, writers: usize) -> u64 {
        (self.share(MemoryUse::Output) / 2 / writers.max(1) as u64).max(LEAST_WRITER_BYTES)
    }

    /// Bytes that may wait for the end of an epoch of one of `pipelines`, while as much is being committed: a quarter of what output
    /// may take.
    pub fn waiting_bytes(&self, pipelines: usize) -> u64 {
        (self.share(MemoryUse::Output) / 4 / pipelines.max(1) as u64).clamp(LEAST_WAITING_BYTES, MOST_WAITING_BYTES)
    }
}

/// Bytes that an owner holds of a [`MemoryPool`]; given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    pool: MemoryPool,
    of: MemoryUse,
    bytes: AtomicU64,
}

impl Reserved {
    /// The owner is about to hold this much, instead of what it holds.
    pub fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        let used = &self.pool.inner.used[self.of as usize];
        if bytes >= before {
            used.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            used.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }

    /// The owner is about to hold this much more.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.pool.inner.used[self.of as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// A part of what the owner holds is about to change.
    pub fn change(&self, from: u64, to: u64) {
        if to >= from {
            self.add(to - from);
        } else {
            self.bytes.fetch_sub(from - to, Ordering::Relaxed);
            self.pool.inner.used[self.of as usize].fetch_sub(from - to, Ordering::Relaxed);
        }
    }

    /// Bytes the owner holds.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The share of DataFusion's operators, as DataFusion knows it: whoever can spill gets an even part of what others leave.
///
/// Operators reserve what they hold after it has grown, and copy it when they grow or begin to emit: a join its build side, an
/// aggregate its state. So what is not sorted or repartitioned, which reserve ahead, takes [`WITH_COPY`] times what it reserves.
#[derive(Debug, Clone)]
pub struct QueryMemory {
    taken: Arc<Mutex<Taken>>,
    limit: usize,
}

/// The memory of an operator while it copies reserved data.
const WITH_COPY: usize = 2;

#[derive(Debug, Default)]
struct Taken {
    /// Operators that can spill.
    spillers: usize,
    spillable: usize,
    unspillable: usize,
}

impl QueryMemory {
    /// A share of its own, where nothing else takes memory.
    pub fn new(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { taken: Arc::default(), limit }
    }

    /// Bytes that all together may take.
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that `reserved` of this consumer take.
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
        assert_eq!((pool.used(MemoryUse::Output), b.bytes()), (21, 21));
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
