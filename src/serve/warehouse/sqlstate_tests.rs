//! The SQLSTATEs of clients' errors: statements that are not served, and values that cannot be computed.

use std::sync::Arc;

use super::Warehouse;
use super::tests::{append, in_memory, refusal, rows, warehouse};
use crate::error::SqlState;

async fn with_rows() -> Arc<Warehouse> {
    let location = in_memory();
    append(&location.child("t"), rows(&[1, 2, 300])).await;
    warehouse(&location)
}

#[tokio::test]
async fn statements_that_are_not_served_say_so() {
    let warehouse = with_rows().await;
    for sql in [
        "INSERT INTO t VALUES (1)",
        "DELETE FROM t",
        "DELETE FROM t WHERE id = 1",
        "UPDATE t SET id = 1",
        "MERGE INTO t USING t s ON t.id = s.id WHEN MATCHED THEN DELETE",
        "CREATE TABLE x (a INT)",
        "CREATE TABLE x AS SELECT 1",
        "CREATE VIEW x AS SELECT 1",
        "CREATE SCHEMA x",
        "DROP TABLE t",
        "ALTER TABLE t ADD COLUMN x INT",
        "TRUNCATE TABLE t",
        "COPY t TO '/tmp/x.parquet'",
        "COPY t FROM '/tmp/x.csv'",
        "REPLACE INTO t VALUES (1)",
        "GRANT SELECT ON t TO someone",
        "REVOKE SELECT ON t FROM someone",
        "COMMENT ON TABLE t IS 'x'",
        "ANALYZE TABLE t COMPUTE STATISTICS",
        "OPTIMIZE t",
        "VACUUM t",
        "LOAD DATA INPATH 'x' INTO TABLE t",
        "EXPLAIN DELETE FROM t",
        "EXPLAIN ANALYZE UPDATE t SET id = 1",
        "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a",
        "SELECT 1 INTO x",
    ] {
        let error = refusal(&warehouse, sql).await;
        let states = [SqlState::READ_ONLY, SqlState::UNSUPPORTED];
        assert!(states.contains(&error.state()), "{sql}: {:?} {error:?}", error.state());
    }
    for sql in [
        "SET a = 1",
        "SET datafusion.execution.batch_size = 1",
        "SET TIME ZONE 'UTC'",
        "RESET a",
        "BEGIN",
        "BEGIN TRANSACTION",
        "START TRANSACTION",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "RELEASE SAVEPOINT a",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DEALLOCATE p",
        "DECLARE c CURSOR FOR SELECT 1",
        "FETCH NEXT FROM c",
        "CLOSE c",
        "CALL f()",
        "USE x",
        "KILL 1",
        "LISTEN a",
        "NOTIFY a",
        "LOCK TABLES t READ",
        "PRAGMA a",
        "DISCARD ALL",
        "EXPLAIN SET a = 1",
    ] {
        let error = refusal(&warehouse, sql).await;
        assert_eq!(error.state(), SqlState::UNSUPPORTED, "{sql}: {error:?}");
        assert!(error.hint().is_some(), "{sql}");
    }
    for sql in ["SELEC 1", "FOO BAR", "SELECT FROM WHERE", "1", "'x'"] {
        assert_eq!(refusal(&warehouse, sql).await.state(), SqlState::SYNTAX, "{sql}");
    }
}

/// Expressions that fail for a value, over `id` or `name` of a table that has these columns.
const VALUES: &[(&str, SqlState)] = &[
    ("name ~ '(('", SqlState::REGEX),
    ("name ~ '(a{1000}){1000}'", SqlState::REGEX),
    ("name !~ '[a'", SqlState::REGEX),
    ("name ~* '*'", SqlState::REGEX),
    ("name ~ (name || '((')", SqlState::REGEX),
    ("regexp_like(name, '((')", SqlState::REGEX),
    ("regexp_replace(name, '((', 'x') = 'a'", SqlState::REGEX),
    ("regexp_count(name, '((') = 1", SqlState::REGEX),
    ("regexp_match(name, '((') IS NOT NULL", SqlState::REGEX),
    ("regexp_like(name, name || '((')", SqlState::REGEX),
    ("1 / (id - 1) = 1", SqlState::DIVISION_BY_ZERO),
    ("id % (id - id) = 1", SqlState::DIVISION_BY_ZERO),
    ("CAST(id AS TINYINT) + CAST(id AS TINYINT) > 0", SqlState::OUT_OF_RANGE),
    ("CAST(id + 9000000000 AS INT) + CAST(id AS INT) > 0", SqlState::OUT_OF_RANGE),
    ("CAST('300' || name AS TINYINT) = 1", SqlState::INVALID_TEXT),
    ("CAST(CAST(id AS VARCHAR) AS TINYINT) = 1", SqlState::OUT_OF_RANGE),
    ("CAST(name AS INT) = 1", SqlState::INVALID_TEXT),
    ("CAST(name AS DOUBLE) = 1", SqlState::INVALID_TEXT),
    ("CAST(name AS BOOLEAN)", SqlState::INVALID_TEXT),
    ("CAST(id AS DECIMAL(3, 2)) + CAST(id AS DECIMAL(3, 2)) > 0", SqlState::OUT_OF_RANGE),
    ("CAST(name AS TIMESTAMP) > now()", SqlState::DATETIME_FORMAT),
    ("CAST(name AS DATE) > DATE '2026-01-01'", SqlState::DATETIME_FORMAT),
    ("CAST(name AS TIME) > TIME '12:00:00'", SqlState::DATETIME_FORMAT),
    ("to_timestamp(name) > now()", SqlState::DATETIME_FORMAT),
    ("CAST('2026-13-45' || left(name, 0) AS TIMESTAMP) > now()", SqlState::DATETIME_RANGE),
    ("CAST('2026-02-30' || left(name, 0) AS DATE) > DATE '2026-01-01'", SqlState::DATETIME_RANGE),
    ("make_date(2026, CAST(id AS INT) + 12, 1) > DATE '2026-01-01'", SqlState::DATETIME_RANGE),
    ("substr(name, 1, -1) = 'a'", SqlState::SUBSTRING),
    ("length(repeat(name, 1000000000)) = 1", SqlState::LIMIT),
    ("length(lpad(name, 2000000000)) = 1", SqlState::LIMIT),
    (
        "date_trunc('fortnight', CAST('2026-01-01' || left(name, 0) AS TIMESTAMP)) > TIMESTAMP '2026-01-01'",
        SqlState::PARAMETER,
    ),
    ("decode('z' || name, 'hex') IS NULL", SqlState::PARAMETER),
    ("decode('z' || name, 'base64') IS NULL", SqlState::PARAMETER),
];

#[tokio::test]
async fn values_that_cannot_be_computed_have_their_state() {
    let warehouse = with_rows().await;
    let mut wrong = Vec::new();
    for (condition, state) in VALUES {
        // Pushed into the file, above it, and computed for every row.
        for sql in [
            format!("SELECT * FROM t WHERE {condition}"),
            format!("SELECT count(*) FROM t WHERE score > 0 AND {condition}"),
            format!("SELECT {condition} FROM t"),
            format!(
                "SELECT count(*) FROM t a JOIN t b ON a.id = b.id WHERE {}",
                condition.replace("name", "a.name").replace("id", "a.id")
            ),
        ] {
            let found = match super::tests::ask(&warehouse, &sql).await {
                Ok(_) => "answered".to_owned(),
                Err(error) if error.state() == *state => continue,
                Err(error) => format!("{:?} {error:?}", error.state()),
            };
            wrong.push(format!("{sql}: {state:?}, found {found:.300}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (sql, state) in [
        ("SELECT CAST(300 AS TINYINT)", SqlState::OUT_OF_RANGE),
        ("SELECT CAST('x' AS INT)", SqlState::INVALID_TEXT),
        ("SELECT 1 / 0", SqlState::DIVISION_BY_ZERO),
        ("SELECT 'a' ~ '(('", SqlState::REGEX),
        ("SELECT DATE '2026-02-30'", SqlState::DATETIME_RANGE),
        ("SELECT TIMESTAMP 'x'", SqlState::DATETIME_FORMAT),
        ("SELECT substr('abc', 1, -1)", SqlState::SUBSTRING),
        ("SELECT repeat('x', 2000000000)", SqlState::LIMIT),
        ("SELECT encode('a', 'foo')", SqlState::PARAMETER),
        ("SELECT decode('zz', 'hex')", SqlState::PARAMETER),
        ("SELECT arrow_cast(1, 'Foo')", SqlState::PARAMETER),
        ("SELECT arrow_cast('x', 'Int8')", SqlState::INVALID_TEXT),
    ] {
        let error = refusal(&warehouse, sql).await;
        assert_eq!(error.state(), state, "{sql}: {error:?}");
    }
}
