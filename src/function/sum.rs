//! `sum` of whole numbers and DECIMALs that never wraps, as DataFusion's does. Everything else is DataFusion's.
//!
//! A sum that does not fit is [`NO_BIGINT`] or [`NO_DECIMAL`], in states and results, and stays one that does not fit. The plan above
//! the aggregate makes an error of it ([`crate::evaluate::in_range`]).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, FieldRef, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator, Operator,
    ReversedUDAF, SetMonotonicity, Signature,
};

use crate::evaluate::{NO_BIGINT, NO_DECIMAL, plus};

/// The function.
pub fn checked_sum() -> AggregateUDF {
    AggregateUDF::from(CheckedSum { inner: Sum::new() })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    inner: Sum,
}

/// The argument of a sum, of the types whose sums may not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    /// 38 digits, so many of them behind the point.
    Decimal(i8),
}

impl Kind {
    fn of(args: &AccumulatorArgs<'_>) -> Option<Self> {
        match args.return_field.data_type() {
            DataType::Int64 => Some(Self::Whole),
            DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale) => Some(Self::Decimal(*scale)),
            _ => None,
        }
    }

    /// Calls `each` with every number and its place.
    fn for_each(self, values: &ArrayRef, mut each: impl FnMut(usize, i128)) {
        match self {
            Self::Whole => {
                let values = values.as_primitive::<Int64Type>();
                match values.null_count() {
                    0 => values.values().iter().enumerate().for_each(|(row, value)| each(row, i128::from(*value))),
                    _ => values
                        .iter()
                        .enumerate()
                        .for_each(|(row, value)| value.into_iter().for_each(|value| each(row, value.into()))),
                }
            }
            Self::Decimal(_) => {
                let values = values.as_primitive::<Decimal128Type>();
                for (row, value) in values.iter().enumerate() {
                    value.into_iter().for_each(|value| each(row, value));
                }
            }
        }
    }

    /// A sum out of a state.
    fn kept(self, sum: i128) -> i128 {
        if self == Self::Whole && sum == i128::from(NO_BIGINT) { NO_DECIMAL } else { sum }
    }

    /// The sum as states and results have it.
    fn keep(self, sum: i128) -> i128 {
        match self {
            Self::Whole => i64::try_from(sum).unwrap_or(NO_BIGINT).into(),
            Self::Decimal(_) => sum,
        }
    }

    fn scalar(self, sum: Option<i128>) -> ScalarValue {
        match self {
            Self::Whole => ScalarValue::Int64(sum.map(|sum| sum as i64)),
            Self::Decimal(scale) => ScalarValue::Decimal128(sum, DECIMAL128_MAX_PRECISION, scale),
        }
    }

    fn array(self, sums: impl Iterator<Item = Option<i128>>) -> ArrayRef {
        match self {
            Self::Whole => Arc::new(sums.map(|sum| sum.map(|sum| sum as i64)).collect::<Int64Array>()),
            Self::Decimal(scale) => {
                let kind = DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale);
                Arc::new(sums.collect::<Decimal128Array>().with_data_type(kind))
            }
        }
    }
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match (Kind::of(&args), args.is_distinct) {
            (Some(kind), false) => Ok(Box::new(ExactSum::new(kind))),
            (Some(kind), true) => Ok(Box::new(DistinctSum { kind, values: self.inner.accumulator(args)? })),
            (None, _) => self.inner.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        match Kind::of(&args) {
            Some(kind) => Ok(Box::new(ExactSums { kind, sums: Vec::new(), seen: Vec::new() })),
            None => self.inner.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match Kind::of(&args).filter(|_| !args.is_distinct) {
            Some(kind) => Ok(Box::new(ExactSum::new(kind))),
            None => self.inner.create_sliding_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        argument: &Expr,
        op: Operator,
        literal: &Expr,
        argument_is_left: bool,
    ) -> Result<Option<Expr>> {
        self.inner.simplify_expr_op_literal(function, argument, op, literal, argument_is_left)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }
}

/// The sum of one group or frame.
#[derive(Debug)]
struct ExactSum {
    kind: Kind,
    sum: i128,
    count: u64,
}

impl ExactSum {
    fn new(kind: Kind) -> Self {
        Self { kind, sum: 0, count: 0 }
    }

    fn sum(&self) -> Option<i128> {
        (self.count > 0).then_some(self.sum)
    }
}

impl Accumulator for ExactSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Self { kind, sum, count } = self;
        kind.for_each(&values[0], |_, value| {
            *sum = plus(*sum, value);
            *count += 1;
        });
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Self { kind, sum, count } = self;
        kind.for_each(&values[0], |_, value| {
            *sum = plus(*sum, -value);
            *count -= 1;
        });
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let Self { kind, sum, count } = self;
        kind.for_each(&states[0], |_, value| {
            *sum = plus(*sum, kind.kept(value));
            *count += 1;
        });
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.kind.scalar(self.sum().map(|sum| self.kind.keep(sum))))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of the different values.
#[derive(Debug)]
struct DistinctSum {
    kind: Kind,
    /// DataFusion's: its state is a list of the values.
    values: Box<dyn Accumulator>,
}

impl Accumulator for DistinctSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut all = ExactSum::new(self.kind);
        for state in self.values.state()? {
            if let ScalarValue::List(list) = state {
                all.update_batch(&[Arc::clone(list.values())])?;
            }
        }
        all.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn size(&self) -> usize {
        self.values.size()
    }
}

/// The sums of groups.
#[derive(Debug)]
struct ExactSums {
    kind: Kind,
    sums: Vec<i128>,
    /// `true` if the group had a value.
    seen: Vec<bool>,
}

impl ExactSums {
    fn reach(&mut self, total: usize) {
        self.sums.resize(total, 0);
        self.seen.resize(total, false);
    }

    fn take(&mut self, emit_to: EmitTo) -> impl Iterator<Item = Option<i128>> {
        let (sums, seen) = (emit_to.take_needed(&mut self.sums), emit_to.take_needed(&mut self.seen));
        sums.into_iter().zip(seen).map(|(sum, seen)| seen.then_some(sum))
    }
}

impl GroupsAccumulator for ExactSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.reach(total);
        let Self { kind, sums, seen } = self;
        let passes = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        kind.for_each(&values[0], |row, value| {
            if passes(row) {
                let group = groups[row];
                sums[group] = plus(sums[group], value);
                seen[group] = true;
            }
        });
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let kind = self.kind;
        Ok(kind.array(self.take(emit_to).map(|sum| sum.map(|sum| kind.keep(sum)))))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.reach(total);
        let Self { kind, sums, seen } = self;
        kind.for_each(&values[0], |row, value| {
            let group = groups[row];
            sums[group] = plus(sums[group], kind.kept(value));
            seen[group] = true;
        });
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut kept = vec![None; values[0].len()];
        let passes = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        self.kind.for_each(&values[0], |row, value| kept[row] = Some(value).filter(|_| passes(row)));
        Ok(vec![self.kind.array(kept.into_iter())])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: &[Option<i64>]) -> Vec<ArrayRef> {
        vec![Arc::new(Int64Array::from(values.to_vec()))]
    }

    #[test]
    fn sums_of_groups_fit_or_fail() {
        let mut sums = ExactSums { kind: Kind::Whole, sums: Vec::new(), seen: Vec::new() };
        sums.update_batch(&column(&[Some(i64::MAX), Some(1), None, Some(-5)]), &[0, 1, 2, 0], None, 3).unwrap();
        let found = sums.evaluate(EmitTo::All).unwrap();
        assert_eq!(found.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(i64::MAX - 5), Some(1), None]));
        sums.update_batch(&column(&[Some(i64::MAX), Some(1)]), &[0, 0], None, 1).unwrap();
        assert_eq!(sums.evaluate(EmitTo::All).unwrap().as_primitive::<Int64Type>().values(), &[NO_BIGINT]);
    }

    #[test]
    fn a_frame_may_pass_beyond_the_range_and_come_back() {
        let mut sum = ExactSum::new(Kind::Whole);
        sum.update_batch(&column(&[Some(i64::MAX), Some(7), None])).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(NO_BIGINT)));
        sum.retract_batch(&column(&[Some(7), None])).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(i64::MAX)));
        sum.retract_batch(&column(&[Some(i64::MAX)])).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(None));
    }

    #[test]
    fn a_sum_that_does_not_fit_is_kept_as_one_and_stays_one() {
        for kind in [Kind::Whole, Kind::Decimal(0)] {
            let most = if kind == Kind::Whole { i64::MAX.into() } else { 10_i128.pow(38) - 1 };
            let new = || ExactSums { kind, sums: Vec::new(), seen: Vec::new() };
            let mut sums = new();
            sums.update_batch(&[kind.array([Some(most), Some(most), Some(1)].into_iter())], &[0, 0, 1], None, 2)
                .unwrap();
            let state = sums.state(EmitTo::All).unwrap();
            let mut merged = new();
            merged.merge_batch(&state, &[0, 1], 2).unwrap();
            merged.merge_batch(&[kind.array([Some(-5), Some(2)].into_iter())], &[0, 1], 2).unwrap();
            let none = if kind == Kind::Whole { NO_BIGINT.into() } else { NO_DECIMAL };
            assert_eq!(&merged.evaluate(EmitTo::All).unwrap(), &kind.array([Some(none), Some(3)].into_iter()));
        }
    }
}
