//! Tables that weir wrote, read by readers that we did not write; and queries of weir held against those of duckdb.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{Weir, text};

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/python")
}

/// The interpreter with the readers; `None` where there is none.
fn python() -> Option<String> {
    let setup = Command::new("bash").arg(tools().join("setup.sh")).output();
    let Some(setup) = setup.ok().filter(|setup| setup.status.success()) else {
        eprintln!("######## SKIPPED: no Python environment (tests/tools/python/setup.sh)");
        return None;
    };
    Some(text(&setup.stdout).trim().to_owned())
}

/// Runs a script of `tests/tools/python` that compares on its own: arguments are the program, an empty folder and the rest.
fn compare(script: &str, rest: &[&str]) {
    let Some(python) = python() else { return };
    let weir = Weir::new();
    let mut command = Command::new(python);
    command.arg(tools().join(script)).arg(env!("CARGO_BIN_EXE_weir")).arg(weir.path("")).args(rest);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{script} {rest:?}: {}\n{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn queries_of_delta_tables_find_what_duckdb_finds() {
    compare("predicates.py", &["1"]);
}

/// Seed and number of a generated comparison: `WEIR_ORACLE="7 5000"` asks for more than CI does.
fn oracle(usual: [&str; 2]) -> Vec<String> {
    let asked = std::env::var("WEIR_ORACLE").unwrap_or_else(|_| usual.join(" "));
    asked.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn generated_expressions_have_the_values_that_duckdb_finds() {
    let asked = oracle(["1", "500"]);
    compare("expressions.py", &asked.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn generated_pipelines_write_the_rows_that_duckdb_finds() {
    let asked = oracle(["1", "200"]);
    compare("pipelines.py", &asked.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn statistics_hide_no_row_from_any_reader() {
    compare("statistics.py", &["1"]);
}

#[test]
fn tables_of_other_writers_are_read_as_they_are_meant() {
    compare("foreign.py", &[]);
}

#[test]
fn no_reader_finds_a_part_of_a_long_partition_value() {
    compare("long_partitions.py", &[]);
}

#[test]
fn what_weir_writes_it_reads_back_equal() {
    compare("round_trips.py", &["1"]);
}

#[test]
fn deltalake_and_polars_read_what_weir_wrote() {
    let Some(python) = python() else { return };
    let weir = Weir::new();
    weir.write("config/weir.yaml", "maintenance:\n  checkpoint_every_commits: 1\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE events (id BIGINT NOT NULL, ts TIMESTAMP) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');
         CREATE TABLE t (id BIGINT NOT NULL, ts TIMESTAMP, day DATE) USING DELTA PARTITIONED BY (day);
         INSERT INTO t SELECT id, ts, CAST(ts AS DATE) AS day FROM events;",
    );
    let mut sum = 0;
    for part in 0..3_i64 {
        let ids = part * 1000..(part + 1) * 1000;
        sum += ids.clone().sum::<i64>();
        let lines: String =
            ids.map(|id| format!("{{\"id\":{id},\"ts\":\"2026-01-0{}T00:00:00Z\"}}\n", 1 + id % 5)).collect();
        weir.write(&format!("in/{part}.jsonl"), &lines);
        weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    }
    assert_eq!(weir.query("SELECT count(*), count(DISTINCT id), sum(id) FROM t"), [format!("3000,3000,{sum}")]);
    let output =
        Command::new(python).arg(tools().join("readers.py")).arg(weir.path("warehouse/t")).arg("id").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found = text(&output.stdout);
    assert!(found.contains(&format!("deltalake 3000 3000 {sum}")), "{found}");
    assert!(found.contains(&format!("polars 3000 3000 {sum}")), "{found}");
    assert!(found.contains("history STREAMING UPDATE 3"), "{found}");
}
