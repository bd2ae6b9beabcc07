//! Every operator in cells, short of memory, against a single instance: skipped cells lose no output.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::{JoinType, ScalarValue};
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::env::Env;
use crate::operator::join::{asof, join};
use crate::operator::session::session;
use crate::operator::spec::{
    AsofSpec, DeduplicateEmit, DeduplicateSpec, JoinSpec, RankFunction, RollingEmit, RollingFunction, RollingKind,
    RollingSpec, SessionSpec, TimeBounds, TimeColumn, TopNSpec,
};
use crate::operator::{WEIGHT, deduplicate, rolling, top_n};
use crate::state::StateStore;
use crate::time::{EventTime, Lag, Watermark};

const TIME: TimeColumn = TimeColumn { column: 1, lag: Lag(0) };
const DISORDER: i64 = 8;

fn stamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// `k BIGINT, ts TIMESTAMP, id BIGINT`, then more columns.
fn schema(more: &[(&str, DataType)]) -> SchemaRef {
    let own = [("k", DataType::Int64), ("ts", stamp()), ("id", DataType::Int64)];
    let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), *name != WEIGHT);
    Arc::new(Schema::new(own.iter().chain(more).map(field).collect::<Vec<_>>()))
}

fn rows(made: &[(i64, i64, i64)]) -> RecordBatch {
    let ints = |value: fn(&(i64, i64, i64)) -> i64| Int64Array::from_iter_values(made.iter().map(value));
    let times = TimestampMicrosecondArray::from_iter_values(made.iter().map(|row| row.1));
    let columns: Vec<ArrayRef> = vec![Arc::new(ints(|row| row.0)), Arc::new(times), Arc::new(ints(|row| row.2))];
    RecordBatch::try_new(schema(&[]), columns).unwrap()
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let mut lines = Vec::new();
    for batch in batches {
        let cells: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        let line = |row: usize| cells.iter().map(|cell| cell.value(row).to_string()).collect::<Vec<_>>().join("|");
        lines.extend((0..batch.num_rows()).map(line));
    }
    lines.sort();
    lines
}

/// An operator with `ports` inputs of [`schema`], routed by `k`.
struct Case {
    name: &'static str,
    ports: usize,
    make: fn() -> Result<Box<dyn Operator>>,
}

const CASES: &[Case] = &[
    Case { name: "deduplicate on arrival", ports: 1, make: || dedup(DeduplicateEmit::OnArrival, Some(40)) },
    Case { name: "deduplicate for ever", ports: 1, make: || dedup(DeduplicateEmit::OnArrival, None) },
    Case { name: "deduplicate on watermark", ports: 1, make: || dedup(DeduplicateEmit::OnWatermark, Some(40)) },
    Case { name: "session", ports: 1, make: sessions },
    Case { name: "best of a window", ports: 1, make: || ranks(1, true) },
    Case { name: "top 2 of a window", ports: 1, make: || ranks(2, true) },
    Case { name: "best so far", ports: 1, make: || ranks(1, false) },
    Case { name: "top 2 so far", ports: 1, make: || ranks(2, false) },
    Case { name: "rolling on watermark", ports: 1, make: || frames(RollingEmit::OnWatermark, &range(40, 0)) },
    Case { name: "rolling on arrival", ports: 1, make: || frames(RollingEmit::OnArrival, &range(40, 0)) },
    Case { name: "rolling ahead", ports: 1, make: || frames(RollingEmit::OnWatermark, &range(40, -25)) },
    Case { name: "rolling rows ahead", ports: 1, make: || frames(RollingEmit::OnWatermark, &counted()) },
    Case { name: "interval inner", ports: 2, make: || joins(JoinType::Inner, true) },
    Case { name: "interval left", ports: 2, make: || joins(JoinType::Left, true) },
    Case { name: "interval full", ports: 2, make: || joins(JoinType::Full, true) },
    Case { name: "interval semi", ports: 2, make: || joins(JoinType::LeftSemi, true) },
    Case { name: "interval anti", ports: 2, make: || joins(JoinType::RightAnti, true) },
    Case { name: "updating inner", ports: 2, make: || joins(JoinType::Inner, false) },
    Case { name: "updating left", ports: 2, make: || joins(JoinType::Left, false) },
    Case { name: "asof", ports: 2, make: newest },
];

fn dedup(emit: DeduplicateEmit, within: Option<i64>) -> Result<Box<dyn Operator>> {
    deduplicate(DeduplicateSpec { input: schema(&[]), keys: vec![0], time: Some(TIME), within: within.map(Lag), emit })
}

fn sessions() -> Result<Box<dyn Operator>> {
    let output = schema(&[("window_start", stamp()), ("window_end", stamp())]);
    session(SessionSpec { input: schema(&[]), keys: vec![0], time: TIME, gap: Lag(12), output })
}

fn ranks(limit: usize, closing: bool) -> Result<Box<dyn Operator>> {
    let weight: &[_] = if closing { &[] } else { &[(WEIGHT, DataType::Int64)] };
    let keys = if closing { vec![0, 1] } else { vec![0] };
    top_n(TopNSpec {
        input: schema(&[]),
        retract: false,
        function: RankFunction::RowNumber,
        keys,
        routing: 1,
        order: vec![(2, SortOptions::default())],
        limit,
        with_rank: false,
        closing: closing.then_some(TIME),
        ttl: (!closing).then_some(Lag(60)),
        time: Some(TIME),
        output: schema(weight),
    })
}

fn range(before: i64, after: i64) -> WindowFrame {
    let bound = |by: i64| ScalarValue::DurationMicrosecond(Some(by));
    let end = if after < 0 { WindowFrameBound::Following(bound(-after)) } else { WindowFrameBound::CurrentRow };
    WindowFrame::new_bounds(WindowFrameUnits::Range, WindowFrameBound::Preceding(bound(before)), end)
}

fn counted() -> WindowFrame {
    let bound = |by: u64| ScalarValue::UInt64(Some(by));
    let start = WindowFrameBound::Preceding(bound(2));
    WindowFrame::new_bounds(WindowFrameUnits::Rows, start, WindowFrameBound::Following(bound(1)))
}

fn frames(emit: RollingEmit, frame: &WindowFrame) -> Result<Box<dyn Operator>> {
    let first = RollingKind::FirstValue { column: 2, ignore_nulls: false };
    let last = RollingKind::LastValue { column: 2, ignore_nulls: false };
    let functions = [first, last].map(|function| RollingFunction { function, frame: frame.clone() }).to_vec();
    let output = schema(&[("first", DataType::Int64), ("last", DataType::Int64)]);
    rolling(RollingSpec {
        input: schema(&[]),
        keys: vec![0],
        time: TIME,
        functions,
        emit,
        emits_late: false,
        ttl: Some(Lag(80)),
        collect_limit: 10_000,
        shown: None,
        output,
    })
}

fn joins(join_type: JoinType, bounded: bool) -> Result<Box<dyn Operator>> {
    let bounds = TimeBounds { left: TIME, right: TIME, lower: Lag(-5), upper: Lag(15) };
    let inner = join_type == JoinType::Inner;
    let own = matches!(join_type, JoinType::LeftSemi | JoinType::RightAnti);
    let mut more = if own { vec![] } else { vec![("rk", DataType::Int64), ("rts", stamp()), ("rid", DataType::Int64)] };
    if !bounded && !inner {
        more.push((WEIGHT, DataType::Int64));
    }
    join(JoinSpec {
        left: schema(&[]),
        right: schema(&[]),
        left_retract: false,
        right_retract: false,
        left_keys: vec![0],
        right_keys: vec![0],
        null_equals_null: false,
        join_type,
        filter: None,
        bounds: bounded.then_some(bounds),
        ttl: (!bounded).then_some(Lag(60)),
        left_time: Some(TIME),
        right_time: Some(TIME),
        output_retract: !bounded && !inner,
        output: schema(&more),
    })
}

fn newest() -> Result<Box<dyn Operator>> {
    asof(AsofSpec {
        left: schema(&[]),
        right: schema(&[]),
        left_keys: vec![0],
        right_keys: vec![0],
        left_time: TIME,
        right_time: TIME,
        or_equal: true,
        outer: true,
        output: schema(&[("rk", DataType::Int64), ("rts", stamp()), ("rid", DataType::Int64)]),
    })
}

/// Runs one case; returns the number of cell steps that were skipped.
fn play(case: &Case, seed: u64) -> usize {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut plain = (case.make)().unwrap();
    let store: SpillStore = StateStore::new(Arc::new(InMemory::new()), Env::manual(0, seed)).into();
    let mut cells = Cells::new(CellsSpec {
        make: Box::new(case.make),
        routing: vec![vec![0]; case.ports],
        shard: 0,
        shards: 1,
        cells: 8,
        budget: MemoryBudget::new(1),
        disk: Ok(store),
    })
    .unwrap();
    let (mut before, mut clock, mut id, mut left_out) = (Watermark::NONE, 1_000, 0, 0);
    for step in 0..80 {
        // Few keys at a time, so that the others are cold.
        let keys = rng.random_range(0..30);
        let mut port = || -> Vec<RecordBatch> {
            let made = (0..rng.random_range(0..5)).map(|_| {
                (clock, id) = (clock + rng.random_range(0..6), id + 1);
                (keys + rng.random_range(0..3), clock - rng.random_range(0..=DISORDER), id)
            });
            let made: Vec<_> = made.collect();
            if made.is_empty() { Vec::new() } else { vec![rows(&made)] }
        };
        let inputs: Vec<_> = (0..case.ports).map(|_| port()).collect();
        let ended = step == 79;
        let behind = Watermark(clock - DISORDER - rng.random_range(0..10));
        let watermark = if ended { Watermark::END } else { before.max(behind) };
        let tick = Tick { before, watermark, now: EventTime(step) };
        let want = plain.whole_step(inputs.clone(), tick).unwrap();
        let got = cells.step(inputs, tick).unwrap();
        assert_eq!(lines(&got.rows), lines(&want.rows), "{}, seed {seed}, step {step}", case.name);
        left_out += cells.cells.iter().filter(|cell| cell.stepped < cells.steps).count();
        before = watermark;
        if rng.random_bool(0.3) {
            plain.changes().unwrap();
            cells.changes().unwrap();
        }
    }
    left_out
}

#[test]
fn only_cells_that_are_touched_or_due_are_fetched_and_nothing_comes_late() {
    for case in CASES {
        let left_out: usize = (0..10).map(|seed| play(case, seed)).sum();
        // Rows that wait for rows of their key may be emitted at any step.
        let wanted = if case.name == "rolling rows ahead" { 0 } else { 3_000 };
        println!("{}: {left_out} of 6400 cell steps were left out", case.name);
        assert!(left_out >= wanted, "{}: {left_out}", case.name);
    }
}
