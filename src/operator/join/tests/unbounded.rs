//! Joins without time bounds.

use datafusion::common::JoinType;
use rand::Rng;

use super::bounded::{TYPES, spec, sql, vary_keys};
use super::*;
use crate::operator::join::join;
use crate::operator::spec::TimeColumn;
use crate::time::{EventTime, Lag, Watermark};

fn equals_batch(retract: [bool; 2]) {
    for_seeds(64, |rng| {
        let join_type = TYPES[rng.random_range(0..TYPES.len())];
        let weighted = retract != [false, false] || join_type != JoinType::Inner;
        let mut spec = spec(join_type, retract, weighted, rng.random_bool(0.5), rng.random_bool(0.3));
        vary_keys(&mut spec, rng);
        let duplicates = rng.random_bool(0.5);
        let input = Input { rows: 200, retract, lags: [0, 0], null_times: true, duplicates };
        let events = random_events(rng, input);
        let make = || join(spec.clone()).unwrap();
        let mut run = Run::new(&make, [spec.left_keys.clone(), spec.right_keys.clone()], weighted);
        let sql = sql(&spec);
        play(&mut run, &events, input, rng, |run, so_far, rng| {
            if rng.random_bool(0.1) {
                assert_eq!(run.output, answer(&sql, so_far), "after {} of the events, {spec:?}", so_far.len());
            }
        });
        assert_eq!(run.output, answer(&sql, &events), "{spec:?}");
    });
}

#[test]
fn updating_joins_of_appends_equal_batch() {
    equals_batch([false, false]);
}

#[test]
fn updating_joins_of_a_retracting_left_equal_batch() {
    equals_batch([true, false]);
}

#[test]
fn updating_joins_of_a_retracting_right_equal_batch() {
    equals_batch([false, true]);
}

#[test]
fn updating_joins_of_retractions_equal_batch() {
    equals_batch([true, true]);
}

fn event(port: usize, id: i64, time: i64, weight: i64) -> Event {
    Event { port, row: Row { key: Some("a".to_owned()), id, value: None, time: Some(time) }, weight }
}

fn step(operator: &mut dyn Operator, retract: bool, events: &[Event], watermark: i64, now: i64) -> Vec<(String, i64)> {
    let inputs = [0, 1].map(|port| {
        let here: Vec<&Event> = events.iter().filter(|event| event.port == port).collect();
        if here.is_empty() { Vec::new() } else { vec![batch(port, retract, &here)] }
    });
    let stepped = operator
        .whole_step(
            inputs.into(),
            Tick { before: Watermark(watermark), watermark: Watermark(watermark), now: EventTime(now) },
        )
        .unwrap();
    let rows = stepped.rows.iter().flat_map(|batch| lines(batch, true));
    rows.map(|(row, weight)| (row.split(" | ").skip(1).step_by(4).collect::<Vec<_>>().join(" "), weight)).collect()
}

#[test]
fn an_outer_row_is_taken_back_at_its_first_match_and_given_again_after_its_last() {
    let mut operator = join(spec(JoinType::Left, [true, true], true, false, false)).unwrap();
    let mut step = |events: &[Event]| {
        let mut rows = step(operator.as_mut(), true, events, 0, 0);
        rows.sort();
        rows
    };
    let row = |text: &str, weight: i64| (text.to_owned(), weight);
    assert_eq!(step(&[event(0, 1, 0, 1)]), [row("1 -", 1)]);
    assert_eq!(step(&[event(1, 2, 0, 1)]), [row("1 -", -1), row("1 2", 1)]);
    assert_eq!(step(&[event(1, 3, 0, 2)]), [row("1 3", 2)]);
    assert_eq!(step(&[event(1, 2, 0, -1)]), [row("1 2", -1)]);
    assert_eq!(step(&[event(1, 3, 0, -2)]), [row("1 -", 1), row("1 3", -2)]);
    assert_eq!(step(&[event(0, 1, 0, -1)]), [row("1 -", -1)]);
    assert!(step(&[event(0, 4, 0, 1), event(0, 4, 0, -1)]).is_empty());
    assert_eq!(operator.usage().rows, 0);
}

#[test]
fn rows_are_forgotten_after_their_ttl_by_event_time() {
    let mut spec = spec(JoinType::Full, [false, false], true, false, false);
    spec.ttl = Some(Lag(10));
    spec.left_time = Some(TimeColumn { column: TIME, lag: Lag(0) });
    spec.right_time = Some(TimeColumn { column: TIME, lag: Lag(5) });
    let mut operator = join(spec).unwrap();
    step(operator.as_mut(), false, &[event(0, 1, 100, 1), event(1, 2, 100, 1)], 100, 0);
    step(operator.as_mut(), false, &[], 110, 0);
    assert_eq!(operator.usage().rows, 2);
    step(operator.as_mut(), false, &[], 111, 0);
    assert_eq!(operator.usage().rows, 1, "the left row is gone");
    assert_eq!(step(operator.as_mut(), false, &[event(0, 3, 115, 1)], 115, 0), [("3 2".to_owned(), 1)]);
    step(operator.as_mut(), false, &[], 116, 0);
    assert_eq!(step(operator.as_mut(), false, &[event(1, 4, 116, 1)], 116, 0), [("3 4".to_owned(), 1)]);
}

#[test]
fn rows_without_event_time_are_forgotten_by_processing_time_also_after_a_restart() {
    let mut spec = spec(JoinType::Inner, [true, false], true, false, false);
    spec.ttl = Some(Lag(10));
    spec.right = schema(1, true);
    spec.right_retract = true;
    let mut first = join(spec.clone()).unwrap();
    step(first.as_mut(), true, &[event(0, 1, 0, 1)], 0, 100);
    step(first.as_mut(), true, &[event(0, 2, 0, 1)], 0, 105);
    let mut second = join(spec).unwrap();
    for change in first.changes().unwrap() {
        for rows in change.upserts {
            second.restore(change.table, rows, Watermark(0)).unwrap();
        }
    }
    step(second.as_mut(), true, &[], 0, 111);
    assert_eq!(second.usage().rows, 1);
    assert_eq!(step(second.as_mut(), true, &[event(1, 9, 0, 1)], 0, 112), [("2 9".to_owned(), 1)]);
    // Retracting the expired row leaves nothing in state.
    step(second.as_mut(), true, &[event(0, 1, 0, -1)], 0, 113);
    assert_eq!(second.usage().rows, 2);
}

#[test]
fn joins_without_keys_pair_everything() {
    let mut spec = spec(JoinType::Inner, [true, true], true, true, false);
    (spec.left_keys, spec.right_keys) = (Vec::new(), Vec::new());
    for_seeds(10, |rng| {
        let retract = [true, true];
        let input = Input { rows: 60, retract, lags: [0, 0], null_times: false, duplicates: true };
        let events = random_events(rng, input);
        let make = || join(spec.clone()).unwrap();
        let mut run = Run::new(&make, [Vec::new(), Vec::new()], true);
        play(&mut run, &events, input, rng, |_, _, _| ());
        assert_eq!(run.output, answer("SELECT * FROM l JOIN r ON l_v < r_v", &events));
    });
}
