//! Nulls in joins and subqueries: each comparison has its own rule for them. Answers are those of duckdb, written by hand.

use crate::program::{Weir, text};

/// Of `a` and `p` either, both or none is null.
const ROWS: &str = concat!(
    "{\"id\":1,\"a\":1,\"ts\":\"2026-01-01T00:00:01Z\"}\n",
    "{\"id\":2,\"p\":2,\"ts\":\"2026-01-01T00:00:02Z\"}\n",
    "{\"id\":3,\"a\":3,\"p\":3,\"ts\":\"2026-01-01T00:00:03Z\"}\n",
    "{\"id\":4,\"ts\":\"2026-01-01T00:00:04Z\"}\n",
);

fn sources(names: &str) -> String {
    let source = |name: char| {
        format!(
            "CREATE SOURCE {name} (id BIGINT, a BIGINT, p BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts)
             WITH (connector = 'file', path = 'in.jsonl');"
        )
    };
    names.chars().map(source).collect()
}

/// A folder in which table `b` has the rows.
fn with_table() -> Weir {
    let weir = Weir::new();
    weir.write("in.jsonl", ROWS);
    weir.write(
        "b.sql",
        &format!(
            "{} CREATE TABLE b (id BIGINT, a BIGINT, p BIGINT, ts TIMESTAMP) USING DELTA;
             CREATE PIPELINE fill WITH (trigger = 'available now') AS BEGIN INSERT INTO b SELECT * FROM s; END;",
            sources("s")
        ),
    );
    weir.succeed(&["run", "b.sql"]);
    weir
}

/// Conditions of joins of `s` and `r`, and the pairs of ids that meet them.
const JOINS: [(&str, &str); 7] = [
    ("s {} r ON s.a IS NOT DISTINCT FROM r.a WHERE s.p = r.p", "2,2 3,3"),
    ("s {} r ON s.a IS NOT DISTINCT FROM r.a AND s.p = r.p WHERE r.id > 0", "2,2 3,3"),
    ("s {} r ON s.a = r.a WHERE s.p IS NOT DISTINCT FROM r.p", "1,1 3,3"),
    ("s {} r ON s.a IS NOT DISTINCT FROM r.a WHERE s.p IS NOT DISTINCT FROM r.p AND r.id > 0", "1,1 2,2 3,3 4,4"),
    ("s {} r ON s.a IS NOT DISTINCT FROM r.a WHERE s.p + 1 = r.p + 1 AND s.id = r.id", "2,2 3,3"),
    ("(SELECT * FROM s) s {} r ON s.a IS NOT DISTINCT FROM r.a WHERE s.p = r.p AND s.a > 0", "3,3"),
    ("s {} r ON s.a IS NOT DISTINCT FROM r.a WHERE (s.p = r.p OR s.p > 99) AND r.id > 0", "2,2 3,3"),
];

/// Of three inputs.
const THREE: [(&str, &str); 4] = [
    ("s JOIN r ON s.a IS NOT DISTINCT FROM r.a JOIN z ON z.id = r.id WHERE s.p = z.p", "2,2 3,3"),
    ("s JOIN r ON s.a = r.a JOIN z ON z.id = r.id WHERE s.p IS NOT DISTINCT FROM z.p", "1,1 3,3"),
    ("s JOIN z ON s.id = z.id JOIN r ON r.a IS NOT DISTINCT FROM z.a WHERE s.p = r.p", "2,2 3,3"),
    (
        "s JOIN r ON s.a IS NOT DISTINCT FROM r.a JOIN z ON z.a IS NOT DISTINCT FROM r.a WHERE s.p = z.p AND r.p = z.p",
        "2,2 3,3",
    ),
];

#[test]
fn each_key_of_a_join_has_its_own_null_rule_in_queries() {
    let weir = with_table();
    let pairs = |from: &str| {
        weir.query(&format!(
            "WITH s AS (SELECT * FROM b), r AS (SELECT * FROM b), z AS (SELECT * FROM b)
             SELECT s.id AS i, r.id AS j FROM {from} ORDER BY i, j"
        ))
        .join(" ")
    };
    for (join, expected) in JOINS {
        // A WHERE with `=` drops what an outer join adds; `IS NOT DISTINCT FROM` may keep it.
        let drops = ["WHERE s.p = r.p", "WHERE s.p + 1", "WHERE (s.p = r.p"].iter().any(|text| join.contains(text));
        let kinds = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
        for kind in &kinds[..if drops { 4 } else { 1 }] {
            assert_eq!(pairs(&join.replace("{}", kind)), expected, "{kind}: {join}");
        }
    }
    for (join, expected) in THREE {
        assert_eq!(pairs(join), expected, "{join}");
    }
}

#[test]
fn each_key_of_a_join_has_its_own_null_rule_in_streams() {
    let weir = with_table();
    let near = "AND r.ts BETWEEN s.ts - INTERVAL '1 hour' AND s.ts + INTERVAL '1 hour' WHERE";
    let mut queries = Vec::new();
    for (join, expected) in JOINS {
        queries.push((join.replace("{}", "JOIN"), expected));
        queries.push((join.replace("{}", "LEFT JOIN"), expected));
        queries.push((join.replace("{}", "JOIN").replace("WHERE", near), expected));
        if !join.contains("+ 1") {
            queries.push((join.replace("{} r", "JOIN b AS r"), expected));
        }
    }
    queries.extend(THREE.map(|(join, expected)| (join.to_owned(), expected)));
    let (mut tables, mut inserts) = (sources("srz"), String::new());
    tables += "CREATE TABLE b (id BIGINT, a BIGINT, p BIGINT, ts TIMESTAMP) USING DELTA;";
    for (at, (join, _)) in queries.iter().enumerate() {
        tables += &format!("CREATE TABLE t{at} (i BIGINT, j BIGINT, PRIMARY KEY (i, j) NOT ENFORCED) USING DELTA;");
        inserts += &format!("INSERT INTO t{at} SELECT s.id AS i, r.id AS j FROM {join};");
    }
    weir.write(
        "p.sql",
        &format!("{tables} CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = 'none', at_end = 'flush', max_rows_per_micro_batch = '1') AS BEGIN {inserts} END;"),
    );
    weir.succeed(&["run", "p.sql"]);
    for (at, (join, expected)) in queries.iter().enumerate() {
        assert_eq!(weir.query(&format!("SELECT i, j FROM t{at} ORDER BY i, j")).join(" "), *expected, "{join}");
    }
    assert!(weir.succeed(&["verify", "p.sql"]).contains("ok"));
}

#[test]
fn an_asof_join_matches_no_nulls_and_says_so() {
    let weir = Weir::new();
    weir.write(
        "p.sql",
        &format!(
            "{} CREATE SINK k WITH (connector = 'console');
             INSERT INTO k SELECT s.id, r.id AS j FROM s ASOF JOIN r MATCH_CONDITION (s.ts >= r.ts) ON s.a IS NOT DISTINCT FROM r.a;",
            sources("sr")
        ),
    );
    let checked = weir.run(&["check", "p.sql"]);
    assert!(text(&checked.stderr).contains("an ASOF join ON … IS NOT DISTINCT FROM"), "{}", text(&checked.stderr));
}

#[test]
fn in_with_a_subquery_is_true_false_or_null() {
    let weir = Weir::new();
    let of = |values: &str| format!("(SELECT y FROM (VALUES {values}) b(y))");
    let (with_null, without, empty) =
        (of("(2),(NULL)"), of("(2),(3)"), "(SELECT y FROM (VALUES (2),(NULL)) b(y) WHERE y > 9)");
    let correlated = "(SELECT y FROM (VALUES (1, 1),(NULL, 2)) b(y, z) WHERE z = a.x)";
    // Those of 1, 2, 3 and NULL that are let through.
    let cases = [
        (format!("x IN {with_null}"), "2"),
        (format!("x NOT IN {with_null}"), ""),
        (format!("x NOT IN {without}"), "1"),
        (format!("x NOT IN {empty}"), "1 2 3 NULL"),
        (format!("x NOT IN {with_null} OR x = 2"), "2"),
        (format!("x NOT IN {without} OR x = 7"), "1"),
        (format!("x NOT IN {empty} OR x = 7"), "1 2 3 NULL"),
        (format!("(x IN {with_null}) IS NULL"), "1 3 NULL"),
        (format!("(x NOT IN {with_null}) IS NULL"), "1 3 NULL"),
        (format!("(x IN {empty}) IS NULL"), ""),
        (format!("(x IN {with_null}) IS NOT TRUE"), "1 3 NULL"),
        (format!("(x IN {with_null}) IS TRUE"), "2"),
        (format!("(x IN {with_null}) IS FALSE"), ""),
        (format!("(x IN {without}) IS FALSE"), "1"),
        (format!("(x NOT IN {without}) IS TRUE"), "1"),
        (format!("NOT (x IN {without} OR x = 7)"), "1"),
        (format!("NOT (x IN {with_null} AND true)"), ""),
        (format!("NOT (x IN {with_null} AND x > 5)"), "1 2 3"),
        (format!("NOT (NOT (x IN {with_null}))"), "2"),
        (format!("coalesce(x IN {with_null}, true)"), "1 2 3 NULL"),
        (format!("coalesce(x IN {with_null}, false)"), "2"),
        (format!("CASE WHEN x IN {with_null} THEN false ELSE true END"), "1 3 NULL"),
        (format!("CASE WHEN x NOT IN {with_null} THEN true ELSE false END"), ""),
        (format!("(x IN {with_null}) = false"), ""),
        (format!("(x IN {without}) = false"), "1"),
        (format!("(x IN {with_null}) IS DISTINCT FROM true"), "1 3 NULL"),
        (format!("(x IN {without}) = (x IN {with_null})"), "2"),
        (format!("x NOT IN {correlated}"), "3 NULL"),
        (format!("x NOT IN {correlated} OR x = 9"), "3 NULL"),
        (format!("(x IN {correlated}) IS NULL"), "2"),
        (format!("x IN {correlated} OR x = 2"), "1 2"),
        (format!("x NOT IN {with_null} OR EXISTS {without}"), "1 2 3 NULL"),
    ];
    let asked: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(at, (condition, _))| {
            format!(
                "SELECT {at} AS n, coalesce(CAST(x AS STRING), 'NULL') AS x FROM (VALUES (1),(2),(3),(NULL)) a(x) WHERE {condition}"
            )
        })
        .collect();
    let rows = weir.query(&format!("SELECT n, x FROM ({}) ORDER BY n, x", asked.join(" UNION ALL ")));
    for (at, (condition, expected)) in cases.iter().enumerate() {
        let found: Vec<&str> = rows.iter().filter_map(|row| row.strip_prefix(&format!("{at},"))).collect();
        assert_eq!(found.join(" "), *expected, "WHERE {condition}");
    }
}
