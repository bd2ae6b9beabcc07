//! The memory budget for the results of a pipeline's functions over one slice of rows.
//!
//! Input is bounded, but the results of SQL are not: `repeat(s, 100000)` of 60,000 rows is 6 GB, more bytes than a string
//! array can count. Stages are pure until they write, so the caller that runs one ([`crate::epoch`]) gives the budget a
//! limit, and where the budget answers [`TooMuch`] it runs the halves of the rows one after the other, down to single rows.
//! Functions ask before they compute; collected rows are counted as they arrive. A result too large for a single row is an
//! error.

use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::ArrayRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryReservation;

use super::bounded::{Budget, MAX_BATCH_BYTES, MaxConstants, too_large_a_batch, too_large_a_constant};
use super::size::size_of;
use crate::error::{Error, SqlState};

/// Bytes that one call may produce for one row.
pub const MAX_VALUE_BYTES: usize = 64 << 20;

/// For a pipeline, whose SQL its owner has written.
const CONSTANTS: MaxConstants = MaxConstants { each: 16 << 20, all: 64 << 20 };

/// No limit: used where rows cannot be cut.
const UNLIMITED: u64 = u64::MAX;

/// The rows of a slice would produce more than may be produced at a time; fewer rows would produce less.
#[derive(Debug)]
pub struct TooMuch;

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too much is made of too many rows at a time")
    }
}

impl StdError for TooMuch {}

/// `true` if fewer rows at a time may succeed: the budget answered [`TooMuch`], or an array cannot count its bytes in 32
/// bits.
pub fn is_too_much(error: &(dyn StdError + 'static)) -> bool {
    let mut open = Some(error);
    while let Some(error) = open {
        if error.downcast_ref::<TooMuch>().is_some() || is_overflow(&error.to_string()) {
            return true;
        }
        open = error.source();
    }
    false
}

/// `true` for arrow's messages about arrays of strings or lists with more bytes or elements than they can count. Some
/// kernels return an error, others panic.
pub fn is_overflow(message: &str) -> bool {
    let message = message.to_lowercase();
    ["offset overflow", "offsetoverflow", "overflow offset", "offset exceeds"].iter().any(|text| message.contains(text))
}

/// The budget of one pipeline: how much the running stage has produced, and may produce.
#[derive(Debug)]
pub struct SliceBudget {
    limit: AtomicU64,
    made: AtomicU64,
    constants: AtomicU64,
    is_planned: AtomicBool,
}

impl Default for SliceBudget {
    fn default() -> Self {
        Self {
            limit: AtomicU64::new(UNLIMITED),
            made: AtomicU64::new(0),
            constants: AtomicU64::new(0),
            is_planned: AtomicBool::new(false),
        }
    }
}

impl SliceBudget {
    /// Planning is over: constants are no longer added up, since results of calls with constant arguments now live no longer
    /// than a batch.
    pub fn planned(&self) {
        self.is_planned.store(true, Ordering::Relaxed);
    }

    /// From now on all lanes together may produce `limit` bytes, where rows can be cut; `None` where they cannot.
    pub fn begin_slice(&self, limit: Option<u64>) {
        self.made.store(0, Ordering::Relaxed);
        self.limit.store(limit.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    /// Returns the bytes produced since [`Self::begin_slice`], and removes the limit.
    pub fn end_slice(&self) -> u64 {
        self.limit.store(UNLIMITED, Ordering::Relaxed);
        self.made.swap(0, Ordering::Relaxed)
    }

    /// Counts bytes that were produced. Errors: [`TooMuch`].
    pub fn count(&self, bytes: u64) -> Result<()> {
        let made = self.made.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if made > self.limit.load(Ordering::Relaxed) {
            return Err(DataFusionError::External(Box::new(TooMuch)));
        }
        Ok(())
    }

    /// `true` where rows can be cut.
    pub fn has_limit(&self) -> bool {
        self.limit.load(Ordering::Relaxed) != UNLIMITED
    }
}

impl Budget for SliceBudget {
    fn begin(&self) -> Result<()> {
        Ok(())
    }

    fn constant(&self, name: &str, bytes: usize) -> Result<()> {
        let others = match self.is_planned.load(Ordering::Relaxed) {
            true => 0,
            false => self.constants.fetch_add(bytes as u64, Ordering::Relaxed),
        };
        let all = others.saturating_add(bytes as u64);
        if bytes > CONSTANTS.each || all > CONSTANTS.all as u64 {
            return Err(too_large_a_constant(name, bytes, CONSTANTS));
        }
        Ok(())
    }

    fn batch(&self, name: &str, bytes: usize, rows: usize) -> Result<Option<MemoryReservation>> {
        self.count(bytes as u64)?;
        match rows {
            // Outside of slices rows cannot be cut, and an array must be able to count its bytes.
            2.. if bytes > MAX_BATCH_BYTES && !self.has_limit() => Err(too_large_a_batch(name, bytes)),
            0..=1 if bytes > MAX_VALUE_BYTES => Err(too_large_a_value(name, bytes)),
            _ => Ok(None),
        }
    }

    fn made(&self, result: ArrayRef, _reserved: Option<MemoryReservation>, bytes: usize) -> Result<ArrayRef> {
        // The expected size is an upper bound, and often far too high.
        let over = (bytes as u64).saturating_sub(size_of(&result));
        let _ = self.made.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |made| Some(made.saturating_sub(over)));
        Ok(result)
    }
}

/// The budget of an expression that can be repeated with fewer rows at any time, and runs many times at once: a CHECK.
#[derive(Debug)]
pub struct CallBudget;

/// Bytes that a call may produce for several rows under a [`CallBudget`].
const MAX_CALL_BYTES: usize = 8 << 20;

impl Budget for CallBudget {
    fn begin(&self) -> Result<()> {
        Ok(())
    }

    fn constant(&self, name: &str, bytes: usize) -> Result<()> {
        if bytes > CONSTANTS.each { Err(too_large_a_constant(name, bytes, CONSTANTS)) } else { Ok(()) }
    }

    fn batch(&self, name: &str, bytes: usize, rows: usize) -> Result<Option<MemoryReservation>> {
        match rows {
            2.. if bytes > MAX_CALL_BYTES => Err(DataFusionError::External(Box::new(TooMuch))),
            0..=1 if bytes > MAX_VALUE_BYTES => Err(too_large_a_value(name, bytes)),
            _ => Ok(None),
        }
    }

    fn made(&self, result: ArrayRef, _reserved: Option<MemoryReservation>, _bytes: usize) -> Result<ArrayRef> {
        Ok(result)
    }
}

fn too_large_a_value(name: &str, bytes: usize) -> DataFusionError {
    Error::sql(format!("`{name}` makes too much of one row"))
        .with_state(SqlState::LIMIT)
        .with_detail(format!("Its value can have {bytes} bytes; {MAX_VALUE_BYTES} are allowed."))
        .with_hint(
            "Bound the arguments, for example by `least(n, 1000)`, or leave such rows out with WHERE in a view before.",
        )
        .into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn above_its_limit_a_budget_asks_for_fewer_rows_and_at_one_row_it_refuses() {
        let budget = SliceBudget::default();
        budget.begin_slice(Some(1_000));
        budget.batch("repeat", 600, 10).unwrap();
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"; 10]));
        budget.made(texts, None, 600).unwrap();
        budget.batch("repeat", 900, 10).unwrap();
        let error = budget.batch("repeat", MAX_VALUE_BYTES + 1, 10).unwrap_err();
        assert!(is_too_much(&error) && is_too_much(&Error::from(error)));
        budget.begin_slice(None);
        budget.batch("repeat", MAX_VALUE_BYTES, 1).unwrap();
        let error = Error::from(budget.batch("repeat", MAX_VALUE_BYTES + 1, 1).unwrap_err());
        assert!(!is_too_much(&error));
        assert_eq!((error.message(), error.state()), ("`repeat` makes too much of one row", SqlState::LIMIT));
    }

    #[test]
    fn constants_of_a_plan_add_up_and_those_of_batches_do_not() {
        let budget = SliceBudget::default();
        (0..4).for_each(|_| budget.constant("repeat", 16 << 20).unwrap());
        assert!(budget.constant("repeat", 1).is_err());
        budget.planned();
        (0..8).for_each(|_| budget.constant("repeat", 16 << 20).unwrap());
        assert!(budget.constant("repeat", (16 << 20) + 1).is_err());
    }

    #[test]
    fn what_arrow_says_of_arrays_that_cannot_count_their_bytes_is_known() {
        assert!(is_overflow("offset overflow") && is_overflow("Arrow error: Offset overflow error: 2147483648"));
        assert!(is_overflow("Execution error: byte array offset overflow"));
        assert!(!is_overflow("Arithmetic overflow: Overflow happened on: 9223372036854775807 + 1"));
    }
}
