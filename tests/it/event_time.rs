//! Rows out of order: rows that arrive late, rows dated in the future, rows that overtake others. Values written by hand.

use crate::kafka_support::RealKafka;
use crate::program::Weir;

fn row(id: &str, time: &str) -> String {
    format!("{{\"id\":\"{id}\",\"ts\":\"{time}\",\"k\":\"a\"}}\n")
}

fn source(lag: &str, options: &str) -> String {
    format!(
        "CREATE SOURCE s (id STRING, ts TIMESTAMP, k STRING, WATERMARK FOR ts AS ts - INTERVAL '{lag}')
           WITH (connector = 'file', path = 'in/*.jsonl'{options});"
    )
}

const LAST_HOUR: &str =
    "count(*) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";

#[test]
fn on_arrival_a_row_sees_what_came_before_it_in_one_micro_batch_or_many() {
    let rows = [("p1", "11:00:00"), ("p2", "11:00:20"), ("p3", "11:00:40"), ("p4", "11:00:30"), ("p5", "11:00:40")];
    let rows = rows.map(|(id, time)| row(id, &format!("2026-11-30T{time}Z")));
    for batch in [1, 2, 100] {
        let weir = Weir::new();
        weir.write("in/1.jsonl", &rows.concat());
        weir.write(
            "p.sql",
            &format!(
                "{} CREATE TABLE out (id STRING, n BIGINT) USING DELTA;
                 CREATE PIPELINE p WITH (trigger = 'available now', rolling_emit = 'on_arrival', max_rows_per_micro_batch = '{batch}') AS BEGIN
                   INSERT INTO out SELECT id, {LAST_HOUR} FROM s;
                 END;",
                source("50 seconds", "")
            ),
        );
        weir.succeed(&["run", "p.sql"]);
        let out = weir.query("SELECT id, n FROM out ORDER BY id").join(" ");
        assert_eq!(out, "p1,1 p2,2 p3,3 p4,3 p5,5", "{batch} rows a micro-batch");
    }
}

/// Runs over three rows, then over two that are late and one that is not.
fn late(option: &str) -> (Weir, String) {
    let weir = Weir::new();
    weir.write(
        "in/1.jsonl",
        &["11:00:00", "11:20:00", "13:00:00"].map(|at| row(at, &format!("2026-11-30T{at}Z"))).concat(),
    );
    weir.write(
        "p.sql",
        &format!(
            "{} CREATE TABLE out (id STRING, n BIGINT) USING DELTA; CREATE TABLE minutes (w TIMESTAMP, n BIGINT) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now'{option}) AS BEGIN
               INSERT INTO out SELECT id, {LAST_HOUR} FROM s;
               INSERT INTO minutes SELECT window_start, count(*) FROM TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY window_start, window_end;
             END;",
            source("5 seconds", "")
        ),
    );
    weir.succeed(&["run", "p.sql"]);
    weir.write(
        "in/2.jsonl",
        &["11:25:00", "12:40:00", "13:10:00"].map(|at| row(at, &format!("2026-11-30T{at}Z"))).concat(),
    );
    weir.succeed(&["run", "p.sql"]);
    weir.write("in/3.jsonl", &row("end", "2026-11-30T15:00:00Z"));
    weir.succeed(&["run", "p.sql"]);
    let out = weir.query("SELECT id, n FROM out ORDER BY id").join(" ");
    (weir, out)
}

#[test]
fn late_rows_of_a_rolling_window_are_dropped_kept_or_given_as_the_pipeline_says() {
    let without = "11:00:00,1 11:20:00,2 13:00:00,1 13:10:00,2";
    let (_, out) = late("");
    assert_eq!(out, without);
    let (weir, out) = late(", late = 'dead_letter'");
    assert_eq!(out, without);
    let letters = "SELECT count(*) FROM weir.dead_letters WHERE reason LIKE '%older than the watermark%'";
    assert_eq!(weir.number(letters), 2, "one letter a record, though both branches find it late");
    // Rows more than an hour before the watermark are forgotten: 11:25 sees itself only. 12:40 counts for 13:00, which waited, and for 13:10.
    let (_, out) = late(", late = 'emit'");
    assert_eq!(out, "11:00:00,1 11:20:00,2 11:25:00,1 12:40:00,1 13:00:00,2 13:10:00,3");
}

#[test]
fn a_row_that_is_late_behind_operators_that_pass_rows_on_keeps_its_record_s_position() {
    let rows = |times: &[(&str, &str)]| -> String {
        times.iter().map(|(id, at)| row(id, &format!("2026-11-30T{at}Z"))).collect()
    };
    for view in [
        "SELECT * FROM DEDUPLICATE(TABLE s, KEY(id), WITHIN INTERVAL '1 day')",
        "SELECT id, ts, k, count(*) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM s",
        "SELECT x.id, x.ts, x.k FROM (SELECT * FROM DEDUPLICATE(TABLE s, KEY(id), WITHIN INTERVAL '1 day')) x LEFT JOIN dim d ON d.k = x.k",
    ] {
        let weir = Weir::new();
        weir.write("dim.jsonl", "{\"k\":\"a\",\"v\":1}\n");
        weir.write(
            "dim.sql",
            "CREATE SOURCE c (k STRING, v BIGINT) WITH (connector = 'file', path = 'dim.jsonl');
             CREATE TABLE dim (k STRING, v BIGINT) USING DELTA; INSERT INTO dim SELECT k, v FROM c;",
        );
        weir.succeed(&["run", "dim.sql", "--trigger", "available now"]);
        weir.write(
            "p.sql",
            &format!(
                "{} CREATE TABLE dim (k STRING, v BIGINT) USING DELTA;
                 CREATE VIEW once AS {view};
                 CREATE TABLE minutes (w TIMESTAMP, n BIGINT) USING DELTA;
                 CREATE PIPELINE p WITH (trigger = 'available now', late = 'dead_letter', rolling_emit = 'on_arrival') AS BEGIN
                   INSERT INTO minutes SELECT window_start, count(*) FROM TUMBLE(TABLE once, DESCRIPTOR(ts), INTERVAL '1 minute')
                     GROUP BY window_start, window_end;
                 END;",
                source("5 seconds", "")
            ),
        );
        weir.write("in/1.jsonl", &rows(&[("a", "11:00:00"), ("b", "13:00:00")]));
        weir.succeed(&["run", "p.sql"]);
        weir.write("in/2.jsonl", &rows(&[("c", "13:10:00"), ("d", "12:30:00"), ("e", "13:11:00"), ("f", "12:40:00")]));
        weir.succeed(&["run", "p.sql"]);
        let letters = weir
            .query("SELECT source, partition, \"offset\", CAST(payload AS STRING) FROM weir.dead_letters ORDER BY 3");
        let length = row("c", "2026-11-30T13:10:00Z").len();
        let expected = [("d", 1), ("f", 3)].map(|(id, place)| (id, place * length));
        assert_eq!(letters.len(), 2, "{view}: {letters:?}");
        for (letter, (id, offset)) in letters.iter().zip(expected) {
            assert!(letter.starts_with(&format!("s,2.jsonl,{offset},")), "{view}: {letter}");
            // The record's bytes, with a field that the row does not have.
            assert!(letter.contains(&format!("\"\"id\"\":\"\"{id}\"\"")), "{view}: {letter}");
        }
    }
}

#[test]
fn a_row_that_a_table_refuses_keeps_its_record_s_position() {
    let weir = Weir::new();
    let line = |id: i64, v: i64| format!("{{\"id\":{id},\"v\":{v}}}\n");
    weir.write("in/1.jsonl", &[line(1, 5), line(2, -5), line(3, 5), line(4, 70)].concat());
    weir.write(
        "p.sql",
        "CREATE SOURCE s (id BIGINT, v BIGINT) WITH (connector = 'file', path = 'in/*.jsonl');
         CREATE VIEW doubled AS SELECT id, v * 2 AS v FROM s WHERE id <> 1;
         CREATE TABLE plain (id BIGINT, v BIGINT, CHECK (v > 0)) USING DELTA;
         CREATE TABLE keyed (id BIGINT, v BIGINT, CHECK (v < 100), PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
         CREATE TABLE both_ways (id BIGINT, v BIGINT, CHECK (v <> -5 AND v <> 140)) USING DELTA;
         CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN
           INSERT INTO plain SELECT * FROM s;
           INSERT INTO keyed SELECT * FROM doubled;
           INSERT INTO both_ways SELECT * FROM s UNION ALL SELECT * FROM doubled;
         END;",
    );
    weir.succeed(&["run", "p.sql"]);
    let letters = weir.query("SELECT source, partition, \"offset\" FROM weir.dead_letters ORDER BY 1, 3");
    let offset = |rows: &[(i64, i64)]| rows.iter().map(|(id, v)| line(*id, *v).len()).sum::<usize>();
    let (second, fourth) = (offset(&[(1, 5)]), offset(&[(1, 5), (2, -5), (3, 5)]));
    let expected = [("both_ways", second), ("both_ways", fourth), ("keyed", fourth), ("plain", second)];
    assert_eq!(letters, expected.map(|(table, offset)| format!("{table},1.jsonl,{offset}")));
}

#[test]
fn rows_that_a_table_refuses_behind_operators_that_pass_them_on_have_the_positions_of_their_records() {
    let weir = Weir::new();
    weir.write("names.jsonl", "{\"k\":1,\"name\":\"one\"}\n{\"k\":1,\"name\":\"uno\"}\n{\"k\":2}\n");
    weir.write(
        "fill.sql",
        "CREATE SOURCE f (k BIGINT, name STRING) WITH (connector = 'file', path = 'names.jsonl', format = 'json');
         CREATE TABLE names (k BIGINT, name STRING) USING DELTA;
         CREATE PIPELINE fill WITH (trigger = 'available now') AS BEGIN INSERT INTO names SELECT * FROM f; END;",
    );
    weir.succeed(&["run", "fill.sql"]);
    let line = |id: i64, v: i64| format!("{{\"id\":{id},\"v\":{v},\"ts\":\"2026-11-30T11:00:{id:02}Z\"}}\n");
    let records: Vec<String> = (0..40).map(|id| line(id, if id % 10 == 7 { -1 } else { id % 3 })).collect();
    weir.write("in/1.jsonl", &records.concat());
    weir.write(
        "p.sql",
        "CREATE SOURCE s (id BIGINT, v BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in', format = 'json');
         CREATE TABLE names (k BIGINT, name STRING) USING DELTA;
         CREATE TABLE looked (id BIGINT, name STRING, CHECK (id % 10 <> 7 AND name <> 'uno')) USING DELTA;
         CREATE TABLE named (id BIGINT, name STRING NOT NULL) USING DELTA;
         CREATE TABLE once (id BIGINT, v BIGINT CHECK (v >= 0)) USING DELTA;
         CREATE TABLE summed (id BIGINT, v BIGINT, n BIGINT, CHECK (v >= 0)) USING DELTA;
         CREATE VIEW single AS SELECT * FROM DEDUPLICATE(TABLE s, DESCRIPTOR(ts), KEY(id), WITHIN INTERVAL '1 hour');
         CREATE PIPELINE p WITH (trigger = 'available now', rolling_emit = 'on_arrival') AS BEGIN
           INSERT INTO looked SELECT s.id, coalesce(names.name, 'none') AS name FROM s LEFT JOIN names ON names.k = s.v;
           INSERT INTO named SELECT s.id, names.name FROM s JOIN names ON names.k = s.v;
           INSERT INTO once SELECT id, v FROM single WHERE id > 3;
           INSERT INTO summed SELECT id, v, count(*) OVER (PARTITION BY v ORDER BY ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM single;
         END;",
    );
    weir.succeed(&["run", "p.sql"]);
    let offset = |id: usize| records[..id].iter().map(String::len).sum::<usize>();
    for (table, refused) in [
        ("looked", (0..40).filter(|id| id % 10 == 7 || id % 3 == 1).collect::<Vec<usize>>()),
        ("named", (0..40).filter(|id| id % 10 != 7 && id % 3 == 2).collect()),
        ("once", vec![7, 17, 27, 37]),
        ("summed", vec![7, 17, 27, 37]),
    ] {
        let letters = weir
            .query(&format!("SELECT partition, \"offset\" FROM weir.dead_letters WHERE source = '{table}' ORDER BY 2"));
        let expected: Vec<String> = refused.iter().map(|id| format!("1.jsonl,{}", offset(*id))).collect();
        assert_eq!(letters, expected, "{table}");
    }
}

#[test]
fn letters_of_late_rows_and_of_rows_that_cannot_be_computed_hold_key_and_bytes_of_their_records() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("letters-of-records", 1);
    let servers = kafka.connection().bootstrap_servers;
    let weir = Weir::new();
    weir.write(
        "p.sql",
        &format!(
            "CREATE SOURCE s (id BIGINT, q BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts)
               WITH (connector = 'kafka', bootstrap_servers = '{servers}', topic = 'letters-of-records', format = 'json');
             CREATE TABLE out (id BIGINT, r BIGINT) USING DELTA; CREATE TABLE minutes (w TIMESTAMP, n BIGINT) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now', late = 'dead_letter') AS BEGIN
               INSERT INTO out SELECT id, 10 / q FROM s;
               INSERT INTO minutes SELECT window_start, count(*) FROM TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1 minute')
                 GROUP BY window_start, window_end;
             END;"
        ),
    );
    // Spaces and a field without a column: bytes that no writer of ours would write.
    let record = |id: i64, q: i64, at: &str| {
        format!("{{ \"id\": {id}, \"q\": {q}, \"more\": true, \"ts\": \"2026-11-30T{at}Z\" }}")
    };
    let records = [record(0, 1, "11:00:00"), record(1, 0, "11:30:00"), record(2, 1, "12:00:00")];
    for (number, value) in records.iter().enumerate() {
        kafka.produce_keyed("letters-of-records", 0, &format!("k{number}"), [value]);
    }
    weir.succeed(&["run", "p.sql"]);
    let late = record(3, 1, "11:10:00");
    kafka.produce_keyed("letters-of-records", 0, "k3", [&late]);
    weir.succeed(&["run", "p.sql"]);
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let letters =
        weir.query("SELECT \"offset\", encode(key, 'hex'), encode(payload, 'hex') FROM weir.dead_letters ORDER BY 1");
    let expected = [(1, "k1", &records[1]), (3, "k3", &late)];
    assert_eq!(letters, expected.map(|(offset, key, value)| format!("{offset},{},{}", hex(key), hex(value))));
}

#[test]
fn a_row_dated_in_the_future_is_refused_and_time_goes_on() {
    let weir = Weir::new();
    let times = ["2026-11-30T11:00:01Z", "2026-11-30T11:00:02Z", "2062-01-01T00:00:00Z"];
    weir.write("in/1.jsonl", &times.map(|at| row(at, at)).concat());
    let pipeline = |options: &str| {
        format!(
            "{} CREATE TABLE out (id STRING, n BIGINT) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO out SELECT id, {LAST_HOUR} FROM s; END;",
            source("1 second", options)
        )
    };
    weir.write("p.sql", &pipeline(""));
    weir.succeed(&["run", "p.sql"]);
    let times = ["2026-11-30T11:00:03Z", "2026-11-30T11:00:04Z", "2026-11-30T12:00:00Z"];
    weir.write("in/2.jsonl", &times.map(|at| row(at, at)).concat());
    weir.succeed(&["run", "p.sql"]);
    let out = weir.query("SELECT n FROM out ORDER BY id").join(" ");
    assert_eq!(out, "1 2 3 4");
    let reason = weir.query("SELECT reason, \"offset\" FROM weir.dead_letters").join("\n");
    assert!(reason.contains("2062-01-01 00:00:00 is more than 1 day ahead of the clock (`max_future`)"), "{reason}");

    let weir = Weir::new();
    weir.write("in/1.jsonl", &row("far", "2062-01-01T00:00:00Z"));
    weir.write(
        "p.sql",
        &pipeline(", max_future = 'none'").replace("'available now'", "'available now', at_end = 'flush'"),
    );
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.number("SELECT count(*) FROM out"), 1);
}

#[test]
fn what_a_late_row_sees_on_arrival_hangs_on_the_rows_before_it_and_not_on_the_micro_batch() {
    // Seconds of the hour; frames of ten seconds. Several are late by the rows before them, some so late that they are forgotten at once.
    let seconds = [1, 12, 11, 3, 4, 12, 30, 21, 22, 5, 19, 6, 31, 24, 50, 41, 41, 39];
    let rows: Vec<String> =
        (0..).zip(seconds).map(|(id, at)| row(&format!("{id:02}"), &format!("2026-11-30T11:00:{at:02}Z"))).collect();
    let frame = "OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND CURRENT ROW)";
    let mut seen = Vec::new();
    for batch in [1, 2, 3, 7, 100] {
        let weir = Weir::new();
        weir.write("in/1.jsonl", &rows.concat());
        weir.write(
            "p.sql",
            &format!(
                "{} CREATE TABLE out (id STRING, n BIGINT, first STRING) USING DELTA;
                 CREATE PIPELINE p WITH (trigger = 'available now', rolling_emit = 'on_arrival', max_rows_per_micro_batch = '{batch}') AS BEGIN
                   INSERT INTO out SELECT id, count(*) {frame}, min(id) {frame} FROM s;
                 END;",
                source("0 seconds", "")
            ),
        );
        weir.succeed(&["run", "p.sql"]);
        seen.push(weir.query("SELECT id, n, first FROM out ORDER BY id").join(" "));
    }
    // 12 has moved the watermark when 11 comes: what is older than 2 is forgotten.
    assert!(seen[0].starts_with("00,1,00 01,1,01 02,1,02 03,1,03"), "{}", seen[0]);
    assert!(seen.iter().all(|other| *other == seen[0]), "{seen:#?}");
}
