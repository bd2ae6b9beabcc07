//! Which closing values share a hash aggregation.
//!
//! A window with many rows has one of its own: closing it is emitting it and dropping it. Windows with a few rows each would cost more to
//! set up, look up and emit than their rows do, so neighbours share a [`Pane`] until it has as many rows as are worth one. A pane some of
//! whose windows are complete is parted; windows that turned out to have many rows then get their own.

use std::collections::BTreeMap;

use arrow::array::{Array, Int64Array};
use arrow::compute::max;

use crate::error::Result;

use super::pane::{Columns, Pane, Rest, Shape};
use super::times::{Rows, split};

/// So many rows are worth a pane.
pub(super) const WORTHWHILE: usize = 1024;

/// Panes in the order of their values; ranges do not overlap.
pub(super) struct Panes {
    /// By the smallest closing value of its rows.
    panes: BTreeMap<i64, Ranged>,
    worthwhile: usize,
}

/// A pane and the values that belong to it.
#[derive(Default)]
pub(super) struct Ranged {
    pub pane: Pane,
    /// The greatest closing value of its rows.
    newest: i64,
    /// The greatest value whose rows belong here; not below `newest`.
    reach: i64,
    /// Rows taken in, of its values that are not complete; roughly.
    rows: usize,
    /// There is something to tell since the last snapshot.
    pub touched: bool,
}

impl Panes {
    /// No panes. New values join the one below them while it has fewer rows than `worthwhile`.
    pub fn new(worthwhile: usize) -> Self {
        Self { panes: BTreeMap::new(), worthwhile }
    }

    /// Which rows belong to which pane, by its smallest value. Values that belong to none are given one.
    pub fn divide(&mut self, values: &[i64]) -> Vec<(i64, Rows)> {
        let mut homes = Vec::with_capacity(values.len());
        let mut homeless = self.find(values, &mut homes);
        if !homeless.is_empty() {
            homeless.sort_unstable();
            self.settle_in(&homeless);
            homes.clear();
            self.find(values, &mut homes);
        }
        split(&homes)
    }

    /// The pane of each value, by its smallest, as far as there is one; the other values.
    fn find(&self, values: &[i64], homes: &mut Vec<i64>) -> Vec<i64> {
        let mut homeless = Vec::new();
        // Rows come almost in order: most belong where the one before belonged.
        let mut last = (0, -1);
        for value in values {
            if !(last.0..=last.1).contains(value) {
                match self.panes.range(..=*value).next_back() {
                    Some((first, pane)) if pane.reach >= *value => last = (*first, pane.reach),
                    _ => {
                        homeless.push(*value);
                        continue;
                    }
                }
            }
            homes.push(last.0);
        }
        homeless
    }

    /// Gives a pane to values, ascending, one per row, that belong to none.
    fn settle_in(&mut self, values: &[i64]) {
        // The pane that is being filled, and with how many rows.
        let mut filled = (None, 0);
        for same in values.chunk_by(|a, b| a == b) {
            let value = same[0];
            if let Some((first, below)) = self.panes.range_mut(..value).next_back() {
                let coming = if filled.0 == Some(*first) { filled.1 } else { 0 };
                if below.rows + coming < self.worthwhile {
                    below.reach = value;
                    filled = (Some(*first), coming + same.len());
                    continue;
                }
                if coming > 0 {
                    // What lies between belongs to one of the two, or stragglers would make a crowd of small panes.
                    below.reach = value - 1;
                }
            }
            self.panes.insert(value, Ranged { newest: value, reach: value, ..Ranged::default() });
            filled = (Some(value), same.len());
        }
    }

    /// The pane whose smallest value is `first`, to take rows with these values in.
    pub fn enter(&mut self, first: i64, values: &Int64Array) -> &mut Ranged {
        let pane = self.panes.entry(first).or_default();
        pane.newest = pane.newest.max(max(values).unwrap_or(first));
        pane.reach = pane.reach.max(pane.newest);
        pane.rows += values.len();
        pane
    }

    /// Takes out what is complete, in ascending order of the values from pane to pane.
    pub fn take_complete(&mut self, shape: &Shape, watermark: i64) -> Result<Vec<Columns>> {
        let is_complete = |value: i64| shape.closing.is_complete(value, watermark);
        let mut taken = Vec::new();
        while let Some(entry) = self.panes.first_entry() {
            if !is_complete(*entry.key()) {
                break;
            }
            let mut ranged = entry.remove();
            if is_complete(ranged.newest) {
                taken.push(ranged.pane.finish(shape)?);
                continue;
            }
            let (columns, rest) = ranged.pane.finish_some(shape, is_complete)?;
            let groups = columns.0[shape.closing.key].len() + rest.0.len();
            ranged.rows = ranged.rows * rest.0.len() / groups.max(1);
            taken.push(columns);
            self.put_back(shape, ranged, &rest)?;
            break;
        }
        Ok(taken)
    }

    /// What is left of a pane: as it is, or in parts if they are worth it.
    fn put_back(&mut self, shape: &Shape, ranged: Ranged, rest: &Rest) -> Result<()> {
        let Some((first, _)) = rest.0.first() else { return Ok(()) };
        let values: Vec<&[(i64, u32)]> = rest.0.chunk_by(|a, b| a.0 == b.0).collect();
        if ranged.rows <= 2 * self.worthwhile || values.len() == 1 {
            self.panes.insert(*first, ranged);
            return Ok(());
        }
        let together = (self.worthwhile * values.len() / ranged.rows).max(1);
        let rows = ranged.rows / values.len();
        let parts: Vec<_> = values.chunks(together).collect();
        for (number, part) in parts.iter().enumerate() {
            let slots: Vec<u32> = part.iter().flat_map(|groups| groups.iter().map(|(_, slot)| *slot)).collect();
            let (first, newest) = (part[0][0].0, part[part.len() - 1][0].0);
            let reach = parts.get(number + 1).map_or(ranged.reach, |next| next[0][0].0 - 1);
            let pane = ranged.pane.part(shape, &slots)?;
            let rows = rows * part.len();
            self.panes.insert(first, Ranged { pane, newest, reach, rows, touched: ranged.touched });
        }
        Ok(())
    }

    /// The smallest value that has rows.
    pub fn first(&self) -> Option<i64> {
        self.panes.keys().next().copied()
    }

    /// All panes.
    pub fn iter(&self) -> impl Iterator<Item = &Pane> {
        self.panes.values().map(|ranged| &ranged.pane)
    }

    /// Those with something to tell.
    pub fn touched(&mut self) -> impl Iterator<Item = &mut Ranged> {
        self.panes.values_mut().filter(|ranged| ranged.touched)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    /// Where the values go: per pane, its smallest value and the values that it takes.
    fn enter(panes: &mut Panes, values: &[i64]) -> Vec<(i64, Vec<i64>)> {
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        let parts = panes.divide(values).into_iter().map(|(first, rows)| {
            let values = rows.of(&column).unwrap();
            let values = values.as_primitive::<Int64Type>();
            panes.enter(first, values);
            (first, values.values().to_vec())
        });
        parts.collect()
    }

    #[test]
    fn values_of_few_rows_share_a_pane_and_those_of_many_have_their_own() {
        let mut panes = Panes::new(4);
        let first = enter(&mut panes, &[10, 12, 12, 11, 13, 20, 20, 20, 20, 20, 21, 10]);
        assert_eq!(first, [(10, vec![10, 12, 12, 11, 10]), (13, vec![13, 20, 20, 20, 20, 20]), (21, vec![21])]);
        assert_eq!(enter(&mut panes, &[21, 22, 22, 24, 30]), [(21, vec![21, 22, 22, 24]), (30, vec![30])]);
    }

    #[test]
    fn stragglers_go_where_their_neighbours_are() {
        let mut panes = Panes::new(2);
        enter(&mut panes, &[10, 10, 20, 20, 30, 30]);
        assert_eq!(enter(&mut panes, &[15, 29, 12, 20]), [(10, vec![15, 12]), (20, vec![29, 20])]);
        // Before all others, and behind a last one that is full.
        assert_eq!(enter(&mut panes, &[31, 5, 32]), [(5, vec![5]), (31, vec![31, 32])]);
        assert_eq!(panes.first(), Some(5));
    }
}
