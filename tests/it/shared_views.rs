//! Views that several INSERTs read, with rows that cannot be computed: each INSERT has the rows that it would have if nothing else read the view.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::program::{Weir, text};

/// `q` is 0 in rows 0, 2 and 4; `t` is no number in rows 1 and 4.
const ROWS: [(i64, &str); 6] = [(0, "1"), (1, "x"), (0, "2"), (1, "3"), (0, "y"), (1, "4")];

const SOURCE: &str = "CREATE SOURCE s (k BIGINT NOT NULL, g STRING, q BIGINT, t STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in', format = 'json');
    CREATE VIEW v AS SELECT k, g, q, 10 / q AS x, CAST(t AS BIGINT) AS y, ts FROM s;\n";

/// Runs INSERTs over `SOURCE`, into tables that `tables` declares.
fn run(options: &str, tables: &str, inserts: &str) -> (Weir, std::process::Output) {
    let weir = Weir::new();
    let line = |(k, (q, t)): (usize, &(i64, &str))| {
        format!("{{\"k\":{k},\"g\":\"a\",\"q\":{q},\"t\":\"{t}\",\"ts\":\"2024-01-01T00:{k:02}:00Z\"}}\n")
    };
    weir.write("in/a.jsonl", &ROWS.iter().enumerate().map(line).collect::<String>());
    weir.write("p.sql", &format!("{SOURCE}{tables}\nCREATE PIPELINE p WITH (trigger = 'available now', at_end = 'flush', state_ttl = 'none'{options}) AS BEGIN {inserts} END;"));
    let output = weir.run(&["run", "p.sql"]);
    (weir, output)
}

const TABLES: &str = "CREATE TABLE a (k BIGINT, x BIGINT) USING DELTA;
    CREATE TABLE b (k BIGINT, y BIGINT) USING DELTA;
    CREATE TABLE c (k BIGINT) USING DELTA;
    CREATE TABLE d (k BIGINT, x BIGINT) USING DELTA;
    CREATE TABLE e (g STRING NOT NULL, n BIGINT, PRIMARY KEY (g) NOT ENFORCED) USING DELTA;
    CREATE TABLE r (k BIGINT, n BIGINT) USING DELTA;
    CREATE TABLE w (n BIGINT, x BIGINT) USING DELTA;";

const INSERTS: &str = "INSERT INTO a SELECT k, x FROM v;
    INSERT INTO b SELECT k, y FROM v;
    INSERT INTO c SELECT k FROM v;
    INSERT INTO d SELECT k, x FROM v WHERE q <> 0;
    INSERT INTO e SELECT g, count(*) AS n FROM v GROUP BY g;
    INSERT INTO r SELECT k, count(*) OVER (PARTITION BY g ORDER BY ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM v;
    INSERT INTO w SELECT count(*) AS n, sum(x) AS x FROM TUMBLE(TABLE v, DESCRIPTOR(ts), INTERVAL '1 hour') GROUP BY window_start, window_end;";

#[test]
fn an_insert_loses_no_row_for_an_expression_that_only_others_compute() {
    let (weir, output) = run("", TABLES, INSERTS);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(weir.query("SELECT k, x FROM a ORDER BY k"), ["1,10", "3,10", "5,10"]);
    assert_eq!(weir.query("SELECT k, y FROM b ORDER BY k"), ["0,1", "2,2", "3,3", "5,4"]);
    assert_eq!(weir.query("SELECT k FROM c ORDER BY k"), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(weir.query("SELECT k, x FROM d ORDER BY k"), ["1,10", "3,10", "5,10"]);
    assert_eq!(weir.query("SELECT g, n FROM e"), ["a,6"]);
    assert_eq!(weir.query("SELECT k, n FROM r ORDER BY k"), ["0,1", "1,2", "2,3", "3,4", "4,5", "5,6"]);
    assert_eq!(weir.query("SELECT n, x FROM w"), ["3,30"]);
    let reasons = weir.query("SELECT reason FROM weir.dead_letters");
    let mut tables: Vec<&str> =
        reasons.iter().filter_map(|reason| reason.trim_end_matches('"').rsplit(' ').next()).collect();
    tables.sort_unstable();
    assert_eq!(tables, ["`a`", "`a`", "`a`", "`b`", "`b`", "`w`", "`w`", "`w`"]);
    weir.succeed(&["verify", "p.sql"]);
}

#[test]
fn null_and_fail_concern_the_inserts_that_compute_the_expression() {
    let (weir, output) = run(", on_row_error = 'null'", TABLES, INSERTS);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(weir.query("SELECT k, x FROM a ORDER BY k"), ["0,", "1,10", "2,", "3,10", "4,", "5,10"]);
    assert_eq!(weir.query("SELECT k FROM c ORDER BY k"), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(weir.query("SELECT g, n FROM e"), ["a,6"]);
    assert_eq!(weir.query("SELECT n, x FROM w"), ["6,30"]);
    assert_eq!(weir.number("SELECT count(*) FROM weir.dead_letters"), 0);
    let guarded = "INSERT INTO c SELECT k FROM v; INSERT INTO d SELECT k, x FROM v WHERE q <> 0;";
    let (weir, output) = run(", on_row_error = 'fail'", TABLES, guarded);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(weir.query("SELECT k FROM d ORDER BY k"), ["1", "3", "5"]);
    let (_, output) = run(", on_row_error = 'fail'", TABLES, &format!("INSERT INTO a SELECT k, x FROM v; {guarded}"));
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("`10 / q`") && said.contains("for `a`."), "{said}");
}

#[test]
fn a_record_is_one_letter_for_an_insert_that_reads_the_view_twice() {
    let joined = "INSERT INTO d SELECT x.k, y.x FROM v x JOIN v y ON x.k = y.k AND x.x = y.x AND y.ts BETWEEN x.ts AND x.ts + INTERVAL '1 minute';
        INSERT INTO c SELECT k FROM v UNION ALL SELECT x - 10 AS k FROM v WHERE k > 2;
        INSERT INTO b SELECT k, y FROM v UNION ALL SELECT n AS k, 0 AS y FROM (SELECT count(*) AS n FROM TUMBLE(TABLE v, DESCRIPTOR(ts), INTERVAL '1 hour') GROUP BY y, window_start, window_end);";
    let (weir, output) = run("", TABLES, joined);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(weir.query("SELECT k, x FROM d ORDER BY k"), ["1,10", "3,10", "5,10"]);
    assert_eq!(weir.query("SELECT k FROM c ORDER BY k"), ["0", "0", "0", "1", "2", "3", "4", "5"]);
    assert_eq!(
        weir.query("SELECT k, y FROM b ORDER BY k, y"),
        ["0,1", "1,0", "1,0", "1,0", "1,0", "2,2", "3,3", "5,4"]
    );
    for (table, records) in [("`d`", 3), ("`c`", 1), ("`b`", 2)] {
        let of_table = format!("FROM weir.dead_letters WHERE reason LIKE '%left out of {table}'");
        assert_eq!(weir.number(&format!("SELECT count(*) {of_table}")), records, "{table}");
        assert_eq!(weir.number(&format!("SELECT count(DISTINCT \"offset\") {of_table}")), records, "{table}");
    }
}

/// Views over the source and over each other. Their columns are those of `CONSUMERS`.
const VIEWS: [&str; 3] = [
    "SELECT k, g, ts, q, t, 10 / q AS x, CAST(t AS BIGINT) AS y, 100 / (k % 11) AS z FROM s",
    "SELECT k, g, ts, q, t, x + 1 AS x, y, 50 / (z - 25) AS z FROM {v0} WHERE k % 5 <> 3 AND z > 10",
    "SELECT k, g, ts, q, t, x, y * 2 AS y, z FROM {v0} WHERE q <> 0 UNION ALL SELECT k + 1000 AS k, g, ts, q, t, 7 / (q - 1) AS x, y, 0 AS z FROM {v1}",
];

/// Queries over a view `{v}`, which is `{w}`, too, that compute `{e}`, with the key of their table.
const CONSUMERS: [(&str, &str); 10] = [
    ("SELECT k AS a, {e} AS b FROM {v}", ""),
    ("SELECT k AS a, {e} AS b FROM {v} WHERE {c}", ""),
    ("SELECT k AS a, {e} AS b FROM {v} WHERE {c}", "a"),
    ("SELECT k % 7 AS a, sum({e}) AS b FROM {v} GROUP BY k % 7", "a"),
    (
        "SELECT count(*) AS a, sum({e}) AS b FROM TUMBLE(TABLE {v}, DESCRIPTOR(ts), INTERVAL '10 seconds') GROUP BY g, window_start, window_end",
        "",
    ),
    (
        "SELECT k AS a, sum({e}) OVER (PARTITION BY g ORDER BY ts RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND CURRENT ROW) AS b FROM {v} WHERE {c}",
        "",
    ),
    ("SELECT k AS a, {e} AS b FROM DEDUPLICATE(TABLE {v}, KEY(g, q), WITHIN INTERVAL '5 seconds')", ""),
    ("SELECT DISTINCT {e} AS a, q AS b FROM {v}", ""),
    (
        "SELECT l.k AS a, r.{e} AS b FROM {v} l JOIN {w} r ON l.k = r.k AND r.ts BETWEEN l.ts AND l.ts + INTERVAL '5 seconds'",
        "",
    ),
    ("SELECT count(*) AS a, max({e}) AS b FROM (SELECT * FROM {v} WHERE {c}) GROUP BY q", ""),
];

/// A query of a consumer without key that retracts would be refused: the last one has a key in its own way.
fn keyed(number: usize) -> &'static str {
    if number == CONSUMERS.len() - 1 { "q" } else { CONSUMERS[number].1 }
}

/// One INSERT: which consumer, which view, which column, which condition.
struct Chosen {
    consumer: usize,
    view: usize,
    column: &'static str,
    condition: &'static str,
}

/// The views with `suffix` behind their names.
fn views(suffix: &str) -> String {
    let mut sql = String::new();
    for (number, query) in VIEWS.iter().enumerate() {
        let query = query.replace("{v0}", &format!("v0{suffix}")).replace("{v1}", &format!("v1{suffix}"));
        let _ = writeln!(sql, "CREATE VIEW v{number}{suffix} AS {query};");
    }
    sql
}

/// The pipeline with shared views; or with views for each reader, which are none's but its own.
fn pipeline(chosen: &[Chosen], mode: &str, is_shared: bool) -> String {
    let mut sql = String::from(
        "CREATE SOURCE s (k BIGINT NOT NULL, g STRING, q BIGINT, t STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in', format = 'json');\n",
    );
    if is_shared {
        sql.push_str(&views(""));
    }
    let mut inserts = String::new();
    for (number, Chosen { consumer, view, column, condition }) in chosen.iter().enumerate() {
        let suffix = |side: &str| if is_shared { String::new() } else { format!("_{number}{side}") };
        let (left, right) = (suffix("l"), suffix("r"));
        if !is_shared {
            sql.push_str(&views(&left));
            sql.push_str(&views(&right));
        }
        let query = CONSUMERS[*consumer].0.replace("{v}", &format!("v{view}{left}"));
        let query = query.replace("{w}", &format!("v{view}{right}")).replace("{e}", column).replace("{c}", condition);
        let (query, columns) = match keyed(*consumer) {
            "q" => (query.replacen("SELECT", "SELECT q,", 1), "q BIGINT, a BIGINT, b BIGINT"),
            _ => (query, "a BIGINT, b BIGINT"),
        };
        let key = match keyed(*consumer) {
            "" => String::new(),
            key => format!(", PRIMARY KEY ({key}) NOT ENFORCED"),
        };
        let _ = writeln!(sql, "CREATE TABLE t{number} ({columns}{key}) USING DELTA;");
        let _ = writeln!(inserts, "INSERT INTO t{number} {query};");
    }
    let _ = writeln!(
        sql,
        "CREATE PIPELINE p WITH (trigger = 'available now', at_end = 'keep', state_ttl = '7 days', max_rows_per_micro_batch = 23, on_row_error = '{mode}') AS BEGIN\n{inserts}END;"
    );
    sql
}

/// Rows `from..to` as JSON lines; about one in four has a value for which something fails.
fn lines(random: &mut StdRng, from: i64, to: i64) -> String {
    let mut lines = String::new();
    for k in from..to {
        let q = random.random_range(0..6);
        let t = if random.random_bool(0.1) { "none".to_owned() } else { random.random_range(0..9).to_string() };
        let (g, second) = (random.random_range(0..3), k / 3);
        let ts = format!("2024-01-01T00:{:02}:{:02}Z", second / 60, second % 60);
        let _ = writeln!(lines, "{{\"k\":{k},\"g\":\"{g}\",\"q\":{q},\"t\":\"{t}\",\"ts\":\"{ts}\"}}");
    }
    lines
}

#[test]
fn results_do_not_depend_on_whether_views_are_shared() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let pick = |random: &mut StdRng| Chosen {
            consumer: random.random_range(0..CONSUMERS.len()),
            view: random.random_range(0..VIEWS.len()),
            column: ["x", "y", "z", "q"][random.random_range(0..4)],
            condition: ["q <> 0", "k % 2 = 0", "x > 1", "q = 1 AND y < 5", "z >= 0 OR q = 2"]
                [random.random_range(0..5)],
        };
        let chosen: Vec<Chosen> = (0..random.random_range(3..7)).map(|_| pick(&mut random)).collect();
        let mode = if seed % 4 == 3 { "null" } else { "dead_letter" };
        let (shared, alone) = (Weir::new(), Weir::new());
        shared.write("p.sql", &pipeline(&chosen, mode, true));
        alone.write("p.sql", &pipeline(&chosen, mode, false));
        for (number, from) in [0, 40, 110].into_iter().enumerate() {
            let to = if number == 2 { 160 } else { [40, 110][number] };
            let lines = lines(&mut random, from, to);
            for weir in [&shared, &alone] {
                weir.write(&format!("in/{number}.jsonl"), &lines);
                weir.succeed(&["run", "p.sql"]);
            }
        }
        for (number, Chosen { consumer, view, column, condition }) in chosen.iter().enumerate() {
            let what = format!("seed {seed}: {} of v{view}, {column}, {condition}", CONSUMERS[*consumer].0);
            let rows = format!("SELECT * FROM t{number} ORDER BY a, b");
            assert_eq!(shared.query(&rows), alone.query(&rows), "{what}");
            let letters = format!(
                "SELECT partition, \"offset\", reason FROM weir.dead_letters WHERE reason LIKE '%left out of `t{number}`' ORDER BY 1, 2, 3"
            );
            assert_eq!(shared.query(&letters), alone.query(&letters), "letters of {what}");
        }
        let joint = "SELECT count(*) FROM weir.dead_letters WHERE reason LIKE '%left out of `t%`, `t%'";
        assert_eq!(shared.number(joint), 0, "seed {seed}");
        shared.succeed(&["verify", "p.sql"]);
    }
}
