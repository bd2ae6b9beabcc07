//! Aggregates over frames that move, in batch: those of DataFusion that cannot take values back are computed again for every row.
//! Sums of doubles can, but for NaN and the infinities: while a frame holds one, they are computed again, too. An average that does not fit
//! its type is the value that stands for one (see [`crate::evaluate::in_range`]).
//!
//! Pipelines have rolling forms of their own; this makes queries, VERIFY and training take the same SQL.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, FieldRef, Float64Type, SchemaRef};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, SetMonotonicity,
    Signature, StatisticsArgs,
};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};

use crate::evaluate::{is_of_row, out_of_range};

/// Those that have no sliding form for some types of argument, or some values.
const NAMES: [&str; 31] = [
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "string_agg",
    "array_agg",
    "median",
    "percentile_cont",
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "corr",
    "covar_pop",
    "covar_samp",
    "regr_slope",
    "regr_intercept",
    "regr_r2",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_sxx",
    "regr_syy",
    "regr_sxy",
    "sum",
    "avg",
    "var",
    "var_pop",
    "stddev",
    "stddev_pop",
];

/// The aggregates of a session that need it, with a form for every frame.
pub fn aggregates_over_frames(state: &SessionState) -> Vec<AggregateUDF> {
    let known = NAMES.iter().filter_map(|name| state.aggregate_functions().get(*name));
    known.map(|function| AggregateUDF::new_from_impl(OverFrames { inner: function.as_ref().clone() })).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OverFrames {
    inner: AggregateUDF,
}

impl OverFrames {
    /// The value that stands for a result that does not fit; a sum gives it by itself.
    fn instead(&self, args: &AccumulatorArgs<'_>) -> Option<ScalarValue> {
        match self.inner.name() {
            "sum" => None,
            name => out_of_range(name, args.return_field.data_type()),
        }
    }
}

/// The function itself but for its form over moving frames.
impl AggregateUDFImpl for OverFrames {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        self.inner.return_field(arg_fields)
    }

    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let instead = self.instead(&args);
        Ok(Fitting::around(self.inner.accumulator(args)?, instead))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.instead(&args).is_none() && self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let instead = self.instead(&args);
        let remade = Remade {
            function: self.inner.clone(),
            return_field: Arc::clone(&args.return_field),
            schema: Arc::new(args.schema.clone()),
            ignore_nulls: args.ignore_nulls,
            order_bys: args.order_bys.to_vec(),
            is_reversed: args.is_reversed,
            name: args.name.to_owned(),
            is_distinct: args.is_distinct,
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        };
        let sliding = self.inner.create_sliding_accumulator(args)?;
        let frame = Recompute { remade, held: VecDeque::new(), gone: 0 };
        let accumulator: Box<dyn Accumulator> =
            match (sliding.supports_retract_batch(), frame.remade.return_field.data_type().is_floating()) {
                (false, _) => Box::new(frame),
                (true, true) => Box::new(Finite { sliding, frame, wild: 0 }),
                (true, false) => sliding,
            };
        Ok(Fitting::around(accumulator, instead))
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let ordered = self.inner.clone().with_beneficial_ordering(beneficial_ordering)?;
        Ok(ordered.map(|inner| Arc::new(Self { inner }) as Arc<dyn AggregateUDFImpl>))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        self.inner.simplify()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_udf()
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn value_from_stats(&self, statistics_args: &StatisticsArgs) -> Option<ScalarValue> {
        self.inner.value_from_stats(statistics_args)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// An accumulator with a value for results that do not fit their type.
#[derive(Debug)]
struct Fitting {
    inner: Box<dyn Accumulator>,
    instead: ScalarValue,
}

impl Fitting {
    fn around(inner: Box<dyn Accumulator>, instead: Option<ScalarValue>) -> Box<dyn Accumulator> {
        match instead {
            Some(instead) => Box::new(Self { inner, instead }),
            None => inner,
        }
    }
}

impl Accumulator for Fitting {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(values)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        match self.inner.evaluate() {
            Err(error) if is_of_row(&error) => Ok(self.instead.clone()),
            result => result,
        }
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}

/// The arguments of an accumulator, owned.
#[derive(Debug)]
struct Remade {
    function: AggregateUDF,
    return_field: FieldRef,
    schema: SchemaRef,
    ignore_nulls: bool,
    order_bys: Vec<PhysicalSortExpr>,
    is_reversed: bool,
    name: String,
    is_distinct: bool,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl Remade {
    fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        self.function.accumulator(self.args())
    }

    fn sliding(&self) -> Result<Box<dyn Accumulator>> {
        self.function.create_sliding_accumulator(self.args())
    }

    fn args(&self) -> AccumulatorArgs<'_> {
        AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: self.ignore_nulls,
            order_bys: &self.order_bys,
            is_reversed: self.is_reversed,
            name: &self.name,
            is_distinct: self.is_distinct,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        }
    }
}

/// The values of a frame, aggregated anew for each row.
#[derive(Debug)]
struct Recompute {
    remade: Remade,
    /// As they came; of the first, `gone` rows have left the frame.
    held: VecDeque<Vec<ArrayRef>>,
    gone: usize,
}

impl Recompute {
    /// Gives the frame's values to an accumulator.
    fn feed(&self, accumulator: &mut dyn Accumulator) -> Result<()> {
        for (place, values) in self.held.iter().enumerate() {
            if place > 0 || self.gone == 0 {
                accumulator.update_batch(values)?;
                continue;
            }
            let rest: Vec<_> = values.iter().map(|values| values.slice(self.gone, values.len() - self.gone)).collect();
            accumulator.update_batch(&rest)?;
        }
        Ok(())
    }
}

impl Accumulator for Recompute {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if values.first().is_some_and(|values| !values.is_empty()) {
            self.held.push_back(values.to_vec());
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.gone += values.first().map_or(0, |values| values.len());
        while let Some(rows) = self.held.front().and_then(|first| first.first()).map(|values| values.len())
            && rows <= self.gone
        {
            self.gone -= rows;
            self.held.pop_front();
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut accumulator = self.remade.accumulator()?;
        self.feed(accumulator.as_mut())?;
        accumulator.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.held.iter().flatten().map(|values| values.get_array_memory_size()).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("`{}` over a moving frame has no partial state", self.remade.name)
    }

    fn merge_batch(&mut self, _states: &[ArrayRef]) -> Result<()> {
        exec_err!("`{}` over a moving frame has no partial state", self.remade.name)
    }
}

/// A form that takes values back, of a frame without NaN and infinities: what these leave in a sum cannot be taken out of it.
#[derive(Debug)]
struct Finite {
    /// Of the frame's values, while there is no wild one among them.
    sliding: Box<dyn Accumulator>,
    frame: Recompute,
    /// The number of values in the frame that are NaN or infinite.
    wild: usize,
}

impl Accumulator for Finite {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.frame.update_batch(values)?;
        self.wild += wild(values);
        if self.wild == 0 { self.sliding.update_batch(values) } else { Ok(()) }
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.frame.retract_batch(values)?;
        if self.wild == 0 {
            return self.sliding.retract_batch(values);
        }
        self.wild = self.wild.saturating_sub(wild(values));
        if self.wild == 0 {
            self.sliding = self.frame.remade.sliding()?;
            self.frame.feed(self.sliding.as_mut())?;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.wild == 0 { self.sliding.evaluate() } else { self.frame.evaluate() }
    }

    fn size(&self) -> usize {
        self.sliding.size() + self.frame.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.frame.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.frame.merge_batch(states)
    }
}

/// The number of values that are NaN or infinite.
fn wild(values: &[ArrayRef]) -> usize {
    let of = |values: &ArrayRef| match values.as_primitive_opt::<Float64Type>() {
        Some(values) => values.iter().flatten().filter(|value| !value.is_finite()).count(),
        None => 0,
    };
    values.iter().map(of).sum()
}
