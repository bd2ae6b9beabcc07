//! Pipelines from files and the simulator to Delta, with the real program.

use crate::program::{Weir, text};

const FILES: &str = "
CREATE SOURCE events (id BIGINT NOT NULL, amount DOUBLE, ts TIMESTAMP)
  WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '50 ms');
CREATE TABLE everything (id BIGINT NOT NULL, amount DOUBLE, day DATE) USING DELTA PARTITIONED BY (day);
CREATE TABLE large (id BIGINT NOT NULL, amount DOUBLE CHECK (amount < 900)) USING DELTA;
CREATE FUNCTION doubled(a DOUBLE) RETURNS DOUBLE IMMUTABLE LANGUAGE sql AS $$ a * 2 $$;
CREATE VIEW seen AS SELECT id, doubled(amount) AS amount, ts FROM events;
CREATE PIPELINE p AS BEGIN
  INSERT INTO everything SELECT id, amount, CAST(ts AS DATE) AS day FROM seen;
  INSERT INTO large SELECT id, amount FROM seen WHERE amount >= 500;
END;
";

fn lines(ids: std::ops::Range<i64>) -> String {
    ids.map(|id| format!("{{\"id\":{id},\"amount\":{}.5,\"ts\":\"2026-01-0{}T00:00:00Z\"}}\n", id % 500, 1 + id % 3))
        .collect()
}

#[test]
fn files_become_tables_and_new_files_are_picked_up_where_the_last_run_ended() {
    let weir = Weir::new();
    weir.write("p.sql", FILES);
    weir.write("in/a.jsonl", &lines(0..1000));
    weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    assert_eq!(weir.query("SELECT count(*), count(DISTINCT id), sum(amount) FROM everything"), ["1000,1000,500000.0"]);
    weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    assert_eq!(weir.number("SELECT count(*) FROM everything"), 1000, "nothing new, nothing twice");
    weir.write("in/b.jsonl", &(lines(1000..1500) + "{\"id\":\n{\"amount\":1}\n"));
    weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    assert_eq!(weir.query("SELECT count(*), count(DISTINCT id) FROM everything"), ["1500,1500"]);
    assert_eq!(weir.number("SELECT count(DISTINCT day) FROM everything"), 3);
    // 2 * (id % 500 + 0.5) >= 500 for id % 500 >= 250; those of 900 and more break the CHECK.
    assert_eq!(weir.number("SELECT count(*) FROM large"), 3 * 200);
    assert_eq!(weir.number("SELECT count(*) FROM weir.dead_letters WHERE source = 'large'"), 3 * 50);
    let reasons = weir.query("SELECT \"column\", \"offset\" IS NOT NULL FROM weir.dead_letters WHERE source = 'events' ORDER BY 1 NULLS FIRST");
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.iter().any(|row| row == "id,true"), "{reasons:?}");
    let status = weir.succeed(&["status"]);
    assert!(status.contains("p  epoch 2") && status.contains("everything"), "{status}");
}

#[test]
fn a_table_that_one_pipeline_writes_is_the_source_of_another() {
    let weir = Weir::new();
    weir.write("p.sql", FILES);
    weir.write(
        "q.sql",
        "
        CREATE SOURCE written WITH (connector = 'delta', path = 'warehouse/everything');
        CREATE SOURCE changed WITH (connector = 'delta', path = 'warehouse/large', mode = 'changes', starting_version = '0');
        CREATE TABLE copy (id BIGINT NOT NULL, amount DOUBLE, day DATE) USING DELTA;
        CREATE TABLE history (id BIGINT NOT NULL, change STRING, version BIGINT) USING DELTA;
        INSERT INTO copy SELECT * FROM written;
        INSERT INTO history SELECT id, _change_type AS change, _commit_version AS version FROM changed;",
    );
    let refused = weir.run(&["check", "q.sql"]);
    assert!(text(&refused.stderr).contains("no Delta table at `warehouse/everything`"), "{}", text(&refused.stderr));
    for part in 0..3 {
        weir.write(&format!("in/{part}.jsonl"), &lines(part * 1000..(part + 1) * 1000));
        weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
        weir.succeed(&["check", "q.sql", "--connect"]);
        weir.succeed(&["run", "q.sql", "--trigger", "available now"]);
        let counts = "SELECT count(*), count(DISTINCT id), sum(amount), count(DISTINCT day) FROM";
        assert_eq!(weir.query(&format!("{counts} copy")), weir.query(&format!("{counts} everything")));
        let seen = weir.query("SELECT count(*), count(DISTINCT id), max(change), min(version) FROM history");
        let large = weir.query("SELECT count(*), count(DISTINCT id) FROM large");
        assert_eq!(seen, [format!("{},insert,1", large[0])]);
    }
    assert_eq!(weir.number("SELECT count(*) FROM copy"), 3000);
    let explained = weir.succeed(&["explain", "q.sql"]);
    assert!(explained.contains("changes of delta table warehouse/large"), "{explained}");
}

#[test]
fn a_stopped_pipeline_commits_the_open_epoch_and_ends_with_0() {
    let weir = Weir::new();
    weir.write(
        "g.sql",
        "
        CREATE SOURCE tx WITH (connector = 'generator', rate = '5000', seed = '7');
        CREATE TABLE t (transaction_id STRING NOT NULL, amount DOUBLE) USING DELTA;
        CREATE PIPELINE g WITH (trigger = '1 hour') AS BEGIN INSERT INTO t SELECT transaction_id, amount FROM tx; END;",
    );
    let mut running = weir.start(&["run", "g.sql"], &[], "log");
    std::thread::sleep(std::time::Duration::from_millis(3000));
    assert_eq!(running.terminate(), Some(0), "{}", running.printed());
    let rows = weir.number("SELECT count(*) FROM t");
    assert!(rows > 0);
    assert_eq!(weir.number("SELECT count(DISTINCT transaction_id) FROM t"), rows);
    assert_eq!(weir.number("SELECT max(epoch) FROM weir.progress"), 1, "one epoch, committed at the end");
}

#[test]
fn an_idle_pipeline_commits_nothing() {
    let weir = Weir::new();
    weir.write("p.sql", FILES);
    weir.write("in/a.jsonl", &lines(0..10));
    let mut running = weir.start(&["run", "p.sql", "--trigger", "50 ms"], &[], "log");
    std::thread::sleep(std::time::Duration::from_millis(3000));
    assert_eq!(running.terminate(), Some(0), "{}", running.printed());
    assert_eq!(weir.number("SELECT max(epoch) FROM weir.progress"), 1);
}

#[test]
fn sql_errors_are_all_shown_with_their_places_and_exit_1() {
    let weir = Weir::new();
    weir.write(
        "bad.sql",
        "
CREATE SOURCE s (id BIGINT) WITH (connector = 'file', path = 'in', format = 'json');
CREATE TABLE t (id BIGINT, n INT) USING DELTA;
INSERT INTO t SELECT id, CAST(1 AS INT) AS n FROM s ORDER BY id;
INSERT INTO t SELECT idd, 1 AS n FROM s;
INSERT INTO t SELECT id, id AS n FROM s;
",
    );
    let output = weir.run(&["check", "bad.sql"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for wanted in [
        "bad.sql:4:",
        "ORDER BY without LIMIT cannot run on a stream",
        "bad.sql:5:",
        "idd",
        "bad.sql:6:",
        "column `n` of `t` is INT, the query gives BIGINT",
    ] {
        assert!(errors.contains(wanted), "{wanted} is missing in:\n{errors}");
    }
}

#[test]
fn a_shared_view_is_computed_once() {
    let weir = Weir::new();
    weir.write("p.sql", FILES);
    let plan = weir.succeed(&["explain", "p.sql"]);
    assert_eq!(plan.matches("stream seen").count(), 1, "{plan}");
    assert_eq!(plan.matches("HeldExec: stream=seen").count(), 2, "{plan}");
    assert_eq!(plan.matches("HeldExec: stream=events").count(), 1, "{plan}");
}

#[test]
fn a_model_that_is_missing_or_damaged_is_an_error_of_check() {
    let weir = Weir::new();
    let sql = "
CREATE SOURCE tx WITH (connector = 'generator');
CREATE MODEL fraud_score WITH (provider = 'lightgbm', path = 'm.txt');
CREATE TABLE t (id STRING, score DOUBLE) USING DELTA;
INSERT INTO t SELECT transaction_id AS id, fraud_score(amount, 1, 2, 3) AS score FROM tx;
";
    weir.write("m.sql", sql);
    let missing = weir.run(&["check", "m.sql"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("m.sql:3:"), "{}", text(&missing.stderr));
    let model = include_str!("../data/fraud.txt");
    weir.write("m.txt", &model[..model.len() / 2]);
    let damaged = weir.run(&["check", "m.sql"]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(text(&damaged.stderr).contains("not a usable LightGBM model"), "{}", text(&damaged.stderr));
    weir.write("m.txt", model);
    assert!(!weir.succeed(&["check", "m.sql"]).contains("warning"));
    weir.write(
        "m.sql",
        &sql.replace("amount, 1, 2, 3", "hour, amount, 2, 3")
            .replace("FROM tx", "FROM (SELECT *, 5 + amount AS hour FROM tx)"),
    );
    let mixed_up = weir.succeed(&["check", "m.sql"]);
    assert!(mixed_up.contains("argument 2 of `fraud_score` is its feature `hour`, and `amount`"), "{mixed_up}");
    // By name, nothing is mixed up; of a struct, the field's name counts.
    let by_name = sql.replace("amount, 1, 2, 3", "hour => amount, amount => hour, weekend => 2, night => 3");
    let by_name = by_name.replace("FROM tx", "FROM (SELECT *, 5 + amount AS hour FROM tx)");
    weir.write("m.sql", &by_name);
    assert!(!weir.succeed(&["check", "m.sql"]).contains("warning"));
    weir.write(
        "m.sql",
        &sql.replace("amount, 1, 2, 3", "st.hour, CAST(st.amount AS FLOAT), 2, 3").replace(
            "FROM tx",
            "FROM (SELECT transaction_id, named_struct('amount', amount, 'hour', 5 + amount) AS st FROM tx)",
        ),
    );
    let mixed_up = weir.succeed(&["check", "m.sql"]);
    assert!(mixed_up.contains("argument 2 of `fraud_score` is its feature `hour`, and `amount`"), "{mixed_up}");
    weir.write("m.sql", &sql.replace("amount, 1, 2, 3", "amount, 1"));
    let count = weir.run(&["check", "m.sql"]);
    assert_eq!(count.status.code(), Some(1));
    assert!(
        text(&count.stderr).contains("in this order: `fraud_score(amount, hour, weekend, night)`"),
        "{}",
        text(&count.stderr)
    );
}
