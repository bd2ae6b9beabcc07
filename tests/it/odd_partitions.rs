//! Upserted tables whose partition values need escaping, while other writers compact, delete, update and merge them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::program::{Weir, text};

const SQL: &str = "
CREATE SOURCE events (id BIGINT NOT NULL, v DOUBLE, p STRING) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE marked (id BIGINT, v DOUBLE, p STRING, PRIMARY KEY (id) NOT ENFORCED) USING DELTA PARTITIONED BY (p);
CREATE TABLE copied (id BIGINT, v DOUBLE, p STRING, PRIMARY KEY (id) NOT ENFORCED) USING DELTA PARTITIONED BY (p)
  TBLPROPERTIES ('delta.enableDeletionVectors' = 'false', 'delta.enableChangeDataFeed' = 'true');
CREATE TABLE appended (id BIGINT, v DOUBLE, p STRING) USING DELTA PARTITIONED BY (p);
CREATE TABLE long (id BIGINT, p STRING) USING DELTA PARTITIONED BY (p);
CREATE TABLE strict (id BIGINT, p STRING NOT NULL) USING DELTA PARTITIONED BY (p);
CREATE PIPELINE p WITH (trigger = '50 ms', max_rows_per_micro_batch = 100) AS BEGIN
  INSERT INTO marked SELECT id, v, p FROM events;
  INSERT INTO copied SELECT id, v, p FROM events;
  INSERT INTO appended SELECT id, v, p FROM events;
  INSERT INTO long SELECT id, concat(repeat('ü', 300), CAST(id % 3 AS STRING)) AS p FROM events;
  INSERT INTO strict SELECT id, p FROM events;
END;
";

const KEYS: usize = 120;

/// Without `__HIVE_DEFAULT_PARTITION__`, which delta-rs's OPTIMIZE takes for null.
fn values() -> Vec<String> {
    let odd: Vec<String> = serde_json::from_str(include_str!("../data/odd_values.json")).unwrap();
    odd.into_iter().filter(|value| value != "__HIVE_DEFAULT_PARTITION__").collect()
}

/// Every key once; values and partitions move on from round to round.
fn lines(round: usize) -> String {
    let values = values();
    let line = |id: usize| {
        let p = serde_json::to_string(&values[(id + round) % values.len()]).unwrap();
        format!("{{\"id\":{id},\"v\":{},\"p\":{p}}}\n", round * 1000 + id)
    };
    (0..KEYS).map(line).collect()
}

/// Each key has its newest row, once, in the partition that the row names; an empty value is null.
fn check(weir: &Weir, rounds: usize) {
    let values = values();
    let newest: usize = (0..KEYS).map(|id| (rounds - 1) * 1000 + id).sum();
    for table in ["marked", "copied"] {
        let found = weir.query(&format!("SELECT count(*), count(DISTINCT id), CAST(sum(v) AS BIGINT) FROM {table}"));
        assert_eq!(found, [format!("{KEYS},{KEYS},{newest}")], "{table}");
    }
    for table in ["marked", "copied", "appended"] {
        let per_round =
            |value: &str, round: usize| (0..KEYS).filter(|id| values[(id + round) % values.len()] == value).count();
        for value in &values {
            let expected: usize = match table {
                "appended" => (0..rounds).map(|round| per_round(value, round)).sum(),
                _ => per_round(value, rounds - 1),
            };
            let literal = value.replace('\'', "''");
            let condition = if value.is_empty() { "p IS NULL".to_owned() } else { format!("p = '{literal}'") };
            let found = weir.number(&format!("SELECT count(*) FROM {table} WHERE {condition}"));
            assert_eq!(found as usize, expected, "{table}: {value:?}");
        }
        assert_eq!(weir.number(&format!("SELECT count(*) FROM {table} WHERE p = ''")), 0, "{table}");
    }
    let long = weir.query("SELECT p, count(*) FROM long GROUP BY p ORDER BY p");
    let expected = (0..3).map(|last| format!("{}{last},{}", "ü".repeat(300), rounds * KEYS / 3));
    assert_eq!(long, expected.collect::<Vec<_>>());
    let empty: usize =
        (0..rounds).map(|round| (0..KEYS).filter(|id| values[(id + round) % values.len()].is_empty()).count()).sum();
    assert_eq!(weir.number("SELECT count(*) FROM strict") as usize, rounds * KEYS - empty);
    let letters = "SELECT count(*) FROM weir.dead_letters WHERE reason LIKE '%`p` is null or empty but NOT NULL%' AND \"column\" = 'p'";
    assert_eq!(weir.number(letters) as usize, empty);
}

fn python() -> Option<String> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/python");
    let setup = Command::new("bash").arg(tools.join("setup.sh")).output();
    match setup.ok().filter(|setup| setup.status.success()) {
        Some(setup) => Some(text(&setup.stdout).trim().to_owned()),
        None => {
            eprintln!("######## SKIPPED: no Python environment (tests/tools/python/setup.sh)");
            None
        }
    }
}

#[test]
fn odd_partition_values_survive_epochs_restarts_and_what_others_do_between_and_during_runs() {
    let python = python();
    let weir = Weir::new();
    weir.write("p.sql", SQL);
    let act = |what: &str| {
        let Some(python) = &python else { return };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/python/odd_partitions.py");
        for table in ["warehouse/marked", "warehouse/copied"] {
            let done = Command::new(python).arg(&script).arg(weir.path(table)).arg(what).output().unwrap();
            assert!(done.status.success(), "{what} {table}: {}", text(&done.stderr));
        }
    };
    let mut rounds = 0;
    let mut add = || {
        weir.write("next", &lines(rounds));
        std::fs::create_dir_all(weir.path("in")).unwrap();
        std::fs::rename(weir.path("next"), weir.path(&format!("in/{rounds:03}.jsonl"))).unwrap();
        rounds += 1;
        rounds
    };
    for what in ["optimize", "delete", "update", "merge"] {
        add();
        weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
        act(what);
    }
    let read = add();
    weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    check(&weir, read);
    let mut running = weir.start(&["run", "p.sql"], &[], "log");
    for what in ["delete", "optimize", "merge", "update", "optimize"] {
        add();
        act(what);
        assert!(running.runs(), "{}", running.printed());
    }
    let read = add();
    let deadline = Instant::now() + Duration::from_secs(60);
    while weir.number("SELECT count(*) FROM appended") < (read * KEYS) as i64 {
        assert!(Instant::now() < deadline && running.runs(), "{}", running.printed());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(running.terminate(), Some(0), "{}", running.printed());
    check(&weir, read);
}
