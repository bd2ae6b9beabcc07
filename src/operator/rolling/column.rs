//! Argument values of all rows of all keys, in shared columns addressed by slot.
//!
//! Numbers are stored in the widest type of their kind (64-bit integers, doubles, 128-bit decimals), nulls as zero. Where
//! there may be nulls, each slot also has the number of valid rows of the key before it, so that a count over a frame is a
//! difference of two entries.

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use crate::error::{Context, Error, Result};
use crate::evaluate::NO_BIGINT;

/// Representation of a type's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only that there is a value.
    Presence,
    /// In 64 bits: integers, dates, times; unsigned 64-bit integers by their bits.
    Int,
    /// As a double.
    Float,
    /// In 128 bits.
    Decimal,
}

impl Kind {
    /// Representation of this numeric type, if it has one.
    pub(super) fn of(of: &DataType) -> Option<Self> {
        use DataType as T;
        Some(match of {
            T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => Self::Int,
            T::Date32 | T::Date64 | T::Time32(_) | T::Time64(_) | T::Timestamp(..) | T::Duration(_) => Self::Int,
            T::Float32 | T::Float64 => Self::Float,
            T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) => Self::Decimal,
            _ => return None,
        })
    }
}

/// One value per slot.
#[derive(Debug)]
pub(super) enum Values {
    None,
    Int(Vec<i64>),
    Float(Vec<f64>),
    Decimal(Vec<i128>),
}

/// The target of a row's values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) slot: u32,
    /// One past the last slot of its key if it was placed before existing rows, otherwise `slot + 1`.
    pub(super) until: u32,
    /// `true` if it is the first row of its key.
    pub(super) first: bool,
}

/// An argument of all rows.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) values: Values,
    /// Per slot, twice the number of valid rows of the key before it, plus one if it is valid. Wraps; only differences are
    /// used.
    pub(super) valid: Option<Vec<u32>>,
}

impl Column {
    pub(super) fn new(kind: Kind, nullable: bool) -> Self {
        let values = match kind {
            Kind::Presence => Values::None,
            Kind::Int => Values::Int(Vec::new()),
            Kind::Float => Values::Float(Vec::new()),
            Kind::Decimal => Values::Decimal(Vec::new()),
        };
        Self { values, valid: nullable.then(Vec::new) }
    }

    /// Resizes it to `slots`.
    pub(super) fn grow(&mut self, slots: usize) {
        match &mut self.values {
            Values::None => {}
            Values::Int(values) => values.resize(slots, 0),
            Values::Float(values) => values.resize(slots, 0.0),
            Values::Decimal(values) => values.resize(slots, 0),
        }
        if let Some(valid) = &mut self.valid {
            valid.resize(slots, 0);
        }
    }

    /// Copies `count` slots; the ranges may overlap.
    pub(super) fn copy(&mut self, from: usize, to: usize, count: usize) {
        match &mut self.values {
            Values::None => {}
            Values::Int(values) => values.copy_within(from..from + count, to),
            Values::Float(values) => values.copy_within(from..from + count, to),
            Values::Decimal(values) => values.copy_within(from..from + count, to),
        }
        if let Some(valid) = &mut self.valid {
            valid.copy_within(from..from + count, to);
        }
    }

    pub(super) fn size(&self) -> usize {
        let values = match &self.values {
            Values::None => 0,
            Values::Int(values) => values.capacity() * 8,
            Values::Float(values) => values.capacity() * 8,
            Values::Decimal(values) => values.capacity() * 16,
        };
        values + self.valid.as_ref().map_or(0, |valid| valid.capacity() * 4)
    }

    /// Writes the rows of `array` to their places, which are in time order for each key.
    pub(super) fn write(&mut self, places: &[Place], array: &ArrayRef) -> Result<()> {
        if let Some(valid) = &mut self.valid {
            write_valid(valid, places, array);
        }
        match &mut self.values {
            Values::None => Ok(()),
            Values::Int(values) => write_ints(values, places, array),
            Values::Float(values) => write_floats(values, places, array),
            Values::Decimal(values) => write_decimals(values, places, array),
        }
    }
}

fn write_valid(valid: &mut [u32], places: &[Place], array: &ArrayRef) {
    let nulls = array.logical_nulls();
    for (row, place) in places.iter().enumerate() {
        let slot = place.slot as usize;
        // A slot inserted between others still has the entry of the row that was moved up from it.
        let before = match place.until as usize > slot + 1 {
            true => valid[slot] >> 1,
            false if place.first => 0,
            false => through(valid[slot - 1]),
        };
        let is_valid = nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        valid[slot] = before.wrapping_mul(2) | u32::from(is_valid);
        if is_valid {
            for later in &mut valid[slot + 1..place.until as usize] {
                *later = later.wrapping_add(2);
            }
        }
    }
}

/// Number of valid rows up to and including the entry's.
#[inline]
fn through(entry: u32) -> u32 {
    (entry >> 1).wrapping_add(entry & 1) & (u32::MAX >> 1)
}

/// Number of valid slots of a key in `start..end`.
#[inline]
pub(super) fn count(valid: Option<&[u32]>, start: usize, end: usize) -> usize {
    match valid {
        _ if start >= end => 0,
        None => end - start,
        Some(valid) => (through(valid[end - 1]).wrapping_sub(valid[start] >> 1) & (u32::MAX >> 1)) as usize,
    }
}

fn scatter<T: ArrowPrimitiveType, V: Copy + Default>(
    values: &mut [V],
    places: &[Place],
    array: &ArrayRef,
    widen: impl Fn(T::Native) -> V,
) {
    let array: &PrimitiveArray<T> = array.as_primitive();
    if array.null_count() == 0 {
        for (place, value) in places.iter().zip(array.values()) {
            values[place.slot as usize] = widen(*value);
        }
    } else {
        for (place, value) in places.iter().zip(array) {
            values[place.slot as usize] = value.map_or_else(V::default, &widen);
        }
    }
}

/// Expands a macro over the types that are stored in 64 bits.
macro_rules! for_int_type {
    ($of:expr, $run:ident, $other:expr) => {
        match $of {
            DataType::Int8 => $run!(Int8Type),
            DataType::Int16 => $run!(Int16Type),
            DataType::Int32 => $run!(Int32Type),
            DataType::Int64 => $run!(Int64Type),
            DataType::UInt8 => $run!(UInt8Type),
            DataType::UInt16 => $run!(UInt16Type),
            DataType::UInt32 => $run!(UInt32Type),
            DataType::UInt64 => $run!(UInt64Type),
            DataType::Date32 => $run!(Date32Type),
            DataType::Date64 => $run!(Date64Type),
            DataType::Time32(TimeUnit::Second) => $run!(Time32SecondType),
            DataType::Time32(TimeUnit::Millisecond) => $run!(Time32MillisecondType),
            DataType::Time64(TimeUnit::Microsecond) => $run!(Time64MicrosecondType),
            DataType::Time64(TimeUnit::Nanosecond) => $run!(Time64NanosecondType),
            DataType::Timestamp(TimeUnit::Second, _) => $run!(TimestampSecondType),
            DataType::Timestamp(TimeUnit::Millisecond, _) => $run!(TimestampMillisecondType),
            DataType::Timestamp(TimeUnit::Microsecond, _) => $run!(TimestampMicrosecondType),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => $run!(TimestampNanosecondType),
            DataType::Duration(TimeUnit::Second) => $run!(DurationSecondType),
            DataType::Duration(TimeUnit::Millisecond) => $run!(DurationMillisecondType),
            DataType::Duration(TimeUnit::Microsecond) => $run!(DurationMicrosecondType),
            DataType::Duration(TimeUnit::Nanosecond) => $run!(DurationNanosecondType),
            _ => $other,
        }
    };
}

fn write_ints(values: &mut [i64], places: &[Place], array: &ArrayRef) -> Result<()> {
    macro_rules! run {
        ($of:ty) => {
            scatter::<$of, i64>(values, places, array, |value| value as i64)
        };
    }
    for_int_type!(array.data_type(), run, return Err(foreign(array)));
    Ok(())
}

fn write_floats(values: &mut [f64], places: &[Place], array: &ArrayRef) -> Result<()> {
    match array.data_type() {
        DataType::Float32 => scatter::<Float32Type, f64>(values, places, array, f64::from),
        DataType::Float64 => scatter::<Float64Type, f64>(values, places, array, |value| value),
        _ => return Err(foreign(array)),
    }
    Ok(())
}

fn write_decimals(values: &mut [i128], places: &[Place], array: &ArrayRef) -> Result<()> {
    match array.data_type() {
        DataType::Decimal32(..) => scatter::<Decimal32Type, i128>(values, places, array, i128::from),
        DataType::Decimal64(..) => scatter::<Decimal64Type, i128>(values, places, array, i128::from),
        DataType::Decimal128(..) => scatter::<Decimal128Type, i128>(values, places, array, |value| value),
        _ => return Err(foreign(array)),
    }
    Ok(())
}

/// Values of an array of [`Kind::Int`]; undefined where it is null.
pub(super) fn integers(array: &ArrayRef) -> Result<Vec<i64>> {
    macro_rules! run {
        ($of:ty) => {
            Ok(array.as_primitive::<$of>().values().iter().map(|value| *value as i64).collect())
        };
    }
    for_int_type!(array.data_type(), run, Err(foreign(array)))
}

/// Values of an array of [`Kind::Float`]; undefined where it is null.
pub(super) fn doubles(array: &ArrayRef) -> Result<Vec<f64>> {
    match array.data_type() {
        DataType::Float32 => Ok(array.as_primitive::<Float32Type>().values().iter().map(|v| f64::from(*v)).collect()),
        DataType::Float64 => Ok(array.as_primitive::<Float64Type>().values().to_vec()),
        _ => Err(foreign(array)),
    }
}

/// Values of an array of [`Kind::Decimal`]; undefined where it is null.
pub(super) fn decimals(array: &ArrayRef) -> Result<Vec<i128>> {
    match array.data_type() {
        DataType::Decimal32(..) => {
            Ok(array.as_primitive::<Decimal32Type>().values().iter().map(|v| (*v).into()).collect())
        }
        DataType::Decimal64(..) => {
            Ok(array.as_primitive::<Decimal64Type>().values().iter().map(|v| (*v).into()).collect())
        }
        DataType::Decimal128(..) => Ok(array.as_primitive::<Decimal128Type>().values().to_vec()),
        _ => Err(foreign(array)),
    }
}

fn foreign(array: &ArrayRef) -> Error {
    Error::internal(format!("a rolling argument came as {}", array.data_type()))
}

/// Stored integers as an array of their original type.
pub(super) fn ints_as(of: &DataType, values: &mut dyn Iterator<Item = Option<i64>>) -> Result<ArrayRef> {
    macro_rules! run {
        ($of:ty) => {
            Ok(std::sync::Arc::new(
                values
                    .map(|value| value.map(|value| value as <$of as ArrowPrimitiveType>::Native))
                    .collect::<PrimitiveArray<$of>>()
                    .with_data_type(of.clone()),
            ))
        };
    }
    for_int_type!(of, run, Err(Error::internal(format!("no integers are {of}"))))
}

/// Sums of stored integers as an array of their original type; [`NO_BIGINT`] where a sum does not fit.
pub(super) fn sums_as(of: &DataType, sums: &mut dyn Iterator<Item = Option<i128>>) -> Result<ArrayRef> {
    if *of != DataType::Int64 {
        return ints_as(of, &mut sums.map(|sum| sum.map(|sum| sum as i64)));
    }
    let kept = |sum: i128| i64::try_from(sum).unwrap_or(NO_BIGINT);
    let sums: PrimitiveArray<Int64Type> = sums.map(|sum| sum.map(kept)).collect();
    Ok(std::sync::Arc::new(sums))
}

/// Stored doubles as an array of their original type.
pub(super) fn floats_as(of: &DataType, values: &mut dyn Iterator<Item = Option<f64>>) -> Result<ArrayRef> {
    let array: PrimitiveArray<Float64Type> = values.collect();
    cast(&array, of).internal(|| format!("no doubles are {of}"))
}

/// Stored decimals as an array of their original type.
pub(super) fn decimals_as(of: &DataType, values: &mut dyn Iterator<Item = Option<i128>>) -> Result<ArrayRef> {
    Ok(match of {
        DataType::Decimal32(..) => {
            let array: PrimitiveArray<Decimal32Type> = values.map(|value| value.map(|v| v as i32)).collect();
            std::sync::Arc::new(array.with_data_type(of.clone()))
        }
        DataType::Decimal64(..) => {
            let array: PrimitiveArray<Decimal64Type> = values.map(|value| value.map(|v| v as i64)).collect();
            std::sync::Arc::new(array.with_data_type(of.clone()))
        }
        DataType::Decimal128(..) => {
            let array: PrimitiveArray<Decimal128Type> = values.collect();
            std::sync::Arc::new(array.with_data_type(of.clone()))
        }
        _ => return Err(Error::internal(format!("no decimals are {of}"))),
    })
}
