//! Joins with time bounds.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::JoinType;
use rand::Rng;
use rand::rngs::StdRng;

use super::*;
use crate::operator::join::join;
use crate::operator::spec::{JoinSpec, TimeBounds, TimeColumn};
use crate::time::{EventTime, Lag, Watermark};

pub(super) const TYPES: [JoinType; 8] = [
    JoinType::Inner,
    JoinType::Left,
    JoinType::Right,
    JoinType::Full,
    JoinType::LeftSemi,
    JoinType::RightSemi,
    JoinType::LeftAnti,
    JoinType::RightAnti,
];

/// A join spec; `null_equals_null` and the filter vary.
pub(super) fn spec(join_type: JoinType, retract: [bool; 2], weighted: bool, filtered: bool, nulls: bool) -> JoinSpec {
    JoinSpec {
        left: schema(0, retract[0]),
        right: schema(1, retract[1]),
        left_retract: retract[0],
        right_retract: retract[1],
        left_keys: vec![KEY],
        right_keys: vec![KEY],
        null_equals_null: nulls,
        join_type,
        filter: filtered.then(filter),
        bounds: None,
        ttl: None,
        left_time: None,
        right_time: None,
        output_retract: weighted,
        output: output(join_type, weighted),
    }
}

pub(super) fn output(join_type: JoinType, weighted: bool) -> SchemaRef {
    let sides: &[usize] = match join_type {
        JoinType::LeftSemi | JoinType::LeftAnti => &[0],
        JoinType::RightSemi | JoinType::RightAnti => &[1],
        _ => &[0, 1],
    };
    let last = sides.len() - 1;
    let fields = sides.iter().enumerate().flat_map(|(n, &side)| schema(side, weighted && n == last).fields().to_vec());
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The same join in SQL.
pub(super) fn sql(spec: &JoinSpec) -> String {
    let verb = match spec.join_type {
        JoinType::Inner => "JOIN",
        JoinType::Left => "LEFT JOIN",
        JoinType::Right => "RIGHT JOIN",
        JoinType::Full => "FULL JOIN",
        JoinType::LeftSemi => "LEFT SEMI JOIN",
        JoinType::RightSemi => "RIGHT SEMI JOIN",
        JoinType::LeftAnti => "LEFT ANTI JOIN",
        _ => "RIGHT ANTI JOIN",
    };
    let equals = if spec.null_equals_null { "IS NOT DISTINCT FROM" } else { "=" };
    let name = |key: &usize| ["k", "id", "v", "ts"][*key];
    let equal = spec.left_keys.iter().map(name).map(|key| format!("(l_{key} {equals} r_{key})"));
    let mut sql = format!("SELECT * FROM l {verb} r ON {}", equal.collect::<Vec<_>>().join(" AND "));
    if spec.filter.is_some() {
        sql.push_str(" AND l_v < r_v");
    }
    if let Some(bounds) = spec.bounds {
        let TimeBounds { lower, upper, .. } = bounds;
        sql.push_str(&format!(" AND CAST(r_ts AS BIGINT) - CAST(l_ts AS BIGINT) BETWEEN {lower} AND {upper}"));
    }
    sql
}

/// Also joins by two columns (floats with NaN, the time as in windowed joins), and by one column twice.
pub(super) fn vary_keys(spec: &mut JoinSpec, rng: &mut StdRng) {
    let keys =
        [vec![KEY], vec![KEY], vec![KEY, TIME], vec![KEY, 2], vec![KEY, KEY], vec![2]][rng.random_range(0..6)].clone();
    (spec.left_keys, spec.right_keys) = (keys.clone(), keys);
}

fn random_case(join_type: JoinType, rng: &mut StdRng) -> (JoinSpec, Input) {
    let lags = [rng.random_range(-3..8), rng.random_range(-3..8)];
    let (lower, upper) = match rng.random_range(0..4) {
        0 => (0, 0),
        1 => (-10, -3),
        2 => (2, 15),
        _ => (-8, 8),
    };
    let time = |side: usize| TimeColumn { column: TIME, lag: Lag(lags[side]) };
    let bounds = TimeBounds { left: time(0), right: time(1), lower: Lag(lower), upper: Lag(upper) };
    let mut spec = spec(join_type, [false, false], false, rng.random_bool(0.5), rng.random_bool(0.3));
    spec.bounds = Some(bounds);
    vary_keys(&mut spec, rng);
    let input = Input { rows: 250, retract: [false, false], lags, null_times: true, duplicates: rng.random_bool(0.5) };
    (spec, input)
}

fn equals_batch(join_type: JoinType) {
    for_seeds(25, |rng| {
        let (spec, input) = random_case(join_type, rng);
        let events = random_events(rng, input);
        let make = || join(spec.clone()).unwrap();
        let mut run = Run::new(&make, [spec.left_keys.clone(), spec.right_keys.clone()], false);
        play(&mut run, &events, input, rng, |_, _, _| ());
        assert_eq!(run.output, answer(&sql(&spec), &events), "{spec:?}");
        assert_eq!(run.state_rows(), 0, "nothing is remembered once the input has ended");
    });
}

#[test]
fn bounded_inner_joins_equal_batch() {
    equals_batch(JoinType::Inner);
}

#[test]
fn bounded_outer_joins_equal_batch() {
    [JoinType::Left, JoinType::Right, JoinType::Full].into_iter().for_each(equals_batch);
}

#[test]
fn bounded_semi_joins_equal_batch() {
    [JoinType::LeftSemi, JoinType::RightSemi].into_iter().for_each(equals_batch);
}

#[test]
fn bounded_anti_joins_equal_batch() {
    [JoinType::LeftAnti, JoinType::RightAnti].into_iter().for_each(equals_batch);
}

fn at(port: usize, id: i64, time: i64) -> Event {
    let row = Row { key: Some("a".to_owned()), id, value: Some(id as f64), time: Some(time) };
    Event { port, row, weight: 1 }
}

fn plain(join_type: JoinType, lower: i64, upper: i64, lags: [i64; 2]) -> JoinSpec {
    let mut spec = spec(join_type, [false, false], false, false, false);
    let time = |side: usize| TimeColumn { column: TIME, lag: Lag(lags[side]) };
    spec.bounds = Some(TimeBounds { left: time(0), right: time(1), lower: Lag(lower), upper: Lag(upper) });
    spec
}

fn step(operator: &mut dyn Operator, events: &[Event], before: Watermark, watermark: Watermark) -> Stepped {
    let inputs = [0, 1].map(|port| {
        let here: Vec<&Event> = events.iter().filter(|event| event.port == port).collect();
        if here.is_empty() { Vec::new() } else { vec![batch(port, false, &here)] }
    });
    operator.whole_step(inputs.into(), Tick { before, watermark, now: EventTime(0) }).unwrap()
}

fn ids(stepped: &Stepped) -> Vec<String> {
    let rows = stepped.rows.iter().flat_map(|batch| lines(batch, false));
    rows.map(|(row, _)| row.split(" | ").skip(1).step_by(4).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn late_rows_go_to_their_port_and_do_not_match() {
    let mut operator = join(plain(JoinType::Full, -100, 100, [0, 5])).unwrap();
    step(operator.as_mut(), &[at(0, 1, 60)], Watermark::NONE, Watermark(50));
    // On the right, rows may trail the watermark by 5.
    let events = [at(0, 2, 49), at(0, 3, 50), at(1, 4, 44), at(1, 5, 45)];
    let stepped = step(operator.as_mut(), &events, Watermark(50), Watermark(50));
    let late: Vec<(usize, String)> = stepped
        .late
        .iter()
        .flat_map(|(port, batch)| lines(batch, false).into_iter().map(|(row, _)| (*port, row)))
        .collect();
    assert_eq!(late.len(), 2);
    assert!(late[0].0 == 0 && late[0].1.contains("| 2 |"), "{late:?}");
    assert!(late[1].0 == 1 && late[1].1.contains("| 4 |"), "{late:?}");
    assert_eq!(
        ids(&stepped).iter().collect::<std::collections::BTreeSet<_>>(),
        ["1 5".to_owned(), "3 5".to_owned()].iter().collect()
    );
}

#[test]
fn outer_rows_come_out_when_no_match_can_come_and_not_before() {
    let mut operator = join(plain(JoinType::Left, 0, 10, [0, 3])).unwrap();
    assert!(ids(&step(operator.as_mut(), &[at(0, 1, 20)], Watermark::NONE, Watermark(20))).is_empty());
    // Future right rows are at 30 or later: one at 30 would still match.
    assert!(ids(&step(operator.as_mut(), &[], Watermark(20), Watermark(33))).is_empty());
    assert_eq!(ids(&step(operator.as_mut(), &[], Watermark(33), Watermark(34))), ["1 -"]);
    assert!(ids(&step(operator.as_mut(), &[], Watermark(34), Watermark::END)).is_empty());
}

#[test]
fn semi_rows_come_out_at_the_first_match_and_are_forgotten() {
    let mut operator = join(plain(JoinType::LeftSemi, 0, 10, [0, 0])).unwrap();
    step(operator.as_mut(), &[at(0, 1, 20)], Watermark::NONE, Watermark(10));
    assert_eq!(ids(&step(operator.as_mut(), &[at(1, 2, 22), at(1, 3, 23)], Watermark(10), Watermark(10))), ["1"]);
    assert_eq!(operator.usage().rows, 2, "only the right rows stay");
    assert!(ids(&step(operator.as_mut(), &[at(1, 4, 24)], Watermark(10), Watermark(10))).is_empty());
}

#[test]
fn memory_holds_what_can_still_match() {
    let mut operator = join(plain(JoinType::Full, 0, 100, [0, 0])).unwrap();
    let mut before = Watermark::NONE;
    for time in 0..2_000 {
        step(operator.as_mut(), &[at(0, time, time), at(1, time, time)], before, Watermark(time));
        before = Watermark(time);
        let usage = operator.usage();
        assert!(usage.rows <= 103 && usage.oldest.unwrap() >= EventTime(time - 100), "{usage:?} at {time}");
        assert!(usage.bytes < 100_000, "{usage:?} at {time}");
        operator.changes().unwrap();
    }
}

#[test]
fn taken_back_rows_are_refused_within_bounds() {
    let mut spec = plain(JoinType::Inner, 0, 0, [0, 0]);
    spec.left_retract = true;
    assert!(join(spec).is_err());
}
