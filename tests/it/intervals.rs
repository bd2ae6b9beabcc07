//! Intervals of one length are one value, as in PostgreSQL: in groups, sets, joins, windows and keys of streams. Local times are one instant.

use super::expressions::compare;
use super::program::{Weir, text};

const FOUR: &str = "(VALUES (1, INTERVAL '24 hours'), (2, INTERVAL '1 day'), (3, INTERVAL '25 hours'), (4, INTERVAL '1 month'), (5, INTERVAL '30 days')) v (id, i)";

#[test]
fn queries_take_intervals_of_one_length_for_one() {
    let weir = Weir::new();
    for (sql, expected) in [
        ("SELECT count(*) AS n FROM {v} GROUP BY i ORDER BY n", vec!["1", "2", "2"]),
        ("SELECT count(*) FROM (SELECT DISTINCT i FROM {v})", vec!["3"]),
        ("SELECT count(DISTINCT i) FROM {v}", vec!["3"]),
        ("SELECT id FROM {v} WHERE i IN (SELECT INTERVAL '1 day') ORDER BY id", vec!["1", "2"]),
        ("SELECT count(*) FROM (SELECT i FROM {v} INTERSECT SELECT INTERVAL '24 hours')", vec!["1"]),
        ("SELECT count(*) FROM (SELECT i FROM {v} EXCEPT SELECT INTERVAL '24 hours')", vec!["2"]),
        ("SELECT count(*) FROM {v} JOIN (SELECT INTERVAL '720 hours' AS o) ON i = o", vec!["2"]),
        (
            "SELECT id, count(*) OVER (PARTITION BY i) AS n FROM {v} ORDER BY id",
            vec!["1,2", "2,2", "3,1", "4,2", "5,2"],
        ),
        ("SELECT id, rank() OVER (ORDER BY i) AS n FROM {v} ORDER BY id", vec!["1,1", "2,1", "3,3", "4,4", "5,4"]),
        (
            "SELECT id, count(*) OVER (ORDER BY i RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM {v} ORDER BY id",
            vec!["1,2", "2,2", "3,3", "4,2", "5,2"],
        ),
        (
            "SELECT id, rank() OVER (ORDER BY b DESC) AS n FROM (SELECT id, arrow_cast(CAST(id AS STRING), 'Binary') AS b FROM {v}) WHERE id < 3",
            vec!["2,1", "1,2"],
        ),
        (
            "SELECT id, rank() OVER (ORDER BY ts - TIMESTAMP '2024-01-01') AS n FROM (SELECT 1 AS id, TIMESTAMP '2024-01-02' AS ts)",
            vec!["1,1"],
        ),
    ] {
        assert_eq!(weir.query(&sql.replace("{v}", FOUR)), expected, "{sql}");
    }
    let offsets =
        "SELECT count(*) OVER (ORDER BY b RANGE BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (SELECT X'01' AS b)";
    let refused = weir.run(&["query", offsets]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("RANGE with an offset needs"), "{}", text(&refused.stderr));
}

#[test]
fn text_beside_an_interval_is_one() {
    let weir = Weir::new();
    let from = "(SELECT TIMESTAMP '2026-01-05 12:00:00' AS late, TIMESTAMP '2026-01-01 00:00:00' AS early, INTERVAL '1 day' AS i)";
    compare(
        &weir,
        from,
        &[
            ("late - early > '4 days'", "true"),
            ("late - early > '5 days'", "false"),
            ("'5 days' < late - early", "false"),
            ("late - early BETWEEN '1 day' AND '1 week'", "true"),
            ("i = '24 hours'", "true"),
            ("i IN ('24 hours', '2 days')", "true"),
            ("CASE i WHEN '24 hours' THEN 'day' END", "day"),
            ("i + '1 hour' = INTERVAL '25 hours'", "true"),
            ("early + '1 day'", "2026-01-02T00:00:00Z"),
            ("[INTERVAL '24 hours'] = [INTERVAL '1 day']", "true"),
            ("array_position([INTERVAL '25 hours'], INTERVAL '1 day 1 hour')", "1"),
        ],
    );
    let refused = text(&weir.run(&["query", "SELECT INTERVAL '1 day' > 'soon'"]).stderr);
    assert!(refused.contains("`'soon'` stands beside an interval and is none"), "{refused}");
}

#[test]
fn streams_take_intervals_of_one_length_for_one_key() {
    let weir = Weir::new();
    let lengths = ["24 hours", "1 day", "25 hours", "1 month", "30 days"];
    let line = |(n, length): (usize, &&str)| {
        format!("{{\"id\":{},\"s\":\"{length}\",\"ts\":\"2026-01-01T00:00:0{n}Z\"}}\n", n + 1)
    };
    weir.write("a.jsonl", &lengths.iter().enumerate().map(line).collect::<String>());
    weir.write("b.jsonl", "{\"id\":1,\"s\":\"1440 minutes\",\"ts\":\"2026-01-01T00:00:00Z\"}\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE a (id BIGINT, s STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'a.jsonl');
         CREATE SOURCE b (id BIGINT, s STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'b.jsonl');
         CREATE VIEW v AS SELECT id, ts, CAST(s AS INTERVAL) AS i FROM a;
         CREATE TABLE firsts (id BIGINT) USING DELTA;
         CREATE TABLE found (id BIGINT, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
         CREATE TABLE rolled (id BIGINT, n BIGINT) USING DELTA;
         CREATE PIPELINE p WITH (trigger = 'available now', at_end = 'flush', state_ttl = 'none') AS BEGIN
           CREATE MATERIALIZED VIEW grouped PRIMARY KEY (k) AS SELECT min(id) AS k, count(*) AS n FROM v GROUP BY i;
           CREATE MATERIALIZED VIEW counted PRIMARY KEY (k) AS SELECT 1 AS k, count(DISTINCT i) AS n FROM v GROUP BY 1;
           CREATE MATERIALIZED VIEW ranked PRIMARY KEY (id) AS SELECT id, rk FROM (SELECT id, rank() OVER (PARTITION BY 1 ORDER BY i) AS rk FROM v) WHERE rk <= 3;
           INSERT INTO firsts SELECT id FROM DEDUPLICATE(TABLE v, KEY(i), WITHIN INTERVAL '24 hours');
           INSERT INTO found SELECT id FROM v WHERE i IN (SELECT CAST(s AS INTERVAL) FROM b);
           INSERT INTO rolled SELECT id, count(*) OVER (PARTITION BY i ORDER BY ts RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW) AS n FROM v;
         END;",
    );
    weir.succeed(&["run", "p.sql"]);
    for (sql, expected) in [
        ("SELECT k, n FROM grouped ORDER BY k", vec!["1,2", "3,1", "4,2"]),
        ("SELECT n FROM counted", vec!["3"]),
        ("SELECT id, rk FROM ranked ORDER BY id", vec!["1,1", "2,1", "3,3"]),
        ("SELECT id FROM firsts ORDER BY id", vec!["1", "3", "4"]),
        ("SELECT id FROM found ORDER BY id", vec!["1", "2"]),
        ("SELECT id, n FROM rolled ORDER BY id", vec!["1,1", "2,2", "3,1", "4,1", "5,2"]),
    ] {
        assert_eq!(weir.query(sql), expected, "{sql}");
    }
    weir.succeed(&["verify", "p.sql"]);
}

#[test]
fn a_local_time_that_clocks_show_twice_or_never_is_an_instant() {
    let weir = Weir::new();
    let from = "(SELECT CAST('2024-10-27 02:30:00' AS TIMESTAMP_NTZ) AS twice, CAST('2024-03-31 02:30:00' AS TIMESTAMP_NTZ) AS never, \
                '2024-10-27 02:30:00' AS text, TIMESTAMP '2024-10-26 00:30:00' AS eve)";
    compare(
        &weir,
        from,
        &[
            ("CAST(twice AT TIME ZONE 'Europe/Berlin' AS TIMESTAMP)", "2024-10-27T01:30:00Z"),
            ("CAST(never AT TIME ZONE 'Europe/Berlin' AS TIMESTAMP)", "2024-03-31T01:30:00Z"),
            (
                "CAST(CAST('2024-10-27 02:30:00' AS TIMESTAMP_NTZ) AT TIME ZONE 'Europe/Berlin' AS TIMESTAMP)",
                "2024-10-27T01:30:00Z",
            ),
            ("CAST(text AT TIME ZONE 'Europe/Berlin' AS TIMESTAMP)", "2024-10-27T01:30:00Z"),
            ("CAST(CAST('2018-11-04' AS DATE) AT TIME ZONE 'America/Sao_Paulo' AS TIMESTAMP)", "2018-11-04T03:00:00Z"),
            ("to_timestamp('2024-10-27 02:30:00 Europe/Berlin')", "2024-10-27T01:30:00Z"),
            ("to_timestamp('2024-03-31 02:30:00 Europe/Berlin', '%Y-%m-%d %H:%M:%S %Z')", "2024-03-31T01:30:00Z"),
            ("CAST((eve AT TIME ZONE 'Europe/Berlin') + INTERVAL '1 day' AS TIMESTAMP)", "2024-10-27T01:30:00Z"),
            (
                "CAST(date_trunc('day', TIMESTAMP '2024-11-03 04:30:00' AT TIME ZONE 'America/Havana') AS TIMESTAMP)",
                "2024-11-03T05:00:00Z",
            ),
            (
                "CAST(date_trunc('day', TIMESTAMP '2024-11-03 15:30:00' AT TIME ZONE 'America/Havana') AS TIMESTAMP)",
                "2024-11-03T05:00:00Z",
            ),
            ("to_timestamp('2024-03-31 05 PM', 'YYYY-MM-DD HH12 AM')", "2024-03-31T17:00:00Z"),
            ("to_timestamp('2024-03-31 05', 'YYYY-MM-DD HH24')", "2024-03-31T05:00:00Z"),
            ("to_timestamp('2024-03-31 05:30', 'YYYY-MM-DD HH12:MI')", "2024-03-31T05:30:00Z"),
            ("to_timestamp_millis('2024-03-31 05', '%Y-%m-%d %H')", "2024-03-31T05:00:00Z"),
            ("to_unixtime('2024-03-31 05', '%Y-%m-%d %H')", "1711861200"),
            ("date_trunc('century', TIMESTAMP '2024-03-31')", "2001-01-01T00:00:00Z"),
            ("date_trunc('decade', TIMESTAMP '2024-03-31')", "2020-01-01T00:00:00Z"),
            ("date_trunc('millennium', TIMESTAMP '2000-03-31')", "1001-01-01T00:00:00Z"),
        ],
    );
    weir.write("a.jsonl", "{\"n\":\"2024-10-27T02:30:00\"}\n{\"n\":\"2024-03-31T02:30:00\"}\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE a (n TIMESTAMP_NTZ) WITH (connector = 'file', path = 'a.jsonl');
         CREATE TABLE t (at TIMESTAMP, later TIMESTAMP) USING DELTA;
         CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN
           INSERT INTO t SELECT n AT TIME ZONE 'Europe/Berlin', CAST(n - INTERVAL '1 day' AS TIMESTAMP) AT TIME ZONE 'Europe/Berlin' + INTERVAL '1 day' FROM a; END;",
    );
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.query("SELECT at FROM t ORDER BY at"), ["2024-03-31T01:30:00Z", "2024-10-27T01:30:00Z"]);
    assert_eq!(weir.number("SELECT count(*) FROM weir.dead_letters"), 0);
    weir.succeed(&["verify", "p.sql"]);
}

#[test]
fn series_of_times_reach_from_the_year_1_to_9999() {
    let weir = Weir::new();
    compare(
        &weir,
        "(SELECT TIMESTAMP '9999-12-30' AS last, TIMESTAMP '0001-01-01' AS first)",
        &[
            ("generate_series(last, last + INTERVAL '1 day', INTERVAL '12 hours')[3]", "9999-12-31T00:00:00Z"),
            (
                "generate_series(TIMESTAMP '0001-01-01', TIMESTAMP '0001-01-03', INTERVAL '1 day')[2]",
                "0001-01-02T00:00:00Z",
            ),
            ("array_length(range(first, first + INTERVAL '3 days', INTERVAL '1 day'))", "3"),
            ("array_length(generate_series(first, first + INTERVAL '3 days', INTERVAL '1 day'))", "4"),
            ("array_length(generate_series(last, first, INTERVAL '-1000 years'))", "10"),
            ("array_length(generate_series(first, last, INTERVAL '-1000 years'))", "0"),
            ("generate_series(CAST(NULL AS TIMESTAMP), last, INTERVAL '1000 years')", "null"),
            ("array_length(generate_series(TIMESTAMP '2024-01-31', TIMESTAMP '2024-04-30', INTERVAL '1 month'))", "4"),
        ],
    );
    let refused = weir.run(&["query", "SELECT generate_series(now(), now(), INTERVAL '0 days')"]);
    assert_eq!(refused.status.code(), Some(1));
}
