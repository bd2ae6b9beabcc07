//! Aggregates whose frames are followed (DISTINCT, percentiles) or merged from blocks (all others), against DataFusion.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{concat, concat_batches};
use rand::Rng;

use super::harness::*;
use super::{ROWS, assert_by_hand, rolling, shape, streamed_equals_batch};
use crate::operator::spec::{RollingEmit, RollingSpec};
use crate::operator::{Operator, Tick};
use crate::time::{EventTime, Watermark};

const SHORT: &str = "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '30 seconds' PRECEDING AND CURRENT ROW";
const LONG: &str = "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '400 seconds' PRECEDING AND CURRENT ROW";
const GONE: &str =
    "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '300 seconds' PRECEDING AND INTERVAL '9 seconds' PRECEDING";
const AROUND: &str =
    "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '150 seconds' PRECEDING AND INTERVAL '40 seconds' FOLLOWING";

#[test]
fn distinct_values_and_percentiles_equal_batch() {
    let sql = [
        ("count(DISTINCT n)", SHORT),
        ("count(DISTINCT n)", LONG),
        ("count(DISTINCT v)", AROUND),
        ("count(DISTINCT w)", LONG),
        ("count(DISTINCT d)", GONE),
        ("count(DISTINCT s)", LONG),
        ("count(DISTINCT s)", SHORT),
        ("count(DISTINCT n > 500)", LONG),
        ("count(DISTINCT ts)", LONG),
        ("sum(DISTINCT n)", LONG),
        ("median(v)", LONG),
        ("median(v)", SHORT),
        ("median(n)", AROUND),
        ("median(d)", LONG),
        ("median(w)", GONE),
        ("percentile_cont(v, 0.9)", LONG),
        ("percentile_cont(v, 0.0)", GONE),
        ("percentile_cont(n, 1.0)", LONG),
        ("percentile_cont(n, 0.123456789)", SHORT),
        ("count(*)", LONG),
    ];
    streamed_equals_batch(1100..1127, &sql, |_| ());
}

#[test]
fn distinct_values_and_percentiles_equal_batch_where_a_filter_holds_and_over_rows() {
    let many = &format!("{ROWS} 150 PRECEDING AND CURRENT ROW");
    let few = &format!("{ROWS} 7 PRECEDING AND 2 PRECEDING");
    let ahead = &format!("{ROWS} 120 PRECEDING AND 3 FOLLOWING");
    let sql = [
        ("count(DISTINCT s)", many.as_str()),
        ("count(DISTINCT n)", few),
        ("median(v)", many),
        ("median(n)", ahead),
        ("count(DISTINCT s) FILTER (WHERE n > 300)", many),
        ("median(v) FILTER (WHERE s <> 's3')", ahead),
        ("sum(DISTINCT n) FILTER (WHERE v > 0)", few),
        ("lag(v)", "PARTITION BY k ORDER BY ts, id"),
    ];
    streamed_equals_batch(1200..1218, &sql, |shape| shape.rows = shape.rows.min(500));
}

/// Without FILTER, which `by_hand` does not support.
fn all_kinds(over: &'static str) -> Vec<(&'static str, &'static str)> {
    let functions = [
        "count(DISTINCT w)",
        "sum(DISTINCT w)",
        "avg(DISTINCT w)",
        "sum(DISTINCT d)",
        "avg(DISTINCT d)",
        "sum(DISTINCT n)",
        "bit_xor(DISTINCT n)",
        "count(DISTINCT s)",
        "median(w)",
        "median(DISTINCT w)",
        "median(DISTINCT d)",
        "percentile_cont(w, 0.25)",
        "percentile_cont(DISTINCT v, 0.75)",
        "min(s)",
        "max(DISTINCT s)",
        "corr(v, n)",
        "covar_samp(v, n)",
        "regr_slope(v, n)",
        "regr_count(v, n)",
        "bit_or(n)",
        "bit_xor(n)",
        "bool_and(n > 0)",
        "avg(n)",
    ];
    functions.iter().map(|function| (*function, over)).collect()
}

fn spec_of(rows: &RecordBatch, sql: &[(&str, &str)], emit: RollingEmit) -> RollingSpec {
    let functions = runtime().block_on(functions(&session(rows), &rows.schema(), sql));
    spec(&rows.schema(), functions, emit, None)
}

#[test]
fn long_frames_of_every_kind_say_what_accumulators_say_of_their_rows() {
    for seed in 1300..1309 {
        let mut random = seeded(seed);
        let mut shape = shape(seed);
        shape.rows = shape.rows.min(240);
        shape.keys = shape.keys.min(2);
        let (rows, watermarks) = stream(&mut random, &shape);
        for over in [LONG, AROUND] {
            let spec = spec_of(&rows, &all_kinds(over), RollingEmit::OnWatermark);
            let out = by_id(&spec.output, &run(&mut random, &spec, &rows, &watermarks));
            assert_eq!(out.num_rows(), rows.num_rows());
            assert_by_hand(&spec, &rows, &out, &format!("seed {seed}, {over}"));
        }
    }
}

/// Rows arrive far out of order, one by one or several at a time, and the operator is restored now and then.
#[test]
fn on_arrival_late_rows_count_in_frames_that_had_passed_them() {
    for seed in 1400..1406 {
        let mut random = seeded(seed);
        let shape =
            Shape { rows: 200, keys: 1, gap: SECOND, lag: 90 * SECOND, grain: SECOND / 4, text_keys: seed % 2 == 0 };
        let (rows, watermarks) = stream(&mut random, &shape);
        let spec = spec_of(&rows, &all_kinds(LONG), RollingEmit::OnArrival);
        let mut operator = rolling(spec.clone()).unwrap();
        let mut durable = Durable::default();
        let (mut at, mut before) = (0, Watermark::NONE);
        while at < rows.num_rows() {
            let count = random.random_range(1..9).min(rows.num_rows() - at);
            let step = rows.slice(at, count);
            at += count;
            let watermark = watermarks[at - 1];
            let stepped = operator.step(vec![vec![step]], Tick { before, watermark, now: EventTime(0) }).unwrap();
            let out = concat_batches(&spec.output, &stepped.rows).unwrap();
            for row in 0..count {
                let known = rows.slice(0, at - count + row + 1);
                assert_by_hand(&spec, &known, &out.slice(row, 1), &format!("seed {seed}, before {at}"));
            }
            before = watermark;
            if random.random_bool(0.1) {
                durable.apply(&operator.state(), operator.changes().unwrap());
                operator = durable.restore(&spec, 1, before).remove(0);
            }
        }
    }
}

/// The functions' columns of all rows, by id, computed in one run without crashes.
fn computed(rows: &RecordBatch, sql: &[(&str, &str)], step: usize) -> Vec<ArrayRef> {
    let spec = spec_of(rows, sql, RollingEmit::OnWatermark);
    let mut operator = rolling(spec.clone()).unwrap();
    let out = steps(operator.as_mut(), rows, step).unwrap();
    by_id(&spec.output, &out).columns()[rows.num_columns()..].to_vec()
}

fn steps(operator: &mut dyn Operator, rows: &RecordBatch, step: usize) -> crate::error::Result<Vec<RecordBatch>> {
    let (mut out, mut before) = (Vec::new(), Watermark::NONE);
    for at in (0..rows.num_rows()).step_by(step) {
        let count = step.min(rows.num_rows() - at);
        let last = at + count == rows.num_rows();
        let watermark = if last { Watermark::END } else { Watermark(super::times(rows.column(TIME))[at + count - 1]) };
        let stepped =
            operator.step(vec![vec![rows.slice(at, count)]], Tick { before, watermark, now: EventTime(0) })?;
        out.extend(stepped.rows);
        before = watermark;
    }
    Ok(out)
}

fn in_order(rows: usize) -> RecordBatch {
    stream(&mut seeded(11), &Shape { rows, keys: 1, gap: SECOND, lag: 0, grain: 1, text_keys: false }).0
}

#[test]
fn approximations_are_exact_over_frames() {
    let rows = in_order(800);
    let sql = [
        ("approx_median(v)", LONG),
        ("median(v)", LONG),
        ("approx_percentile_cont(v, 0.9)", SHORT),
        ("percentile_cont(v, 0.9)", SHORT),
        ("approx_percentile_cont(n, 0.2, 50)", LONG),
        ("percentile_cont(n, 0.2)", LONG),
    ];
    let columns = computed(&rows, &sql, 50);
    for pair in 0..3 {
        assert_same(&columns[2 * pair], &columns[2 * pair + 1], sql[2 * pair].0);
    }
    let counts = computed(&rows, &[("CAST(approx_distinct(s) AS BIGINT)", LONG), ("count(DISTINCT s)", LONG)][1..], 50);
    let approximate = computed(&rows, &[("approx_distinct(s)", LONG)], 50);
    let approximate = arrow::compute::cast(&approximate[0], counts[0].data_type()).unwrap();
    assert_eq!(&approximate, &counts[0]);
}

#[test]
fn results_do_not_depend_on_how_rows_are_cut_into_steps() {
    let rows = in_order(900);
    let sql = all_kinds(LONG);
    let one = computed(&rows, &sql, 900);
    let many = computed(&rows, &sql, 7);
    for (index, (function, _)) in sql.iter().enumerate() {
        assert_same(&one[index], &many[index], function);
    }
}

/// No unneeded row is kept once frames have moved past it.
#[test]
fn what_functions_keep_goes_with_the_rows_of_their_frames() {
    let sql = [("count(DISTINCT s)", LONG), ("median(v)", LONG), ("count(DISTINCT v)", LONG), ("max(s)", LONG)];
    let rows = in_order(12_000);
    let mut operator = rolling(spec_of(&rows, &sql, RollingEmit::OnWatermark)).unwrap();
    steps(operator.as_mut(), &rows.slice(0, 6_000), 100).unwrap();
    let mut fresh = rolling(spec_of(&rows, &sql, RollingEmit::OnWatermark)).unwrap();
    steps(fresh.as_mut(), &rows, 100).unwrap();
    let (half, all) = (operator.usage().bytes, fresh.usage().bytes);
    assert!(all < half * 3 / 2, "{all} bytes after {half}");
}

#[test]
fn frames_that_collect_too_many_rows_end_with_the_option_that_bounds_them() {
    let rows = in_order(300);
    let sql = [("array_agg(n)", "PARTITION BY id % 2 ORDER BY ts, id ROWS BETWEEN 99 PRECEDING AND CURRENT ROW")];
    let mut spec = spec_of(&rows, &sql, RollingEmit::OnWatermark);
    spec.keys = vec![];
    spec.collect_limit = 100;
    let mut operator = rolling(spec.clone()).unwrap();
    let out = steps(operator.as_mut(), &rows, 40).unwrap();
    let lists: Vec<&dyn Array> = out.iter().map(|out| out.column(rows.num_columns()).as_ref()).collect();
    assert_eq!(concat(&lists).unwrap().len(), 300);
    spec.collect_limit = 99;
    let mut operator = rolling(spec).unwrap();
    let error = steps(operator.as_mut(), &rows, 40).unwrap_err();
    let text = format!("{error} {} {}", error.detail().unwrap_or_default(), error.hint().unwrap_or_default());
    assert!(text.contains("a frame of `f` holds more rows") && text.contains("100 rows"), "{text}");
    assert!(text.contains("`rolling_collect_limit` is 99"), "{text}");
}
