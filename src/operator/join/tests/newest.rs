//! ASOF joins.

use datafusion::common::JoinType;
use rand::Rng;

use super::bounded::output;
use super::*;
use crate::operator::join::asof;
use crate::operator::spec::{AsofSpec, TimeColumn};
use crate::time::{EventTime, Lag, Watermark};

fn spec(or_equal: bool, outer: bool, lags: [i64; 2]) -> AsofSpec {
    AsofSpec {
        left: schema(0, false),
        right: schema(1, false),
        left_keys: vec![KEY],
        right_keys: vec![KEY],
        left_time: TimeColumn { column: TIME, lag: Lag(lags[0]) },
        right_time: TimeColumn { column: TIME, lag: Lag(lags[1]) },
        or_equal,
        outer,
        output: output(JoinType::Left, false),
    }
}

#[test]
fn asof_joins_equal_the_search_for_the_newest_row_before() {
    for_seeds(100, |rng| {
        let lags = [rng.random_range(-3..8), rng.random_range(-3..8)];
        let (or_equal, outer) = (rng.random_bool(0.5), rng.random_bool(0.5));
        let input = Input { rows: 250, retract: [false, false], lags, null_times: true, duplicates: false };
        let events = random_events(rng, input);
        let spec = spec(or_equal, outer, lags);
        let make = || asof(spec.clone()).unwrap();
        let mut run = Run::new(&make, [vec![KEY], vec![KEY]], false);
        play(&mut run, &events, input, rng, |_, _, _| ());
        // Of right rows with equal times the one that arrived last counts.
        let arrived = arrival(&events);
        let (join, than) = (if outer { "LEFT JOIN" } else { "JOIN" }, if or_equal { "<=" } else { "<" });
        let sql = format!(
            "SELECT l_k, l_id, l_v, l_ts, r_k, r_id, r_v, r_ts FROM (SELECT *, row_number() OVER (PARTITION BY l_id \
             ORDER BY r_ts DESC, {arrived} DESC) AS n FROM l {join} r ON l_k = r_k AND r_ts {than} l_ts) WHERE n = 1"
        );
        assert_eq!(run.output, answer(&sql, &events), "{spec:?}");
        let right = events.iter().filter(|event| event.port == 1).map(|event| &event.row.key);
        let keys = right.flatten().collect::<std::collections::HashSet<_>>().len();
        assert!(run.state_rows() <= keys as u64, "the newest right row of each key is all that stays");
    });
}

/// The order in which right rows arrived, as SQL: events are sorted by coarse time, within that by id.
fn arrival(events: &[Event]) -> &'static str {
    let right: Vec<&Event> = events.iter().filter(|event| event.port == 1 && event.row.time.is_some()).collect();
    for pair in right.windows(2) {
        assert!(pair[0].row.time != pair[1].row.time || pair[0].row.id < pair[1].row.id);
    }
    "r_id"
}

fn at(port: usize, id: i64, time: i64) -> Event {
    Event { port, row: Row { key: Some("a".to_owned()), id, value: None, time: Some(time) }, weight: 1 }
}

#[test]
fn left_rows_wait_for_the_right_side_and_late_rows_are_set_aside() {
    let mut operator = asof(spec(true, true, [0, 5])).unwrap();
    let mut step = |events: &[Event], before: Watermark, watermark: Watermark| {
        let inputs = [0, 1].map(|port| {
            let here: Vec<&Event> = events.iter().filter(|event| event.port == port).collect();
            if here.is_empty() { Vec::new() } else { vec![batch(port, false, &here)] }
        });
        let stepped = operator.whole_step(inputs.into(), Tick { before, watermark, now: EventTime(0) }).unwrap();
        let rows = stepped.rows.iter().flat_map(|batch| lines(batch, false));
        let rows = rows.map(|(row, _)| row.split(" | ").skip(1).step_by(4).collect::<Vec<_>>().join(" "));
        (rows.collect::<Vec<_>>(), stepped.late.iter().map(|(port, _)| *port).collect::<Vec<_>>())
    };
    let nothing: (Vec<String>, Vec<usize>) = (Vec::new(), Vec::new());
    assert_eq!(step(&[at(0, 1, 20), at(1, 2, 10)], Watermark::NONE, Watermark(20)), nothing);
    assert_eq!(step(&[at(1, 3, 19)], Watermark(20), Watermark(25)), nothing);
    assert_eq!(step(&[at(0, 4, 24), at(1, 5, 19)], Watermark(25), Watermark(25)), (Vec::new(), vec![0, 1]));
    assert_eq!(step(&[at(1, 6, 20)], Watermark(25), Watermark(26)), (vec!["1 6".to_owned()], Vec::new()));
}
