//! Aggregate calls as they run here: what they read, how their accumulators are made, what their state looks like.
//!
//! A call is either DataFusion's own (any built-in or user-defined aggregate) or one of [`super::weighted`]'s, which count rows by
//! their weight. From here on both are just [`GroupsAccumulator`]s: rows go in with `update_batch`, `state` comes out as columns, goes
//! back in with `merge_batch`, and `evaluate` gives the result.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, new_empty_array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field};
use arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};

use super::distinct;
use super::tolerant::Tolerant;
use crate::evaluate::out_of_range;

/// Makes an empty accumulator.
pub(super) type Factory = Arc<dyn Fn() -> Result<Box<dyn GroupsAccumulator>> + Send + Sync>;

/// One aggregate.
#[derive(Clone)]
pub(super) struct Call {
    /// Arguments, then what its ORDER BY orders by (and the weight, for weighted ones).
    pub arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub make: Factory,
    pub state: Vec<Field>,
    pub result: DataType,
    /// The result is the (only) state column.
    pub plain: bool,
    /// The state is a list of distinct values and the result how many: see [`super::distinct`].
    pub distinct: bool,
    /// Evaluating the same state twice may give different results (an order that is a hash table's), so results are remembered.
    pub fickle: bool,
    /// Giving a row twice changes nothing.
    pub idempotent: bool,
    /// DataFusion's function, unless the call is a weighted one.
    pub native: Option<Arc<AggregateFunctionExpr>>,
}

/// What the calls read of some rows.
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

    /// The state columns of groups, out of an accumulator of at least one.
    fn states(&self, accumulator: &mut dyn GroupsAccumulator) -> Result<Vec<ArrayRef>> {
        let states = accumulator.state(EmitTo::All)?;
        if states.len() != self.state.len() {
            let (given, wanted) = (states.len(), self.state.len());
            return Err(DataFusionError::Internal(format!("{given} state columns, not {wanted}")));
        }
        states.into_iter().zip(&self.state).map(|(state, field)| fit(state, field.data_type())).collect()
    }

    /// Merges states before and since, of the groups that `ids` names one after the other.
    fn merge(&self, before: &[ArrayRef], since: &[ArrayRef], ids: &[usize], groups: usize) -> Result<Vec<ArrayRef>> {
        let columns = before.iter().zip(since).map(|(before, since)| concat(&[before.as_ref(), since.as_ref()]));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        let mut accumulator = (self.make)()?;
        accumulator.merge_batch(&columns, ids, groups)?;
        self.states(accumulator.as_mut())
    }

    /// The only state column merged without accumulators, where that can be done.
    fn unite(&self, before: &[ArrayRef], known: &[usize], since: &[ArrayRef]) -> Option<ArrayRef> {
        match (before, since) {
            ([before], [since]) if self.distinct => distinct::merge(before, known, since),
            _ => None,
        }
    }

    /// Results of groups from their states; consumes nothing that the caller keeps.
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
    /// The arguments of some of the rows.
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

    /// The states of all groups from those of some of them, `known`, before, and of all of them since.
    pub fn merge(
        &self,
        before: &[ArrayRef],
        known: &[usize],
        since: &[ArrayRef],
        groups: usize,
    ) -> Result<Vec<ArrayRef>> {
        // One call that mentions every group: accumulators may take a group that was announced but not mentioned for one that has a
        // value. What was before goes first, for aggregates that keep the order of their input.
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

    /// Takes the states out of accumulators of at least one group.
    pub fn states(&self, accumulators: &mut Accumulators) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::new();
        for (call, accumulator) in self.0.iter().zip(accumulators) {
            columns.extend(call.states(accumulator.as_mut())?);
        }
        Ok(columns)
    }

    /// Takes the results out of accumulators of at least one group.
    pub fn results(&self, accumulators: &mut Accumulators) -> Result<Vec<ArrayRef>> {
        let result = |(call, accumulator): (&Call, &mut Box<dyn GroupsAccumulator>)| {
            fit(accumulator.evaluate(EmitTo::All)?, &call.result)
        };
        self.0.iter().zip(accumulators).map(result).collect()
    }

    /// The results that states stand for.
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

/// DataFusion's vectorised accumulator where there is one, else one accumulator per group.
pub(super) fn native_accumulator(function: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>> {
    match out_of_range(function.fun().name(), function.field().data_type()) {
        // A sum says by itself that it does not fit.
        Some(instead) if function.fun().name() != "sum" => Ok(Box::new(Tolerant::new(function, instead)?)),
        _ => plain_accumulator(function),
    }
}

pub(super) fn plain_accumulator(function: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>> {
    if function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    let function = Arc::clone(function);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
}

/// Whether a function is known to give the same result for the same state, always.
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

/// Gives an array the type that was announced for it; they may differ in names and nullability of nested fields.
fn fit(array: ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    if array.data_type() == data_type {
        return Ok(array);
    }
    Ok(arrow::compute::cast(&array, data_type)?)
}
