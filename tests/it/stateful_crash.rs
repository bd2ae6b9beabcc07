//! Pipelines that remember: killed at random moments and at every step of the commit protocol, rescaled, edited, and with
//! damaged state. What comes out in the end is what a batch over all the input says, nothing lost or doubled.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::program::{Running, Weir, text};

const SQL: &str = "
CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v DOUBLE, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '10 seconds')
  WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE firsts (id BIGINT, k BIGINT, ts TIMESTAMP) USING DELTA;
CREATE TABLE minutes (k BIGINT, window_start TIMESTAMP, window_end TIMESTAMP, n BIGINT, total DOUBLE) USING DELTA;
CREATE TABLE rolled (id BIGINT, k BIGINT, ts TIMESTAMP, n BIGINT, total DOUBLE) USING DELTA;
CREATE TABLE per_key (k BIGINT, n BIGINT, total DOUBLE, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE VIEW unique_events AS SELECT * FROM DEDUPLICATE(TABLE events, KEY(id), WITHIN INTERVAL '1 hour');
CREATE PIPELINE p WITH (trigger = '50 ms', max_rows_per_micro_batch = 200, state_ttl = 'none', at_end = 'keep') AS BEGIN
  INSERT INTO firsts SELECT id, k, ts FROM unique_events;
  INSERT INTO minutes SELECT k, window_start, window_end, count(*) AS n, sum(v) AS total
    FROM TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY k, window_start, window_end;
  INSERT INTO rolled SELECT id, k, ts, count(*) OVER w AS n, sum(v) OVER w AS total FROM unique_events
    WINDOW w AS (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '5 minutes' PRECEDING AND CURRENT ROW);
  INSERT INTO per_key SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k;
END;
";

const KEYS: u64 = 40;
pub const PER_FILE: u64 = 300;
pub const TO_THE_END: [&str; 4] = ["run", "p.sql", "--trigger", "available now"];

/// The moment of event `i` is up to 8 seconds out of order, within the watermark's 10; some values are null.
pub fn line(i: u64) -> String {
    let mixed = i * 2_654_435_761 % (1 << 32);
    let at = i * 100 + mixed % 8_000;
    let (seconds, ms) = (at / 1_000, at % 1_000);
    let v = if mixed.is_multiple_of(31) { "null".to_owned() } else { format!("{}.25", (mixed >> 16) % 100) };
    let ts = format!("2026-01-01T{:02}:{:02}:{:02}.{ms:03}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{{\"id\":{i},\"k\":{},\"v\":{v},\"ts\":\"{ts}\"}}\n", (mixed >> 8) % KEYS)
}

/// Contents of record `n` of the input: every 13th repeats an earlier one.
pub fn event_of(n: u64) -> u64 {
    if n % 13 == 5 { n - 3 } else { n }
}

/// A folder with the pipeline and as many input files as were asked for.
struct Stage {
    weir: Weir,
    files: u64,
}

impl Stage {
    fn new() -> Self {
        let weir = Weir::new();
        weir.write("p.sql", SQL);
        Self { weir, files: 0 }
    }

    fn add(&mut self, files: u64) {
        for file in self.files..self.files + files {
            let lines: String = (file * PER_FILE..(file + 1) * PER_FILE).map(|n| line(event_of(n))).collect();
            self.weir.write(&format!("in/{file:06}.jsonl"), &lines);
        }
        self.files += files;
    }

    fn edit(&self, from: &str, to: &str) {
        assert!(SQL.contains(from), "{from}");
        self.weir.write("p.sql", &SQL.replace(from, to));
    }

    /// Reads what is left, lets every window out and compares all tables with the batch and with the input.
    fn check(&self) {
        self.edit("at_end = 'keep'", "at_end = 'flush'");
        self.weir.succeed(&TO_THE_END);
        let verdict = self.weir.succeed(&["verify", "p.sql"]);
        assert_eq!(verdict.matches("  ok  ").count(), 4, "{verdict}");
        assert_eq!(verdict.matches(" 0 not due yet").count(), 4, "{verdict}");
        let rows = self.files * PER_FILE;
        let ids = (0..rows).map(event_of).collect::<BTreeSet<_>>().len();
        for table in ["firsts", "rolled"] {
            let found = self.weir.query(&format!("SELECT count(*), count(DISTINCT id) FROM {table}"));
            assert_eq!(found, [format!("{ids},{ids}")], "{table}");
        }
        assert_eq!(self.weir.query("SELECT count(*), sum(n) FROM per_key"), [format!("{KEYS},{rows}")]);
        assert_eq!(self.weir.query("SELECT sum(n) FROM minutes"), [rows.to_string()]);
    }

    fn manifests(&self) -> Vec<PathBuf> {
        let folder = std::fs::read_dir(self.weir.path("warehouse/_weir/p/manifests"));
        let mut manifests: Vec<PathBuf> = folder.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        manifests.sort();
        manifests
    }

    /// Takes everything back by some epochs; the next run computes them again.
    fn go_back(&self, by: u64) {
        let epoch_of = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap()[..20].parse::<u64>().ok();
        let Some(newest) = self.manifests().iter().filter_map(epoch_of).max().filter(|newest| *newest > by + 1) else {
            return;
        };
        // The newest epoch may have no more than its manifest.
        let epoch = (newest - 1 - by).to_string();
        self.weir.succeed(&["restore", "--pipeline", "p", "--epoch", &epoch]);
    }

    /// The newest manifest is away: weir stops unless nothing needs it.
    fn lose_manifest(&self) {
        let Some(newest) = self.manifests().pop() else { return };
        let away = self.weir.path("away");
        std::fs::rename(&newest, &away).unwrap();
        let output = self.weir.run(&TO_THE_END);
        match output.status.code() {
            Some(0) => std::fs::remove_file(&away).unwrap(),
            Some(4) => std::fs::rename(&away, &newest).unwrap(),
            other => panic!("{other:?}: {}", text(&output.stderr)),
        }
    }

    /// The state files that the newest epoch names.
    fn state_files(&self) -> Vec<PathBuf> {
        let newest = std::fs::read_to_string(self.manifests().last().unwrap()).unwrap();
        let folder = self.weir.path("warehouse/_weir/p/state");
        let names = newest.split('"').filter(|name| name.ends_with(".state"));
        names.map(|name| folder.join(name)).collect()
    }
}

fn epochs(running: &Running) -> usize {
    running.printed().matches("\"runId\"").count()
}

#[test]
fn killed_at_random_what_is_remembered_is_neither_lost_nor_doubled() {
    let mut stage = Stage::new();
    // The steps of a commit take their time, so that many a kill falls between two of them.
    let slow = "epoch.before_state=pause:5;epoch.before_manifest=pause:15;epoch.after_manifest=pause:15;\
                epoch.between_sinks=pause:15;epoch.after_commit=pause:10";
    // A fixed sequence of moments: a failing round can be run again.
    let mut state: u64 = 0x5EED;
    for round in 0..crate::crash::rounds() {
        stage.add(3);
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let running = stage.weir.start(&["run", "p.sql"], &[("WEIR_FAILPOINTS", slow)], "log");
        if round % 2 == 0 {
            // Every other kill comes after the run has committed something, however slow the machine; the others may come before.
            let (before, deadline) = (epochs(&running), Instant::now() + Duration::from_secs(60));
            while epochs(&running) == before {
                assert!(Instant::now() < deadline, "nothing is committed: {}", running.printed());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let moment = Instant::now() + Duration::from_millis((state >> 33) % 900);
        while Instant::now() < moment {
            stage.add(1);
            std::thread::sleep(Duration::from_millis(40));
        }
        running.kill();
        match round % 5 {
            1 => stage.go_back(round % 3),
            3 => stage.lose_manifest(),
            _ => {}
        }
    }
    stage.check();
}

#[test]
fn killed_at_every_step_what_is_remembered_is_neither_lost_nor_doubled() {
    let mut stage = Stage::new();
    let steps = [
        "epoch.before_state",
        "epoch.before_state@2",
        "epoch.before_state@4",
        "epoch.before_manifest",
        "epoch.after_manifest",
        "delta.before_put",
        "delta.after_put",
        "epoch.between_sinks",
        "delta.before_put@3",
        "delta.after_put@4",
        "epoch.between_sinks@3",
        "epoch.after_commit",
    ];
    for step in steps {
        stage.add(5);
        let points = format!("{step}=abort");
        let mut running = stage.weir.start(&TO_THE_END, &[("WEIR_FAILPOINTS", &points)], "log");
        assert_eq!(running.wait(Duration::from_secs(60)), None, "{step} was passed: {}", running.printed());
    }
    stage.check();
}

#[test]
fn a_damaged_state_file_is_named_and_nothing_goes_on_without_it() {
    let mut stage = Stage::new();
    for _ in 0..2 {
        stage.add(4);
        stage.weir.succeed(&TO_THE_END);
    }
    let files = stage.state_files();
    // One file of each operator's table.
    let mut tables = BTreeSet::new();
    let chosen: Vec<&PathBuf> = files.iter().rev().filter(|file| tables.insert(file.parent())).collect();
    assert_eq!(chosen.len(), 5, "{files:?}");
    stage.add(1);
    let refused = |file: &PathBuf, what: &str| {
        let output = stage.weir.run(&TO_THE_END);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{what} {}: {errors}", file.display());
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(errors.contains(name) && errors.contains("is damaged"), "{what} {name}: {errors}");
    };
    for (number, file) in chosen.iter().enumerate() {
        let whole = std::fs::read(file).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() * (number + 1) / 6] ^= 1 << number;
        std::fs::write(file, flipped).unwrap();
        refused(file, "a flipped bit in");
        std::fs::write(file, &whole).unwrap();
    }
    let file = chosen[0];
    let whole = std::fs::read(file).unwrap();
    std::fs::write(file, &whole[..whole.len() - 1]).unwrap();
    refused(file, "the last byte cut off");
    std::fs::remove_file(file).unwrap();
    refused(file, "the loss of");
    std::fs::write(file, &whole).unwrap();
    stage.check();
}

#[test]
fn a_pipeline_goes_on_with_more_and_fewer_lanes() {
    let mut stage = Stage::new();
    for lanes in ["1", "3", "2"] {
        stage.add(8);
        stage.edit("at_end = 'keep'", &format!("at_end = 'keep', parallelism = '{lanes}'"));
        stage.weir.succeed(&TO_THE_END);
        let verdict = stage.weir.succeed(&["verify", "p.sql"]);
        assert_eq!(verdict.matches("  ok  ").count(), 4, "{lanes} lanes: {verdict}");
    }
    stage.check();
}

#[test]
fn an_edit_that_loses_state_is_refused_unless_rebuilding_is_allowed() {
    let mut stage = Stage::new();
    stage.add(8);
    stage.weir.succeed(&TO_THE_END);
    let against_state = || stage.weir.run(&["check", "p.sql", "--against-state"]);

    stage.edit("SELECT id, k, ts FROM unique_events;", "SELECT id, k, ts FROM unique_events WHERE k < 1000;");
    let output = against_state();
    let printed = text(&output.stdout);
    assert!(output.status.success(), "an edit behind the operators: {printed}{}", text(&output.stderr));
    assert_eq!(printed.matches("  keep  ").count(), 4, "{printed}");

    let more = "CREATE TABLE hops (k BIGINT, window_start TIMESTAMP, n BIGINT) USING DELTA;\nCREATE PIPELINE p";
    let insert = "  INSERT INTO hops SELECT k, window_start, count(*) AS n
    FROM HOP(TABLE events, DESCRIPTOR(ts), INTERVAL '1 minute', INTERVAL '5 minutes') GROUP BY k, window_start;\nEND;";
    stage.weir.write("p.sql", &SQL.replace("CREATE PIPELINE p", more).replace("END;", insert));
    let output = against_state();
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert_eq!((printed.matches("  keep  ").count(), printed.matches("  rebuild  ").count()), (4, 1), "{printed}");
    let refused = |wanted: &str| {
        let epoch = stage.weir.number("SELECT max(epoch) FROM weir.progress");
        let output = stage.weir.run(&TO_THE_END);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("loses state") && errors.contains(wanted), "{errors}");
        assert_eq!(stage.weir.number("SELECT max(epoch) FROM weir.progress"), epoch, "nothing was committed");
    };
    refused("would begin empty");
    let mut rebuilding = TO_THE_END.to_vec();
    rebuilding.push("--allow-rebuild");
    stage.weir.write("in/000008.jsonl", &(8 * PER_FILE..9 * PER_FILE).map(|n| line(event_of(n))).collect::<String>());
    stage.weir.succeed(&rebuilding);
    assert!(against_state().status.success(), "what was new has state now");
    let verdict = text(&stage.weir.run(&["verify", "p.sql"]).stdout);
    assert_eq!(verdict.matches("  ok  ").count(), 4, "what was kept agrees still: {verdict}");

    // Back again: what the new operator remembers would go.
    stage.weir.write("p.sql", SQL);
    assert_eq!(against_state().status.code(), Some(1));
    refused("would be dropped");
    stage.weir.write("in/000009.jsonl", &(9 * PER_FILE..10 * PER_FILE).map(|n| line(event_of(n))).collect::<String>());
    stage.weir.succeed(&rebuilding);
    assert!(against_state().status.success(), "what is no longer wanted is gone");
    stage.files = 10;
    stage.check();
}
