//! File and Delta sources over inputs that lie side by side, and over the forms in which other programs write files.

use std::collections::BTreeMap;

use crate::program::Weir;

const WINDOWS: &str = "CREATE TABLE win (d BIGINT, window_start TIMESTAMP, n BIGINT) USING DELTA;
CREATE PIPELINE p WITH (trigger = 'available now', at_end = 'flush', max_rows_per_micro_batch = 500) AS BEGIN
  INSERT INTO win SELECT d, window_start, count(*) AS n FROM TUMBLE(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute')
  GROUP BY d, window_start, window_end;
END;
";

/// 3,000 rows of one device over an hour, in order.
fn device(number: usize) -> String {
    let line = |row: usize| {
        let ms = row * 3_600_000 / 3_000;
        let (minute, second, ms) = (ms / 60_000, ms / 1_000 % 60, ms % 1_000);
        format!("{{\"d\":{number},\"ts\":\"2024-01-01T00:{minute:02}:{second:02}.{ms:03}Z\"}}\n")
    };
    (0..3_000).map(line).collect()
}

fn counted(weir: &Weir) -> BTreeMap<String, String> {
    let rows = weir.query("SELECT d, sum(n) FROM win GROUP BY d");
    rows.iter().filter_map(|row| row.split_once(',')).map(|(d, n)| (d.to_owned(), n.to_owned())).collect()
}

fn every_row_once() -> BTreeMap<String, String> {
    (0..3).map(|d| (d.to_string(), "3000".to_owned())).collect()
}

#[test]
fn files_side_by_side_have_no_late_rows() {
    for option in ["", ", max_drift = '2 minutes'"] {
        let weir = Weir::new();
        (0..3).for_each(|d| weir.write(&format!("in/device-{d}.jsonl"), &device(d)));
        let source = format!(
            "CREATE SOURCE e (d BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 minute')
             WITH (connector = 'file', path = 'in', format = 'json'{option});"
        );
        weir.write("p.sql", &format!("{source}\n{WINDOWS}"));
        weir.succeed(&["run", "p.sql"]);
        assert_eq!(counted(&weir), every_row_once(), "{option}");
    }
}

#[test]
fn files_of_a_table_side_by_side_have_no_late_rows() {
    let weir = Weir::new();
    (0..3).for_each(|d| weir.write(&format!("in/device-{d}.jsonl"), &device(d)));
    weir.write(
        "fill.sql",
        "CREATE SOURCE f (d BIGINT, ts TIMESTAMP) WITH (connector = 'file', path = 'in', format = 'json');
         CREATE TABLE devices (d BIGINT, ts TIMESTAMP) USING DELTA PARTITIONED BY (d);
         CREATE PIPELINE fill WITH (trigger = 'available now') AS BEGIN INSERT INTO devices SELECT * FROM f; END;",
    );
    weir.succeed(&["run", "fill.sql"]);
    let source = "CREATE SOURCE e (d BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 minute')
         WITH (connector = 'delta', path = 'warehouse/devices');";
    weir.write("p.sql", &format!("{source}\n{WINDOWS}"));
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(counted(&weir), every_row_once());
}

#[test]
fn csv_is_read_as_spreadsheets_and_other_programs_write_it() {
    let weir = Weir::new();
    weir.write("in/a.csv", "+5;'a;''b''\n;c';.5;NA;1700000000\n007;'';1.;7;1700000001.5\n-0;NA;-2.25;;\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE e (id BIGINT, s STRING, d DECIMAL(9, 3), n INT, t TIMESTAMP) WITH (connector = 'file', path = 'in/a.csv',
           delimiter = ';', quote = '''', header = 'false', null = 'NA', timestamp_unit = 'seconds');
         CREATE TABLE o (id BIGINT, s STRING, d DECIMAL(9, 3), n INT, t TIMESTAMP) USING DELTA;
         INSERT INTO o SELECT * FROM e;",
    );
    weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    let found = weir.query("SELECT id, replace(s, chr(10), '|'), d, n, arrow_cast(t, 'Int64') FROM o ORDER BY id");
    assert_eq!(found, ["0,,-2.250,,", "5,a;'b'|;c,0.500,,1700000000000000", "7,\"\",1.000,7,1700000001500000"]);
}

#[test]
fn a_header_without_any_declared_column_is_an_error() {
    let weir = Weir::new();
    weir.write("in/a.csv", "key;value\n1;2\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE e (key BIGINT, value BIGINT) WITH (connector = 'file', path = 'in/a.csv');
         CREATE TABLE o (key BIGINT) USING DELTA;
         INSERT INTO o SELECT key FROM e;",
    );
    let output = weir.run(&["run", "p.sql", "--trigger", "available now"]);
    assert!(!output.status.success());
    let printed = crate::program::text(&output.stderr);
    assert!(printed.contains("no column of source `e` is in the header of a file"), "{printed}");
}

#[test]
fn numbers_that_look_like_seconds_are_warned_of_where_milliseconds_are_read() {
    let weir = Weir::new();
    weir.write("in/a.jsonl", "{\"id\":1,\"t\":1700000000}\n{\"id\":2,\"t\":1700000000000}\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE e (id BIGINT, t TIMESTAMP) WITH (connector = 'file', path = 'in', format = 'json');
         CREATE TABLE o (id BIGINT, t TIMESTAMP) USING DELTA;
         INSERT INTO o SELECT * FROM e;",
    );
    let output = weir.run(&["run", "p.sql", "--trigger", "available now"]);
    let printed = crate::program::text(&output.stderr) + &crate::program::text(&output.stdout);
    assert!(output.status.success() && printed.contains("timestamp_unit = 'seconds'"), "{printed}");
}
