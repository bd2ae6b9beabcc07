//! The part of a pool that one query uses.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// Bytes that one query has reserved. Clones count for the same query.
#[derive(Debug, Clone, Default)]
pub struct HeldBytes(Arc<AtomicUsize>);

impl HeldBytes {
    /// Bytes reserved at present.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A pool that counts what is reserved through it.
#[derive(Debug)]
pub struct CountedPool {
    inner: Arc<dyn MemoryPool>,
    held: HeldBytes,
}

impl CountedPool {
    /// `inner` for the query that `held` belongs to.
    pub fn new(inner: Arc<dyn MemoryPool>, held: HeldBytes) -> Self {
        Self { inner, held }
    }
}

impl fmt::Display for CountedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl MemoryPool for CountedPool {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.inner.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.inner.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.inner.grow(reservation, additional);
        self.held.0.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.inner.shrink(reservation, shrink);
        self.held.0.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.inner.try_grow(reservation, additional)?;
        self.held.0.fetch_add(additional, Ordering::Relaxed);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.inner.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::QueryMemory;

    #[test]
    fn each_query_is_told_apart_in_one_pool() {
        let shared: Arc<dyn MemoryPool> = Arc::new(QueryMemory::new(1_000));
        let (one, other) = (HeldBytes::default(), HeldBytes::default());
        let pool =
            |held: &HeldBytes| -> Arc<dyn MemoryPool> { Arc::new(CountedPool::new(Arc::clone(&shared), held.clone())) };
        let first = MemoryConsumer::new("a").register(&pool(&one));
        let second = MemoryConsumer::new("b").register(&pool(&other));
        first.try_grow(300).unwrap();
        assert!(second.try_grow(300).is_err());
        second.try_grow(100).unwrap();
        first.shrink(50);
        assert_eq!((one.get(), other.get(), shared.reserved()), (250, 100, 700));
        drop((first, second));
        assert_eq!((one.get(), other.get(), shared.reserved()), (0, 0, 0));
    }
}
