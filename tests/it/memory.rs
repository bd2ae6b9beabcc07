//! Memory of state: it does not grow with time, the budget counts all of it, and where it cannot go to disk a pipeline slows down and
//! says why.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Running, Weir, text};
use crate::stateful_crash::{PER_FILE, TO_THE_END, event_of, line};

/// A stream of ten rows a second, and every kind of memory that event time bounds.
const BOUNDED: &str = "
CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v DOUBLE, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '10 seconds')
  WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE minutes (k BIGINT, window_start TIMESTAMP, n BIGINT, total DOUBLE) USING DELTA;
CREATE TABLE rolled (id BIGINT, k BIGINT, ts TIMESTAMP, n BIGINT, total DOUBLE) USING DELTA;
CREATE TABLE pairs (id BIGINT, other BIGINT) USING DELTA;
CREATE VIEW unique_events AS SELECT * FROM DEDUPLICATE(TABLE events, KEY(id), WITHIN INTERVAL '10 minutes');
CREATE PIPELINE p WITH (trigger = 'continuous', max_rows_per_micro_batch = 200) AS BEGIN
  INSERT INTO minutes SELECT k, window_start, count(*) AS n, sum(v) AS total
    FROM TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY k, window_start, window_end;
  INSERT INTO rolled SELECT id, k, ts, count(*) OVER w AS n, sum(v) OVER w AS total FROM unique_events
    WINDOW w AS (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW);
  INSERT INTO pairs SELECT a.id, b.id AS other FROM events a JOIN unique_events b
    ON a.k = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '30 seconds' WHERE a.id % 50 = 7;
END;
";

/// Bytes that an index keeps of keys that are gone before it is worth sweeping, with the room that its vectors have doubled into.
const UNSWEPT: f64 = 192.0 * 1024.0;

/// Files for an hour of event time.
const HOUR: u64 = 36_000 / PER_FILE;

fn add(weir: &Weir, files: std::ops::Range<u64>) {
    for file in files {
        let lines: String = (file * PER_FILE..(file + 1) * PER_FILE).map(|n| line(event_of(n))).collect();
        weir.write(&format!("in/{file:06}.jsonl"), &lines);
    }
}

fn progress(weir: &Weir) -> Vec<Value> {
    let kept = std::fs::read_to_string(weir.path("warehouse/_weir/p/progress.jsonl")).unwrap_or_default();
    kept.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn wait_for(running: &mut Running, what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !done() {
        assert!(running.runs() && Instant::now() < deadline, "{what}: {}", running.printed());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Files and bytes below a folder.
fn size(folder: &std::path::Path) -> (u64, u64) {
    let mut sum = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (files, bytes) = match entry.metadata().unwrap() {
            of if of.is_dir() => size(&entry.path()),
            of => (1, of.len()),
        };
        sum = (sum.0 + files, sum.1 + bytes);
    }
    sum
}

/// The rows and bytes of each operator, on average over the epochs whose watermark lies in these minutes.
fn remembered(epochs: &[Value], minutes: std::ops::Range<u32>) -> BTreeMap<String, (f64, f64)> {
    let mut sums: BTreeMap<String, (f64, f64, f64)> = BTreeMap::new();
    let within = |operator: &Value| {
        let minute = operator["watermark"].as_str().and_then(|at| at.get(14..16)?.parse().ok());
        minute.is_some_and(|minute: u32| minutes.contains(&minute))
    };
    let operators = epochs.iter().filter_map(|epoch| epoch["stateOperators"].as_array()).flatten();
    for operator in operators.filter(|operator| within(operator)) {
        let number = |name: &str| operator[name].as_f64().unwrap();
        let sum = sums.entry(operator["operator"].as_str().unwrap().to_owned()).or_default();
        *sum = (sum.0 + 1.0, sum.1 + number("numRowsTotal"), sum.2 + number("memoryUsedBytes"));
    }
    sums.into_iter().map(|(name, (count, rows, bytes))| (name, (rows / count, bytes / count))).collect()
}

#[test]
fn an_hour_of_event_time_leaves_memory_where_it_was_after_half_of_it() {
    let weir = Weir::new();
    weir.write("p.sql", BOUNDED);
    let mut running = weir.start(&["run", "p.sql"], &[], "log");
    let read = || progress(&weir).iter().filter_map(|epoch| epoch["numInputRows"].as_u64()).sum::<u64>();
    // Two minutes at a time, so that there is an epoch for each.
    for end in (4..=HOUR).step_by(4) {
        add(&weir, end - 4..end);
        wait_for(&mut running, "not everything is read", || read() == end * PER_FILE);
    }
    assert_eq!(running.terminate(), Some(0), "{}", running.printed());
    let epochs = progress(&weir);
    let (half, whole) = (remembered(&epochs, 24..31), remembered(&epochs, 52..60));
    assert_eq!(half.len(), 4, "{half:?}");
    for (operator, (rows, bytes)) in half {
        let (more_rows, more_bytes) = whole[&operator];
        assert!(rows > 30.0 && more_rows <= rows * 1.15, "{operator}: {rows} rows became {more_rows}");
        assert!(more_bytes <= bytes * 1.3 + UNSWEPT, "{operator}: {bytes} bytes became {more_bytes}");
    }
}

#[test]
fn runs_that_follow_one_another_through_an_hour_leave_bounded_files() {
    let weir = Weir::new();
    weir.write("p.sql", BOUNDED);
    let (runs, mut sizes) = (20, Vec::new());
    for run in 0..runs {
        add(&weir, run * HOUR / runs..(run + 1) * HOUR / runs);
        weir.succeed(&TO_THE_END);
        sizes.push(size(&weir.path("warehouse/_weir/p/state")));
    }
    let largest =
        |part: &[(u64, u64)]| (part.iter().map(|s| s.0).max().unwrap(), part.iter().map(|s| s.1).max().unwrap());
    let (half, whole) = (largest(&sizes[4..10]), largest(&sizes[10..]));
    assert!(whole.0 <= half.0 * 3 / 2 && whole.1 <= half.1 * 3 / 2, "files and bytes of state: {sizes:?}");
}

#[test]
fn the_index_of_an_upserted_table_counts_and_is_shown() {
    let weir = Weir::new();
    weir.write(
        "p.sql",
        "
CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v DOUBLE, ts TIMESTAMP) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');
CREATE TABLE newest (id BIGINT, v DOUBLE, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
CREATE PIPELINE p AS BEGIN INSERT INTO newest SELECT id, v FROM events; END;
",
    );
    weir.write("tight.yaml", "memory_limit: 100KiB\n");
    add(&weir, 0..10);
    weir.succeed(&TO_THE_END);
    let keys = weir.number("SELECT count(*) FROM newest");
    let shown =
        weir.query("SELECT kind, rows, bytes > 20 * rows FROM weir.state WHERE operator = 'upsert_index_newest'");
    assert_eq!(shown, [format!("upsert_index,{keys},true")]);
    assert!(weir.succeed(&["query", "SHOW STATE"]).contains("upsert_index_newest"));
    // Larger than what state may take: parts of it go to disk. Without a place for them reading slows down, says why, and goes on.
    add(&weir, 10..11);
    let output = weir.run(&[TO_THE_END.as_slice(), &["-c", "tight.yaml"]].concat());
    let log = text(&output.stderr);
    assert!(output.status.success() && !log.contains("reading slows down"), "{log}");
    let more = weir.number("SELECT count(*) FROM newest");
    assert!(more > keys);
    weir.write("tight.yaml", "memory_limit: 100KiB\nspill_folder: ''\n");
    add(&weir, 11..12);
    let output = weir.run(&[TO_THE_END.as_slice(), &["-c", "tight.yaml"]].concat());
    let log = text(&output.stderr);
    assert!(output.status.success() && log.contains("reading slows down"), "{log}");
    assert!(weir.number("SELECT count(*) FROM newest") > more);
}

/// Groups in an upserted table, and a file that shows when rows have come.
const GROUPS: &str = "
CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v DOUBLE, ts TIMESTAMP) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');
CREATE TABLE groups (id BIGINT, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
CREATE SINK seen (id BIGINT) WITH (connector = 'file', path = 'seen', format = 'json');
CREATE PIPELINE p WITH (trigger = '1 hour', state_ttl = 'none') AS BEGIN
  INSERT INTO groups SELECT id, count(*) AS n FROM events GROUP BY id;
  INSERT INTO seen SELECT id FROM events;
END;
";

/// Files with enough keys to outgrow the share of state, and few enough for one epoch: it would close early if more waited for its end.
const FILES: u64 = 3_000 / PER_FILE;

/// A folder whose pipeline has state that is larger than its memory from the first epoch on.
fn outgrown() -> Weir {
    let weir = Weir::new();
    weir.write("p.sql", GROUPS);
    weir.write("tight.yaml", &format!("memory_limit: 200KiB\nspill_folder: {}\n", weir.path("spill").display()));
    add(&weir, 0..FILES);
    weir
}

/// Every key is in the table, and the state of the last epoch was more than its share of the limit.
fn has_outgrown(weir: &Weir) {
    // Some records come twice.
    let (keys, sum) = (weir.number("SELECT count(*) FROM groups"), weir.number("SELECT sum(n) FROM groups"));
    assert!(keys > 2_700 && sum as u64 == FILES * PER_FILE, "{keys} keys of {sum} records");
    let epochs = progress(weir);
    let bytes = epochs.last().unwrap()["stateOperators"][0]["memoryUsedBytes"].as_u64().unwrap();
    assert!(bytes > 80 << 10, "{bytes} bytes of state prove nothing");
}

#[test]
fn state_that_outgrows_its_memory_with_the_last_epoch_does_not_keep_a_run_from_ending() {
    let weir = outgrown();
    let to_the_end = [["-c", "tight.yaml"].as_slice(), &TO_THE_END].concat();
    let mut running = weir.start(&to_the_end, &[], "log");
    assert_eq!(running.wait(Duration::from_secs(60)), Some(0), "{}", running.printed());
    has_outgrown(&weir);
}

#[test]
fn state_that_outgrows_its_memory_on_sigterm_does_not_keep_a_run_from_ending() {
    let weir = outgrown();
    let mut running = weir.start(&["-c", "tight.yaml", "run", "p.sql"], &[], "log");
    let written = || std::fs::read_dir(weir.path("seen")).is_ok_and(|folder| folder.count() > 0);
    wait_for(&mut running, "no row has come", written);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(running.terminate(), Some(0), "{}", running.printed());
    has_outgrown(&weir);
}

#[test]
fn a_spill_folder_that_cannot_be_used_slows_a_pipeline_down_and_never_ends_it() {
    let weir = Weir::new();
    let sql = BOUNDED.replace(
        "trigger = 'continuous', max_rows_per_micro_batch = 200",
        "trigger = '10 ms', max_rows_per_micro_batch = 3000",
    );
    weir.write("p.sql", &sql);
    // A file where the folder should be.
    weir.write("taken", "");
    weir.write("tight.yaml", &format!("memory_limit: 1MiB\nspill_folder: {}\n", weir.path("taken").display()));
    add(&weir, 0..30);
    let mut running = weir.start(&["-c", "tight.yaml", "run", "p.sql"], &[], "log");
    let read = || progress(&weir).iter().filter_map(|epoch| epoch["numInputRows"].as_u64()).sum::<u64>();
    wait_for(&mut running, "not everything is read", || read() == 30 * PER_FILE);
    let log = weir.path("log");
    let says = |what: &str| std::fs::read_to_string(&log).unwrap_or_default().contains(what);
    wait_for(&mut running, "state fits", || says("state has outgrown its memory"));
    // Only what is read after that can be slowed down: all of the first files may be in the first epoch.
    add(&weir, 30..60);
    wait_for(&mut running, "not everything is read", || read() == 60 * PER_FILE);
    wait_for(&mut running, "nothing is slowed down", || says("reading slows down"));
    assert_eq!(running.terminate(), Some(0), "{}", running.printed());
    let log = running.printed();
    assert!(log.contains("spill folder below") && log.contains("cannot be made, so it cannot go to disk"), "{log}");
    weir.succeed(&["verify", "p.sql"]);
}
