//! The rows of one partition as a short list in order, and their emitted ranks.

/// The rows of a partition.
#[derive(Debug, Default)]
pub struct Partition {
    /// In order; rows that are equal in every column are one.
    pub rows: Vec<Entry>,
    /// The sum of the weights.
    pub total: u32,
    /// `true` if this step has changed it.
    pub touched: bool,
    /// `true` if it was restored from state, so that the emitted ranks are not known yet.
    pub restored: bool,
}

/// A row of the list.
#[derive(Debug)]
pub struct Entry {
    /// The first 16 bytes of the encoded order values.
    pub prefix: u128,
    pub number: u32,
    /// Number of times that the row counts, at most the limit.
    pub weight: u32,
    /// The row was emitted `count` times, with this rank (0: without ranks) and the ranks that follow it.
    pub rank: u32,
    pub count: u32,
}

/// Facts about a row that are not needed for its position.
#[derive(Debug, Default)]
pub struct Facts {
    /// The encoded order values and all columns, once a tie needed them.
    pub bytes: Option<Box<[u8]>>,
    /// Identifies the row in state.
    pub seq: i64,
    pub partition: u32,
    pub weight: u32,
    pub flags: u8,
}

/// A row to emit, `count` times; a negative count retracts.
#[derive(Debug)]
pub struct Place {
    pub number: u32,
    pub rank: u32,
    pub count: i64,
}

impl Partition {
    /// `true` if a row may be within the limit.
    pub fn admits(&self, prefix: u128, limit: u32) -> bool {
        self.total < limit || self.rows.last().is_some_and(|last| prefix <= last.prefix)
    }

    /// Removes a row beyond the limit, if there is one. A row that counts several times stays whole.
    pub fn pop_beyond(&mut self, limit: u32) -> Option<Entry> {
        let last = self.rows.last()?;
        if self.total <= limit || self.total - last.weight < limit {
            return None;
        }
        self.total -= last.weight;
        self.rows.pop()
    }

    /// Updates the emitted ranks to the rows, and reports the changes.
    pub fn show(&mut self, limit: u32, with_rank: bool, mut change: impl FnMut(Place)) {
        let mut before = 0;
        for row in &mut self.rows {
            let (rank, count) = (row.rank, row.count);
            row.count = row.weight.min(limit.saturating_sub(before));
            row.rank = if with_rank { before + 1 } else { 0 };
            difference(row.number, (rank, count), (row.rank, row.count), with_rank, &mut change);
            before += row.weight;
        }
    }
}

/// The changes from a row's previous output (first rank and count) to its new one.
pub fn difference(number: u32, then: (u32, u32), now: (u32, u32), with_rank: bool, change: &mut impl FnMut(Place)) {
    if !with_rank {
        let count = i64::from(now.1) - i64::from(then.1);
        if count != 0 {
            change(Place { number, rank: 0, count });
        }
        return;
    }
    if then == now {
        return;
    }
    let ranks = |(rank, count): (u32, u32)| rank..rank + count;
    ranks(then).filter(|rank| !ranks(now).contains(rank)).for_each(|rank| change(Place { number, rank, count: -1 }));
    ranks(now).filter(|rank| !ranks(then).contains(rank)).for_each(|rank| change(Place { number, rank, count: 1 }));
}
