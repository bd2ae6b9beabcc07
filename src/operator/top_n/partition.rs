//! The rows of one partition in order, and which of them are within the limit.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::operator::spec::RankFunction;

/// A row as bytes: its encoded order values followed by all its columns, so that the order of the bytes is the order of the rows.
pub type RowBytes = Arc<[u8]>;

/// What is known of a row.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// How often the row counts. Not positive only while what it takes back is still to come.
    pub weight: i64,
    /// How many of the bytes are order values.
    pub order: u32,
    /// Whether state has it, perhaps with another weight.
    pub written: bool,
    /// Whether it must be written.
    pub dirty: bool,
}

/// The limit.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub function: RankFunction,
    pub rows: u64,
    /// Whether places tell ranks apart.
    pub with_rank: bool,
}

/// A row within the limit. Without ranks, 0 is given for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub row: RowBytes,
    pub order: u32,
    pub rank: u64,
    pub count: i64,
}

/// Rows in order.
#[derive(Debug, Default)]
pub struct Partition {
    pub rows: BTreeMap<RowBytes, Entry>,
    /// Only kept for append streams: the sum of the weights, the number of distinct order values, the sum of the weights of rows with
    /// the last order values.
    total: u64,
    distinct: u64,
    tail: u64,
    /// Whether this step has seen it.
    pub touched: bool,
}

impl Partition {
    /// Whether a row with these order values may come within the limit. For append streams.
    pub fn admits(&self, order: &[u8], limit: Limit) -> bool {
        let Some((last, entry)) = self.rows.last_key_value() else { return limit.rows > 0 };
        let full = match limit.function {
            RankFunction::RowNumber | RankFunction::Rank => self.total >= limit.rows,
            RankFunction::DenseRank => self.distinct >= limit.rows,
        };
        !full || order <= &last[..entry.order as usize]
    }

    /// Counts a row that was put in; `new` if it was not there before. For append streams.
    pub fn count(&mut self, row: &[u8], order: u32, weight: u64, new: bool) {
        self.total += weight;
        let of = &row[..order as usize];
        let same = |other: Option<(&RowBytes, &Entry)>| {
            other.is_some_and(|(bytes, entry)| &bytes[..entry.order as usize] == of)
        };
        let is_last = same(self.rows.last_key_value());
        let mut first_of_order = false;
        if new {
            use std::ops::Bound::{Excluded, Unbounded};
            let before = self.rows.range::<[u8], _>((Unbounded, Excluded(row))).next_back();
            let after = self.rows.range::<[u8], _>((Excluded(row), Unbounded)).next();
            first_of_order = !same(before) && !same(after);
            self.distinct += u64::from(first_of_order);
        }
        if is_last {
            self.tail = if first_of_order { weight } else { self.tail + weight };
        }
    }

    /// Takes out a row that has gone beyond the limit, if any. For append streams, until `None` comes.
    pub fn pop_beyond(&mut self, limit: Limit) -> Option<(RowBytes, Entry)> {
        let beyond = match limit.function {
            // A row that counts several times may reach beyond the limit with some of them; it stays whole.
            RankFunction::RowNumber => self.total - self.rows.last_key_value()?.1.weight.unsigned_abs() >= limit.rows,
            RankFunction::Rank => self.total - self.tail >= limit.rows,
            RankFunction::DenseRank => self.distinct > limit.rows,
        };
        if !beyond {
            return None;
        }
        let (row, entry) = self.rows.pop_last()?;
        let weight = entry.weight.unsigned_abs();
        self.total -= weight;
        self.tail = self.tail.saturating_sub(weight);
        let order_ends = self
            .rows
            .last_key_value()
            .is_none_or(|(last, other)| last[..other.order as usize] != row[..entry.order as usize]);
        if order_ends {
            self.distinct -= 1;
            self.tail = self.tail_weight();
        }
        Some((row, entry))
    }

    fn tail_weight(&self) -> u64 {
        let Some((last, entry)) = self.rows.last_key_value() else { return 0 };
        let order = &last[..entry.order as usize];
        let tail = self.rows.iter().rev().take_while(|(row, entry)| &row[..entry.order as usize] == order);
        tail.map(|(_, entry)| entry.weight.unsigned_abs()).sum()
    }

    /// The rows within the limit, in order of rows and ranks.
    pub fn places(&self, limit: Limit) -> Vec<Place> {
        let mut places = Vec::new();
        let (mut before, mut rank, mut dense) = (0_u64, 0_u64, 0_u64);
        let mut previous: Option<&[u8]> = None;
        for (row, entry) in &self.rows {
            if entry.weight <= 0 {
                continue;
            }
            let order = &row[..entry.order as usize];
            if previous != Some(order) {
                previous = Some(order);
                dense += 1;
                rank = before + 1;
            }
            let mut put = |rank: u64, count: i64| {
                let rank = if limit.with_rank { rank } else { 0 };
                places.push(Place { row: Arc::clone(row), order: entry.order, rank, count });
            };
            match limit.function {
                RankFunction::RowNumber => {
                    let count = entry.weight.unsigned_abs().min(limit.rows - before.min(limit.rows));
                    if count == 0 {
                        break;
                    }
                    if limit.with_rank {
                        (1..=count).for_each(|nth| put(before + nth, 1));
                    } else {
                        put(0, count as i64);
                    }
                }
                RankFunction::Rank if rank <= limit.rows => put(rank, entry.weight),
                RankFunction::DenseRank if dense <= limit.rows => put(dense, entry.weight),
                RankFunction::Rank | RankFunction::DenseRank => break,
            }
            before += entry.weight.unsigned_abs();
        }
        places
    }
}

/// What turns the places `old` into `new`, both in order: places with the change of their count.
pub fn difference(old: Vec<Place>, new: Vec<Place>, changes: &mut Vec<Place>) {
    let mut old = old.into_iter().peekable();
    let mut new = new.into_iter().peekable();
    let key = |place: &Place| (Arc::clone(&place.row), place.rank);
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(old), Some(new)) => key(old).cmp(&key(new)),
        };
        let gone = if order.is_le() { old.next() } else { None };
        let come = if order.is_ge() { new.next() } else { None };
        match (gone, come) {
            (Some(gone), Some(come)) if gone.count == come.count => {}
            (Some(gone), Some(come)) => changes.push(Place { count: come.count - gone.count, ..come }),
            (Some(gone), None) => changes.push(Place { count: -gone.count, ..gone }),
            (None, Some(come)) => changes.push(come),
            (None, None) => return,
        }
    }
}
