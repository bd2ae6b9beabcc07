//! `memory_limit` bounds the whole process: the peak of its resident memory stays below the limit and what the program itself takes, whatever
//! the data is like; and nothing is lost by it.
//!
//! The cases run small here. `WEIR_MEMORY_TRIALS=1 cargo test --release --test it memory_limit` runs them at full size, at 300 MiB and 1 GiB.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::program::Weir;

/// Memory of the program besides, MiB.
const BESIDES: u64 = 150;

/// Sizes of a trial: a divisor of the number of rows, and limits in MiB.
struct Trial {
    divisor: usize,
    limits: &'static [u64],
}

fn trial() -> Trial {
    match std::env::var_os("WEIR_MEMORY_TRIALS") {
        Some(_) => Trial { divisor: 1, limits: &[300, 1024] },
        None => Trial { divisor: 20, limits: &[64] },
    }
}

/// The peak of a process's resident memory so far, MiB.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// Runs a pipeline over what there is within each limit, and hands the folder to `check`.
fn run(sql: &str, fill: impl Fn(&Weir, usize), check: impl Fn(&Weir, i64)) {
    run_beside(BESIDES, sql, fill, check);
}

/// The same of a process that takes this many MiB besides.
fn run_beside(besides: u64, sql: &str, fill: impl Fn(&Weir, usize), check: impl Fn(&Weir, i64)) {
    let Trial { divisor, limits } = trial();
    for limit in limits {
        let weir = Weir::new();
        weir.write("p.sql", sql);
        let spill = weir.path("spill");
        weir.write("c.yaml", &format!("memory_limit: {limit}MiB\nspill_folder: {}\n", spill.display()));
        fill(&weir, divisor);
        let mut running = weir.start(&["run", "p.sql", "-c", "c.yaml", "--trigger", "available now"], &[], "log");
        let (mut most, deadline) = (0, Instant::now() + Duration::from_secs(600));
        while running.runs() {
            most = most.max(peak(running.pid()).unwrap_or(0));
            assert!(Instant::now() < deadline, "{}", running.printed());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(running.wait(Duration::ZERO), Some(0), "{}", running.printed());
        assert!(most <= limit + besides, "{most} MiB of {limit} MiB: {}", running.printed());
        check(&weir, divisor as i64);
    }
}

fn lines(weir: &Weir, name: &str, count: usize, line: impl Fn(&mut String, usize)) {
    let mut text = String::new();
    for number in 0..count {
        line(&mut text, number);
        text.push('\n');
    }
    weir.write(name, &text);
}

const LETTERS: &str = "SELECT count(*) FROM weir.dead_letters";

#[test]
fn dead_letters_of_one_epoch_are_written_as_they_come() {
    let sql = "
CREATE SOURCE s (id BIGINT NOT NULL) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');
CREATE TABLE t (id BIGINT) USING DELTA;
CREATE PIPELINE p AS BEGIN INSERT INTO t SELECT id FROM s; END;";
    let bad = r#"{"id":"not a number, but a text of some length so that the dead letter weighs something"}"#;
    let fill = |weir: &Weir, divisor| lines(weir, "in/a.jsonl", 5_000_000 / divisor, |text, _| text.push_str(bad));
    run(sql, fill, |weir, divisor| assert_eq!(weir.number(LETTERS), 5_000_000 / divisor));
}

#[test]
fn rows_that_a_table_refuses_are_written_as_they_come() {
    let sql = "
CREATE SOURCE s (id BIGINT) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');
CREATE TABLE t (id BIGINT NOT NULL, CHECK (id < 0)) USING DELTA;
CREATE PIPELINE p AS BEGIN INSERT INTO t SELECT id FROM s; END;";
    let fill = |weir: &Weir, divisor| {
        lines(weir, "in/a.jsonl", 4_000_000 / divisor, |text, _| text.push_str(r#"{"id":123456789}"#));
    };
    run(sql, fill, |weir, divisor| assert_eq!(weir.number(LETTERS), 4_000_000 / divisor));
}

#[test]
fn as_many_partitions_as_rows_cost_files_and_not_memory() {
    let sql = "
CREATE SOURCE s (id BIGINT, k STRING) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');
CREATE TABLE t (id BIGINT, k STRING) USING DELTA PARTITIONED BY (k);
CREATE PIPELINE p AS BEGIN INSERT INTO t SELECT id, k FROM s; END;";
    let fill = |weir: &Weir, divisor| {
        lines(weir, "in/a.jsonl", 100_000 / divisor, |text, n| write!(text, r#"{{"id":{n},"k":"p{n}"}}"#).unwrap());
    };
    run(sql, fill, |weir, divisor| {
        let rows = 100_000 / divisor;
        assert_eq!(weir.number("SELECT count(*) FROM t"), rows);
        assert_eq!(weir.number("SELECT count(*) FROM t WHERE k = 'p' || CAST(id AS STRING)"), rows);
    });
}

#[test]
fn unnest_emits_in_slices() {
    let sql = "
CREATE SOURCE a (k BIGINT) WITH (connector = 'file', path = 'in/a*.jsonl', format = 'json');
CREATE TABLE t (n BIGINT) USING DELTA;
CREATE PIPELINE p AS BEGIN INSERT INTO t SELECT unnest(range(0, 100000)) AS n FROM a; END;";
    let fill = |weir: &Weir, divisor| lines(weir, "in/a.jsonl", 2_000 / divisor, |text, _| text.push_str(r#"{"k":1}"#));
    run(sql, fill, |weir, divisor| {
        assert_eq!(weir.number("SELECT count(*) FROM t"), 200_000_000 / divisor);
        assert_eq!(weir.number("SELECT sum(n) FROM t"), 2_000 / divisor * (0..100_000).sum::<i64>());
    });
}

#[test]
fn a_join_of_one_key_emits_in_slices() {
    let sql = "
CREATE SOURCE a (k BIGINT, x BIGINT) WITH (connector = 'file', path = 'in/a*.jsonl', format = 'json');
CREATE SOURCE b (k BIGINT, y BIGINT) WITH (connector = 'file', path = 'in/b*.jsonl', format = 'json');
CREATE TABLE t (k BIGINT, x BIGINT, y BIGINT) USING DELTA;
CREATE PIPELINE p WITH (state_ttl = '1 day') AS BEGIN INSERT INTO t SELECT a.k, a.x, b.y FROM a JOIN b ON a.k = b.k; END;";
    let rows = |divisor| 5_000 / if divisor == 1 { 1 } else { 2 };
    let fill = |weir: &Weir, divisor| {
        for (file, column) in [("a", "x"), ("b", "y")] {
            let line = |text: &mut String, n| write!(text, r#"{{"k":1,"{column}":{n}}}"#).unwrap();
            lines(weir, &format!("in/{file}.jsonl"), rows(divisor), line);
        }
    };
    run(sql, fill, |weir, divisor| {
        let rows = rows(divisor as usize) as i64;
        assert_eq!(weir.number("SELECT count(*) FROM t"), rows * rows);
        assert_eq!(weir.number("SELECT count(DISTINCT x * 10000 + y) FROM t"), rows * rows);
    });
}

#[test]
fn an_epoch_of_upserts_closes_early() {
    let sql = "
CREATE SOURCE s (id BIGINT, k STRING) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');
CREATE TABLE g (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE PIPELINE p WITH (state_ttl = 'none') AS BEGIN INSERT INTO g SELECT k, count(*) AS n FROM s GROUP BY k; END;";
    let fill = |weir: &Weir, divisor| {
        let line =
            |text: &mut String, n: usize| write!(text, r#"{{"id":{n},"k":"key-{:09}"}}"#, n % 1_000_000).unwrap();
        lines(weir, "in/a.jsonl", 3_000_000 / divisor, line);
    };
    run(sql, fill, |weir, divisor| {
        assert_eq!(weir.number("SELECT sum(n) FROM g"), 3_000_000 / divisor);
        assert_eq!(weir.number("SELECT count(*) FROM g"), (3_000_000 / divisor).min(1_000_000));
        assert!(weir.number("SELECT max(epoch) FROM weir.progress") > 1);
    });
}

/// Micro-batches of each epoch, in order.
fn micro_batches(weir: &Weir) -> Vec<u64> {
    let progress = std::fs::read_to_string(weir.path("warehouse/_weir/p/progress.jsonl")).unwrap();
    let epochs = progress.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    epochs.map(|epoch| epoch["microBatches"].as_u64().unwrap()).collect()
}

#[test]
fn state_that_is_on_disk_is_read_once_an_epoch() {
    let sql = "
CREATE SOURCE s (id BIGINT, k STRING) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');
CREATE TABLE g (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE PIPELINE p WITH (state_ttl = 'none') AS BEGIN INSERT INTO g SELECT k, count(*) AS n FROM s GROUP BY k; END;";
    // More keys than the state of the smallest limit holds; at 1 GiB all of them stay in memory.
    let rows = |divisor: usize| 3_500_000 / divisor.min(7);
    let fill = |weir: &Weir, divisor| {
        lines(weir, "in/a.jsonl", rows(divisor), |text, n| write!(text, r#"{{"id":{n},"k":"key-{n:09}"}}"#).unwrap());
    };
    // Reading cells again takes more than limits below 256 MiB promise.
    let besides = if trial().divisor == 1 { BESIDES } else { 250 };
    run_beside(besides, sql, fill, |weir, divisor| {
        assert_eq!(weir.number("SELECT count(*) FROM g WHERE n = 1"), rows(divisor as usize) as i64);
        let epochs = micro_batches(weir);
        let last = &epochs[epochs.len() * 4 / 5..epochs.len() - 1];
        assert!(epochs.len() < 20 || last.iter().all(|count| *count <= 2), "{epochs:?}");
    });
}

/// Lines with a number `n` that is 1 in the first part of the file and `large` in the last sixth.
fn growing(weir: &Weir, count: usize, large: usize) {
    lines(weir, "in/a.jsonl", count, |text, id| {
        let n = if id < count / 6 * 5 { 1 } else { large };
        write!(text, r#"{{"id":{id},"k":"x","n":{n}}}"#).unwrap();
    });
}

const GROWING: &str = "
CREATE SOURCE s (id BIGINT, n BIGINT, k STRING) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');";

#[test]
fn constants_that_are_written_to_every_row_are_made_in_slices() {
    let sql = format!(
        "{GROWING}
CREATE TABLE t (id BIGINT, s STRING) USING DELTA;
CREATE PIPELINE p AS BEGIN INSERT INTO t SELECT id, repeat('y', 100000) AS s FROM s; END;"
    );
    // Eight times as much as an array of texts can hold, in the long form.
    run(
        &sql,
        |weir, divisor| growing(weir, 60_000 / divisor, 1),
        |weir, divisor| {
            let rows = 60_000 / divisor;
            assert_eq!(weir.number("SELECT count(DISTINCT id) FROM t"), rows);
            assert_eq!(weir.number("SELECT sum(length(s)) FROM t"), rows * 100_000);
        },
    );
}

#[test]
fn functions_that_suddenly_make_much_of_a_row_are_computed_in_slices() {
    let sql = format!(
        "{GROWING}
CREATE FUNCTION long(x STRING, n BIGINT) RETURNS STRING LANGUAGE sql AS $$ repeat(x, n) || x $$;
CREATE VIEW v AS SELECT id, k, n, long(k, n) || k AS s FROM s;
CREATE TABLE t (id BIGINT, length BIGINT, numbers BIGINT) USING DELTA;
CREATE TABLE g (k STRING, longest BIGINT, lengths BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE PIPELINE p WITH (state_ttl = 'none') AS BEGIN
  INSERT INTO t SELECT id, CAST(length(s) AS BIGINT) AS length, CAST(cardinality(range(0, n)) AS BIGINT) AS numbers
    FROM v WHERE length(repeat(s, 2)) > 0;
  INSERT INTO g SELECT k, max(CAST(length(repeat('z', n)) AS BIGINT)) AS longest, count(DISTINCT length(repeat(k, n))) AS lengths
    FROM s GROUP BY k;
END;"
    );
    run(
        &sql,
        |weir, divisor| growing(weir, 36_000 / divisor, 100_000),
        |weir, divisor| {
            let rows = 36_000 / divisor;
            let large = rows / 6;
            assert_eq!(weir.number("SELECT count(DISTINCT id) FROM t"), rows);
            assert_eq!(weir.number("SELECT sum(length) FROM t"), (rows - large) * 3 + large * 100_002);
            assert_eq!(weir.number("SELECT sum(numbers) FROM t"), rows - large + large * 100_000);
            assert_eq!(weir.number("SELECT longest * 10 + lengths FROM g"), 1_000_002);
        },
    );
}

#[test]
fn a_value_too_large_for_one_row_is_refused_by_the_function() {
    let weir = Weir::new();
    weir.write(
        "p.sql",
        &format!(
            "{GROWING}
CREATE TABLE t (s STRING) USING DELTA;
CREATE PIPELINE p AS BEGIN INSERT INTO t SELECT repeat(k, n) AS s FROM s; END;"
        ),
    );
    weir.write("c.yaml", "memory_limit: 300MiB\n");
    growing(&weir, 600, 2_000_000_000);
    let mut running = weir.start(&["run", "p.sql", "-c", "c.yaml", "--trigger", "available now"], &[], "log");
    let mut most = 0;
    while running.runs() {
        most = most.max(peak(running.pid()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(running.wait(Duration::ZERO), Some(0), "{}", running.printed());
    assert_eq!(weir.number("SELECT count(*) FROM t"), 500);
    let refused = "SELECT count(*) FROM weir.dead_letters WHERE reason LIKE '%`repeat` makes too much of one row%'";
    assert_eq!(weir.number(refused), 100);
    assert!(most <= 300 + BESIDES, "{most} MiB");
}
