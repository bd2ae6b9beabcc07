//! The rows of one partition in order, and those of them within the limit.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::prefix;
use crate::operator::spec::RankFunction;

/// A row as bytes: its encoded order values followed by all its columns, so that the order of the bytes is the order of the
/// rows. The first bytes are stored separately, since they usually suffice to compare and are then in the cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    prefix: u128,
    pub bytes: Arc<[u8]>,
}

impl RowKey {
    /// The key of a row.
    pub fn new(bytes: &[u8]) -> Self {
        Self { prefix: prefix(bytes), bytes: bytes.into() }
    }
}

/// The data of a row.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Number of times that the row counts. Not positive only while the row that it retracts is still to come.
    pub weight: i64,
    /// Number of bytes that are order values.
    pub order: u32,
    /// The number of its columns, if they are stored.
    pub number: u32,
    /// `true` if it is in state, perhaps with another weight.
    pub written: bool,
    /// `true` if it must be written.
    pub dirty: bool,
    pub shown: Shown,
}

/// A row's output: emitted `count` times with this rank; with `row_number`, with this rank and those that follow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    pub rank: u64,
    pub count: u64,
}

/// The limit.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub function: RankFunction,
    pub rows: u64,
    /// `true` if ranks are emitted. If not, a row that only changes its rank does not change.
    pub with_rank: bool,
}

/// A row to emit, `count` times; a negative count retracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub row: RowKey,
    pub order: u32,
    pub number: u32,
    pub rank: u64,
    pub count: i64,
}

/// Rows in order.
#[derive(Debug, Default)]
pub struct Partition {
    pub rows: BTreeMap<RowKey, Entry>,
    /// Kept for append streams only: the sum of the weights; and except for `row_number` the number of distinct order values
    /// and the sum of the weights of rows with the last order values.
    total: u64,
    distinct: u64,
    tail: u64,
    /// Number of `rows` that are emitted.
    pub shown: usize,
    /// `true` if this step has changed it.
    pub touched: bool,
    /// `true` if it was restored from state, so that the emitted ranks are not known yet.
    pub restored: bool,
}

impl Partition {
    /// `true` if a row with these order values may be within the limit. For append streams.
    pub fn admits(&self, order: &[u8], limit: Limit) -> bool {
        let full = match limit.function {
            RankFunction::RowNumber | RankFunction::Rank => self.total >= limit.rows,
            RankFunction::DenseRank => self.distinct >= limit.rows,
        };
        let last = self.rows.last_key_value();
        !full || last.is_some_and(|(last, entry)| order <= &last.bytes[..entry.order as usize])
    }

    /// Counts a row that was inserted; `new` if it was not there before. For append streams.
    pub fn count(&mut self, row: &RowKey, order: u32, weight: u64, new: bool, limit: Limit) {
        self.total += weight;
        if limit.function == RankFunction::RowNumber {
            return;
        }
        let of = &row.bytes[..order as usize];
        let same = |other: Option<(&RowKey, &Entry)>| {
            other.is_some_and(|(key, entry)| &key.bytes[..entry.order as usize] == of)
        };
        let is_last = same(self.rows.last_key_value());
        let mut first_of_order = false;
        if new {
            let before = self.rows.range((Unbounded, Excluded(row))).next_back();
            let after = self.rows.range((Excluded(row), Unbounded)).next();
            first_of_order = !same(before) && !same(after);
            self.distinct += u64::from(first_of_order);
        }
        if is_last {
            self.tail = if first_of_order { weight } else { self.tail + weight };
        }
    }

    /// Removes a row beyond the limit, if there is one. For append streams; to be called until it returns `None`.
    pub fn pop_beyond(&mut self, limit: Limit) -> Option<(RowKey, Entry)> {
        let beyond = match limit.function {
            // A row that counts several times may be partly beyond the limit; it stays whole.
            RankFunction::RowNumber => {
                self.total > limit.rows
                    && self.total - self.rows.last_key_value()?.1.weight.unsigned_abs() >= limit.rows
            }
            RankFunction::Rank => self.total - self.tail >= limit.rows,
            RankFunction::DenseRank => self.distinct > limit.rows,
        };
        if !beyond {
            return None;
        }
        let (row, entry) = self.rows.pop_last()?;
        let weight = entry.weight.unsigned_abs();
        self.total -= weight;
        if limit.function != RankFunction::RowNumber {
            self.tail = self.tail.saturating_sub(weight);
            let last = self.rows.last_key_value();
            let order = &row.bytes[..entry.order as usize];
            if last.is_none_or(|(last, other)| &last.bytes[..other.order as usize] != order) {
                self.distinct -= 1;
                self.tail = self.tail_weight();
            }
        }
        Some((row, entry))
    }

    fn tail_weight(&self) -> u64 {
        let Some((last, entry)) = self.rows.last_key_value() else { return 0 };
        let order = &last.bytes[..entry.order as usize];
        let tail = self.rows.iter().rev().take_while(|(row, entry)| &row.bytes[..entry.order as usize] == order);
        tail.map(|(_, entry)| entry.weight.unsigned_abs()).sum()
    }

    /// Updates the emitted ranks to the rows, and reports the changes.
    pub fn show(&mut self, limit: Limit, mut change: impl FnMut(Place)) {
        let (mut before, mut rank, mut dense) = (0_u64, 0_u64, 0_u64);
        let mut previous: Option<&[u8]> = None;
        let (mut left, mut shown) = (self.shown, 0);
        for (row, entry) in &mut self.rows {
            let weight = entry.weight.max(0).unsigned_abs();
            if limit.function != RankFunction::RowNumber && weight > 0 {
                let order = &row.bytes[..entry.order as usize];
                if previous != Some(order) {
                    previous = Some(order);
                    dense += 1;
                    rank = before + 1;
                }
            }
            let (rank, room) = match limit.function {
                RankFunction::RowNumber => (before + 1, limit.rows.saturating_sub(before)),
                RankFunction::Rank => (rank, if rank <= limit.rows { u64::MAX } else { 0 }),
                RankFunction::DenseRank => (dense, if dense <= limit.rows { u64::MAX } else { 0 }),
            };
            if room == 0 && left == 0 {
                break;
            }
            let now = Shown { rank: if limit.with_rank { rank } else { 0 }, count: weight.min(room) };
            let then = std::mem::replace(&mut entry.shown, now);
            left -= usize::from(then.count > 0);
            shown += usize::from(now.count > 0);
            difference(row, entry, then, now, limit, &mut change);
            before += weight;
        }
        self.shown = shown;
    }
}

/// The changes from a row's previous output to its new one.
pub fn difference(row: &RowKey, entry: &Entry, then: Shown, now: Shown, limit: Limit, change: &mut impl FnMut(Place)) {
    let Entry { order, number, .. } = *entry;
    let mut put = |rank: u64, count: i64| {
        if count != 0 {
            change(Place { row: row.clone(), order, number, rank, count });
        }
    };
    if limit.function == RankFunction::RowNumber && limit.with_rank {
        let has = |shown: Shown, rank: u64| rank >= shown.rank && rank < shown.rank + shown.count;
        (then.rank..then.rank + then.count).filter(|rank| !has(now, *rank)).for_each(|rank| put(rank, -1));
        (now.rank..now.rank + now.count).filter(|rank| !has(then, *rank)).for_each(|rank| put(rank, 1));
    } else if then.rank == now.rank {
        put(now.rank, now.count as i64 - then.count as i64);
    } else {
        put(then.rank, -(then.count as i64));
        put(now.rank, now.count as i64);
    }
}
