//! Times far from today and text, dates and zones beside them: microseconds throughout, constants and columns alike. The values are
//! written by hand after PostgreSQL's manual.

use super::expressions::compare;
use super::program::Weir;

/// A row whose columns no planner can fold: the sentinels, a night when clocks went back, and what they are as text and numbers.
const ROW: &str = "(SELECT * FROM (VALUES
    (CAST('0001-01-01T00:00:00Z' AS TIMESTAMP), CAST('9999-12-31T23:59:59.999999Z' AS TIMESTAMP), CAST('2024-10-27T00:30:00Z' AS TIMESTAMP),
     CAST('2024-05-06' AS DATE), CAST('9999-12-31' AS DATE), '2024-05-06T07:08:09Z', 100000000000, CAST(1.5 AS DOUBLE), CAST('-0.000001' AS DECIMAL(12, 6))))
    t (first, last, night, day, last_day, text, far, half, tiny) WHERE random() >= 0)";

#[test]
fn functions_of_times_reach_from_the_year_1_to_9999() {
    let weir = Weir::new();
    compare(
        &weir,
        ROW,
        &[
            ("date_trunc('hour', last)", "9999-12-31T23:00:00Z"),
            ("date_trunc('month', last)", "9999-12-01T00:00:00Z"),
            ("date_trunc('quarter', first)", "0001-01-01T00:00:00Z"),
            ("date_trunc('week', day)", "2024-05-06T00:00:00Z"),
            ("date_trunc('year', last_day)", "9999-01-01T00:00:00Z"),
            ("date_trunc('millisecond', last)", "9999-12-31T23:59:59.999Z"),
            ("date_trunc('hour', night AT TIME ZONE 'Europe/Berlin') = night - INTERVAL '30 minutes'", "true"),
            ("date_trunc('day', night AT TIME ZONE 'Europe/Berlin') = TIMESTAMP '2024-10-26 22:00:00'", "true"),
            ("date_bin(INTERVAL '1 hour', last, TIMESTAMP '0001-01-01')", "9999-12-31T23:00:00Z"),
            ("date_bin(INTERVAL '3 months', first)", "0001-01-01T00:00:00Z"),
            ("to_char(last, 'YYYY-MM-DD HH24:MI:SS.US')", "9999-12-31 23:59:59.999999"),
            ("date_format(first, 'yyyy-MM-dd')", "0001-01-01"),
            ("to_char(last_day, 'DD/MM/YYYY')", "31/12/9999"),
            ("to_timestamp('9999-12-31')", "9999-12-31T00:00:00Z"),
            ("to_timestamp(far)", "5138-11-16T09:46:40Z"),
            ("to_timestamp(half)", "1970-01-01T00:00:01.500Z"),
            ("to_timestamp(tiny)", "1969-12-31T23:59:59.999999Z"),
            ("to_timestamp_millis(far)", "1973-03-03T09:46:40Z"),
            ("to_timestamp_nanos(CAST(-1 AS BIGINT))", "1969-12-31T23:59:59.999999Z"),
            ("from_unixtime(far)", "5138-11-16T09:46:40Z"),
            ("to_timestamp('06/05/2024 07:08', 'DD/MM/YYYY HH24:MI')", "2024-05-06T07:08:00Z"),
            ("to_timestamp(text)", "2024-05-06T07:08:09Z"),
            ("to_timestamp(text) AT TIME ZONE 'Europe/Berlin'", "2024-05-06T09:08:09+02:00"),
            ("CAST(to_timestamp(text) AT TIME ZONE 'Europe/Berlin' AS TIMESTAMP_NTZ)", "2024-05-06T09:08:09"),
            ("extract(hour FROM to_timestamp(text) AT TIME ZONE 'Europe/Berlin')", "9"),
        ],
    );
}

#[test]
fn what_stands_beside_a_time_becomes_one() {
    let weir = Weir::new();
    compare(
        &weir,
        ROW,
        &[
            ("last = '9999-12-31T23:59:59.999999Z'", "true"),
            ("first > '0001-01-01'", "false"),
            ("first BETWEEN '0001-01-01' AND last_day", "true"),
            ("last IN ('9999-12-31', '9999-12-31T23:59:59.999999Z')", "true"),
            ("last_day > now()", "true"),
            ("last_day < last", "true"),
            ("coalesce(first, last_day)", "0001-01-01T00:00:00Z"),
            ("greatest(night, last_day)", "9999-12-31T00:00:00Z"),
            ("CASE WHEN day < night THEN day ELSE night END", "2024-05-06T00:00:00Z"),
            ("last - now() > INTERVAL '1000 years'", "true"),
            ("last - first > INTERVAL '9998 years'", "true"),
            ("last_day - first > INTERVAL '9998 years'", "true"),
            ("day + INTERVAL '1 hour'", "2024-05-06T01:00:00Z"),
            ("day - INTERVAL '1 minute'", "2024-05-05T23:59:00Z"),
            ("day + INTERVAL '1 day'", "2024-05-07"),
            ("to_timestamp(text) > TIMESTAMP '2024-05-06'", "true"),
            ("to_timestamp(text) = CAST(text AS TIMESTAMP)", "true"),
        ],
    );
}

#[test]
fn times_that_no_reader_can_show_are_dead_letters() {
    let weir = Weir::new();
    weir.write("in/a.json", "{\"id\":1,\"n\":19723}\n{\"id\":2,\"n\":1000000000}\n{\"id\":3,\"n\":null}\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE e (id BIGINT, n BIGINT) WITH (connector = 'file', path = 'in', format = 'json');
         CREATE TABLE days (id BIGINT, v DATE) USING DELTA;
         CREATE TABLE times (id BIGINT, v TIMESTAMP) USING DELTA;
         CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN
           INSERT INTO days SELECT id, CAST(CAST(n AS INT) AS DATE) FROM e;
           INSERT INTO times SELECT id, CAST(n * 9000000000 AS TIMESTAMP) FROM e;
         END;",
    );
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.query("SELECT * FROM days ORDER BY id"), ["1,2024-01-01", "3,"]);
    assert_eq!(weir.query("SELECT id FROM times ORDER BY id"), ["1", "3"]);
    let letters = weir.query("SELECT CAST(payload AS STRING) FROM weir.dead_letters ORDER BY 1");
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters.iter().all(|letter| letter.contains("000000000")), "{letters:?}");
}
