//! Key groups: golden numbers, and equal groups for equal values.

use std::collections::BTreeSet;

use arrow::array::*;
use arrow::datatypes::*;

use super::*;
use crate::state::{KEY_GROUPS, groups_of, key_groups, shard_of, split};

fn groups(columns: &[ArrayRef]) -> Vec<u16> {
    key_groups(columns, columns[0].len()).unwrap()
}

fn array(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

/// Existing state is stored by these numbers: they may never change.
#[test]
fn groups_are_what_they_always_were() {
    let integers = array(Int64Array::from(vec![Some(0), Some(1), Some(-1), Some(42), Some(i64::MAX), None]));
    let strings = array(StringArray::from(vec![Some(""), Some("a"), Some("user-17"), Some("ü"), Some("0"), None]));
    let floats = array(Float64Array::from(vec![Some(0.0), Some(1.5), Some(f64::NAN), Some(-2.0), Some(1e300), None]));
    let flags = array(BooleanArray::from(vec![Some(false), Some(true), None, None, None, None]));
    let decimals = Decimal128Array::from(vec![Some(0), Some(1), Some(-1), Some(i128::MAX), Some(100), None]);
    let decimals = array(decimals.with_precision_and_scale(38, 2).unwrap());
    let lists = array(ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![]),
        Some(vec![Some(1)]),
        Some(vec![Some(1), Some(2)]),
        Some(vec![None]),
        None,
        None,
    ]));
    let intervals = array(IntervalMonthDayNanoArray::from(vec![
        Some(IntervalMonthDayNano::new(0, 0, 0)),
        Some(IntervalMonthDayNano::new(1, 2, 3)),
        None,
        None,
        None,
        None,
    ]));
    let structs = StructArray::from(vec![
        (Arc::new(Field::new("a", DataType::Int64, true)), integers.clone()),
        (Arc::new(Field::new("b", DataType::Utf8, true)), strings.clone()),
    ]);
    let structs = array(structs);
    assert_eq!(groups(std::slice::from_ref(&integers)), GOLDEN[0]);
    assert_eq!(groups(std::slice::from_ref(&strings)), GOLDEN[1]);
    assert_eq!(groups(&[floats]), GOLDEN[2]);
    assert_eq!(groups(&[flags]), GOLDEN[3]);
    assert_eq!(groups(&[decimals]), GOLDEN[4]);
    assert_eq!(groups(&[lists]), GOLDEN[5]);
    assert_eq!(groups(&[intervals]), GOLDEN[6]);
    assert_eq!(groups(&[structs]), GOLDEN[7]);
    assert_eq!(groups(&[integers, strings]), GOLDEN[8]);
}

/// Computed by a separate program from the description in `key_group.rs`.
const GOLDEN: [[u16; 6]; 9] = [
    [113, 114, 111, 94, 28, 70],
    [78, 32, 13, 60, 93, 70],
    [113, 68, 67, 4, 105, 70],
    [113, 114, 70, 70, 70, 70],
    [85, 27, 115, 17, 102, 70],
    [1, 31, 57, 20, 70, 70],
    [26, 15, 70, 70, 70, 70],
    [116, 42, 71, 37, 36, 117],
    [17, 16, 83, 42, 36, 19],
];

#[test]
fn equal_values_have_equal_groups_whatever_their_type() {
    let numbers = [0_i64, 1, -1, 100, -128];
    let wide = groups(&[array(Int64Array::from(numbers.to_vec()))]);
    let narrow = Int8Array::from_iter_values(numbers.iter().map(|n| *n as i8));
    assert_eq!(wide, groups(&[array(narrow)]));
    assert_eq!(wide, groups(&[array(Int16Array::from_iter_values(numbers.iter().map(|n| *n as i16)))]));
    assert_eq!(wide, groups(&[array(Int32Array::from_iter_values(numbers.iter().map(|n| *n as i32)))]));
    assert_eq!(wide, groups(&[array(TimestampMicrosecondArray::from(numbers.to_vec()).with_timezone("UTC"))]));
    assert_eq!(wide, groups(&[array(Date32Array::from_iter_values(numbers.iter().map(|n| *n as i32)))]));
    let unsigned = groups(&[array(UInt64Array::from(vec![0, 1, 200, 1 << 31]))]);
    assert_eq!(unsigned, groups(&[array(UInt32Array::from(vec![0, 1, 200, 1 << 31]))]));
    assert_eq!(unsigned[..3], groups(&[array(UInt8Array::from(vec![0, 1, 200]))]));
    assert_eq!(unsigned[..3], groups(&[array(UInt16Array::from(vec![0, 1, 200]))]));

    let texts = [Some("a"), None, Some(""), Some("a longer text than fits a view")];
    let plain = groups(&[array(StringArray::from_iter(texts))]);
    assert_eq!(plain, groups(&[array(StringViewArray::from_iter(texts))]));
    assert_eq!(plain, groups(&[array(LargeStringArray::from_iter(texts))]));
    assert_eq!(plain, groups(&[array(BinaryArray::from_iter(texts.map(|t| t.map(str::as_bytes))))]));
    assert_eq!(plain, groups(&[array(BinaryViewArray::from_iter(texts.map(|t| t.map(str::as_bytes))))]));
    assert_eq!(plain, groups(&[array(LargeBinaryArray::from_iter(texts.map(|t| t.map(str::as_bytes))))]));
    assert_eq!(plain, groups(&[array(texts.into_iter().collect::<DictionaryArray<Int32Type>>())]));
    let fixed = FixedSizeBinaryArray::try_from_iter([b"ab", b"cd"].into_iter()).unwrap();
    assert_eq!(groups(&[array(fixed)]), groups(&[array(StringArray::from(vec!["ab", "cd"]))]));

    let odd_nan = f64::from_bits(0xFFF8_0000_0000_0001);
    let floats = groups(&[array(Float64Array::from(vec![0.0, -0.0, f64::NAN, odd_nan, 0.5]))]);
    assert_eq!((floats[0], floats[2]), (floats[1], floats[3]));
    assert_eq!(floats, groups(&[array(Float32Array::from(vec![0.0, -0.0, f32::NAN, -f32::NAN, 0.5]))]));
}

#[test]
fn values_under_nulls_and_outside_slices_do_not_count() {
    let nulls = Some(arrow::buffer::NullBuffer::from(vec![false, false, true]));
    let hidden = Int64Array::new(vec![7, 8, 9].into(), nulls);
    let clean = Int64Array::from(vec![None, None, Some(9)]);
    assert_eq!(groups(&[array(hidden)]), groups(&[array(clean)]));

    let long = StringArray::from(vec![Some("x"), None, Some("y"), Some("z")]);
    assert_eq!(groups(&[array(long.slice(1, 2))]), groups(&[array(StringArray::from(vec![None, Some("y")]))]));
    let numbers = Int64Array::from(vec![Some(1), None, Some(3), Some(4)]);
    assert_eq!(groups(&[array(numbers.slice(2, 2))]), groups(&[array(Int64Array::from(vec![3, 4]))]));
    let flags = BooleanArray::from(vec![true, false, true, true]);
    assert_eq!(groups(&[array(flags.slice(1, 2))]), groups(&[array(BooleanArray::from(vec![false, true]))]));
    let lists = |rows: Vec<Option<Vec<Option<i64>>>>| ListArray::from_iter_primitive::<Int64Type, _, _>(rows);
    let list = lists(vec![Some(vec![Some(9)]), Some(vec![Some(1), None]), None]);
    assert_eq!(groups(&[array(list.slice(1, 2))]), groups(&[array(lists(vec![Some(vec![Some(1), None]), None]))]));
    let pairs =
        |rows: Vec<Option<Vec<Option<i64>>>>| FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(rows, 2);
    let pair = pairs(vec![Some(vec![Some(9), Some(8)]), Some(vec![Some(1), None]), None]);
    assert_eq!(groups(&[array(pair.slice(1, 1))]), groups(&[array(pairs(vec![Some(vec![Some(1), None])]))]));
}

#[test]
fn rows_spread_evenly_over_the_groups() {
    let mut counts = vec![0; KEY_GROUPS.into()];
    let columns = [array(Int64Array::from_iter_values((0..128_000).map(|n| n * 1000)))];
    groups(&columns).into_iter().for_each(|group| counts[usize::from(group)] += 1);
    assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    let pair = [columns[0].clone(), columns[0].clone()];
    assert_eq!(groups(&pair).into_iter().collect::<BTreeSet<_>>().len(), 128, "equal columns do not cancel out");
}

#[test]
fn every_group_has_one_shard_and_every_shard_the_groups_that_say_so() {
    for shards in [1, 2, 3, 5, 7, 64, 127, 128, 129, 1000] {
        let mut next = 0;
        for shard in 0..shards {
            let range = groups_of(shard, shards);
            assert!(range.is_empty() || range.start == next);
            assert!(range.clone().all(|group| shard_of(group, shards) == shard), "{shard} of {shards}: {range:?}");
            next = range.end.max(next);
        }
        assert_eq!(next, KEY_GROUPS);
    }
}

#[test]
fn splitting_keeps_every_row_once_and_in_order() {
    let table = table(KeyKind::Narrow, false);
    let rows = upserts(&table, &numbered(0..1000));
    let parts: Vec<u16> = (0..1000).map(|row| (row * 7 % 5) as u16).collect();
    let divided = split(&rows, &parts, 6).unwrap();
    assert!(divided[5].is_none());
    for (part, rows) in divided.iter().take(5).enumerate() {
        let numbers: Vec<i64> = rows_of(rows.as_ref().unwrap()).iter().map(|row| row.0.unwrap()).collect();
        assert_eq!(numbers, (0..1000).filter(|row| row * 7 % 5 == part as i64).collect::<Vec<_>>());
    }
    let all = split(&rows, &vec![3; 1000], 4).unwrap();
    assert_eq!(all[3].as_ref(), Some(&rows));
    assert!(split(&rows.slice(0, 0), &[], 2).unwrap().iter().all(Option::is_none));
}
