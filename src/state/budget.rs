//! The memory limit of a process's state, shared by all its operators.
//!
//! Each owner of state holds a [`MemoryShare`] and reports its size; owners that can put state on disk do so while
//! [`MemoryShare::must_shrink`] holds; and intake slows down by [`MemoryBudget::pressure`]. Nothing fails here for lack of
//! memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A limit shared by all state; cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: u64,
    /// Bytes of owners that can shrink, or that report why they cannot.
    used: AtomicU64,
    /// Bytes that never leave memory: tables that are looked up.
    pinned: AtomicU64,
    /// Bytes of operators that are not divided yet: nothing of them can leave memory before they are.
    whole: AtomicU64,
    shares: AtomicU64,
    /// Reasons why owners cannot shrink, by their numbers.
    stuck: Mutex<Vec<(u64, String)>>,
    next: AtomicU64,
}

/// Reason and amount of a slowdown of intake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pressure {
    /// Bytes in use.
    pub used: u64,
    pub limit: u64,
    /// A sentence for progress and logs.
    pub reason: String,
    /// Pause before the next micro-batch is read.
    pub delay: Duration,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        let inner = Inner {
            limit,
            used: AtomicU64::new(0),
            pinned: AtomicU64::new(0),
            whole: AtomicU64::new(0),
            shares: AtomicU64::new(0),
            stuck: Mutex::default(),
            next: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A share of the budget, of 0 bytes so far; released on drop.
    pub fn share(&self) -> MemoryShare {
        self.share_of(ShareKind::Shrinks)
    }

    /// A share of an owner that never shrinks. It must look at [`Self::pinned_fits`], and is left out of [`Self::pressure`].
    pub fn pinned_share(&self) -> MemoryShare {
        self.share_of(ShareKind::Pinned)
    }

    /// A share of operators that are not divided yet; likewise left out of [`Self::pressure`].
    pub fn whole_share(&self) -> MemoryShare {
        self.share_of(ShareKind::Whole)
    }

    fn share_of(&self, kind: ShareKind) -> MemoryShare {
        self.inner.shares.fetch_add(u64::from(kind == ShareKind::Shrinks), Ordering::Relaxed);
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        MemoryShare { budget: self.clone(), number, kind, held: 0, stuck: None }
    }

    /// `false` once the owners that never shrink exceed the limit by themselves.
    pub fn pinned_fits(&self) -> bool {
        self.inner.pinned.load(Ordering::Relaxed) <= self.inner.limit
    }

    /// `true` if the owners of all kinds together exceed the limit: then operators that are not divided yet should be.
    pub fn is_exceeded(&self) -> bool {
        self.used().saturating_add(self.unmovable()) > self.inner.limit
    }

    fn unmovable(&self) -> u64 {
        self.inner.pinned.load(Ordering::Relaxed).saturating_add(self.inner.whole.load(Ordering::Relaxed))
    }

    /// Bytes of the owners that can shrink, or that report why they cannot.
    pub fn used(&self) -> u64 {
        self.inner.used.load(Ordering::Relaxed)
    }

    /// Bytes that state may take.
    pub fn limit(&self) -> u64 {
        self.inner.limit
    }

    /// `Some` while state exceeds the limit. The delay grows with the excess, from 10 ms to 5 s, so that a pipeline whose
    /// state is bounded by time still makes progress and can expire it.
    pub fn pressure(&self) -> Option<Pressure> {
        let (used, limit) = (self.used(), self.limit());
        if used <= limit {
            return None;
        }
        let stuck = self.inner.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        let why = stuck.first().map_or("cold state is being written to disk", |(_, why)| why.as_str());
        let percent = (u128::from(used - limit) * 100 / u128::from(limit.max(1))).min(50) as u64;
        Some(Pressure {
            used,
            limit,
            reason: format!("state takes {} MiB of {} MiB: {why}", used >> 20, limit >> 20),
            delay: Duration::from_millis((10 + percent * percent * 2).min(5_000)),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShareKind {
    Shrinks,
    Pinned,
    Whole,
}

/// The part of a [`MemoryBudget`] that one owner of state uses.
#[derive(Debug)]
pub struct MemoryShare {
    budget: MemoryBudget,
    number: u64,
    kind: ShareKind,
    held: u64,
    stuck: Option<String>,
}

impl MemoryShare {
    /// Reports the owner's current bytes.
    pub fn set(&mut self, bytes: u64) {
        let inner = &self.budget.inner;
        let used = match self.kind {
            ShareKind::Shrinks => &inner.used,
            ShareKind::Pinned => &inner.pinned,
            ShareKind::Whole => &inner.whole,
        };
        if bytes >= self.held {
            used.fetch_add(bytes - self.held, Ordering::Relaxed);
        } else {
            used.fetch_sub(self.held - bytes, Ordering::Relaxed);
        }
        self.held = bytes;
    }

    /// The budget that it is a part of.
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Bytes the owner takes.
    #[cfg(test)]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// `true` if all owners together would exceed the limit with `more` bytes, and this owner would then hold at least its
    /// even part of it. When the limit is exceeded, there is always such an owner.
    pub fn must_shrink(&self, more: u64) -> bool {
        let inner = &self.budget.inner;
        let limit = inner.limit.saturating_sub(self.budget.unmovable());
        let even = limit / inner.shares.load(Ordering::Relaxed).max(1);
        self.budget.used().saturating_add(more) > limit && self.held.saturating_add(more) >= even
    }

    /// Reports why this owner cannot shrink; `None`: it can.
    pub fn set_stuck(&mut self, why: Option<&str>) {
        if why == self.stuck.as_deref() {
            return;
        }
        self.stuck = why.map(str::to_owned);
        let mut stuck = self.budget.inner.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        stuck.retain(|(number, _)| *number != self.number);
        stuck.extend(why.map(|why| (self.number, why.to_owned())));
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.set(0);
        self.set_stuck(None);
        self.budget.inner.shares.fetch_sub(u64::from(self.kind == ShareKind::Shrinks), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_are_given_back() {
        let budget = MemoryBudget::new(100);
        let mut a = budget.share();
        let mut b = budget.share();
        a.set(70);
        b.set(20);
        a.set(60);
        assert_eq!(budget.used(), 80);
        assert_eq!(budget.pressure(), None);
        drop(a);
        assert_eq!(budget.used(), 20);
        assert_eq!(b.held(), 20);
    }

    #[test]
    fn who_takes_more_than_an_even_part_must_shrink() {
        let budget = MemoryBudget::new(100);
        let mut large = budget.share();
        let mut small = budget.share();
        large.set(90);
        small.set(20);
        assert!(large.must_shrink(0));
        assert!(!small.must_shrink(0));
        large.set(75);
        assert!(!large.must_shrink(0));
        assert!(large.must_shrink(6));
    }

    #[test]
    fn owners_that_cannot_shrink_leave_less_for_the_others_and_slow_nothing() {
        let budget = MemoryBudget::new(100);
        let (mut a, mut b) = (budget.share(), budget.share());
        let (mut table, mut whole) = (budget.pinned_share(), budget.whole_share());
        a.set(20);
        b.set(10);
        table.set(60);
        assert!(!a.must_shrink(0) && !budget.is_exceeded());
        whole.set(15);
        assert!(a.must_shrink(0) && !b.must_shrink(0), "25 are left: 12 for each");
        assert!(budget.is_exceeded() && budget.pinned_fits());
        assert_eq!(budget.pressure(), None);
        let mut other = budget.pinned_share();
        other.set(41);
        assert!(!budget.pinned_fits(), "the tables of all operators count together");
        drop((other, whole));
        assert!(budget.pinned_fits() && !a.must_shrink(0));
    }

    #[test]
    fn pressure_says_why_and_slows_more_the_more_is_taken() {
        let budget = MemoryBudget::new(100 << 20);
        let mut share = budget.share();
        share.set_stuck(Some("there is no disk"));
        share.set(101 << 20);
        let little = budget.pressure().unwrap();
        assert_eq!(little.reason, "state takes 101 MiB of 100 MiB: there is no disk");
        share.set(200 << 20);
        let much = budget.pressure().unwrap();
        assert!(little.delay < much.delay && much.delay <= Duration::from_secs(5), "{little:?} {much:?}");
        share.set_stuck(Some("the disk is full"));
        assert!(budget.pressure().unwrap().reason.ends_with("the disk is full"));
        share.set_stuck(None);
        assert!(!budget.pressure().unwrap().reason.contains("no disk"));
    }
}
