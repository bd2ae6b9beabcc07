//! Tables with a primary key, with the real program: read back by weir and by readers that we did not write, after crashes too.

use std::path::Path;
use std::process::Command;

use crate::program::{Weir, text};

const SQL: &str = "
CREATE SOURCE events (id BIGINT NOT NULL, v DOUBLE, day STRING) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE newest (id BIGINT, v DOUBLE, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
CREATE TABLE by_day (id BIGINT, v DOUBLE, day STRING, PRIMARY KEY (id) NOT ENFORCED) USING DELTA PARTITIONED BY (day)
  TBLPROPERTIES ('delta.enableDeletionVectors' = 'false', 'delta.enableChangeDataFeed' = 'true');
CREATE PIPELINE p WITH (trigger = '50 ms', max_rows_per_micro_batch = 700) AS BEGIN
  INSERT INTO newest SELECT id, v FROM events WHERE id % 2 = 0;
  INSERT INTO newest SELECT id, v FROM events WHERE id % 2 = 1;
  INSERT INTO by_day SELECT id, v, day FROM events;
END;
";

const KEYS: i64 = 500;

/// Part `part` of the input: 2,000 rows, each key four times; `v` grows with every row, a key's day changes from part to part.
fn lines(part: i64) -> String {
    let line = |n: i64| {
        let (id, v, day) = (n * 7 % KEYS, part * 2_000 + n, (n * 7 % KEYS + part) % 3);
        format!("{{\"id\":{id},\"v\":{v},\"day\":\"d{day}\"}}\n")
    };
    (0..2_000).map(line).collect()
}

/// The sum of the newest values after `parts` parts: the last 500 rows of the last part.
fn newest(parts: i64) -> i64 {
    (1_500..2_000).map(|n| (parts - 1) * 2_000 + n).sum()
}

fn check(weir: &Weir, parts: i64) {
    let expected = format!("{KEYS},{KEYS},{}.0", newest(parts));
    for table in ["newest", "by_day"] {
        let found = weir.query(&format!("SELECT count(*), count(DISTINCT id), sum(v) FROM {table}"));
        assert_eq!(found, std::slice::from_ref(&expected), "{table}");
    }
    let wrong = weir.number(&format!("SELECT count(*) FROM by_day WHERE day <> concat('d', (id + {}) % 3)", parts - 1));
    assert_eq!(wrong, 0, "a row is in its partition");
}

#[test]
fn every_key_has_its_newest_row_once_and_other_readers_agree() {
    let weir = Weir::new();
    weir.write("config/weir.yaml", "maintenance:\n  checkpoint_every_commits: 2\n");
    weir.write("p.sql", SQL);
    for part in 0..4 {
        weir.write(&format!("in/{part}.jsonl"), &lines(part));
        weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
        check(&weir, part + 1);
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/python");
    let setup = Command::new("bash").arg(tools.join("setup.sh")).output();
    let Some(setup) = setup.ok().filter(|setup| setup.status.success()) else {
        eprintln!("######## SKIPPED: no Python environment (tests/tools/python/setup.sh)");
        return;
    };
    for table in ["newest", "by_day"] {
        let output = Command::new(text(&setup.stdout).trim())
            .arg(tools.join("upserts.py"))
            .arg(weir.path(&format!("warehouse/{table}")))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let found = text(&output.stdout);
        for reader in ["deltalake", "polars"] {
            assert!(found.contains(&format!("{reader} {KEYS} {KEYS} {}", newest(4))), "{table}: {found}");
        }
        assert!(found.contains("history MERGE"), "{found}");
        if table == "by_day" {
            // Each of the later parts updates every key once; whatever was deleted would show.
            let feed = format!("feed delete 0 insert {KEYS} update_postimage {u} update_preimage {u}", u = 3 * KEYS);
            assert!(found.contains(&feed), "{found}");
        }
    }
}

#[test]
fn killed_at_every_step_of_the_protocol_each_key_has_its_newest_row_once() {
    let weir = Weir::new();
    weir.write("p.sql", SQL);
    let steps = [
        "epoch.before_manifest",
        "epoch.after_manifest",
        "delta.before_put",
        "delta.after_put",
        "epoch.between_sinks",
        "delta.before_put@2",
        "delta.after_put@2",
        "epoch.after_commit",
    ];
    for (part, step) in (0..).zip(steps) {
        weir.write(&format!("in/{part:02}.jsonl"), &lines(part));
        let action = if step.starts_with("delta.after_put") { "fail" } else { "abort" };
        let point = format!("{step}={action}");
        let mut running =
            weir.start(&["run", "p.sql", "--trigger", "available now"], &[("WEIR_FAILPOINTS", &point)], "log");
        running.wait(std::time::Duration::from_secs(60));
        weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
        check(&weir, part + 1);
    }
}

#[test]
fn unfinished_files_of_killed_processes_are_gone_after_the_next_start() {
    let weir = Weir::new();
    weir.write("p.sql", SQL);
    weir.write("in/0.jsonl", &lines(0));
    weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    let left = [
        "warehouse/newest/_delta_log/00000000000000000099.json#01",
        "warehouse/by_day/day=d1/part-0.parquet#02",
        "warehouse/_weir/p/manifests/00000000000000000009-00.json#01",
        "warehouse/_weir/p/dead_letters/part-0.parquet#01",
    ];
    left.iter().for_each(|name| weir.write(name, "half"));
    weir.write("warehouse/newest/part-0.parquet#1", "of another program, and young");
    weir.write("in/1.jsonl", &lines(1));
    weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    check(&weir, 2);
    for name in left {
        assert!(!weir.path(name).exists(), "{name}");
    }
    assert!(weir.path("warehouse/newest/part-0.parquet#1").exists());
}
