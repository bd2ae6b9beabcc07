//! Values of expressions, written by hand after PostgreSQL's manual: operators, DECIMAL, overflow, intervals, patterns.

use super::program::{Weir, text};

/// Expressions and what they are, as CSV shows it, over one row of `from`.
pub fn compare(weir: &Weir, from: &str, cases: &[(&str, &str)]) {
    let select: Vec<String> =
        cases.iter().enumerate().map(|(n, (sql, _))| format!("CAST({sql} AS STRING) AS c{n}")).collect();
    let out = weir.succeed(&["query", "--format", "json", &format!("SELECT {} FROM {from}", select.join(", "))]);
    let row: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    let row = row.as_array().and_then(|rows| rows.first()).unwrap_or(&row);
    let mut wrong = Vec::new();
    for (n, (sql, expected)) in cases.iter().enumerate() {
        let found = row.get(format!("c{n}")).and_then(|value| value.as_str()).unwrap_or("null");
        if found != *expected {
            wrong.push(format!("{sql}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn refuse(weir: &Weir, sql: &str, words: &str) {
    let output = weir.run(&["query", sql]);
    let told = text(&output.stderr);
    assert!(!output.status.success() && told.contains(words), "{sql}: {told}");
}

#[test]
fn operators_bind_and_intervals_compare_as_in_postgresql() {
    let weir = Weir::new();
    let from = "(SELECT TIMESTAMP '2026-01-05 12:00:00' AS late, TIMESTAMP '2026-01-01 00:00:00' AS early, CAST(NULL AS BIGINT) AS n)";
    compare(
        &weir,
        from,
        &[
            ("n IS DISTINCT FROM 1 AND false", "false"),
            ("n IS NOT DISTINCT FROM NULL OR false", "true"),
            ("NOT 1 = 2", "true"),
            ("'a' || 1 + 2", "a3"),
            ("2 + 3 * 4 - 5 % 3", "12"),
            ("5 & 3 = 1", "true"),
            ("1 | 2 = 3", "true"),
            ("'abc' LIKE 'a%' = true", "true"),
            ("interval '25 hours' > interval '1 day'", "true"),
            ("interval '24 hours' = interval '1 day'", "true"),
            ("interval '1 month' = interval '30 days'", "true"),
            ("interval '1 month 1 day' > interval '30 days 23 hours'", "true"),
            ("interval '1 year' = interval '360 days'", "true"),
            ("interval '36 hours' BETWEEN interval '1 day' AND interval '2 days'", "true"),
            ("interval '24 hours' IN (interval '1 day')", "true"),
            ("interval '23 hours' IS DISTINCT FROM interval '1 day'", "true"),
            ("late - early > interval '4 days'", "true"),
            ("late - early > interval '5 days'", "false"),
            ("late - early < interval '1 month'", "true"),
        ],
    );
    refuse(&weir, "SELECT 1 < 2 < 3", "cannot follow another comparison");
    refuse(&weir, "SELECT interval '1 hour' * 3", "nterval");
    refuse(&weir, "SELECT max(i) FROM (SELECT interval '1 hour' AS i)", "of intervals is not supported");
    let sorted = weir.query("SELECT n FROM (VALUES (1, interval '25 hours'), (2, interval '1 day'), (3, interval '1 month')) v (n, i) ORDER BY i");
    assert_eq!(sorted, ["2", "1", "3"]);
}

#[test]
fn numbers_with_a_point_are_exact_beside_decimals_and_doubles_beside_doubles() {
    let weir = Weir::new();
    let from = "(SELECT CAST('12345678901234567.89' AS DECIMAL(20, 2)) AS d, CAST('0.30' AS DECIMAL(4, 2)) AS e, CAST(0.1 AS DOUBLE) AS x, 1 AS n)";
    compare(
        &weir,
        from,
        &[
            ("d > 12345678901234567.88", "true"),
            ("d = 12345678901234567.89", "true"),
            ("d < 12345678901234567.9", "true"),
            ("d * 1.1", "13580246791358024.679"),
            ("d + 0.005", "12345678901234567.895"),
            ("d IN (12345678901234567.88, 12345678901234567.89)", "true"),
            ("d BETWEEN 12345678901234567.885 AND 12345678901234567.895", "true"),
            ("-d < -12345678901234567.88", "true"),
            ("e = 0.1 + 0.2", "true"),
            ("e * (1 + 0.5)", "0.450"),
            ("coalesce(d, 0.0)", "12345678901234567.89"),
            ("nullif(d, 12345678901234567.89)", "null"),
            ("CASE WHEN n = 1 THEN d ELSE 0.0 END", "12345678901234567.89"),
            ("CASE WHEN n = 2 THEN 0.0 ELSE d END", "12345678901234567.89"),
            ("greatest(e, 0.25)", "0.30"),
            ("CAST(12345678901234567.88 AS DECIMAL(20, 2))", "12345678901234567.88"),
            ("arrow_typeof(e * 1.5)", "Decimal128(7, 3)"),
            ("arrow_typeof(x * 1.5)", "Float64"),
            ("arrow_typeof(x + e)", "Float64"),
            ("x < e", "true"),
            ("1e20 > d", "true"),
            ("CAST(1e300 AS DOUBLE) > d", "true"),
            ("x = 0.1", "true"),
            ("arrow_typeof(n * 1.5)", "Float64"),
        ],
    );
}

#[test]
fn whole_numbers_that_do_not_fit_are_an_error_and_never_another_number() {
    let weir = Weir::new();
    let rows = "(VALUES (9223372036854775807, 1), (9223372036854775807, 2)) v (a, b)";
    for sql in [
        format!("SELECT a + b FROM {rows}"),
        format!("SELECT -a - b - b FROM {rows}"),
        format!("SELECT a * 2 FROM {rows}"),
        format!("SELECT b FROM {rows} WHERE a + b > 0"),
        format!("SELECT -(-a - 1) FROM {rows}"),
        format!("SELECT sum(a + b) OVER () FROM {rows}"),
    ] {
        refuse(&weir, &sql, "verflow");
    }
    refuse(&weir, "SELECT 9223372036854775807 + 1", "out of the range of BIGINT");
    for sql in [
        format!("SELECT sum(a) FROM {rows}"),
        format!("SELECT b > 0, sum(a) FROM {rows} GROUP BY b > 0"),
        format!("SELECT sum(a) OVER (ORDER BY b) FROM {rows}"),
        "SELECT sum(DISTINCT a) FROM (VALUES (9223372036854775807), (1)) v (a)".to_owned(),
    ] {
        refuse(&weir, &sql, "out of the range of BIGINT");
    }
    let fits = format!(
        "SELECT sum(a - b), sum(DISTINCT b), sum(CAST(a AS DECIMAL(38, 0))) FROM (SELECT a / 2 AS a, b FROM {rows})"
    );
    assert_eq!(weir.query(&fits), ["9223372036854775803,3,9223372036854775806"]);
}

#[test]
fn constants_of_every_width_and_decimals_do_not_get_another_number() {
    let weir = Weir::new();
    let most = "CAST(99999999999999999999999999999999999999 AS DECIMAL(38, 0))";
    for sql in [
        "CAST(127 AS TINYINT) + CAST(1 AS TINYINT)".to_owned(),
        "CAST(1000 AS SMALLINT) * CAST(100 AS SMALLINT)".to_owned(),
        "CAST(-2147483648 AS INT) - CAST(1 AS INT)".to_owned(),
        "coalesce(CAST(2147483647 AS INT), 0::INT) + 1::INT".to_owned(),
        format!("{most} + 1"),
        format!("-{most} - 1"),
        format!("{most} * 2"),
        format!("{most} / CAST('0.01' AS DECIMAL(3, 2))"),
    ] {
        assert!(!weir.run(&["query", &format!("SELECT {sql}")]).status.success(), "{sql}");
    }
    let rows = format!("(VALUES ({most}, 1), (CAST(1 AS DECIMAL(38, 0)), 2)) v (d, i)");
    for sql in
        ["SELECT d + 1", "SELECT d * d", "SELECT sum(d)", "SELECT sum(d) OVER (ORDER BY i)", "SELECT i > 0, sum(d)"]
    {
        let group = if sql.contains("i > 0") { "GROUP BY i > 0" } else { "" };
        assert!(!weir.run(&["query", &format!("{sql} FROM {rows} {group}")]).status.success(), "{sql}");
    }
    assert_eq!(weir.query(&format!("SELECT d - 1, d / 2 FROM {rows} WHERE i = 2")), ["0,0.5000"]);
    assert_eq!(weir.query("SELECT CAST(126 AS TINYINT) + CAST(1 AS TINYINT)"), ["127"]);
}

#[test]
fn frames_forget_nan_and_infinities_with_their_row() {
    let weir = Weir::new();
    let rows = "(VALUES (1, 1.0), (2, CAST('NaN' AS DOUBLE)), (3, 3.0), (4, CAST('Infinity' AS DOUBLE)), (5, 5.0), (6, 6.0), (7, 7.0)) v (n, x)";
    for (function, expected) in [
        ("sum(x)", "1.0 NaN NaN inf inf 11.0 13.0"),
        ("avg(x)", "1.0 NaN NaN inf inf 5.5 6.5"),
        ("var_pop(x)", "0.0 NaN NaN NaN NaN 0.25 0.25"),
    ] {
        let sql = format!("SELECT {function} OVER (ORDER BY n ROWS 1 PRECEDING) FROM {rows} ORDER BY n");
        assert_eq!(weir.query(&sql).join(" "), expected, "{function}");
    }
}

#[test]
fn arithmetic_in_windows_and_their_order_runs() {
    let weir = Weir::new();
    let rows = "(VALUES (3, 'a'), (1, 'b'), (2, 'c')) o (n, t)";
    for (sql, expected) in [
        (format!("SELECT n, row_number() OVER (ORDER BY n * 4) FROM {rows} ORDER BY n"), "1,1 2,2 3,3"),
        (format!("SELECT n FROM {rows} QUALIFY row_number() OVER (ORDER BY n + 1) = 1"), "1"),
        (format!("SELECT lag(n + 1) OVER w FROM {rows} WINDOW w AS (ORDER BY -n) ORDER BY n"), "3 4 "),
        (format!("SELECT sum(n * 2) FILTER (WHERE n + 1 > 2), string_agg(t, '' ORDER BY n + 1) FROM {rows}"), "10,bca"),
    ] {
        assert_eq!(weir.query(&sql).join(" "), expected, "{sql}");
    }
}

#[test]
fn a_decimal_loses_digits_before_it_is_compared() {
    let weir = Weir::new();
    let from = "(SELECT * FROM (VALUES (CAST('1.25' AS DECIMAL(10, 2)), CAST('-1.99' AS DECIMAL(10, 2)))) t (d, e) WHERE random() >= 0)";
    compare(
        &weir,
        from,
        &[
            ("CAST(d AS DECIMAL(10, 1)) = 1.3", "true"),
            ("CAST(d AS DECIMAL(10, 1)) = 1.25", "false"),
            ("CAST(d AS INT) = 1", "true"),
            ("CAST(e AS BIGINT) < -1", "false"),
            ("CAST(d AS INT) IN (1, 2)", "true"),
            ("CAST(d AS INT) BETWEEN 1 AND 1", "true"),
            ("CASE CAST(d AS INT) WHEN 1 THEN 'one' ELSE 'other' END", "one"),
            ("CAST(d AS DECIMAL(12, 4)) = 1.25", "true"),
        ],
    );
    assert_eq!(weir.query(&format!("SELECT count(*) FROM {from} WHERE CAST(d AS INT) = 1")), ["1"]);
}

#[test]
fn lists_dates_and_zeros_mean_what_postgresql_means() {
    let weir = Weir::new();
    let from = "(SELECT 'aa' AS s, false AS b, CAST('-0.0' AS DOUBLE) AS z, 0.25 AS x, DATE '2026-01-05' AS d, TIMESTAMP '2026-01-05 12:00:00' AS ts, CAST('1.25' AS DECIMAL(12, 2)) AS p, CAST(NULL AS BIGINT) AS n, 3 AS m) t";
    compare(
        &weir,
        from,
        &[
            ("s IN (CASE WHEN b THEN NULL ELSE 'aa' END, 'x')", "true"),
            ("s NOT IN (CASE WHEN b THEN NULL ELSE s || 'a' END, coalesce('', 'x'))", "true"),
            ("z IN (0.0, 1.0)", "true"),
            ("z IN (1.0, x)", "false"),
            ("x IN (z, abs(x))", "true"),
            ("CASE z WHEN 0.0 THEN 'zero' ELSE 'other' END", "zero"),
            ("nullif(z, 0)", "null"),
            ("nvl(d, DATE '2020-01-01') - 1", "2026-01-04"),
            ("ifnull(CAST(NULL AS TIMESTAMP), ts) - ts = INTERVAL '0 seconds'", "true"),
            ("arrow_typeof(nvl2(b, d, d))", "Date32"),
            ("nvl2(CAST(NULL AS BIGINT), 'some', 'none')", "none"),
            ("nvl(1, 1 / (1 - 1))", "1"),
            ("d + INTERVAL '1 hour' = TIMESTAMP '2026-01-05 01:00:00'", "true"),
            ("INTERVAL '36 hours' + d = TIMESTAMP '2026-01-06 12:00:00'", "true"),
            ("d - INTERVAL '1 minute' = TIMESTAMP '2026-01-04 23:59:00'", "true"),
            ("arrow_typeof(d + INTERVAL '1 month 2 days')", "Date32"),
            ("d + (-INTERVAL '1 month 2 days')", "2025-12-03"),
            ("-INTERVAL '1 month 2 days' = INTERVAL '-1 month -2 days'", "true"),
            ("-INTERVAL '-2 days' = INTERVAL '2 days'", "true"),
            ("CAST(CASE WHEN b THEN 1 END AS BIGINT) ^ CAST(CASE WHEN b THEN 1 END AS BIGINT)", "null"),
            ("n ^ 5 ^ n", "null"),
            ("m ^ 5 ^ m ^ m", "6"),
            ("least(p, round(p, 1))", "1.25"),
            ("greatest(round(p, 1), p, CAST('1.1' AS DECIMAL(6, 1)))", "1.30"),
        ],
    );
}

#[test]
fn patterns_and_times_far_away() {
    let weir = Weir::new();
    let from = "(SELECT TIMESTAMP '2024-07-04 03:05:09.012345' AS ts, arrow_cast('9999-12-31 23:59:59', 'Timestamp(Microsecond, None)') AS far)";
    compare(
        &weir,
        from,
        &[
            ("to_char(ts, 'YYYY-MM-DD HH24:MI:SS.MS')", "2024-07-04 03:05:09.012"),
            ("date_format(ts, 'yyyy-MM-dd HH:mm:ss.SSSSSS')", "2024-07-04 03:05:09.012345"),
            ("to_char(ts, '%d.%m.%Y')", "04.07.2024"),
            ("to_date('04/07/2024', 'DD/MM/YYYY')", "2024-07-04"),
            ("to_timestamp('2024-07-04 03:05:09', 'yyyy-MM-dd HH:mm:ss') = date_trunc('second', ts)", "true"),
            ("CAST(date_bin(interval '15 minutes', far) AS STRING)", "9999-12-31T23:45:00"),
            ("CAST(date_bin(interval '1 month', far) AS STRING)", "9999-12-01T00:00:00"),
        ],
    );
    refuse(&weir, "SELECT to_char(now(), 'Month')", "cannot take the pattern");
    let corr = "SELECT round(corr(x, y), 6) FROM (VALUES (1, 1e9, 1e9 + 1), (1, 1e9 + 1, 1e9 + 3), (1, 1e9 + 2, 1e9 + 2)) v (k, x, y) GROUP BY k";
    assert_eq!(weir.query(corr), ["0.5"]);
}

#[test]
fn messages_name_what_is_wrong_and_what_to_write() {
    let weir = Weir::new();
    let head = "CREATE SOURCE e (id BIGINT, k INT, v STRING, l INT[], ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in', format = 'json');
CREATE TABLE d (id INT, name STRING) USING DELTA;
CREATE TABLE o (n BIGINT) USING DELTA;
CREATE SINK s WITH (connector = 'console');
CREATE TABLE keyed (k INT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE TABLE one (k INT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE VIEW aged AS SELECT id, k, now() AS since FROM e;
CREATE VIEW fresh AS SELECT DISTINCT k FROM e WHERE ts > now() - INTERVAL '1 hour';
";
    let pipeline = |sql: &str| format!("{head}CREATE PIPELINE p WITH (state_ttl = '1 day') AS BEGIN {sql}; END;");
    for (sql, words) in [
        ("INSERT INTO s SELECT id, x FROM e CROSS JOIN UNNEST(e.l) AS u (x)", "UNNEST"),
        ("INSERT INTO s SELECT e.id FROM e WHERE e.k IN (SELECT id FROM d)", "IN or EXISTS against table `d`"),
        ("INSERT INTO s SELECT e.id FROM e JOIN (VALUES (1), (2)) x (a) ON e.k = x.a", "VALUES cannot run on a stream"),
        ("INSERT INTO s SELECT v -> 'a' FROM e", "`->` is not supported"),
        ("INSERT INTO s SELECT ts + INTERVAL '1 hour' * k FROM e", "an INTERVAL cannot be multiplied"),
        (
            "CREATE MATERIALIZED VIEW m AS SELECT k, count(*) AS n FROM e WHERE ts > now() - INTERVAL '1 hour' GROUP BY k",
            "has the clock in a condition",
        ),
        (
            "CREATE MATERIALIZED VIEW m AS SELECT id FROM (SELECT id, ts, now() AS n FROM e) WHERE ts > n",
            "on the clock",
        ),
        (
            "CREATE MATERIALIZED VIEW m AS SELECT k, sum(CASE WHEN ts > now() THEN 1 ELSE 0 END) AS n FROM e GROUP BY k",
            "`m` depends on the clock in",
        ),
        ("CREATE MATERIALIZED VIEW m AS SELECT id, ts > now() AS recent FROM e", "on the clock"),
        (
            "CREATE MATERIALIZED VIEW m AS SELECT date_trunc('day', now()) AS d, count(*) AS n FROM e GROUP BY 1",
            "on the clock",
        ),
        ("CREATE MATERIALIZED VIEW m AS SELECT k, max(since) AS since FROM aged GROUP BY k", "on the clock"),
        ("INSERT INTO keyed SELECT k, count(*) AS n FROM e WHERE ts > now() GROUP BY k", "the keyed table `keyed`"),
        ("INSERT INTO one SELECT k FROM e WHERE ts > now() GROUP BY k", "the keyed table `one`"),
        ("INSERT INTO one SELECT DISTINCT k FROM e WHERE ts > now()", "the keyed table `one`"),
        ("INSERT INTO one SELECT k FROM e WHERE ts > now() EXCEPT SELECT l[1] FROM e", "the keyed table `one`"),
        ("INSERT INTO one SELECT k FROM e EXCEPT SELECT k FROM e WHERE ts < now()", "the keyed table `one`"),
        (
            "INSERT INTO one SELECT k FROM e WHERE k > 1 INTERSECT SELECT k FROM e WHERE ts < now()",
            "the keyed table `one`",
        ),
        ("INSERT INTO one SELECT k FROM fresh; INSERT INTO s SELECT k FROM fresh", "the keyed table `one`"),
    ] {
        weir.write("p.sql", &pipeline(sql));
        let told = text(&weir.run(&["check", "p.sql"]).stderr);
        assert!(told.contains(words), "{sql}: {told}");
    }
    for sql in [
        "INSERT INTO s SELECT e.id, d.name FROM e JOIN d ON d.id = e.id",
        "INSERT INTO o SELECT row_number() OVER (PARTITION BY k ORDER BY ts) AS n FROM e",
        "INSERT INTO s SELECT id FROM e WHERE ts > now() - INTERVAL '1 hour'",
        "INSERT INTO keyed SELECT k, id FROM e WHERE ts > now() - INTERVAL '1 hour'",
        "INSERT INTO s SELECT DISTINCT k FROM e WHERE ts > now() - INTERVAL '1 hour'",
        "INSERT INTO one SELECT k FROM e WHERE ts > now() UNION ALL SELECT k FROM (SELECT DISTINCT k FROM e)",
        "CREATE MATERIALIZED VIEW m PRIMARY KEY (id) AS SELECT id, now() AS seen, since FROM aged WHERE k > 1",
    ] {
        weir.write("p.sql", &pipeline(sql));
        weir.succeed(&["check", "p.sql"]);
    }
}

#[test]
fn a_stream_computes_decimals_and_finds_narrow_keys() {
    let weir = Weir::new();
    weir.write(
        "in/a.jsonl",
        "{\"id\":1,\"d\":\"12345678901234567.89\"}\n{\"id\":2,\"d\":\"12345678901234567.88\"}\n{\"id\":9000000000,\"d\":\"1\"}\n",
    );
    weir.write(
        "d.sql",
        "CREATE SOURCE f (id INT, name STRING) WITH (connector = 'file', path = 'names.jsonl', format = 'json');
         CREATE TABLE names (id INT, name STRING) USING DELTA;
         CREATE PIPELINE fill WITH (trigger = 'available now') AS BEGIN INSERT INTO names SELECT * FROM f; END;",
    );
    weir.write("names.jsonl", "{\"id\":1,\"name\":\"one\"}\n{\"id\":2,\"name\":\"two\"}\n");
    weir.succeed(&["run", "d.sql"]);
    weir.write(
        "p.sql",
        "CREATE SOURCE e (id BIGINT, d DECIMAL(20, 2)) WITH (connector = 'file', path = 'in', format = 'json');
         CREATE TABLE names (id INT, name STRING) USING DELTA;
         CREATE TABLE above (id BIGINT) USING DELTA;
         CREATE TABLE product (id BIGINT, x DECIMAL(24, 3)) USING DELTA;
         CREATE TABLE named (id BIGINT, name STRING) USING DELTA;
         CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN
           INSERT INTO above SELECT id FROM e WHERE d > 12345678901234567.88;
           INSERT INTO product SELECT id, d * 1.1 AS x FROM e;
           INSERT INTO named SELECT e.id, n.name FROM e LEFT JOIN names n ON n.id = e.id;
         END;",
    );
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.query("SELECT id FROM above"), ["1"]);
    assert_eq!(
        weir.query("SELECT x FROM product ORDER BY id"),
        ["13580246791358024.679", "13580246791358024.668", "1.100"]
    );
    assert_eq!(weir.query("SELECT id, name FROM named ORDER BY id"), ["1,one", "2,two", "9000000000,"]);
}

/// The local day of 25 hours: rows in order of time, read in several runs, none late, each day complete.
#[test]
fn local_days_sessions_and_keys_follow_the_event_time() {
    let weir = Weir::new();
    let sql = |at_end: &str| {
        format!(
            "CREATE SOURCE e (id BIGINT, k STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in', format = 'json');
             CREATE VIEW l AS SELECT id, k, ts AT TIME ZONE 'Europe/Berlin' AS lt FROM e;
             CREATE VIEW cut AS SELECT id, k, date_trunc('minute', ts) AS at FROM e;
             CREATE TABLE days (n BIGINT) USING DELTA;
             CREATE TABLE sessions (n BIGINT) USING DELTA;
             CREATE TABLE first (id BIGINT) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now', late = 'dead_letter'{at_end}) AS BEGIN
               INSERT INTO days SELECT count(*) AS n FROM l GROUP BY date_trunc('day', lt);
               INSERT INTO sessions SELECT count(*) AS n FROM SESSION(TABLE l PARTITION BY k, DESCRIPTOR(lt), INTERVAL '2 hours')
                 GROUP BY k, window_start, window_end;
               INSERT INTO first SELECT id FROM DEDUPLICATE(TABLE cut, KEY(k), WITHIN INTERVAL '20 hours');
             END;"
        )
    };
    // From 21:00 UTC on the 25th (23:00 in Berlin) to 23:00 UTC on the 27th (midnight in Berlin).
    let rows: Vec<String> = (0..51)
        .map(|hour| {
            let (day, hour_of_day) = (25 + (21 + hour) / 24, (21 + hour) % 24);
            format!("{{\"id\":{hour},\"k\":\"a\",\"ts\":\"2024-10-{day}T{hour_of_day:02}:00:00Z\"}}\n")
        })
        .collect();
    let mut text = String::new();
    for (run, part) in rows.chunks(13).enumerate() {
        text.push_str(&part.concat());
        weir.write("in/a.jsonl", &text);
        weir.write("p.sql", &sql(if run == 3 { ", at_end = 'flush'" } else { "" }));
        weir.succeed(&["run", "p.sql"]);
    }
    assert_eq!(weir.number("SELECT count(*) FROM weir.dead_letters"), 0);
    assert_eq!(weir.query("SELECT n FROM days ORDER BY n"), ["1", "1", "24", "25"]);
    assert_eq!(weir.query("SELECT n FROM sessions"), ["51"]);
    assert_eq!(weir.query("SELECT id FROM first ORDER BY id"), ["0", "20", "40"]);
}

#[test]
fn a_column_of_decimals_and_numbers_with_a_point_is_a_decimal_in_unions_and_values() {
    let weir = Weir::new();
    let d = "CAST('12345678901234567.89' AS DECIMAL(20, 2))";
    let types = |sql: &str| weir.query(&format!("SELECT DISTINCT arrow_typeof(x) AS t FROM ({sql}) q (x)"));
    for (sql, kind) in [
        (format!("SELECT {d} AS x UNION ALL SELECT 0.0"), "\"Decimal128(20, 2)\""),
        (format!("SELECT 0.0 AS x UNION ALL SELECT {d} UNION ALL SELECT 1"), "\"Decimal128(35, 15)\""),
        (format!("SELECT 0.125 AS x UNION SELECT {d}"), "\"Decimal128(21, 3)\""),
        (format!("SELECT 1.5 AS x UNION SELECT 0.125 UNION SELECT {d}"), "\"Decimal128(21, 3)\""),
        (format!("(SELECT 1.5 AS x UNION SELECT 0.125) UNION ALL SELECT {d}"), "\"Decimal128(21, 3)\""),
        (format!("SELECT d AS x FROM (SELECT {d} AS d) UNION ALL SELECT -0.5"), "\"Decimal128(20, 2)\""),
        (format!("VALUES ({d}), (0.0)"), "\"Decimal128(33, 15)\""),
        (format!("VALUES ({d}), (CAST('1e-20' AS DOUBLE))"), "Float64"),
        (format!("SELECT [{d}, CAST('1e-20' AS DOUBLE)][1] AS x"), "Float64"),
        (
            format!("SELECT CASE WHEN true THEN {d} * CASE WHEN true THEN 1.5 ELSE 0.5 END END AS x"),
            "\"Decimal128(23, 3)\"",
        ),
        ("SELECT CAST(1 AS DOUBLE) AS x UNION ALL SELECT 0.5".to_owned(), "Float64"),
        (format!("SELECT {d} AS x UNION ALL SELECT CAST(0.5 AS DOUBLE)"), "Float64"),
        ("VALUES (1.5), (2)".to_owned(), "Float64"),
    ] {
        assert_eq!(types(&sql), [kind], "{sql}");
    }
    let pair = "SELECT CAST(0 AS DECIMAL(12, 2)) AS d, CAST('1e-20' AS DOUBLE) AS f, 7 AS id";
    for sql in [
        "SELECT count(*) AS n FROM t WHERE d IN (SELECT f FROM t)",
        "SELECT count(*) AS n FROM t WHERE f IN (SELECT d FROM t)",
        "SELECT count(*) AS n FROM (SELECT d FROM t INTERSECT SELECT f FROM t) q",
        "SELECT count(*) AS n FROM t WHERE d IN (CASE WHEN id > 9 THEN id ELSE f END, d + 1)",
    ] {
        assert_eq!(weir.query(&format!("WITH t AS ({pair}) {sql}")), ["0"], "{sql}");
    }
    let sums =
        weir.query(&format!("SELECT sum(x) AS s FROM (SELECT {d} AS x UNION ALL SELECT 0.01 UNION ALL SELECT 0.0) q"));
    assert_eq!(sums, ["12345678901234567.90"]);
}

#[test]
fn constants_that_overflow_are_an_error_wherever_they_become_constant() {
    let weir = Weir::new();
    for sql in [
        "SELECT 9223372036854775807 + 1",
        "SELECT 9223372036854775806 + 1 + 1",
        "SELECT (9223372036854775807 - 1) * 2",
        "SELECT CAST(2147483647 AS INT) + CAST(1 AS INT)",
        "SELECT abs(9223372036854775807) + 1",
        "SELECT -(-9223372036854775807 - 1)",
        "SELECT 1 FROM (SELECT 1 AS a) WHERE a > 4611686018427387904 * 2",
    ] {
        let output = weir.run(&["query", sql]);
        let told = text(&output.stderr);
        assert!(!output.status.success(), "{sql}: {}", text(&output.stdout));
        assert!(told.contains("out of the range") || told.to_lowercase().contains("overflow"), "{sql}: {told}");
    }
    weir.write(
        "f.sql",
        "CREATE FUNCTION next(a BIGINT) RETURNS BIGINT IMMUTABLE LANGUAGE sql AS $$ a + 1 $$;
         CREATE FUNCTION far(a BIGINT) RETURNS BIGINT IMMUTABLE LANGUAGE sql AS $$ (a + 9223372036854775806) * 2 $$;",
    );
    for sql in [
        "SELECT next(9223372036854775807)",
        "SELECT next(next(9223372036854775806))",
        "SELECT far(1)",
        "SELECT far(x) FROM (SELECT 1 AS x)",
    ] {
        let output = weir.run(&["query", "--file", "f.sql", sql]);
        let told = text(&output.stderr);
        assert!(!output.status.success(), "{sql}: {}", text(&output.stdout));
        assert!(told.contains("out of the range") || told.to_lowercase().contains("overflow"), "{sql}: {told}");
    }
    assert_eq!(
        weir.succeed(&["query", "--file", "f.sql", "--format", "csv", "SELECT next(41) AS n"]).lines().last(),
        Some("42")
    );
}

#[test]
fn numbers_rounded_to_places_that_they_do_not_have_stay_or_are_zero() {
    let weir = Weir::new();
    let from = "(SELECT CAST(1.25 AS DOUBLE) AS x, CAST(1.25 AS FLOAT) AS f, CAST('1.25' AS DECIMAL(5, 2)) AS d, 400 AS n, CAST('NaN' AS DOUBLE) AS nan)";
    compare(
        &weir,
        from,
        &[
            ("round(x, 400)", "1.25"),
            ("round(x, n)", "1.25"),
            ("round(x, 308)", "1.25"),
            ("round(x, -400)", "0.0"),
            ("round(x, -n)", "0.0"),
            ("round(f, 60)", "1.25"),
            ("trunc(x, 400)", "1.25"),
            ("trunc(x, -400)", "0.0"),
            ("round(1e300, 20)", "1e300"),
            ("round(nan, 400)", "NaN"),
            ("round(x, 1)", "1.3"),
            ("round(d, 400)", "1.25"),
            ("round(d, -400)", "0"),
        ],
    );
}
