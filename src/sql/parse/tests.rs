use super::*;
use crate::sql::statement::{AsOf, Aspect, ObjectKind, OptionValue, Origin, SecretOrigin, Show};

/// The only statement of a text without errors.
fn one(text: &str) -> StatementKind {
    let (mut statements, errors) = parse(&SourceFile::new("test.sql", text), 0);
    assert!(errors.is_empty(), "{text}: {errors:?}");
    assert_eq!(statements.len(), 1, "{text}");
    statements.remove(0).kind
}

/// The messages of a text's errors.
fn errors(text: &str) -> Vec<String> {
    parse(&SourceFile::new("test.sql", text), 0).1.into_iter().map(|error| error.message).collect()
}

#[test]
fn secrets_come_from_a_variable_or_a_file() {
    let StatementKind::CreateSecret(secret) = one("create secret s from env My_Var") else { panic!() };
    assert!(matches!(secret.from, SecretOrigin::Env(name) if name.value == "My_Var"));
    let StatementKind::CreateSecret(secret) = one("CREATE OR REPLACE SECRET s FROM FILE '/run/x'") else { panic!() };
    assert!(matches!(secret.from, SecretOrigin::File(path) if path.value == "/run/x"));
    assert_eq!(secret.head.on_existing, OnExisting::Replace);
    assert_eq!(errors("create secret s from 'hunter2'"), ["expected `ENV` or `FILE`"]);
}

#[test]
fn a_source_has_columns_origins_watermark_and_options() {
    let StatementKind::CreateSource(source) = one(
        "CREATE SOURCE IF NOT EXISTS Tx (id STRING NOT NULL, \"User\" VARCHAR(20) FROM 'customer.id',
         k BINARY METADATA FROM 'key', partition INT METADATA, WATERMARK FOR ts AS ts - INTERVAL '5 seconds', ts TIMESTAMP(3))
         WITH (Connector = 'kafka', 'Scan.Startup.Mode' = 'earliest', properties.fetch.min.bytes = 1, x = SECRET s, y = -1, z = true)",
    ) else {
        panic!()
    };
    assert_eq!((source.head.name.value.as_str(), source.head.on_existing), ("tx", OnExisting::Keep));
    let names: Vec<_> = source.columns.iter().map(|column| column.name.value.as_str()).collect();
    assert_eq!(names, ["id", "User", "k", "partition", "ts"]);
    assert!(!source.columns[0].nullable && source.columns[1].nullable);
    assert!(matches!(&source.columns[1].origin, Some(Origin::Field(path)) if path.value == "customer.id"));
    assert!(matches!(&source.columns[3].origin, Some(Origin::Metadata(key)) if key.value == "partition"));
    assert_eq!(source.watermark.map(|watermark| watermark.column.value).as_deref(), Some("ts"));
    let with = source.with.unwrap_or_default();
    let keys: Vec<_> = with.entries.iter().map(|entry| entry.key.value.as_str()).collect();
    assert_eq!(keys, ["connector", "scan.startup.mode", "properties.fetch.min.bytes", "x", "y", "z"]);
    assert_eq!(with.entries[3].value, OptionValue::Secret("s".to_owned()));
    assert_eq!(with.entries[4].value, OptionValue::Text("-1".to_owned()));
}

#[test]
fn a_table_has_partitions_keys_checks_and_properties_in_their_case() {
    let StatementKind::CreateTable(table) = one(
        "create table t (a int primary key not enforced, b int check (b > 0), constraint c check (a < b), d date)
         using delta partitioned by (d) location 's3://x' tblproperties ('delta.enableChangeDataFeed' = 'true') options (AWS_KEY = secret k)",
    ) else {
        panic!()
    };
    assert_eq!(table.primary_key[0].value, "a");
    assert_eq!(table.checks.len(), 2);
    assert_eq!(table.checks[1].name.as_ref().map(|name| name.value.as_str()), Some("c"));
    assert_eq!(table.partitioned_by[0].value, "d");
    assert_eq!(table.properties.unwrap_or_default().entries[0].key.value, "delta.enableChangeDataFeed");
    assert_eq!(table.storage.unwrap_or_default().entries[0].key.value, "AWS_KEY");
    let StatementKind::CreateTable(table) = one("create table t (a int, primary key (a) not enforced)") else {
        panic!()
    };
    assert_eq!(table.primary_key.len(), 1);
}

#[test]
fn views_functions_models_and_sinks_are_read() {
    let StatementKind::CreateView(view) = one("create view v (a, \"B\") as select 1, 2") else { panic!() };
    assert_eq!(view.columns.iter().map(|column| column.value.as_str()).collect::<Vec<_>>(), ["a", "B"]);
    let StatementKind::CreateModel(model) = one("create model m with (provider = 'lightgbm', path = 'x')") else {
        panic!()
    };
    assert_eq!(model.with.entries.len(), 2);
    let StatementKind::CreateSink(sink) = one("create sink s with (connector = 'console')") else { panic!() };
    assert!(sink.columns.is_empty());
    for text in [
        "create function f(a double, b array<array<int>>) returns double immutable language sql as $$ a / (b[1] + 1) $$",
        "create function f(a double) returns double as 'select a + 1' language sql",
        "create function f() returns int language sql return 1",
        "create function f(a int) returns int language 'SQL' as $body$ return a; $body$",
    ] {
        assert!(matches!(one(text), StatementKind::CreateFunction(_)), "{text}");
    }
}

#[test]
fn errors_in_a_function_body_stand_in_the_file() {
    let file = SourceFile::new("test.sql", "create function f(a int) returns int language sql as $$\n  a + * 2\n$$");
    let (_, errors) = parse(&file, 0);
    assert_eq!((errors[0].span.start.line, errors[0].span.start.column), (2, 7), "{errors:?}");
}

#[test]
fn a_statement_that_stops_too_early_has_a_place() {
    for text in ["create function f() returns int language sql return", "create view v as", "insert into t", "create"] {
        let (_, errors) = parse(&SourceFile::new("test.sql", text), 0);
        assert!(errors.len() == 1 && !errors[0].span.is_empty(), "{text}: {errors:?}");
    }
}

#[test]
fn pipelines_and_inserts_are_read() {
    let StatementKind::CreatePipeline(pipeline) = one("create pipeline p with (trigger = '1 second') as begin
           insert into a (x, y) select case when b then 1 end, 2 from t;
           insert into b select end_at from t
         end;")
    else {
        panic!()
    };
    assert_eq!(pipeline.inserts.len(), 2);
    assert_eq!(pipeline.inserts[0].columns.len(), 2);
    for text in [
        "insert into a select 1",
        "insert into a (select 1)",
        "INSERT INTO TABLE a VALUES (1)",
        "insert into a with x as (select 1) select * from x",
    ] {
        assert!(matches!(one(text), StatementKind::Insert(insert) if insert.columns.is_empty()), "{text}");
    }
    assert_eq!(errors("create pipeline p as begin end"), ["this pipeline has no INSERT"]);
    assert_eq!(
        errors("create pipeline p as begin create view v as select 1; end"),
        ["only INSERT and CREATE MATERIALIZED VIEW stand between BEGIN and END"]
    );
    assert_eq!(errors("create pipeline p as begin insert a select 1; insert into; end").len(), 2);
}

#[test]
fn commands_are_read() {
    let StatementKind::Drop(drop) = one("drop table if exists t") else { panic!() };
    assert!(drop.if_exists && drop.object == ObjectKind::Table);
    assert!(matches!(one("show pipelines"), StatementKind::Show(Show::Pipelines)));
    let StatementKind::Describe(describe) = one("describe history model m") else { panic!() };
    assert_eq!((describe.aspect, describe.object), (Aspect::History, Some(ObjectKind::Model)));
    let StatementKind::Describe(describe) = one("desc history") else { panic!() };
    assert_eq!((describe.aspect, describe.name.value.as_str()), (Aspect::Columns, "history"));
    assert!(matches!(one("describe detail t"), StatementKind::Describe(found) if found.aspect == Aspect::Detail));
    for text in
        ["explain insert into a select 1", "explain verbose select 1", "explain with x as (select 1) select * from x"]
    {
        assert!(matches!(one(text), StatementKind::Explain(_)), "{text}");
    }
    for text in [
        "select 1",
        "(select 1) union all (select 2)",
        "values (1)",
        "from t select a",
        "with a as (select 1) select * from a",
    ] {
        assert!(matches!(one(text), StatementKind::Query(_)), "{text}");
    }
}

#[test]
fn what_cannot_run_yet_says_so() {
    for text in [
        "create model m with (provider = 'lightgbm') as select 1",
        "create function f(a int) returns int language python using file 'x.py'",
        "create function f(a int) returns int language native using file 'x.so'",
        "create function f(a int) returns int volatile language sql as $$ a $$",
        "create table t (a int) as select 1",
        "create table t (a int default 1)",
        "create table t (a int comment 'x')",
        "create table t (a int, d date) partitioned by (days(d))",
        "create source s (a as b + 1) with (connector = 'kafka')",
        "refresh model m",
        "alter model m promote version 8",
        "alter table t add column x int",
        "optimize t zorder by (a)",
        "vacuum t retain 1 hours",
        "restore t to version as of 1",
        "delete from t where a",
        "update t set a = 1",
        "merge into t using s on a = b when matched then delete",
        "explain analyze select 1",
        "start pipeline p",
        "replay dead letters of t",
        "insert overwrite t select 1",
    ] {
        let found = errors(text);
        assert!(found.len() == 1 && found[0].ends_with("is not supported yet"), "{text}: {found:?}");
    }
}

#[test]
fn materialized_views_are_tables_with_a_query() {
    let text = "create or replace materialized view v (a, n) using delta partitioned by (a) location 'x' \
                tblproperties ('delta.appendOnly' = 'false') primary key (a) not enforced as select b, count(*) from t group by b";
    let StatementKind::CreateMaterializedView(view) = one(text) else { panic!("{text}") };
    assert_eq!(view.table.head.name.value, "v");
    assert_eq!(view.table.partitioned_by[0].value, "a");
    assert_eq!(view.table.primary_key[0].value, "a");
    assert!(view.table.location.is_some() && view.table.properties.is_some());
    assert_eq!(view.columns.len(), 2);
    assert_eq!(view.insert.query.to_string(), "SELECT * FROM \"v\"");
    let text = "create pipeline p as begin insert into a select 1; create materialized view v as select case when a then 1 end from t; end";
    let StatementKind::CreatePipeline(pipeline) = one(text) else { panic!("{text}") };
    assert_eq!((pipeline.inserts.len(), pipeline.views.len()), (1, 1));
    assert!(
        matches!(one("drop materialized view if exists v"), StatementKind::Drop(found) if found.object == ObjectKind::MaterializedView)
    );
    assert_eq!(errors("create pipeline p as begin create view v as select 1; end").len(), 1);
    assert_eq!(errors("create materialized view v").len(), 1);
    assert_eq!(errors("create materialized view v with (a = 'b') as select 1").len(), 1);
}

#[test]
fn state_is_shown_verified_and_migrated() {
    assert!(matches!(one("show state"), StatementKind::ShowState(found) if found.pipeline.is_none()));
    assert!(matches!(one("show state for p"), StatementKind::ShowState(found) if found.pipeline.is_some()));
    assert!(matches!(one("show materialized views"), StatementKind::Show(Show::MaterializedViews)));
    let as_of = |text: &str| match one(text) {
        StatementKind::Verify(found) => found.as_of,
        other => panic!("{other:?}"),
    };
    assert!(as_of("verify pipeline p").is_none());
    assert!(matches!(as_of("verify pipeline p version as of 7"), Some(AsOf::Version(7))));
    assert!(matches!(as_of("verify pipeline p as of 7"), Some(AsOf::Version(7))));
    assert!(matches!(as_of("verify pipeline p timestamp as of '2026-01-31'"), Some(AsOf::Timestamp(_))));
    assert!(matches!(one("explain migration"), StatementKind::Migration(found) if found.from.is_none()));
    assert!(matches!(one("explain migration 'old.sql'"), StatementKind::Migration(found) if found.from.is_some()));
    assert!(matches!(one("explain migration from 'old.sql'"), StatementKind::Migration(found) if found.from.is_some()));
    for text in ["verify pipeline", "verify pipeline p as of", "explain migration from", "show state for"] {
        assert_eq!(errors(text).len(), 1, "{text}");
    }
}

#[test]
fn one_wrong_statement_spoils_no_other() {
    let text =
        "select from where; create view v as select 1; show pipelnes; create source s (a strng, b itn) with (c = 1);";
    let (statements, errors) = parse(&SourceFile::new("test.sql", text), 0);
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert!(statements.iter().any(|statement| matches!(&statement.kind, StatementKind::CreateView(_))));
    assert!(
        statements.iter().any(|statement| matches!(&statement.kind, StatementKind::Broken(name) if name.value == "s"))
    );
    let hints: Vec<_> = errors.iter().filter_map(|error| error.hint.as_deref()).collect();
    assert!(hints.contains(&"Did you mean `PIPELINES`?") && hints.contains(&"Did you mean `STRING`?"), "{hints:?}");
}

#[test]
fn clauses_stand_only_where_they_belong() {
    for (text, message) in [
        ("create source s (a int) location 'x'", "`LOCATION` belongs to `CREATE TABLE`"),
        ("create table t (a int, ts timestamp, watermark for ts as ts)", "a table has no watermark"),
        ("create table t (a int from 'b')", "a table's column has no `FROM` or `METADATA`"),
        (
            "create sink s (a int, primary key (a) not enforced) with (connector = 'console')",
            "a sink has no primary key",
        ),
        ("create table t (a int, primary key (a))", "a primary key must be `NOT ENFORCED`"),
        ("create table t (a int, a string)", "column `a` is declared twice"),
        ("create table t (a int) using iceberg", "unknown table format `iceberg`"),
        ("create sink s with (a = '1', a = '2')", "option `a` is given twice"),
        ("create table x.t (a int)", "qualified names are not supported"),
        ("create or replace table if not exists t (a int)", "`OR REPLACE` and `IF NOT EXISTS` exclude each other"),
    ] {
        assert_eq!(errors(text), [message], "{text}");
    }
}

/// Correct scripts, which the tests mutate.
const SCRIPTS: &[&str] = &[
    "CREATE SECRET s FROM ENV X; CREATE SOURCE t (id STRING NOT NULL, m MAP<STRING, ARRAY<STRUCT<a INT, b DECIMAL(10, 2)>>>, ts TIMESTAMP, k BINARY METADATA FROM 'key', WATERMARK FOR ts AS ts - INTERVAL '5 seconds') WITH (connector = 'kafka', bootstrap_servers = '${K:-h:9092}', topic = 't', sasl_password = SECRET s);",
    "CREATE TABLE a (x INT CHECK (x > 0), y DATE, PRIMARY KEY (x) NOT ENFORCED) USING DELTA PARTITIONED BY (y) LOCATION 'p' TBLPROPERTIES ('delta.appendOnly' = 'true'); CREATE FUNCTION f(a DOUBLE) RETURNS DOUBLE IMMUTABLE LANGUAGE sql AS $$ a / (a + 1) $$; DROP TABLE IF EXISTS a;",
    "CREATE PIPELINE p WITH (trigger = 'continuous', max_rows_per_micro_batch = 10) AS BEGIN INSERT INTO a (x, y) SELECT CASE WHEN b THEN 1 ELSE 2 END, c FROM SESSION(TABLE t PARTITION BY u, DESCRIPTOR(ts), INTERVAL '5 minutes') WHERE é = 'ü'; INSERT INTO b SELECT * FROM t VERSION AS OF 3; END; EXPLAIN INSERT INTO a SELECT f(a => 1) FROM t JOIN c FOR SYSTEM_TIME AS OF t.ts AS u ON u.a = t.a; CREATE MATERIALIZED VIEW v (a, b) PARTITIONED BY (a) LOCATION 'p' AS SELECT a, count(*) FROM t GROUP BY a; SHOW STATE FOR p; VERIFY PIPELINE p AS OF '2026-01-01'; EXPLAIN MIGRATION FROM 'old.sql';",
    "SELECT count(*) OVER h, \"Q\".x FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute')) w WINDOW h AS (PARTITION BY a ORDER BY ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW); -- note\nSHOW PIPELINES; /* x */ DESCRIBE HISTORY t;",
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(
        script in 0..SCRIPTS.len(),
        edits in proptest::collection::vec((0usize..1000, 0usize..6, 0usize..40), 1..6),
    ) {
        const PIECES: &[&str] = &["(", ")", ";", "'", "$$", "\"", ",", "CREATE", "END", "BEGIN", "<", ">>", "TABLE", "${", ".", "é", "\n", "/*", "--", "INSERT INTO", "PARTITION BY", "DESCRIPTOR(", "AS", "\u{0}"];
        let mut chars: Vec<char> = SCRIPTS[script].chars().collect();
        for (at, kind, amount) in edits {
            let at = at % (chars.len() + 1);
            let end = (at + amount).min(chars.len());
            match kind {
                0 => drop(chars.drain(at..end)),
                1 => drop(chars.splice(at..at, PIECES[amount % PIECES.len()].chars())),
                2 => chars.truncate(at),
                3 => { let part: Vec<char> = chars[at..end].to_vec(); drop(chars.splice(at..at, part)); }
                4 => chars[at..end].reverse(),
                _ => drop(chars.splice(at..end, " ".chars())),
            }
        }
        let text: String = chars.into_iter().collect();
        let file = std::sync::Arc::new(SourceFile::new("fuzz.sql", text));
        let (_, errors) = parse(&file, 0);
        proptest::prop_assert!(errors.iter().all(|error| !error.span.is_empty()), "{errors:?}");
        let _ = crate::sql::Diagnostics::new(&[file], errors).render(true);
    }
}
