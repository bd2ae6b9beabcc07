//! Deduplication against DataFusion in batch, and where SQL cannot express it, against a list of all rows let through.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::deduplicate;
use crate::operator::Tick;
use crate::operator::keyed::harness::{
    Flow, ID, K, N, TS, V, assert_same, batch_sql, consolidated, feed, random_rows, rows_of_odd_types, schema,
};
use crate::operator::keyed::micros;
use crate::operator::spec::{DeduplicateEmit, DeduplicateSpec, TimeColumn};
use crate::time::{EventTime, Lag, Watermark};

fn spec(keys: &[usize], emit: DeduplicateEmit, within: Option<i64>, lag: i64) -> DeduplicateSpec {
    let time = Some(TimeColumn { column: TS, lag: Lag(lag) });
    DeduplicateSpec { input: schema(), keys: keys.to_vec(), time, within: within.map(Lag), emit }
}

/// The rows whose key and time are not close to those of a row let through before, in the given order.
fn first_ones(rows: &RecordBatch, order: &[usize], within: i64) -> BTreeMap<String, i64> {
    let times = micros(rows, TS).unwrap();
    let keys = rows.column(K).as_string::<i32>();
    let mut passed: BTreeMap<Option<&str>, Vec<i64>> = BTreeMap::new();
    let mut chosen = Vec::new();
    for &row in order {
        let of_key = passed.entry(keys.is_valid(row).then(|| keys.value(row))).or_default();
        let time = times.value(row);
        if of_key.iter().all(|then| (then - time).abs() >= within) {
            of_key.push(time);
            chosen.push(row as u32);
        }
    }
    consolidated(&[take_record_batch(rows, &UInt32Array::from(chosen)).unwrap()], false)
}

#[test]
fn the_earliest_row_per_key_comes_out_as_in_batch() {
    for seed in 0..120 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 400, 50);
        let lag = rng.random_range(-20..20);
        let make = || deduplicate(spec(&[K, N], DeduplicateEmit::OnWatermark, None, lag)).unwrap();
        let mut flow = Flow::new(&make, &[K, N]);
        feed(&mut flow, &rows, TS, 50, lag, rng);
        let sql =
            "SELECT k, ts, v, n, id FROM (SELECT *, row_number() OVER (PARTITION BY k, n ORDER BY ts, id) AS rn FROM t)
                   WHERE rn = 1";
        assert_same(&consolidated(&flow.rows, false), &batch_sql(&rows, sql), seed);
        assert!(flow.late.is_empty());
    }
}

#[test]
fn the_first_row_to_arrive_comes_out_at_once() {
    for seed in 0..120 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 400, 50);
        let make = || deduplicate(spec(&[N, K], DeduplicateEmit::OnArrival, None, 0)).unwrap();
        let mut flow = Flow::new(&make, &[N, K]);
        feed(&mut flow, &rows, TS, 50, 0, rng);
        let sql =
            "SELECT k, ts, v, n, id FROM (SELECT *, row_number() OVER (PARTITION BY k, n ORDER BY id) AS rn FROM t)
                   WHERE rn = 1";
        assert_same(&consolidated(&flow.rows, false), &batch_sql(&rows, sql), seed);
    }
}

#[test]
fn distinct_is_deduplication_by_all_columns() {
    for seed in 0..60 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 500, 5).project(&[K, V, N]).unwrap();
        let input = rows.schema();
        let make = || {
            let (input, emit) = (Arc::clone(&input), DeduplicateEmit::OnArrival);
            deduplicate(DeduplicateSpec { input, keys: vec![0, 1, 2], time: None, within: None, emit }).unwrap()
        };
        let mut flow = Flow::new(&make, &[0, 1, 2]);
        feed(&mut flow, &rows, 2, 1000, 0, rng);
        // A batch emits 0 for both zeros, a stream the one that arrived.
        let got = consolidated(&flow.rows, false).into_iter().map(|(row, n)| (row.replace("-0.0", "0.0"), n));
        let count = flow.rows.iter().map(RecordBatch::num_rows).sum::<usize>();
        let got: BTreeMap<String, i64> = got.collect();
        assert_eq!(got.len(), count, "seed {seed}");
        assert_same(&got, &batch_sql(&rows, "SELECT DISTINCT k, v, n FROM t"), seed);
    }
}

#[test]
fn within_bounds_what_counts_as_a_duplicate_on_arrival() {
    for seed in 0..150 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 400, 60);
        let (within, lag) = (rng.random_range(1..200), rng.random_range(-20..20));
        let make = || deduplicate(spec(&[K], DeduplicateEmit::OnArrival, Some(within), lag)).unwrap();
        let mut flow = Flow::new(&make, &[K]);
        feed(&mut flow, &rows, TS, 60, lag, rng);
        let order: Vec<usize> = (0..rows.num_rows()).collect();
        assert_same(&consolidated(&flow.rows, false), &first_ones(&rows, &order, within), seed);
        assert!(flow.late.is_empty());
    }
}

#[test]
fn within_bounds_what_counts_as_a_duplicate_by_time() {
    for seed in 0..200 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 400, 60);
        let (within, lag) = (rng.random_range(1..120), rng.random_range(-20..20));
        let make = || deduplicate(spec(&[K], DeduplicateEmit::OnWatermark, Some(within), lag)).unwrap();
        let mut flow = Flow::new(&make, &[K]);
        feed(&mut flow, &rows, TS, 60, lag, rng);
        let times = micros(&rows, TS).unwrap();
        let mut order: Vec<usize> = (0..rows.num_rows()).collect();
        order.sort_by_key(|row| times.value(*row));
        assert_same(&consolidated(&flow.rows, false), &first_ones(&rows, &order, within), seed);
        assert!(flow.late.is_empty());
        let (live, stored) = flow.remembered();
        assert_eq!((live, stored > 0), (0, stored > 0), "seed {seed}: keys remain after the end of time");
    }
}

fn rows_at(keys: &[&str], times: &[Option<i64>]) -> RecordBatch {
    let n = keys.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(keys.to_vec())),
        Arc::new(TimestampMicrosecondArray::from(times.to_vec())),
        arrow::array::new_null_array(schema().field(V).data_type(), n),
        arrow::array::new_null_array(schema().field(N).data_type(), n),
        Arc::new(Int64Array::from_iter_values(0..n as i64)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(ID).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[test]
fn a_late_row_is_tested_while_its_time_is_remembered_and_late_after() {
    let make = || deduplicate(spec(&[K], DeduplicateEmit::OnArrival, Some(100), 0)).unwrap();
    let mut flow = Flow::new(&make, &[K]);
    flow.step(&[rows_at(&["a", "b"], &[Some(1000), Some(1050)])], Watermark(1090));
    // In order: a copy of `a`; a new key; a row older than the floor by one microsecond; a row without a time.
    let late = rows_at(&["a", "c", "d", "e"], &[Some(1000), Some(991), Some(990), None]);
    assert_eq!(ids(&flow.step(&[late], Watermark(1090))), [1]);
    assert_eq!(ids(&flow.late), [2, 3]);
    // `a` expires at 1100, to the microsecond.
    flow.step(&[], Watermark(1099));
    assert_eq!(ids(&flow.step(&[rows_at(&["a"], &[Some(1099)])], Watermark(1100))), Vec::<i64>::new());
    assert_eq!(ids(&flow.step(&[rows_at(&["a"], &[Some(1100)])], Watermark(1100))), [0]);
}

#[test]
fn a_row_by_watermark_is_late_once_its_time_is_complete() {
    let make = || deduplicate(spec(&[K], DeduplicateEmit::OnWatermark, Some(100), 10)).unwrap();
    let mut flow = Flow::new(&make, &[K]);
    assert_eq!(ids(&flow.step(&[rows_at(&["a", "a"], &[Some(1001), Some(1000)])], Watermark(1010))), Vec::<i64>::new());
    assert_eq!(ids(&flow.step(&[], Watermark(1011))), [1]);
    flow.step(&[rows_at(&["b", "c", "d"], &[Some(1000), Some(1001), None])], Watermark(1012));
    assert_eq!(ids(&flow.late), [0, 2]);
    assert_eq!(ids(&flow.rows), [1, 1]);
}

#[test]
fn without_event_time_keys_are_remembered_by_processing_time() {
    let make = || {
        let (input, emit) = (schema(), DeduplicateEmit::OnArrival);
        deduplicate(DeduplicateSpec { input, keys: vec![K], time: None, within: Some(Lag(100)), emit }).unwrap()
    };
    let mut flow = Flow::new(&make, &[K]);
    let rng = &mut StdRng::seed_from_u64(1);
    for (now, first) in [(1000, true), (1099, false), (1100, true), (1150, false), (1199, false), (1300, true)] {
        flow.now = EventTime(now);
        let out = flow.step(&[rows_at(&["a", "a"], &[None, None])], Watermark::NONE);
        assert_eq!(ids(&out), if first { vec![0] } else { vec![] }, "at {now}");
        flow.save();
        flow.rebuild(3, rng);
    }
    assert_eq!(flow.remembered(), (1, 1));
}

#[test]
fn deduplication_by_watermark_without_a_time_is_refused() {
    let spec = DeduplicateSpec { time: None, ..spec(&[K], DeduplicateEmit::OnWatermark, None, 0) };
    assert!(deduplicate(spec).is_err());
}

fn distinct_keys(from: u64, count: u64, time: i64) -> RecordBatch {
    let keys = (from..from + count).map(|i| format!("{:010x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xff_ffff_ffff));
    let keys: Vec<String> = keys.collect();
    rows_at(&keys.iter().map(String::as_str).collect::<Vec<_>>(), &vec![Some(time); count as usize])
}

#[test]
fn a_short_key_costs_at_most_60_bytes() {
    let mut operator = deduplicate(spec(&[K], DeduplicateEmit::OnArrival, Some(1 << 40), 0)).unwrap();
    let tick = Tick { before: Watermark(0), watermark: Watermark(0), now: EventTime(0) };
    let (mut keys, mut worst) = (0, 0);
    while keys < 400_000 {
        operator.step(vec![vec![distinct_keys(keys, 5_000, keys as i64)]], tick).unwrap();
        keys += 5_000;
        if keys >= 100_000 {
            worst = worst.max(operator.usage().bytes / operator.usage().rows);
        }
    }
    assert_eq!(operator.usage().rows, keys);
    assert!((30..=60).contains(&worst), "{worst} bytes a key");
}

#[test]
fn memory_is_flat_while_time_moves_on() {
    let make = || deduplicate(spec(&[K], DeduplicateEmit::OnArrival, Some(50_000), 0)).unwrap();
    let mut flow = Flow::new(&make, &[K]);
    let mut early = 0;
    for step in 0..600_u64 {
        let time = step as i64 * 1000;
        let out = flow.step(&[distinct_keys(step * 200, 200, time)], Watermark(time));
        assert_eq!(out.iter().map(RecordBatch::num_rows).sum::<usize>(), 200);
        let changes = flow.step(&[], Watermark(time));
        assert!(changes.is_empty());
        if step == 100 {
            early = flow.bytes();
        }
    }
    // 50 steps of rows, and up to a 32nd part of them whose memory is not freed yet.
    assert!(flow.remembered().0 <= 53 * 200, "{} rows", flow.remembered().0);
    assert!(flow.bytes() <= early * 12 / 10, "{} bytes, {early} at first", flow.bytes());
    flow.step(&[], Watermark::END);
    assert_eq!(flow.remembered().0, 0);
}

#[test]
fn keys_of_any_type_survive_a_restart() {
    for seed in 0..40 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = rows_of_odd_types(rng, 200);
        let emit = if seed % 2 == 0 { DeduplicateEmit::OnArrival } else { DeduplicateEmit::OnWatermark };
        let (time, keys) = (Some(TimeColumn { column: 3, lag: Lag(0) }), vec![2, 0, 1]);
        let spec = DeduplicateSpec { input: rows.schema(), keys: keys.clone(), time, within: Some(Lag(1 << 40)), emit };
        let make = || deduplicate(spec.clone()).unwrap();
        let mut flow = Flow::new(&make, &keys);
        feed(&mut flow, &rows, 3, 30, 0, rng);
        let sql = "SELECT a, b, c, min(ts) FROM t GROUP BY a, b, c";
        assert_same(&consolidated(&flow.rows, false), &batch_sql(&rows, sql), seed);
    }
}
