//! Statements that need too much: they are refused with a message and its SQLSTATE, end when interrupted, and never use more
//! memory than the pool has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::memory::InMemory;
use url::Url;

use super::location::Location;
use super::{Declared, Warehouse, WarehouseOptions};
use crate::catalog::Catalog;
use crate::error::{Error, Result, SqlState};
use crate::serve::engine::{QueryEngine, QueryLimits};
use crate::serve::failure::query_error;
use crate::serve::gate::Client;
use crate::sql::SourceFile;

fn warehouse() -> Arc<Warehouse> {
    let location = Location::new(Url::parse("memory:///lake").unwrap(), Arc::new(InMemory::new())).unwrap();
    let options = WarehouseOptions { memory_limit_bytes: 64 << 20, parallelism: Some(2), functions: Vec::new() };
    Arc::new(Warehouse::new(location, options).unwrap())
}

fn engine() -> QueryEngine {
    QueryEngine::start(QueryLimits { timeout: Duration::from_secs(20), ..QueryLimits::default() }).unwrap()
}

async fn run(engine: &QueryEngine, warehouse: &Arc<Warehouse>, sql: &str) -> Result<usize> {
    let (warehouse, sql) = (Arc::clone(warehouse), sql.to_owned());
    let rows = engine.plan(Client::default(), async move { warehouse.plan(&sql).await?.stream().await }).await?;
    let counted = rows.try_fold(0, |count, batch| async move { Ok(count + batch.num_rows()) });
    engine.handle().spawn(counted).await.unwrap().map_err(query_error)
}

async fn refused(engine: &QueryEngine, warehouse: &Arc<Warehouse>, sql: &str) -> Error {
    match run(engine, warehouse, sql).await {
        Ok(rows) => panic!("{sql}: {rows} rows"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn constants_are_bounded_before_they_are_made() {
    let (engine, warehouse) = (engine(), warehouse());
    for sql in [
        "SELECT length(repeat('x', 2000000000))",
        "SELECT length(lpad('x', 2000000000))",
        "SELECT length(rpad('x', 2000000000, 'é'))",
        "SELECT array_length(range(1, 500000000))",
        "SELECT array_length(range(500000000))",
        "SELECT array_length(generate_series(1, 1000000000, 2))",
        "SELECT array_length(generate_series(DATE '0001-01-01', DATE '9999-12-31', INTERVAL '1' DAY))",
        "SELECT array_length(array_repeat(1, 500000000))",
        "SELECT array_length(array_resize([1], 500000000, 0))",
        "SELECT length(replace(repeat('x', 100000), 'x', repeat('y', 100000)))",
        "SELECT length(regexp_replace(repeat('x', 100000), '', repeat('y', 100000), 'g'))",
        "SELECT length(array_to_string(range(1, 10000), repeat('y', 100000)))",
        "SELECT levenshtein(repeat('x', 500000), repeat('y', 500000))",
        "SELECT arrow_cast(NULL, 'FixedSizeBinary(2000000000)')",
        "SELECT 1 WHERE 'a' = repeat('x', 500000000)",
    ] {
        let error = refused(&engine, &warehouse, sql).await;
        assert_eq!(error.state(), SqlState::LIMIT, "{sql}: {error:?}");
        assert!(error.hint().is_some() || error.detail().is_some(), "{sql}");
    }
    // Results that double at every level.
    for double in ["? || ?", "concat(?, ?)", "concat_ws('', ?, ?)", "array_to_string([?, ?], '')"] {
        // Names differ: DataFusion 55.2 treats two projections onto the same name as equal.
        let text = (0..60).fold("SELECT repeat('x', 1000) AS a0".to_owned(), |text, n| {
            format!("SELECT {} AS a{} FROM ({text})", double.replace('?', &format!("a{n}")), n + 1)
        });
        let error = refused(&engine, &warehouse, &format!("SELECT length(a60) FROM ({text})")).await;
        assert!(matches!(error.state(), SqlState::LIMIT | SqlState::OUT_OF_MEMORY), "{double}: {error:?}");
    }
    let nested = (0..80).fold("'x'".to_owned(), |text, _| format!("encode({text}, 'hex')"));
    refused(&engine, &warehouse, &format!("SELECT {nested}")).await;
    for sql in [
        "SELECT repeat('ab', 3) || 'c'",
        "SELECT lpad('x', 5, 'é'), concat('a', NULL, 'b'), 1 || 'a', NULL || 'a'",
        "SELECT range(1, 5), generate_series(1, 5), array_repeat(1, 3), [1, 2] || [3], {'a': 1}",
        "SELECT generate_series(DATE '2026-01-01', DATE '2026-02-01', INTERVAL '1' DAY)",
        "SELECT arrow_cast(1, 'Int16')",
        "SELECT repeat('x', value), 'y' || value FROM generate_series(1, 1000)",
    ] {
        run(&engine, &warehouse, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_of_rows_is_taken_from_the_pool_and_given_back() {
    let (engine, warehouse) = (engine(), warehouse());
    for sql in [
        "SELECT max(length(repeat('x', value))) FROM generate_series(1, 100000000, 100000)",
        "SELECT max(length(lpad('x', value))) FROM generate_series(1, 100000000, 100000)",
        "SELECT max(array_length(range(value))) FROM generate_series(1, 100000000, 100000)",
        "SELECT count(*) FROM (SELECT unnest(range(value)) FROM generate_series(1, 100000000, 100000))",
        "SELECT string_agg(repeat('x', value), '') FROM generate_series(1, 20000)",
    ] {
        let error = refused(&engine, &warehouse, sql).await;
        assert!(matches!(error.state(), SqlState::LIMIT | SqlState::OUT_OF_MEMORY), "{sql}: {error:?}");
    }
    let sql = "SELECT max(length(repeat('x', value % 1000))) FROM generate_series(1, 100000)";
    assert_eq!(run(&engine, &warehouse, sql).await.unwrap(), 1);
    // Tasks of refused queries are aborted; their memory is given back when a thread drops them, which may be a moment later.
    let asked = Instant::now();
    while warehouse.memory_reserved_bytes() > 0 && asked.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(warehouse.memory_reserved_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_never_pauses_ends_when_it_is_told() {
    let (engine, warehouse) = (engine(), warehouse());
    for sql in [
        "SELECT count(*) FROM generate_series(1, 1000000) a JOIN generate_series(1, 1000000) b ON a.value * b.value = -1",
        "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
        "SELECT count(*) FROM generate_series(1, 1000000) a JOIN generate_series(1, 1000000) b ON a.value % 2 = b.value % 2 AND a.value * b.value = -1",
        "SELECT count(DISTINCT a.value * b.value) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
        "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) SELECT count(*) FROM r",
    ] {
        let query = {
            let (warehouse, sql) = (Arc::clone(&warehouse), sql.to_owned());
            engine.plan(Client::default(), async move { warehouse.plan(&sql).await }).await.unwrap()
        };
        let interrupt = query.interrupt();
        let rows = engine.plan(Client::default(), async move { query.stream().await }).await.unwrap();
        let work = engine.handle().spawn(rows.try_collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!work.is_finished(), "{sql}");
        let told = Instant::now();
        interrupt.set();
        work.abort();
        let _ended =
            tokio::time::timeout(Duration::from_secs(10), work).await.unwrap_or_else(|_| panic!("{sql} goes on"));
        assert!(told.elapsed() < Duration::from_secs(5), "{sql}: {:?}", told.elapsed());
    }
}

/// `levels` nested subqueries, each of which computes `x` from the `x` of the one inside it.
fn nested(levels: usize, double: &str) -> String {
    (0..levels).fold("SELECT value AS x FROM generate_series(1, 3)".to_owned(), |text, n| {
        format!("SELECT {double} AS x FROM ({text}) t{n}")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn types_and_rows_that_double_are_refused_before_they_are_large() {
    let (engine, warehouse) = (engine(), warehouse());
    for double in [
        "struct(x, x)",
        "row(x, x)",
        "named_struct('a', x, 'b', x)",
        "{'a': x, 'b': x}",
        "struct(x AS a, x AS b)",
        "[struct(x, x)]",
        "map([x], [x])",
        "MAP {x: x}",
        "arrays_zip([x], [x])",
        "(SELECT struct(x, x))",
        "array_agg(struct(x, x))",
        "CASE WHEN true THEN struct(x, x) END",
        "struct(struct(struct(x, x), struct(x, x)), x)",
    ] {
        for sql in [
            nested(30, double),
            format!("SELECT 1 FROM ({}) t", nested(30, double)),
            (0..30).fold("WITH c0 AS (SELECT 1 AS x)".to_owned(), |text, n| {
                format!("{text}, c{} AS (SELECT {double} AS x FROM c{n})", n + 1)
            }) + " SELECT * FROM c30",
        ] {
            let started = Instant::now();
            let error = refused(&engine, &warehouse, &sql).await;
            assert_eq!(error.state(), SqlState::TOO_COMPLEX, "{double}: {error:?}");
            assert!(started.elapsed() < Duration::from_secs(10), "{double}: {:?}", started.elapsed());
        }
    }
    let columns = (0..1_500).map(|n| format!("{n} AS c{n}")).collect::<Vec<_>>().join(", ");
    let fields = (0..2_000).map(|n| format!("{n}")).collect::<Vec<_>>().join(", ");
    for sql in [
        format!("WITH t AS (SELECT {columns}) SELECT 1 FROM t{}", " UNION ALL SELECT 1 FROM t".repeat(21)),
        format!("WITH s AS (SELECT struct({fields}) AS x) SELECT struct(x, x, x, x, x, x) FROM s"),
        format!(
            "SELECT {} FROM (SELECT struct({fields}) AS x)",
            (0..6).map(|n| format!("x AS x{n}")).collect::<Vec<_>>().join(", ")
        ),
    ] {
        let started = Instant::now();
        let error = refused(&engine, &warehouse, &sql).await;
        assert_eq!(error.state(), SqlState::TOO_COMPLEX, "{sql:.60}: {error:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "{sql:.60}: {:?}", started.elapsed());
    }
    // `*` over thousands of columns is slow in DataFusion (each is compared with all before it), so the time limit may come
    // first.
    let joined = (0..8).map(|n| format!(", t b{n}")).collect::<String>();
    let error = refused(&engine, &warehouse, &format!("WITH t AS (SELECT {columns}) SELECT * FROM t a{joined}")).await;
    assert!([SqlState::TOO_COMPLEX, SqlState::CANCELLED].contains(&error.state()), "{error:?}");
    for sql in [
        nested(8, "struct(x, x)"),
        format!("WITH t AS (SELECT {columns}) SELECT * FROM t a, t b"),
        format!("SELECT struct({fields}) AS x"),
        "SELECT {'a': 1, 'b': {'c': [1, 2]}}, MAP {'a': 1}, struct(1 AS x, 2), arrays_zip([1], [2])".to_owned(),
    ] {
        run(&engine, &warehouse, &sql).await.unwrap_or_else(|error| panic!("{sql:.60}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_that_double_when_they_are_pushed_down_are_refused() {
    let (engine, warehouse) = (engine(), warehouse());
    let base = |double: &str, levels: usize| {
        (0..levels).fold("SELECT value AS x FROM generate_series(1, 3)".to_owned(), |text, n| {
            format!("SELECT {double} AS x FROM ({text}) t{n}")
        })
    };
    for sql in [
        format!("SELECT * FROM ({}) t WHERE x > 5", base("x + x", 30)),
        format!("SELECT count(*) FROM ({}) t GROUP BY x HAVING x > 5", base("x + x", 30)),
        format!("SELECT * FROM generate_series(1, 2) a JOIN ({}) t ON x > 5", base("x + x", 30)),
        format!("SELECT * FROM (SELECT x FROM ({}) t UNION ALL SELECT 1) WHERE x > 5", base("x * x - x", 20)),
        format!("SELECT (SELECT max(x) FROM ({}) t WHERE x > 5)", base("x + x", 30)),
    ] {
        let error = refused(&engine, &warehouse, &sql).await;
        assert_eq!(error.state(), SqlState::TOO_COMPLEX, "{sql:.60}: {error:?}");
    }
    run(&engine, &warehouse, &format!("SELECT * FROM ({}) t WHERE x > 5", base("x + x", 8))).await.unwrap();
    run(&engine, &warehouse, &base("x + x", 30)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_by_other_names_may_be_nested() {
    let (engine, warehouse) = (engine(), warehouse());
    for open in ["ROW(", "ROW((", "ifnull(NULL, ", "pow(1.0, ", "ROW(1, ifnull(NULL, "] {
        let depth = 90 / open.matches('(').count();
        let close = ")".repeat(open.matches('(').count() * depth);
        for sql in [
            format!("SELECT {}1.0{close}", open.repeat(depth)),
            format!("SELECT x FROM (SELECT {}1.0{close} AS x)", open.repeat(depth)),
        ] {
            let started = Instant::now();
            match run(&engine, &warehouse, &sql).await {
                Ok(rows) => assert_eq!(rows, 1, "{sql}"),
                Err(error) => assert_eq!(error.state(), SqlState::TOO_COMPLEX, "{sql}: {error:?}"),
            }
            assert!(started.elapsed() < Duration::from_secs(10), "{open}: {:?}", started.elapsed());
        }
    }
    assert_eq!(run(&engine, &warehouse, "SELECT ROW(ROW(ROW(ROW(ROW(ROW(1))))))").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_calls_of_sql_functions_are_bounded_by_what_they_come_to() {
    let text = "CREATE FUNCTION f(x BIGINT) RETURNS BIGINT IMMUTABLE LANGUAGE sql AS $$ x * x + x $$;
        CREATE FUNCTION g(x BIGINT, y BIGINT) RETURNS BIGINT IMMUTABLE LANGUAGE sql AS $$ CASE WHEN x = 1 OR x = 2 OR x = 3 THEN y ELSE x END $$;
        CREATE FUNCTION h(x BIGINT) RETURNS BIGINT IMMUTABLE LANGUAGE sql AS $$ f(x) + f(x) $$;";
    let files = [Arc::new(SourceFile::new("a.sql", text))];
    let catalog = Catalog::load(&files, &|_| None).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let declared = Declared { catalog, models: BTreeMap::new(), functions: Vec::new(), empty_tables: false };
    let warehouse = Arc::into_inner(warehouse()).unwrap().declaring(declared).unwrap();
    let (engine, warehouse) = (engine(), Arc::new(warehouse));
    let nested = |open: &str, inner: &str, times: usize| {
        format!("SELECT {}{inner}{} FROM generate_series(1, 3)", open.repeat(times), ")".repeat(times))
    };
    let many = format!("SELECT {} FROM generate_series(1, 3)", vec!["f(f(f(f(f(f(f(value)))))))"; 100].join(", "));
    let coalesce = format!("SELECT {}value{}", "coalesce(".repeat(40), ", 1)".repeat(40));
    let between = format!("SELECT {}value{}", "CASE WHEN ".repeat(40), " BETWEEN 1 AND 2 THEN 1 ELSE 2 END".repeat(40));
    let from = |sql: String| format!("{sql} FROM generate_series(1, 3)");
    for sql in [
        from(coalesce),
        from(between),
        nested("f(", "value", 60),
        nested("h(", "value", 12),
        nested("f(", "value", 15),
        many,
    ] {
        let started = Instant::now();
        let error = refused(&engine, &warehouse, &sql).await;
        assert_eq!(error.state(), SqlState::TOO_COMPLEX, "{sql:.60}: {error:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{sql:.60}: {:?}", started.elapsed());
    }
    for sql in [nested("f(", "value % 2", 4), nested("g(value, ", "1", 40)] {
        assert_eq!(run(&engine, &warehouse, &sql).await.unwrap(), 3, "{sql:.60}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_sqlstate() {
    let (engine, warehouse) = (engine(), warehouse());
    for (sql, state) in [
        ("SELEC 1", SqlState::SYNTAX),
        ("SELECT 1 FROM", SqlState::SYNTAX),
        ("SELECT * FROM nowhere", SqlState::UNDEFINED_TABLE),
        ("SELECT nothing FROM generate_series(1, 2)", SqlState::UNDEFINED_COLUMN),
        ("SELECT nosuch(1)", SqlState::UNDEFINED_FUNCTION),
        ("SELECT 1 / (value - 1) FROM generate_series(1, 2)", SqlState::DIVISION_BY_ZERO),
        ("SELECT CAST('x' AS INT)", SqlState::INVALID_TEXT),
        ("SELECT array_resize([1], -1)", SqlState::PARAMETER),
        ("SELECT array_resize([value], -value) FROM generate_series(1, 2)", SqlState::PARAMETER),
        ("INSERT INTO t VALUES (1)", SqlState::READ_ONLY),
        ("SELECT $1", SqlState::PARAMETERS),
    ] {
        let error = refused(&engine, &warehouse, sql).await;
        assert_eq!(error.state(), state, "{sql}: {error:?}");
    }
    let deep = format!("SELECT 1{}", "+1".repeat(5_000));
    let error = refused(&engine, &warehouse, &deep).await;
    assert_eq!(error.state(), SqlState::TOO_COMPLEX);
    assert!(error.detail().is_some_and(|detail| detail.contains("At line 1, columns")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_is_answered_in_time() {
    let (engine, warehouse) = (engine(), warehouse());
    for times in [10, 45, 95, 250, 480, 3_000, 30_000] {
        for (name, text) in crate::sql::limits::shapes(times) {
            let started = Instant::now();
            let outcome = run(&engine, &warehouse, &text).await;
            assert!(started.elapsed() < Duration::from_secs(120), "{name} {times}: {:?}", started.elapsed());
            if let Err(error) = outcome {
                assert_ne!(error.state(), SqlState::INTERNAL, "{name} {times}: {error:?}");
            }
        }
    }
}
