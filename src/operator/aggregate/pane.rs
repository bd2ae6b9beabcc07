//! The groups of a range of closing values.
//!
//! Rows are added to `fresh` accumulators. DataFusion's accumulators release their state only as a whole, so at every
//! snapshot the fresh part, which holds only the rows since the last one, is merged into the pane's `settled` rows, which
//! are then written. Without snapshots in between, a pane costs as much as DataFusion's GROUP BY. When some of its values
//! are complete and others are not, the pane is settled too, and the rows of the complete ones are taken out.

use arrow::array::ArrayRef;
use arrow::datatypes::Field;
use datafusion::common::ScalarValue;

use crate::error::Result;
use crate::state::KeyedTable;

use super::call::{Arguments, Calls};
use super::groups::Groups;
use super::times::{ClosingKey, microseconds, raw_times};

/// Properties shared by all panes of an operator.
pub(super) struct Shape {
    pub calls: Calls,
    pub keys: Vec<Field>,
    pub closing: ClosingKey,
}

/// Keys and results, or keys and states, of some groups.
pub(super) type Columns = (Vec<ArrayRef>, Vec<ArrayRef>);

/// One hash aggregation.
#[derive(Default)]
pub(super) struct Pane {
    fresh: Option<Fresh>,
    settled: Option<KeyedTable>,
}

/// Groups since the last snapshot. Time columns of the key that have held one value in every row are not hashed: the closing
/// key is one while there is one value, and mostly so is a window's other bound.
struct Fresh {
    groups: Groups,
    hashed: Vec<usize>,
    constants: Vec<Option<ScalarValue>>,
}

/// The settled groups that remain when the complete ones are taken out: closing value and slot, ascending.
pub(super) struct Rest(pub Vec<(i64, u32)>);

impl Pane {
    /// Adds rows.
    pub fn add(&mut self, shape: &Shape, keys: &[ArrayRef], arguments: &Arguments, rows: usize) -> Result<()> {
        let fresh = match &mut self.fresh {
            Some(fresh) => fresh,
            none => none.insert(Fresh::new(&shape.keys, keys, &shape.calls)?),
        };
        fresh.admit(&shape.keys, keys)?;
        let hashed: Vec<ArrayRef> = fresh.hashed.iter().map(|key| keys[*key].clone()).collect();
        Ok(fresh.groups.update(&hashed, arguments, rows)?)
    }

    /// Restores groups that [`Pane::changes`] reported before.
    pub fn restore(&mut self, shape: &Shape, keys: &[ArrayRef], states: &[ArrayRef], rows: usize) -> Result<()> {
        self.settled(shape)?.restore(keys, states, rows).map(drop)
    }

    /// Keys and states of the groups that changed since the last call.
    pub fn changes(&mut self, shape: &Shape) -> Result<Columns> {
        self.settle(shape)?;
        let settled = self.settled(shape)?;
        let slots = settled.changes()?.upserts;
        Ok((settled.keys(&slots)?, settled.gather(&slots)?))
    }

    /// Keys and results of all groups; the pane is empty afterwards.
    pub fn finish(&mut self, shape: &Shape) -> Result<Columns> {
        if self.settled.is_some() {
            self.settle(shape)?;
        }
        if let Some(settled) = &self.settled {
            let slots = settled.live_slots();
            return Ok((settled.keys(&slots)?, shape.calls.results_of(&settled.gather(&slots)?, slots.len())?));
        }
        match &mut self.fresh {
            Some(fresh) if fresh.groups.len() > 0 => {
                let results = fresh.groups.take_results(&shape.calls)?;
                Ok((fresh.take_keys()?, results))
            }
            _ => Ok((Vec::new(), Vec::new())),
        }
    }

    /// Takes out the groups whose closing value is complete: their keys and results, and the remaining groups.
    pub fn finish_some(&mut self, shape: &Shape, is_complete: impl Fn(i64) -> bool) -> Result<(Columns, Rest)> {
        self.settle(shape)?;
        // Its constant key columns may hold other values from now on.
        self.fresh = None;
        let settled = self.settled(shape)?;
        let slots = settled.live_slots();
        let values = microseconds(&settled.keys(&slots)?[shape.closing.key])?;
        let (mut complete, mut rest) = (Vec::new(), Vec::new());
        for (slot, value) in slots.into_iter().zip(values.values()) {
            match is_complete(*value) {
                true => complete.push(slot),
                false => rest.push((*value, slot)),
            }
        }
        rest.sort_unstable();
        let results = shape.calls.results_of(&settled.gather(&complete)?, complete.len())?;
        let columns = (settled.keys(&complete)?, results);
        settled.forget(&complete)?;
        Ok((columns, Rest(rest)))
    }

    /// Copies these settled groups into a pane of their own. Groups that did not change since [`Pane::changes`] count as
    /// reported there too.
    pub fn part(&self, shape: &Shape, slots: &[u32]) -> Result<Self> {
        let mut part = Self::default();
        let Some(from) = &self.settled else { return Ok(part) };
        let to = part.settled(shape)?;
        let (changed, told): (Vec<u32>, Vec<u32>) = slots.iter().copied().partition(|slot| from.is_changed(*slot));
        to.restore(&from.keys(&told)?, &from.gather(&told)?, told.len())?;
        let new = to.intern(&from.keys(&changed)?, changed.len())?;
        to.put(&new, &from.gather(&changed)?)?;
        Ok(part)
    }

    /// Number of groups; those that changed since they were settled count twice.
    pub fn groups(&self) -> usize {
        self.settled.as_ref().map_or(0, KeyedTable::len) + self.fresh.as_ref().map_or(0, |fresh| fresh.groups.len())
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        let fresh = self.fresh.as_ref().map_or(0, |fresh| fresh.groups.bytes());
        self.settled.as_ref().map_or(0, KeyedTable::bytes) + fresh
    }

    fn settled(&mut self, shape: &Shape) -> Result<&mut KeyedTable> {
        match &mut self.settled {
            Some(table) => Ok(table),
            none => {
                let keys: Vec<_> = shape.keys.iter().map(|key| key.data_type().clone()).collect();
                Ok(none.insert(KeyedTable::new(&keys, &shape.calls.state_types())?))
            }
        }
    }

    /// Merges the fresh part into the settled one.
    fn settle(&mut self, shape: &Shape) -> Result<()> {
        let Some(fresh) = self.fresh.as_mut().filter(|fresh| fresh.groups.len() > 0) else { return Ok(()) };
        let groups = fresh.groups.len();
        let columns = fresh.take_keys()?;
        let mut states = fresh.groups.take_states(&shape.calls)?;
        let settled = self.settled(shape)?;
        let slots = settled.intern(&columns, groups)?;
        let known: Vec<usize> = (0..groups).filter(|group| settled.is_live(slots[*group])).collect();
        if !known.is_empty() {
            let before: Vec<u32> = known.iter().map(|group| slots[*group]).collect();
            states = shape.calls.merge(&settled.gather(&before)?, &known, &states, groups)?;
        }
        settled.put(&slots, &states)
    }
}

impl Fresh {
    /// Treats a time column as constant if it holds one value in all of the first rows.
    fn new(keys: &[Field], columns: &[ArrayRef], calls: &Calls) -> Result<Self> {
        let constants = columns.iter().map(constant).collect::<Result<Vec<_>>>()?;
        let hashed: Vec<usize> = (0..keys.len()).filter(|key| constants[*key].is_none()).collect();
        let fields: Vec<Field> = hashed.iter().map(|key| keys[*key].clone()).collect();
        Ok(Self { groups: Groups::new(&fields, calls)?, hashed, constants })
    }

    /// From now on also hashes the columns that turn out not to be constant.
    fn admit(&mut self, keys: &[Field], columns: &[ArrayRef]) -> Result<()> {
        let mut changed = false;
        let before: Vec<Option<ScalarValue>> = self.constants.clone();
        for (known, column) in self.constants.iter_mut().zip(columns) {
            if known.is_some() && constant(column)? != *known {
                *known = None;
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        let old = std::mem::take(&mut self.hashed);
        self.hashed = (0..keys.len()).filter(|key| self.constants[*key].is_none()).collect();
        let fields: Vec<Field> = self.hashed.iter().map(|key| keys[*key].clone()).collect();
        let groups = self.groups.len();
        let all = assemble(self.groups.take_keys()?, &old, &before, groups)?;
        let columns: Vec<ArrayRef> = self.hashed.iter().map(|key| all[*key].clone()).collect();
        Ok(self.groups.rekey(&fields, &columns, groups)?)
    }

    /// All key columns, of all groups.
    fn take_keys(&mut self) -> Result<Vec<ArrayRef>> {
        let groups = self.groups.len();
        assemble(self.groups.take_keys()?, &self.hashed, &self.constants, groups)
    }
}

/// Puts hashed and constant columns in the order of the keys.
fn assemble(
    columns: Vec<ArrayRef>,
    hashed: &[usize],
    constants: &[Option<ScalarValue>],
    groups: usize,
) -> Result<Vec<ArrayRef>> {
    let mut keys: Vec<Option<ArrayRef>> = vec![None; constants.len()];
    for (column, key) in columns.into_iter().zip(hashed) {
        keys[*key] = Some(column);
    }
    for (key, constant) in keys.iter_mut().zip(constants) {
        if let Some(constant) = constant {
            *key = Some(constant.to_array_of_size(groups)?);
        }
    }
    Ok(keys.into_iter().flatten().collect())
}

/// The value that all rows of a time column hold, if there is one.
fn constant(column: &ArrayRef) -> Result<Option<ScalarValue>> {
    let Some(values) = raw_times(column) else { return Ok(None) };
    let Some(first) = values.first() else { return Ok(None) };
    if column.null_count() > 0 || !values.iter().all(|value| value == first) {
        return Ok(None);
    }
    Ok(Some(ScalarValue::try_from_array(column, 0)?))
}
