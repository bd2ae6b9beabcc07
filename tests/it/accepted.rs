//! Statements that `weir check` accepts run, and those that cannot run are refused there with their place.

use crate::program::{Weir, text};

const SOURCE: &str = "CREATE SOURCE e (id BIGINT NOT NULL, k DOUBLE, s STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts)
  WITH (connector = 'file', path = 'in', format = 'json');\n";

const OPTIONS: &str = "WITH (trigger = 'available now', at_end = 'flush', state_ttl = '1 hour')";

fn weir() -> Weir {
    let weir = Weir::new();
    weir.write("in/a.jsonl", "{\"id\":1,\"k\":0.5,\"s\":\"A\",\"ts\":\"2026-01-01T00:00:10Z\"}\n");
    weir
}

#[test]
fn an_aggregate_that_cannot_be_computed_is_refused_before_anything_runs() {
    for (call, why) in [
        ("string_agg(s, CAST(k AS STRING))", "string_agg delimiter must be a string literal"),
        ("percentile_cont(NULL) WITHIN GROUP (ORDER BY k)", "Percentile value"),
        ("percentile_cont(k) WITHIN GROUP (ORDER BY k)", "Percentile value"),
        ("count(DISTINCT id, k)", "COUNT DISTINCT with multiple arguments"),
        ("array_agg(DISTINCT k ORDER BY id)", "ORDER BY expressions must appear in argument list"),
        ("stddev(DISTINCT k)", "is not"),
        ("nth_value(k, id)", "nth_value not supported"),
        ("string_agg(s, ',')", ""),
        ("percentile_cont(0.5) WITHIN GROUP (ORDER BY k)", ""),
        ("count(DISTINCT id)", ""),
        ("sum(k / (id - 1))", ""),
    ] {
        let weir = weir();
        let sql = format!(
            "{SOURCE}CREATE SINK o WITH (connector = 'console');\nCREATE PIPELINE p {OPTIONS} AS BEGIN INSERT INTO o SELECT id, {call} AS v FROM e GROUP BY id; END;"
        );
        weir.write("p.sql", &sql);
        let (checked, ran) = (weir.run(&["check", "p.sql"]), weir.run(&["run", "p.sql"]));
        let said = text(&checked.stderr);
        assert_eq!(checked.status.code(), Some(i32::from(!why.is_empty())), "{call}: {said}");
        assert_eq!(ran.status.code(), checked.status.code(), "{call}: {}", text(&ran.stderr));
        assert!(said.contains(why) && (why.is_empty() || said.contains("p.sql:4:")), "{call}: {said}");
    }
}

#[test]
fn streams_are_joined_on_keys_that_both_sides_compute() {
    for on in [
        "upper(x.s) = lower(upper(y.s))",
        "upper(x.s) = upper(y.s)",
        "x.id + 1 = y.id + 1",
        "date_trunc('minute', x.ts) = date_trunc('minute', y.ts)",
        "CAST(x.ts AS DATE) = CAST(y.ts AS DATE) AND coalesce(x.s, '') = coalesce(y.s, '')",
        "x.s = y.s AND x.id + 1 = y.id + 1 AND y.ts BETWEEN x.ts AND x.ts + INTERVAL '1 minute'",
    ] {
        let weir = weir();
        let sql = format!(
            "{SOURCE}CREATE TABLE o (a BIGINT, b BIGINT) USING DELTA;\nCREATE PIPELINE p {OPTIONS} AS BEGIN INSERT INTO o SELECT x.id AS a, y.id AS b FROM e x JOIN e y ON {on}; END;"
        );
        weir.write("p.sql", &sql);
        weir.succeed(&["check", "p.sql"]);
        weir.succeed(&["run", "p.sql"]);
        let matched = !on.contains("lower");
        assert_eq!(weir.query("SELECT a, b FROM o"), if matched { vec!["1,1"] } else { Vec::new() }, "{on}");
    }
}

#[test]
fn a_table_may_be_called_as_the_window_function_that_fills_it() {
    for (table, window) in [
        ("hop", "HOP(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute', INTERVAL '2 minutes')"),
        ("tumble", "TUMBLE(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute')"),
        ("session", "SESSION(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute')"),
    ] {
        let weir = weir();
        let sql = format!(
            "{SOURCE}CREATE TABLE {table} (ws TIMESTAMP, n BIGINT) USING DELTA;\nCREATE PIPELINE p {OPTIONS} AS BEGIN INSERT INTO {table} SELECT window_start AS ws, count(*) AS n FROM {window} GROUP BY window_start, window_end; END;"
        );
        weir.write("p.sql", &sql);
        weir.succeed(&["check", "p.sql"]);
        weir.succeed(&["run", "p.sql"]);
        assert_eq!(weir.number(&format!("SELECT count(*) FROM {table}")), if table == "hop" { 2 } else { 1 });
    }
}

/// A Delta table as Spark makes it, with a partition column that it generates.
fn generating(weir: &Weir, expression: &str) {
    let field = |name: &str, kind: &str, expression: Option<&str>| {
        let metadata =
            expression.map_or(serde_json::json!({}), |sql| serde_json::json!({ "delta.generationExpression": sql }));
        serde_json::json!({ "name": name, "type": kind, "nullable": true, "metadata": metadata })
    };
    let fields = [field("id", "long", None), field("ts", "timestamp", None), field("day", "date", Some(expression))];
    let schema = serde_json::json!({ "type": "struct", "fields": fields }).to_string();
    let entries = [
        serde_json::json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 4 } }),
        serde_json::json!({ "metaData": { "id": "22222222-2222-4222-8222-222222222222", "format": { "provider": "parquet", "options": {} },
            "schemaString": schema, "partitionColumns": ["day"], "configuration": {}, "createdTime": 0 } }),
    ];
    weir.write("lake/_delta_log/00000000000000000000.json", &entries.map(|entry| format!("{entry}\n")).concat());
}

#[test]
fn generated_columns_are_computed_where_the_insert_leaves_them_out() {
    for (expression, columns, insert) in [
        ("CAST(ts AS DATE)", "", "INSERT INTO lake (id, ts) SELECT id, ts FROM e"),
        ("CAST(`ts` AS DATE)", "", "INSERT INTO lake SELECT id, ts FROM e"),
        ("CAST(ts AS DATE)", "(id BIGINT, ts TIMESTAMP)", "INSERT INTO lake SELECT id, ts FROM e"),
        ("CAST(ts AS DATE)", "", "INSERT INTO lake SELECT id, ts, CAST(ts AS DATE) AS day FROM e"),
    ] {
        let weir = weir();
        generating(&weir, expression);
        weir.write("p.sql", &format!("{SOURCE}CREATE TABLE lake {columns} USING DELTA LOCATION 'lake';\nCREATE PIPELINE p {OPTIONS} AS BEGIN {insert}; END;"));
        weir.succeed(&["run", "p.sql"]);
        let rows = weir.succeed(&["query", "SELECT id, day FROM lake", "--file", "p.sql", "--format", "csv"]);
        assert!(rows.contains("1,2026-01-01"), "{insert}: {rows}");
    }
}

#[test]
fn a_generated_column_that_weir_does_not_understand_is_refused() {
    let weir = weir();
    generating(&weir, "nobody_knows(ts)");
    weir.write("p.sql", &format!("{SOURCE}CREATE TABLE lake USING DELTA LOCATION 'lake';\nCREATE PIPELINE p {OPTIONS} AS BEGIN INSERT INTO lake (id, ts) SELECT id, ts FROM e; END;"));
    let output = weir.run(&["run", "p.sql"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("generated column"), "{}", text(&output.stderr));
}

/// A table of Spark's with a column of this type that is generated so.
fn generated_by_spark(weir: &Weir, kind: &str, expression: &str) {
    let field = |name: &str, kind: &str, metadata: serde_json::Value| serde_json::json!({ "name": name, "type": kind, "nullable": true, "metadata": metadata });
    let none = || serde_json::json!({});
    let fields = [
        field("id", "long", none()),
        field("s", "string", none()),
        field("ts", "timestamp", none()),
        field("g", kind, serde_json::json!({ "delta.generationExpression": expression })),
    ];
    let schema = serde_json::json!({ "type": "struct", "fields": fields }).to_string();
    let entries = [
        serde_json::json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 4 } }),
        serde_json::json!({ "metaData": { "id": "33333333-3333-4333-8333-333333333333", "format": { "provider": "parquet", "options": {} },
            "schemaString": schema, "partitionColumns": [], "configuration": {}, "createdTime": 0 } }),
    ];
    weir.write("lake/_delta_log/00000000000000000000.json", &entries.map(|entry| format!("{entry}\n")).concat());
    weir.write("p.sql", &format!("{SOURCE}CREATE TABLE lake USING DELTA LOCATION 'lake';\nCREATE PIPELINE p {OPTIONS} AS BEGIN INSERT INTO lake (id, s, ts) SELECT id, s, ts FROM e; END;"));
}

#[test]
fn generated_columns_hold_what_spark_computes() {
    for (kind, expression, expected) in [
        ("string", "DATE_FORMAT(ts, 'yyyy-MM')", "2026-01"),
        ("integer", "YEAR(ts)", "2026"),
        ("double", "id / 2", "0.5"),
        ("string", "SUBSTRING(s, 0, 1)", "A"),
        ("string", "concat(s, NULL)", ""),
        ("string", "CAST(ts AS STRING)", "2026-01-01 00:00:10"),
        ("boolean", "s IS DISTINCT FROM 'B' AND id > 5", "false"),
        ("string", "regexp_replace(concat(s, s), 'A', 'b')", "bb"),
    ] {
        let weir = weir();
        generated_by_spark(&weir, kind, expression);
        weir.succeed(&["check", "p.sql"]);
        weir.succeed(&["run", "p.sql"]);
        let rows = weir.succeed(&["query", "SELECT id, g FROM lake", "--file", "p.sql", "--format", "csv"]);
        assert_eq!(rows.lines().nth(1), Some(format!("1,{expected}").as_str()), "{expression}: {rows}");
    }
}

#[test]
fn check_refuses_what_run_refuses_of_a_table_that_exists() {
    for (expression, why) in
        [("to_char(ts, 'yyyy')", "to_char"), ("EXTRACT(EPOCH FROM ts)", "epoch"), ("uuid()", "uuid")]
    {
        let weir = weir();
        generated_by_spark(&weir, "string", expression);
        for command in ["check", "run"] {
            let output = weir.run(&[command, "p.sql"]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command} {expression}: {said}");
            assert!(said.contains("constraint `generated column g` of table `lake` cannot be understood"), "{said}");
            assert!(said.contains(why), "{said}");
        }
    }
}

#[test]
fn checks_are_judged_as_spark_judges_them() {
    for (check, accepted) in [
        ("date_format(ts, 'yyyy') = '2026'", true),
        ("s IS DISTINCT FROM 'B' AND id > 5", false),
        ("concat(s, NULL) <> ''", false),
        ("ts < '9999-12-31'", true),
        ("INTERVAL '25 hours' > INTERVAL '1 day'", true),
        ("CAST(id AS DECIMAL(10,2)) * 0.1 = 0.1", true),
        ("log(k * 200) > 4.6", true),
    ] {
        let weir = weir();
        weir.write("p.sql", &format!("{SOURCE}CREATE TABLE o (id BIGINT, k DOUBLE, s STRING, ts TIMESTAMP, CHECK ({check})) USING DELTA;\nCREATE PIPELINE p {OPTIONS} AS BEGIN INSERT INTO o SELECT id, k, s, ts FROM e; END;"));
        weir.succeed(&["check", "p.sql"]);
        weir.succeed(&["run", "p.sql"]);
        assert_eq!(weir.number("SELECT count(*) FROM o"), i64::from(accepted), "{check}");
    }
}

#[test]
fn what_a_target_cannot_hold_is_refused_by_check() {
    let sink = |format: &str| format!("CREATE SINK o WITH (connector = 'file', path = 'out', format = '{format}');");
    let view = |query: &str| (String::new(), format!("CREATE MATERIALIZED VIEW o AS {query}"));
    let into = |sink: String, query: &str| (sink, format!("INSERT INTO o {query}"));
    for ((declared, insert), refused) in [
        (view("SELECT id, ts - ts AS v FROM e"), true),
        (view("SELECT id, INTERVAL '1 day' AS v FROM e"), true),
        (view("SELECT id, CAST(ts AS TIME) AS v FROM e"), true),
        (view("SELECT id, CASE WHEN id > 1 THEN id ELSE s END AS v FROM e"), true),
        (view("SELECT id, current_time AS v FROM e"), true),
        (view("SELECT id, ts AT TIME ZONE 'Europe/Berlin' AS v FROM e"), false),
        (view("SELECT id, MAP {'a': id} AS v FROM e"), false),
        (view("SELECT id, arrow_cast(k, 'Float16') AS v FROM e"), false),
        (into(sink("parquet"), "SELECT id, INTERVAL '1 day' AS v FROM e"), true),
        (into(sink("json"), "SELECT id, ts AS v FROM e"), false),
        (into(sink("json"), "SELECT id, map(['a'], [id]) AS v FROM e"), false),
        (into(sink("csv"), "SELECT id, ts AS v FROM e"), false),
        (
            into(
                "CREATE SINK o WITH (connector = 'console');".to_owned(),
                "SELECT id, ts AT TIME ZONE 'Nowhere/X' AS v FROM e",
            ),
            true,
        ),
    ] {
        let weir = weir();
        weir.write("p.sql", &format!("{SOURCE}{declared}\nCREATE PIPELINE p {OPTIONS} AS BEGIN {insert}; END;"));
        for command in ["check", "run"] {
            let output = weir.run(&[command, "p.sql"]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(i32::from(refused)), "{command} {insert}: {said}");
            assert!(!refused || said.contains("p.sql:4:"), "{command} {insert}: {said}");
        }
    }
}

#[test]
fn maps_as_keys_and_in_aggregates_are_refused_by_name() {
    for query in [
        "SELECT DISTINCT m FROM x",
        "SELECT m, count(*) AS n FROM x GROUP BY m",
        "SELECT id, count(*) OVER (PARTITION BY m ORDER BY ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM x",
        "SELECT id, max(m) AS v FROM x GROUP BY id",
        "SELECT id, array_agg(m) AS v FROM x GROUP BY id",
        "SELECT id FROM x ORDER BY m LIMIT 2",
    ] {
        let weir = weir();
        weir.write("p.sql", &format!("CREATE SOURCE x (id BIGINT, m MAP<STRING, BIGINT>, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in', format = 'json');\nCREATE SINK o WITH (connector = 'blackhole');\nCREATE PIPELINE p {OPTIONS} AS BEGIN INSERT INTO o {query}; END;"));
        for command in ["check", "run"] {
            let output = weir.run(&[command, "p.sql"]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command} {query}: {said}");
            assert!(said.contains("is a MAP or holds one"), "{query}: {said}");
        }
    }
}

#[test]
fn a_row_that_where_leaves_out_is_not_computed() {
    for on_row_error in ["fail", "dead_letter"] {
        let weir = Weir::new();
        weir.write(
            "in/a.jsonl",
            "{\"id\":1,\"kind\":\"ok\",\"a\":8,\"q\":2}\n{\"id\":2,\"kind\":\"no\",\"a\":8,\"q\":0}\n",
        );
        weir.write("p.sql", &format!("CREATE SOURCE x (id BIGINT, kind STRING, a BIGINT, q BIGINT) WITH (connector = 'file', path = 'in', format = 'json');
            CREATE TABLE o (kind STRING, v BIGINT) USING DELTA;
            CREATE PIPELINE p WITH (trigger = 'available now', on_row_error = '{on_row_error}') AS BEGIN INSERT INTO o SELECT kind, a / q AS v FROM x WHERE kind = 'ok'; END;"));
        weir.succeed(&["run", "p.sql"]);
        assert_eq!(weir.query("SELECT kind, v FROM o"), ["ok,4"]);
        let status = weir.succeed(&["status"]);
        assert!(!status.contains("refused"), "{status}");
    }
}

#[test]
fn a_table_that_refuses_every_row_of_an_epoch_says_so() {
    let weir = weir();
    weir.write("p.sql", &format!("{SOURCE}CREATE TABLE o (id BIGINT CHECK (id > 5)) USING DELTA;\nCREATE TABLE all_of_it (id BIGINT) USING DELTA;\nCREATE PIPELINE p {OPTIONS} AS BEGIN INSERT INTO o SELECT id FROM e; INSERT INTO all_of_it SELECT id FROM e; END;"));
    let output = weir.run(&["run", "p.sql"]);
    let log = text(&output.stderr);
    assert!(output.status.success() && log.contains("every row of the epoch was refused"), "{log}");
    let status = weir.succeed(&["status"]);
    assert!(status.contains("to   o  0 rows  (delta)  1 refused"), "{status}");
    assert!(status.contains("to   all_of_it  1 rows"), "{status}");
}

#[test]
fn a_check_that_cannot_be_understood_is_refused_with_its_place() {
    for (check, accepted) in [("coalesce(a, 0) >= 0", true), ("nobody_knows(a) > 0", false), ("a + 1", false)] {
        let weir = weir();
        weir.write("p.sql", &format!("{SOURCE}CREATE TABLE o (a BIGINT,\n CHECK ({check})) USING DELTA;\nCREATE PIPELINE p {OPTIONS} AS BEGIN INSERT INTO o SELECT id AS a FROM e; END;"));
        let (checked, ran) = (weir.run(&["check", "p.sql"]), weir.run(&["run", "p.sql"]));
        let said = text(&checked.stderr);
        assert_eq!(checked.status.code(), Some(i32::from(!accepted)), "{check}: {said}");
        assert_eq!(ran.status.code(), checked.status.code(), "{check}: {}", text(&ran.stderr));
        assert!(accepted || said.contains("p.sql:4:"), "{check}: {said}");
    }
}

#[test]
fn a_cross_join_of_which_one_side_gives_no_column_runs() {
    let weir = Weir::new();
    weir.write("t.jsonl", "{\"a\":1}\n{\"a\":2}\n");
    weir.write("u.jsonl", "{\"b\":5}\n{\"b\":5}\n{\"b\":6}\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE t (a BIGINT) WITH (connector = 'file', path = 't.jsonl');
         CREATE SOURCE u (b BIGINT) WITH (connector = 'file', path = 'u.jsonl');
         CREATE TABLE o (a BIGINT) USING DELTA;
         CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = 'none') AS BEGIN INSERT INTO o SELECT t.a FROM t CROSS JOIN u; END;",
    );
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.query("SELECT a, count(*) FROM o GROUP BY a ORDER BY a"), ["1,3", "2,3"]);
}
