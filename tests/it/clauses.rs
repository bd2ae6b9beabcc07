//! What `docs/sql.md` says of each clause, tried with the program: where it says "runs" it runs, where it says "refused" it is refused.

use std::collections::BTreeSet;
use std::fmt::Write as _;

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
