//! Backups of a warehouse whose pipelines run: restored elsewhere and continued, what comes out is what the original gives.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::program::{Running, Weir, text};
use crate::stateful_crash::{PER_FILE, TO_THE_END, event_of, line};

/// Tables of rows and of keys, two pipelines that share a table, and one that reads a table of another.
const FIRST: &str = "
CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v DOUBLE, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '10 seconds')
  WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE firsts (id BIGINT, k BIGINT, ts TIMESTAMP) USING DELTA;
CREATE TABLE rolled (id BIGINT, k BIGINT, ts TIMESTAMP, n BIGINT, different BIGINT) USING DELTA;
CREATE TABLE per_key (k BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE TABLE shared (who STRING, id BIGINT) USING DELTA PARTITIONED BY (who);
CREATE VIEW unique_events AS SELECT * FROM DEDUPLICATE(TABLE events, KEY(id), WITHIN INTERVAL '1 hour');
CREATE PIPELINE p WITH (trigger = '50 ms', max_rows_per_micro_batch = 200, state_ttl = 'none', at_end = 'keep') AS BEGIN
  INSERT INTO firsts SELECT id, k, ts FROM unique_events;
  INSERT INTO rolled SELECT id, k, ts, count(*) OVER w AS n, count(DISTINCT v) OVER w AS different FROM unique_events
    WINDOW w AS (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '5 minutes' PRECEDING AND CURRENT ROW);
  INSERT INTO per_key SELECT k, count(*) AS n FROM events GROUP BY k;
  INSERT INTO shared SELECT 'p' AS who, id FROM unique_events;
END;
";

const SECOND: &str = "
CREATE SOURCE again WITH (connector = 'delta', path = 'WAREHOUSE/firsts', poll_interval = '20 ms');
CREATE TABLE shared (who STRING, id BIGINT) USING DELTA PARTITIONED BY (who);
CREATE TABLE copied (id BIGINT, k BIGINT) USING DELTA;
CREATE PIPELINE q WITH (trigger = '70 ms', max_rows_per_micro_batch = 200) AS BEGIN
  INSERT INTO copied SELECT id, k FROM again;
  INSERT INTO shared SELECT 'q' AS who, id FROM again;
END;
";

const ANSWERS: [&str; 6] = [
    "SELECT id, k, ts FROM firsts ORDER BY id",
    "SELECT id, k, ts, n, different FROM rolled ORDER BY id",
    "SELECT k, n FROM per_key ORDER BY k",
    "SELECT who, id FROM shared ORDER BY who, id",
    "SELECT id, k FROM copied ORDER BY id",
    "SELECT count(*) FROM weir.dead_letters",
];

struct Stage {
    weir: Weir,
    files: u64,
}

impl Stage {
    /// Input, and the first table that the second pipeline reads.
    fn new() -> Self {
        let mut stage = Self { weir: Weir::new(), files: 0 };
        stage.warehouse("warehouse");
        stage.add(1);
        stage
    }

    /// SQL and configuration for a warehouse.
    fn warehouse(&self, name: &str) {
        self.weir.write(&format!("{name}.p.sql"), FIRST);
        self.weir.write(&format!("{name}.q.sql"), &SECOND.replace("WAREHOUSE", name));
        self.weir.write(&format!("{name}.yaml"), &format!("warehouse: {name}\n"));
    }

    fn add(&mut self, files: u64) {
        for file in self.files..self.files + files {
            let lines: String = (file * PER_FILE..(file + 1) * PER_FILE).map(|n| line(event_of(n))).collect();
            self.weir.write(&format!("in/{file:06}.jsonl"), &lines);
        }
        self.files += files;
    }

    fn with(name: &str, arguments: &[&str]) -> Vec<String> {
        let config = ["-c".to_owned(), format!("{name}.yaml")];
        arguments.iter().map(|argument| (*argument).to_owned()).chain(config).collect()
    }

    fn succeed(&self, name: &str, arguments: &[&str]) -> String {
        let arguments = Self::with(name, arguments);
        self.weir.succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Reads what is left: the first pipeline, then who reads its table.
    fn to_the_end(&self, name: &str) {
        let [run, _, trigger, now] = TO_THE_END;
        for pipeline in ["p", "q"] {
            self.succeed(name, &[run, &format!("{name}.{pipeline}.sql"), trigger, now]);
        }
    }

    fn answers(&self, name: &str) -> Vec<String> {
        ANSWERS.iter().map(|sql| self.succeed(name, &["query", "--format", "csv", sql])).collect()
    }

    fn start(&self, pipeline: &str) -> Running {
        let sql = format!("warehouse.{pipeline}.sql");
        self.weir.start(&["run", &sql, "-c", "warehouse.yaml"], &[], &format!("log-{pipeline}"))
    }

    /// Goes on while the run commits, with more input all the time.
    fn while_it_commits(&mut self, running: &Running, epochs: usize) {
        let count = || running.printed().matches("\"runId\"").count();
        let (before, deadline) = (count(), Instant::now() + Duration::from_secs(90));
        while count() < before + epochs {
            assert!(Instant::now() < deadline, "nothing is committed: {}", running.printed());
            self.add(1);
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Takes a backup of the warehouse; returns its id and how many files were new.
    fn back_up(&self) -> (String, u64) {
        let (id, new, _) = self.back_up_of();
        (id, new)
    }

    /// The same, and how many files it holds.
    fn back_up_of(&self) -> (String, u64, u64) {
        let said = self.succeed("warehouse", &["backup", "kept"]);
        let id = said.split_whitespace().nth(1).unwrap().to_owned();
        let new = said.lines().last().unwrap().split_whitespace().next().unwrap();
        let all = said.split(", ").nth(1).unwrap().split_whitespace().next().unwrap();
        let number = |text: &str| text.replace(['_', ',', ' '], "").parse().unwrap_or_else(|_| panic!("{said}"));
        (id, number(new), number(all))
    }

    fn restore(&self, id: &str, to: &str) {
        self.warehouse(to);
        self.weir.succeed(&["restore", "--from", "kept", "--backup", id, "--to", to]);
    }

    fn files_in(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.weir.path(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found
    }
}

#[test]
fn backups_of_a_running_warehouse_continue_elsewhere_to_the_same_end() {
    let mut stage = Stage::new();
    stage.to_the_end("warehouse");
    let (running, reader) = (stage.start("p"), stage.start("q"));
    stage.while_it_commits(&running, 4);
    let (one, _) = stage.back_up();
    stage.while_it_commits(&running, 3);
    let (two, new, all) = stage.back_up_of();
    stage.while_it_commits(&running, 2);
    running.kill();
    reader.kill();
    assert!(new < all, "{new} files of the second backup are new, of {all}");
    let listed = stage.succeed("warehouse", &["backup", "kept", "--list"]);
    assert!(listed.contains(&one) && listed.contains(&two), "{listed}");
    // Nobody pins what the backups needed any more.
    assert!(!stage.files_in("warehouse/_weir").iter().any(|path| path.to_string_lossy().contains("/pins/")));

    stage.to_the_end("warehouse");
    let expected = stage.answers("warehouse");
    let ids = expected[0].lines().count();
    assert_eq!(expected[4].lines().count(), ids, "the second pipeline has read all that the first wrote");
    for (id, to) in [(&one, "first"), (&two, "second")] {
        stage.restore(id, to);
        let behind = stage.succeed(to, &["query", "--format", "csv", "SELECT id FROM firsts"]).lines().count();
        assert!(behind < ids, "the backup is older than the end");
        stage.to_the_end(to);
        for (sql, (found, expected)) in ANSWERS.iter().zip(stage.answers(to).iter().zip(&expected)) {
            assert!(found == expected, "{to}: {sql} differs");
        }
    }
    // Nothing of it went back to the warehouse that was backed up.
    assert_eq!(stage.answers("warehouse"), expected);
}

#[test]
fn a_backup_that_was_broken_off_is_none_and_serves_the_next() {
    let stage = Stage::new();
    stage.to_the_end("warehouse");
    let mut broken = stage.weir.command(&["backup", "kept", "-c", "warehouse.yaml"]);
    assert!(!broken.env("WEIR_FAILPOINTS", "backup.before_list=abort").output().unwrap().status.success());
    assert!(stage.succeed("warehouse", &["backup", "kept", "--list"]).contains("no backup"));
    let (id, new) = stage.back_up();
    assert!(new <= 2, "{new} files were copied again");
    stage.restore(&id, "again");
    assert_eq!(stage.answers("again"), stage.answers("warehouse"));
}

#[test]
fn a_warehouse_is_replaced_only_when_asked_and_is_closed_until_it_is_whole() {
    let mut stage = Stage::new();
    stage.to_the_end("warehouse");
    let (id, _) = stage.back_up();
    let before = stage.answers("warehouse");
    stage.add(1);
    stage.to_the_end("warehouse");
    let refused = stage.weir.run(&["restore", "--from", "kept", "--to", "warehouse"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("is not empty"), "{}", text(&refused.stderr));
    stage.weir.succeed(&["restore", "--from", "kept", "--backup", &id, "--to", "warehouse", "--replace"]);
    assert_eq!(stage.answers("warehouse"), before);
    stage.weir.write("warehouse/_weir/restore-unfinished", &id);
    let refused = stage.weir.run(&["run", "warehouse.p.sql", "-c", "warehouse.yaml"]);
    assert!(text(&refused.stderr).contains("restored only in part"), "{}", text(&refused.stderr));
}

#[test]
fn a_damaged_file_of_a_backup_is_named() {
    let stage = Stage::new();
    stage.to_the_end("warehouse");
    stage.back_up();
    let largest = stage.files_in("kept/files").into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    stage.warehouse("again");
    let refused = stage.weir.run(&["restore", "--from", "kept", "--to", "again"]);
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains(largest.file_name().unwrap().to_str().unwrap()), "{said}");
    assert!(said.contains("is damaged"), "{said}");
}

#[test]
fn a_table_outside_of_the_warehouse_is_named_not_left_out() {
    let stage = Stage::new();
    let here = "per_key (k BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA";
    stage.weir.write("warehouse.p.sql", &FIRST.replace(here, &format!("{here} LOCATION 'elsewhere/per_key'")));
    stage.to_the_end("warehouse");
    let refused = stage.weir.run(&["backup", "kept", "-c", "warehouse.yaml"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("table `per_key` lies outside"), "{}", text(&refused.stderr));
}

#[test]
fn backups_are_neither_kept_in_the_warehouse_nor_replaced_by_one() {
    let stage = Stage::new();
    stage.to_the_end("warehouse");
    let kept = || stage.files_in("kept").len();
    stage.back_up();
    let before = kept();
    std::os::unix::fs::symlink(stage.weir.path("kept"), stage.weir.path("link")).unwrap();
    for arguments in [
        &["backup", "./warehouse/kept", "-c", "warehouse.yaml"][..],
        &["backup", ".", "-c", "warehouse.yaml"],
        &["restore", "--from", "kept", "--to", "kept/", "--replace"],
        &["restore", "--from", "link", "--to", "./kept", "--replace"],
        &["restore", "--from", "kept", "--to", "link/new"],
        &["restore", "--from", "kept", "--to", ".", "--replace"],
    ] {
        let refused = stage.weir.run(arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains("lie in one another"), "{arguments:?}: {}", text(&refused.stderr));
    }
    assert_eq!(kept(), before);
}
