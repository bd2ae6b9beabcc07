//! A hash multimap from hashes to row numbers, as chains of links: 16 bytes a row and one cache line a step.
//!
//! Only 32 bits of the hash are kept (the tag), so a search finds candidates: the caller compares the keys. Rows are
//! numbered without gaps. A dead row has the time [`DEAD`], which no searched range contains. Chains run from the newest row
//! to the oldest, and dead rows must not make them long: rows that expire do so oldest first, so a search stops at `floor`,
//! below which all rows are dead; rows that die at any other age are unlinked.
//!
//! Three rows are pushed, with 1024 heads; tag 1029 falls into the chain of tag 5, since 1029 & 1023 = 5:
//!
//! ```text
//! row   time   tag    next     heads[5] = 2, so the chain is 2 -> 1 -> 0
//! 0     10     5      NONE
//! 1     20     5      0
//! 2     25     1029   1
//!
//! search tag 5, times 15 ..= 30   row 2 has another tag, row 1 is found, row 0 is too old
//! kill(1)                         row 1 is DEAD; links[2].next = 0: the chain is 2 -> 0; floor stays 0
//! expire(0)                       row 0 is DEAD; floor = 2: searches stop after row 2
//! compact()                       row 2 becomes row 0: heads[5] = 0, next = NONE, floor = 0
//! ```

use crate::time::EventTime;

/// The end of a chain; also "no row".
pub(super) const NONE: u32 = u32::MAX;

/// The time of a dead row.
const DEAD: i64 = EventTime::MIN.0;

#[derive(Clone, Copy)]
struct Link {
    /// Microseconds.
    time: i64,
    tag: u32,
    next: u32,
}

/// The candidates that a search returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Every candidate of a row.
    All,
    /// One candidate of each row.
    One,
}

/// The position at which a search stopped.
#[derive(Default)]
pub(super) struct Cursor {
    row: usize,
    /// The next link of `row` plus one; 0: the chain has not been entered.
    link: u32,
}

#[derive(Default)]
pub(super) struct Chains {
    links: Vec<Link>,
    /// The length is a power of two; empty at first.
    heads: Vec<u32>,
    /// All rows below this are dead.
    floor: u32,
}

/// A row is unlinked if at most this many steps lead to it; otherwise it stays in its chain, dead.
const UNLINK_STEPS: usize = 32;

impl Chains {
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>() + self.heads.capacity() * size_of::<u32>()
    }

    pub(super) fn time(&self, row: u32) -> EventTime {
        EventTime(self.links[row as usize].time)
    }

    pub(super) fn is_live(&self, row: u32) -> bool {
        self.links[row as usize].time != DEAD
    }

    /// Marks a row as dead that is among the oldest.
    pub(super) fn expire(&mut self, row: u32) {
        self.links[row as usize].time = DEAD;
        while self.links.get(self.floor as usize).is_some_and(|link| link.time == DEAD) {
            self.floor += 1;
        }
    }

    /// Marks a row of any age as dead, and unlinks it.
    pub(super) fn kill(&mut self, row: u32) {
        self.expire(row);
        let Link { tag, next, .. } = self.links[row as usize];
        let head = tag as usize & (self.heads.len() - 1);
        let mut at = self.heads[head];
        if at == row {
            self.heads[head] = next;
            return;
        }
        for _ in 0..UNLINK_STEPS {
            let Some(link) = self.links.get_mut(at as usize) else { return };
            if link.next == row {
                link.next = next;
                return;
            }
            at = link.next;
        }
    }

    /// Appends rows.
    pub(super) fn push(&mut self, hashes: &[u64], times: &[i64]) {
        if hashes.is_empty() {
            return;
        }
        let first = self.links.len();
        self.links.extend(hashes.iter().zip(times).map(|(&hash, &time)| Link { time, tag: tag(hash), next: NONE }));
        if self.links.len() > self.heads.len() {
            self.grow();
        } else {
            self.link(first);
        }
    }

    /// Drops the dead rows; the live ones are renumbered in the same order.
    pub(super) fn compact(&mut self) {
        self.links.retain(|link| link.time != DEAD);
        self.links.shrink_to(self.links.len() * 2);
        self.heads = Vec::new();
        self.floor = 0;
        self.grow();
    }

    fn grow(&mut self) {
        let wanted = (self.links.len() * 2).next_power_of_two().max(1024);
        self.heads.clear();
        self.heads.resize(wanted, NONE);
        self.link(0);
    }

    fn link(&mut self, first: usize) {
        let mask = self.heads.len() - 1;
        for (row, link) in self.links.iter_mut().enumerate().skip(first) {
            let head = &mut self.heads[link.tag as usize & mask];
            link.next = *head;
            *head = row as u32;
        }
    }

    /// Appends to `rows` and `found` the pairs of an index into `hashes` and a candidate whose time is within that row's
    /// range (inclusive), until there are `limit`. `true` if there may be more.
    pub(super) fn search(
        &self,
        want: Want,
        hashes: &[u64],
        range: impl Fn(usize) -> (i64, i64),
        cursor: &mut Cursor,
        limit: usize,
        (rows, found): (&mut Vec<u32>, &mut Vec<u32>),
    ) -> bool {
        if self.links.is_empty() {
            return false;
        }
        let mask = self.heads.len() - 1;
        while let Some(&hash) = hashes.get(cursor.row) {
            let tag = tag(hash);
            let mut at = if cursor.link == 0 { self.heads[tag as usize & mask] } else { cursor.link - 1 };
            let (low, high) = range(cursor.row);
            let low = low.max(DEAD + 1);
            while at != NONE && at >= self.floor {
                if rows.len() >= limit {
                    cursor.link = at + 1;
                    return true;
                }
                let link = self.links[at as usize];
                if link.tag == tag && low <= link.time && link.time <= high {
                    rows.push(cursor.row as u32);
                    found.push(at);
                    if want == Want::One {
                        break;
                    }
                }
                at = link.next;
            }
            cursor.row += 1;
            cursor.link = 0;
        }
        false
    }
}

/// Few bits in tests, so that different keys become candidates of each other.
fn tag(hash: u64) -> u32 {
    if cfg!(test) { hash as u32 & 3 } else { (hash ^ (hash >> 32)) as u32 }
}
