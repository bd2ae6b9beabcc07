//! `now()`, `random()` and `uuid()` over rows that may be taken back; calls that cannot work for any row.

use crate::program::{Weir, text};

const SOURCES: &str = "
CREATE SOURCE s (v BIGINT, k BIGINT, t STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in', format = 'json');
CREATE SOURCE r (k BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in', format = 'json');
CREATE VIEW counted AS SELECT v, count(*) AS n, now() AS seen, uuid() AS u FROM s GROUP BY v;
CREATE TABLE t (v BIGINT, n BIGINT, seen TIMESTAMP, u STRING, PRIMARY KEY ({key}) NOT ENFORCED) USING DELTA;
CREATE TABLE o (n BIGINT, c BIGINT, PRIMARY KEY (n) NOT ENFORCED) USING DELTA;
";

fn pipeline(key: &str, inserts: &str) -> String {
    let sources = SOURCES.replace("{key}", key);
    format!(
        "{sources} CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = 'none', at_end = 'flush') AS BEGIN {inserts}; END;"
    )
}

fn problem(sql: &str) -> String {
    let weir = Weir::new();
    weir.write("p.sql", sql);
    let checked = weir.run(&["check", "p.sql"]);
    assert!(!checked.status.success(), "{sql}");
    text(&checked.stderr)
}

#[test]
fn a_row_that_is_taken_back_is_the_row_that_was_given_or_the_query_is_refused() {
    for (key, insert, function) in [
        ("n", "INSERT INTO t SELECT v, n, seen, u FROM counted", "now"),
        ("n", "INSERT INTO t (v, n, u) SELECT v, n, u FROM counted", "uuid"),
        ("u", "INSERT INTO t SELECT v, n, seen, u FROM counted", "now"),
        ("v", "INSERT INTO t (v, n) SELECT v, n FROM counted WHERE random() < 0.5", "random"),
        (
            "v",
            "INSERT INTO t (v, n) SELECT v, n FROM (SELECT *, random() AS x FROM counted) x WHERE x.x < 0.5",
            "random",
        ),
        ("v", "INSERT INTO t (v, n) SELECT v, n FROM counted GROUP BY v, n HAVING sum(random()) > 3", "random"),
        (
            "v",
            "INSERT INTO t (v, n) SELECT r.k AS v, x.n FROM r JOIN (SELECT v, n, random() AS x FROM counted) x ON x.v = r.k AND x.x < 2",
            "random",
        ),
        ("v", "INSERT INTO t (v, n, u) SELECT r.k AS v, x.n, x.u FROM r JOIN counted x ON x.v = r.k", "uuid"),
        (
            "v",
            "INSERT INTO t (v, n, u) SELECT v, n, u FROM (SELECT *, row_number() OVER (ORDER BY n DESC) AS rank FROM counted) x WHERE rank <= 2",
            "uuid",
        ),
        // A view that is computed once.
        (
            "v",
            "INSERT INTO t SELECT * FROM counted; INSERT INTO o SELECT n, count(DISTINCT u) AS c FROM counted GROUP BY n",
            "uuid",
        ),
    ] {
        let said = problem(&pipeline(key, insert));
        assert!(
            said.contains(&format!("`{function}()")) && said.contains("rows that may be taken back"),
            "{insert}: {said}"
        );
    }
}

#[test]
fn what_is_computed_once_or_written_under_its_own_key_runs() {
    let weir = Weir::new();
    let inserts = [
        "INSERT INTO t SELECT v, n, seen, u FROM counted",
        "INSERT INTO o SELECT n, count(*) AS c FROM counted GROUP BY n",
    ];
    weir.write("p.sql", &pipeline("v", &inserts.join(";")));
    let line = |v: i64| format!("{{\"v\":{v},\"k\":1,\"ts\":\"2026-01-01T00:00:00Z\"}}\n");
    for run in 1..=3 {
        weir.write(&format!("in/{run}.jsonl"), &[line(1), line(run)].concat());
        weir.succeed(&["run", "p.sql"]);
    }
    assert_eq!(weir.query("SELECT v, n FROM t ORDER BY v"), ["1,4", "2,1", "3,1"]);
    assert_eq!(weir.number("SELECT count(DISTINCT u) FROM t WHERE seen IS NOT NULL"), 3);
    assert_eq!(weir.query("SELECT n, c FROM o ORDER BY n"), ["1,2", "4,1"]);
    for insert in [
        "INSERT INTO t (v, n) SELECT v, count(*) AS n FROM s WHERE random() < 2 GROUP BY v",
        "INSERT INTO t (v, n, u) SELECT v, count(*) AS n, min(u) AS u FROM (SELECT v, uuid() AS u FROM s) x GROUP BY v",
        "INSERT INTO t (v, n, seen) SELECT r.k AS v, count(*) AS n, max(x.seen) AS seen FROM r JOIN (SELECT v, to_timestamp(random()) AS seen FROM s) x ON x.v = r.k GROUP BY r.k",
    ] {
        weir.write("more.sql", &pipeline("v", insert).replace("PIPELINE p", "PIPELINE q"));
        weir.succeed(&["check", "more.sql"]);
    }
}

#[test]
fn lots_are_drawn_where_the_query_draws_them() {
    let weir = Weir::new();
    for (query, expected) in [
        // Each group has both of its rows, or is left out.
        ("SELECT count(*) FROM (SELECT k, count(*) AS n FROM t GROUP BY k HAVING random() < 0.5) x WHERE n <> 2", "0"),
        (
            "SELECT count(*) FROM (SELECT k, count(*) OVER (PARTITION BY k) AS n FROM t) x WHERE n <> 2 AND random() < 0.5",
            "0",
        ),
        (
            "SELECT count(*) FROM (SELECT * FROM (SELECT k, count(*) AS n FROM t GROUP BY k) x WHERE random() < 0.5 AND k >= 0) y WHERE n <> 2",
            "0",
        ),
    ] {
        let with = "WITH t AS (SELECT value % 200 AS k FROM generate_series(0, 399) g(value))";
        assert_eq!(weir.query(&format!("{with} {query}")).join(" "), expected, "{query}");
    }
}

#[test]
fn functions_that_compare_with_the_clock_are_refused_as_comparisons_are() {
    for value in
        ["greatest(max(ts), now())", "least(now(), max(ts))", "nullif(max(ts), now())", "array_max([max(ts), now()])"]
    {
        let said = problem(&format!(
            "CREATE SOURCE s (k BIGINT, ts TIMESTAMP) WITH (connector = 'file', path = 'in', format = 'json');
             CREATE MATERIALIZED VIEW m AS SELECT k, {value} AS z FROM s GROUP BY k;"
        ));
        assert!(said.contains("depends on the clock"), "{value}: {said}");
    }
}

#[test]
fn calls_that_their_literals_make_fail_for_every_row_are_refused() {
    let sql = |call: &str| {
        format!(
            "CREATE SOURCE s (v BIGINT, t STRING, ts TIMESTAMP) WITH (connector = 'file', path = 'in', format = 'json');
             CREATE SINK k WITH (connector = 'console');
             INSERT INTO k SELECT v, {call} AS z FROM s;"
        )
    };
    for (call, words) in [
        ("date_trunc('fortnight', ts)", "fortnight"),
        ("CASE WHEN v > 0 THEN date_trunc('aeon', ts) END", "aeon"),
        ("extract(foo FROM ts)", "`date_part` fails for every row"),
        ("encode(t, 'base99')", "built-in encoding named 'base99'"),
        ("decode(t, 'base99')", "built-in encoding named 'base99'"),
        ("digest(t, 'md9')", "built-in digest algorithm named 'md9'"),
        ("regexp_replace(t, '(', 'x')", "`regexp_replace` fails for every row"),
        ("regexp_count(t, '(')", "`regexp_count` fails for every row"),
        ("split_part(t, ',', 0)", "field position must not be zero"),
        ("substr(t, 1, -1)", "negative"),
        ("date_bin(INTERVAL '0 seconds', ts)", "has to be positive"),
        ("make_date(2024, 13, CAST(v AS INT))", "`make_date` fails for every row"),
        ("to_char(ts, '%Q')", "`to_char` cannot take the pattern `%Q`"),
        ("to_timestamp(t, '%Q')", "`to_timestamp` cannot take the pattern `%Q`"),
        ("to_unixtime(t, '%Y %Q')", "`to_unixtime` cannot take the pattern"),
        ("ts AT TIME ZONE 'Europe/Nowhere'", "Europe/Nowhere"),
    ] {
        let said = problem(&sql(call));
        assert!(said.contains(words) && !said.contains("defect in weir"), "{call}: {said}");
    }
    for call in [
        "date_trunc('week', ts)",
        "date_trunc('quarter', ts AT TIME ZONE 'Europe/Berlin')",
        "date_part('epoch', ts)",
        "to_char(ts, '%d/%m/%y %H')",
        "to_timestamp(t, '%d/%m/%Y %H.%M')",
        "to_date(t, 'DD.MM.YYYY')",
        "encode(t, 'hex')",
        "decode(t, 'base64')",
        "decode(t, 'hex')",
        "regexp_replace(t, '^(a|b)+$', 'x')",
        "split_part(t, ';', -2)",
        "substr(t, -1, 3)",
        "make_date(2024, 2, CAST(v AS INT))",
        "array_element(string_to_array(t, ','), 2)",
        "round(v / 3.0, 2)",
        "power(v, 3)",
        "log(10, v)",
        "lpad(t, 5, '0')",
        "chr(v)",
        "from_unixtime(v, 'Europe/Berlin')",
        "CAST(arrow_cast(t, 'Int64') AS BIGINT)",
        "factorial(v)",
        "concat_ws(',', t, 'x')",
        "nullif(v, 3)",
    ] {
        let weir = Weir::new();
        weir.write("p.sql", &sql(call));
        let checked = weir.run(&["check", "p.sql"]);
        assert!(checked.status.success(), "{call}: {}", text(&checked.stderr));
    }
}
