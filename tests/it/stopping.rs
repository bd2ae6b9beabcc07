//! SIGTERM ends the program within five seconds whatever it is doing, nothing is lost by that, and output that nobody reads changes
//! nothing.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Running, Weir, signal};

/// The longest time that SIGTERM may take.
const PROMISED: Duration = Duration::from_secs(5);

const COPY: &str = "
CREATE SOURCE events (id BIGINT) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE copied (id BIGINT) USING DELTA;
CREATE PIPELINE p WITH (trigger = '20 ms') AS BEGIN INSERT INTO copied SELECT id FROM events; END;
";

const TO_THE_END: [&str; 4] = ["run", "p.sql", "--trigger", "available now"];

/// A folder with `sql` and ten records.
fn folder(sql: &str) -> Weir {
    let weir = Weir::new();
    weir.write("p.sql", sql);
    weir.write("in/a.jsonl", &(0..10).map(|id| format!("{{\"id\":{id}}}\n")).collect::<String>());
    weir
}

fn wait_until(running: &mut Running, done: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done(&running.printed()) {
        assert!(running.runs() && Instant::now() < deadline, "{}", running.printed());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// SIGTERM, then the exit code; fails the test when it takes longer than promised.
fn stopped(running: &mut Running) -> Option<i32> {
    running.signal();
    running.wait(PROMISED)
}

/// Whatever an interrupted run left, the next one has every record once.
fn every_record_is_copied_once(weir: &Weir) {
    weir.succeed(&TO_THE_END);
    assert_eq!(weir.number("SELECT count(*) FROM copied"), 10);
    assert_eq!(weir.number("SELECT count(DISTINCT id) FROM copied"), 10);
}

#[test]
fn sigterm_ends_a_start_that_waits_for_brokers_that_are_not_there() {
    let sink = "CREATE SINK k (id BIGINT) WITH (connector = 'kafka', topic = 'k', format = 'json',
                  'properties.bootstrap.servers' = '127.0.0.1:1', delivery = 'exactly_once');
                CREATE PIPELINE p AS BEGIN INSERT INTO k SELECT id FROM events; END;";
    let source = "CREATE SOURCE k (id BIGINT) WITH (connector = 'kafka', topic = 'k', format = 'json',
                  'properties.bootstrap.servers' = '127.0.0.1:1');
                  CREATE PIPELINE p AS BEGIN INSERT INTO copied SELECT id FROM k; END;";
    let declared = COPY.split("CREATE PIPELINE").next().unwrap();
    for part in [sink, source] {
        let weir = folder(&format!("{declared}{part}"));
        let mut running = weir.start(&["run", "p.sql"], &[], "log");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(stopped(&mut running), Some(0), "{}", running.printed());
    }
}

#[test]
fn sigterm_ends_a_start_from_a_slow_store() {
    let weir = folder(COPY);
    let slow = [("WEIR_STORE_FAULTS", "slow=1,slow_ms=3000")];
    for wait_ms in [500, 4_000, 9_000] {
        let mut running = weir.start(&["run", "p.sql"], &slow, "log");
        std::thread::sleep(Duration::from_millis(wait_ms));
        assert_eq!(stopped(&mut running), Some(0), "{}", running.printed());
    }
    every_record_is_copied_once(&weir);
}

#[test]
fn sigterm_ends_a_commit_that_takes_long_and_the_next_run_finishes_it() {
    for failpoint in ["epoch.before_state", "epoch.before_manifest", "epoch.after_manifest", "epoch.after_commit"] {
        let distinct = COPY.replace("SELECT id FROM events;", "SELECT DISTINCT id FROM events;");
        let weir = folder(&distinct.replace("'20 ms') AS", "'20 ms', state_ttl = 'none') AS"));
        let pause = [("WEIR_FAILPOINTS", format!("{failpoint}=pause:600000"))];
        let pause = pause.each_ref().map(|(name, value)| (*name, value.as_str()));
        let mut running = weir.start(&["run", "p.sql"], &pause, "log");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(stopped(&mut running), Some(0), "{failpoint}: {}", running.printed());
        assert!(running.printed().contains("a clean end took too long"), "{failpoint}: {}", running.printed());
        every_record_is_copied_once(&weir);
    }
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let weir = folder(COPY);
    let pause = [("WEIR_FAILPOINTS", "epoch.after_manifest=pause:600000")];
    let mut running = weir.start(&["run", "p.sql"], &pause, "log");
    std::thread::sleep(Duration::from_secs(2));
    running.signal();
    wait_until(&mut running, |log| log.contains("stopping"));
    running.signal();
    assert_eq!(running.wait(Duration::from_secs(2)), Some(130), "{}", running.printed());
    assert!(running.printed().contains("stopped at once"), "{}", running.printed());
    every_record_is_copied_once(&weir);
}

#[test]
fn sigterm_ends_reading_that_rests_because_memory_is_short() {
    let keyed = COPY
        .replace("CREATE TABLE copied (id BIGINT)", "CREATE TABLE copied (id BIGINT, PRIMARY KEY (id) NOT ENFORCED)");
    let weir = folder(&keyed.replace("'20 ms') AS", "'20 ms', max_rows_per_micro_batch = 1000) AS"));
    weir.write("tight.yaml", "memory_limit: 100KiB\nspill_folder: ''\n");
    let lines = |from: u32| (from..from + 20_000).map(|id| format!("{{\"id\":{id}}}\n")).collect::<String>();
    weir.write("in/b.jsonl", &lines(10));
    let mut running = weir.start(&["-c", "tight.yaml", "run", "p.sql"], &[], "log");
    wait_until(&mut running, |log| log.contains("\"upsert_index\""));
    // Only now it is known what the index takes.
    weir.write("in/c.jsonl", &lines(20_010));
    wait_until(&mut running, |log| log.contains("reading slows down"));
    assert_eq!(stopped(&mut running), Some(0), "{}", running.printed());
    weir.succeed(&TO_THE_END);
    assert_eq!(weir.number("SELECT count(*) FROM copied"), 40_010);
}

/// A pipeline that prints more than a pipe holds within a second or two.
const TALKATIVE: &str = "
CREATE SOURCE events WITH (connector = 'generator', rate = 2000, seed = 1);
CREATE TABLE copied (transaction_id STRING) USING DELTA;
CREATE SINK shown (transaction_id STRING) WITH (connector = 'console');
CREATE PIPELINE p WITH (trigger = '20 ms') AS BEGIN
  INSERT INTO copied SELECT transaction_id FROM events;
  INSERT INTO shown SELECT transaction_id FROM events;
END;
";

/// Commits to the table so far.
fn commits(weir: &Weir) -> usize {
    let Ok(log) = std::fs::read_dir(weir.path("warehouse/copied/_delta_log")) else { return 0 };
    log.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "json"))).count()
}

/// Fails the test unless more is committed, then SIGTERM ends the process in time.
fn goes_on_and_ends(weir: &Weir, child: &mut Child, more: usize) {
    let (before, deadline) = (commits(weir), Instant::now() + Duration::from_secs(60));
    while commits(weir) < before + more {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < deadline, "{} commits", commits(weir) - before);
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(child);
    let deadline = Instant::now() + PROMISED;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            None => {
                child.kill().unwrap();
                panic!("SIGTERM is ignored");
            }
        }
    };
    assert_eq!(status.code(), Some(0));
}

fn piped(weir: &Weir) -> Child {
    let mut command = weir.command(&["-c", "weir.yaml", "run", "p.sql"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn output_that_nobody_reads_stops_neither_commits_nor_sigterm() {
    let weir = Weir::new();
    weir.write("p.sql", TALKATIVE);
    weir.write("weir.yaml", "log:\n  level: debug\n");
    let mut child = piped(&weir);
    goes_on_and_ends(&weir, &mut child, 120);
}

#[test]
fn output_that_was_closed_stops_neither_commits_nor_sigterm() {
    let weir = Weir::new();
    weir.write("p.sql", TALKATIVE);
    weir.write("weir.yaml", "log:\n  level: debug\n");
    let mut child = piped(&weir);
    drop((child.stdout.take(), child.stderr.take()));
    goes_on_and_ends(&weir, &mut child, 50);
    let mut child = piped(&weir);
    drop(child.stderr.take());
    goes_on_and_ends(&weir, &mut child, 20);
}

#[test]
fn rows_on_the_console_wait_for_a_reader_that_reads() {
    let weir = Weir::new();
    let console = "CREATE SOURCE events (id BIGINT) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');
                   CREATE SINK shown (id BIGINT) WITH (connector = 'console');
                   CREATE PIPELINE p WITH (max_rows_per_micro_batch = 1000) AS BEGIN INSERT INTO shown SELECT id FROM events; END;";
    weir.write("p.sql", console);
    weir.write("in/a.jsonl", &(0..100_000).map(|id| format!("{{\"id\":{id}}}\n")).collect::<String>());
    let printed = weir.succeed(&TO_THE_END);
    let rows = printed.lines().filter(|line| line.starts_with("| ") && !line.contains("id")).count();
    assert_eq!(rows, 100_000);
}

#[test]
fn damaged_progress_is_named_and_that_of_other_pipelines_shown() {
    let weir = folder(COPY);
    weir.succeed(&TO_THE_END);
    let damaged = weir.path("warehouse/_weir/broken/progress.jsonl");
    weir.write("warehouse/_weir/broken/progress.jsonl", "");
    std::fs::write(&damaged, [0xff, 0xfe, b'\n']).unwrap();
    let output = weir.run(&["status"]);
    let (shown, errors) = (crate::program::text(&output.stdout), crate::program::text(&output.stderr));
    assert_eq!(output.status.code(), Some(4), "{errors}");
    assert!(shown.starts_with("p  epoch 1"), "{shown}");
    assert!(errors.contains("_weir/broken/progress.jsonl`: line 1"), "{errors}");
    let output = weir.run(&["status", "p"]);
    assert!(output.status.success(), "{}", crate::program::text(&output.stderr));
}
