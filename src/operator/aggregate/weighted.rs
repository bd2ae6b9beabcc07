//! COUNT, SUM and AVG over rows with weights: a row of weight w counts w times; it is retracted by adding it with weight -w.
//!
//! The last argument is always the weight. Integers and decimals are exact (a sum that does not fit is marked as such).
//! Floating-point sums are kept in two parts (Knuth's two-sum), so that added values can be subtracted again without residue
//! for about 106 bits; values that are not finite are counted separately, because they could not be subtracted.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, UInt64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, Float64Type, Int64Type, UInt64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use super::call::{Call, Factory, native_accumulator};
use crate::evaluate::{NO_BIGINT, NO_DECIMAL, plus};

/// The call as a weighted one; `None` if it has no weighted form.
pub(super) fn weighted(
    function: &Arc<AggregateFunctionExpr>,
    filter: Option<&Arc<dyn PhysicalExpr>>,
    weight: &Arc<dyn PhysicalExpr>,
) -> Result<Option<Call>> {
    if function.is_distinct() {
        return Ok(None);
    }
    let result = function.field().data_type().clone();
    let (make, state): (Factory, _) = match function.fun().name() {
        "count" if result == DataType::Int64 => (Arc::new(|| Ok(Box::new(Count::default()) as _)), vec![count_field()]),
        "sum" if sum_type(&result) => {
            let sum = result.clone();
            let finish = Finish::Sum;
            (Arc::new(move || Ok(Box::new(Sum::new(&sum, finish.clone())) as _)), Sum::fields(&result))
        }
        "avg" => {
            // The state of DataFusion's average is a count and a sum: it computes the result from ours.
            let fields = function.state_fields()?;
            let [_, sum] = fields.as_slice() else { return Ok(None) };
            let sum = sum.data_type().clone();
            if !sum_type(&sum) {
                return Ok(None);
            }
            let state = Sum::fields(&sum);
            let finish = Finish::Average(Arc::clone(function));
            (Arc::new(move || Ok(Box::new(Sum::new(&sum, finish.clone())) as _)), state)
        }
        _ => return Ok(None),
    };
    let mut arguments = function.expressions();
    arguments.push(Arc::clone(weight));
    let filter = filter.cloned();
    Ok(Some(Call {
        arguments,
        filter,
        make,
        state,
        result,
        plain: false,
        distinct: false,
        fickle: false,
        idempotent: false,
        native: None,
    }))
}

/// Counts the rows of a group.
pub(super) fn row_count(weight: &Arc<dyn PhysicalExpr>) -> Call {
    Call {
        arguments: vec![Arc::clone(weight), Arc::clone(weight)],
        filter: None,
        make: Arc::new(|| Ok(Box::new(Count::default()) as _)),
        state: vec![count_field()],
        result: DataType::Int64,
        plain: true,
        distinct: false,
        fickle: false,
        idempotent: false,
        native: None,
    }
}

fn count_field() -> Field {
    Field::new("count", DataType::Int64, false)
}

fn sum_type(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::UInt64 | DataType::Float64 | DataType::Decimal128(..))
}

/// Calls `each` with row, group and weight of the rows that pass the filter and whose arguments are all valid.
fn for_each(
    values: &[ArrayRef],
    groups: &[usize],
    filter: Option<&BooleanArray>,
    mut each: impl FnMut(usize, usize, i64),
) -> Result<()> {
    let Some((weights, arguments)) = values.split_last() else {
        return Err(DataFusionError::Internal("a weighted aggregate was given no weights".to_owned()));
    };
    let weights = weights.as_primitive::<Int64Type>().values();
    let nulls = arguments
        .iter()
        .fold(None, |nulls, argument| NullBuffer::union(nulls.as_ref(), argument.logical_nulls().as_ref()));
    let passes = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
    for (row, (group, weight)) in groups.iter().zip(weights).enumerate() {
        if passes(row) && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
            each(row, *group, *weight);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Count {
    counts: Vec<i64>,
}

impl GroupsAccumulator for Count {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        ids: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.counts.resize(groups, 0);
        for_each(values, ids, filter, |_, group, weight| self.counts[group] += weight)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from(emit_to.take_needed(&mut self.counts))))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], ids: &[usize], groups: usize) -> Result<()> {
        self.counts.resize(groups, 0);
        for (group, count) in ids.iter().zip(values[0].as_primitive::<Int64Type>().values()) {
            self.counts[*group] += count;
        }
        Ok(())
    }

    fn convert_to_state(&self, _values: &[ArrayRef], _filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        Err(DataFusionError::Internal("rows with weights are never passed on unaggregated".to_owned()))
    }

    fn size(&self) -> usize {
        self.counts.capacity() * size_of::<i64>()
    }
}

/// Computes the result from the sum and the count of valid values.
#[derive(Clone)]
enum Finish {
    Sum,
    Average(Arc<AggregateFunctionExpr>),
}

struct Sum {
    data_type: DataType,
    finish: Finish,
    /// Weighted number of values.
    counts: Vec<i64>,
    sums: Sums,
}

enum Sums {
    Signed(Vec<i128>),
    Unsigned(Vec<u64>),
    Decimal(Vec<i128>),
    Float(Vec<FloatSum>),
}

/// `high + low` of the finite values, and the counts of the others.
#[derive(Default, Clone, Copy)]
struct FloatSum {
    high: f64,
    low: f64,
    nan: i64,
    positive: i64,
    negative: i64,
}

impl FloatSum {
    fn add(&mut self, value: f64, weight: i64) {
        if value.is_nan() {
            self.nan += weight;
        } else if value == f64::INFINITY {
            self.positive += weight;
        } else if value == f64::NEG_INFINITY {
            self.negative += weight;
        } else if weight.abs() == 1 {
            self.add_finite(value * weight as f64, 0.0);
        } else {
            let product = value * weight as f64;
            self.add_finite(product, value.mul_add(weight as f64, -product));
        }
    }

    fn add_finite(&mut self, high: f64, low: f64) {
        let sum = self.high + high;
        let part = sum - self.high;
        let error = (self.high - (sum - part)) + (high - part);
        let low = self.low + low + error;
        self.high = sum + low;
        self.low = low - (self.high - sum);
    }

    fn value(&self) -> f64 {
        if self.nan > 0 || (self.positive > 0 && self.negative > 0) {
            f64::NAN
        } else if self.positive > 0 {
            f64::INFINITY
        } else if self.negative > 0 {
            f64::NEG_INFINITY
        } else {
            self.high
        }
    }
}

/// Sums as they are stored and emitted; [`NO_BIGINT`] where a sum does not fit.
fn whole(sums: Vec<i128>) -> Vec<i64> {
    sums.into_iter().map(|sum| i64::try_from(sum).unwrap_or(NO_BIGINT)).collect()
}

impl Sum {
    fn new(data_type: &DataType, finish: Finish) -> Self {
        let sums = match data_type {
            DataType::Float64 => Sums::Float(Vec::new()),
            DataType::UInt64 => Sums::Unsigned(Vec::new()),
            DataType::Decimal128(..) => Sums::Decimal(Vec::new()),
            _ => Sums::Signed(Vec::new()),
        };
        Self { data_type: data_type.clone(), finish, counts: Vec::new(), sums }
    }

    fn fields(data_type: &DataType) -> Vec<Field> {
        let mut fields = vec![count_field(), Field::new("sum", data_type.clone(), false)];
        if *data_type == DataType::Float64 {
            fields.push(Field::new("sum_low", DataType::Float64, false));
            fields
                .extend(["nan", "infinity", "negative_infinity"].map(|name| Field::new(name, DataType::Int64, false)));
        }
        fields
    }

    fn reach(&mut self, groups: usize) {
        self.counts.resize(groups, 0);
        match &mut self.sums {
            Sums::Signed(sums) => sums.resize(groups, 0),
            Sums::Unsigned(sums) => sums.resize(groups, 0),
            Sums::Decimal(sums) => sums.resize(groups, 0),
            Sums::Float(sums) => sums.resize(groups, FloatSum::default()),
        }
    }

    /// The sums as one column, null where there was no value, and the counts.
    fn take(&mut self, emit_to: EmitTo) -> Result<(ArrayRef, Vec<i64>)> {
        let counts = emit_to.take_needed(&mut self.counts);
        let nulls = Some(NullBuffer::from_iter(counts.iter().map(|count| *count != 0)));
        let sums: ArrayRef = match &mut self.sums {
            Sums::Signed(sums) => Arc::new(Int64Array::new(whole(emit_to.take_needed(sums)).into(), nulls)),
            Sums::Unsigned(sums) => Arc::new(UInt64Array::new(emit_to.take_needed(sums).into(), nulls)),
            Sums::Decimal(sums) => Arc::new(
                Decimal128Array::new(emit_to.take_needed(sums).into(), nulls).with_data_type(self.data_type.clone()),
            ),
            Sums::Float(sums) => {
                let values: Vec<f64> = emit_to.take_needed(sums).iter().map(FloatSum::value).collect();
                Arc::new(Float64Array::new(values.into(), nulls))
            }
        };
        Ok((sums, counts))
    }
}

impl GroupsAccumulator for Sum {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        ids: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.reach(groups);
        let argument = cast(&values[0], &self.data_type)?;
        let counts = &mut self.counts;
        match &mut self.sums {
            Sums::Signed(sums) => {
                let argument = argument.as_primitive::<Int64Type>().values();
                for_each(values, ids, filter, |row, group, weight| {
                    counts[group] += weight;
                    sums[group] = plus(sums[group], i128::from(argument[row]) * i128::from(weight));
                })
            }
            Sums::Unsigned(sums) => {
                let argument = argument.as_primitive::<UInt64Type>().values();
                for_each(values, ids, filter, |row, group, weight| {
                    counts[group] += weight;
                    sums[group] = sums[group].wrapping_add(argument[row].wrapping_mul(weight as u64));
                })
            }
            Sums::Decimal(sums) => {
                let argument = argument.as_primitive::<Decimal128Type>().values();
                for_each(values, ids, filter, |row, group, weight| {
                    counts[group] += weight;
                    let added = argument[row].checked_mul(i128::from(weight)).unwrap_or(NO_DECIMAL);
                    sums[group] = plus(sums[group], added);
                })
            }
            Sums::Float(sums) => {
                let argument = argument.as_primitive::<Float64Type>().values();
                for_each(values, ids, filter, |row, group, weight| {
                    counts[group] += weight;
                    sums[group].add(argument[row], weight);
                })
            }
        }
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (sums, counts) = self.take(emit_to)?;
        let Finish::Average(function) = &self.finish else { return Ok(sums) };
        let ids: Vec<usize> = (0..counts.len()).collect();
        // Groups without values have null for both.
        let counts = counts.into_iter().map(|count| (count != 0).then_some(count.max(0) as u64));
        let mut average = native_accumulator(function)?;
        average.merge_batch(&[Arc::new(counts.collect::<UInt64Array>()), sums], &ids, ids.len())?;
        average.evaluate(EmitTo::All)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let counts = emit_to.take_needed(&mut self.counts);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(counts))];
        match &mut self.sums {
            Sums::Signed(sums) => columns.push(Arc::new(Int64Array::from(whole(emit_to.take_needed(sums))))),
            Sums::Unsigned(sums) => columns.push(Arc::new(UInt64Array::from(emit_to.take_needed(sums)))),
            Sums::Decimal(sums) => columns.push(Arc::new(
                Decimal128Array::from(emit_to.take_needed(sums)).with_data_type(self.data_type.clone()),
            )),
            Sums::Float(sums) => {
                let sums = emit_to.take_needed(sums);
                for part in [|sum: &FloatSum| sum.high, |sum: &FloatSum| sum.low] {
                    columns.push(Arc::new(sums.iter().map(part).map(Some).collect::<Float64Array>()));
                }
                for part in [|sum: &FloatSum| sum.nan, |sum: &FloatSum| sum.positive, |sum: &FloatSum| sum.negative] {
                    columns.push(Arc::new(sums.iter().map(part).map(Some).collect::<Int64Array>()));
                }
            }
        }
        Ok(columns)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], ids: &[usize], groups: usize) -> Result<()> {
        self.reach(groups);
        for (group, count) in ids.iter().zip(values[0].as_primitive::<Int64Type>().values()) {
            self.counts[*group] += count;
        }
        match &mut self.sums {
            Sums::Signed(sums) => {
                for (group, sum) in ids.iter().zip(values[1].as_primitive::<Int64Type>().values()) {
                    let sum = if *sum == NO_BIGINT { NO_DECIMAL } else { i128::from(*sum) };
                    sums[*group] = plus(sums[*group], sum);
                }
            }
            Sums::Unsigned(sums) => {
                for (group, sum) in ids.iter().zip(values[1].as_primitive::<UInt64Type>().values()) {
                    sums[*group] = sums[*group].wrapping_add(*sum);
                }
            }
            Sums::Decimal(sums) => {
                for (group, sum) in ids.iter().zip(values[1].as_primitive::<Decimal128Type>().values()) {
                    sums[*group] = plus(sums[*group], *sum);
                }
            }
            Sums::Float(sums) => {
                let [high, low] = [1, 2].map(|column: usize| values[column].as_primitive::<Float64Type>().values());
                let [nan, positive, negative] =
                    [3, 4, 5].map(|column: usize| values[column].as_primitive::<Int64Type>().values());
                for (row, group) in ids.iter().enumerate() {
                    let sum = &mut sums[*group];
                    sum.add_finite(high[row], low[row]);
                    sum.nan += nan[row];
                    sum.positive += positive[row];
                    sum.negative += negative[row];
                }
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, _values: &[ArrayRef], _filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        Err(DataFusionError::Internal("rows with weights are never passed on unaggregated".to_owned()))
    }

    fn size(&self) -> usize {
        let sums = match &self.sums {
            Sums::Signed(sums) => sums.capacity() * size_of::<i128>(),
            Sums::Unsigned(sums) => sums.capacity() * size_of::<u64>(),
            Sums::Decimal(sums) => sums.capacity() * size_of::<i128>(),
            Sums::Float(sums) => sums.capacity() * size_of::<FloatSum>(),
        };
        sums + self.counts.capacity() * size_of::<i64>()
    }
}
