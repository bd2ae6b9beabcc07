//! The streamed output, for any micro-batches, restarts and shards, equals DataFusion's result over all the input.

mod input;
mod shards;
mod single;

use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use self::input::{DISORDER, Row, Taste, WINDOW, answer, batch, count, output, schema, spec};
use self::shards::Shards;
use super::panes::WORTHWHILE;
use super::times::microseconds;
use crate::operator::spec::{AggregateSpec, TimeColumn};
use crate::operator::{Stepped, Tick};
use crate::time::{EventTime, Lag, Watermark};

const AGGREGATES: &[&str] = &[
    "count(*)",
    "count(x)",
    "count(DISTINCT s)",
    "count(DISTINCT x)",
    "count(x) FILTER (WHERE x > 3)",
    "sum(x)",
    "sum(x) FILTER (WHERE b)",
    "sum(f)",
    "sum(d)",
    "sum(DISTINCT x)",
    "avg(f)",
    "avg(x)",
    "avg(d)",
    "avg(f) FILTER (WHERE b)",
    "avg(DISTINCT f)",
    "min(s)",
    "min(f)",
    "max(x)",
    "max(x) FILTER (WHERE b)",
    "min(x + id)",
    "max(d)",
    "max(ts)",
    "stddev(f)",
    "var_pop(x)",
    "corr(x, f)",
    "median(x)",
    "approx_distinct(s)",
    "bool_and(b)",
    "bit_xor(x)",
    "array_agg(x)",
    "array_agg(DISTINCT s)",
    "array_agg(s ORDER BY id)",
    "first_value(s ORDER BY id)",
    "last_value(x ORDER BY f DESC, id)",
    "string_agg(s, ',' ORDER BY id)",
    "sum_of_squares(x)",
];

fn some_aggregates(random: &mut StdRng, least: usize, taste: Taste) -> Vec<&'static str> {
    let count = random.random_range(least..=4);
    // DataFusion's MIN depends on the position of a NaN in its input.
    let fit: Vec<_> =
        AGGREGATES.iter().filter(|aggregate| !taste.specials || **aggregate != "min(f)").copied().collect();
    fit.choose_multiple(random, count).copied().collect()
}

fn some_keys(random: &mut StdRng) -> Vec<&'static str> {
    let count = random.random_range(0..=2);
    ["k_str", "k_int", "k_float"].choose_multiple(random, count).copied().collect()
}

fn taste(random: &mut StdRng) -> Taste {
    Taste { keys: random.random_range(3..80), specials: random.random_bool(0.3), step: random.random_range(50..2000) }
}

/// Cuts rows into batches; there may be none, or empty ones.
fn cut(random: &mut StdRng, mut rows: &[Row], retract: bool) -> Vec<RecordBatch> {
    let schema = schema(retract);
    let mut batches = Vec::new();
    while !rows.is_empty() {
        let (part, rest) = rows.split_at(random.random_range(0..=rows.len()));
        batches.push(batch(part, &schema));
        rows = rest;
    }
    batches
}

/// Steps through `rows`, with snapshots and restarts; `each` gets the output of every step.
fn drive(
    random: &mut StdRng,
    spec: &AggregateSpec,
    rows: &[Row],
    watermark_of: impl Fn(usize) -> Watermark,
    mut each: impl FnMut(&[Row], Tick, Stepped),
) -> Shards {
    let worthwhile = *[1, 5, 40, WORTHWHILE].choose(random).unwrap();
    let mut shards = Shards::new(spec, random.random_range(1..4), worthwhile);
    let mut before = Watermark::NONE;
    let mut done = 0;
    loop {
        let end = (done + random.random_range(0..250)).min(rows.len());
        let last = end == rows.len() && random.random_bool(0.5);
        let watermark = if last { Watermark::END } else { watermark_of(end).max(before) };
        let watermark = if !last && random.random_bool(0.3) { before } else { watermark };
        let tick = Tick { before, watermark, now: EventTime(0) };
        let part = &rows[done..end];
        each(part, tick, shards.step(&cut(random, part, spec.retract), tick));
        before = watermark;
        done = end;
        if last {
            return shards;
        }
        if random.random_bool(0.4) {
            shards.snapshot();
            if random.random_bool(0.4) {
                let count = random.random_range(1..4);
                shards.restart(random, count, watermark);
            }
        }
    }
}

/// A closing column, its lag, and the watermark in its unit.
struct ClosingCase {
    column: &'static str,
    lag: i64,
    watermark: fn(i64) -> i64,
    value: fn(&Row) -> Option<i64>,
}

const DAY: i64 = 86_400_000_000;

const CLOSING: &[ClosingCase] = &[
    ClosingCase { column: "window_start", lag: WINDOW, watermark: |w| w, value: Row::window_start },
    ClosingCase {
        column: "window_end",
        lag: -1,
        watermark: |w| w,
        value: |row| row.window_start().map(|start| start + WINDOW),
    },
    ClosingCase { column: "nanos", lag: WINDOW, watermark: |w| w, value: Row::window_start },
    ClosingCase { column: "second", lag: 1000, watermark: |w| w, value: |row| Some(row.ts.div_euclid(1000) * 1000) },
    ClosingCase {
        column: "day",
        lag: 0,
        watermark: |w| w.div_euclid(WINDOW) * DAY,
        value: |row| Some(row.ts.div_euclid(WINDOW) * DAY),
    },
];

fn closing_rows(random: &mut StdRng, case: &ClosingCase, taste: Taste) -> Vec<Row> {
    let hopping = case.lag.abs() != 1000 && random.random_bool(0.3);
    let late = random.random_bool(0.3);
    let mut rows = Vec::new();
    for id in 0..random.random_range(0..1200) {
        let mut row = Row::random(random, id, taste);
        if late && random.random_bool(0.05) {
            row.ts -= random.random_range(0..5 * WINDOW);
        }
        if late && case.column.starts_with("window") && random.random_bool(0.02) {
            row.start = Some(None);
        }
        if hopping && row.start.is_none() {
            // The window that began half a window earlier contains the row too.
            let half = row.ts.div_euclid(WINDOW / 2) * (WINDOW / 2);
            rows.push(Row { start: Some(Some(half - WINDOW / 2)), ..row.clone() });
            row.start = Some(Some(half));
        }
        rows.push(row);
    }
    rows
}

async fn closing_case(seed: u64, retract: bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let case = CLOSING.choose(&mut random).unwrap();
    let taste = taste(&mut random);
    let mut keys = some_keys(&mut random);
    let routing = random.random_range(0..=keys.len());
    let mut others = vec![case.column];
    for other in ["window_start", "window_end", "ts"] {
        if other != case.column && random.random_bool(0.2) {
            others.push(other);
        }
    }
    keys.splice(routing..routing, others);
    let aggregates = some_aggregates(&mut random, 0, taste);
    let mut rows = closing_rows(&mut random, case, taste);
    if retract {
        rows = with_take_backs(&mut random, rows);
    }
    let mut spec = spec(&keys, &aggregates, retract).await;
    let closing = TimeColumn { column: spec.input.index_of(case.column).unwrap(), lag: Lag(case.lag) };
    spec = AggregateSpec { routing, closing: Some(closing), output: output(&spec.output, false), ..spec };
    let position = keys.iter().position(|key| *key == case.column).unwrap();
    let watermark_of = |end: usize| {
        let next = rows[end..]
            .iter()
            .map(|row| row.id)
            .min()
            .unwrap_or_else(|| rows.iter().map(|row| row.id + 1).max().unwrap_or(0));
        Watermark((case.watermark)(next * taste.step - DISORDER))
    };
    let mut streamed = BTreeMap::new();
    let mut kept = Vec::new();
    drive(&mut random, &spec, &rows, watermark_of, |rows, tick, stepped| {
        for rows in &stepped.rows {
            for value in microseconds(rows.column(position)).unwrap().values() {
                assert!(
                    tick.watermark == Watermark::END || value + case.lag < tick.watermark.0,
                    "seed {seed}: too early"
                );
                assert!(value + case.lag >= tick.before.0, "seed {seed}: too late");
            }
            count(rows, rows.num_columns(), &mut streamed);
        }
        let in_time = |row: &&Row| (case.value)(row).is_some_and(|value| value + case.lag >= tick.before.0);
        let before = kept.len();
        kept.extend(rows.iter().filter(in_time).cloned());
        let late: usize = stepped.late.iter().map(|(_, rows)| rows.num_rows()).sum();
        assert_eq!(late, rows.len() + before - kept.len(), "seed {seed}: late rows");
    });
    let expected = answer(&keys, &aggregates, &expand(&kept)).await;
    assert_eq!(streamed, expected, "seed {seed}: {keys:?} {aggregates:?}");
}

#[tokio::test]
async fn windows_come_out_as_batch_says() {
    for seed in 0..150 {
        closing_case(seed, false).await;
    }
}

#[tokio::test]
async fn windows_over_retracting_input_come_out_as_batch_says() {
    for seed in 1000..1060 {
        closing_case(seed, true).await;
    }
}

/// Adds weights, and retracts some rows soon after.
fn with_take_backs(random: &mut StdRng, rows: Vec<Row>) -> Vec<Row> {
    let mut placed = Vec::new();
    for (position, mut row) in rows.into_iter().enumerate() {
        row.weight = if random.random_bool(0.9) { 1 } else { 3 };
        if random.random_bool(0.5) {
            let weight = -random.random_range(1..=row.weight);
            placed.push((position + random.random_range(1..150), Row { weight, ..row.clone() }));
        }
        placed.push((position, row));
    }
    placed.sort_by_key(|(position, row)| (*position, -row.weight));
    placed.into_iter().map(|(_, row)| row).collect()
}

/// The remaining rows, repeated by their weight.
fn expand(rows: &[Row]) -> Vec<Row> {
    type Known = BTreeMap<(i64, Option<Option<i64>>), (Row, i64)>;
    let mut left = Known::new();
    for row in rows {
        left.entry((row.id, row.start)).or_insert_with(|| (row.clone(), 0)).1 += row.weight;
    }
    left.into_values().flat_map(|(row, weight)| std::iter::repeat_n(row, weight.max(0) as usize)).collect()
}

async fn updating_case(seed: u64, retract: bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let keys = some_keys(&mut random);
    let taste = taste(&mut random);
    let aggregates = some_aggregates(&mut random, usize::from(keys.is_empty()), taste);
    let mut rows: Vec<Row> = (0..random.random_range(0..1200)).map(|id| Row::random(&mut random, id, taste)).collect();
    if retract {
        rows = with_take_backs(&mut random, rows);
        if random.random_bool(0.1) {
            // Retracts all rows.
            let backs: Vec<Row> = expand(&rows).into_iter().map(|row| Row { weight: -1, ..row }).collect();
            rows.extend(backs);
        }
    }
    let spec =
        AggregateSpec { routing: random.random_range(0..=keys.len()), ..spec(&keys, &aggregates, retract).await };
    let mut streamed = BTreeMap::new();
    let columns = spec.output.fields().len() - 1;
    drive(
        &mut random,
        &spec,
        &rows,
        |end| Watermark(end as i64),
        |_, _, stepped| {
            assert!(stepped.late.is_empty());
            for rows in &stepped.rows {
                count(rows, columns, &mut streamed);
            }
            assert!(
                streamed.values().all(|weight| *weight == 1),
                "seed {seed}: only rows that were given are taken back"
            );
        },
    );
    if keys.is_empty() && rows.is_empty() {
        assert!(streamed.is_empty());
        return;
    }
    let expected = answer(&keys, &aggregates, &expand(&rows)).await;
    assert_eq!(streamed, expected, "seed {seed}: {keys:?} {aggregates:?}");
}

#[tokio::test]
async fn changing_groups_add_up_to_what_batch_says() {
    for seed in 2000..2150 {
        updating_case(seed, false).await;
    }
}

#[tokio::test]
async fn groups_over_retracting_input_add_up_to_what_batch_says() {
    for seed in 3000..3200 {
        updating_case(seed, true).await;
    }
}
