//! One hash aggregation: distinct keys and their accumulators.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Field, Schema};
use datafusion::error::Result;
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::call::{Accumulators, Arguments, Calls};

/// Groups in the order their keys were first seen.
pub(super) struct Groups {
    keys: Keys,
    accumulators: Accumulators,
    /// The group of each row of the last update.
    pub ids: Vec<usize>,
}

/// Distinct keys.
enum Keys {
    /// No key columns: one group, once a row was seen.
    Single {
        seen: bool,
    },
    Many(Box<dyn GroupValues>),
}

impl Groups {
    /// No groups yet.
    pub fn new(keys: &[Field], calls: &Calls) -> Result<Self> {
        Ok(Self { keys: Keys::new(keys)?, accumulators: calls.accumulators()?, ids: Vec::new() })
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        match &self.keys {
            Keys::Single { seen } => usize::from(*seen),
            Keys::Many(values) => values.len(),
        }
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        let keys = match &self.keys {
            Keys::Single { .. } => 0,
            Keys::Many(values) => values.size(),
        };
        keys + self.accumulators.iter().map(|accumulator| accumulator.size()).sum::<usize>()
            + self.ids.capacity() * size_of::<usize>()
    }

    /// Adds rows.
    pub fn update(&mut self, keys: &[ArrayRef], arguments: &Arguments, rows: usize) -> Result<()> {
        self.intern(keys, rows)?;
        let groups = self.len();
        let inputs = arguments.values.iter().zip(&arguments.filters);
        for (accumulator, (values, filter)) in self.accumulators.iter_mut().zip(inputs) {
            accumulator.update_batch(values, &self.ids, filter.as_ref(), groups)?;
        }
        Ok(())
    }

    /// Finds the group of each row, into `ids`.
    fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> Result<()> {
        match &mut self.keys {
            Keys::Single { seen } => {
                *seen |= rows > 0;
                self.ids.clear();
                self.ids.resize(rows, 0);
                Ok(())
            }
            Keys::Many(values) => values.intern(keys, &mut self.ids),
        }
    }

    /// Takes the keys out.
    pub fn take_keys(&mut self) -> Result<Vec<ArrayRef>> {
        match &mut self.keys {
            Keys::Single { seen } => {
                *seen = false;
                Ok(Vec::new())
            }
            Keys::Many(values) => {
                let groups = values.len();
                let keys = values.emit(EmitTo::All)?;
                values.clear_shrink(groups);
                Ok(keys)
            }
        }
    }

    /// Takes out the states of all groups; there must be at least one.
    pub fn take_states(&mut self, calls: &Calls) -> Result<Vec<ArrayRef>> {
        // Accumulators should be empty after they have emitted everything; new ones certainly are.
        calls.states(&mut std::mem::replace(&mut self.accumulators, calls.accumulators()?))
    }

    /// Takes out the results of all groups; there must be at least one.
    pub fn take_results(&mut self, calls: &Calls) -> Result<Vec<ArrayRef>> {
        calls.results(&mut self.accumulators)
    }

    /// Replaces the key columns. The new keys must be as distinct as those taken out before: every group keeps its number.
    pub fn rekey(&mut self, keys: &[Field], columns: &[ArrayRef], groups: usize) -> Result<()> {
        self.keys = Keys::new(keys)?;
        self.intern(columns, groups)
    }
}

impl Keys {
    fn new(keys: &[Field]) -> Result<Self> {
        if keys.is_empty() {
            return Ok(Self::Single { seen: false });
        }
        let schema = Arc::new(Schema::new(keys.to_vec()));
        Ok(Self::Many(new_group_values(schema, &GroupOrdering::None)?))
    }
}
