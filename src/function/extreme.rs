//! `min` and `max` of floats in GROUP BY that do not depend on the order of rows: NaN is greater than every number, as in PostgreSQL.
//!
//! DataFusion's grouped form takes whatever it compares with a NaN, and begins with the greatest finite number. Everything else is
//! DataFusion's.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Float64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};

use crate::equality::one_double;

/// The functions.
pub fn extremes() -> [AggregateUDF; 2] {
    let of = |inner, best| AggregateUDF::from(Extreme { inner, best });
    [of(min_udaf(), Ordering::Less), of(max_udaf(), Ordering::Greater)]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    inner: Arc<AggregateUDF>,
    /// The result of comparing a better value with the best one.
    best: Ordering,
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        match args.return_field.data_type() {
            kind if kind.is_floating() => {
                Ok(Box::new(FloatExtremes { kind: kind.clone(), best: self.best, found: Vec::new() }))
            }
            _ => self.inner.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_udf()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.inner.value_from_stats(statistics)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }
}

/// The least or greatest values of groups.
#[derive(Debug)]
struct FloatExtremes {
    kind: DataType,
    best: Ordering,
    found: Vec<Option<f64>>,
}

impl GroupsAccumulator for FloatExtremes {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.found.resize(total, None);
        let values = cast(&values[0], &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        for (row, (group, value)) in groups.iter().zip(values).enumerate() {
            let passes = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            let Some(value) = value.filter(|_| passes).map(one_double) else { continue };
            let found = &mut self.found[*group];
            if found.is_none_or(|found| value.total_cmp(&found) == self.best) {
                *found = Some(value);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let found: Float64Array = emit_to.take_needed(&mut self.found).into_iter().collect();
        Ok(cast(&found, &self.kind)?)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.update_batch(values, groups, None, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut kept = Self { kind: self.kind.clone(), best: self.best, found: Vec::new() };
        let rows = values[0].len();
        kept.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
        kept.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.found.capacity() * size_of::<Option<f64>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_the_greatest_whatever_comes_first() {
        let nan = f64::NAN;
        for values in [[1.0, nan, 2.0, -0.0], [nan, 2.0, -0.0, 1.0], [-nan, -0.0, 1.0, 2.0]] {
            let values: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
            for (best, wanted) in [(Ordering::Less, 0.0), (Ordering::Greater, nan)] {
                let mut extremes = FloatExtremes { kind: DataType::Float64, best, found: Vec::new() };
                extremes.update_batch(&[Arc::clone(&values)], &[0; 4], None, 2).unwrap();
                let found = extremes.evaluate(EmitTo::All).unwrap();
                assert_eq!(found.as_primitive::<Float64Type>().value(0).to_bits(), wanted.to_bits());
                assert!(found.is_null(1));
            }
        }
    }
}
