//! Properties of one operator that random input is unlikely to show.

use arrow::array::{AsArray, RecordBatch};

use super::input::{Row, batch, output, schema, spec};
use crate::operator::aggregate::aggregate;
use crate::operator::spec::{AggregateSpec, TimeColumn};
use crate::operator::{Operator, Tick};
use crate::time::{EventTime, Lag, Watermark};

fn row(id: i64, key: &str, x: i64) -> Row {
    Row {
        id,
        k_str: Some(key.to_owned()),
        k_int: None,
        k_float: None,
        ts: id,
        x: Some(x),
        f: Some(x as f64),
        s: None,
        d: None,
        b: None,
        start: None,
        weight: 1,
    }
}

fn tick(before: i64, watermark: i64, now: i64) -> Tick {
    Tick { before: Watermark(before), watermark: Watermark(watermark), now: EventTime(now) }
}

/// Steps and prints the output, one line a row.
fn step(operator: &mut Box<dyn Operator>, rows: &[Row], retract: bool, at: Tick) -> Vec<String> {
    let stepped = operator.step(vec![vec![batch(rows, &schema(retract))]], at).unwrap();
    let print = |rows: &RecordBatch| {
        let cells = |row: usize| {
            let cells =
                rows.columns().iter().map(|column| arrow::util::display::array_value_to_string(column, row).unwrap());
            cells.collect::<Vec<_>>().join(" ")
        };
        (0..rows.num_rows()).map(cells).collect::<Vec<_>>()
    };
    stepped.rows.iter().flat_map(print).collect()
}

const NOW: Tick = Tick { before: Watermark::NONE, watermark: Watermark::NONE, now: EventTime(0) };

#[tokio::test]
async fn groups_that_did_not_change_stay_silent() {
    let mut operator = aggregate(spec(&["k_str"], &["max(x)"], false).await).unwrap();
    assert_eq!(step(&mut operator, &[row(1, "a", 5), row(2, "b", 7)], false, NOW), ["a 5 1", "b 7 1"]);
    assert_eq!(step(&mut operator, &[row(3, "a", 4), row(4, "b", 8)], false, NOW), ["b 7 -1", "b 8 1"]);
    assert_eq!(step(&mut operator, &[], false, NOW), [""; 0]);
}

#[tokio::test]
async fn changes_speak_of_touched_groups_only() {
    for keys in [&["k_str"][..], &["k_str", "window_start"]] {
        let plain = spec(keys, &["count(*)"], false).await;
        let closing =
            (keys.len() > 1).then(|| TimeColumn { column: plain.input.index_of("window_start").unwrap(), lag: Lag(0) });
        let schema = if closing.is_some() { output(&plain.output, false) } else { plain.output.clone() };
        let mut operator = aggregate(AggregateSpec { closing, output: schema, ..plain }).unwrap();
        let rows: Vec<Row> = (0..1000).map(|id| row(id, &format!("key{id}"), 1)).collect();
        step(&mut operator, &rows, false, NOW);
        let upserts = |operator: &mut Box<dyn Operator>| -> usize {
            operator.changes().unwrap().iter().flat_map(|change| &change.upserts).map(RecordBatch::num_rows).sum()
        };
        assert_eq!(upserts(&mut operator), 1000);
        step(&mut operator, &rows[..2], false, NOW);
        assert_eq!(upserts(&mut operator), 2);
        assert_eq!(upserts(&mut operator), 0);
        assert_eq!(operator.usage().rows, 1000);
    }
}

#[tokio::test]
async fn a_group_without_rows_disappears_and_its_state_too() {
    for aggregates in [&["count(*)"][..], &["min(x)"], &[]] {
        let mut operator = aggregate(spec(&["k_str"], aggregates, true).await).unwrap();
        step(&mut operator, &[row(1, "a", 5)], true, NOW);
        assert!(operator.changes().unwrap().iter().all(|change| change.deletes.is_empty()));
        let back = Row { weight: -1, ..row(1, "a", 5) };
        let gone = step(&mut operator, &[back], true, NOW);
        assert_eq!(gone.len(), 1);
        assert!(gone[0].ends_with("-1"), "{gone:?}");
        assert_eq!(operator.usage().rows, 0);
        for change in operator.changes().unwrap() {
            assert_eq!(change.deletes.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
            assert!(change.upserts.is_empty());
        }
    }
}

#[tokio::test]
async fn rows_that_come_and_go_within_a_step_leave_nothing() {
    let mut operator = aggregate(spec(&["k_str"], &["count(*)", "max(x)"], true).await).unwrap();
    let back = Row { weight: -1, ..row(1, "a", 5) };
    assert_eq!(step(&mut operator, &[row(1, "a", 5), back], true, NOW), [""; 0]);
    let changes = operator.changes().unwrap();
    assert!(changes.iter().all(|change| change.upserts.is_empty() && change.deletes.is_empty()));
}

#[tokio::test]
async fn an_aggregate_without_keys_keeps_its_row_when_all_rows_are_gone() {
    let mut operator = aggregate(spec(&[], &["count(*)", "sum(x)", "max(x)"], true).await).unwrap();
    assert_eq!(step(&mut operator, &[row(1, "a", 5)], true, NOW), ["1 5 5 1"]);
    let back = Row { weight: -1, ..row(1, "a", 5) };
    assert_eq!(step(&mut operator, &[back], true, NOW), ["1 5 5 -1", "0   1"]);
}

#[tokio::test]
async fn float_sums_forget_what_was_taken_back() {
    let mut operator = aggregate(spec(&[], &["sum(f)", "avg(f)"], true).await).unwrap();
    let value = |f: f64, weight: i64| Row { f: Some(f), weight, ..row(1, "a", 0) };
    step(&mut operator, &[value(1e16, 1), value(1.0, 1), value(f64::NAN, 1), value(f64::INFINITY, 2)], true, NOW);
    let back = [value(1e16, -1), value(f64::NAN, -1), value(f64::INFINITY, -2)];
    let left = step(&mut operator, &back, true, NOW);
    assert_eq!(left[1], "1.0 1.0 1");
    let tenths: Vec<Row> = (0..10).map(|_| value(0.1, 1)).collect();
    step(&mut operator, &tenths, true, NOW);
    let back: Vec<Row> = (0..10).map(|_| value(0.1, -1)).collect();
    assert_eq!(step(&mut operator, &back, true, NOW)[1], "1.0 1.0 1");
}

#[tokio::test]
async fn groups_untouched_for_the_ttl_are_forgotten_silently() {
    for (retract, aggregates) in
        [(false, &["count(*)"][..]), (true, &["count(*)"]), (true, &["count(*)", "min(k_str)"])]
    {
        for event_time in [true, false] {
            let plain = spec(&["k_str"], aggregates, retract).await;
            let time = event_time.then_some(TimeColumn { column: 4, lag: Lag(0) });
            let spec = AggregateSpec { ttl: Some(Lag(1600)), time, ..plain };
            let mut operator = aggregate(spec.clone()).unwrap();
            let at = |time: i64| if event_time { tick(time, time, 0) } else { tick(0, 0, time) };
            step(&mut operator, &[row(1000, "old", 1), row(1000, "kept", 1)], retract, at(1000));
            let stored = restart(&spec, &mut operator, Watermark(1000));
            operator = stored;
            step(&mut operator, &[row(2500, "kept", 1)], retract, at(2500));
            assert_eq!(operator.usage().oldest, Some(EventTime(1000)));
            assert_eq!(step(&mut operator, &[], retract, at(2850)), [""; 0], "nothing is taken back");
            let changes = operator.changes().unwrap();
            let cutoff = changes[0].cutoff;
            assert!(
                cutoff > Watermark(1000) && cutoff <= Watermark(2500),
                "the store forgets the old group too: {cutoff}"
            );
            let again = step(&mut operator, &[row(2900, "old", 1), row(2900, "kept", 1)], retract, at(2900));
            let old: Vec<_> = again.iter().filter(|row| row.starts_with("old")).collect();
            assert_eq!(old.len(), 1, "{again:?}");
            assert!(old[0].starts_with("old 1"), "{again:?}");
            assert!(again.iter().any(|row| row.starts_with("kept 3")), "{again:?}");
        }
    }
}

/// A new operator, restored from all state of another.
fn restart(spec: &AggregateSpec, operator: &mut Box<dyn Operator>, watermark: Watermark) -> Box<dyn Operator> {
    let mut fresh = aggregate(spec.clone()).unwrap();
    for change in operator.changes().unwrap() {
        for rows in change.upserts {
            fresh.restore(change.table, rows, watermark).unwrap();
        }
    }
    fresh
}

#[tokio::test]
async fn late_rows_are_given_back_and_not_counted() {
    let plain = spec(&["window_start", "k_str"], &["count(*)"], false).await;
    let closing = Some(TimeColumn { column: plain.input.index_of("window_start").unwrap(), lag: Lag(0) });
    let output = output(&plain.output, false);
    let mut operator = aggregate(AggregateSpec { closing, output, ..plain }).unwrap();
    let late = Row { start: Some(Some(9)), ..row(1, "late", 1) };
    let null = Row { start: Some(None), ..row(2, "null", 1) };
    let good = Row { start: Some(Some(10)), ..row(3, "good", 1) };
    let input = batch(&[late, null, good], &schema(false));
    let stepped = operator.step(vec![vec![input]], tick(10, 11, 0)).unwrap();
    assert_eq!(stepped.rows.len(), 1);
    let names = |rows: &RecordBatch, column: usize| -> Vec<String> {
        rows.column(column).as_string::<i32>().iter().flatten().map(str::to_owned).collect()
    };
    assert_eq!(names(&stepped.rows[0], 1), ["good"]);
    let late: Vec<String> = stepped.late.iter().flat_map(|(_, rows)| names(rows, 1)).collect();
    assert_eq!(late, ["late", "null"]);
}

#[tokio::test]
async fn rows_of_a_group_that_a_cutoff_removed_are_dropped() {
    let plain = spec(&["k_str"], &["count(*)", "min(x)", "median(x)"], true).await;
    let spec = AggregateSpec { ttl: Some(Lag(1600)), ..plain };
    let mut operator = aggregate(spec.clone()).unwrap();
    step(&mut operator, &[row(1, "a", 5), row(2, "b", 6)], true, tick(0, 0, 1000));
    let mut fresh = aggregate(spec).unwrap();
    for change in operator.changes().unwrap().into_iter().filter(|change| change.table == 1) {
        change.upserts.into_iter().for_each(|rows| fresh.restore(1, rows, Watermark(0)).unwrap());
    }
    assert_eq!(step(&mut fresh, &[row(3, "a", 7)], true, tick(0, 0, 9000)), ["a 1 7 7.0 1"]);
    let gone: usize = fresh.changes().unwrap()[1].deletes.iter().map(RecordBatch::num_rows).sum();
    assert_eq!((gone, fresh.usage().rows), (2, 2));
}

#[tokio::test]
async fn nothing_comes_out_before_it_is_due() {
    for retract in [false, true] {
        let plain = spec(&["window_start", "k_str"], &["count(*)"], retract).await;
        let closing = Some(TimeColumn { column: plain.input.index_of("window_start").unwrap(), lag: Lag(5) });
        let output = output(&plain.output, false);
        let mut operator = aggregate(AggregateSpec { closing, output, ..plain }).unwrap();
        assert_eq!(operator.due(), Watermark::END);
        let input = Row { start: Some(Some(100)), ..row(3, "a", 1) };
        step(&mut operator, &[input], retract, tick(10, 11, 0));
        let due = operator.due().0;
        assert_eq!(step(&mut operator, &[], retract, tick(11, due - 1, 0)), [""; 0]);
        assert_eq!(step(&mut operator, &[], retract, tick(due - 1, due, 0)).len(), 1);
    }
}
