//! The rows of each key in order of time, for the lookups of an ASOF join.

use arrow::array::ArrayRef;
use datafusion::common::HashMap;

use super::chains::NONE;
use super::consolidate::encode_keys;
use crate::error::Result;
use crate::time::{EventTime, Watermark};

#[derive(Default)]
pub(super) struct Versions {
    ids: HashMap<Box<[u8]>, u32>,
    /// The versions of each key, ascending in time; times differ.
    of: Vec<Vec<Version>>,
    /// The key of each slot.
    owners: Vec<u32>,
}

#[derive(Clone, Copy)]
pub(super) struct Version {
    pub(super) time: EventTime,
    pub(super) slot: u32,
}

impl Versions {
    pub(super) fn bytes(&self) -> usize {
        let lists: usize = self.of.iter().map(|list| list.capacity() * size_of::<Version>() + size_of_val(list)).sum();
        // An entry of the map, with about as many bytes for its key.
        lists + self.owners.capacity() * 4 + self.ids.capacity() * 48
    }

    /// Adds rows; the first one's slot follows all slots added before. Of two rows with the same key and time the later one
    /// replaces the earlier: returns the slots of replaced rows.
    pub(super) fn add(&mut self, keys: &[ArrayRef], versions: &[Version]) -> Result<Vec<u32>> {
        let mut replaced = Vec::new();
        let rows = if keys.is_empty() { None } else { Some(encode_keys(keys)?) };
        for (row, &version) in versions.iter().enumerate() {
            let key = rows.as_ref().map_or(&[][..], |rows| rows.row(row).data());
            let id = match self.ids.get(key) {
                Some(&id) => id,
                None => {
                    let id = self.of.len() as u32;
                    self.ids.insert(key.into(), id);
                    self.of.push(Vec::new());
                    id
                }
            };
            self.owners.push(id);
            let list = &mut self.of[id as usize];
            let place = list.partition_point(|present| present.time <= version.time);
            match place.checked_sub(1).and_then(|before| list.get_mut(before)) {
                Some(same) if same.time == version.time => {
                    replaced.push(same.slot);
                    *same = version;
                }
                _ => list.insert(place, version),
            }
        }
        Ok(replaced)
    }

    /// For each row of the keys the slot of the newest version before its time (or at it, if `or_equal`); [`NONE`] if there
    /// is none.
    pub(super) fn newest(&self, keys: &[ArrayRef], times: &[i64], or_equal: bool) -> Result<Vec<u32>> {
        let rows = if keys.is_empty() { None } else { Some(encode_keys(keys)?) };
        let find = |(row, &time): (usize, &i64)| {
            let time = EventTime(time);
            let key = rows.as_ref().map_or(&[][..], |rows| rows.row(row).data());
            let list = self.ids.get(key).map(|&id| &self.of[id as usize])?;
            let end = list.partition_point(|version| version.time < time || (or_equal && version.time == time));
            end.checked_sub(1).map(|last| list[last].slot)
        };
        Ok(times.iter().enumerate().map(|row| find(row).unwrap_or(NONE)).collect())
    }

    /// For the keys that own `slots`: drops all versions below `cutoff` except the newest one; returns the slots of dropped
    /// versions.
    pub(super) fn prune(&mut self, slots: &[u32], cutoff: Watermark) -> Vec<u32> {
        let mut dropped = Vec::new();
        for &slot in slots {
            let list = &mut self.of[self.owners[slot as usize] as usize];
            let old = list.partition_point(|version| version.time.is_below(cutoff));
            dropped.extend(list.drain(..old.saturating_sub(1)).map(|version| version.slot));
        }
        dropped
    }

    /// Applies new slot numbers.
    pub(super) fn renumber(&mut self, renumbered: &[u32]) {
        for version in self.of.iter_mut().flatten() {
            version.slot = renumbered[version.slot as usize];
        }
        let mut numbers = renumbered.iter();
        self.owners.retain(|_| numbers.next().is_some_and(|&number| number != NONE));
    }
}
