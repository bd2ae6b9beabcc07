//! The table of clauses in `docs/sql.md`, tried with the program: where it says "runs" it runs, where it says "refused" it is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir::sql::accept::{CLAUSES, Does};

use super::program::{Weir, text};

const COLUMNS: &str = "a INT, b INT, s STRING, ts TIMESTAMP, l INT[]";

/// A folder with tables `t` and `u` of one row each.
fn tables() -> Weir {
    let weir = Weir::new();
    weir.write("in/rows.jsonl", "{\"a\":1,\"b\":2,\"s\":\"x\",\"ts\":\"2026-01-01T00:00:00Z\",\"l\":[1,2]}\n");
    let sql = format!(
        "CREATE SOURCE e ({COLUMNS}, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in', format = 'json');
         CREATE TABLE t ({COLUMNS}) USING DELTA; CREATE TABLE u ({COLUMNS}) USING DELTA;
         CREATE PIPELINE fill WITH (trigger = 'available now') AS BEGIN
           INSERT INTO t SELECT * FROM e; INSERT INTO u SELECT * FROM e;
         END;"
    );
    weir.write("fill.sql", &sql);
    weir.succeed(&["run", "fill.sql"]);
    weir
}

#[test]
fn queries_run_the_clauses_that_the_reference_says() {
    let weir = tables();
    let mut wrong = Vec::new();
    for clause in CLAUSES {
        let output = weir.run(&["query", clause.example]);
        if output.status.success() != (clause.does != Does::NotRun) {
            wrong.push(format!("{}: {}", clause.name, text(&output.stderr)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pipelines_run_the_clauses_that_the_reference_says() {
    let weir = Weir::new();
    let mut sql = String::new();
    for name in ["t", "u"] {
        let watermark = "WATERMARK FOR ts AS ts";
        let options = format!("connector = 'file', path = '{name}', format = 'json'");
        let _ = writeln!(sql, "CREATE SOURCE {name} ({COLUMNS}, {watermark}) WITH ({options});");
    }
    sql.push_str("CREATE SINK out WITH (connector = 'console');\n");
    let before = sql.lines().count();
    for (number, clause) in CLAUSES.iter().enumerate() {
        let options = "state_ttl = '1 day', rolling_emit = 'on_watermark'";
        let insert = format!("INSERT INTO out {};", clause.example);
        let _ = writeln!(sql, "CREATE PIPELINE p{number} WITH ({options}) AS BEGIN {insert} END;");
    }
    weir.write("p.sql", &sql);
    let told = text(&weir.run(&["check", "p.sql"]).stderr);
    let place = |line: &str| line.split("p.sql:").nth(1)?.split(':').next()?.parse::<usize>().ok();
    let refused: BTreeSet<usize> = told.lines().filter_map(place).map(|line| line - 1 - before).collect();
    let expected: BTreeSet<usize> = (0..CLAUSES.len()).filter(|number| CLAUSES[*number].does != Does::Run).collect();
    let unlike: Vec<_> = refused.symmetric_difference(&expected).map(|number| CLAUSES[*number].name).collect();
    assert!(unlike.is_empty(), "{unlike:?}\n{told}");
}

/// Number of times that each value is given by `a op ALL b`.
fn counted(op: &str, a: &[Option<i64>], b: &[Option<i64>]) -> BTreeMap<Option<i64>, i64> {
    let count = |rows: &[Option<i64>], value: &Option<i64>| rows.iter().filter(|row| *row == value).count() as i64;
    let times = |value: &Option<i64>| match op {
        "EXCEPT" => count(a, value) - count(b, value),
        _ => count(a, value).min(count(b, value)),
    };
    a.iter().map(|value| (*value, times(value))).filter(|(_, times)| *times > 0).collect()
}

fn lines(rows: &[Option<i64>]) -> String {
    rows.iter().fold(String::new(), |text, row| match row {
        Some(value) => text + &format!("{{\"x\":{value}}}\n"),
        None => text + "{}\n",
    })
}

#[test]
fn except_all_and_intersect_all_count_rows_in_queries_and_in_pipelines_that_go_on() {
    for seed in 0..3 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let weir = Weir::new();
        weir.write(
            "p.sql",
            "CREATE SOURCE a (x BIGINT) WITH (connector = 'file', path = 'a.jsonl');
             CREATE SOURCE b (x BIGINT) WITH (connector = 'file', path = 'b.jsonl');
             CREATE TABLE ta (x BIGINT) USING DELTA; CREATE TABLE tb (x BIGINT) USING DELTA;
             CREATE TABLE e (x BIGINT, n BIGINT, PRIMARY KEY (x) NOT ENFORCED) USING DELTA;
             CREATE TABLE i (x BIGINT, n BIGINT, PRIMARY KEY (x) NOT ENFORCED) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = 'none', max_rows_per_micro_batch = 7) AS BEGIN
               INSERT INTO ta SELECT x FROM a; INSERT INTO tb SELECT x FROM b;
               INSERT INTO e SELECT coalesce(x, -1) AS x, count(*) AS n FROM (SELECT x FROM a EXCEPT ALL SELECT x FROM b) GROUP BY x;
               INSERT INTO i SELECT coalesce(x, -1) AS x, count(*) AS n FROM (SELECT x FROM a INTERSECT ALL SELECT x FROM b) GROUP BY x;
             END;",
        );
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let mut more = |rows: &mut Vec<Option<i64>>| {
                let count = rng.random_range(0..25);
                rows.extend((0..count).map(|_| (!rng.random_bool(0.1)).then(|| rng.random_range(0..6_i64))));
            };
            more(&mut a);
            more(&mut b);
            weir.write("a.jsonl", &lines(&a));
            weir.write("b.jsonl", &lines(&b));
            weir.succeed(&["run", "p.sql"]);
            for (op, table) in [("EXCEPT", "e"), ("INTERSECT", "i")] {
                let expected: Vec<String> =
                    counted(op, &a, &b).into_iter().map(|(x, n)| format!("{},{n}", x.unwrap_or(-1))).collect();
                assert_eq!(weir.query(&format!("SELECT x, n FROM {table} ORDER BY x")), expected, "{op} {a:?} {b:?}");
                let query = format!("SELECT x FROM ta {op} ALL SELECT x FROM tb ORDER BY x");
                let queried = weir
                    .query(&format!("SELECT coalesce(x, -1) AS x, count(*) AS n FROM ({query}) GROUP BY 1 ORDER BY 1"));
                assert_eq!(queried, expected, "{op} {a:?} {b:?}");
            }
        }
        assert_eq!(weir.succeed(&["verify", "p.sql"]).matches("  ok  ").count(), 4);
    }
    let weir = Weir::new();
    assert_eq!(weir.query("SELECT 1 AS a, 'x' AS b EXCEPT ALL SELECT 2, 'y' ORDER BY a"), ["1,x"]);
    assert_eq!(
        weir.query("(SELECT 1 AS a UNION ALL SELECT 1 UNION ALL SELECT 2) EXCEPT ALL SELECT 1 EXCEPT ALL SELECT 2"),
        ["1"]
    );
    let told = text(&weir.run(&["query", "SELECT 1, 2 EXCEPT ALL SELECT 1"]).stderr);
    assert!(told.contains("EXCEPT ALL of 2 columns and 1 columns"), "{told}");
}
