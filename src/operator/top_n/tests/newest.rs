//! The newest row of each key, against a list of all rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{changelog, with_field};
use crate::operator::keyed::harness::{Flow, K, N, TS, V, consolidated, random_rows};
use crate::operator::keyed::with_columns;
use crate::operator::spec::NewestSpec;
use crate::operator::top_n::newest;
use crate::operator::{Operator, Tick, WEIGHT};
use crate::time::{EventTime, Lag, Watermark};

fn spec(rows: &RecordBatch, keys: &[usize], ttl: Option<i64>) -> NewestSpec {
    NewestSpec { target: "t".to_owned(), input: rows.schema(), keys: keys.to_vec(), ttl: ttl.map(Lag), time: None }
}

fn text(rows: &RecordBatch, columns: &[usize]) -> String {
    consolidated(&[rows.project(columns).unwrap()], false).into_keys().collect()
}

/// Per key its rows: their counts, and the time of their last arrival.
#[derive(Default)]
struct Reference {
    keys: BTreeMap<String, BTreeMap<String, (i64, usize)>>,
    clock: usize,
}

impl Reference {
    fn take(&mut self, rows: &RecordBatch, keys: &[usize]) {
        let width = rows.num_columns() - 1;
        let weights = rows.column(width).as_primitive::<Int64Type>();
        let all: Vec<usize> = (0..width).collect();
        for row in 0..rows.num_rows() {
            let one = rows.slice(row, 1);
            let of_key = self.keys.entry(text(&one, keys)).or_default();
            let (count, came) = of_key.entry(text(&one, &all)).or_default();
            *count += weights.value(row);
            if weights.value(row) > 0 {
                self.clock += 1;
                *came = self.clock;
            }
        }
    }

    /// The last row of each key to arrive among those that count.
    fn shown(&self) -> BTreeMap<String, i64> {
        let newest = self.keys.values().filter_map(|rows| {
            rows.iter().filter(|(_, (count, _))| *count > 0).max_by_key(|(_, (_, came))| *came).map(|(row, _)| row)
        });
        newest.map(|row| (row.clone(), 1)).collect()
    }
}

#[test]
fn of_each_key_the_last_row_that_is_left_is_shown_over_restarts_and_shards() {
    for seed in 0..150 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let columns = [&[K, TS, V, N][..], &[K, N], &[N, K, V]][rng.random_range(0..3)];
        let rows = random_rows(rng, 150, 50).project(columns).unwrap();
        let keys: &[usize] = [&[0][..], &[0, 1]][rng.random_range(0..2)];
        let (log, _) = changelog(rng, &rows);
        let make = || newest(&spec(&log, keys, None)).unwrap();
        let mut flow = Flow::new(&make, keys);
        let mut reference = Reference::default();
        let mut at = 0;
        while at < log.num_rows() {
            let len = rng.random_range(0..=20).min(log.num_rows() - at);
            let batch = log.slice(at, len);
            at += len;
            reference.take(&batch, keys);
            flow.step(&[batch], Watermark::NONE);
            assert_eq!(consolidated(&flow.rows, true), reference.shown(), "seed {seed}, row {at}");
            if rng.random_bool(0.3) {
                flow.save();
                if rng.random_bool(0.5) {
                    flow.rebuild(rng.random_range(1..5), rng);
                }
            }
        }
        flow.save();
        let (live, stored) = flow.remembered();
        assert_eq!(live, stored, "seed {seed}");
    }
}

/// Rows `k, n` with a weight.
fn rows(of: &[(i64, i64, i64)]) -> RecordBatch {
    let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let pairs: Vec<(i64, i64)> = of.iter().map(|(k, n, _)| (*k, *n)).collect();
    let (k, n) = pairs.into_iter().unzip();
    let plain = RecordBatch::try_from_iter([("k", column(k)), ("n", column(n))]).unwrap();
    let weighted = with_field(&plain.schema(), WEIGHT, DataType::Int64);
    with_columns(&plain, vec![column(of.iter().map(|(.., weight)| *weight).collect())], &weighted).unwrap()
}

fn step(operator: &mut Box<dyn Operator>, of: &[(i64, i64, i64)], now: i64) -> BTreeMap<String, i64> {
    let tick = Tick { before: Watermark::NONE, watermark: Watermark::NONE, now: EventTime(now) };
    let batches = if of.is_empty() { vec![] } else { vec![rows(of)] };
    consolidated(&operator.step(vec![batches], tick).unwrap().rows, true)
}

fn changes<const N: usize>(of: [(&str, i64); N]) -> BTreeMap<String, i64> {
    of.into_iter().map(|(row, weight)| (row.to_owned(), weight)).collect()
}

#[test]
fn a_row_that_counts_twice_stays_until_it_is_taken_back_twice() {
    let mut operator = newest(&spec(&rows(&[(1, 1, 1)]), &[0], None)).unwrap();
    assert_eq!(step(&mut operator, &[(1, 1, 2), (1, 2, 1)], 0), changes([("1|2", 1)]));
    assert_eq!(step(&mut operator, &[(1, 2, -1)], 0), changes([("1|2", -1), ("1|1", 1)]));
    assert_eq!(step(&mut operator, &[(1, 1, -1)], 0), changes([]));
    assert_eq!(step(&mut operator, &[(1, 1, -1)], 0), changes([("1|1", -1)]));
    assert_eq!(operator.usage().rows, 0);
    assert_eq!(step(&mut operator, &[(1, 1, -1), (1, 1, 1)], 0), changes([]), "in any order within a step");
}

#[test]
fn after_the_ttl_a_row_is_forgotten_and_taken_back_it_takes_its_key_away() {
    let mut operator = newest(&spec(&rows(&[(1, 1, 1)]), &[0], Some(800))).unwrap();
    assert_eq!(step(&mut operator, &[(1, 1, 1), (2, 7, 1)], 0), changes([("1|1", 1), ("2|7", 1)]));
    assert_eq!(step(&mut operator, &[(1, 2, 1)], 500), changes([("1|1", -1), ("1|2", 1)]));
    assert_eq!(step(&mut operator, &[], 1000), changes([]), "what was shown stays");
    assert_eq!(operator.usage().rows, 1);
    assert_eq!(step(&mut operator, &[(1, 2, -1)], 1000), changes([("1|2", -1)]), "the older row is forgotten");
    assert_eq!(step(&mut operator, &[(2, 7, -1)], 1000), changes([("2|7", -1)]));
    assert_eq!(step(&mut operator, &[(2, 8, 1)], 1100), changes([("2|8", 1)]));
    assert_eq!(step(&mut operator, &[(2, 7, -1)], 1100), changes([]), "another row has the key");
    assert_eq!(operator.usage().rows, 1);
}
