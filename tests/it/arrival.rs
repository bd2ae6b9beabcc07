//! Results that depend on the order of rows: the same for any number of lanes and any micro-batches.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::program::Weir;

/// A record; all times lie within one day.
struct Row {
    k: i64,
    g: i64,
    q: i64,
    second: i64,
}

fn rows(seed: u64, count: i64) -> Vec<Row> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let row =
        |k| Row { k, g: rng.random_range(0..3), q: rng.random_range(0..7), second: k / 2 + rng.random_range(0..4) };
    (0..count).map(row).collect()
}

fn input(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let (minute, second) = (row.second / 60, row.second % 60);
        format!(
            "{{\"k\":{},\"g\":{},\"q\":{},\"ts\":\"2024-01-01T00:{minute:02}:{second:02}Z\"}}\n",
            row.k, row.g, row.q
        )
    };
    rows.iter().map(line).collect()
}

/// Number of rows so far, by arrival, with the same key and a time that is not later.
fn counted(rows: &[Row], key: impl Fn(&Row) -> i64) -> BTreeMap<i64, i64> {
    let seen = |at: usize| {
        let row = &rows[at];
        rows[..=at].iter().filter(|other| key(other) == key(row) && other.second <= row.second).count() as i64
    };
    (0..rows.len()).map(|at| (rows[at].k, seen(at))).collect()
}

const DAY: &str = "ORDER BY ts RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW";

fn pipeline(emit: &str, parallelism: usize, micro_batch: usize) -> String {
    let keyed = "(g BIGINT NOT NULL, k BIGINT, PRIMARY KEY (g) NOT ENFORCED) USING DELTA";
    let plain = "(k BIGINT, n BIGINT) USING DELTA";
    format!(
        "CREATE SOURCE s (k BIGINT, g BIGINT, q BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '10 seconds')
           WITH (connector = 'file', path = 'in.jsonl');
         CREATE VIEW of_q AS SELECT *, count(*) OVER (PARTITION BY q {DAY}) AS n_q FROM s;
         CREATE TABLE chain {plain}; CREATE TABLE behind {plain}; CREATE TABLE parts {plain};
         CREATE TABLE first (g BIGINT, k BIGINT) USING DELTA;
         CREATE TABLE last_deduplicated {keyed}; CREATE TABLE last_rolling {keyed}; CREATE TABLE last_parts {keyed};
         CREATE TABLE last_view {keyed};
         CREATE PIPELINE p WITH (trigger = 'available now', rolling_emit = '{emit}', parallelism = {parallelism},
                                 max_rows_per_micro_batch = {micro_batch}) AS BEGIN
           INSERT INTO chain SELECT k, count(*) OVER (PARTITION BY g {DAY}) AS n FROM of_q;
           INSERT INTO behind SELECT k, count(*) OVER (PARTITION BY g {DAY}) AS n
             FROM DEDUPLICATE(TABLE s, KEY(q, k), WITHIN INTERVAL '1 hour');
           INSERT INTO parts SELECT k, count(*) OVER (PARTITION BY g {DAY}) AS n
             FROM (SELECT * FROM s WHERE q < 3 UNION ALL SELECT * FROM s WHERE q >= 3);
           INSERT INTO first SELECT g, k FROM DEDUPLICATE(TABLE of_q, KEY(g), WITHIN INTERVAL '1 day');
           INSERT INTO last_deduplicated SELECT g, k FROM DEDUPLICATE(TABLE s, KEY(q, k), WITHIN INTERVAL '1 hour');
           INSERT INTO last_rolling SELECT g, k FROM of_q;
           INSERT INTO last_parts SELECT g, k FROM (SELECT g, k, q FROM s WHERE q < 3 UNION ALL SELECT g, k + 0, q FROM s WHERE q >= 3);
           INSERT INTO last_view SELECT g, k FROM s WHERE q % 2 = 0;
         END;"
    )
}

fn pairs(weir: &Weir, query: &str) -> BTreeMap<i64, i64> {
    let pair = |row: &String| {
        let (a, b) = row.split_once(',').unwrap();
        (a.parse().unwrap(), b.parse().unwrap())
    };
    weir.query(query).iter().map(pair).collect()
}

#[test]
fn a_row_sees_what_arrived_before_it_and_the_last_row_of_a_key_counts_on_any_number_of_lanes() {
    let rows = rows(7, 300);
    let last = |keep: &dyn Fn(&Row) -> bool| -> BTreeMap<i64, i64> {
        rows.iter().filter(|row| keep(row)).map(|row| (row.g, row.k)).collect()
    };
    let mut first = BTreeMap::new();
    rows.iter().for_each(|row| {
        first.entry(row.g).or_insert(row.k);
    });
    let counts = counted(&rows, |row| row.g);
    for (parallelism, micro_batch) in [(1, 1_000), (2, 1_000), (3, 41), (2, 1)] {
        let weir = Weir::new();
        weir.write("p.sql", &pipeline("on_arrival", parallelism, micro_batch));
        weir.write("in.jsonl", &input(&rows));
        weir.succeed(&["run", "p.sql"]);
        for table in ["chain", "behind", "parts"] {
            let found = pairs(&weir, &format!("SELECT k, n FROM {table}"));
            assert_eq!(found, counts, "{table}, parallelism {parallelism}, micro-batches of {micro_batch}");
        }
        let expected = [
            ("first", first.clone()),
            ("last_deduplicated", last(&|_| true)),
            ("last_rolling", last(&|_| true)),
            ("last_parts", last(&|_| true)),
            ("last_view", last(&|row| row.q % 2 == 0)),
        ];
        for (table, expected) in expected {
            let found = pairs(&weir, &format!("SELECT g, k FROM {table}"));
            assert_eq!(found, expected, "{table}, parallelism {parallelism}, micro-batches of {micro_batch}");
        }
    }
}

#[test]
fn on_watermark_the_latest_row_of_a_key_counts_on_any_number_of_lanes() {
    // Every row has a time of its own, so that the order of time is that of arrival.
    let mut rows = rows(8, 200);
    rows.iter_mut().for_each(|row| row.second = row.k);
    let last: BTreeMap<i64, i64> = rows.iter().map(|row| (row.g, row.k)).collect();
    for (parallelism, micro_batch) in [(1, 1_000), (2, 1_000), (3, 33)] {
        let weir = Weir::new();
        let joined = "CREATE TABLE last_joined (g BIGINT NOT NULL, k BIGINT, PRIMARY KEY (g) NOT ENFORCED) USING DELTA;
         CREATE TABLE last_window (g BIGINT NOT NULL, k BIGINT, PRIMARY KEY (g) NOT ENFORCED) USING DELTA;
         CREATE PIPELINE p WITH (at_end = 'flush', ";
        let inserts = "BEGIN
           INSERT INTO last_joined SELECT a.g, a.k FROM s a JOIN s b ON a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL '1 minute' AND a.ts;
           INSERT INTO last_window SELECT g, k FROM (SELECT window_end, g, max(k) AS k
             FROM TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '5 seconds') GROUP BY window_start, window_end, q, g);";
        let sql = pipeline("on_watermark", parallelism, micro_batch);
        let sql = sql.replacen("CREATE PIPELINE p WITH (", joined, 1).replacen("BEGIN", inserts, 1);
        weir.write("p.sql", &sql);
        weir.write("in.jsonl", &input(&rows));
        weir.succeed(&["run", "p.sql"]);
        for table in ["last_deduplicated", "last_rolling", "last_parts", "last_joined"] {
            let found = pairs(&weir, &format!("SELECT g, k FROM {table}"));
            assert_eq!(found, last, "{table}, parallelism {parallelism}, micro-batches of {micro_batch}");
        }
        // Windows of one end come in no particular order, but never after those of a later end.
        for (g, k) in pairs(&weir, "SELECT g, k FROM last_window") {
            assert!(k / 5 == last[&g] / 5, "last_window: {g}, {k}, {last:?}, parallelism {parallelism}");
        }
    }
}
