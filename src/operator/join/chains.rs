//! A hash multimap from hash to row numbers, as chains of links: 16 bytes a row and one cache line a step.
//!
//! Only 32 bits of the hash are kept, so what is found are candidates: whoever asks compares the keys. Rows are numbered without gaps;
//! a row is taken out by giving it the time [`DEAD`], which no range of times contains.

/// The end of a chain, and "no row".
pub(super) const NONE: u32 = u32::MAX;

/// The time of a row that is no more.
pub(super) const DEAD: i64 = i64::MIN;

#[derive(Clone, Copy)]
struct Link {
    time: i64,
    tag: u32,
    next: u32,
}

/// What a search is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Every candidate of a row.
    All,
    /// One candidate of each row.
    One,
}

/// Where a search stopped.
#[derive(Default)]
pub(super) struct Cursor {
    row: usize,
    /// The next link of `row` plus one; 0 = the chain is not begun.
    link: u32,
}

#[derive(Default)]
pub(super) struct Chains {
    links: Vec<Link>,
    /// A power of two; empty at first.
    heads: Vec<u32>,
}

impl Chains {
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>() + self.heads.capacity() * size_of::<u32>()
    }

    pub(super) fn time(&self, row: u32) -> i64 {
        self.links[row as usize].time
    }

    pub(super) fn is_live(&self, row: u32) -> bool {
        self.time(row) != DEAD
    }

    pub(super) fn kill(&mut self, row: u32) {
        self.links[row as usize].time = DEAD;
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

    /// Keeps the live rows, renumbered in the same order.
    pub(super) fn compact(&mut self) {
        self.links.retain(|link| link.time != DEAD);
        self.links.shrink_to(self.links.len() * 2);
        self.heads = Vec::new();
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

    /// Appends to `rows` and `found` the pairs of a row number of `hashes` and a candidate whose time is within the row's
    /// range (inclusive), until there are `limit`. True when there may be more.
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
            while at != NONE {
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

/// Few bits in tests, so that different keys are candidates for each other.
fn tag(hash: u64) -> u32 {
    if cfg!(test) { hash as u32 & 3 } else { (hash ^ (hash >> 32)) as u32 }
}
