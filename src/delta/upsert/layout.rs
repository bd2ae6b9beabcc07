//! The choice of files that an epoch rewrites. Pure: sizes in, file numbers out.
//!
//! Files grow in tiers, each about eight times the one below, as in a size-tiered log-structured merge tree: when eight of a
//! tier have gathered in a partition they become one of the next. So a row is rewritten about once per tier on its way
//! to a full file, and there are at most seven files a tier. A file is rewritten for its dead rows alone when they are half of
//! it and enough bytes to be worth a file; in smaller ones they wait until the tier is folded. What is not necessary in this very epoch is bounded by a budget of bytes.

use std::collections::{BTreeMap, BTreeSet};

/// Files of one tier that become one of the next.
const FANOUT: usize = 8;
/// Parts of a full file that dead rows must take up before a file is rewritten for their sake.
const WORN_PARTS: u64 = 32;

/// Sizes by which upserts lay out files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpsertPolicy {
    /// Bytes after which a file is full.
    pub target: u64,
    /// True when old rows are marked in deletion vectors; else every file that holds one is rewritten.
    pub vectors: bool,
}

impl UpsertPolicy {
    /// The policy for files of this size.
    pub fn new(target: u64, vectors: bool) -> Self {
        Self { target: target.max(1), vectors }
    }
}

/// A file as it would be after the epoch's changes.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub id: u32,
    /// Its partition.
    pub group: &'a [u8],
    pub rows: u64,
    pub dead: u64,
    pub bytes: u64,
    /// `true` if the epoch's changes make rows of it dead.
    pub touched: bool,
}

impl Candidate<'_> {
    /// Bytes of the rows that are not dead.
    fn live_bytes(&self) -> u64 {
        let rows = self.rows.max(1);
        (u128::from(self.bytes) * u128::from(rows - self.dead.min(rows)) / u128::from(rows)) as u64
    }

    /// `true` if its dead rows are worth a rewrite.
    fn is_worn(&self, policy: UpsertPolicy) -> bool {
        self.dead * 2 >= self.rows && self.bytes - self.live_bytes().min(self.bytes) >= policy.target / WORN_PARTS
    }

    fn tier(&self) -> u32 {
        self.live_bytes().max(1).ilog2() / FANOUT.ilog2()
    }
}

/// The files to rewrite: those that must be, and those whose turn it is.
pub fn rewrites(files: &[Candidate<'_>], policy: UpsertPolicy) -> BTreeSet<u32> {
    let must = |file: &Candidate<'_>| file.dead >= file.rows || (file.touched && !policy.vectors);
    let mut chosen: BTreeSet<u32> = files.iter().filter(|file| must(file)).map(|file| file.id).collect();
    let mut budget = policy.target;
    let mut tiers: BTreeMap<(u32, &[u8]), Vec<&Candidate<'_>>> = BTreeMap::new();
    for file in files.iter().filter(|file| !chosen.contains(&file.id) && file.live_bytes() < policy.target / 2) {
        tiers.entry((file.tier(), file.group)).or_default().push(file);
    }
    for mut tier in tiers.into_values().filter(|tier| tier.len() >= FANOUT) {
        tier.sort_by_key(|file| (file.live_bytes(), file.id));
        let mut fitting = Vec::new();
        for file in tier {
            if file.live_bytes() > budget {
                break;
            }
            budget -= file.live_bytes();
            fitting.push(file.id);
        }
        if fitting.len() > 1 {
            chosen.extend(fitting);
        }
    }
    let mut worn: Vec<_> = files.iter().filter(|f| !chosen.contains(&f.id) && f.is_worn(policy)).collect();
    worn.sort_by_key(|file| (file.live_bytes(), file.id));
    for file in worn {
        // A file larger than the budget has its turn when little of it is left.
        let is_due = file.live_bytes() <= budget || (budget == policy.target && file.dead * 4 >= file.rows * 3);
        if is_due {
            budget = budget.saturating_sub(file.live_bytes());
            chosen.insert(file.id);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn file(id: u32, bytes: u64) -> Candidate<'static> {
        Candidate { id, group: b"", rows: 1000, dead: 0, bytes, touched: false }
    }

    fn chosen(files: &[Candidate<'_>], vectors: bool) -> Vec<u32> {
        rewrites(files, UpsertPolicy::new(1024 * KIB, vectors)).into_iter().collect()
    }

    #[test]
    fn untouched_files_of_different_sizes_are_left_alone() {
        let files: Vec<_> = (0..8).map(|n| file(n, KIB << n)).collect();
        assert_eq!(chosen(&files, true), [0_u32; 0]);
    }

    #[test]
    fn eight_files_of_a_tier_become_one() {
        let files: Vec<_> = (0..8).map(|n| file(n, 10 * KIB)).collect();
        assert_eq!(chosen(&files[..7], true), [0_u32; 0]);
        assert_eq!(chosen(&files, true), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn files_of_different_partitions_stay_apart() {
        let other = |n| Candidate { group: if n % 2 == 0 { b"a" } else { b"b" }, ..file(n, 10 * KIB) };
        assert_eq!(chosen(&(0..14).map(other).collect::<Vec<_>>(), true), [0_u32; 0]);
    }

    #[test]
    fn without_vectors_a_touched_file_is_rewritten_with_them_only_when_half_is_dead() {
        let touched = |dead| [Candidate { dead, touched: true, ..file(1, 600 * KIB) }];
        assert_eq!(chosen(&touched(1), false), [1]);
        assert_eq!(chosen(&touched(1), true), [0_u32; 0]);
        assert_eq!(chosen(&touched(500), true), [1]);
    }

    #[test]
    fn a_file_without_live_rows_goes_whatever_it_costs() {
        let files = [Candidate { dead: 1000, touched: true, ..file(1, 1 << 40) }];
        assert_eq!(chosen(&files, true), [1]);
    }

    #[test]
    fn what_can_wait_keeps_within_the_budget() {
        let worn: Vec<_> = (0..4).map(|n| Candidate { dead: 500, touched: true, ..file(n, 800 * KIB) }).collect();
        assert_eq!(chosen(&worn, true), [0, 1]);
        let small: Vec<_> = (0..20).map(|n| file(n, 100 * KIB)).collect();
        assert_eq!(chosen(&small, true).len(), 10);
    }

    #[test]
    fn a_small_file_is_not_rewritten_for_its_dead_rows_alone() {
        let worn = |n| Candidate { dead: 900, touched: true, ..file(n, 10 * KIB) };
        assert_eq!(chosen(&(0..7).map(worn).collect::<Vec<_>>(), true), [0_u32; 0]);
        assert_eq!(chosen(&(0..8).map(worn).collect::<Vec<_>>(), true).len(), 8);
    }

    #[test]
    fn a_file_larger_than_the_budget_waits_until_little_is_left() {
        let huge = |dead| [Candidate { dead, touched: true, ..file(1, 1 << 30) }];
        assert_eq!(chosen(&huge(700), true), [0_u32; 0]);
        assert_eq!(chosen(&huge(750), true), [1]);
    }
}
