//! The examples with time and memory, run by the real program to their end: what was streamed is what a batch says, and for
//! the fraud features what pandas says.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{Weir, text};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs an example to its end and compares it with its batch; returns what `weir verify` printed.
fn run_and_verify(weir: &Weir, file: &Path, variables: &[(&str, &str)]) -> String {
    let file = file.to_str().unwrap();
    let succeed = |arguments: &[&str]| {
        let output = weir.command(arguments).envs(variables.iter().copied()).output().unwrap();
        let printed = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "weir {arguments:?}: {}\n{printed}", output.status);
        text(&output.stdout)
    };
    succeed(&["run", file]);
    let verdict = succeed(&["verify", file]);
    assert!(verdict.contains("  ok  ") && !verdict.contains("DIFFER"), "{file}: {verdict}");
    assert!(!verdict.contains("  0 rows streamed"), "{file} compares nothing with nothing: {verdict}");
    verdict
}

#[test]
fn every_nexmark_query_streams_what_its_batch_says() {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root().join("sql/nexmark")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 22, "{files:?}");
    // The table that q13 joins bids to comes first.
    files.sort_by_key(|file| !file.ends_with("side_input.sql"));
    let weir = Weir::new();
    for file in &files {
        run_and_verify(&weir, file, &[("EVENTS", "20000"), ("SEED", "42")]);
    }
}

#[test]
fn the_fraud_features_are_those_of_the_batch_and_of_pandas() {
    let weir = Weir::new();
    let variables = [("DAYS", "12"), ("CUSTOMERS", "100"), ("TERMINALS", "200"), ("SEED", "42")];
    run_and_verify(&weir, &root().join("sql/features.sql"), &variables);
    let rows = weir.number("SELECT count(*) FROM features");
    assert!(rows > 1_000, "{rows}");
    assert!(weir.number("SELECT count(*) FROM features WHERE terminal_n_7d > 0") > 0, "labels arrive");
    let tools = root().join("tests/tools/python");
    let setup = Command::new("bash").arg(tools.join("setup.sh")).output();
    let Some(setup) = setup.ok().filter(|setup| setup.status.success()) else {
        eprintln!("######## SKIPPED: no Python environment (tests/tools/python/setup.sh)");
        return;
    };
    let output = Command::new(text(&setup.stdout).trim())
        .arg(tools.join("features.py"))
        .arg(weir.path("warehouse/features"))
        .output()
        .unwrap();
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    assert!(printed.contains(&format!("{rows} rows, largest difference")), "{printed}");
}

#[test]
fn verify_tells_a_table_that_is_not_what_the_sql_says() {
    let sql = "
CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  WITH (connector = 'nexmark', table = 'bid', events = '2000', seed = '1');
CREATE TABLE t (auction BIGINT, n BIGINT, total BIGINT, PRIMARY KEY (auction) NOT ENFORCED) USING DELTA;
CREATE PIPELINE p WITH (state_ttl = 'none') AS BEGIN
  INSERT INTO t SELECT auction, count(*) AS n, sum(price) AS total FROM bid GROUP BY auction;
END;
";
    let weir = Weir::new();
    weir.write("p.sql", sql);
    weir.succeed(&["run", "p.sql"]);
    weir.succeed(&["verify", "p.sql"]);
    weir.write("p.sql", &sql.replace("sum(price) AS", "sum(price + 1) AS"));
    let output = weir.run(&["verify", "p.sql"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let verdict = text(&output.stdout);
    let rows = weir.number("SELECT count(*) FROM t");
    assert!(verdict.contains("DIFFER t") && verdict.contains("only in batch"), "{verdict}");
    assert!(rows < 1_000 && verdict.contains(&format!("{rows} missing, {rows} too many")), "{rows}: {verdict}");
}

#[test]
fn joins_that_keep_lonely_rows_follow_sides_that_take_rows_back() {
    let weir = Weir::new();
    weir.write(
        "p.sql",
        "
CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  WITH (connector = 'nexmark', table = 'bid', events = '6000', seed = '5');
CREATE VIEW a AS SELECT auction % 97 AS k, count(*) AS n FROM bid GROUP BY 1;
CREATE VIEW b AS SELECT bidder % 130 AS k, count(*) AS m, max(price) AS price FROM bid WHERE price % 3 > 0 GROUP BY 1;
CREATE TABLE l (k BIGINT, n BIGINT, m BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE TABLE f (k BIGINT, n BIGINT, m BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE TABLE semi (k BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE TABLE anti (k BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE PIPELINE p WITH (trigger = '10 ms', max_rows_per_micro_batch = 150, state_ttl = 'none') AS BEGIN
  INSERT INTO l SELECT a.k, n, m FROM a LEFT JOIN b ON a.k = b.k AND a.n < b.m;
  INSERT INTO f SELECT coalesce(a.k, b.k) AS k, n, m FROM a FULL JOIN b ON a.k = b.k;
  INSERT INTO semi SELECT k, n FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k AND b.m % 2 = 1);
  INSERT INTO anti SELECT k, n FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k AND b.m < 40);
END;
",
    );
    weir.succeed(&["run", "p.sql"]);
    let verdict = weir.succeed(&["verify", "p.sql"]);
    assert_eq!(verdict.matches("  ok  ").count(), 4, "{verdict}");
    let counts = weir.query(
        "SELECT (SELECT count(*) FROM l WHERE m IS NULL) AS lonely, (SELECT count(*) FROM l WHERE m > 0) AS matched,
           (SELECT count(*) FROM f WHERE n IS NULL) AS right_only, (SELECT count(*) FROM semi) AS semi, (SELECT count(*) FROM anti) AS anti",
    );
    assert!(counts[0].split(',').all(|count| count != "0"), "every case occurs: {counts:?}");
}

#[test]
fn frames_give_their_nth_row_as_batch_does() {
    let weir = Weir::new();
    weir.write(
        "p.sql",
        "
CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  WITH (connector = 'nexmark', table = 'bid', events = '4000', seed = '5');
CREATE TABLE t (auction BIGINT, date_time TIMESTAMP, second BIGINT, before_last BIGINT) USING DELTA;
CREATE PIPELINE p WITH (max_rows_per_micro_batch = 150) AS BEGIN
  INSERT INTO t SELECT auction, date_time, nth_value(price, 2) OVER w AS second, nth_value(price, -2) OVER w AS before_last FROM bid
    WINDOW w AS (PARTITION BY auction ORDER BY date_time RANGE BETWEEN INTERVAL '20 milliseconds' PRECEDING AND INTERVAL '1 millisecond' PRECEDING);
END;
",
    );
    weir.succeed(&["run", "p.sql"]);
    let verdict = weir.succeed(&["verify", "p.sql"]);
    assert_eq!(verdict.matches("  ok  ").count(), 1, "{verdict}");
    assert!(weir.number("SELECT count(*) FROM t WHERE second IS NOT NULL") > 100);
}

#[test]
fn frames_that_cannot_be_kept_are_refused_by_the_check_with_their_place() {
    let weir = Weir::new();
    weir.write(
        "p.sql",
        "
CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid');
CREATE TABLE t (auction BIGINT, n BIGINT) USING DELTA;
INSERT INTO t SELECT auction, count(*) OVER (PARTITION BY auction ORDER BY date_time GROUPS BETWEEN 2 PRECEDING AND CURRENT ROW) AS n FROM bid;
INSERT INTO t SELECT auction, nth_value(price, 0) OVER (PARTITION BY auction ORDER BY date_time RANGE INTERVAL '1 second' PRECEDING) AS n FROM bid;
",
    );
    let output = weir.run(&["check", "p.sql"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for wanted in [
        "p.sql:4:",
        "a window function over a GROUPS frame cannot run on a stream",
        "RANGE with intervals",
        "p.sql:5:",
        "must be a number, not 0",
    ] {
        assert!(errors.contains(wanted), "{wanted} is missing in:\n{errors}");
    }
}
