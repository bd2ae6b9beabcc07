//! Targets with a PRIMARY KEY under which the query gives several rows: rows that are taken back uncover the others.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::program::{Weir, text};

const SOURCE: &str =
    "CREATE SOURCE a (k BIGINT NOT NULL, g BIGINT NOT NULL) WITH (connector = 'file', path = 'in.jsonl');";

/// Groups that leave when a second row comes.
const ONCE: &str = "(SELECT k, g, count(*) AS n FROM a GROUP BY k, g HAVING count(*) = 1)";

/// Tables `t0`, `t1` … with their columns and the queries that fill them; several INSERTs where there are several queries.
fn targets() -> Vec<(&'static str, Vec<String>)> {
    let gk = "(g BIGINT, k BIGINT, PRIMARY KEY (g) NOT ENFORCED)";
    let gkn = "(g BIGINT, k BIGINT, n BIGINT, PRIMARY KEY (g) NOT ENFORCED)";
    let per_k = "(SELECT k, count(*) AS n, min(g) AS least FROM a GROUP BY k)";
    vec![
        ("(g BIGINT, PRIMARY KEY (g) NOT ENFORCED)", vec![format!("SELECT g FROM {ONCE}")]),
        (gkn, vec![format!("SELECT g, k, n FROM {ONCE}")]),
        (gkn, vec![format!("SELECT x.g, x.k, y.n FROM {ONCE} x JOIN {per_k} y ON x.k = y.k")]),
        (gk, vec![format!("SELECT g, k FROM {ONCE} UNION ALL SELECT least AS g, k FROM {per_k}")]),
        (gk, vec![format!("SELECT DISTINCT g, n AS k FROM (SELECT k, g, count(*) AS n FROM a GROUP BY k, g)")]),
        (
            gkn,
            vec![format!(
                "SELECT g, k, n FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY n DESC, g) AS place
                 FROM (SELECT k, g, count(*) AS n FROM a GROUP BY k, g)) WHERE place <= 2"
            )],
        ),
        (
            gk,
            vec![format!(
                "SELECT x.g, y.n AS k FROM {ONCE} x LEFT JOIN (SELECT * FROM {per_k} WHERE n % 2 = 0) y ON x.k = y.k"
            )],
        ),
        (gk, vec![format!("SELECT g, k FROM {ONCE}"), format!("SELECT least AS g, k FROM {per_k}")]),
        (gk, vec![format!("SELECT g, k FROM {ONCE}"), "SELECT g, k FROM a WHERE k < 3".to_owned()]),
    ]
}

fn pipeline(seed: u64) -> String {
    let (mut tables, mut inserts) = (String::new(), String::new());
    for (at, (columns, queries)) in targets().iter().enumerate() {
        let vectors = at % 2 == 0;
        tables += &format!(
            "CREATE TABLE t{at} {columns} USING DELTA TBLPROPERTIES ('delta.enableDeletionVectors' = '{vectors}');\n"
        );
        for query in queries {
            inserts += &format!("  INSERT INTO t{at} {query};\n");
        }
    }
    format!(
        "{SOURCE}\nCREATE TABLE a_all (k BIGINT, g BIGINT) USING DELTA;\n{tables}
         CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = 'none', max_rows_per_micro_batch = {}) AS BEGIN
           INSERT INTO a_all SELECT k, g FROM a;\n{inserts}END;",
        3 + seed % 40
    )
}

#[test]
fn keys_are_those_of_the_batch_and_every_row_is_one_of_its_rows_over_restarts() {
    for seed in 0..2 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let weir = Weir::new();
        weir.write("p.sql", &pipeline(seed));
        let mut input = String::new();
        for run in 0..4 {
            for _ in 0..rng.random_range(0..60) {
                let (k, g) = (rng.random_range(0..9), rng.random_range(0..7));
                input += &format!("{{\"k\":{k},\"g\":{g}}}\n");
            }
            weir.write("in.jsonl", &input);
            weir.succeed(&["run", "p.sql"]);
            for (at, (_, queries)) in targets().iter().enumerate() {
                let batch: Vec<String> = queries.iter().map(|query| query.replace("FROM a ", "FROM a_all ")).collect();
                let batch = batch
                    .iter()
                    .enumerate()
                    .map(|(n, query)| format!("SELECT * FROM ({query}) q{n}"))
                    .collect::<Vec<_>>()
                    .join(" UNION ALL ");
                let differences = weir.query(&format!(
                    "SELECT 'only in the batch' AS what, b.g FROM ({batch}) b WHERE b.g NOT IN (SELECT t.g FROM t{at} t)
                     UNION ALL SELECT 'not of the batch' AS what, o.g FROM (SELECT * FROM t{at} EXCEPT SELECT * FROM ({batch}) b) o
                     UNION ALL SELECT 'twice' AS what, t.g FROM t{at} t GROUP BY t.g HAVING count(*) > 1"
                ));
                assert!(differences.is_empty(), "seed {seed}, run {run}, t{at} ({queries:?}): {differences:?}");
            }
        }
        assert!(weir.succeed(&["verify", "p.sql"]).contains("ok"));
    }
}

#[test]
fn the_row_that_came_last_is_shown_and_then_the_one_before() {
    let weir = Weir::new();
    weir.write(
        "p.sql",
        &format!(
            "{SOURCE}
             CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = 'none') AS BEGIN
               CREATE MATERIALIZED VIEW m PRIMARY KEY (g) AS SELECT g, k FROM {ONCE};
             END;"
        ),
    );
    let mut input = String::new();
    let steps = [((1, 7), vec!["7,1"]), ((2, 7), vec!["7,2"]), ((2, 7), vec!["7,1"]), ((1, 7), vec![])];
    for ((k, g), shown) in steps {
        input += &format!("{{\"k\":{k},\"g\":{g}}}\n");
        weir.write("in.jsonl", &input);
        weir.succeed(&["run", "p.sql"]);
        assert_eq!(weir.query("SELECT g, k FROM m"), shown, "{input}");
    }
}

/// The operators that the plan of a query into `(g, k)` with the key g has for its key.
fn kept(query: &str, key: &str) -> String {
    let weir = Weir::new();
    weir.write(
        "p.sql",
        &format!(
            "{SOURCE}
             CREATE SOURCE b (g BIGINT NOT NULL, v BIGINT) WITH (connector = 'file', path = 'b.jsonl');
             CREATE TABLE d (k BIGINT, v BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
             CREATE TABLE t (g BIGINT, k BIGINT, PRIMARY KEY ({key}) NOT ENFORCED) USING DELTA;
             CREATE VIEW per_g AS SELECT g, count(*) AS n, max(k) AS k FROM a GROUP BY g;
             CREATE PIPELINE p WITH (state_ttl = 'none') AS BEGIN INSERT INTO t {query}; END;"
        ),
    );
    let checked = weir.run(&["check", "p.sql"]);
    assert!(checked.status.success(), "{query}: {}", text(&checked.stderr));
    let explained = weir.succeed(&["explain", "p.sql"]);
    let noted = text(&checked.stdout).contains("several rows of the query may have one PRIMARY KEY");
    assert_eq!(noted, explained.contains("operator newest-"), "{query}: {explained}");
    explained.lines().filter(|line| line.starts_with("operator newest-")).collect()
}

#[test]
fn nothing_is_kept_where_the_query_has_the_key_itself() {
    for query in [
        "SELECT g, count(*) AS k FROM a GROUP BY g",
        "SELECT g, k FROM per_g WHERE n > 1",
        "SELECT x.g, y.k FROM per_g x JOIN per_g y ON x.g = y.g",
        "SELECT x.g, y.k FROM per_g x LEFT JOIN per_g y ON x.g = y.g",
        "SELECT y.g, x.k FROM per_g x RIGHT JOIN per_g y ON x.g = y.g",
        "SELECT x.g, d.v AS k FROM per_g x JOIN per_g y ON x.k = y.g JOIN (SELECT g, max(v) AS v FROM b GROUP BY g) d ON d.g = x.g",
        "SELECT g, k FROM per_g x WHERE EXISTS (SELECT 1 FROM b WHERE b.g = x.k)",
        "SELECT g, k FROM (SELECT g, k, row_number() OVER (PARTITION BY g ORDER BY k DESC) AS n FROM a) WHERE n = 1",
        "SELECT g, k FROM (SELECT g, k, row_number() OVER (PARTITION BY g ORDER BY k DESC) AS n FROM a) WHERE n <= 1",
        "SELECT k AS g, count(*) AS k FROM (SELECT DISTINCT k, g FROM (SELECT k, g, count(*) FROM a GROUP BY k, g)) GROUP BY k",
    ] {
        assert_eq!(kept(query, "g"), "", "{query}");
    }
    let tagged = |tag: i32| {
        format!("SELECT {tag} AS g, k FROM (SELECT k, count(*) AS n FROM a GROUP BY k HAVING count(*) > {tag})")
    };
    for query in [
        "SELECT g, k FROM (SELECT g, k, count(*) AS n FROM a GROUP BY g, k HAVING count(*) = 1)".to_owned(),
        "SELECT DISTINCT g, k FROM per_g".to_owned(),
        format!("{} UNION ALL {}", tagged(1), tagged(2)),
    ] {
        assert_eq!(kept(&query, "g, k"), "", "{query}");
    }
    assert!(!kept(&format!("{} UNION ALL {}", tagged(1), tagged(1)), "g, k").is_empty());
}

#[test]
fn rows_are_kept_where_the_key_is_not_proved() {
    for query in [
        "SELECT g, k FROM (SELECT g, k, count(*) AS n FROM a GROUP BY g, k HAVING count(*) = 1)",
        "SELECT g, k FROM per_g UNION ALL SELECT g, k FROM per_g",
        "SELECT x.g, x.k FROM per_g x JOIN b ON x.g = b.g",
        "SELECT g, k FROM (SELECT g, k, rank() OVER (PARTITION BY g ORDER BY k DESC) AS n FROM a) WHERE n = 1",
        "SELECT g, k FROM (SELECT g, k, row_number() OVER (PARTITION BY g ORDER BY k DESC) AS n FROM a) WHERE n <= 2",
        "SELECT g % 2 AS g, k FROM per_g",
        "SELECT a.g, y.v AS k FROM a LEFT JOIN b y ON a.g = y.g",
        "SELECT y.g, x.k FROM per_g x LEFT JOIN per_g y ON x.k = y.g",
        "SELECT coalesce(x.g, y.g) AS g, x.k FROM per_g x FULL JOIN per_g y ON x.g = y.k",
    ] {
        assert!(!kept(query, "g").is_empty(), "{query}");
    }
}

#[test]
fn the_console_shows_a_row_as_often_as_it_counts() {
    let weir = Weir::new();
    weir.write("in.jsonl", "{\"k\":1,\"g\":7}\n{\"k\":1,\"g\":7}\n{\"k\":2,\"g\":8}\n");
    weir.write(
        "p.sql",
        &format!(
            "{SOURCE} CREATE SINK c WITH (connector = 'console');
             CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = 'none') AS BEGIN
               INSERT INTO c SELECT g FROM (SELECT *, rank() OVER (PARTITION BY k ORDER BY g) AS n FROM a) WHERE n = 1;
             END;"
        ),
    );
    let printed = weir.succeed(&["run", "p.sql"]);
    assert_eq!((printed.matches("| + | 7 |").count(), printed.matches("| + | 8 |").count()), (2, 1), "{printed}");
}

#[test]
fn lengths_that_spark_declared_hold_for_rows_and_keys() {
    for keyed in [false, true] {
        let weir = Weir::new();
        let field = |name: &str, kind: &str| {
            let null = name != "c";
            format!(
                r#"{{\"name\":\"{name}\",\"type\":\"string\",\"nullable\":{null},\"metadata\":{{\"__CHAR_VARCHAR_TYPE_STRING\":\"{kind}\"}}}}"#
            )
        };
        let schema =
            format!(r#"{{\"type\":\"struct\",\"fields\":[{},{}]}}"#, field("c", "char(3)"), field("v", "varchar(3)"));
        weir.write(
            "warehouse/t/_delta_log/00000000000000000000.json",
            &format!(
                "{{\"protocol\":{{\"minReaderVersion\":1,\"minWriterVersion\":2}}}}\n\
                 {{\"metaData\":{{\"id\":\"a\",\"format\":{{\"provider\":\"parquet\",\"options\":{{}}}},\"schemaString\":\"{schema}\",\
                 \"partitionColumns\":[],\"configuration\":{{}}}}}}\n"
            ),
        );
        let key = if keyed { ", PRIMARY KEY (c) NOT ENFORCED" } else { "" };
        weir.write(
            "p.sql",
            &format!(
                "CREATE SOURCE s (c STRING NOT NULL, v STRING) WITH (connector = 'file', path = 'in/*.jsonl');
                 CREATE TABLE t (c STRING NOT NULL, v STRING{key}) USING DELTA;
                 CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO t SELECT c, v FROM s; END;"
            ),
        );
        let row = |c: &str, v: &str| format!("{{\"c\":\"{c}\",\"v\":\"{v}\"}}\n");
        let rows = [("a", "x"), ("äöüß", "long"), ("b  ", "y  "), ("c", "four"), ("d    ", "abc  "), ("a ", "z")];
        weir.write("in/1.jsonl", &rows.map(|(c, v)| row(c, v)).concat());
        weir.succeed(&["run", "p.sql"]);
        weir.write("in/2.jsonl", &row("a", "new"));
        weir.succeed(&["run", "p.sql"]);
        let mut found = vec!["a  |,new|", "b  |,y  |", "d  |,abc|"];
        if !keyed {
            found = vec!["a  |,new|", "a  |,x|", "a  |,z|", "b  |,y  |", "d  |,abc|"];
        }
        assert_eq!(weir.query("SELECT c || '|', v || '|' FROM t ORDER BY c, v"), found, "keyed: {keyed}");
        let letters = weir.query("SELECT reason FROM weir.dead_letters ORDER BY reason").join(" ");
        assert!(letters.contains("`c` is longer than CHAR(3); `v` is longer than VARCHAR(3)"), "{letters}");
        assert_eq!(letters.matches("longer than VARCHAR").count(), 2, "{letters}");
        let told = weir.succeed(&["verify", "p.sql"]);
        assert!(told.contains("ok    t"), "{told}");
    }
}
