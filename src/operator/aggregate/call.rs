//! Aggregate calls of weir's GROUP BY: their arguments, accumulators and state columns.
//!
//! A call is either DataFusion's own (any built-in or user-defined aggregate) or one of [`super::weighted`]'s, which count
//! rows by their weight. Both are [`GroupsAccumulator`]s here: `update_batch` takes rows, `state` returns columns,
//! `merge_batch` takes such columns, and `evaluate` gives the result.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, new_empty_array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field};
use arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use super::distinct;
use super::tolerant::{Tolerant, plain_accumulator};
use crate::evaluate::out_of_range;

/// Makes an empty accumulator.
pub(super) type Factory = Arc<dyn Fn() -> Result<Box<dyn GroupsAccumulator>> + Send + Sync>;

/// One aggregate.
#[derive(Clone)]
pub(super) struct Call {
    /// Arguments, then the expressions of its ORDER BY (and the weight, for weighted calls).
    pub arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub make: Factory,
    pub state: Vec<Field>,
    pub result: DataType,
    /// The result is the (only) state column.
    pub plain: bool,
    /// The state is a list of distinct values and the result their number: see [`super::distinct`].
    pub distinct: bool,
    /// Evaluating the same state twice may give different results (where they depend on the order of a hash table), so
    /// results are kept in state.
    pub fickle: bool,
    /// Adding a row twice changes nothing.
    pub idempotent: bool,
    /// DataFusion's function, unless the call is a weighted one.
    pub native: Option<Arc<AggregateFunctionExpr>>,
}

/// Arguments and filters of the calls, evaluated over some rows.
pub(super) struct Arguments {
    pub values: Vec<Vec<ArrayRef>>,
    pub filters: Vec<Option<BooleanArray>>,
}

/// The calls of one GROUP BY, in order.
#[derive(Clone, Default)]
pub(super) struct Calls(pub Vec<Call>);

/// Their accumulators.
pub(super) type Accumulators = Vec<Box<dyn GroupsAccumulator>>;

impl Call {
    /// DataFusion's own implementation.
    pub fn native(function: &Arc<AggregateFunctionExpr>, filter: Option<Arc<dyn PhysicalExpr>>) -> Result<Self> {
        let mut arguments = function.expressions();
        arguments.extend(function.order_bys().iter().map(|order| Arc::clone(&order.expr)));
        let captured = Arc::clone(function);
        let make: Factory = Arc::new(move || native_accumulator(&captured));
        let state = function.state_fields()?;
        let result = function.field().data_type().clone();
        let name = function.fun().name();
        let plain = !function.is_distinct()
            && matches!(name, "count" | "sum" | "min" | "max")
            && state.len() == 1
            && *state[0].data_type() == result;
        Ok(Self {
            arguments,
            filter,
            make,
            state: state.iter().map(|field| field.as_ref().clone()).collect(),
            result,
            plain,
            distinct: distinct::is_list(name, function.is_distinct(), &state),
            fickle: !is_steady(name, function.is_distinct()),
            idempotent: function.is_distinct()
                || matches!(name, "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or" | "approx_distinct"),
            native: Some(Arc::clone(function)),
        })
    }

    /// The result over no rows.
    pub fn empty(&self) -> Result<ArrayRef> {
        match &self.native {
            Some(function) => fit(function.create_accumulator()?.evaluate()?.to_array()?, &self.result),
            None => Ok(new_null_array(&self.result, 1)),
        }
    }

    /// The state columns of all groups of an accumulator; there must be at least one.
    fn states(&self, accumulator: &mut dyn GroupsAccumulator) -> Result<Vec<ArrayRef>> {
        let states = accumulator.state(EmitTo::All)?;
        if states.len() != self.state.len() {
            let (given, wanted) = (states.len(), self.state.len());
            return Err(DataFusionError::Internal(format!("{given} state columns, not {wanted}")));
        }
        states.into_iter().zip(&self.state).map(|(state, field)| fit(state, field.data_type())).collect()
    }

    /// Merges the states `before` and `since`; `ids` names the groups of the former, then of the latter.
    fn merge(&self, before: &[ArrayRef], since: &[ArrayRef], ids: &[usize], groups: usize) -> Result<Vec<ArrayRef>> {
        let columns = before.iter().zip(since).map(|(before, since)| concat(&[before.as_ref(), since.as_ref()]));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        let mut accumulator = (self.make)()?;
        accumulator.merge_batch(&columns, ids, groups)?;
        self.states(accumulator.as_mut())
    }

    /// Merges a state of distinct values without accumulators, where possible.
    fn unite(&self, before: &[ArrayRef], known: &[usize], since: &[ArrayRef]) -> Option<ArrayRef> {
        match (before, since) {
            ([before], [since]) if self.distinct => distinct::merge(before, known, since),
            _ => None,
        }
    }

    /// Results of groups from their states, which are left unchanged.
    fn result_of(&self, states: &[ArrayRef], groups: usize) -> Result<ArrayRef> {
        if self.plain {
            return Ok(Arc::clone(&states[0]));
        }
        if groups == 0 {
            return Ok(new_empty_array(&self.result));
        }
        if let Some(counts) = states.first().filter(|_| self.distinct).and_then(distinct::count) {
            return Ok(counts);
        }
        let ids: Vec<usize> = (0..groups).collect();
        let mut accumulator = (self.make)()?;
        accumulator.merge_batch(states, &ids, groups)?;
        fit(accumulator.evaluate(EmitTo::All)?, &self.result)
    }
}

impl Arguments {
    /// The arguments with `change` applied to every array, for example to select rows.
    pub fn map(&self, change: impl Fn(&ArrayRef) -> Result<ArrayRef>) -> Result<Self> {
        let values = self.values.iter().map(|values| values.iter().map(&change).collect()).collect::<Result<_>>()?;
        let filter = |filter: &Option<BooleanArray>| match filter {
            None => Ok(None),
            Some(filter) => {
                change(&(Arc::new(filter.clone()) as ArrayRef)).map(|filter| Some(filter.as_boolean().clone()))
            }
        };
        let filters = self.filters.iter().map(filter).collect::<Result<_>>()?;
        Ok(Self { values, filters })
    }
}

impl Calls {
    /// Evaluates arguments and filters.
    pub fn arguments(&self, batch: &RecordBatch) -> Result<Arguments> {
        let array = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(batch.num_rows());
        let mut values = Vec::with_capacity(self.0.len());
        let mut filters = Vec::with_capacity(self.0.len());
        for call in &self.0 {
            values.push(call.arguments.iter().map(array).collect::<Result<Vec<_>>>()?);
            filters.push(
                call.filter.as_ref().map(|filter| array(filter).map(|mask| mask.as_boolean().clone())).transpose()?,
            );
        }
        Ok(Arguments { values, filters })
    }

    /// Empty accumulators.
    pub fn accumulators(&self) -> Result<Accumulators> {
        self.0.iter().map(|call| (call.make)()).collect()
    }

    /// The types of all state columns.
    pub fn state_types(&self) -> Vec<DataType> {
        self.0.iter().flat_map(|call| call.state.iter().map(|field| field.data_type().clone())).collect()
    }

    /// Merges states: `before` holds those of the groups `known`, `since` those of all groups.
    pub fn merge(
        &self,
        before: &[ArrayRef],
        known: &[usize],
        since: &[ArrayRef],
        groups: usize,
    ) -> Result<Vec<ArrayRef>> {
        // One call with an entry for every group: accumulators may mistake a group below `groups` without an entry for one
        // that has a value. Earlier states come first, for aggregates that depend on the order of their input.
        let ids: Vec<usize> = known.iter().copied().chain(0..groups).collect();
        let mut merged = Vec::with_capacity(since.len());
        for (call, (before, since)) in self.0.iter().zip(self.split(before).zip(self.split(since))) {
            match call.unite(before, known, since) {
                Some(states) => merged.push(states),
                None => merged.extend(call.merge(before, since, &ids, groups)?),
            }
        }
        Ok(merged)
    }

    /// Takes the states out of accumulators with at least one group.
    pub fn states(&self, accumulators: &mut Accumulators) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::new();
        for (call, accumulator) in self.0.iter().zip(accumulators) {
            columns.extend(call.states(accumulator.as_mut())?);
        }
        Ok(columns)
    }

    /// Takes the results out of accumulators with at least one group.
    pub fn results(&self, accumulators: &mut Accumulators) -> Result<Vec<ArrayRef>> {
        let result = |(call, accumulator): (&Call, &mut Box<dyn GroupsAccumulator>)| {
            fit(accumulator.evaluate(EmitTo::All)?, &call.result)
        };
        self.0.iter().zip(accumulators).map(result).collect()
    }

    /// The results of states.
    pub fn results_of(&self, states: &[ArrayRef], groups: usize) -> Result<Vec<ArrayRef>> {
        self.0.iter().zip(self.split(states)).map(|(call, states)| call.result_of(states, groups)).collect()
    }

    /// The states of each call.
    fn split<'a>(&'a self, states: &'a [ArrayRef]) -> impl Iterator<Item = &'a [ArrayRef]> {
        let mut start = 0;
        self.0.iter().map(move |call| {
            let end = start + call.state.len();
            let own = &states[start..end];
            start = end;
            own
        })
    }
}

/// DataFusion's vectorised accumulator where available, otherwise one accumulator per group.
pub(super) fn native_accumulator(function: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>> {
    match out_of_range(function.fun().name(), function.field().data_type()) {
        // SUM reports by itself that its result does not fit.
        Some(instead) if function.fun().name() != "sum" => Ok(Box::new(Tolerant::new(function, instead)?)),
        _ => plain_accumulator(function),
    }
}

/// `true` if a function is known to give the same result for the same state, always.
fn is_steady(name: &str, distinct: bool) -> bool {
    match name {
        "count" | "min" | "max" | "median" | "bool_and" | "bool_or" | "bit_and" | "bit_or" | "bit_xor" => true,
        "sum"
        | "avg"
        | "stddev"
        | "stddev_pop"
        | "var"
        | "var_pop"
        | "first_value"
        | "last_value"
        | "nth_value"
        | "array_agg"
        | "string_agg"
        | "approx_distinct"
        | "approx_median"
        | "approx_percentile_cont"
        | "corr"
        | "covar_samp"
        | "covar_pop" => !distinct,
        _ => false,
    }
}

/// Casts an array to its declared type; they may differ in names and nullability of nested fields.
fn fit(array: ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    if array.data_type() == data_type {
        return Ok(array);
    }
    Ok(arrow::compute::cast(&array, data_type)?)
}
