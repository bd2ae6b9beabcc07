//! Assigns closing values to hash aggregations.
//!
//! A window with many rows has its own: closing it means emitting it and dropping it. Windows with few rows each would cost
//! more to set up, look up and emit than their rows do, so neighbours share a [`Pane`] until it has `worthwhile` rows. When
//! some windows of a pane are complete, the pane is divided; windows that turned out to have many rows then get their own.

use std::collections::BTreeMap;

use arrow::array::{Array, Int64Array};
use arrow::compute::max;

use crate::error::Result;
use crate::time::{EventTime, Watermark};

use super::pane::{Columns, Pane, Rest, Shape};
use super::times::{Rows, split};

/// Number of rows that justify a pane of their own.
pub(super) const WORTHWHILE: usize = 1024;

/// Panes in the order of their values; ranges do not overlap.
pub(super) struct Panes {
    /// Panes by the smallest closing value of their rows.
    panes: BTreeMap<i64, Ranged>,
    worthwhile: usize,
}

/// A pane and the range of its values.
#[derive(Default)]
pub(super) struct Ranged {
    pub pane: Pane,
    /// The greatest closing value of its rows.
    newest: i64,
    /// The greatest value that is assigned to this pane; not below `newest`.
    reach: i64,
    /// Approximate number of rows taken in for its values that are not complete.
    rows: usize,
    /// It has changes since the last snapshot.
    pub touched: bool,
}

impl Panes {
    /// No panes. New values join the pane below them while it has fewer rows than `worthwhile`.
    pub fn new(worthwhile: usize) -> Self {
        Self { panes: BTreeMap::new(), worthwhile }
    }

    /// The rows of each pane, by the pane's smallest value. Values that belong to no pane are assigned one.
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

    /// Pushes the pane of each value, by its smallest value, to `homes`; returns the values without a pane.
    fn find(&self, values: &[i64], homes: &mut Vec<i64>) -> Vec<i64> {
        let mut homeless = Vec::new();
        // Rows arrive almost in order: most belong to the same pane as the row before.
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

    /// Assigns panes to values without one; `values` is ascending, one per row.
    fn settle_in(&mut self, values: &[i64]) {
        // The pane that is being filled, and the number of rows for it.
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
                    // Values in between belong to the pane below: otherwise stragglers would create many small panes.
                    below.reach = value - 1;
                }
            }
            self.panes.insert(value, Ranged { newest: value, reach: value, ..Ranged::default() });
            filled = (Some(value), same.len());
        }
    }

    /// The pane whose smallest value is `first`, to which rows with these values will be added.
    pub fn enter(&mut self, first: i64, values: &Int64Array) -> &mut Ranged {
        let pane = self.panes.entry(first).or_default();
        pane.newest = pane.newest.max(max(values).unwrap_or(first));
        pane.reach = pane.reach.max(pane.newest);
        pane.rows += values.len();
        pane
    }

    /// Takes out the complete groups, pane by pane, ascending by value.
    pub fn take_complete(&mut self, shape: &Shape, watermark: Watermark) -> Result<Vec<Columns>> {
        let is_complete = |value: i64| shape.closing.is_complete(EventTime(value), watermark);
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

    /// Reinserts the rest of a pane: as it is, or divided if its rows justify that.
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
    pub fn first(&self) -> Option<EventTime> {
        self.panes.keys().next().map(|first| EventTime(*first))
    }

    /// All panes.
    pub fn iter(&self) -> impl Iterator<Item = &Pane> {
        self.panes.values().map(|ranged| &ranged.pane)
    }

    /// Panes with changes since the last snapshot.
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

    /// The assignment of values: per pane, its smallest value and the values added to it.
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
        // Before all panes, and behind a last pane that is full.
        assert_eq!(enter(&mut panes, &[31, 5, 32]), [(5, vec![5]), (31, vec![31, 32])]);
        assert_eq!(panes.first(), Some(EventTime(5)));
    }
}
