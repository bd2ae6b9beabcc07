//! Statements in SQL files, and the questions that `weir query` answers about files, by the real program.

use std::io::Read;
use std::process::Stdio;

use crate::program::{Weir, text};

const PIPELINE: &str = "
CREATE SOURCE clicks (id BIGINT, name STRING) WITH (connector = 'file', path = 'in.jsonl');
CREATE TABLE kept (id BIGINT, name STRING);
INSERT INTO kept SELECT * FROM clicks;
";

fn with_pipeline(statements: &str) -> Weir {
    let weir = Weir::new();
    weir.write("in.jsonl", "{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":\"b\"}\n");
    weir.write("clicks.sql", &format!("{PIPELINE}{statements}"));
    weir
}

#[test]
fn run_answers_the_statements_of_a_file_in_order_before_its_pipelines() {
    let weir = with_pipeline(
        "SELECT count(*) AS before FROM kept; SHOW SOURCES; DESCRIBE kept;
         EXPLAIN INSERT INTO kept SELECT * FROM clicks; VERIFY PIPELINE clicks; EXPLAIN MIGRATION;",
    );
    let run = ["run", "clicks.sql", "--trigger", "available now", "--log", "text"];
    let first = weir.succeed(&run);
    let places: Vec<_> =
        ["before", "in.jsonl", "column_name", "insert into kept", "has not run yet", "migration of clicks"]
            .iter()
            .map(|shown| first.find(shown).unwrap_or_else(|| panic!("{shown}: {first}")))
            .collect();
    assert!(places.is_sorted(), "{first}");
    assert_eq!(weir.number("SELECT count(*) FROM kept"), 2);
    let again = weir.succeed(&run);
    assert!(again.contains("ok    kept  2 rows streamed, 2 in batch"), "{again}");
    assert!(again.lines().any(|line| line.trim() == "2"), "the count of the first run: {again}");
}

#[test]
fn a_file_of_statements_alone_is_answered_and_done() {
    let weir = with_pipeline("");
    weir.succeed(&["run", "clicks.sql", "--trigger", "available now"]);
    weir.write("ask.sql", "SELECT name FROM kept ORDER BY name DESC LIMIT 1;");
    assert!(weir.succeed(&["run", "ask.sql", "--log", "json"]).contains("{\"name\":\"b\"}"));
    weir.write("nothing.sql", "CREATE TABLE kept (id BIGINT);");
    let output = weir.run(&["run", "nothing.sql"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing to run"));
}

#[test]
fn a_wrong_statement_stops_run_check_and_explain_alike_and_nothing_is_made() {
    let weir = with_pipeline("SELECT nmae FROM kept;\nINSERT INTO kept SELECT id, nme FROM clicks;\nDESCRIBE nobody;");
    for command in ["run", "check", "explain"] {
        let output = weir.run(&[command, "clicks.sql"]);
        let printed = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {printed}");
        for wrong in
            ["column `nmae` does not exist", "unknown column `nme`", "object `nobody` does not exist", "3 errors"]
        {
            assert!(printed.contains(wrong), "{command}: {printed}");
        }
    }
    assert!(!weir.path("warehouse").exists());
}

#[test]
fn explain_answers_the_explains_of_a_file() {
    let weir = with_pipeline("EXPLAIN SELECT upper(name) AS loud FROM clicks; SELECT count(*) AS silent FROM kept;");
    let printed = weir.succeed(&["explain", "clicks.sql"]);
    assert!(printed.contains("pipeline clicks") && printed.contains("insert into the reader"), "{printed}");
    assert!(!printed.contains("silent"), "only EXPLAIN is answered: {printed}");
}

#[test]
fn a_filter_over_a_rolling_window_spares_the_rows_that_it_leaves_out_and_no_others() {
    let weir = Weir::new();
    let window =
        "count(*) OVER (PARTITION BY user_id ORDER BY ts RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)";
    weir.write(
        "counts.sql",
        &format!(
            "CREATE SOURCE t (WATERMARK FOR ts AS ts) WITH (connector = 'generator', days = '3', customers = '20', terminals = '40');
             CREATE TABLE counts (id STRING, n BIGINT) USING DELTA;
             CREATE TABLE some_counts (id STRING, n BIGINT) USING DELTA;
             CREATE PIPELINE all_rows AS BEGIN INSERT INTO counts SELECT transaction_id, {window} FROM t; END;
             CREATE PIPELINE some_rows AS BEGIN
               INSERT INTO some_counts
               SELECT transaction_id, n FROM (SELECT transaction_id, amount, {window} AS n FROM t) WHERE amount > 50 AND n > 1;
             END;",
        ),
    );
    let explained = weir.succeed(&["explain", "counts.sql"]);
    let shows: Vec<_> = explained.lines().filter(|line| line.trim_start().starts_with("shows")).collect();
    assert_eq!(shows.len(), 1, "{explained}");
    assert!(shows[0].contains("rows where amount@") && !shows[0].contains("> 1;"), "{shows:?}");
    weir.succeed(&["run", "counts.sql", "--trigger", "available now"]);
    let some = weir.number("SELECT count(*) FROM some_counts");
    assert!(0 < some && some < weir.number("SELECT count(*) FROM counts WHERE n > 1"));
    assert_eq!(weir.number("SELECT count(*) FROM some_counts s JOIN counts c USING (id) WHERE s.n = c.n"), some);
}

#[test]
fn what_one_filter_asks_of_its_window_is_asked_of_no_other() {
    let weir = Weir::new();
    let window =
        "count(*) OVER (PARTITION BY user_id ORDER BY ts RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)";
    let inserts: String = (0..20)
        .map(|insert| {
            let filter = if insert % 2 == 0 { "WHERE amount > 50" } else { "" };
            format!("INSERT INTO counts SELECT transaction_id, n FROM (SELECT *, {window} AS n FROM t) {filter};")
        })
        .collect();
    weir.write(
        "counts.sql",
        &format!(
            "CREATE SOURCE t (WATERMARK FOR ts AS ts) WITH (connector = 'generator', days = '3', customers = '20', terminals = '40');
             CREATE TABLE counts (id STRING, n BIGINT) USING DELTA;
             CREATE PIPELINE p AS BEGIN {inserts} END;",
        ),
    );
    let explained = weir.succeed(&["explain", "counts.sql"]);
    let begins = |with: &str| explained.lines().filter(|line| line.trim_start().starts_with(with)).count();
    assert_eq!((begins("operator rolling"), begins("shows")), (20, 10), "{explained}");
}

#[test]
fn query_knows_the_files_it_is_given_and_shows_errors_at_their_place() {
    let weir = with_pipeline("");
    let shown = weir.succeed(&["query", "--file", "clicks.sql", "--format", "csv", "SHOW SOURCES"]);
    assert!(shown.contains("clicks,file,in.jsonl"), "{shown}");
    let output = weir.run(&["query", "SELECT 1 +\n  nobody"]);
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stderr);
    assert!(printed.contains("--> statement:2:3") && printed.contains("^^^^^^"), "{printed}");
}

#[test]
fn a_reader_that_goes_away_ends_a_printing_command_quietly() {
    let weir = with_pipeline("");
    for arguments in [
        &["query", "SELECT * FROM generate_series(1, 10000000)"][..],
        &["generate", "transactions"],
        &["query", "--format", "json", "SELECT * FROM generate_series(1, 10000000)"],
    ] {
        let mut child = weir.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut first = [0; 16];
        out.read_exact(&mut first).unwrap();
        drop(out);
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{arguments:?}: {}", ended.status);
        assert_eq!(text(&ended.stderr), "", "{arguments:?}");
    }
}
