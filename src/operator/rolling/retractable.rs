//! Chooses the aggregates that are computed from bags ([`super::sliding`]): those over DISTINCT values, medians and
//! percentiles.
//!
//! The approximate ones (`approx_distinct`, `approx_median`, `approx_percentile_cont`) are exact here: the rows of a frame
//! are kept in any case, and values could not be removed from a sketch.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, PrimitiveArray, UInt64Array};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Schema};
use datafusion::common::ScalarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::aggregate::utils::DecimalAverager;
use datafusion::physical_expr::expressions::Literal;

use super::bag::{Add, Bag, Distinct, Folded, Value, Xor};
use super::collect::grows;
use super::column::{Kind, decimals_as, floats_as, ints_as, sums_as};
use super::plan::Plan;
use super::ranked::{Digest, DoubleSum, Order, Ranked};
use super::sliding::{Answer, Code, Decimals, Doubles, Finish, Input, Integers, Numbered, Sliding};
use super::summary::double;
use super::view::Function;
use crate::error::{Context, Error, Result};

/// The function computed from bags, if there is one for the aggregate and the argument's type.
pub(super) fn retractable(
    plan: &mut Plan,
    aggregate: &AggregateFunctionExpr,
    filter: Option<&Arc<dyn PhysicalExpr>>,
) -> Result<Option<Box<dyn Function>>> {
    let arguments = aggregate.expressions();
    let Some(argument) = arguments.first() else { return Ok(None) };
    let of = argument.data_type(&plan.input).internal(|| "an argument has no type".to_owned())?;
    let Some(make) = chosen(aggregate, &arguments, &of)? else { return Ok(None) };
    // For compatibility of the state: the arguments and the filter as they are, in this order.
    let references: Vec<usize> = arguments.iter().map(|argument| plan.reference(argument)).collect();
    let filter = filter.map(|filter| plan.reference(filter));
    make(Input { argument: references[0], filter, of }).map(Some)
}

/// `true` if each row of the aggregate, over rows of `input`, costs as much as its frame has rows.
pub(super) fn collects(aggregate: &AggregateFunctionExpr, input: &Schema) -> bool {
    let arguments = aggregate.expressions();
    let of = arguments.first().and_then(|argument| argument.data_type(input).ok());
    let retractable = of.is_some_and(|of| chosen(aggregate, &arguments, &of).is_ok_and(|make| make.is_some()));
    !retractable && grows(aggregate.fun().name(), aggregate.is_distinct())
}

type Make = Box<dyn FnOnce(Input) -> Result<Box<dyn Function>>>;

fn chosen(
    aggregate: &AggregateFunctionExpr,
    arguments: &[Arc<dyn PhysicalExpr>],
    of: &DataType,
) -> Result<Option<Make>> {
    let output = aggregate.field().data_type().clone();
    let (kind, distinct, one) = (Kind::of(of), aggregate.is_distinct(), arguments.len() == 1);
    let of = of.clone();
    Ok(match aggregate.fun().name() {
        _ if of == DataType::Null => None,
        "count" if distinct && one => Some(count_distinct(of, kind, false)),
        "approx_distinct" if one => Some(count_distinct(of, kind, output == DataType::UInt64)),
        "sum" if distinct && one => sum_distinct(&of, output),
        "avg" if distinct && one => avg_distinct(&of, &output)?,
        "bit_xor" if distinct && one && kind == Some(Kind::Int) && of == output => Some(xor_distinct(output)),
        "median" if one && of == output => median(kind, distinct, output),
        "approx_median" if one && of == output && kind == Some(Kind::Float) => Some(percentile(0.5, false, output)),
        "percentile_cont" if arguments.len() == 2 && of == output && kind == Some(Kind::Float) => {
            constant(&arguments[1]).map(|at| percentile(at, distinct, output))
        }
        "approx_percentile_cont" if arguments.len() >= 2 && of == output && kind == Some(Kind::Float) => {
            constant(&arguments[1]).map(|at| percentile(at, false, output))
        }
        _ => None,
    })
}

/// A percentile; it must be a literal between 0 and 1.
fn constant(expression: &Arc<dyn PhysicalExpr>) -> Option<f64> {
    let value = expression.downcast_ref::<Literal>()?.value().cast_to(&DataType::Float64).ok()?;
    match value {
        ScalarValue::Float64(value) => value.filter(|at| (0.0..=1.0).contains(at)),
        _ => None,
    }
}

fn sliding<B, C, A>(
    input: Input,
    code: C,
    answer: impl Fn(&B) -> A + Send + 'static,
    finish: impl Fn(Vec<A>) -> Result<ArrayRef> + Send + 'static,
) -> Result<Box<dyn Function>>
where
    B: Bag,
    C: Code<Value = B::Value> + 'static,
    A: Clone + Default + Send + 'static,
{
    let (answer, finish): (Answer<B, A>, Finish<A>) = (Box::new(answer), Box::new(finish));
    Ok(Box::new(Sliding::new(input, code, answer, finish)))
}

fn count_distinct(of: DataType, kind: Option<Kind>, unsigned: bool) -> Make {
    fn counts<C: Code + 'static>(input: Input, code: C, unsigned: bool) -> Result<Box<dyn Function>> {
        sliding(input, code, Distinct::<C::Value>::len, move |counts| {
            Ok(match unsigned {
                true => Arc::new(UInt64Array::from_iter_values(counts.into_iter().map(|count| count as u64))),
                false => Arc::new(Int64Array::from_iter_values(counts.into_iter().map(|count| count as i64))) as _,
            })
        })
    }
    Box::new(move |input| match kind {
        Some(Kind::Int) => counts(input, Integers, unsigned),
        Some(Kind::Float) => counts(input, Doubles, unsigned),
        Some(Kind::Decimal) => counts(input, Decimals, unsigned),
        _ => counts(input, Numbered::new(&of)?, unsigned),
    })
}

fn sum_distinct(of: &DataType, output: DataType) -> Option<Make> {
    use DataType as T;
    Some(match (of, &output) {
        (T::Int64 | T::UInt64 | T::Duration(_), _) if *of == output => Box::new(move |input| {
            sliding(input, Integers, Folded::<i64, Add>::all, move |sums| sums_as(&output, &mut sums.into_iter()))
        }),
        (T::Float64, T::Float64) => Box::new(|input| {
            sliding(input, Doubles, |bag: &Ranked<i64, DoubleSum>| sum_and_count(bag).map(|(sum, _)| sum), floats)
        }),
        (T::Decimal128(..), T::Decimal128(..)) => Box::new(move |input| {
            sliding(input, Decimals, Folded::<i128, Add>::all, move |sums| decimals_as(&output, &mut sums.into_iter()))
        }),
        _ => return None,
    })
}

fn sum_and_count(bag: &Ranked<i64, DoubleSum>) -> Option<(f64, u64)> {
    (bag.distinct() > 0).then(|| (bag.digest().value(), bag.distinct()))
}

fn floats(values: Vec<Option<f64>>) -> Result<ArrayRef> {
    Ok(Arc::new(Float64Array::from(values)))
}

fn avg_distinct(of: &DataType, output: &DataType) -> Result<Option<Make>> {
    use DataType as T;
    Ok(match (of, output) {
        (T::Float64, T::Float64) => Some(Box::new(|input| {
            let mean = |bag: &Ranked<i64, DoubleSum>| sum_and_count(bag).map(|(sum, count)| sum / count as f64);
            sliding(input, Doubles, mean, floats)
        })),
        // Wider sums might overflow 128 bits, where DataFusion sums in 256.
        (T::Decimal128(digits, scale), T::Decimal128(wide, target)) if *digits <= 28 => {
            let averager = DecimalAverager::<Decimal128Type>::try_new(*scale, *wide, *target)?;
            let output = output.clone();
            Some(Box::new(move |input| {
                let answer = |bag: &Folded<i128, Add>| bag.all().map(|sum| (sum, bag.len() as i128));
                sliding(input, Decimals, answer, move |sums| {
                    let means =
                        sums.into_iter().map(|sum| sum.map(|(sum, count)| averager.avg(sum, count)).transpose());
                    let means: PrimitiveArray<Decimal128Type> = means.collect::<Result<_, _>>()?;
                    Ok(Arc::new(means.with_data_type(output.clone())))
                })
            }))
        }
        _ => None,
    })
}

fn xor_distinct(output: DataType) -> Make {
    Box::new(move |input| {
        sliding(input, Integers, Folded::<i64, Xor>::all, move |all| ints_as(&output, &mut all.into_iter()))
    })
}

/// The n-th value, or the n-th different one.
fn ranked<V: Value, D: Digest<V>>(bag: &Ranked<V, D>, distinct: bool, rank: u64) -> Option<V> {
    if distinct { bag.nth_distinct(rank) } else { bag.nth(rank) }
}

fn length<V: Value, D: Digest<V>>(bag: &Ranked<V, D>, distinct: bool) -> u64 {
    if distinct { bag.distinct() } else { bag.len() }
}

/// The one or two values in the middle.
fn middle<V: Value>(bag: &Ranked<V, Order>, distinct: bool) -> Option<(V, V)> {
    let count = length(bag, distinct);
    let (low, high) = (count.checked_sub(1)? / 2, count / 2);
    let high_value = ranked(bag, distinct, high)?;
    Some((if low == high { high_value } else { ranked(bag, distinct, low)? }, high_value))
}

fn median(kind: Option<Kind>, distinct: bool, output: DataType) -> Option<Make> {
    Some(match kind? {
        Kind::Float => Box::new(move |input| {
            let single = output == DataType::Float32;
            let answer = move |bag: &Ranked<i64, Order>| {
                middle(bag, distinct).map(|(low, high)| match (low == high, single) {
                    (true, _) => double(low),
                    // In the type's own arithmetic, like DataFusion.
                    (false, true) => f64::from((double(low) as f32 + double(high) as f32) / 2.0),
                    (false, false) => (double(low) + double(high)) / 2.0,
                })
            };
            sliding(input, Doubles, answer, move |values| floats_as(&output, &mut values.into_iter()))
        }),
        Kind::Decimal if matches!(output, DataType::Decimal128(..)) => Box::new(move |input| {
            let answer = move |bag: &Ranked<i128, Order>| {
                middle(bag, distinct).map(|(low, high)| match low.checked_add(high) {
                    Some(sum) => sum / 2,
                    None => low / 2 + high / 2 + (low % 2 + high % 2) / 2,
                })
            };
            sliding(input, Decimals, answer, move |values| decimals_as(&output, &mut values.into_iter()))
        }),
        _ => return None,
    })
}

/// DataFusion's interpolation, to six decimal places.
fn percentile(at: f64, distinct: bool, output: DataType) -> Make {
    const PLACES: f64 = 1_000_000.0;
    let answer = move |bag: &Ranked<i64, Order>| {
        let last = length(bag, distinct).checked_sub(1)?;
        let index = at * last as f64;
        let (low, high) = (index.floor(), index.ceil());
        let low_value = double(ranked(bag, distinct, low as u64)?);
        if low == high {
            return Some(low_value);
        }
        let high_value = double(ranked(bag, distinct, high as u64)?);
        let weight = ((index - low) * PLACES).trunc() / PLACES;
        Some(low_value + (high_value - low_value) * weight)
    };
    Box::new(move |input| {
        if !matches!(output, DataType::Float32 | DataType::Float64) {
            return Err(Error::internal("a percentile is no number"));
        }
        sliding(input, Doubles, answer, move |values: Vec<Option<f64>>| {
            let values: PrimitiveArray<Float64Type> = values.into_iter().collect();
            floats_as(&output, &mut values.iter())
        })
    })
}
