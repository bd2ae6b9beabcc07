//! Converts columns of a file to the declared types: a value that the conversion would change becomes null, and its row a
//! dead letter.
//!
//! These changes are allowed: digits that a DOUBLE or FLOAT rounds, fractions of a microsecond.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray, MapArray,
    StructArray, TimestampMicrosecondArray, make_array, new_null_array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Fields, Float64Type, TimeUnit, TimestampNanosecondType};

use super::fault::sql_name;
use super::value;
use crate::catalog::TimestampUnit;
use crate::error::{Context, Error, Result};

/// The values of column `name` converted to `to`; integers in TIMESTAMP columns are of `unit`. A value without a counterpart
/// becomes null, and so does an array, map or struct that contains one. Errors: no value of the type has a counterpart.
pub(super) fn convert(name: &str, found: &ArrayRef, to: &DataType, unit: TimestampUnit) -> Result<ArrayRef> {
    let from = found.data_type();
    if from == to {
        return Ok(Arc::clone(found));
    }
    let failed = || format!("column `{name}` cannot be converted");
    match (from, to) {
        (DataType::Struct(_), DataType::Struct(fields)) => structs(name, found.as_struct(), fields, unit),
        (DataType::List(_), DataType::List(field)) => {
            let list: &ListArray = found.as_list();
            let items = convert(name, list.values(), field.data_type(), unit)?;
            let nulls = kept(list, list.offsets(), list.values(), &items);
            let list = ListArray::try_new(Arc::clone(field), list.offsets().clone(), items, nulls);
            Ok(Arc::new(list.internal(failed)?))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let map = found.as_map();
            let DataType::Struct(fields) = entries.data_type() else { return Err(refused(name, from, to)) };
            let keys = convert(name, map.keys(), fields[0].data_type(), unit)?;
            let values = convert(name, map.values(), fields[1].data_type(), unit)?;
            let nulls = kept(map, map.offsets(), map.values(), &values);
            let nulls = NullBuffer::union(nulls.as_ref(), kept(map, map.offsets(), map.keys(), &keys).as_ref());
            let pairs = StructArray::try_new(fields.clone(), vec![keys, values], None).internal(failed)?;
            let map = MapArray::try_new(Arc::clone(entries), map.offsets().clone(), pairs, nulls, *sorted);
            Ok(Arc::new(map.internal(failed)?))
        }
        _ => leaf(name, found, to, unit),
    }
}

/// Fields as columns, matched by name; fields that the file lacks are null.
fn structs(name: &str, found: &StructArray, fields: &Fields, unit: TimestampUnit) -> Result<ArrayRef> {
    let (names, mut nulls) = (found.column_names(), found.nulls().cloned());
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let Some(index) = position(&names, field.name()) else {
            columns.push(new_null_array(field.data_type(), found.len()));
            continue;
        };
        let before = found.column(index);
        let after = convert(&format!("{name}.{}", field.name()), before, field.data_type(), unit)?;
        nulls = NullBuffer::union(nulls.as_ref(), lost(before, &after).map(|lost| NullBuffer::new(!&lost)).as_ref());
        columns.push(after);
    }
    let converted = StructArray::try_new(fields.clone(), columns, nulls);
    Ok(Arc::new(converted.internal(|| format!("column `{name}` cannot be converted"))?))
}

/// Marks the values that became null in the conversion; `None` if there are none.
fn lost(before: &ArrayRef, after: &ArrayRef) -> Option<BooleanBuffer> {
    if after.null_count() == before.null_count() {
        return None;
    }
    let is_lost = |row: usize| before.is_valid(row) && after.is_null(row);
    Some(BooleanBuffer::collect_bool(after.len(), is_lost))
}

/// The validity of lists: those that are not null and lost no item.
fn kept(list: &dyn Array, offsets: &OffsetBuffer<i32>, before: &ArrayRef, after: &ArrayRef) -> Option<NullBuffer> {
    let Some(lost) = lost(before, after) else { return list.nulls().cloned() };
    let whole = |row: usize| {
        let items = offsets[row] as usize..offsets[row + 1] as usize;
        list.is_valid(row) && !items.into_iter().any(|item| lost.value(item))
    };
    Some(NullBuffer::new(BooleanBuffer::collect_bool(list.len(), whole)))
}

fn leaf(name: &str, found: &ArrayRef, to: &DataType, unit: TimestampUnit) -> Result<ArrayRef> {
    let from = found.data_type();
    if from.is_null() {
        return Ok(new_null_array(to, found.len()));
    }
    if !can_cast_types(from, to) {
        return Err(refused(name, from, to));
    }
    let failed = || format!("column `{name}` cannot be converted");
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let cast = |array: &ArrayRef, to: &DataType| cast_with_options(array, to, &options).internal(failed);
    match (from, to) {
        (from, DataType::Timestamp(_, zone)) if from.is_integer() => {
            let numbers = cast(found, &DataType::Int64)?;
            let micros = instants(numbers.as_primitive(), unit).with_timezone_opt(zone.clone());
            Ok(Arc::new(micros))
        }
        (from, DataType::Timestamp(_, zone)) if from.is_floating() || from.is_decimal() => {
            let numbers = cast(found, &DataType::Float64)?;
            let micros = fractions(numbers.as_primitive(), unit).with_timezone_opt(zone.clone());
            Ok(Arc::new(micros))
        }
        (DataType::Timestamp(TimeUnit::Nanosecond, _), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            let nanos = found.as_primitive::<TimestampNanosecondType>();
            let micros: TimestampMicrosecondArray = nanos.unary(|nanos| nanos.div_euclid(1_000));
            Ok(Arc::new(micros.with_timezone_opt(zone.clone())))
        }
        (from, DataType::Boolean) if from.is_numeric() => {
            let numbers = cast(found, &DataType::Float64)?;
            let numbers = numbers.as_primitive::<Float64Type>();
            let truth = |number: Option<f64>| match number {
                Some(0.0) => Some(false),
                Some(1.0) => Some(true),
                _ => None,
            };
            Ok(Arc::new(numbers.iter().map(truth).collect::<BooleanArray>()))
        }
        (text, DataType::Decimal128(precision, scale)) if text.is_string() => {
            let texts = cast(found, &DataType::Utf8)?;
            let read = |text: &str| {
                let scaled = value::decimal_text(text.trim().as_bytes(), *scale).ok()?;
                value::within_precision(scaled, *precision).ok()
            };
            let decimals = texts.as_string::<i32>().iter().map(|text| read(text?));
            let decimals: Decimal128Array = decimals.collect();
            Ok(Arc::new(decimals.with_data_type(to.clone())))
        }
        // A value that differs when it is converted back has lost digits, or its time of day.
        (from, to)
            if from.is_decimal() && (to.is_integer() || to.is_decimal())
                || from.is_floating() && (to.is_decimal() || to.is_integer())
                || matches!((from, to), (DataType::Timestamp(..) | DataType::Date64, DataType::Date32)) =>
        {
            let converted = cast(found, to)?;
            let back = cast(&converted, from)?;
            Ok(keep(&converted, &not_distinct(&back, found).internal(failed)?))
        }
        (from, DataType::Float32) if !from.is_floating() || *from == DataType::Float64 => {
            let (converted, wide) = (cast(found, to)?, cast(found, &DataType::Float64)?);
            let narrow = cast(&converted, &DataType::Float64)?;
            let infinite = |array: &ArrayRef, row: usize| array.as_primitive::<Float64Type>().value(row).is_infinite();
            let fits = (0..wide.len()).map(|row| Some(infinite(&narrow, row) == infinite(&wide, row)));
            Ok(keep(&converted, &fits.collect()))
        }
        _ => cast(found, to),
    }
}

fn instants(numbers: &Int64Array, unit: TimestampUnit) -> TimestampMicrosecondArray {
    let micros = |number: i64| match unit.of(i128::from(number)) {
        TimestampUnit::Seconds => number.checked_mul(1_000_000),
        TimestampUnit::Millis => number.checked_mul(1_000),
        TimestampUnit::Micros | TimestampUnit::Auto => Some(number),
        TimestampUnit::Nanos => Some(number.div_euclid(1_000)),
    };
    numbers.iter().map(|number| micros(number?)).collect()
}

/// Timestamps from numbers with a fraction, truncated to microseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "what is no time is sorted out before"
)]
fn fractions(numbers: &Float64Array, unit: TimestampUnit) -> TimestampMicrosecondArray {
    let micros = |number: f64| {
        let micros = match unit.of(number as i128) {
            TimestampUnit::Seconds => number * 1e6,
            TimestampUnit::Millis => number * 1e3,
            TimestampUnit::Micros | TimestampUnit::Auto => number,
            TimestampUnit::Nanos => (number / 1e3).floor(),
        };
        (micros.abs() < i64::MAX as f64).then(|| micros.round() as i64)
    };
    numbers.iter().map(|number| micros(number?)).collect()
}

/// The values for which `fits` is true, null elsewhere.
fn keep(array: &ArrayRef, fits: &BooleanArray) -> ArrayRef {
    if fits.true_count() == fits.len() {
        return Arc::clone(array);
    }
    let nulls = NullBuffer::union(array.nulls(), Some(&NullBuffer::new(fits.values().clone())));
    let data = array.to_data().into_builder().nulls(nulls).build();
    data.map_or_else(|_| new_null_array(array.data_type(), array.len()), make_array)
}

#[cold]
fn refused(name: &str, from: &DataType, to: &DataType) -> Error {
    Error::sql(format!("column `{name}` is {} but its data is {}", sql_name(to), sql_name(from)))
        .with_hint(format!("Declare the column as {}, and convert it in the query.", sql_name(from)))
}

/// The position of `wanted` among the names: by exact name, else ignoring case.
pub(super) fn position(names: &[&str], wanted: &str) -> Option<usize> {
    let exact = names.iter().position(|name| *name == wanted);
    exact.or_else(|| names.iter().position(|name| name.to_lowercase() == wanted.to_lowercase()))
}
