//! Queries as PostgreSQL takes them: columns of one name, orders of DISTINCT, quoted names, numbers out of range; columns of mixed types.

use super::program::{Weir, text};

#[test]
fn columns_of_a_query_may_have_one_name() {
    let weir = Weir::new();
    let from = "FROM (VALUES (1, 2), (3, 4)) t (a, b)";
    for (sql, header, rows) in [
        ("SELECT 1, 1".to_owned(), "Int64(1),Int64(1)", vec!["1,1"]),
        (format!("SELECT a, a {from} ORDER BY a DESC"), "a,a", vec!["3,3", "1,1"]),
        (format!("SELECT *, a {from} ORDER BY a LIMIT 1"), "a,b,a", vec!["1,2,1"]),
        (format!("SELECT DISTINCT a, a {from} ORDER BY a"), "a,a", vec!["1,1", "3,3"]),
        (format!("SELECT count(*), count(*) {from}"), "count(*),count(*)", vec!["2,2"]),
        (format!("SELECT a AS x, b AS x {from} LIMIT 1"), "x,x", vec!["1,2"]),
        (format!("SELECT a, a {from} UNION ALL SELECT 7, 8 ORDER BY 1"), "a,a", vec!["1,1", "3,3", "7,8"]),
    ] {
        let told = weir.succeed(&["query", "--format", "csv", &sql]);
        let mut lines = told.lines();
        assert_eq!(lines.next(), Some(header), "{sql}");
        assert_eq!(lines.collect::<Vec<_>>(), rows, "{sql}");
    }
}

#[test]
fn distinct_rows_are_ordered_by_what_they_are_computed_from() {
    let weir = Weir::new();
    let from = "FROM (VALUES (2), (1), (2)) t (a)";
    assert_eq!(weir.query(&format!("SELECT DISTINCT a + 1 {from} ORDER BY a + 1 DESC")), ["3", "2"]);
    assert_eq!(weir.query(&format!("SELECT DISTINCT -a AS n, a * 2 {from} ORDER BY a * 2")), ["-1,2", "-2,4"]);
}

#[test]
fn quoted_names_are_exact_and_others_are_not() {
    let weir = Weir::new();
    weir.write("a.jsonl", "{\"id\":1}\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE s (id BIGINT) WITH (connector = 'file', path = 'a.jsonl');
         CREATE TABLE t (id BIGINT) USING DELTA; CREATE TABLE \"U\" (id BIGINT) USING DELTA;
         CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN
           INSERT INTO t SELECT id FROM s; INSERT INTO \"U\" SELECT id FROM s; END;",
    );
    weir.succeed(&["run", "p.sql"]);
    for sql in
        ["SELECT id FROM t", "SELECT id FROM T", "SELECT id FROM \"t\"", "SELECT id FROM \"U\"", "SELECT id FROM u"]
    {
        assert_eq!(weir.query(sql), ["1"], "{sql}");
    }
    let refused = weir.run(&["query", "SELECT * FROM \"T\""]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stdout));
    assert!(text(&refused.stderr).contains("T"), "{}", text(&refused.stderr));
}

#[test]
fn numbers_that_no_double_holds_are_refused_by_name() {
    let weir = Weir::new();
    let refused = weir.run(&["query", "SELECT -1e400"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("`1e400` is out of the range of DOUBLE"), "{}", text(&refused.stderr));
    let cut = weir.run(&["query", "SELECT lag(a, 1, 0.5) OVER (ORDER BY a) FROM (VALUES (1)) t (a)"]);
    assert!(text(&cut.stderr).contains("the default of `lag`"), "{}", text(&cut.stderr));
}

#[test]
fn a_union_of_many_has_the_scale_that_its_parts_need() {
    let weir = Weir::new();
    let d = "SELECT CAST(a AS DECIMAL(10, 2)) AS x FROM (VALUES (1)) t (a)";
    for (sql, expected) in [
        (format!("SELECT 1 AS x UNION ALL SELECT 2.125 UNION ALL {d}"), "(23, 3)"),
        (format!("SELECT 1.5 AS x UNION ALL SELECT 2.125 UNION ALL {d}"), "(11, 3)"),
        (format!("{d} UNION ALL SELECT 1.5 UNION ALL SELECT CAST(1 AS DECIMAL(10, 4))"), "(12, 4)"),
        (format!("{d} UNION ALL SELECT CAST(a AS DOUBLE) FROM (VALUES (1)) t (a) UNION ALL {d}"), "Float64"),
    ] {
        let kinds = weir.query(&format!("SELECT DISTINCT arrow_typeof(x) FROM ({sql})"));
        assert!(kinds.len() == 1 && kinds[0].contains(expected), "{sql}: {kinds:?}");
    }
}

#[test]
fn a_column_of_timestamps_with_and_without_zone_is_a_timestamp() {
    let weir = Weir::new();
    weir.write("a.jsonl", "{\"id\":1,\"n\":\"2024-01-01T01:00:00\",\"ts\":\"2024-01-01T02:00:00Z\"}\n");
    let columns = [
        ("c1", "SELECT id, CASE WHEN id > 1 THEN n ELSE ts END AS t FROM a"),
        ("c2", "SELECT id, coalesce(n, ts) AS t FROM a"),
        ("c3", "SELECT id, n AS t FROM a UNION ALL SELECT id, ts FROM a"),
        ("c4", "SELECT id, max(CASE WHEN id > 1 THEN n ELSE ts END) AS t FROM a GROUP BY id"),
    ];
    let views: Vec<_> =
        columns.iter().map(|(name, sql)| format!("CREATE MATERIALIZED VIEW {name} AS {sql};")).collect();
    weir.write(
        "p.sql",
        &format!(
            "CREATE SOURCE a (id BIGINT, n TIMESTAMP_NTZ, ts TIMESTAMP) WITH (connector = 'file', path = 'a.jsonl');
             CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN {} END;",
            views.join("\n")
        ),
    );
    weir.succeed(&["check", "p.sql"]);
    weir.succeed(&["run", "p.sql"]);
    let two = ["2024-01-01T01:00:00Z", "2024-01-01T02:00:00Z"];
    for (name, expected) in [("c1", &two[1..]), ("c2", &two[..1]), ("c3", &two[..]), ("c4", &two[1..])] {
        assert_eq!(weir.query(&format!("SELECT t FROM {name} ORDER BY t")), expected, "{name}");
    }
    weir.succeed(&["verify", "p.sql"]);
}

#[test]
fn membership_in_a_subquery_has_three_values_wherever_it_stands() {
    let weir = Weir::new();
    let rows = |sql: &str| weir.query(&format!("SELECT x FROM (VALUES (1), (2), (NULL)) a (x) WHERE {sql} ORDER BY x"));
    let b = |values: &str| format!("(SELECT y FROM (VALUES {values}) b (y))");
    for (sql, expected) in [
        (format!("x NOT IN {} OR x = 2", b("(2), (NULL)")), vec!["2"]),
        (format!("x NOT IN {} OR x = 7", b("(3)")), vec!["1", "2"]),
        (format!("(x IN {}) IS NULL", b("(2), (NULL)")), vec!["1", ""]),
        (format!("(x IN {}) IS FALSE", b("(2), (3)")), vec!["1"]),
        (format!("coalesce(x IN {}, true)", b("(2), (NULL)")), vec!["1", "2", ""]),
        (format!("CASE WHEN x NOT IN {} THEN true ELSE false END", b("(2), (NULL)")), vec![]),
        (format!("x IN {} OR x = 1", b("(2), (NULL)")), vec!["1", "2"]),
        (format!("NOT (x IN {})", b("(2)")), vec!["1"]),
        (format!("NOT (x IN {} AND x > 0)", b("(2), (NULL)")), vec![]),
        ("x NOT IN (SELECT y FROM (VALUES (1, 1), (NULL, 2)) b (y, z) WHERE z = a.x) OR x = 9".to_owned(), vec![""]),
    ] {
        let mut found = rows(&sql);
        // A NULL is an empty line, which is no line of one column.
        found.iter_mut().for_each(|row| *row = row.trim_matches('"').to_owned());
        assert_eq!(found, expected, "{sql}");
    }
}

#[test]
fn null_safe_keys_and_others_are_not_mixed() {
    let weir = Weir::new();
    let rows = "(VALUES (1, 1, NULL), (2, NULL, 2), (3, 3, 3), (4, NULL, NULL))";
    for (sql, expected) in [
        (
            "FROM {s} s (id, a, p) JOIN {s} r (id, a, p) ON s.a IS NOT DISTINCT FROM r.a WHERE s.p = r.p",
            vec!["2,2", "3,3"],
        ),
        (
            "FROM {s} s (id, a, p) LEFT JOIN {s} r (id, a, p) ON s.a IS NOT DISTINCT FROM r.a WHERE s.p = r.p",
            vec!["2,2", "3,3"],
        ),
        (
            "FROM {s} s (id, a, p) JOIN {s} r (id, a, p) ON s.a = r.a WHERE s.p IS NOT DISTINCT FROM r.p",
            vec!["1,1", "3,3"],
        ),
        (
            "FROM {s} s (id, a, p) JOIN {s} r (id, a, p) ON s.a IS NOT DISTINCT FROM r.a JOIN {s} z (id, a, p) ON z.id = r.id WHERE s.p = z.p",
            vec!["2,2", "3,3"],
        ),
    ] {
        let sql = format!("SELECT s.id, r.id AS other {} ORDER BY 1, 2", sql.replace("{s}", rows));
        assert_eq!(weir.query(&sql), expected, "{sql}");
    }
    let lines = "{\"id\":1,\"a\":1}\n{\"id\":2,\"p\":2}\n{\"id\":3,\"a\":3,\"p\":3}\n{\"id\":4}\n";
    weir.write("in/a.jsonl", lines);
    let source = |name: &str| {
        format!(
            "CREATE SOURCE {name} (id BIGINT, a BIGINT, p BIGINT) WITH (connector = 'file', path = 'in', format = 'json'); CREATE TABLE o_{name} (x BIGINT, y BIGINT) USING DELTA;"
        )
    };
    weir.write(
        "p.sql",
        &format!(
            "{} {} {}
             CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = 'none', at_end = 'flush') AS BEGIN
               INSERT INTO o_s SELECT s.id, r.id FROM s JOIN r ON s.a IS NOT DISTINCT FROM r.a WHERE s.p = r.p;
               INSERT INTO o_r SELECT s.id, r.id FROM s LEFT JOIN r ON s.a IS NOT DISTINCT FROM r.a WHERE s.p = r.p;
               INSERT INTO o_z SELECT s.id, r.id FROM s JOIN r ON s.a IS NOT DISTINCT FROM r.a JOIN z ON z.id = r.id WHERE s.p = z.p;
             END;",
            source("s"),
            source("r"),
            source("z")
        ),
    );
    weir.succeed(&["run", "p.sql"]);
    for table in ["o_s", "o_r", "o_z"] {
        assert_eq!(weir.query(&format!("SELECT x, y FROM {table} ORDER BY x")), ["2,2", "3,3"], "{table}");
    }
}

#[test]
fn what_changes_by_itself_is_refused_over_rows_that_are_retracted() {
    let weir = Weir::new();
    let check = |insert: &str| {
        weir.write(
            "p.sql",
            &format!(
                "CREATE SOURCE s (v BIGINT, ts TIMESTAMP) WITH (connector = 'file', path = 'in', format = 'json');
                 CREATE TABLE t (n BIGINT NOT NULL, k BIGINT, seen STRING, PRIMARY KEY (n) NOT ENFORCED) USING DELTA;
                 CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO t {insert}; END;"
            ),
        );
        text(&weir.run(&["check", "p.sql"]).stderr)
    };
    let grouped = "(SELECT v AS k, count(*) AS n FROM s GROUP BY v)";
    for what in ["now()", "uuid()", "random()"] {
        let told = check(&format!("SELECT n, k, CAST({what} AS STRING) AS seen FROM {grouped} g"));
        assert!(told.contains("over rows that may be taken back"), "{what}: {told}");
    }
    // The key says which row goes.
    assert_eq!(check("SELECT v AS n, count(*) AS k, CAST(now() AS STRING) AS seen FROM s GROUP BY v"), "");
    weir.write(
        "p.sql",
        "CREATE SOURCE s (v BIGINT, ts TIMESTAMP) WITH (connector = 'file', path = 'in', format = 'json');
         CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN CREATE MATERIALIZED VIEW m AS SELECT v, greatest(max(ts), now()) AS z FROM s GROUP BY v; END;",
    );
    let told = text(&weir.run(&["check", "p.sql"]).stderr);
    assert!(told.contains("clock"), "{told}");
}
