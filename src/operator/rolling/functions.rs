//! The functions, and the choice of one for each SQL call.
//!
//! count, sum, avg, min, max, variance and deviation of numbers are computed from summaries; aggregates over DISTINCT values
//! and percentiles from bags that follow the frame ([`super::retractable`]); every other aggregate of small state from its
//! states over blocks of rows ([`super::merged`]). The rest costs as much as its frame has rows, and is bounded
//! ([`super::collect`]). Types and nulls are DataFusion's.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, PrimitiveArray, UInt64Array};
use arrow::datatypes::{DataType, Decimal128Type};
use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::{average, count, stddev, variance};
use datafusion::logical_expr::AggregateUDF;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::aggregate::utils::DecimalAverager;

use super::bound::{Bound, Extent};
use super::collect::{Collected, grows};
use super::column::{self, Kind, Values, decimals_as, floats_as, ints_as, sums_as};
use super::merged::{Call, Merged};
use super::plan::Plan;
use super::retractable::retractable;
use super::summary::{
    Extreme, GreatestDecimal, GreatestFloat, GreatestInt, GreatestUnsigned, LeastDecimal, LeastFloat, LeastInt,
    LeastUnsigned, Moments, Order, Run, SHORT, Sum, SumDecimal, SumFloat, SumInt, Summary, Trees,
};
use super::view::{Function, View};
use crate::error::{Context, Error, Result};
use crate::operator::spec::{RollingFunction, RollingKind};

/// The function for the output column `index`, and the index of its frame.
pub(super) fn compile(plan: &mut Plan, function: &RollingFunction, index: usize) -> Result<(usize, Box<dyn Function>)> {
    let output = plan.output_type(index);
    match &function.function {
        RollingKind::Aggregate(aggregate, filter) => {
            let frame = plan.frame(Extent::of(&function.frame)?);
            Ok((frame, aggregate_function(plan, aggregate, filter.as_ref())?))
        }
        RollingKind::RowNumber if plan.has_ttl() => {
            Ok((plan.frame(Extent { start: Bound::First, end: Bound::Row(1) }), Box::new(RowNumber { ever: false })))
        }
        RollingKind::RowNumber => Ok((plan.ordinal_frame(), Box::new(RowNumber { ever: true }))),
        RollingKind::Lag { column, offset, default } => {
            let offset = (*offset).clamp(-(i64::MAX / 4), i64::MAX / 4);
            let frame = plan.frame(Extent { start: Bound::Row(-offset), end: Bound::Row(1 - offset) });
            let default = default.cast_to(&output)?.to_array()?;
            Ok((frame, pick(plan, *column, End::First, default, false)?))
        }
        RollingKind::LagOfValues { column, offset, default } => {
            let frame = plan.frame(Extent { start: Bound::First, end: Bound::Row(0) });
            let default = default.cast_to(&output)?.to_array()?;
            let before = usize::try_from(offset.saturating_sub(1)).unwrap_or_default();
            Ok((frame, pick(plan, *column, End::FromLast(before), default, true)?))
        }
        RollingKind::FirstValue { column, ignore_nulls } => {
            let frame = plan.frame(Extent::of(&function.frame)?);
            let none = ScalarValue::try_from(&output)?.to_array()?;
            Ok((frame, pick(plan, *column, End::First, none, *ignore_nulls)?))
        }
        RollingKind::LastValue { column, ignore_nulls } => {
            let frame = plan.frame(Extent::of(&function.frame)?);
            let none = ScalarValue::try_from(&output)?.to_array()?;
            Ok((frame, pick(plan, *column, End::Last, none, *ignore_nulls)?))
        }
        RollingKind::NthValue { column, n, ignore_nulls } => {
            let frame = plan.frame(Extent::of(&function.frame)?);
            let none = ScalarValue::try_from(&output)?.to_array()?;
            let after = usize::try_from(n.unsigned_abs().saturating_sub(1)).unwrap_or(usize::MAX);
            let end = if *n > 0 { End::FromFirst(after) } else { End::FromLast(after) };
            Ok((frame, pick(plan, *column, end, none, *ignore_nulls)?))
        }
    }
}

fn aggregate_function(
    plan: &mut Plan,
    aggregate: &Arc<AggregateFunctionExpr>,
    filter: Option<&Arc<dyn PhysicalExpr>>,
) -> Result<Box<dyn Function>> {
    let arguments = aggregate.expressions();
    if let [argument] = arguments.as_slice()
        && !aggregate.is_distinct()
        && let Some(fast) = fast_function(plan, aggregate, argument, filter)?
    {
        return Ok(fast);
    }
    if let Some(sliding) = retractable(plan, aggregate, filter)? {
        return Ok(sliding);
    }
    let call = Call::new(plan, aggregate, filter)?;
    Ok(match grows(aggregate.fun().name(), aggregate.is_distinct()) {
        true => Box::new(Collected::new(call, plan.collect_limit)),
        false => Box::new(Merged::new(call)),
    })
}

/// The function computed from summaries, if there is one for the aggregate and the argument's type.
fn fast_function(
    plan: &mut Plan,
    aggregate: &AggregateFunctionExpr,
    argument: &Arc<dyn PhysicalExpr>,
    filter: Option<&Arc<dyn PhysicalExpr>>,
) -> Result<Option<Box<dyn Function>>> {
    use DataType as T;
    let of = argument.data_type(&plan.input).internal(|| "an argument has no type".to_owned())?;
    let field = aggregate.field();
    let output = field.data_type().clone();
    let is = |udf: &Arc<AggregateUDF>| aggregate.fun() == udf.as_ref();
    if is(&count::count_udaf()) && of != T::Null {
        let argument = plan.argument(argument, filter, Kind::Presence)?;
        return Ok(Some(Box::new(Count { argument })));
    }
    let Some(kind) = Kind::of(&of) else { return Ok(None) };
    let mut kept = |kind| plan.argument(argument, filter, kind);
    let fast = if aggregate.fun().name() == "sum" {
        match (&of, &output) {
            (T::Int64 | T::UInt64 | T::Duration(_), _) if of == output => {
                numeric::<SumInt>(kept(kind)?, move |sums| sums_as(&output, sums))?
            }
            (T::Float64, T::Float64) => numeric::<SumFloat>(kept(kind)?, |sums| {
                floats_as(&T::Float64, &mut sums.map(|sum| sum.map(Sum::value)))
            })?,
            (T::Decimal128(..), T::Decimal128(..)) => {
                numeric::<SumDecimal>(kept(kind)?, move |sums| decimals_as(&output, sums))?
            }
            _ => return Ok(None),
        }
    } else if is(&average::avg_udaf()) {
        match (&of, &output) {
            (T::Float64, T::Float64) => mean(kept(kind)?)?,
            // Wider sums might overflow 128 bits, where DataFusion sums in 256.
            (T::Decimal128(digits, scale), T::Decimal128(..)) if *digits <= 28 => {
                decimal_mean(kept(kind)?, *scale, &output)?
            }
            _ => return Ok(None),
        }
    } else if aggregate.fun().name() == "min" && of == output {
        match kind {
            Kind::Int if is_wide_unsigned(&of) => extreme::<LeastUnsigned>(kept(kind)?, of, ints_as)?,
            Kind::Int => extreme::<LeastInt>(kept(kind)?, of, ints_as)?,
            Kind::Float => extreme::<LeastFloat>(kept(kind)?, of, floats_as)?,
            _ => extreme::<LeastDecimal>(kept(kind)?, of, decimals_as)?,
        }
    } else if aggregate.fun().name() == "max" && of == output {
        match kind {
            Kind::Int if is_wide_unsigned(&of) => extreme::<GreatestUnsigned>(kept(kind)?, of, ints_as)?,
            Kind::Int => extreme::<GreatestInt>(kept(kind)?, of, ints_as)?,
            Kind::Float => extreme::<GreatestFloat>(kept(kind)?, of, floats_as)?,
            _ => extreme::<GreatestDecimal>(kept(kind)?, of, decimals_as)?,
        }
    } else {
        let (less, root) = match () {
            () if is(&variance::var_samp_udaf()) => (1, false),
            () if is(&variance::var_pop_udaf()) => (0, false),
            () if is(&stddev::stddev_udaf()) => (1, true),
            () if is(&stddev::stddev_pop_udaf()) => (0, true),
            () => return Ok(None),
        };
        if of != T::Float64 {
            return Ok(None);
        }
        deviation(kept(kind)?, less, root)?
    };
    Ok(Some(fast))
}

fn is_wide_unsigned(of: &DataType) -> bool {
    *of == DataType::UInt64
}

/// `count`: of all rows if the argument cannot be null.
struct Count {
    argument: Option<usize>,
}

impl Function for Count {
    fn column(&mut self, view: View) -> Result<ArrayRef> {
        let valid = self.argument.and_then(|argument| view.store.columns[argument].valid.as_deref());
        let counts = view.frames().map(|(start, end)| column::count(valid, start, end) as i64);
        Ok(Arc::new(Int64Array::from_iter_values(counts)))
    }
}

/// Types of numbers that columns store.
trait Kept: Copy {
    fn of(values: &Values) -> Option<&[Self]>;
}

macro_rules! kept {
    ($of:ty, $variant:ident) => {
        impl Kept for $of {
            fn of(values: &Values) -> Option<&[Self]> {
                match values {
                    Values::$variant(values) => Some(values),
                    _ => None,
                }
            }
        }
    };
}

kept!(i64, Int);
kept!(f64, Float);
kept!(i128, Decimal);

/// Builds a column from summaries and the number of values in each.
type Finish<P> = Box<dyn Fn(&[P], &[u32]) -> Result<ArrayRef> + Send>;

/// A function of a summary of numbers.
struct Numeric<S: Summary> {
    argument: usize,
    trees: Trees<S>,
    finish: Finish<S::Part>,
}

impl<S> Function for Numeric<S>
where
    S: Summary + Send,
    S::Value: Kept,
    S::Part: Send,
{
    fn column(&mut self, view: View) -> Result<ArrayRef> {
        let column = &view.store.columns[self.argument];
        let values = S::Value::of(&column.values).ok_or_else(|| Error::internal("a rolling argument is not kept"))?;
        let valid = column.valid.as_deref();
        let mut parts = Vec::with_capacity(view.keys.len());
        let mut counts = Vec::with_capacity(view.keys.len());
        for ((start, end), key) in view.frames().zip(view.keys) {
            let count = column::count(valid, start, end);
            counts.push(count as u32);
            // For frames without nulls there is no need to read each value's validity.
            let marks = if count == end - start { None } else { valid };
            parts.push(if end - start <= SHORT {
                S::of(&values[start..end], marks.map(|marks| &marks[start..end]))
            } else {
                let block = view.store.block(*key);
                let live = block.first()..block.end();
                let valid = valid.map(|valid| &valid[live.clone()]);
                let run = Run { key: *key, base: block.gone(), values: &values[live.clone()], valid };
                self.trees.summary(&run, start - live.start, end - live.start)
            });
        }
        (self.finish)(&parts, &counts)
    }

    fn squeezed(&mut self, key: u32, ordinal: u64) {
        self.trees.squeezed(key, ordinal);
    }

    fn forget(&mut self, key: u32) {
        self.trees.forget(key);
    }

    fn size(&self) -> usize {
        self.trees.size()
    }
}

fn with_finish<S>(
    argument: Option<usize>,
    finish: impl Fn(&[S::Part], &[u32]) -> Result<ArrayRef> + Send + 'static,
) -> Result<Box<dyn Function>>
where
    S: Summary + Send + 'static,
    S::Value: Kept,
    S::Part: Send,
{
    let argument = argument.ok_or_else(|| Error::internal("a rolling argument is not kept"))?;
    Ok(Box::new(Numeric::<S> { argument, trees: Trees::default(), finish: Box::new(finish) }))
}

/// A function that is null without values and otherwise computed from the summary alone.
fn numeric<S>(
    argument: Option<usize>,
    finish: impl Fn(&mut dyn Iterator<Item = Option<S::Part>>) -> Result<ArrayRef> + Send + 'static,
) -> Result<Box<dyn Function>>
where
    S: Summary + Send + 'static,
    S::Value: Kept,
    S::Part: Send,
{
    with_finish::<S>(argument, move |parts, counts| {
        finish(&mut parts.iter().zip(counts).map(|(part, count)| (*count > 0).then_some(*part)))
    })
}

/// Values as an array of a type.
type MakeArray<V> = fn(&DataType, &mut dyn Iterator<Item = Option<V>>) -> Result<ArrayRef>;

fn extreme<O>(argument: Option<usize>, of: DataType, array: MakeArray<O::Value>) -> Result<Box<dyn Function>>
where
    O: Order + Send + 'static,
    O::Value: Kept,
    O::Rank: Send,
{
    numeric::<Extreme<O>>(argument, move |ranks| array(&of, &mut ranks.map(|rank| rank.map(O::value))))
}

fn mean(argument: Option<usize>) -> Result<Box<dyn Function>> {
    with_finish::<SumFloat>(argument, |sums, counts| {
        let means = sums.iter().zip(counts).map(|(sum, count)| (*count > 0).then(|| sum.value() / f64::from(*count)));
        Ok(Arc::new(means.collect::<Float64Array>()))
    })
}

fn decimal_mean(argument: Option<usize>, scale: i8, output: &DataType) -> Result<Box<dyn Function>> {
    let DataType::Decimal128(digits, target) = *output else {
        return Err(Error::internal("an average of decimals is no decimal"));
    };
    let averager = DecimalAverager::<Decimal128Type>::try_new(scale, digits, target)?;
    let output = output.clone();
    with_finish::<SumDecimal>(argument, move |sums, counts| {
        let means = sums.iter().zip(counts).map(|(sum, count)| match count {
            0 => Ok(None),
            _ => averager.avg(*sum, i128::from(*count)).map(Some),
        });
        let means: PrimitiveArray<Decimal128Type> = means.collect::<Result<Decimal128Array, _>>()?;
        Ok(Arc::new(means.with_data_type(output.clone())))
    })
}

/// Variance (or its root) with `less` degrees of freedom lost.
fn deviation(argument: Option<usize>, less: u32, root: bool) -> Result<Box<dyn Function>> {
    with_finish::<Moments>(argument, move |spreads, counts| {
        let results = spreads.iter().zip(counts).map(|(spread, count)| match count {
            0 => None,
            1 => (less == 0).then_some(0.0),
            _ => {
                let variance = spread.squares / f64::from(*count - less);
                Some(if root { variance.sqrt() } else { variance })
            }
        });
        Ok(Arc::new(results.collect::<Float64Array>()))
    })
}

/// `row_number`: over all rows the key ever had, or over those in the frame.
struct RowNumber {
    ever: bool,
}

impl Function for RowNumber {
    fn column(&mut self, view: View) -> Result<ArrayRef> {
        let number = |((start, end), key): ((usize, usize), &u32)| {
            let block = view.store.block(*key);
            match self.ever {
                true => block.gone() + (end - block.first()) as u64,
                false => (end - start) as u64,
            }
        };
        Ok(Arc::new(UInt64Array::from_iter_values(view.frames().zip(view.keys).map(number))))
    }
}

/// The row of a frame that a value is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    First,
    Last,
    /// This many rows after the first, or before the last.
    FromFirst(usize),
    FromLast(usize),
}

/// A value of one row of the frame.
struct Pick {
    reference: usize,
    end: End,
    /// The value for an empty frame, as an array of one row.
    default: ArrayRef,
    /// The argument that tells nulls, if they are to be skipped.
    present: Option<usize>,
}

fn pick(plan: &mut Plan, column: usize, end: End, default: ArrayRef, ignore_nulls: bool) -> Result<Box<dyn Function>> {
    let expression = plan.column(column);
    let present = if ignore_nulls { plan.argument(&expression, None, Kind::Presence)? } else { None };
    Ok(Box::new(Pick { reference: plan.reference(&expression), end, default, present }))
}

impl Function for Pick {
    fn column(&mut self, view: View) -> Result<ArrayRef> {
        let references = view.store.references();
        let valid = self.present.and_then(|argument| view.store.columns[argument].valid.as_deref());
        let is_valid = |slot: &usize| valid.is_none_or(|valid| valid[*slot] & 1 == 1);
        let picked = view.frames().map(|(start, end)| {
            let slot = match self.end {
                End::First => (start..end).find(is_valid),
                End::Last => (start..end).rev().find(is_valid),
                End::FromFirst(after) => (start..end).filter(is_valid).nth(after),
                End::FromLast(before) => (start..end).rev().filter(is_valid).nth(before),
            };
            slot.map(|slot| references[slot])
        });
        view.store.chunks.gather(self.reference, picked, &self.default)
    }
}
