//! Top-N against DataFusion in batch.

mod newest;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{SortOptions, concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::utils::normalize_float_zero;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Keeping, top_n, top_n_for};
use crate::operator::WEIGHT;
use crate::operator::keyed::harness::{
    Flow, ID, K, N, TS, V, assert_same, batch_sql, consolidated, feed, random_rows, rows_of_odd_types, schema,
};
use crate::operator::keyed::{micros, with_columns};
use crate::operator::spec::{RankFunction, Spec, TimeColumn, TopNSpec};
use crate::time::{EventTime, Lag, Watermark};

const FUNCTIONS: [(RankFunction, &str); 3] =
    [(RankFunction::RowNumber, "row_number"), (RankFunction::Rank, "rank"), (RankFunction::DenseRank, "dense_rank")];

/// `input` with one more column.
fn with_field(input: &SchemaRef, name: &str, kind: DataType) -> SchemaRef {
    let mut fields: Vec<Field> = input.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new(name, kind, false));
    Arc::new(Schema::new(fields))
}

fn output(rows: &SchemaRef, with_rank: bool, weighted: bool) -> SchemaRef {
    let ranked = if with_rank { with_field(rows, "rank", DataType::UInt64) } else { Arc::clone(rows) };
    if weighted { with_field(&ranked, WEIGHT, DataType::Int64) } else { ranked }
}

/// The query of a test case.
struct Case {
    spec: TopNSpec,
    /// `ORDER BY` without and with the columns that break ties.
    order: String,
    full_order: String,
    function: &'static str,
}

/// A random updating query over `rows`, partitioned by `keys`.
fn random_case(rng: &mut StdRng, rows: &SchemaRef, keys: &[usize]) -> Case {
    let (function, name) = FUNCTIONS[rng.random_range(0..3)];
    let (mut order, mut names) = (Vec::new(), Vec::new());
    let columns = [V, N, TS, K];
    for _ in 0..rng.random_range(1..3) {
        let column = columns[rng.random_range(0..columns.len())];
        if order.iter().all(|(other, _)| *other != column) {
            let options = SortOptions { descending: rng.random_bool(0.5), nulls_first: rng.random_bool(0.5) };
            let direction = if options.descending { "DESC" } else { "ASC" };
            let nulls = if options.nulls_first { "FIRST" } else { "LAST" };
            let name = if column == V { ZERO } else { rows.field(column).name() };
            names.push(format!("{name} {direction} NULLS {nulls}"));
            order.push((column, options));
        }
    }
    // Rows that are equal in this order are ordered by their bits.
    let all = rows.fields().iter().map(|field| format!("{} ASC NULLS FIRST", field.name()));
    let full_order = names.iter().cloned().chain(all).collect::<Vec<_>>().join(", ");
    let with_rank = rng.random_bool(0.5);
    let spec = TopNSpec {
        input: Arc::clone(rows),
        retract: false,
        function,
        keys: keys.to_vec(),
        routing: rng.random_range(0..=keys.len().min(1)),
        order,
        limit: [1, 1, 2, 3, 7][rng.random_range(0..5)],
        with_rank,
        closing: None,
        ttl: None,
        time: None,
        output: output(rows, with_rank, true),
    };
    Case { spec, order: names.join(", "), full_order, function: name }
}

impl Case {
    fn answer(&self, rows: &RecordBatch) -> BTreeMap<String, i64> {
        let name = |column: &usize| self.spec.input.field(*column).name().clone();
        let keys: Vec<_> = self.spec.keys.iter().map(name).collect();
        let partition = if keys.is_empty() { String::new() } else { format!("PARTITION BY {}", keys.join(", ")) };
        let order = if self.function == "row_number" { &self.full_order } else { &self.order };
        let columns: Vec<_> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
        let columns = columns.join(", ");
        let rank = if self.spec.with_rank { ", rn" } else { "" };
        let sql = format!(
            "SELECT {columns}{rank} FROM (SELECT *, {}() OVER ({partition} ORDER BY {order}) AS rn FROM t) WHERE rn <= {}",
            self.function, self.spec.limit
        );
        batch_sql(&with_one_zero(rows), &sql)
    }
}

/// The column of [`with_one_zero`].
const ZERO: &str = "zero";

/// The rows and, next to the numbers, the numbers with one zero: DataFusion orders -0.0 before 0.0.
fn with_one_zero(rows: &RecordBatch) -> RecordBatch {
    let mut fields = rows.schema().fields().to_vec();
    fields.push(Arc::new(fields[V].as_ref().clone().with_name(ZERO)));
    let schema = Arc::new(Schema::new(fields));
    let columns = rows.columns().iter().cloned().chain([normalize_float_zero(rows.column(V))]);
    RecordBatch::try_new(schema, columns.collect()).unwrap()
}

/// In some cases without the row's number, so that rows equal each other.
fn some_columns(rng: &mut StdRng, rows: &RecordBatch) -> RecordBatch {
    if rng.random_bool(0.5) { rows.clone() } else { rows.project(&[K, TS, V, N]).unwrap() }
}

/// No row of a step's output may retract what the same step emits, and the sums so far are never negative.
fn assert_consolidated(out: &[RecordBatch], seed: u64) {
    let mut seen = BTreeMap::new();
    for batch in out {
        for row in 0..batch.num_rows() {
            for (text, weight) in consolidated(&[batch.slice(row, 1)], true) {
                assert!(seen.insert(text, weight).is_none(), "seed {seed}: one row twice in a step");
            }
        }
    }
}

#[test]
fn updates_of_an_append_stream_add_up_to_the_batch() {
    for seed in 0..200 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 300, 50);
        let rows = some_columns(rng, &rows);
        let keys: &[usize] = [&[K][..], &[N, K][..], &[][..]][rng.random_range(0..3)];
        let case = random_case(rng, &rows.schema(), keys);
        let make = || top_n(case.spec.clone()).unwrap();
        let mut flow = Flow::new(&make, &keys[..case.spec.routing]);
        feed(&mut flow, &rows, TS, 50, 0, rng);
        assert_same(&consolidated(&flow.rows, true), &case.answer(&rows), seed);
        flow.save();
        let (live, stored) = flow.remembered();
        assert_eq!(live, stored, "seed {seed}");
        if case.function == "row_number" {
            let partitions = consolidated(&[rows.project(keys).unwrap()], false).len().max(1);
            assert!(live as usize <= partitions * case.spec.limit, "seed {seed}: more is kept than needed");
        }
    }
}

/// A changelog over `rows`: each row is emitted, some are retracted later, some emitted again; and the remaining rows.
fn changelog(rng: &mut StdRng, rows: &RecordBatch) -> (RecordBatch, RecordBatch) {
    let (mut live, mut log): (Vec<u32>, Vec<(u32, i64)>) = (Vec::new(), Vec::new());
    for row in 0..rows.num_rows() as u32 {
        live.push(row);
        log.push((row, 1));
        while !live.is_empty() && rng.random_bool(0.4) {
            let gone = live.swap_remove(rng.random_range(0..live.len()));
            log.push((gone, -1));
            if rng.random_bool(0.3) {
                log.push((gone, 1));
                live.push(gone);
            }
        }
    }
    let order = UInt32Array::from_iter_values(log.iter().map(|(row, _)| *row));
    let weights: ArrayRef = Arc::new(Int64Array::from_iter_values(log.iter().map(|(_, weight)| *weight)));
    let input = with_field(&rows.schema(), WEIGHT, DataType::Int64);
    let weighted = with_columns(&take_record_batch(rows, &order).unwrap(), vec![weights], &input).unwrap();
    (weighted, take_record_batch(rows, &UInt32Array::from(live)).unwrap())
}

#[test]
fn rows_taken_back_let_the_next_ones_in() {
    for seed in 0..200 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 150, 50);
        let rows = some_columns(rng, &rows);
        let keys: &[usize] = [&[K][..], &[N, K][..], &[][..]][rng.random_range(0..3)];
        let mut case = random_case(rng, &rows.schema(), keys);
        let (log, rest) = changelog(rng, &rows);
        (case.spec.retract, case.spec.input) = (true, log.schema());
        let make = || top_n(case.spec.clone()).unwrap();
        let mut flow = Flow::new(&make, &keys[..case.spec.routing]);
        // Time does not matter here, so any watermark will do.
        feed(&mut flow, &log, TS, 1_000_000, 0, rng);
        assert_same(&consolidated(&flow.rows, true), &case.answer(&rest), seed);
        flow.save();
        let (live, stored) = flow.remembered();
        assert_eq!((live, stored), (consolidated(&[rest], false).len() as u64, live), "seed {seed}");
    }
}

#[test]
fn a_step_puts_out_only_differences() {
    for seed in 0..60 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 200, 50);
        let mut case = random_case(rng, &rows.schema(), &[K]);
        let (log, _) = changelog(rng, &rows);
        let retract = rng.random_bool(0.5);
        let input = if retract { log } else { rows };
        (case.spec.retract, case.spec.input) = (retract, input.schema());
        let mut operator = top_n(case.spec.clone()).unwrap();
        let mut all = Vec::new();
        for at in (0..input.num_rows()).step_by(20) {
            let batch = input.slice(at, 20.min(input.num_rows() - at));
            let tick = crate::operator::Tick { before: Watermark::NONE, watermark: Watermark::NONE, now: EventTime(0) };
            let out = operator.step(vec![vec![batch]], tick).unwrap().rows;
            assert_consolidated(&out, seed);
            all.extend(out);
            assert!(consolidated(&all, true).values().all(|count| *count > 0), "seed {seed}");
        }
    }
}

/// `rows` with the start of the 100-microsecond window of each time.
fn windowed(rows: &RecordBatch) -> RecordBatch {
    let times = micros(rows, TS).unwrap();
    let windows: ArrayRef = Arc::new(times.iter().map(|t| t.map(|t| t.div_euclid(100) * 100)).collect::<Int64Array>());
    with_columns(rows, vec![windows], &with_field(&rows.schema(), "w", DataType::Int64)).unwrap()
}

#[test]
fn closed_windows_come_out_once_as_in_batch() {
    for seed in 0..200 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 300, 50);
        let rows = windowed(&some_columns(rng, &rows));
        let window = rows.num_columns() - 1;
        let keys = [vec![K, window], vec![window]][rng.random_range(0..2)].clone();
        let mut case = random_case(rng, &rows.schema(), &keys);
        case.spec.routing = keys.len() - 1;
        // A future row may have a time as low as the watermark, and its window may have begun 99 microseconds before.
        case.spec.closing = Some(TimeColumn { column: window, lag: Lag(99) });
        case.spec.output = output(&rows.schema(), case.spec.with_rank, false);
        let (input, rest) = if rng.random_bool(0.5) { changelog(rng, &rows) } else { (rows.clone(), rows.clone()) };
        (case.spec.retract, case.spec.input) = (input.num_columns() > rows.num_columns(), input.schema());
        let make = || top_n(case.spec.clone()).unwrap();
        let mut flow = Flow::new(&make, &keys[..case.spec.routing]);
        // Rows are retracted at any later time, so no window may close before that.
        let disorder = if case.spec.retract { 1_000_000 } else { 50 };
        feed(&mut flow, &input, TS, disorder, 0, rng);
        assert_same(&consolidated(&flow.rows, false), &case.answer(&rest), seed);
        assert!(flow.late.is_empty());
        flow.save();
        assert_eq!(flow.remembered(), (0, 0), "seed {seed}");
    }
}

#[test]
fn a_window_closes_when_its_value_is_complete_and_later_rows_are_late() {
    let rows = windowed(&random_rows(&mut StdRng::seed_from_u64(2), 40, 0));
    let window = rows.num_columns() - 1;
    for limit in [1, 2] {
        let spec = TopNSpec {
            input: rows.schema(),
            retract: false,
            function: RankFunction::RowNumber,
            keys: vec![window],
            routing: 0,
            order: vec![(ID, SortOptions::default())],
            limit,
            with_rank: false,
            closing: Some(TimeColumn { column: window, lag: Lag(99) }),
            ttl: None,
            time: None,
            output: rows.schema(),
        };
        let make = || top_n(spec.clone()).unwrap();
        let mut flow = Flow::new(&make, &[]);
        let first = micros(&rows, window).unwrap().value(0);
        assert!(flow.step(&[rows.slice(0, 1)], Watermark(first + 99)).is_empty());
        assert_eq!(flow.step(&[], Watermark(first + 100))[0].num_rows(), 1);
        assert!(flow.step(&[rows.slice(0, 1)], Watermark(first + 100)).is_empty());
        assert_eq!(flow.late.len(), 1);
    }
}

#[test]
fn a_partition_that_nobody_comes_to_is_forgotten_after_its_ttl() {
    for limit in [1, 3] {
        let rows = random_rows(&mut StdRng::seed_from_u64(4), 2000, 20);
        let spec = TopNSpec {
            input: schema(),
            retract: false,
            function: RankFunction::RowNumber,
            keys: vec![ID, K],
            routing: 1,
            order: vec![(V, SortOptions::default())],
            limit,
            with_rank: false,
            closing: None,
            ttl: Some(Lag(80)),
            time: Some(TimeColumn { column: TS, lag: Lag(0) }),
            output: output(&schema(), false, true),
        };
        let make = || top_n(spec.clone()).unwrap();
        let mut flow = Flow::new(&make, &[ID]);
        let rng = &mut StdRng::seed_from_u64(5);
        let times = micros(&rows, TS).unwrap();
        for at in (0..2000).step_by(10) {
            let highest = times.values()[..at + 10].iter().copied().max().unwrap();
            flow.step(&[rows.slice(at, 10)], Watermark(highest - 20));
            flow.save();
            // A row stays for 80, up to 90, and no longer.
            let young =
                |most: i64| times.values()[..at + 10].iter().filter(|t| **t + most > highest - 20).count() as u64;
            let (live, stored) = flow.remembered();
            assert!(live >= young(80) && live <= young(91), "{live} rows, at least {}", young(80));
            assert_eq!(live, stored);
            if at % 70 == 0 {
                flow.rebuild(1 + at % 3, rng);
            }
        }
        assert_eq!(flow.rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 2000);
    }
}

#[test]
fn a_partition_lives_while_rows_come_even_if_none_is_better() {
    for limit in [1, 3] {
        let (k, ts, v) = (K, TS, V);
        let spec = TopNSpec {
            input: schema(),
            retract: false,
            function: RankFunction::Rank,
            keys: vec![k],
            routing: 1,
            order: vec![(ID, SortOptions::default())],
            limit,
            with_rank: true,
            closing: None,
            ttl: Some(Lag(100)),
            time: Some(TimeColumn { column: ts, lag: Lag(0) }),
            output: output(&schema(), true, true),
        };
        let spec = if limit == 1 { TopNSpec { function: RankFunction::RowNumber, ..spec } } else { spec };
        let make = || top_n(spec.clone()).unwrap();
        let mut flow = Flow::new(&make, &[K]);
        let rng = &mut StdRng::seed_from_u64(6);
        let some = random_rows(rng, 1, 0);
        let row = |id: i64, time: i64| {
            let mut columns = some.columns().to_vec();
            columns[ID] = Arc::new(Int64Array::from(vec![id]));
            columns[TS] = Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![time]));
            columns[v] = arrow::array::new_null_array(&DataType::Float64, 1);
            RecordBatch::try_new(schema(), columns).unwrap()
        };
        for id in 0..100 {
            flow.step(&[row(id, id * 20)], Watermark(id * 20));
            flow.save();
            flow.rebuild(2, rng);
        }
        // If it had expired, a later row would have been emitted as the first again.
        let kept = concat_batches(&flow.rows[0].schema(), &flow.rows).unwrap();
        assert_eq!(
            kept.column(ID).as_primitive::<Int64Type>().values(),
            (0..limit as i64).collect::<Vec<_>>().as_slice()
        );
        flow.step(&[], Watermark::END);
        assert_eq!(flow.remembered().0, 0);
    }
}

#[test]
fn ties_are_broken_by_all_columns_whatever_the_order_of_arrival() {
    for seed in 0..40 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 120, 50);
        let mut case = random_case(rng, &rows.schema(), &[K]);
        case.spec.order = vec![(N, SortOptions::default())];
        case.spec.limit = 1 + seed as usize % 2;
        let mut answers = Vec::new();
        for backwards in [false, true] {
            let mut operator = top_n(case.spec.clone()).unwrap();
            let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
            if backwards {
                order.reverse();
            }
            let shuffled = take_record_batch(&rows, &UInt32Array::from(order)).unwrap();
            let mut out = Vec::new();
            for at in (0..120).step_by(30) {
                let tick =
                    crate::operator::Tick { before: Watermark::NONE, watermark: Watermark::NONE, now: EventTime(0) };
                let batches = vec![vec![shuffled.slice(at, 10), shuffled.slice(at + 10, 20)]];
                out.extend(operator.step(batches, tick).unwrap().rows);
            }
            answers.push(consolidated(&out, true));
        }
        assert_eq!(answers[0], answers[1], "seed {seed}");
    }
}

#[test]
fn weights_count_rows_several_times() {
    let rows = random_rows(&mut StdRng::seed_from_u64(8), 60, 0);
    let mask: BooleanArray = (0..60).map(|row| Some(rows.column(V).is_valid(row))).collect();
    let rows = filter_record_batch(&rows, &mask).unwrap();
    let weights: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows.num_rows() as i64).map(|row| 1 + row % 3)));
    let repeated: Vec<u32> =
        (0..rows.num_rows() as u32).flat_map(|row| std::iter::repeat_n(row, 1 + row as usize % 3)).collect();
    let repeated = take_record_batch(&rows, &UInt32Array::from(repeated)).unwrap();
    let weighted = with_columns(&rows, vec![weights], &with_field(&rows.schema(), WEIGHT, DataType::Int64)).unwrap();
    for seed in 0..30 {
        let mut case = random_case(&mut StdRng::seed_from_u64(seed), &rows.schema(), &[K]);
        (case.spec.retract, case.spec.input) = (true, weighted.schema());
        let mut operator = top_n(case.spec.clone()).unwrap();
        let tick = crate::operator::Tick { before: Watermark::NONE, watermark: Watermark::NONE, now: EventTime(0) };
        let out = operator.step(vec![vec![weighted.clone()]], tick).unwrap().rows;
        assert_same(&consolidated(&out, true), &case.answer(&repeated), seed);
    }
}

#[test]
fn rows_of_any_type_survive_a_restart() {
    for seed in 0..40 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = rows_of_odd_types(rng, 200);
        let limit = 1 + seed as usize % 3;
        let spec = TopNSpec {
            input: rows.schema(),
            retract: false,
            function: RankFunction::RowNumber,
            keys: vec![1, 2],
            routing: 2,
            order: vec![(0, SortOptions::default())],
            limit,
            with_rank: true,
            closing: None,
            ttl: None,
            time: None,
            output: output(&rows.schema(), true, true),
        };
        let make = || top_n(spec.clone()).unwrap();
        let mut flow = Flow::new(&make, &[1, 2]);
        feed(&mut flow, &rows, 3, 30, 0, rng);
        // Among equal values of `a` the other columns are equal except for `ts`.
        let sql = format!(
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY b, c ORDER BY a NULLS FIRST, ts) AS rn FROM t)
             WHERE rn <= {limit}"
        );
        assert_same(&consolidated(&flow.rows, true), &batch_sql(&rows, &sql), seed);
    }
}

/// `row_number() <= limit` over random rows.
fn plain(rows: &SchemaRef, limit: usize) -> TopNSpec {
    let case = random_case(&mut StdRng::seed_from_u64(0), rows, &[K]);
    let order = vec![(V, SortOptions::default())];
    let output = output(rows, false, true);
    TopNSpec { function: RankFunction::RowNumber, limit, order, with_rank: false, routing: 1, output, ..case.spec }
}

#[test]
fn the_address_of_state_does_not_depend_on_the_layout_of_new_state() {
    let rows = random_rows(&mut StdRng::seed_from_u64(1), 1, 1).schema();
    let first = |spec: &TopNSpec| spec.essence().rsplit_once(" kept ").unwrap().1.to_owned();
    let words = [(1, "Best"), (2, "Leading"), (1024, "Leading"), (1025, "Ranked")];
    for (limit, word) in words {
        assert_eq!(first(&plain(&rows, limit)), word, "limit {limit}");
    }
    let ranked = TopNSpec { function: RankFunction::Rank, ..plain(&rows, 1) };
    assert_eq!(first(&ranked), "Ranked");
    // In tests, new state of this limit has another layout than that of the first version.
    assert_eq!(Keeping::of(&plain(&rows, 7)), Keeping::Ranked);
}

#[test]
fn state_is_continued_in_the_layout_that_wrote_it() {
    let rng = &mut StdRng::seed_from_u64(2);
    let rows = random_rows(rng, 300, 50);
    let cases = [(1, "best"), (1, "leading"), (1, "ranked"), (3, "rows"), (3, "ranked"), (7, "rows"), (7, "ranked")];
    for (limit, written) in cases {
        let spec = plain(&rows.schema(), limit);
        let make = || top_n_for(spec.clone(), &[written]).unwrap();
        assert_eq!(make().state()[0].name, written);
        let fresh = || top_n(spec.clone()).unwrap();
        let (mut continued, mut uninterrupted) = (Flow::new(&make, &[K]), Flow::new(&fresh, &[K]));
        for start in (0..rows.num_rows()).step_by(50) {
            let part = [rows.slice(start, 50.min(rows.num_rows() - start))];
            continued.step(&part, Watermark::NONE);
            continued.save();
            continued.rebuild(1 + start / 50 % 2, rng);
            uninterrupted.step(&part, Watermark::NONE);
        }
        let expected = consolidated(&uninterrupted.rows, true);
        assert_eq!(consolidated(&continued.rows, true), expected, "limit {limit}, table `{written}`");
    }
}
