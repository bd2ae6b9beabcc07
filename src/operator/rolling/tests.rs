//! Streamed in random steps over random shards with random crashes = DataFusion over all rows.

mod harness;
mod retractable;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator as Op;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{binary, col, lit};
use rand::Rng;
use std::sync::Arc;

use self::harness::*;
use super::bound::{Bound, Extent};
use super::rolling;
use super::waiting::times;
use crate::equality::key_values;
use crate::operator::Tick;
use crate::operator::spec::{RollingEmit, RollingKind, RollingSpec};
use crate::time::{EventTime, Watermark};

const RANGE: &str = "PARTITION BY k ORDER BY ts RANGE BETWEEN";
const ROWS: &str = "PARTITION BY k ORDER BY ts, id ROWS BETWEEN";

/// Shapes that vary the content of frames: few rows or many, ties or none.
fn shape(seed: u64) -> Shape {
    let (rows, gap) = [(120, 8), (350, 2), (700, 1)][seed as usize % 3];
    Shape {
        rows,
        keys: [3, 12, 1][seed as usize % 3],
        gap: gap * SECOND,
        lag: [0, 6, 15][(seed / 3) as usize % 3] * SECOND,
        grain: [SECOND, SECOND / 8, 1][(seed / 9) as usize % 3],
        text_keys: seed.is_multiple_of(2),
    }
}

/// Runs the functions over seeded streams and compares each with DataFusion's window operator.
fn streamed_equals_batch(seeds: std::ops::Range<u64>, sql: &[(&str, &str)], reshape: fn(&mut Shape)) {
    for seed in seeds {
        let mut random = seeded(seed);
        let mut shape = shape(seed);
        reshape(&mut shape);
        let (rows, watermarks) = stream(&mut random, &shape);
        let session = session(&rows);
        let input = rows.schema();
        // In every third case rows that a filter leaves out are not computed.
        let some = seed % 3 == 1;
        let (functions, expected) = runtime().block_on(async {
            let select: Vec<_> = sql
                .iter()
                .enumerate()
                .map(|(at, (function, over))| format!("{function} OVER ({over}) AS f{at}"))
                .collect();
            let all = format!("SELECT t.*, {} FROM t", select.join(", "));
            let text = if some { format!("SELECT * FROM ({all}) WHERE n > 300") } else { all };
            let expected = session.sql(&text).await.unwrap().collect().await.unwrap();
            (functions(&session, &input, sql).await, expected)
        });
        let mut spec = spec(&input, functions, RollingEmit::OnWatermark, None);
        spec.shown = some.then(|| binary(col("n", &input).unwrap(), Op::Gt, lit(300_i64), &input).unwrap());
        let out = run(&mut random, &spec, &rows, &watermarks);
        let out = by_id(&spec.output, &out);
        let expected = by_id(&expected[0].schema(), &expected);
        assert_eq!(out.num_rows(), expected.num_rows(), "seed {seed}");
        assert_eq!(out.num_rows() < rows.num_rows(), some, "seed {seed}");
        for column in 0..input.fields().len() {
            let given = [out.column(column), expected.column(column)].map(key_values);
            assert_eq!(&given[0], &given[1], "seed {seed}, column {column}");
        }
        for (index, (function, over)) in sql.iter().enumerate() {
            let column = input.fields().len() + index;
            let what = format!("seed {seed}: {function} OVER ({over})");
            assert_same(out.column(column), expected.column(column), &what);
        }
    }
}

#[test]
fn frames_up_to_the_current_row_equal_batch() {
    let short = &format!("{RANGE} INTERVAL '30 seconds' PRECEDING AND CURRENT ROW");
    let long = &format!("{RANGE} INTERVAL '400 seconds' PRECEDING AND CURRENT ROW");
    let now = &format!("{RANGE} CURRENT ROW AND CURRENT ROW");
    let sql = [
        ("count(*)", short.as_str()),
        ("count(v)", short),
        ("count(s)", long),
        ("sum(v)", short),
        ("sum(v)", long),
        ("avg(v)", short),
        ("avg(v)", long),
        ("sum(n)", long),
        ("avg(n)", short),
        ("min(v)", long),
        ("max(w)", short),
        ("min(w)", long),
        ("max(n)", long),
        ("min(ts)", short),
        ("stddev(v)", short),
        ("var_pop(v)", long),
        ("stddev_pop(v)", short),
        ("sum(d)", long),
        ("avg(d)", short),
        ("max(d)", long),
        ("count(*)", now),
        ("sum(n)", now),
    ];
    streamed_equals_batch(0..27, &sql, |_| ());
}

#[test]
fn frames_that_end_before_the_current_row_equal_batch() {
    let near = &format!("{RANGE} INTERVAL '27 seconds' PRECEDING AND INTERVAL '7 seconds' PRECEDING");
    let far = &format!("{RANGE} INTERVAL '300 seconds' PRECEDING AND INTERVAL '60 seconds' PRECEDING");
    let sql = [
        ("count(*)", near.as_str()),
        ("count(*)", far),
        ("avg(v)", near),
        ("avg(v)", far),
        ("sum(n)", near),
        ("max(v)", far),
        ("min(s)", near),
        ("var_samp(v)", far),
    ];
    streamed_equals_batch(100..118, &sql, |_| ());
}

#[test]
fn rows_wait_for_frames_that_reach_ahead() {
    let around = &format!("{RANGE} INTERVAL '10 seconds' PRECEDING AND INTERVAL '15 seconds' FOLLOWING");
    let ahead = &format!("{RANGE} INTERVAL '1 second' FOLLOWING AND INTERVAL '40 seconds' FOLLOWING");
    let back = &format!("{RANGE} INTERVAL '1 minute' PRECEDING AND CURRENT ROW");
    let sql = [
        ("count(*)", around.as_str()),
        ("sum(v)", ahead),
        ("min(n)", around),
        ("avg(v)", back),
        ("max(s)", ahead),
        ("count(v)", ahead),
    ];
    streamed_equals_batch(200..218, &sql, |_| ());
}

#[test]
fn filters_and_distinct_and_unknown_aggregates_equal_batch() {
    let back = &format!("{RANGE} INTERVAL '1 minute' PRECEDING AND CURRENT ROW");
    let sql = [
        ("count(*) FILTER (WHERE n > 300)", back.as_str()),
        ("sum(v) FILTER (WHERE n > 300)", back),
        ("avg(v) FILTER (WHERE s <> 's3')", back),
        ("max(n) FILTER (WHERE v > 0)", back),
        ("count(DISTINCT n)", back),
        ("max(s)", back),
        ("min(s) FILTER (WHERE n > 300)", back),
        ("sum(v + n)", back),
        ("corr(v, v)", back),
    ];
    streamed_equals_batch(300..309, &sql, |shape| shape.rows = shape.rows.min(400));
}

#[test]
fn functions_of_rows_equal_batch() {
    let five = &format!("{ROWS} 5 PRECEDING AND CURRENT ROW");
    let gone = &format!("{ROWS} 9 PRECEDING AND 3 PRECEDING");
    let many = &format!("{ROWS} 150 PRECEDING AND CURRENT ROW");
    let order = "PARTITION BY k ORDER BY ts, id";
    let sql = [
        ("sum(v)", five.as_str()),
        ("count(*)", gone),
        ("max(n)", gone),
        ("avg(v)", many),
        ("sum(n)", many),
        ("row_number()", order),
        ("lag(v)", order),
        ("lag(n, 3, -1)", order),
        ("lag(s, 2, 'none')", order),
        ("lag(n) IGNORE NULLS", order),
        ("lag(v, 3) IGNORE NULLS", order),
        ("lag(n, 2, -1) IGNORE NULLS", order),
        ("first_value(v)", five),
        ("last_value(s)", gone),
        ("first_value(n) IGNORE NULLS", five),
        ("last_value(v) IGNORE NULLS", gone),
        ("nth_value(v, 2)", five),
        ("nth_value(s, 3)", gone),
        ("nth_value(n, -2)", five),
        ("nth_value(n, 2) IGNORE NULLS", five),
        ("nth_value(v, -3) IGNORE NULLS", gone),
        ("array_agg(n)", five),
    ];
    streamed_equals_batch(400..418, &sql, |shape| shape.rows = shape.rows.min(500));
}

#[test]
fn rows_wait_for_rows_that_follow() {
    let ahead = &format!("{ROWS} 2 PRECEDING AND 3 FOLLOWING");
    let order = "PARTITION BY k ORDER BY ts, id";
    let sql = [
        ("sum(v)", ahead.as_str()),
        ("lead(n)", order),
        ("lead(s, 4, 'last')", order),
        ("lag(v, 2)", order),
        ("count(*)", ahead),
        ("row_number()", order),
    ];
    streamed_equals_batch(500..515, &sql, |shape| shape.rows = shape.rows.min(300));
}

#[test]
fn frames_by_time_and_by_rows_equal_batch_together() {
    let back = &format!("{RANGE} INTERVAL '1 minute' PRECEDING AND CURRENT ROW");
    let around = &format!("{RANGE} INTERVAL '5 seconds' PRECEDING AND INTERVAL '5 seconds' FOLLOWING");
    let order = "PARTITION BY k ORDER BY ts, id";
    let sql = [
        ("avg(v)", back.as_str()),
        ("lag(v)", order),
        ("lead(v)", order),
        ("row_number()", order),
        ("count(*)", around),
        ("max(s)", back),
    ];
    streamed_equals_batch(600..612, &sql, |shape| shape.rows = shape.rows.min(300));
}

#[test]
fn frames_without_a_beginning_equal_batch() {
    let all = "PARTITION BY k ORDER BY ts";
    let to = &format!("{RANGE} UNBOUNDED PRECEDING AND INTERVAL '10 seconds' PRECEDING");
    let sql =
        [("count(*)", all), ("sum(v)", all), ("min(v)", to), ("avg(v)", to), ("max(w)", all), ("var_samp(v)", to)];
    streamed_equals_batch(700..712, &sql, |_| ());
}

#[test]
fn months_go_by_the_calendar() {
    let month = &format!("{RANGE} INTERVAL '1 month' PRECEDING AND CURRENT ROW");
    let around = &format!("{RANGE} INTERVAL '1 month 3 days' PRECEDING AND INTERVAL '1 month' FOLLOWING");
    let sql = [("count(*)", month.as_str()), ("sum(n)", month), ("count(*)", around), ("sum(v)", around)];
    streamed_equals_batch(800..812, &sql, |shape| {
        shape.gap = 40 * 3600 * SECOND;
        shape.grain = 3600 * SECOND;
        shape.lag *= 3600;
    });
}

/// Results of DataFusion's accumulators over each row's frame, searched row by row among the `known` rows.
fn by_hand(spec: &RollingSpec, known: &RecordBatch, row: &RecordBatch) -> Vec<ScalarValue> {
    let (all, own) = (times(known.column(TIME)), times(row.column(TIME))[0]);
    let keys: Vec<_> =
        (0..known.num_rows()).map(|at| ScalarValue::try_from_array(known.column(KEY), at).unwrap()).collect();
    let key = ScalarValue::try_from_array(row.column(KEY), 0).unwrap();
    let value = |function: &AggregateFunctionExpr, start: i64, end: i64| {
        let picks = (0..known.num_rows()).filter(|at| keys[*at] == key && (start..end).contains(&all[*at]));
        let picks: Vec<u64> = picks.map(|at| at as u64).collect();
        if picks.is_empty() {
            return function.default_value(function.field().data_type()).unwrap();
        }
        let frame = pick(known, picks);
        let arguments: Vec<_> = function.expressions().iter().map(|e| e.evaluate(&frame).unwrap()).collect();
        let arguments: Vec<_> =
            arguments.into_iter().map(|a| key_values(&a.into_array(frame.num_rows()).unwrap())).collect();
        let mut accumulator = function.create_accumulator().unwrap();
        accumulator.update_batch(&arguments).unwrap();
        accumulator.evaluate().unwrap()
    };
    let target = |bound: Bound| match bound {
        Bound::First => i64::MIN,
        Bound::Last => i64::MAX,
        Bound::Time { shift, past } => shift.from(EventTime(own)).0 + i64::from(past),
        Bound::Row(_) => panic!("rows are not looked for by hand"),
    };
    let functions = spec.functions.iter().map(|function| {
        let extent = Extent::of(&function.frame).unwrap();
        let RollingKind::Aggregate(aggregate, _) = &function.function else { panic!("no aggregate") };
        value(aggregate, target(extent.start), target(extent.end))
    });
    functions.collect()
}

fn assert_by_hand(spec: &RollingSpec, known: &RecordBatch, out: &RecordBatch, what: &str) {
    for row in 0..out.num_rows() {
        let expected = by_hand(spec, known, &out.slice(row, 1));
        for (index, expected) in expected.into_iter().enumerate() {
            let column = spec.input.fields().len() + index;
            let id = out.column(ID).as_primitive::<Int64Type>().value(row);
            let what = format!("{what}, row {id}, function {index}");
            assert_same(&out.column(column).slice(row, 1), &expected.to_array().unwrap(), &what);
        }
    }
}

fn aggregates_of_wild_values() -> [(&'static str, &'static str); 8] {
    let short = "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND CURRENT ROW";
    let long =
        "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '200 seconds' PRECEDING AND INTERVAL '2 seconds' PRECEDING";
    [
        ("sum(w)", short),
        ("avg(w)", short),
        ("var_pop(w)", short),
        ("sum(w)", long),
        ("avg(w)", long),
        ("min(w)", long),
        ("stddev(v)", long),
        ("count(w)", short),
    ]
}

#[test]
fn nan_and_infinity_leave_a_sum_with_their_row() {
    for seed in 900..912 {
        let mut random = seeded(seed);
        let mut shape = shape(seed);
        shape.rows = shape.rows.min(250);
        let (rows, watermarks) = stream(&mut random, &shape);
        let functions = runtime().block_on(functions(&session(&rows), &rows.schema(), &aggregates_of_wild_values()));
        let spec = spec(&rows.schema(), functions, RollingEmit::OnWatermark, None);
        let out = by_id(&spec.output, &run(&mut random, &spec, &rows, &watermarks));
        assert_eq!(out.num_rows(), rows.num_rows());
        assert_by_hand(&spec, &rows, &out, &format!("seed {seed}"));
    }
}

#[test]
fn on_arrival_a_row_sees_what_came_before_it_however_steps_are_cut() {
    for seed in 1000..1012 {
        let mut random = seeded(seed);
        let mut shape = shape(seed);
        shape.rows = 200;
        let (rows, watermarks) = stream(&mut random, &shape);
        let functions = runtime().block_on(functions(&session(&rows), &rows.schema(), &aggregates_of_wild_values()));
        let spec = spec(&rows.schema(), functions, RollingEmit::OnArrival, None);
        let mut operator = rolling(spec.clone()).unwrap();
        let mut durable = Durable::default();
        let (mut at, mut before) = (0, Watermark::NONE);
        while at < rows.num_rows() {
            let count = random.random_range(1..12).min(rows.num_rows() - at);
            let step = rows.slice(at, count);
            at += count;
            let watermark = watermarks[at - 1];
            let stepped = operator.step(vec![vec![step]], Tick { before, watermark, now: EventTime(0) }).unwrap();
            let out = stepped.rows;
            assert_eq!(out.iter().map(RecordBatch::num_rows).sum::<usize>(), count, "seed {seed}");
            let out = concat_batches(&spec.output, &out).unwrap();
            for row in 0..count {
                let known = rows.slice(0, at - count + row + 1);
                let came = known.column(ID).slice(known.num_rows() - 1, 1);
                assert_eq!(&out.column(ID).slice(row, 1), &came, "seed {seed}: in the order of arrival");
                assert_by_hand(&spec, &known, &out.slice(row, 1), &format!("seed {seed}, before {at}"));
            }
            before = watermark;
            if random.random_bool(0.2) {
                durable.apply(&operator.state(), operator.changes().unwrap());
                operator = durable.restore(&spec, 1, before).remove(0);
            }
        }
    }
}

#[test]
fn rows_behind_the_watermark_are_late_and_count_nowhere() {
    let mut random = seeded(8);
    let shape = Shape { rows: 60, keys: 2, gap: SECOND, lag: 0, grain: 1, text_keys: false };
    let (rows, _) = stream(&mut random, &shape);
    let over = "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND CURRENT ROW";
    let functions =
        runtime().block_on(functions(&session(&rows), &rows.schema(), &[("count(*)", over), ("sum(v)", over)]));
    let spec = RollingSpec { emits_late: false, ..spec(&rows.schema(), functions, RollingEmit::OnWatermark, None) };
    let mut operator = rolling(spec.clone()).unwrap();
    let of =
        |late: bool, range: std::ops::Range<u64>| pick(&rows, range.filter(|row| (row % 5 == 3) == late).collect());
    let watermark = Watermark(times(rows.column(TIME))[49] + 1);
    operator
        .step(vec![vec![of(false, 0..50)]], Tick { before: Watermark::NONE, watermark, now: EventTime(0) })
        .unwrap();
    let mixed = concat_batches(&rows.schema(), &[of(true, 0..50), rows.slice(50, 10)]).unwrap();
    let tick = Tick { before: watermark, watermark: Watermark::END, now: EventTime(0) };
    let stepped = operator.step(vec![vec![mixed]], tick).unwrap();
    assert_eq!(stepped.late, vec![(0, of(true, 0..50))]);
    let counted = concat_batches(&rows.schema(), &[of(false, 0..50), rows.slice(50, 10)]).unwrap();
    assert_eq!(stepped.rows[0].num_rows(), 10);
    assert_by_hand(&spec, &counted, &stepped.rows[0], "without the late rows");
}

#[test]
fn late_rows_come_out_at_once_and_count_for_later_ones() {
    let mut random = seeded(7);
    let (rows, _) = stream(&mut random, &Shape { rows: 60, keys: 2, gap: SECOND, lag: 0, grain: 1, text_keys: false });
    let over = "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND CURRENT ROW";
    let sql = [("count(*)", over), ("sum(v)", over), ("max(s)", over), ("min(w)", over)];
    let functions = runtime().block_on(functions(&session(&rows), &rows.schema(), &sql));
    let spec = spec(&rows.schema(), functions, RollingEmit::OnWatermark, None);
    let mut operator = rolling(spec.clone()).unwrap();
    let picks = |rows: &RecordBatch, of: fn(u64) -> bool| {
        let picks: Vec<u64> = (0..rows.num_rows() as u64).filter(|row| of(*row)).collect();
        pick(rows, picks)
    };
    let early = rows.slice(0, 50);
    let (first, late) = (picks(&early, |row| row % 5 != 3), picks(&early, |row| row % 5 == 3));
    let watermark = Watermark(times(early.column(TIME))[49] + 1);
    let one = operator
        .step(vec![vec![first.clone()]], Tick { before: Watermark::NONE, watermark, now: EventTime(0) })
        .unwrap();
    assert_by_hand(&spec, &first, &one.rows[0], "before late rows");
    // Rows that are out of every frame of rows that are not late are dropped.
    let kept = watermark.0 - 20 * SECOND;
    let is_kept = |row: &u64| times(early.column(TIME))[*row as usize] >= kept;
    let on_time: Vec<u64> = (0..50).filter(|row| row % 5 != 3).filter(is_kept).collect();
    let all_late: Vec<u64> = (0..50).filter(|row| row % 5 == 3).collect();
    assert!(on_time.len() < 40);
    for cut in [1, 3, all_late.len()] {
        let mut operator = rolling(spec.clone()).unwrap();
        operator
            .step(vec![vec![first.clone()]], Tick { before: Watermark::NONE, watermark, now: EventTime(0) })
            .unwrap();
        let mut out = Vec::new();
        for part in all_late.chunks(cut) {
            let tick = Tick { before: watermark, watermark, now: EventTime(0) };
            let stepped = operator.step(vec![vec![pick(&early, part.to_vec())]], tick).unwrap();
            assert!(stepped.late.is_empty());
            out.extend(stepped.rows);
        }
        let out = by_id(&spec.output, &out);
        assert_eq!(out.num_rows(), late.num_rows());
        for (at, row) in all_late.iter().enumerate() {
            let before = all_late[..at].iter().copied().filter(is_kept);
            let mut known: Vec<u64> = on_time.iter().copied().chain(before).chain([*row]).collect();
            known.sort_unstable();
            assert_by_hand(&spec, &pick(&early, known), &out.slice(at, 1), &format!("late rows, cut {cut}, {at}"));
        }
    }
    operator.step(vec![vec![late]], Tick { before: watermark, watermark, now: EventTime(0) }).unwrap();
    let three = operator
        .step(vec![vec![rows.slice(50, 10)]], Tick { before: watermark, watermark: Watermark::END, now: EventTime(0) })
        .unwrap();
    assert_by_hand(&spec, &rows, &three.rows[0], "after late rows");
}

#[test]
fn rows_without_a_time_are_late() {
    let (rows, _) =
        stream(&mut seeded(1), &Shape { rows: 9, keys: 2, gap: SECOND, lag: 0, grain: 1, text_keys: false });
    let mut columns = rows.columns().to_vec();
    let times = columns[TIME].as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    let times: arrow::array::TimestampMicrosecondArray =
        times.iter().enumerate().map(|(row, time)| time.filter(|_| row % 3 != 0)).collect();
    columns[TIME] = Arc::new(times.with_timezone("+00:00"));
    let rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
    for emit in [RollingEmit::OnWatermark, RollingEmit::OnArrival] {
        let sql = [("count(*)", "PARTITION BY k ORDER BY ts RANGE CURRENT ROW")];
        let functions = runtime().block_on(functions(&session(&rows), &rows.schema(), &sql));
        let mut operator = rolling(spec(&rows.schema(), functions, emit, None)).unwrap();
        let tick = Tick { before: Watermark::NONE, watermark: Watermark::END, now: EventTime(0) };
        let stepped = operator.step(vec![vec![rows.clone()]], tick).unwrap();
        assert_eq!(stepped.late.len(), 1);
        assert_eq!(stepped.late[0].1.column(ID).as_primitive::<Int64Type>().values(), &[0, 3, 6]);
        assert_eq!(stepped.rows[0].num_rows(), 6);
    }
}

#[test]
fn a_ttl_bounds_frames_without_a_beginning() {
    let all = "PARTITION BY k ORDER BY ts";
    let bounded = "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '50 seconds' PRECEDING AND CURRENT ROW";
    for seed in 0..12 {
        let mut random = seeded(seed);
        let (rows, watermarks) = stream(&mut random, &shape(seed));
        let session = session(&rows);
        let sql = [("count(*)", all), ("sum(n)", all), ("max(v)", all)];
        let same = sql.map(|(function, _)| (function, bounded));
        let (functions, same) = runtime().block_on(async {
            (functions(&session, &rows.schema(), &sql).await, functions(&session, &rows.schema(), &same).await)
        });
        let ttl = spec(&rows.schema(), functions, RollingEmit::OnWatermark, Some(50 * SECOND));
        let out = by_id(&ttl.output, &run(&mut random, &ttl, &rows, &watermarks));
        let plain = spec(&rows.schema(), same, RollingEmit::OnWatermark, None);
        let expected = by_id(&plain.output, &run(&mut random, &plain, &rows, &watermarks));
        for column in 0..out.num_columns() {
            assert_same(out.column(column), expected.column(column), &format!("seed {seed}, column {column}"));
        }
    }
}

#[test]
fn rows_come_out_once_in_order_of_time_and_arrival() {
    for seed in 0..12 {
        let mut random = seeded(seed);
        let (rows, watermarks) = stream(&mut random, &shape(seed));
        let over = "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '9 seconds' PRECEDING AND INTERVAL '4 seconds' FOLLOWING";
        let functions = runtime().block_on(functions(&session(&rows), &rows.schema(), &[("count(*)", over)]));
        let spec = spec(&rows.schema(), functions, RollingEmit::OnWatermark, None);
        let mut operator = rolling(spec).unwrap();
        let (mut seen, mut at, mut before) = (Vec::new(), 0, Watermark::NONE);
        while before != Watermark::END {
            let count = random.random_range(0..30).min(rows.num_rows() - at);
            let step = rows.slice(at, count);
            at += count;
            let watermark = if at == rows.num_rows() { Watermark::END } else { watermarks[at.max(1) - 1] };
            let stepped = operator.step(vec![vec![step]], Tick { before, watermark, now: EventTime(0) }).unwrap();
            for out in &stepped.rows {
                let ids = out.column(ID).as_primitive::<Int64Type>().values();
                seen.extend(times(out.column(TIME)).iter().copied().zip(ids.iter().copied()));
            }
            before = watermark;
        }
        assert_eq!(seen.len(), rows.num_rows(), "seed {seed}");
        assert!(seen.is_sorted(), "seed {seed}");
    }
}

#[test]
fn what_no_frame_reaches_is_forgotten() {
    let over = "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '30 seconds' PRECEDING AND CURRENT ROW";
    let shape = Shape { rows: 20_000, keys: 4000, gap: SECOND / 10, lag: SECOND, grain: 1, text_keys: true };
    let (rows, watermarks) = stream(&mut seeded(3), &shape);
    let sql = [("sum(v)", over), ("max(s)", over)];
    let functions = runtime().block_on(functions(&session(&rows), &rows.schema(), &sql));
    let mut operator = rolling(spec(&rows.schema(), functions, RollingEmit::OnWatermark, None)).unwrap();
    let (mut durable, mut before, mut halfway) = (Durable::default(), Watermark::NONE, 0);
    for at in (0..rows.num_rows()).step_by(100) {
        let watermark = watermarks[at + 99];
        operator.step(vec![vec![rows.slice(at, 100)]], Tick { before, watermark, now: EventTime(0) }).unwrap();
        durable.apply(&operator.state(), operator.changes().unwrap());
        before = watermark;
        if at == 10_000 {
            halfway = operator.usage().bytes;
        }
        // 30 seconds are about 600 rows; the sweep over 4000 keys takes a while.
        assert!(durable.rows() < 900, "{} rows after {at}", durable.rows());
        assert!(operator.usage().rows < 6_000, "{} rows after {at}", operator.usage().rows);
    }
    assert!(operator.usage().bytes < halfway * 3 / 2, "{} after {halfway} bytes", operator.usage().bytes);
    operator.step(vec![vec![]], Tick { before, watermark: Watermark::END, now: EventTime(0) }).unwrap();
    for _ in 0..100 {
        let tick = Tick { before: Watermark::END, watermark: Watermark::END, now: EventTime(0) };
        operator.step(vec![vec![]], tick).unwrap();
    }
    assert_eq!(operator.usage().rows, 0);
}

#[test]
fn an_epoch_writes_only_new_rows() {
    let over = "PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW";
    let shape = Shape { rows: 5_000, keys: 50, gap: SECOND, lag: 0, grain: 1, text_keys: false };
    let (rows, watermarks) = stream(&mut seeded(4), &shape);
    let functions = runtime().block_on(functions(&session(&rows), &rows.schema(), &[("avg(v)", over)]));
    let mut operator = rolling(spec(&rows.schema(), functions, RollingEmit::OnWatermark, None)).unwrap();
    let mut before = Watermark::NONE;
    for at in (0..rows.num_rows()).step_by(100) {
        let watermark = watermarks[at + 99];
        operator.step(vec![vec![rows.slice(at, 100)]], Tick { before, watermark, now: EventTime(0) }).unwrap();
        before = watermark;
        let changes = operator.changes().unwrap();
        let written: usize = changes.iter().flat_map(|change| &change.upserts).map(RecordBatch::num_rows).sum();
        assert!(written <= 110, "{written} rows written for 100");
    }
}
