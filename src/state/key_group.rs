//! Key groups: the fixed number of hash partitions of state, so that a pipeline can be rescaled.
//!
//! The hash is part of the format: it depends on values only, never on the process, the CPU or a crate's version, and its
//! golden tests may not change. Equal values have equal groups, also across the widths of integers, floats, strings and
//! binaries.
//!
//! A row's hash folds one 64-bit word per column, `h' = mix((h + 0x9E3779B97F4A7C15) xor word)` from `h = 0`, where `mix` is
//! the finalizer of splitmix64; the group is the top 7 bits of `h`. The words:
//! - null of any type: `0x6E756C6C6E756C6C`;
//! - booleans 0 or 1; integers, dates, times, timestamps and durations: their number, extended to 64 bits with its sign if
//!   it has one;
//! - floats: the bits of the DOUBLE, with one zero and one NaN; decimals of 128 bits: their 64-bit halves, low first, folded
//!   (of 256 bits: all four; narrower ones are integers);
//! - strings and binaries: XXH64 of the bytes, seed 0;
//! - month-day-nano intervals: months, days, nanoseconds of the one form of their length ([`crate::equality`]) folded; day-time: days, milliseconds folded; year-month: the
//!   number;
//! - structs: the words of their columns folded; lists and maps: the length, then the hash of each element, folded.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, RecordBatch, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::{
    DataType, Decimal256Type, Float16Type, Float32Type, Float64Type, IntervalDayTimeType, IntervalMonthDayNanoType,
};
use twox_hash::XxHash64;

use crate::equality::one_interval;
use crate::error::{Context, Error, Result};

/// Number of key groups; never changes.
pub const KEY_GROUPS: u16 = 128;

const NULL: u64 = 0x6E75_6C6C_6E75_6C6C;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The key group of each row, `0..KEY_GROUPS`. Without columns every row is in group 0.
pub fn key_groups(columns: &[ArrayRef], rows: usize) -> Result<Vec<u16>> {
    if columns.is_empty() {
        return Ok(vec![0; rows]);
    }
    let mut hashes = vec![0; rows];
    for column in columns {
        fold(column, &mut hashes)?;
    }
    Ok(hashes.into_iter().map(|hash| (hash >> (64 - KEY_GROUPS.ilog2())) as u16).collect())
}

/// The shard, of `shards`, that owns a key group.
pub fn shard_of(group: u16, shards: usize) -> usize {
    usize::from(group) * shards / usize::from(KEY_GROUPS)
}

/// The key groups of a shard, of `shards`: those that [`shard_of`] assigns to it. Some shards have none when there are more
/// shards than groups.
pub fn groups_of(shard: usize, shards: usize) -> Range<u16> {
    let first = |shard: usize| (shard * usize::from(KEY_GROUPS)).div_ceil(shards.max(1)).min(KEY_GROUPS.into()) as u16;
    first(shard)..first(shard + 1)
}

/// Divides a batch: row `i` goes to part `part[i] < parts`; the order of rows is kept. Parts without rows are `None`.
pub fn split(batch: &RecordBatch, part: &[u16], parts: usize) -> Result<Vec<Option<RecordBatch>>> {
    let mut ends = vec![0_usize; parts];
    for &part in part {
        ends[usize::from(part)] += 1;
    }
    let mut split = vec![None; parts];
    if let Some(only) = ends.iter().position(|&count| count == part.len()) {
        split[only] = (!part.is_empty()).then(|| batch.clone());
        return Ok(split);
    }
    let counts = ends.clone();
    let mut next = 0;
    for end in &mut ends {
        next += std::mem::replace(end, next);
    }
    let mut order = vec![0_u32; part.len()];
    for (row, &part) in part.iter().enumerate() {
        let place = &mut ends[usize::from(part)];
        order[*place] = row as u32;
        *place += 1;
    }
    let order = UInt32Array::from(order);
    for (part, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
        let rows = order.slice(ends[part] - count, count);
        split[part] = Some(take_record_batch(batch, &rows).internal(|| "rows cannot be divided".to_owned())?);
    }
    Ok(split)
}

fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

fn combine(hash: u64, word: u64) -> u64 {
    mix(hash.wrapping_add(GOLDEN) ^ word)
}

/// Folds the words of a column into the hashes of its rows.
fn fold(column: &dyn Array, hashes: &mut [u64]) -> Result<()> {
    use DataType as T;
    let data_type = column.data_type();
    let nulls = column.logical_nulls();
    let nulls = nulls.as_ref();
    match data_type {
        T::Null => hashes.iter_mut().for_each(|hash| *hash = combine(*hash, NULL)),
        T::Boolean => fold_words(hashes, nulls, column.as_boolean().values().iter().map(u64::from)),
        T::Float16 => {
            let values = column.as_primitive::<Float16Type>().values();
            fold_words(hashes, nulls, values.iter().map(|v| float(v.to_f64())));
        }
        T::Float32 => {
            let values = column.as_primitive::<Float32Type>().values();
            fold_words(hashes, nulls, values.iter().map(|v| float((*v).into())));
        }
        T::Float64 => {
            fold_words(hashes, nulls, column.as_primitive::<Float64Type>().values().iter().map(|v| float(*v)));
        }
        T::Decimal128(..) => {
            let data = column.to_data();
            let halves = |v: &i128| combine(combine(0, *v as u64), (*v >> 64) as u64);
            fold_words(hashes, nulls, data.buffer::<i128>(0).iter().map(halves));
        }
        T::Decimal256(..) => {
            let words = |v: &arrow::datatypes::i256| {
                let (low, high) = v.to_parts();
                let low = combine(combine(0, low as u64), (low >> 64) as u64);
                combine(combine(low, high as u64), (high >> 64) as u64)
            };
            fold_words(hashes, nulls, column.as_primitive::<Decimal256Type>().values().iter().map(words));
        }
        T::Interval(arrow::datatypes::IntervalUnit::DayTime) => {
            let values = column.as_primitive::<IntervalDayTimeType>().values();
            let words = values.iter().map(|v| combine(combine(0, signed(v.days)), signed(v.milliseconds)));
            fold_words(hashes, nulls, words);
        }
        T::Interval(arrow::datatypes::IntervalUnit::MonthDayNano) => {
            let values = column.as_primitive::<IntervalMonthDayNanoType>().values();
            let words = values
                .iter()
                .map(|v| one_interval(*v))
                .map(|v| combine(combine(combine(0, signed(v.months)), signed(v.days)), v.nanoseconds as u64));
            fold_words(hashes, nulls, words);
        }
        _ if data_type.is_primitive() => fold_numbers(column, nulls, hashes)?,
        _ => fold_lengthy(column, nulls, hashes)?,
    }
    Ok(())
}

fn signed(value: i32) -> u64 {
    i64::from(value) as u64
}

fn float(value: f64) -> u64 {
    if value.is_nan() {
        f64::NAN.to_bits() & !(1 << 63)
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

/// Fixed-width values whose word is their number.
fn fold_numbers(column: &dyn Array, nulls: Option<&NullBuffer>, hashes: &mut [u64]) -> Result<()> {
    use DataType as T;
    let data = column.to_data();
    match column.data_type() {
        T::UInt8 => fold_words(hashes, nulls, data.buffer::<u8>(0).iter().map(|v| (*v).into())),
        T::UInt16 => fold_words(hashes, nulls, data.buffer::<u16>(0).iter().map(|v| (*v).into())),
        T::UInt32 => fold_words(hashes, nulls, data.buffer::<u32>(0).iter().map(|v| (*v).into())),
        T::Int8 => fold_words(hashes, nulls, data.buffer::<i8>(0).iter().map(|v| signed((*v).into()))),
        T::Int16 => fold_words(hashes, nulls, data.buffer::<i16>(0).iter().map(|v| signed((*v).into()))),
        other => match other.primitive_width() {
            Some(4) => fold_words(hashes, nulls, data.buffer::<i32>(0).iter().map(|v| signed(*v))),
            Some(8) => fold_words(hashes, nulls, data.buffer::<u64>(0).iter().copied()),
            _ => return Err(no_key_groups(other)),
        },
    }
    Ok(())
}

/// Values of variable length, and nested values.
fn fold_lengthy(column: &dyn Array, nulls: Option<&NullBuffer>, hashes: &mut [u64]) -> Result<()> {
    use DataType as T;
    match column.data_type() {
        T::Utf8 => fold_slices(hashes, nulls, column.as_string::<i32>().iter().map(|v| v.unwrap_or("").as_bytes())),
        T::LargeUtf8 => {
            fold_slices(hashes, nulls, column.as_string::<i64>().iter().map(|v| v.unwrap_or("").as_bytes()));
        }
        T::Utf8View => fold_slices(hashes, nulls, column.as_string_view().iter().map(|v| v.unwrap_or("").as_bytes())),
        T::Binary => fold_slices(hashes, nulls, column.as_binary::<i32>().iter().map(Option::unwrap_or_default)),
        T::LargeBinary => fold_slices(hashes, nulls, column.as_binary::<i64>().iter().map(Option::unwrap_or_default)),
        T::BinaryView => fold_slices(hashes, nulls, column.as_binary_view().iter().map(Option::unwrap_or_default)),
        T::FixedSizeBinary(_) => {
            fold_slices(hashes, nulls, column.as_fixed_size_binary().iter().map(Option::unwrap_or_default));
        }
        T::Struct(_) => {
            let mut words = vec![0; column.len()];
            for child in column.as_struct().columns() {
                fold(child, &mut words)?;
            }
            fold_words(hashes, nulls, words.into_iter());
        }
        T::List(_) => {
            let list = column.as_list::<i32>();
            fold_elements(hashes, nulls, list.values(), list.value_offsets())?;
        }
        T::LargeList(_) => {
            let list = column.as_list::<i64>();
            fold_elements(hashes, nulls, list.values(), list.value_offsets())?;
        }
        T::Map(..) => {
            let map = column.as_map();
            fold_elements(hashes, nulls, map.entries(), map.value_offsets())?;
        }
        T::FixedSizeList(_, length) => {
            let list = column.as_fixed_size_list();
            let offsets: Vec<i32> = (0..=column.len() as i32).map(|row| row * length).collect();
            fold_elements(hashes, nulls, list.values(), &offsets)?;
        }
        T::Dictionary(_, value) => {
            let plain =
                arrow::compute::cast(column, value).internal(|| "routing column cannot be decoded".to_owned())?;
            fold(&plain, hashes)?;
        }
        other => return Err(no_key_groups(other)),
    }
    Ok(())
}

fn fold_words(hashes: &mut [u64], nulls: Option<&NullBuffer>, words: impl Iterator<Item = u64>) {
    match nulls {
        None => hashes.iter_mut().zip(words).for_each(|(hash, word)| *hash = combine(*hash, word)),
        Some(nulls) => {
            for ((hash, word), valid) in hashes.iter_mut().zip(words).zip(nulls.iter()) {
                *hash = combine(*hash, if valid { word } else { NULL });
            }
        }
    }
}

fn fold_slices<'a>(hashes: &mut [u64], nulls: Option<&NullBuffer>, values: impl Iterator<Item = &'a [u8]>) {
    fold_words(hashes, nulls, values.map(|value| XxHash64::oneshot(0, value)));
}

fn fold_elements<O: OffsetSizeTrait>(
    hashes: &mut [u64],
    nulls: Option<&NullBuffer>,
    elements: &dyn Array,
    offsets: &[O],
) -> Result<()> {
    let mut words = vec![0; elements.len()];
    fold(elements, &mut words)?;
    let lists = offsets.windows(2).map(|ends| {
        let (start, end) = (ends[0].as_usize(), ends[1].as_usize());
        words[start..end].iter().fold(combine(0, (end - start) as u64), |hash, word| combine(hash, *word))
    });
    fold_words(hashes, nulls, lists);
    Ok(())
}

fn no_key_groups(data_type: &DataType) -> Error {
    Error::internal(format!("columns of type `{data_type}` cannot route"))
}
