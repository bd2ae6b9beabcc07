//! `weir verify` over pipelines that did nothing wrong, and over one whose table was changed behind its back.

mod orders;

use crate::program::{Weir, text};

const SOURCE: &str = "CREATE SOURCE e (id BIGINT NOT NULL, n BIGINT) WITH (connector = 'file', path = 'in.jsonl');";

fn one_table(columns: &str, rows: &str) -> Weir {
    let weir = Weir::new();
    weir.write("in.jsonl", rows);
    weir.write(
        "p.sql",
        &format!(
            "{SOURCE} CREATE TABLE o {columns} USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO o SELECT id, n FROM e; END;"
        ),
    );
    weir.succeed(&["run", "p.sql"]);
    weir
}

#[test]
fn rows_that_a_table_refuses_are_not_owed_to_it() {
    let weir =
        one_table("(id BIGINT, n BIGINT, CHECK (n > 0))", "{\"id\":1,\"n\":1}\n{\"id\":2,\"n\":-1}\n{\"id\":3}\n");
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("1 rows streamed, 1 in batch"), "{told}");
    assert!(told.contains("2 more rows in batch violate the table's NOT NULL or CHECK"), "{told}");
    let weir = one_table("(id BIGINT, n BIGINT NOT NULL)", "{\"id\":1,\"n\":1}\n{\"id\":2}\n");
    assert!(weir.succeed(&["verify", "p.sql"]).contains("1 more rows in batch violate"));
}

#[test]
fn rows_that_an_aggregate_cannot_compute_are_not_owed_either() {
    for (mode, expected) in [("dead_letter", ["1,10,1", "2,2,1"]), ("null", ["1,10,2", "2,2,1"])] {
        let weir = Weir::new();
        weir.write("in.jsonl", "{\"id\":1,\"n\":1}\n{\"id\":1,\"n\":0}\n{\"id\":2,\"n\":5}\n");
        weir.write(
            "p.sql",
            &format!(
                "{SOURCE} CREATE TABLE o (id BIGINT, s BIGINT, c BIGINT, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
                 CREATE PIPELINE p WITH (trigger = 'available now', on_row_error = '{mode}') AS BEGIN
                 INSERT INTO o SELECT id, sum(10 / n) AS s, count(*) AS c FROM e GROUP BY id; END;"
            ),
        );
        weir.succeed(&["run", "p.sql"]);
        assert_eq!(weir.query("SELECT * FROM o ORDER BY id"), expected, "{mode}");
        let told = weir.succeed(&["verify", "p.sql"]);
        assert!(told.contains("2 rows streamed, 2 in batch"), "{mode}: {told}");
    }
}

#[test]
fn a_keyed_table_holds_one_of_the_rows_of_each_key() {
    let columns = "(id BIGINT, n BIGINT, PRIMARY KEY (id) NOT ENFORCED)";
    let weir = one_table(columns, "{\"id\":1,\"n\":1}\n{\"id\":1,\"n\":2}\n{\"id\":2}\n{\"id\":2}\n");
    assert_eq!(weir.query("SELECT id, n FROM o ORDER BY id"), ["1,2", "2,"]);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("2 rows streamed, 2 in batch"), "{told}");

    // A row that the query never gave is still found.
    let right = std::fs::read_to_string(weir.path("p.sql")).unwrap();
    weir.write("p.sql", &right.replace("SELECT id, n FROM e", "SELECT id, 7 AS n FROM e"));
    weir.write("in.jsonl", &(std::fs::read_to_string(weir.path("in.jsonl")).unwrap() + "{\"id\":2}\n"));
    weir.succeed(&["run", "p.sql"]);
    weir.write("p.sql", &right);
    let told = weir.run(&["verify", "p.sql"]);
    assert_eq!(told.status.code(), Some(1), "{}", text(&told.stdout));
    assert!(text(&told.stdout).contains("1 missing, 1 too many"), "{}", text(&told.stdout));
}

#[test]
fn frames_of_aggregates_that_take_nothing_back_are_computed_in_batch_too() {
    let weir = Weir::new();
    let row = |id: i32| {
        format!(
            "{{\"id\":{id},\"b\":{},\"s\":\"{}\",\"ts\":\"2024-01-01T00:00:0{id}Z\"}}\n",
            id % 3 == 0,
            (b'a' + id as u8) as char
        )
    };
    weir.write("in.jsonl", &(0..6).map(row).collect::<String>());
    let columns = "id, bool_or(b) OVER w AS some, bool_and(b) OVER w AS each, string_agg(s, '+') OVER w AS texts, bit_or(id) OVER w AS bits";
    let window = "WINDOW w AS (ORDER BY ts RANGE BETWEEN INTERVAL '1 second' PRECEDING AND CURRENT ROW)";
    weir.write(
        "p.sql",
        &format!(
            "CREATE SOURCE e (id BIGINT, b BOOLEAN, s STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in.jsonl');
             CREATE TABLE o (id BIGINT, some BOOLEAN, each BOOLEAN, texts STRING, bits BIGINT) USING DELTA;
             CREATE TABLE all_rows (id BIGINT, b BOOLEAN, s STRING, ts TIMESTAMP) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now', at_end = 'flush') AS BEGIN
               INSERT INTO o SELECT {columns} FROM e {window};
               INSERT INTO all_rows SELECT id, b, s, ts FROM e;
             END;"
        ),
    );
    weir.succeed(&["run", "p.sql"]);
    let expected = [
        "0,true,true,a,0",
        "1,true,false,a+b,1",
        "2,false,false,b+c,3",
        "3,true,false,c+d,3",
        "4,true,false,d+e,7",
        "5,false,false,e+f,5",
    ];
    assert_eq!(weir.query("SELECT * FROM o ORDER BY id"), expected);
    assert_eq!(weir.query(&format!("SELECT {columns} FROM all_rows {window} ORDER BY id")), expected);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("ok    o  6 rows streamed, 6 in batch"), "{told}");
}

const TIMED: &str = "CREATE SOURCE e (id BIGINT, g INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 minute') WITH (connector = 'file', path = 'in', format = 'json');";

fn at(id: i64, minute: i64) -> String {
    format!("{{\"id\":{id},\"g\":{},\"ts\":\"2024-01-01T{:02}:{:02}:00Z\"}}\n", id % 2, minute / 60, minute % 60)
}

fn timed(tables: &str, options: &str, body: &str) -> Weir {
    let weir = Weir::new();
    weir.write("in/a.jsonl", &(0..100).map(|id| at(id, id)).collect::<String>());
    weir.write(
        "p.sql",
        &format!("{TIMED} {tables} CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = '10 days'{options}) AS BEGIN {body} END;"),
    );
    weir.succeed(&["run", "p.sql"]);
    weir
}

/// Appends rows to the file.
fn append(weir: &Weir, rows: &str) {
    let file = std::fs::read_to_string(weir.path("in/a.jsonl")).unwrap();
    weir.write("in/a.jsonl", &(file + rows));
}

#[test]
fn rows_that_wait_for_time_are_not_due_yet_though_their_table_has_no_time() {
    let frame = "OVER (PARTITION BY g ORDER BY ts";
    let tables =
        "CREATE TABLE roll (id BIGINT, n BIGINT) USING DELTA; CREATE TABLE next (id BIGINT, n BIGINT) USING DELTA;
        CREATE TABLE pairs (a BIGINT, b BIGINT) USING DELTA; CREATE TABLE minutes (n BIGINT) USING DELTA;";
    let body = format!(
        "INSERT INTO roll SELECT id, count(*) {frame} RANGE BETWEEN INTERVAL '9 minutes' PRECEDING AND CURRENT ROW) AS n FROM e;
         INSERT INTO next SELECT id, lead(id) {frame}) AS n FROM e;
         INSERT INTO pairs SELECT x.id AS a, y.id AS b FROM e x LEFT JOIN e y ON x.id + 1000 = y.id AND y.ts BETWEEN x.ts AND x.ts + INTERVAL '5 minutes';
         INSERT INTO minutes SELECT count(*) AS n FROM TUMBLE(TABLE e, DESCRIPTOR(ts), INTERVAL '7 minutes') GROUP BY window_start, window_end;"
    );
    let weir = timed(tables, "", &body);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert_eq!(told.matches("ok    ").count(), 4, "{told}");
    assert!(told.contains("roll  98 rows streamed, 100 in batch, 2 not due yet, 0 missing, 0 too many"), "{told}");
    // More of the file that no run has read yet is no difference.
    append(&weir, &(100..140).map(|id| at(id, id)).collect::<String>());
    let grown = weir.succeed(&["verify", "p.sql"]);
    assert_eq!(grown, told);
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.succeed(&["verify", "p.sql"]).matches("ok    ").count(), 4);
    // A row that is gone is one that is missing, whatever waits.
    let weir = timed(tables, ", at_end = 'flush'", &body);
    assert!(weir.succeed(&["verify", "p.sql"]).contains("roll  100 rows streamed, 100 in batch, 0 not due yet"));
    weir.write(
        "p.sql",
        &std::fs::read_to_string(weir.path("p.sql"))
            .unwrap()
            .replace("SELECT id, count(*)", "SELECT id + 1 AS id, count(*)"),
    );
    assert_eq!(weir.run(&["verify", "p.sql"]).status.code(), Some(1));
}

#[test]
fn what_no_batch_can_repeat_is_told_and_no_difference() {
    let weir = timed(
        "CREATE TABLE o (id BIGINT, r DOUBLE, u STRING, seen TIMESTAMP) USING DELTA; CREATE TABLE plain (id BIGINT) USING DELTA;",
        "",
        "INSERT INTO o SELECT id, random() AS r, uuid() AS u, now() AS seen FROM e; INSERT INTO plain SELECT id FROM e;",
    );
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("UNSURE o") && told.contains("cannot be compared: `now()` gives another answer"), "{told}");
    assert!(told.contains("ok    plain"), "{told}");

    let frame =
        "count(*) OVER (PARTITION BY g ORDER BY ts RANGE BETWEEN INTERVAL '9 minutes' PRECEDING AND CURRENT ROW)";
    let tables = "CREATE TABLE o (id BIGINT, n BIGINT) USING DELTA; CREATE TABLE raw (id BIGINT) USING DELTA;";
    for (late, verdict) in [("emit", "UNSURE o"), ("dead_letter", "ok    o"), ("drop", "DIFFER o")] {
        let body = format!("INSERT INTO o SELECT id, {frame} AS n FROM e; INSERT INTO raw SELECT id FROM e;");
        let weir = timed(tables, &format!(", late = '{late}'"), &body);
        append(&weir, &(at(300, 3) + &at(301, 200)));
        let ran = weir.run(&["run", "p.sql"]);
        let ran = text(&ran.stdout) + &text(&ran.stderr);
        assert!(ran.contains("\"numRowsLate\":1"), "{late}: {ran}");
        append(&weir, &at(302, 300));
        weir.succeed(&["run", "p.sql"]);
        let told = text(&weir.run(&["verify", "p.sql"]).stdout);
        assert!(told.contains(verdict) && told.contains("ok    raw"), "{late}: {told}");
        assert_eq!(told.contains("without 1 rows that dead letters call late"), late == "dead_letter", "{told}");
    }
}

#[test]
fn a_row_exactly_as_late_as_a_key_is_kept_is_let_through_in_stream_and_batch() {
    let weir = Weir::new();
    weir.write("in/a.jsonl", &[0, 60, 120, 121].map(|minute| at(2, minute).replace("\"id\":2", "\"id\":7")).concat());
    weir.write(
        "p.sql",
        &format!(
            "{TIMED} CREATE TABLE o (id BIGINT, ts TIMESTAMP) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now', at_end = 'flush') AS BEGIN
               INSERT INTO o SELECT id, ts FROM DEDUPLICATE(TABLE e, KEY(id), WITHIN INTERVAL '2 hours');
             END;"
        ),
    );
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.query("SELECT extract(hour from ts) FROM o ORDER BY ts"), ["0", "2"]);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("ok    o  2 rows streamed, 2 in batch"), "{told}");
}

#[test]
fn a_row_that_was_too_far_ahead_of_the_clock_stays_refused() {
    let weir = Weir::new();
    let now = weir.number("SELECT CAST(now() AS BIGINT) / 1000");
    let row = |id: i64, ahead: i64| format!("{{\"id\":{id},\"ts\":{}}}\n", now + ahead);
    weir.write("in/a.jsonl", &(row(1, -60_000) + &row(2, 5_000) + &row(3, -50_000)));
    weir.write(
        "p.sql",
        "CREATE SOURCE e (id BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in', format = 'json', max_future = '1 second');
         CREATE TABLE o (id BIGINT) USING DELTA;
         CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO o SELECT id FROM e; END;",
    );
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.number("SELECT count(*) FROM weir.dead_letters"), 1);
    // Until the clock has reached the row.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("ok    o  2 rows streamed, 2 in batch"), "{told}");
}

#[test]
fn pairs_whose_condition_cannot_be_computed_are_not_owed() {
    for mode in ["dead_letter", "null"] {
        let weir = Weir::new();
        let line = |id: i64, q: i64, minute: i64| {
            format!("{{\"id\":{id},\"q\":{q},\"ts\":\"2026-01-01T00:{minute:02}:0{id}Z\"}}\n")
        };
        weir.write("a.jsonl", &[line(1, 1, 0), line(2, 0, 0), line(3, 2, 0)].concat());
        weir.write("b.jsonl", &[line(1, 10, 9), line(2, 10, 9), line(3, 10, 9)].concat());
        let source = |name: &str| {
            format!(
                "CREATE SOURCE {name} (id BIGINT, q BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = '{name}.jsonl');"
            )
        };
        let near = "b.ts BETWEEN a.ts AND a.ts + INTERVAL '1 hour'";
        weir.write(
            "p.sql",
            &format!(
                "{} {}
                 CREATE TABLE inner_near (id BIGINT, q BIGINT) USING DELTA;
                 CREATE TABLE left_near (id BIGINT, q BIGINT) USING DELTA;
                 CREATE TABLE inner_any (id BIGINT, q BIGINT) USING DELTA;
                 CREATE TABLE with_or (id BIGINT, q BIGINT) USING DELTA;
                 CREATE PIPELINE p WITH (trigger = 'available now', at_end = 'flush', state_ttl = 'none', on_row_error = '{mode}') AS BEGIN
                   INSERT INTO inner_near SELECT a.id, b.q FROM a JOIN b ON a.id = b.id AND {near} AND b.q / a.q > 1;
                   INSERT INTO left_near SELECT a.id, b.q FROM a LEFT JOIN b ON a.id = b.id AND {near} AND b.q / a.q > 1;
                   INSERT INTO inner_any SELECT a.id, b.q FROM a JOIN b ON a.id = b.id AND b.q / a.q > 1;
                   INSERT INTO with_or SELECT a.id, b.q FROM a JOIN b ON a.id = b.id AND (b.q / a.q > 1 OR b.q > a.q);
                 END;",
                source("a"),
                source("b")
            ),
        );
        weir.succeed(&["run", "p.sql"]);
        assert_eq!(weir.query("SELECT id, q FROM left_near ORDER BY id"), ["1,10", "2,", "3,10"], "{mode}");
        let told = weir.succeed(&["verify", "p.sql"]);
        assert_eq!(told.matches("ok    ").count(), 4, "{mode}: {told}");
    }
}

const MEASURED: &str = "CREATE SOURCE e (id BIGINT, g INT, q BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds') WITH (connector = 'file', path = 'in', format = 'json');";

/// A pipeline over some lines that has run to their end, with one table per INSERT.
fn measured(lines: &str, options: &str, inserts: &[(&str, &str, &str)]) -> Weir {
    let weir = Weir::new();
    weir.write("in/a.jsonl", lines);
    let tables = inserts.iter().map(|(name, columns, _)| format!("CREATE TABLE {name} ({columns}) USING DELTA;"));
    let bodies = inserts.iter().map(|(name, _, query)| format!("INSERT INTO {name} {query};"));
    weir.write(
        "p.sql",
        &format!(
            "{MEASURED} {} CREATE PIPELINE p WITH (trigger = 'available now', at_end = 'flush', state_ttl = 'none'{options}) AS BEGIN {} END;",
            tables.collect::<String>(),
            bodies.collect::<String>()
        ),
    );
    weir.succeed(&["run", "p.sql"]);
    weir
}

fn measure(id: i64, q: i64) -> String {
    format!("{{\"id\":{id},\"g\":{},\"q\":{q},\"ts\":\"2024-01-01T00:00:{id:02}Z\"}}\n", id % 2)
}

#[test]
fn what_windows_cannot_compute_is_left_out_or_null_in_batch_as_in_the_stream() {
    let lines: String = [1, 0, 2, 0, 5, 3, 7, 1].iter().zip(0..).map(|(q, id)| measure(id, *q)).collect();
    let hour = "ORDER BY ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW";
    let rows = "ORDER BY ts ROWS BETWEEN 2 PRECEDING AND CURRENT ROW";
    let inserts = [
        ("parts", "id BIGINT, n BIGINT", format!("SELECT id, count(*) OVER (PARTITION BY 10 / q {hour}) AS n FROM e")),
        (
            "two",
            "id BIGINT, n BIGINT, m BIGINT",
            format!("SELECT id, count(*) OVER (PARTITION BY 10 / q {hour}) AS n, sum(q) OVER (PARTITION BY 10 / q {hour}) AS m FROM e"),
        ),
        ("before", "id BIGINT, n BIGINT", "SELECT id, lag(10 / q) OVER (PARTITION BY g ORDER BY ts) AS n FROM e".to_owned()),
        ("sums", "id BIGINT, n BIGINT", format!("SELECT id, sum(10 / q) OVER (PARTITION BY g {rows}) AS n FROM e")),
        ("some", "id BIGINT, n BIGINT", format!("SELECT id, sum(10 / q) FILTER (WHERE q <> 0) OVER (PARTITION BY g {hour}) AS n FROM e")),
        ("firsts", "id BIGINT", "SELECT id FROM e QUALIFY row_number() OVER (PARTITION BY 10 / q ORDER BY ts) = 1".to_owned()),
        (
            "top",
            "g INT, id BIGINT, rn BIGINT, PRIMARY KEY (g, rn) NOT ENFORCED",
            "SELECT g, id, CAST(rn AS BIGINT) AS rn FROM (SELECT g, id, row_number() OVER (PARTITION BY g ORDER BY 10 / q DESC, id) AS rn FROM e) WHERE rn <= 2".to_owned(),
        ),
        ("others", "id BIGINT, PRIMARY KEY (id) NOT ENFORCED", "SELECT id FROM e EXCEPT SELECT 10 / q AS id FROM e".to_owned()),
    ];
    let inserts: Vec<_> = inserts.iter().map(|(name, columns, query)| (*name, *columns, query.as_str())).collect();
    for mode in ["dead_letter", "null"] {
        let weir = measured(&lines, &format!(", on_row_error = '{mode}'"), &inserts);
        let rows = if mode == "null" { 8 } else { 6 };
        assert_eq!(weir.number("SELECT count(*) FROM sums"), rows, "{mode}");
        assert_eq!(weir.number("SELECT count(*) FROM some"), 8, "{mode}");
        let told = weir.succeed(&["verify", "p.sql"]);
        assert_eq!(told.matches("ok    ").count(), inserts.len(), "{mode}: {told}");
    }
}

#[test]
fn rows_without_an_event_time_are_taken_by_no_operator_that_needs_it() {
    let untimed = |id: i64| format!("{{\"id\":{id},\"g\":{},\"q\":1}}\n", id % 2);
    let lines = untimed(0) + &measure(1, 1) + &measure(2, 1) + &untimed(6) + &measure(9, 2);
    let frame = "RANGE BETWEEN INTERVAL '4 minutes' PRECEDING AND CURRENT ROW";
    let rolled = format!("SELECT id, count(*) OVER (PARTITION BY g ORDER BY ts {frame}) AS n FROM e");
    let inserts = [
        ("plain", "id BIGINT", "SELECT id FROM e", 5),
        (
            "minutes",
            "n BIGINT, m TIMESTAMP",
            "SELECT count(*) AS n, date_trunc('minute', ts) AS m FROM e GROUP BY date_trunc('minute', ts)",
            1,
        ),
        (
            "tumbled",
            "n BIGINT",
            "SELECT count(*) AS n FROM TUMBLE(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY window_start, window_end",
            1,
        ),
        (
            "sessions",
            "n BIGINT",
            "SELECT count(*) AS n FROM SESSION(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY window_start, window_end",
            1,
        ),
        ("kept", "id BIGINT", "SELECT id FROM DEDUPLICATE(TABLE e, KEY(id), WITHIN INTERVAL '1 minute')", 3),
        (
            "firsts",
            "id BIGINT",
            "SELECT id FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY ts) AS rn FROM e) WHERE rn = 1",
            3,
        ),
        ("rolled", "id BIGINT, n BIGINT", rolled.as_str(), 3),
        ("next", "id BIGINT, n BIGINT", "SELECT id, lead(id) OVER (PARTITION BY g ORDER BY ts) AS n FROM e", 3),
    ];
    for options in ["", ", late = 'dead_letter'", ", late = 'dead_letter', rolling_emit = 'on_arrival'"] {
        let inserts: Vec<_> =
            inserts.iter().filter(|(name, ..)| *name != "next" || !options.contains("on_arrival")).collect();
        let tables: Vec<_> = inserts.iter().map(|(name, columns, query, _)| (*name, *columns, *query)).collect();
        let weir = measured(&lines, &format!("{options}, max_rows_per_micro_batch = '2'"), &tables);
        for (name, _, _, rows) in &inserts {
            // The first that arrives, of keys that are kept for ever, needs no time.
            let rows = if *name == "firsts" && options.contains("on_arrival") { &5 } else { rows };
            assert_eq!(weir.number(&format!("SELECT count(*) FROM {name}")), *rows, "{name}{options}");
        }
        if !options.is_empty() {
            let letters = weir.query("SELECT DISTINCT \"offset\" >= 0, reason FROM weir.dead_letters");
            assert_eq!(letters, ["true,its event time is NULL"], "{options}");
        }
        let told = weir.succeed(&["verify", "p.sql"]);
        assert_eq!(told.matches("ok    ").count(), inserts.len(), "{options}: {told}");
        assert!(told.contains("without 2 rows whose event time is NULL"), "{told}");
    }
}

#[test]
fn which_row_of_a_key_came_first_is_not_asked_where_time_went_back() {
    let kept =
        [("kept", "id BIGINT, g INT", "SELECT id, g FROM DEDUPLICATE(TABLE e, KEY(g), WITHIN INTERVAL '1 hour')")];
    let weir = measured(&(measure(3, 1) + &measure(1, 1)), "", &kept);
    assert_eq!(weir.query("SELECT id FROM kept"), ["3"]);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("UNSURE kept") && told.contains("the first that arrives is taken"), "{told}");
    let weir = measured(&(measure(1, 1) + &measure(3, 1)), "", &kept);
    assert!(weir.succeed(&["verify", "p.sql"]).contains("ok    kept  1 rows streamed, 1 in batch"));
}

#[test]
fn weighted_percentiles_over_frames_are_computed_in_batch_too() {
    let frame = "(PARTITION BY g ORDER BY ts RANGE BETWEEN INTERVAL '2 seconds' PRECEDING AND CURRENT ROW)";
    let names =
        ["approx_percentile_cont_with_weight(q, g, 0.5)", "regr_sxx(q, id)", "regr_sxy(q, id)", "regr_syy(q, id)"];
    for name in names {
        let query = format!("SELECT id, CAST({name} OVER {frame} AS DOUBLE) AS x FROM e");
        let lines: String = (0..8).map(|id| measure(id, id * id)).collect();
        let weir = measured(&lines, "", &[("o", "id BIGINT, x DOUBLE", query.as_str())]);
        assert!(weir.succeed(&["verify", "p.sql"]).contains("ok    o  8 rows streamed, 8 in batch"), "{name}");
    }
}

#[test]
fn tables_and_checks_that_come_later_and_tables_of_two_pipelines_are_no_differences() {
    let weir = Weir::new();
    let pipeline = |check: &str, more: &str, inserts: &str| {
        format!(
            "{MEASURED} CREATE TABLE h (id BIGINT, g INT{check}) USING DELTA; {more}
             CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO h SELECT id, g FROM e; {inserts} END;"
        )
    };
    weir.write("in/a.jsonl", &(0..5).map(|id| measure(id, 1)).collect::<String>());
    weir.write("p.sql", &pipeline("", "", ""));
    weir.succeed(&["run", "p.sql"]);
    let check = ", CHECK (id < 8 AND id <> 2)";
    weir.write("p.sql", &pipeline(check, "CREATE TABLE n (id BIGINT) USING DELTA;", "INSERT INTO n SELECT id FROM e;"));
    weir.write("in/b.jsonl", &(5..10).map(|id| measure(id, 1)).collect::<String>());
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.number("SELECT count(*) FROM h"), 8);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("ok    h  8 rows streamed, 8 in batch"), "{told}");
    assert!(told.contains("2 more rows in batch violate the table's NOT NULL or CHECK"), "{told}");
    assert!(
        told.contains("UNSURE n  5 rows streamed, 10 in batch") && told.contains("when `p` had already run"),
        "{told}"
    );

    let weir = Weir::new();
    weir.write("in/a.jsonl", &(0..5).map(|id| measure(id, 1)).collect::<String>());
    let part = |name: &str, g: i64| {
        format!(
            "CREATE PIPELINE {name} WITH (trigger = 'available now') AS BEGIN INSERT INTO h SELECT id, g FROM e WHERE g = {g}; END;"
        )
    };
    let tables = format!("{MEASURED} CREATE TABLE h (id BIGINT, g INT) USING DELTA;");
    weir.write("p.sql", &format!("{tables} {} {}", part("p", 0), part("other", 1)));
    weir.succeed(&["run", "p.sql"]);
    let told = weir.succeed(&["verify", "p.sql"]);
    // The rows of the one that came first are older than the other's first epoch.
    assert_eq!((told.matches("UNSURE h").count(), told.matches("ok    h").count()), (1, 1), "{told}");
    assert!(told.contains("writes this table, too"), "{told}");
    // A missing row stays a difference.
    weir.write(
        "p.sql",
        &format!("{tables} {} {}", part("p", 0).replace("SELECT id,", "SELECT id + 1 AS id,"), part("other", 1)),
    );
    let told = weir.run(&["verify", "p.sql", "--pipeline", "p"]);
    assert_eq!(told.status.code(), Some(1), "{}", text(&told.stdout));
}

#[test]
fn with_late_emit_a_row_sees_what_arrived_before_it_however_input_is_cut() {
    let mut random = 7_u64;
    let mut next = |most: i64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as i64 % most
    };
    let mut lines = String::new();
    let mut clock = 100;
    for id in 0..60 {
        clock += next(8);
        let time = clock - [0, 0, 0, 3, 20, 60][next(6) as usize];
        let (minute, second) = (time / 60, time % 60);
        lines += &format!(
            "{{\"id\":{id},\"g\":{},\"q\":{},\"ts\":\"2024-01-01T00:{minute:02}:{second:02}Z\"}}\n",
            next(2),
            next(9)
        );
    }
    let near = "(PARTITION BY g ORDER BY ts RANGE BETWEEN INTERVAL '30 seconds' PRECEDING AND CURRENT ROW)";
    let after =
        "(PARTITION BY g ORDER BY ts RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND INTERVAL '5 seconds' FOLLOWING)";
    let query = format!(
        "SELECT id, count(*) OVER {near} AS n, sum(q) OVER {near} AS s, string_agg(CAST(id AS STRING), '+') OVER {near} AS ids, count(*) OVER {after} AS m, lag(id) OVER (PARTITION BY g ORDER BY ts) AS l FROM e"
    );
    let columns = "id BIGINT, n BIGINT, s BIGINT, ids STRING, m BIGINT, l BIGINT";
    let answers = |rows: i64| {
        let options = format!(", late = 'emit', parallelism = '1', max_rows_per_micro_batch = '{rows}'");
        let weir = measured(&lines, &options, &[("o", columns, query.as_str())]);
        weir.query("SELECT * FROM o ORDER BY id")
    };
    let one = answers(1);
    assert_eq!(one.len(), 60);
    for rows in [5, 1000] {
        assert_eq!(answers(rows), one, "{rows} rows a micro-batch");
    }
}

/// A Delta table as Spark makes it, at `lake`.
fn made_by_spark(weir: &Weir, fields: &[(&str, &str, serde_json::Value)], partition: &[&str]) {
    let field = |(name, kind, metadata): &(&str, &str, serde_json::Value)| serde_json::json!({ "name": name, "type": kind, "nullable": true, "metadata": metadata });
    let fields: Vec<_> = fields.iter().map(field).collect();
    let schema = serde_json::json!({ "type": "struct", "fields": fields }).to_string();
    let entries = [
        serde_json::json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 4 } }),
        serde_json::json!({ "metaData": { "id": "22222222-2222-4222-8222-222222222222", "format": { "provider": "parquet", "options": {} },
            "schemaString": schema, "partitionColumns": partition, "configuration": {}, "createdTime": 0 } }),
    ];
    weir.write("lake/_delta_log/00000000000000000000.json", &entries.map(|entry| format!("{entry}\n")).concat());
}

#[test]
fn columns_that_the_table_generates_are_computed_in_batch_too() {
    for insert in [
        "INSERT INTO lake SELECT id, ts FROM e",
        "INSERT INTO lake (id, ts) SELECT id, ts FROM e",
        "INSERT INTO lake (id, ts, twice) SELECT id, ts, id * 2 FROM e",
    ] {
        let weir = Weir::new();
        let generated = |sql: &str| serde_json::json!({ "delta.generationExpression": sql });
        let none = serde_json::json!({});
        let fields = [
            ("id", "long", none.clone()),
            ("ts", "timestamp", none),
            ("day", "date", generated("CAST(ts AS DATE)")),
            ("twice", "long", generated("id * 2")),
        ];
        made_by_spark(&weir, &fields, &["day"]);
        weir.write("in/a.jsonl", &(0..3).map(|id| measure(id, 1)).collect::<String>());
        weir.write(
            "p.sql",
            &format!(
                "{MEASURED} CREATE TABLE lake USING DELTA LOCATION 'lake'; CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN {insert}; END;"
            ),
        );
        weir.succeed(&["run", "p.sql"]);
        let told = weir.succeed(&["verify", "p.sql"]);
        assert!(told.contains("ok    lake  3 rows streamed, 3 in batch"), "{insert}: {told}");
    }
}

#[test]
fn texts_of_fixed_length_are_compared_as_they_are_shown() {
    let weir = Weir::new();
    let fields = [
        ("id", "long", serde_json::json!({})),
        ("s", "string", serde_json::json!({ "__CHAR_VARCHAR_TYPE_STRING": "char(5)" })),
    ];
    made_by_spark(&weir, &fields, &[]);
    weir.write("in.jsonl", "{\"id\":1,\"s\":\"ab\"}\n{\"id\":2,\"s\":\"abcde\"}\n{\"id\":3}\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE e (id BIGINT, s STRING) WITH (connector = 'file', path = 'in.jsonl');
         CREATE TABLE lake USING DELTA LOCATION 'lake';
         CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO lake SELECT id, s FROM e; END;",
    );
    weir.succeed(&["run", "p.sql"]);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("ok    lake  3 rows streamed, 3 in batch"), "{told}");
}

#[test]
fn keys_that_cannot_be_computed_are_null_in_batch_as_in_the_stream() {
    let lines: String = [1, 0, 2, 0, 5].iter().zip(1..).map(|(q, id)| measure(id, *q)).collect();
    let minute = "DESCRIPTOR(ts), INTERVAL '1 minute'";
    let grouped = "GROUP BY window_start, window_end, 10 / q";
    let inserts = [
        (
            "tumbled",
            "k BIGINT, n BIGINT",
            format!("SELECT 10 / q AS k, count(*) AS n FROM TUMBLE(TABLE e, {minute}) {grouped}"),
        ),
        (
            "sessions",
            "k BIGINT, n BIGINT",
            format!("SELECT 10 / q AS k, count(*) AS n FROM SESSION(TABLE e, {minute}) {grouped}"),
        ),
        (
            "hopped",
            "k BIGINT, n BIGINT",
            format!("SELECT 10 / q AS k, sum(id) AS n FROM HOP(TABLE e, {minute}, INTERVAL '2 minutes') {grouped}"),
        ),
        (
            "minutes",
            "k BIGINT, n BIGINT",
            "SELECT 10 / q AS k, sum(10 / q) AS n FROM e GROUP BY date_trunc('minute', ts), 10 / q".to_owned(),
        ),
    ];
    let inserts: Vec<_> = inserts.iter().map(|(name, columns, query)| (*name, *columns, query.as_str())).collect();
    for (mode, groups) in [("null", 4), ("dead_letter", 3)] {
        let weir = measured(&lines, &format!(", on_row_error = '{mode}'"), &inserts);
        assert_eq!(weir.number("SELECT count(*) FROM tumbled"), groups, "{mode}");
        let told = weir.succeed(&["verify", "p.sql"]);
        assert_eq!(told.matches("ok    ").count(), inserts.len(), "{mode}: {told}");
    }
}

#[test]
fn rows_that_were_there_before_the_first_epoch_are_not_the_pipelines() {
    let weir = Weir::new();
    let sql = |pipeline: &str, path: &str, id: &str| {
        format!(
            "CREATE SOURCE e (id BIGINT, g INT) WITH (connector = 'file', path = '{path}', format = 'json');
             CREATE TABLE h (id BIGINT, g INT) USING DELTA LOCATION 'h';
             CREATE TABLE k (id BIGINT, g INT, PRIMARY KEY (id) NOT ENFORCED) USING DELTA LOCATION 'k';
             CREATE PIPELINE {pipeline} WITH (trigger = 'available now') AS BEGIN
               INSERT INTO h SELECT {id} AS id, g FROM e; INSERT INTO k SELECT {id} AS id, g FROM e; END;"
        )
    };
    weir.write("old.jsonl", &(0..3).map(|id| measure(id, 1)).collect::<String>());
    weir.write("in/a.jsonl", &(2..7).map(|id| measure(id, 1)).collect::<String>());
    weir.write("old.sql", &sql("before", "old.jsonl", "id"));
    weir.succeed(&["run", "old.sql"]);
    // As another program leaves it: no commit says that a pipeline of ours has made the rows.
    for table in ["h", "k"] {
        let path = format!("{table}/_delta_log/00000000000000000001.json");
        let entry = std::fs::read_to_string(weir.path(&path)).unwrap();
        let without = |line: &str| !line.contains("\"txn\"") && !line.contains("\"commitInfo\"");
        weir.write(
            &path,
            &entry.lines().filter(|line| without(line)).map(|line| format!("{line}\n")).collect::<String>(),
        );
    }
    weir.write("p.sql", &sql("p", "in", "id"));
    weir.succeed(&["run", "p.sql"]);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("ok    h  5 rows streamed, 5 in batch"), "{told}");
    assert!(told.contains("3 more rows were there before the pipeline's first epoch"), "{told}");
    assert!(told.contains("ok    k  7 rows streamed, 5 in batch"), "{told}");
    // Rows of the pipeline are not excused by those before.
    weir.write("p.sql", &sql("p", "in", "id + 1"));
    let told = weir.run(&["verify", "p.sql"]);
    assert_eq!(told.status.code(), Some(1), "{}", text(&told.stdout));
    let told = text(&told.stdout);
    assert!(told.contains("DIFFER h  5 rows streamed, 5 in batch, 0 not due yet, 5 missing, 5 too many"), "{told}");
    assert!(told.contains("DIFFER k  7 rows streamed, 5 in batch, 0 not due yet, 5 missing, 4 too many"), "{told}");
}

#[test]
fn a_row_that_is_late_for_one_of_its_windows_counts_in_the_others() {
    let hop = "HOP(TABLE e, DESCRIPTOR(ts), INTERVAL '5 minutes', INTERVAL '10 minutes')";
    let tables = "CREATE TABLE o (s TIMESTAMP, n BIGINT) USING DELTA;";
    let body = |sum: &str| {
        format!("INSERT INTO o SELECT window_start AS s, {sum} AS n FROM {hop} GROUP BY window_start, window_end;")
    };
    let weir = Weir::new();
    weir.write("in/a.jsonl", &[at(1, 1), at(2, 6), at(3, 11), at(4, 18)].concat());
    let sql = |sum: &str| {
        format!(
            "{TIMED} {tables} CREATE PIPELINE p WITH (trigger = 'available now', late = 'dead_letter') AS BEGIN {} END;",
            body(sum)
        )
    };
    weir.write("p.sql", &sql("sum(id)"));
    weir.succeed(&["run", "p.sql"]);
    // The watermark is at 17 minutes: the window from 5 to 15 is closed, that from 10 to 20 is not.
    weir.write("in/b.jsonl", &(at(5, 12) + &at(7, 40)));
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.number("SELECT n FROM o WHERE extract(minute FROM s) = 5"), 5);
    assert_eq!(weir.number("SELECT n FROM o WHERE extract(minute FROM s) = 10"), 12);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("ok    o  5 rows streamed, 7 in batch, 2 not due yet, 0 missing, 0 too many"), "{told}");
    assert!(told.contains("without 1 rows that dead letters call late"), "{told}");
    weir.write("p.sql", &sql("sum(id) + 1"));
    assert!(text(&weir.run(&["verify", "p.sql"]).stdout).contains("DIFFER o"));
}

#[test]
fn a_delta_source_without_declared_columns_is_verified() {
    let weir = one_table("(id BIGINT, n BIGINT)", "{\"id\":1,\"n\":1}\n{\"id\":2,\"n\":2}\n");
    weir.write(
        "q.sql",
        "CREATE SOURCE d WITH (connector = 'delta', path = 'warehouse/o');
         CREATE TABLE copied (id BIGINT, n BIGINT) USING DELTA;
         CREATE PIPELINE q WITH (trigger = 'available now') AS BEGIN INSERT INTO copied SELECT id, n FROM d; END;",
    );
    weir.succeed(&["run", "q.sql"]);
    let told = weir.succeed(&["verify", "q.sql"]);
    assert!(told.contains("ok    copied  2 rows streamed, 2 in batch"), "{told}");
}

#[test]
fn a_row_of_which_a_function_makes_too_much_is_treated_in_batch_as_in_the_stream() {
    for (mode, rows) in [("dead_letter", 1), ("null", 2)] {
        for padded in ["lpad(t, n, 'x')", "repeat(t, n)", "lpad(t, CASE WHEN n > 9 THEN 200000000 ELSE n END, 'x')"] {
            let weir = Weir::new();
            weir.write("in.jsonl", "{\"t\":\"ab\",\"n\":5}\n{\"t\":\"ab\",\"n\":9223372036854775807}\n");
            weir.write(
                "p.sql",
                &format!(
                    "CREATE SOURCE e (t STRING, n BIGINT) WITH (connector = 'file', path = 'in.jsonl');
                     CREATE TABLE o (t STRING, n BIGINT) USING DELTA;
                     CREATE PIPELINE p WITH (trigger = 'available now', on_row_error = '{mode}') AS BEGIN INSERT INTO o SELECT {padded} AS t, n FROM e; END;"
                ),
            );
            weir.succeed(&["run", "p.sql"]);
            assert_eq!(weir.number("SELECT count(*) FROM o"), rows, "{mode} {padded}");
            let told = weir.succeed(&["verify", "p.sql"]);
            assert!(told.contains(&format!("ok    o  {rows} rows streamed, {rows} in batch")), "{padded}: {told}");
        }
    }
}

#[test]
fn a_bad_record_behind_the_last_epoch_does_not_matter() {
    let weir = Weir::new();
    weir.write("in.jsonl", "{\"id\":1,\"n\":1}\n{\"id\":2,\"n\":2}\n");
    weir.write(
        "p.sql",
        &format!(
            "{} CREATE TABLE o (id BIGINT, n BIGINT) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO o SELECT id, n FROM e; END;",
            SOURCE.replace("path =", "on_error = 'fail', path =")
        ),
    );
    weir.succeed(&["run", "p.sql"]);
    let lines = std::fs::read_to_string(weir.path("in.jsonl")).unwrap();
    weir.write("in.jsonl", &(lines + "{\"id\":\"x\"\n"));
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("ok    o  2 rows streamed, 2 in batch"), "{told}");
}

#[test]
fn a_pipeline_that_goes_on_is_compared_up_to_the_epoch_whose_manifest_was_read() {
    let weir = Weir::new();
    weir.write("in/a.jsonl", &measure(1, 1));
    weir.write(
        "p.sql",
        &format!(
            "{MEASURED} CREATE TABLE o (id BIGINT) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO o SELECT id FROM e; END;"
        ),
    );
    weir.succeed(&["run", "p.sql"]);
    weir.write("in/b.jsonl", &measure(2, 1));
    weir.succeed(&["run", "p.sql"]);
    let manifests = weir.path("warehouse/_weir/p/manifests");
    let files = std::fs::read_dir(&manifests).unwrap().map(|file| file.unwrap().path());
    let newest = files.max().unwrap();
    let aside = weir.path("aside");
    std::fs::rename(&newest, &aside).unwrap();
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("up to epoch 1") && told.contains("ok    o  1 rows streamed, 1 in batch"), "{told}");

    // The manifest is there before the commits are.
    std::fs::rename(&aside, &newest).unwrap();
    std::fs::rename(weir.path("warehouse/o/_delta_log/00000000000000000002.json"), &aside).unwrap();
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("UNSURE o  1 rows streamed, 2 in batch"), "{told}");
    assert!(told.contains("epoch 2 is not committed to it yet"), "{told}");
}
