//! Averages over many groups, some of which do not fit their type: these get a substitute value, see
//! [`crate::evaluate::in_range`].

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::concat;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use crate::evaluate::is_of_row;

/// DataFusion's accumulator, whose results never fail because a value does not fit.
pub(super) struct Tolerant {
    function: Arc<AggregateFunctionExpr>,
    inner: Box<dyn GroupsAccumulator>,
    instead: ScalarValue,
}

impl Tolerant {
    /// With `instead` as the result of groups that do not fit.
    pub fn new(function: &Arc<AggregateFunctionExpr>, instead: ScalarValue) -> Result<Self> {
        Ok(Self { function: Arc::clone(function), inner: plain_accumulator(function)?, instead })
    }

    fn results(&self, states: &[ArrayRef], groups: usize) -> Result<ArrayRef> {
        let ids: Vec<usize> = (0..groups).collect();
        let mut accumulator = plain_accumulator(&self.function)?;
        accumulator.merge_batch(states, &ids, groups)?;
        accumulator.evaluate(EmitTo::All)
    }
}

impl GroupsAccumulator for Tolerant {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.inner.update_batch(values, groups, filter, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let states = self.inner.state(emit_to)?;
        let groups = states.first().map_or(0, |state| state.len());
        match self.results(&states, groups) {
            Err(error) if is_of_row(&error) && groups > 0 => {}
            results => return results,
        }
        let one = |group: usize| {
            let states: Vec<ArrayRef> = states.iter().map(|state| state.slice(group, 1)).collect();
            match self.results(&states, 1) {
                Err(error) if is_of_row(&error) => self.instead.to_array(),
                result => result,
            }
        };
        let results = (0..groups).map(one).collect::<Result<Vec<_>>>()?;
        Ok(concat(&results.iter().map(AsRef::as_ref).collect::<Vec<_>>())?)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.inner.merge_batch(values, groups, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}

/// DataFusion's accumulator of a function; one by one per group where it has none for all groups.
pub(super) fn plain_accumulator(function: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>> {
    if function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    let function = Arc::clone(function);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
}
