use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;

use super::*;
use crate::sql::lexer::tokenize;
use crate::sql::{SourceFile, diagnose, embedded};

const SECOND: i64 = 1_000_000;

/// A session with `t(k, n, ts)`: seconds 0, 5, 61 and 200 of `a`, 7 of `b`, and a row without a time; `r(k, v, ts)`.
fn session(mode: RelationMode) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.collect_spans = true;
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let mut state = SessionStateBuilder::new().with_config(config).with_default_features().build();
    let times = BTreeMap::from([("t".to_owned(), "ts".to_owned())]);
    register_relations(&mut state, mode, times).unwrap();
    let context = SessionContext::new_with_state(state);
    let times = [Some(0), Some(5), Some(61), Some(7), Some(200), None].map(|s: Option<i64>| s.map(|s| s * SECOND));
    context.register_batch("t", rows(&["a", "a", "a", "b", "a", "b"], "n", &times)).unwrap();
    let times = [Some(1), Some(6), Some(300), Some(8)].map(|s: Option<i64>| s.map(|s| s * SECOND));
    context.register_batch("r", rows(&["a", "a", "a", "b"], "v", &times)).unwrap();
    context
}

fn rows(keys: &[&str], number: &str, times: &[Option<i64>]) -> RecordBatch {
    let numbers: Vec<i64> = (0..keys.len() as i64).collect();
    let times = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
    RecordBatch::try_from_iter([
        ("k", Arc::new(StringArray::from(keys.to_vec())) as ArrayRef),
        (number, Arc::new(Int64Array::from(numbers)) as ArrayRef),
        ("ts", Arc::new(times) as ArrayRef),
    ])
    .unwrap()
}

async fn plan(context: &SessionContext, sql: &str) -> Result<LogicalPlan> {
    let query = embedded::query(&tokenize(sql, 0, &mut Vec::new())).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let statement = Statement::Statement(Box::new(SqlStatement::Query(query)));
    context.state().statement_to_plan(statement).await
}

/// The rows of a query, sorted, one a line, with times in seconds.
async fn run(sql: &str) -> Vec<String> {
    let context = session(RelationMode::Batch);
    let plan = plan(&context, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let batches = context.execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
    let text = pretty_format_batches(&batches).unwrap().to_string();
    let mut rows: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(1)
        .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" "))
        .map(|line| line.replace("1970-01-01T00:", "").replace('Z', ""))
        .collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn tumble_gives_each_row_its_window() {
    for from in [
        "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute')",
        "TUMBLE(t, ts, INTERVAL '1' MINUTE)",
        "TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute'))",
        "TUMBLE(DATA => TABLE t, TIMECOL => DESCRIPTOR(ts), SIZE => INTERVAL '1 minute')",
        "TUMBLE((SELECT * FROM t WHERE n < 100), t.ts, INTERVAL '60 seconds', INTERVAL '0 seconds')",
        "(SELECT * FROM TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute')) AS x",
    ] {
        let sql =
            format!("SELECT k, count(*), window_start, window_end FROM {from} GROUP BY k, window_start, window_end");
        let expected = ["a 1 01:00 02:00", "a 1 03:00 04:00", "a 2 00:00 01:00", "b 1 00:00 01:00"];
        assert_eq!(run(&sql).await, expected, "{from}");
    }
}

#[tokio::test]
async fn inputs_may_be_views_ctes_and_table_functions_and_have_aliases() {
    let sql = "WITH c AS (SELECT k AS who, ts AS at FROM t) \
               SELECT w.who, w.window_start FROM TUMBLE(TABLE c, DESCRIPTOR(at), INTERVAL '1 minute', INTERVAL '5 seconds') AS w WHERE who = 'b'";
    assert_eq!(run(sql).await, ["b 00:05"]);
    let sql = "SELECT w.k, t.n FROM TUMBLE(t, ts, INTERVAL '1 minute') AS w JOIN t ON t.n = w.n WHERE w.window_start > to_timestamp(0)";
    assert_eq!(run(sql).await, ["a 2", "a 4"]);
    let sql = "SELECT t.k, window_end FROM TUMBLE(DEDUPLICATE(t, KEY(k)), ts, INTERVAL '1 minute')";
    assert_eq!(run(sql).await, ["a 01:00", "b 01:00"]);
}

#[tokio::test]
async fn hop_gives_a_row_to_every_window_that_covers_it() {
    let sql = "SELECT n, window_start, window_end FROM HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '30 seconds', INTERVAL '1 minute') WHERE n IN (0, 2)";
    assert_eq!(run(sql).await, ["0 00:00 01:00", "0 1969-12-31T23:59:30 00:30", "2 00:30 01:30", "2 01:00 02:00"]);
}

#[tokio::test]
async fn a_session_ends_when_its_key_is_silent_for_the_gap() {
    let sql = "SELECT k, window_start, window_end, count(*) FROM SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '56 seconds') GROUP BY 1, 2, 3";
    assert_eq!(run(sql).await, ["a 00:00 01:01 2", "a 01:01 01:57 1", "a 03:20 04:16 1", "b 00:07 01:03 1"]);
    let sql = "SELECT n, window_start, window_end FROM SESSION(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute')";
    assert_eq!(run(sql).await.len(), 5);
}

#[tokio::test]
async fn deduplicate_lets_a_key_through_again_after_its_time() {
    let sql = "SELECT n FROM DEDUPLICATE(TABLE t, KEY(k), WITHIN INTERVAL '1 minute')";
    assert_eq!(run(sql).await, ["0", "2", "3", "4"]);
    let sql = "SELECT n FROM DEDUPLICATE(TABLE t, KEY(k), DESCRIPTOR(ts), WITHIN INTERVAL '61 seconds')";
    assert_eq!(run(sql).await, ["0", "2", "3", "4"], "row 2 comes exactly 61 seconds after row 0, as in the stream");
    let sql = "SELECT n FROM DEDUPLICATE(TABLE t, KEY(k), DESCRIPTOR(ts), WITHIN INTERVAL '62 seconds')";
    assert_eq!(run(sql).await, ["0", "3", "4"]);
    assert_eq!(run("SELECT n FROM DEDUPLICATE(TABLE t, KEY(k))").await, ["0", "3"]);
}

#[tokio::test]
async fn joins_in_time_run_as_ordinary_plans() {
    let sql = "SELECT t.n, r.v FROM t ASOF JOIN r MATCH_CONDITION (t.ts >= r.ts) ON t.k = r.k";
    assert_eq!(run(sql).await, ["0", "1 0", "2 1", "3", "4 1", "5"]);
    let sql = "SELECT t.n, d.v FROM t JOIN r FOR SYSTEM_TIME AS OF now() AS d ON t.n = d.v";
    assert_eq!(run(sql).await, ["0 0", "1 1", "2 2", "3 3"]);
}

#[tokio::test]
async fn streams_get_nodes_that_prune_and_let_key_filters_through() {
    let context = session(RelationMode::Stream);
    let sql = "SELECT window_end FROM SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '1 minute') WHERE k = 'a' AND window_end > now()";
    let optimized = context.state().optimize(&plan(&context, sql).await.unwrap()).unwrap();
    let shown = optimized.display_indent().to_string();
    assert!(shown.contains("Session: keys=[t.k], time=t.ts, gap=1 minute"), "{shown}");
    assert!(shown.contains("projection=[k, ts]"), "{shown}");
    let (above, below) = shown.split_once("Session:").unwrap();
    assert!(below.contains("k = Utf8(\"a\")") && above.contains("window_end >"), "{shown}");

    let sql = "SELECT n FROM DEDUPLICATE(TABLE t, KEY(k), WITHIN INTERVAL '1 day') WHERE n > 3";
    let optimized = context.state().optimize(&plan(&context, sql).await.unwrap()).unwrap();
    let shown = optimized.display_indent().to_string();
    let (above, _) = shown.split_once("Deduplicate: keys=[t.k], time=t.ts, within=1 day").expect(&shown);
    assert!(above.contains("n > Int64(3)"), "{shown}");
}

#[tokio::test]
async fn marks_stay_in_their_joins() {
    let context = session(RelationMode::Stream);
    for (sql, mark) in [
        (
            "SELECT t.n, d.v FROM t JOIN r FOR SYSTEM_TIME AS OF t.ts AS d ON d.k = t.k WHERE t.n > 1",
            "weir_system_time",
        ),
        ("SELECT t.n, d.v FROM t LEFT JOIN r FOR SYSTEM_TIME AS OF t.ts AS d ON d.k = t.k", "weir_system_time"),
        ("SELECT t.n, r.v FROM t ASOF JOIN r MATCH_CONDITION (t.ts >= r.ts) ON t.k = r.k", "weir_asof"),
    ] {
        let optimized = context.state().optimize(&plan(&context, sql).await.unwrap()).unwrap();
        let shown = optimized.display_indent().to_string();
        let join = shown.lines().find(|line| line.contains("Join:")).unwrap();
        assert!(join.contains(mark) && join.contains("t.k = "), "{shown}");
    }
}

#[tokio::test]
async fn wrong_calls_are_refused_where_they_stand() {
    let context = session(RelationMode::Stream);
    for (from, place, message) in [
        ("TUMBLE(TABLE t, DESCRIPTOR(ts))", "TUMBLE", "wrong arguments of `TUMBLE`"),
        ("TUMBLE(TABLE t, DESCRIPTOR(tz), INTERVAL '1 minute')", "tz", "unknown column `tz`"),
        ("TUMBLE(TABLE t, DESCRIPTOR(n), INTERVAL '1 minute')", "n)", "the time of `TUMBLE` is BIGINT, not TIMESTAMP"),
        (
            "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1 month')",
            "'1 month'",
            "the size of `TUMBLE` has no fixed length",
        ),
        (
            "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '0 seconds')",
            "'0 seconds'",
            "the size of `TUMBLE` is not above zero",
        ),
        ("SESSION(TABLE t, DESCRIPTOR(ts), 5)", "5", "the gap of `SESSION` is not an interval"),
        ("SESSION(TABLE t PARTITION BY q, DESCRIPTOR(ts), INTERVAL '1 minute')", "q", "unknown column `q`"),
        ("HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute', n)", "n)", "the size of `HOP` is not an interval"),
        ("DEDUPLICATE(TABLE t)", "DEDUPLICATE", "wrong arguments of `DEDUPLICATE`"),
        ("TUMBLE(TABLE u, DESCRIPTOR(ts), INTERVAL '1 minute')", "u", "unknown table `u`"),
        (
            "TUMBLE(TUMBLE(t, ts, INTERVAL '1 minute'), ts, INTERVAL '1 minute')",
            "TUMBLE",
            "the table has a column `window_start` already",
        ),
    ] {
        let sql = format!("SELECT * FROM {from}");
        let error = plan(&context, &sql).await.expect_err(from);
        let files = [Arc::new(SourceFile::new("a.sql", sql.clone()))];
        let found = diagnose(&error, &files, crate::sql::Span::default());
        assert_eq!(found.message, message, "{from}");
        let at = sql[14..].find(place).unwrap() + 15;
        assert_eq!(found.span.start.column as usize, at, "{from}: {found:?}");
    }
}
