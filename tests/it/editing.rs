//! Pipelines that are edited, and runs that follow one another: new operators filled from a table, begun empty, and what a run over
//! what is there now leaves for the next.

use std::collections::BTreeSet;

use crate::program::{Weir, text};
use crate::stateful_crash::{PER_FILE, TO_THE_END, event_of, line};

const SOURCE: &str = "
CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v DOUBLE, ts TIMESTAMP, METADATA_COLUMNS
  WATERMARK FOR ts AS ts - INTERVAL '10 seconds')
  WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
";

const TABLES: &str = "
CREATE TABLE history (id BIGINT, k BIGINT, v DOUBLE, ts TIMESTAMP) USING DELTA;
CREATE TABLE firsts (id BIGINT, k BIGINT, ts TIMESTAMP, twice DOUBLE) USING DELTA;
CREATE TABLE rolled (id BIGINT, k BIGINT, ts TIMESTAMP, n BIGINT, total DOUBLE) USING DELTA;
CREATE TABLE deep (id BIGINT, k BIGINT, ts TIMESTAMP, n BIGINT, total DOUBLE) USING DELTA;
CREATE TABLE minutes (k BIGINT, window_start TIMESTAMP, n BIGINT, total DOUBLE) USING DELTA;
CREATE TABLE per_key (k BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE TABLE pairs (id BIGINT, other BIGINT) USING DELTA;
CREATE VIEW unique_events AS SELECT * FROM DEDUPLICATE(TABLE events, KEY(id), WITHIN INTERVAL '1 hour');
";

const HISTORY: &str = "INSERT INTO history SELECT id, k, v, ts FROM events;";
const FIRSTS: &str = "INSERT INTO firsts SELECT id, k, ts, 2 * v AS twice FROM unique_events;";
const ROLLED: &str = "INSERT INTO rolled SELECT id, k, ts, count(*) OVER w AS n, sum(v) OVER w AS total FROM events
    WINDOW w AS (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '5 minutes' PRECEDING AND CURRENT ROW);";
const DEEP: &str = "INSERT INTO deep SELECT id, k, ts, count(*) OVER w AS n, sum(v) OVER w AS total FROM unique_events
    WINDOW w AS (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '3 minutes' PRECEDING AND CURRENT ROW);";
const MINUTES: &str = "INSERT INTO minutes SELECT k, window_start, count(*) AS n, sum(v) AS total
    FROM TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY k, window_start, window_end;";
const PER_KEY: &str = "INSERT INTO per_key SELECT k, count(*) AS n FROM events GROUP BY k;";

/// Rows of the new windows.
const OUTPUTS: [&str; 3] = [
    "SELECT id, k, ts, n, total FROM rolled",
    "SELECT id, k, ts, n, total FROM deep",
    "SELECT k, window_start, n, total FROM minutes",
];

struct Edited {
    weir: Weir,
    lanes: usize,
}

impl Edited {
    fn new(lanes: usize) -> Self {
        Self { weir: Weir::new(), lanes }
    }

    fn sql(&self, options: &str, inserts: &[&str]) -> String {
        let options = format!("max_rows_per_micro_batch = 200, parallelism = '{}'{options}", self.lanes);
        let inserts = inserts.join("\n  ");
        let source = SOURCE.replace("METADATA_COLUMNS", "");
        format!("{source}{TABLES}CREATE PIPELINE p WITH ({options}) AS BEGIN\n  {inserts}\nEND;\n")
    }

    fn write(&self, options: &str, inserts: &[&str]) {
        self.weir.write("p.sql", &self.sql(options, inserts));
    }

    fn add(&self, files: std::ops::Range<u64>) {
        add(&self.weir, files);
    }

    fn outputs(&self) -> [BTreeSet<String>; 3] {
        OUTPUTS.map(|sql| self.weir.query(sql).into_iter().collect())
    }

    /// The message of a start that refuses.
    fn refused(&self, options: &str, inserts: &[&str]) -> String {
        self.write(options, inserts);
        refused(&self.weir)
    }
}

fn add(weir: &Weir, files: std::ops::Range<u64>) {
    for file in files {
        let lines: String = (file * PER_FILE..(file + 1) * PER_FILE).map(|n| line(event_of(n))).collect();
        weir.write(&format!("in/{file:06}.jsonl"), &lines);
    }
}

fn refused(weir: &Weir) -> String {
    let output = weir.run(&TO_THE_END);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    errors
}

/// Rows of a pipeline that has had the new windows from the beginning, after `files` of the input.
fn from_the_beginning(inserts: &[&str], files: u64, all: u64) -> [BTreeSet<String>; 3] {
    let reference = Edited::new(1);
    reference.write("", inserts);
    reference.add(0..files);
    reference.weir.succeed(&TO_THE_END);
    let before = reference.outputs();
    reference.add(files..all);
    reference.weir.succeed(&TO_THE_END);
    let after = reference.outputs();
    let new = [0, 1, 2].map(|table: usize| after[table].difference(&before[table]).cloned().collect());
    assert!(new.iter().all(|rows: &BTreeSet<String>| rows.len() > 30), "{new:?}");
    new
}

#[test]
fn windows_seeded_from_a_table_give_what_they_would_had_they_been_there_from_the_beginning() {
    let new = [HISTORY, FIRSTS, ROLLED, DEEP, MINUTES];
    let wanted = from_the_beginning(&new, 9, 12);
    for lanes in [1, 3] {
        let edited = Edited::new(lanes);
        edited.write("", &[HISTORY, FIRSTS]);
        edited.add(0..9);
        edited.weir.succeed(&TO_THE_END);
        // The same with and without the option, for operators that are kept: nothing is lost.
        edited.write(", seed_from = 'history'", &new);
        let checked = edited.weir.succeed(&["check", "p.sql", "--against-state"]);
        assert_eq!(checked.matches("is filled from table history").count(), 3, "{checked}");
        let output = edited.weir.run(&TO_THE_END);
        let log = text(&output.stderr);
        assert!(output.status.success() && log.contains("memory filled from the table"), "{log}");
        let epoch = edited.weir.number("SELECT max(epoch) FROM weir.progress");
        // Seeded once, and remembered although nothing was read since.
        let output = edited.weir.run(&TO_THE_END);
        let log = text(&output.stderr);
        assert!(output.status.success() && !log.contains("memory filled from the table"), "{log}");
        assert_eq!(edited.weir.number("SELECT max(epoch) FROM weir.progress"), epoch);
        assert!(edited.outputs().iter().all(BTreeSet::is_empty), "{lanes} lanes: what has passed comes out again");
        edited.add(9..12);
        edited.weir.succeed(&TO_THE_END);
        for (table, (got, wanted)) in edited.outputs().iter().zip(&wanted).enumerate() {
            assert_eq!(got, wanted, "{lanes} lanes, {}", OUTPUTS[table]);
        }
    }
}

#[test]
fn history_that_runs_ahead_of_the_stream_is_not_counted_twice() {
    let wanted = from_the_beginning(&[FIRSTS, ROLLED, DEEP, MINUTES], 8, 12);
    let with_positions = |edited: &Edited, options: &str, inserts: &[&str]| {
        let sql = edited.sql(options, inserts).replace("id BIGINT NOT NULL, k BIGINT, v DOUBLE, ts TIMESTAMP, ", "");
        let columns = "CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v DOUBLE, ts TIMESTAMP,
          file STRING METADATA FROM 'topic', place BIGINT METADATA FROM 'offset',";
        let history = "CREATE TABLE history (id BIGINT, k BIGINT, v DOUBLE, ts TIMESTAMP, file STRING, place BIGINT)";
        // A view that is read more than once has all its columns, and an operator on other columns is another operator.
        sql.replace("CREATE SOURCE events (", columns)
            .replace("AS SELECT * FROM DEDUPLICATE", "AS SELECT id, k, v, ts FROM DEDUPLICATE")
            .replace("CREATE TABLE history (id BIGINT, k BIGINT, v DOUBLE, ts TIMESTAMP)", history)
    };
    let edited = Edited::new(2);
    edited.weir.write("p.sql", &with_positions(&edited, "", &[FIRSTS]));
    edited.add(0..8);
    edited.weir.succeed(&TO_THE_END);
    // Another pipeline has kept the history, and is ahead.
    edited.add(8..12);
    let other = with_positions(&edited, "", &["INSERT INTO history SELECT * FROM events;"]);
    edited.weir.write("q.sql", &other.replace("CREATE PIPELINE p", "CREATE PIPELINE q"));
    edited.weir.succeed(&["run", "q.sql", "--trigger", "available now"]);
    edited.weir.write("p.sql", &with_positions(&edited, ", seed_from = 'history'", &[FIRSTS, ROLLED, DEEP, MINUTES]));
    edited.weir.succeed(&TO_THE_END);
    for (table, (got, wanted)) in edited.outputs().iter().zip(&wanted).enumerate() {
        assert_eq!(got, wanted, "{}", OUTPUTS[table]);
    }
}

#[test]
fn a_table_that_cannot_stand_for_the_stream_is_refused_with_the_remedy() {
    let edited = Edited::new(2);
    edited.write("", &[HISTORY, FIRSTS, DEEP]);
    edited.add(0..3);
    edited.weir.succeed(&TO_THE_END);
    let kept = [HISTORY, FIRSTS, DEEP];
    let with = |insert| [kept.as_slice(), &[insert]].concat();
    let claims = [
        // Another table's rows have no known relation to what was read.
        (
            ", seed_from = 'rolled'",
            ROLLED,
            "of table `rolled` end and those still to be read begin is not known",
            "METADATA columns",
        ),
        // Written behind an operator that holds rows back.
        (
            ", seed_from = 'deep'",
            MINUTES,
            "`deep` does not have all rows that pipeline `p` has read",
            "straight from the source",
        ),
        (", seed_from = 'firsts'", ROLLED, "`firsts` cannot stand for source `events`", "It has no column `v`."),
        (", seed_from = 'history'", PER_KEY, "cannot be filled by `seed_from`", "another name"),
    ];
    for (options, insert, message, remedy) in claims {
        let errors = edited.refused(options, &with(insert));
        assert!(errors.contains(message) && errors.contains(remedy), "{insert}: {errors}");
        assert!(errors.contains("seed_from"), "{insert}: {errors}");
        let checked = edited.weir.run(&["check", "p.sql", "--against-state"]);
        let (told, errors) = (text(&checked.stdout), text(&checked.stderr));
        assert!(errors.contains(message) && errors.contains(remedy), "{insert}: {errors}");
        assert!(!told.contains("is filled"), "{insert}: {told}");
    }

    // Two sources.
    let joined = "INSERT INTO pairs SELECT a.id, b.id AS other FROM events a JOIN others b
      ON a.k = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '1 second';";
    let others = SOURCE.replace("METADATA_COLUMNS", "").replace("SOURCE events", "SOURCE others");
    let sql = format!("{others}{}", edited.sql(", seed_from = 'history'", &with(joined)));
    edited.weir.write("p.sql", &sql);
    let errors = refused(&edited.weir);
    assert!(errors.contains("`events`, `others`") && errors.contains("fills those of one source"), "{errors}");

    // With leave to begin empty it begins empty, and says why it was not filled.
    edited.write(", seed_from = 'history'", &with(PER_KEY));
    let output = edited.weir.run(&[TO_THE_END.as_slice(), &["--allow-rebuild"]].concat());
    let log = text(&output.stderr);
    assert!(output.status.success() && log.contains("memory is not filled") && log.contains("begins empty"), "{log}");
}

#[test]
fn a_rebuild_is_recorded_though_nothing_comes_to_read_and_says_what_begins_empty() {
    let edited = Edited::new(2);
    edited.write("", &[FIRSTS, MINUTES]);
    edited.add(0..3);
    edited.weir.succeed(&TO_THE_END);
    let before = edited.sql("", &[FIRSTS, MINUTES]);
    // One operator goes, two come.
    edited.write("", &[FIRSTS, ROLLED, PER_KEY]);
    let checked = text(&edited.weir.run(&["check", "p.sql", "--against-state"]).stdout);
    assert!(
        checked.contains("would begin empty: frames that reach back before now will lack the rows read before"),
        "{checked}"
    );
    edited.weir.write("old.sql", &before);
    let explained = edited.weir.succeed(&["explain", "p.sql", "--migration", "old.sql"]);
    assert!(explained.contains("groups count only the rows that come from now on"), "{explained}");
    let rebuilding = [TO_THE_END.as_slice(), &["--allow-rebuild"]].concat();
    let output = edited.weir.run(&rebuilding);
    let log = text(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert_eq!(log.matches("begins empty: ").count(), 2, "{log}");
    assert!(log.contains("2026-01-01T00:01:"), "the moment is named: {log}");
    edited.weir.succeed(&["check", "p.sql", "--against-state"]);
    // And it stays: the next run needs no leave and commits nothing.
    let epoch = edited.weir.number("SELECT max(epoch) FROM weir.progress");
    edited.weir.succeed(&TO_THE_END);
    assert_eq!(edited.weir.number("SELECT max(epoch) FROM weir.progress"), epoch);
}

#[test]
fn scheduled_runs_over_what_is_there_lose_no_row_at_their_seams() {
    let edited = Edited::new(2);
    let inserts = [FIRSTS, ROLLED, DEEP, MINUTES];
    edited.write("", &inserts);
    for run in 0..5 {
        edited.add(run * 2..run * 2 + 2);
        edited.weir.succeed(&TO_THE_END);
        let verdict = edited.weir.succeed(&["verify", "p.sql"]);
        assert_eq!(verdict.matches("  ok  ").count(), 4, "run {run}: {verdict}");
    }
    let late = edited.weir.number("SELECT max(late_rows) FROM weir.state");
    assert_eq!(late, 0, "rows came too late");
    // The last run, told that nothing more comes, lets the rest out.
    edited.write(", at_end = 'flush'", &inserts);
    edited.weir.succeed(&TO_THE_END);
    let verdict = edited.weir.succeed(&["verify", "p.sql"]);
    assert_eq!(verdict.matches("  ok  ").count(), 4, "{verdict}");
    assert_eq!(verdict.matches(" 0 not due yet").count(), 4, "{verdict}");
    assert_eq!(edited.weir.number("SELECT sum(n) FROM minutes"), 10 * PER_FILE as i64);

    // Told so, it does not take more in silence.
    edited.weir.succeed(&TO_THE_END);
    edited.add(10..12);
    let errors = refused(&edited.weir);
    assert!(errors.contains("was told that its input had ended, and source `events` has more"), "{errors}");
    assert_eq!(edited.weir.number("SELECT sum(n) FROM minutes"), 10 * PER_FILE as i64);
    edited.write("", &inserts);
    assert!(refused(&edited.weir).contains("--allow-rebuild"));
    edited.weir.succeed(&[TO_THE_END.as_slice(), &["--allow-rebuild"]].concat());
    edited.add(12..18);
    edited.weir.succeed(&TO_THE_END);
    let windows = "SELECT count(*), count(DISTINCT k || ' ' || window_start) FROM minutes WHERE window_start > '2026-01-01T00:06:00'";
    let counts = edited.weir.query(windows);
    let (all, distinct) = counts[0].split_once(',').unwrap();
    assert!(all == distinct && all.parse::<u64>().unwrap() > 0, "{counts:?}");
}

#[test]
fn an_operator_over_a_source_that_is_new_begins_without_leave() {
    let edited = Edited::new(2);
    edited.write("", &[HISTORY, FIRSTS]);
    edited.add(0..3);
    edited.weir.succeed(&TO_THE_END);
    let others =
        SOURCE.replace("METADATA_COLUMNS", "").replace("SOURCE events", "SOURCE others").replace("in/", "more/");
    let joined = "INSERT INTO pairs SELECT a.id, b.id AS other FROM others a JOIN others b
      ON a.id = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '1 hour';";
    let sql =
        format!("{others}{}", edited.sql(", seed_from = 'history', at_end = 'flush'", &[HISTORY, FIRSTS, joined]));
    edited.weir.write("p.sql", &sql);
    let checked = edited.weir.succeed(&["check", "p.sql", "--against-state"]);
    assert!(checked.contains("begin    interval_join"), "{checked}");
    let lines: String = (0..200).map(line).collect();
    edited.weir.write("more/0.jsonl", &lines);
    edited.weir.succeed(&TO_THE_END);
    assert!(edited.weir.number("SELECT count(*) FROM pairs") > 100);
}

#[test]
fn columns_that_only_pass_through_may_come_and_go() {
    let pipeline = |emit: &str, source: &str, table: &str, columns: &str| {
        format!(
            "CREATE SOURCE events ({source} ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '10 seconds')
               WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
             CREATE TABLE narrow (id BIGINT, k BIGINT, ts TIMESTAMP, n BIGINT, total DOUBLE) USING DELTA;
             CREATE TABLE wide (id BIGINT, k BIGINT, ts TIMESTAMP, n BIGINT, total DOUBLE, note STRING, size INT) USING DELTA;
             CREATE VIEW firsts AS SELECT * FROM DEDUPLICATE(TABLE events, KEY(id), WITHIN INTERVAL '1 hour');
             CREATE PIPELINE p WITH (rolling_emit = '{emit}', max_rows_per_micro_batch = 200, parallelism = '2') AS BEGIN
               INSERT INTO {table} SELECT id, k, ts, count(*) OVER w AS n, sum(v) FILTER (WHERE v > 0) OVER w AS total{columns}
               FROM firsts WHERE k <> 3
               WINDOW w AS (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '5 minutes' PRECEDING AND CURRENT ROW);
             END;"
        )
    };
    let narrow = |emit| pipeline(emit, "id BIGINT NOT NULL, k BIGINT, v DOUBLE,", "narrow", "");
    // In the source, through both operators, and in another order.
    let source = "note STRING, v DOUBLE, size INT, id BIGINT NOT NULL, k BIGINT,";
    let wide = |emit| pipeline(emit, source, "wide", ", note, size");
    let edited = Edited::new(1);
    edited.weir.write("p.sql", &narrow("on_arrival"));
    // On arrival the order counts, and files are read side by side: one file that grows.
    let feed = |into: &Edited, end: u64| {
        let lines: String = (0..end * PER_FILE).map(|n| line(event_of(n))).collect();
        into.weir.write("in/0.jsonl", &lines);
        into.weir.succeed(&TO_THE_END);
    };
    feed(&edited, 6);
    edited.weir.write("p.sql", &wide("on_arrival"));
    let checked = edited.weir.succeed(&["check", "p.sql", "--against-state"]);
    assert_eq!(checked.matches("keep  ").count(), 2, "{checked}");
    feed(&edited, 10);

    let whole = Edited::new(1);
    whole.weir.write("p.sql", &narrow("on_arrival"));
    feed(&whole, 10);
    let rows = |edited: &Edited, table: &str| edited.weir.query(&format!("SELECT id, k, ts, n, total FROM {table}"));
    let both: BTreeSet<String> = ["narrow", "wide"].iter().flat_map(|table| rows(&edited, table)).collect();
    let expected: BTreeSet<String> = rows(&whole, "narrow").into_iter().collect();
    let (missing, surplus) = (expected.difference(&both).take(5), both.difference(&expected).take(5));
    assert!(both == expected, "missing {:?}, too many {:?}", missing.collect::<Vec<_>>(), surplus.collect::<Vec<_>>());

    // Rows that wait for their time are remembered whole: then the columns matter.
    let waiting = Edited::new(1);
    waiting.weir.write("p.sql", &narrow("on_watermark"));
    waiting.add(0..2);
    waiting.weir.succeed(&TO_THE_END);
    waiting.weir.write("p.sql", &wide("on_watermark"));
    let checked = text(&waiting.weir.run(&["check", "p.sql", "--against-state"]).stdout);
    assert_eq!(checked.matches("keep  ").count(), 1, "{checked}");
}

#[test]
fn the_check_opens_the_tables_that_the_pipeline_writes_as_a_run_does() {
    let weir = crate::program::Weir::new();
    let source = "CREATE SOURCE e (id BIGINT, v BIGINT) WITH (connector = 'file', path = 'in.jsonl');";
    let sql = |columns: &str, selected: &str| {
        format!(
            "{source} CREATE TABLE o {columns} USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO o SELECT {selected} FROM e; END;"
        )
    };
    weir.write("in.jsonl", "{\"id\":1,\"v\":2}\n");
    weir.write("p.sql", &sql("(id BIGINT)", "id"));
    weir.succeed(&["run", "p.sql"]);
    for (columns, selected, message, remedy) in [
        ("(id BIGINT, v BIGINT)", "id, v", "The table has no column `v`.", "add_columns"),
        ("(id STRING)", "CAST(id AS STRING) AS id", "Column `id` has type Int64, not Utf8.", "Declare the columns"),
    ] {
        weir.write("p.sql", &sql(columns, selected));
        for arguments in [&["run", "p.sql"][..], &["check", "p.sql", "--against-state"]] {
            let output = weir.run(arguments);
            let errors = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
            assert!(errors.contains(message) && errors.contains(remedy), "{arguments:?}: {errors}");
        }
    }
    // Without columns they are the table's: what does not fit is found by any check.
    weir.write("p.sql", &sql("", "id"));
    weir.succeed(&["check", "p.sql"]);
    weir.succeed(&["check", "p.sql", "--against-state"]);
    weir.succeed(&["run", "p.sql"]);
    weir.write("p.sql", &sql("", "id, v AS w"));
    for arguments in [&["run", "p.sql"][..], &["check", "p.sql"]] {
        let errors = text(&weir.run(arguments).stderr);
        assert!(errors.contains("`o` has no column `w`"), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_table_without_columns_that_a_stream_is_joined_to_is_asked_by_the_check() {
    let weir = crate::program::Weir::new();
    weir.write("in.jsonl", "{\"id\":1,\"name\":\"a\"}\n");
    let source = "CREATE SOURCE e (id BIGINT, name STRING) WITH (connector = 'file', path = 'in.jsonl');";
    weir.write(
        "fill.sql",
        &format!(
            "{source} CREATE TABLE merchants (id BIGINT, name STRING) USING DELTA LOCATION './elsewhere';
             CREATE PIPELINE f WITH (trigger = 'available now') AS BEGIN INSERT INTO merchants SELECT id, name FROM e; END;"
        ),
    );
    weir.succeed(&["run", "fill.sql"]);
    weir.write(
        "p.sql",
        &format!(
            "{source} CREATE TABLE merchants USING DELTA LOCATION './elsewhere';
             CREATE TABLE o (id BIGINT, merchant STRING) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN
               INSERT INTO o SELECT e.id, m.name AS merchant FROM e JOIN merchants m ON m.id = e.id;
             END;"
        ),
    );
    for arguments in
        [&["check", "p.sql"][..], &["explain", "p.sql"], &["check", "p.sql", "--against-state"], &["run", "p.sql"]]
    {
        weir.succeed(arguments);
    }
    assert_eq!(weir.query("SELECT id, merchant FROM o"), ["1,a"]);
}
