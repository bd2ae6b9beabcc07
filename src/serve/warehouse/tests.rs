use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use datafusion::scalar::ScalarValue;
use deltalake::DeltaTable;
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake::protocol::SaveMode;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStoreExt, PutPayload};
use url::Url;

use super::location::Location;
use super::{Declared, Warehouse, WarehouseOptions};
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Model, ModelSlot, ScoringUdf};
use crate::serve::failure::query_error;
use crate::sql::{Failure, SourceFile};

pub(super) fn in_memory() -> Location {
    Location::new(Url::parse("memory:///lake").unwrap(), Arc::new(InMemory::new())).unwrap()
}

pub(super) fn warehouse(location: &Location) -> Arc<Warehouse> {
    let options = WarehouseOptions { memory_limit_bytes: 64 << 20, parallelism: Some(2), functions: Vec::new() };
    Arc::new(Warehouse::new(location.clone(), options).unwrap())
}

pub(super) fn rows(ids: &[i64]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("score", DataType::Float64, true),
    ]);
    RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(Int64Array::from(ids.to_vec())),
            Arc::new(StringArray::from(ids.iter().map(|id| format!("n{id}")).collect::<Vec<_>>())),
            Arc::new(Float64Array::from(ids.iter().map(|id| *id as f64 / 10.0).collect::<Vec<_>>())),
        ],
    )
    .unwrap()
}

fn log_store(table: &Location) -> LogStoreRef {
    let prefixed = Arc::new(PrefixStore::new(Arc::clone(table.store()), table.path().clone()));
    default_logstore(prefixed, Arc::clone(table.store()), table.url(), &StorageConfig::default())
}

pub(super) async fn append(table: &Location, batch: RecordBatch) {
    let mut delta = DeltaTable::new(log_store(table));
    if table.exists().await.unwrap() {
        delta.load().await.unwrap();
    }
    delta.write([batch]).with_save_mode(SaveMode::Append).await.unwrap();
}

async fn put(folder: &Location, name: &str, text: &str) {
    folder.store().put(&folder.path().clone().join(name), PutPayload::from(text.to_owned())).await.unwrap();
}

pub(super) async fn ask(warehouse: &Arc<Warehouse>, sql: &str) -> Result<String> {
    let stream = warehouse.plan(sql).await?.stream().await?;
    let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(query_error)?;
    Ok(pretty_format_batches(&batches).unwrap().to_string())
}

async fn number(warehouse: &Arc<Warehouse>, sql: &str) -> i64 {
    let stream = warehouse.plan(sql).await.unwrap().stream().await.unwrap();
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    let column = batches[0].column(0).as_any().downcast_ref::<Int64Array>().unwrap();
    column.value(0)
}

pub(super) async fn refusal(warehouse: &Arc<Warehouse>, sql: &str) -> Error {
    match ask(warehouse, sql).await {
        Ok(answer) => panic!("`{sql}` was answered:\n{answer}"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn every_query_sees_the_newest_version() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    let table = location.child("scored");
    for appended in 1..=4 {
        append(&table, rows(&[appended])).await;
        assert_eq!(number(&warehouse, "SELECT count(*) FROM scored").await, appended);
        assert_eq!(number(&warehouse, "SELECT count(*) FROM weir.public.scored").await, appended);
    }
}

#[tokio::test]
async fn table_functions_of_pipelines_work_in_queries() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    append(&location.child("scored"), rows(&[1, 2, 70])).await;
    for (sql, expected) in [
        (
            "SELECT count(DISTINCT window_start) FROM TUMBLE((SELECT to_timestamp(id) AS ts FROM scored), ts, INTERVAL '1 minute')",
            2,
        ),
        ("SELECT count(*) FROM HOP(TABLE timed, DESCRIPTOR(ts), INTERVAL '30 seconds', INTERVAL '1 minute')", 6),
        ("SELECT count(*) FROM DEDUPLICATE(TABLE scored VERSION AS OF 0, KEY(id))", 3),
        ("SELECT count(r.id) FROM scored t ASOF JOIN scored r MATCH_CONDITION (t.id > r.id)", 2),
        ("SELECT count(*) FROM scored t JOIN scored FOR SYSTEM_TIME AS OF now() AS r ON r.id = t.id", 3),
    ] {
        let sql = format!("WITH timed AS (SELECT to_timestamp(id) AS ts FROM scored) {sql}");
        assert_eq!(number(&warehouse, &sql).await, expected, "{sql}");
    }
    let refused = refusal(&warehouse, "SELECT * FROM TUMBLE(TABLE scored, DESCRIPTOR(id), INTERVAL '1 minute')").await;
    assert!(refused.message().contains("the time of `TUMBLE` is BIGINT"), "{refused:?}");
}

#[tokio::test]
async fn a_table_made_anew_at_the_same_version_is_not_mistaken_for_the_old_one() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    let table = location.child("scored");
    append(&table, rows(&[1, 2, 3])).await;
    assert_eq!(number(&warehouse, "SELECT count(*) FROM scored").await, 3);
    let objects: Vec<_> = table.store().list(Some(table.path())).try_collect().await.unwrap();
    for object in objects {
        table.store().delete(&object.location).await.unwrap();
    }
    assert_eq!(refusal(&warehouse, "SELECT count(*) FROM scored").await.message(), "table `scored` does not exist");
    append(&table, rows(&[7])).await;
    assert_eq!(number(&warehouse, "SELECT count(*) FROM scored").await, 1);
    assert_eq!(number(&warehouse, "SELECT id FROM scored").await, 7);
}

#[tokio::test]
async fn older_versions_can_be_read_beside_the_newest() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    let table = location.child("scored");
    append(&table, rows(&[1])).await;
    append(&table, rows(&[2, 3])).await;
    assert_eq!(number(&warehouse, "SELECT count(*) FROM scored VERSION AS OF 0").await, 1);
    let both = "SELECT (SELECT count(*) FROM scored) * 10 + (SELECT count(scored.id) FROM scored VERSION AS OF 0)";
    assert_eq!(number(&warehouse, both).await, 31);
    let missing = refusal(&warehouse, "SELECT * FROM scored VERSION AS OF 9").await;
    assert!(missing.message().contains("no version 9"), "{missing}");
    assert_eq!(number(&warehouse, "SELECT count(*) FROM scored TIMESTAMP AS OF '2999-01-01'").await, 3);
}

#[tokio::test]
async fn plain_strings_come_out() {
    let location = in_memory();
    append(&location.child("scored"), rows(&[1])).await;
    let query = warehouse(&location).plan("SELECT name, 'x' AS x FROM scored").await.unwrap();
    let types: Vec<_> = query.schema().await.unwrap().fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Utf8, DataType::Utf8]);
    assert_eq!(query.stream().await.unwrap().schema().field(0).data_type(), &DataType::Utf8);
}

#[tokio::test]
async fn names_are_found_ignoring_case_and_listed_without_own_folders() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    append(&location.child("Scored"), rows(&[1])).await;
    append(&location.child("_weir").child("p").child("dead_letters"), rows(&[1])).await;
    put(&location.child("notes"), "readme.txt", "not a table").await;
    assert_eq!(number(&warehouse, "SELECT count(*) FROM scored").await, 1);
    assert_eq!(number(&warehouse, "SELECT count(*) FROM \"Scored\"").await, 1);
    let listed =
        ask(&warehouse, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'").await;
    assert_eq!(listed.unwrap().lines().count(), 5, "one row");
    assert!(ask(&warehouse, "SHOW TABLES").await.unwrap().contains("Scored"));
    assert!(ask(&warehouse, "DESCRIBE scored").await.unwrap().contains("score"));
}

#[tokio::test]
async fn a_declared_table_is_read_where_it_lives() {
    let (location, elsewhere) = (in_memory(), in_memory());
    let warehouse = warehouse(&location);
    append(&elsewhere.child("far"), rows(&[1, 2])).await;
    warehouse.declare("near", elsewhere.child("far"));
    assert_eq!(number(&warehouse, "SELECT count(*) FROM near").await, 2);
}

#[tokio::test]
async fn what_does_not_exist_is_refused_with_a_hint() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    append(&location.child("scored"), rows(&[1])).await;
    let table = refusal(&warehouse, "SELECT * FROM scorde").await;
    assert_eq!((table.kind(), table.message()), (ErrorKind::Sql, "table `scorde` does not exist"));
    assert_eq!(table.hint(), Some("Did you mean `scored`?"));
    let column = refusal(&warehouse, "SELECT nmae FROM scored").await;
    assert_eq!(column.message(), "column `nmae` does not exist");
    assert_eq!(column.hint(), Some("Did you mean `name`?"));
    let syntax = refusal(&warehouse, "SELEC 1").await;
    assert_eq!(syntax.kind(), ErrorKind::Sql);
}

#[tokio::test]
async fn no_path_and_no_internal_folder_can_be_queried() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    append(&location.child("_weir"), rows(&[1])).await;
    let path = refusal(&warehouse, "SELECT * FROM '/etc/passwd.csv'").await;
    assert_eq!(path.message(), "path `/etc/passwd.csv` cannot be queried");
    for sql in ["SELECT * FROM \"../scored\"", "SELECT * FROM \"_weir\"", "SELECT * FROM \"a/b.parquet\""] {
        assert_eq!(refusal(&warehouse, sql).await.kind(), ErrorKind::Sql, "{sql}");
    }
    append(&location.child("deep").child("er"), rows(&[1, 2])).await;
    assert_eq!(number(&warehouse, "SELECT count(*) FROM \"deep/er\"").await, 2);
}

#[tokio::test]
async fn nothing_can_be_written() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    append(&location.child("scored"), rows(&[1])).await;
    for sql in [
        "INSERT INTO scored VALUES (2, 'x', 0.5)",
        "DELETE FROM scored",
        "CREATE TABLE x AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "COPY scored TO '/tmp/scored.parquet'",
        "DROP TABLE scored",
        "SET datafusion.execution.batch_size = 1",
        "EXPLAIN ANALYZE INSERT INTO scored VALUES (2, 'x', 0.5)",
        "WITH x AS (SELECT 1) INSERT INTO scored SELECT 2, 'x', 0.5",
    ] {
        let error = refusal(&warehouse, sql).await;
        assert_eq!(error.kind(), ErrorKind::Sql, "{sql}");
    }
    assert_eq!(number(&warehouse, "SELECT count(*) FROM scored").await, 1);
}

#[tokio::test]
async fn parameters_are_typed_from_the_sql_and_bound_by_position() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    append(&location.child("scored"), rows(&[1, 2, 3])).await;
    let query = warehouse.plan("SELECT name FROM scored WHERE id = ? AND score > ?").await.unwrap();
    let parameters = query.parameters().unwrap();
    let types: Vec<_> = parameters.fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Int64, DataType::Float64]);

    // Another integer type, as clients send it.
    let bound = query.clone().bind(vec![ScalarValue::Int32(Some(2)), ScalarValue::Float32(Some(0.1))]).unwrap();
    let batches: Vec<RecordBatch> = bound.stream().await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);

    // Values that the inferred type cannot hold are compared as literals of their own type.
    let answer = async |sql: &str, value: ScalarValue| {
        let bound = warehouse.plan(sql).await.unwrap().bind(vec![value]).unwrap();
        let batches: Vec<RecordBatch> = bound.stream().await.unwrap().try_collect().await.unwrap();
        let rows = batches.iter().flat_map(|batch| {
            (0..batch.num_rows()).map(|row| arrow::util::display::array_value_to_string(batch.column(0), row).unwrap())
        });
        rows.collect::<Vec<_>>().join(" ")
    };
    let from = "SELECT id FROM scored WHERE id >= ? ORDER BY id";
    assert_eq!(answer(from, ScalarValue::Float64(Some(1.5))).await, "2 3");
    assert_eq!(answer(from, ScalarValue::Decimal128(Some(25), 2, 1)).await, "3");
    assert_eq!(answer(from, ScalarValue::Float64(Some(1e300))).await, "");
    assert_eq!(answer(from, ScalarValue::UInt64(Some(2))).await, "2 3");
    assert_eq!(answer("SELECT id * ? FROM scored WHERE id = 3", ScalarValue::Float64(Some(0.5))).await, "1.5");
    assert_eq!(answer("SELECT id FROM scored ORDER BY id LIMIT ?", ScalarValue::Int64(Some(2))).await, "1 2");
    assert_eq!(answer("SELECT ? AS x FROM scored WHERE id = 1", ScalarValue::Int64(Some(7))).await, "7");
    let day = "SELECT count(*) FROM (SELECT DATE '2024-01-02' AS d) WHERE d > ?";
    let noon = ScalarValue::TimestampMicrosecond(Some(1_704_196_800_000_000), None);
    assert_eq!(answer(day, noon).await, "0", "2024-01-02 is not after noon of that day");
    let hour = ScalarValue::DurationMicrosecond(Some(3_600_000_000));
    let moved = |sql: &str| {
        format!("SELECT CAST({sql} AS STRING) FROM (SELECT TIMESTAMP '2024-01-02' AS ts, DATE '2024-01-02' AS d)")
    };
    for (sql, value, expected) in [
        ("ts + ?", hour.clone(), "2024-01-02T01:00:00Z"),
        ("? + ts", hour.clone(), "2024-01-02T01:00:00Z"),
        ("ts - ?", hour.clone(), "2024-01-01T23:00:00Z"),
        ("ts + ?", ScalarValue::from("1 day"), "2024-01-03T00:00:00Z"),
        ("ts - TIMESTAMP '2024-01-01' > ?", hour, "true"),
        ("ts > ?", ScalarValue::TimestampMicrosecond(Some(0), None), "true"),
    ] {
        assert_eq!(answer(&moved(sql), value).await, expected, "{sql}");
    }
    let half = || ScalarValue::Float64(Some(2.5));
    assert_eq!(answer("SELECT * FROM (VALUES (1), (?)) v", half()).await, "1.0 2.5");
    assert_eq!(answer("SELECT column1 * 2 AS x FROM (VALUES (?)) v", half()).await, "5.0");
    let twice = warehouse.plan("SELECT $1, $1").await.unwrap().bind(vec![half()]).unwrap();
    let batches: Vec<RecordBatch> = twice.stream().await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches[0].num_columns(), 2);
    assert_eq!(twice.schema().await.unwrap().fields(), batches[0].schema().fields());
    let limit = warehouse.plan("SELECT id FROM scored LIMIT ?").await.unwrap().parameters().unwrap();
    assert_eq!(limit.field(0).data_type(), &DataType::Int64);

    let unbound = query.stream().await.err().unwrap();
    assert_eq!(unbound.message(), "parameter `$1` was not bound");
    let few = query.clone().bind(vec![ScalarValue::Int64(Some(1))]).unwrap_err();
    assert_eq!(few.message(), "statement has 2 parameters, 1 were bound");
    let text = query.bind(vec![ScalarValue::from("x"), ScalarValue::from(1.0)]).unwrap_err();
    assert_eq!(text.message(), "parameter `$1` is not Int64");
}

#[tokio::test]
async fn a_query_beyond_the_memory_limit_fails_alone() {
    let options = WarehouseOptions { memory_limit_bytes: 4 << 20, parallelism: Some(2), functions: Vec::new() };
    let warehouse = Arc::new(Warehouse::new(in_memory(), options).unwrap());
    // An aggregate without GROUP BY cannot spill.
    let greedy = "SELECT cardinality(array_agg(value)) FROM generate_series(1, 3000000)";
    let error = refusal(&warehouse, greedy).await;
    assert_eq!((error.kind(), error.message()), (ErrorKind::Environment, "memory limit reached"));
    assert_eq!(number(&warehouse, "SELECT count(*) FROM generate_series(1, 1000)").await, 1000);
    assert_eq!(warehouse.memory_reserved_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_whose_smaller_side_does_not_fit_is_made_by_sorting() {
    let options = WarehouseOptions { memory_limit_bytes: 24 << 20, parallelism: Some(2), functions: Vec::new() };
    let warehouse = Arc::new(Warehouse::new(in_memory(), options).unwrap());
    let series = "generate_series(1, 1000000)";
    let joined = format!("SELECT count(*) FROM {series} a JOIN {series} b USING (value)");
    assert_eq!(number(&warehouse, &joined).await, 1_000_000);
    let outer =
        format!("SELECT count(*) FROM {series} a LEFT JOIN {series} b ON a.value = b.value * 2 WHERE b.value IS NULL");
    assert_eq!(number(&warehouse, &outer).await, 500_000);
    assert_eq!(warehouse.memory_reserved_bytes(), 0);
}

#[tokio::test]
async fn progress_and_pipelines_are_tables() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    assert_eq!(number(&warehouse, "SELECT count(*) FROM weir.progress").await, 0);
    let epoch = |n: i64| {
        format!(
            "{{\"name\":\"fraud\",\"runId\":\"r1\",\"epoch\":{n},\"timestamp\":\"2026-01-01T00:00:0{n}.5Z\",\
             \"numInputRows\":{n}0,\"inputRowsPerSecond\":5.5,\"processedRowsPerSecond\":7,\"deadLetters\":1,\
             \"durationMs\":{{\"commit\":4}},\"sources\":[],\"sinks\":[{{\"description\":\"scored\"}}]}}\n"
        )
    };
    let odd = "[1,2]\n5\nnull\n\"x\"\n{\"pipeline\":\"fraud\"}\n{\"name\":\"fraud\",\"epoch\":0}\n[]\n{}\n";
    let torn = &format!("{odd}{{\"name\":\"fraud\",\"epo");
    put(&location.child("_weir").child("fraud"), "progress.jsonl", &(epoch(1) + &epoch(2) + torn)).await;
    let answer =
        ask(&warehouse, "SELECT epoch, num_input_rows, timestamp, duration_ms FROM weir.progress").await.unwrap();
    assert!(answer.contains("2026-01-01T00:00:02.500") && answer.contains("{\"commit\":4}"), "{answer}");
    assert_eq!(number(&warehouse, "SELECT sum(num_input_rows) FROM weir.progress").await, 30);
    assert_eq!(number(&warehouse, "SELECT count(*) FROM weir.progress").await, 2);
    assert_eq!(number(&warehouse, "SELECT last_epoch FROM weir.pipelines WHERE pipeline = 'fraud'").await, 2);
}

#[tokio::test]
async fn operators_of_the_last_epoch_are_a_table_with_their_growth() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    let epoch = |n: u64, rows: u64| {
        format!(
            "{{\"name\":\"p\",\"epoch\":{n},\"timestamp\":\"2026-01-01T00:{n}0:00Z\",\"stateOperators\":[{{\"operator\":\"aggregate-1\",\
             \"kind\":\"aggregate\",\"numRowsTotal\":{rows},\"memoryUsedBytes\":80,\"oldest\":\"2025-12-31T00:00:00Z\"}}]}}\n"
        )
    };
    put(&location.child("_weir").child("p"), "progress.jsonl", &(epoch(1, 5) + &epoch(4, 20))).await;
    let state = "SELECT operator, kind, rows, bytes, rows_per_hour, bytes_per_hour, late_rows, oldest, watermark FROM weir.state";
    let answer = ask(&warehouse, state).await.unwrap();
    let row = "| aggregate-1 | aggregate | 20   | 80    | 30.0          | 0.0            | 0         | 2025-12-31T00:00:00Z |           |";
    assert!(answer.contains(row), "{answer}");
}

#[tokio::test]
async fn dead_letters_of_all_pipelines_are_one_table() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    assert_eq!(number(&warehouse, "SELECT count(*) FROM weir.dead_letters").await, 0);
    for (pipeline, ids) in [("a", &[1, 2][..]), ("b", &[3])] {
        append(&location.child("_weir").child(pipeline).child("dead_letters"), rows(ids)).await;
    }
    let answer = ask(&warehouse, "SELECT pipeline, count(*) AS n FROM weir.dead_letters GROUP BY 1 ORDER BY 1").await;
    let answer = answer.unwrap();
    assert!(answer.contains("| a        | 2 |") && answer.contains("| b        | 1 |"), "{answer}");
}

#[tokio::test]
async fn the_table_of_tables_tells_versions_and_faults() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    append(&location.child("scored"), rows(&[1])).await;
    append(&location.child("scored"), rows(&[2])).await;
    put(&location.child("broken").child("_delta_log"), "00000000000000000000.json", "no log").await;
    assert_eq!(number(&warehouse, "SELECT version FROM weir.tables WHERE table_name = 'scored'").await, 1);
    let faults = "SELECT count(*) FROM weir.tables WHERE table_name = 'broken' AND error IS NOT NULL";
    assert_eq!(number(&warehouse, faults).await, 1);
}

const DECLARED: &str = "
CREATE SECRET pw FROM ENV NOBODY;
CREATE SOURCE tx (id BIGINT, name STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds')
WITH (connector = 'kafka', bootstrap_servers = 'broker:9092', topic = 'tx', sasl_mechanism = 'PLAIN', sasl_username = 'u', sasl_password = 'hunter2');
CREATE TABLE scored (id BIGINT, name STRING, score DOUBLE);
CREATE TABLE later (id BIGINT);
CREATE SINK alerts WITH (connector = 'blackhole');
CREATE FUNCTION half(x DOUBLE) RETURNS DOUBLE LANGUAGE sql AS $$ x / 2 $$;
CREATE MODEL fraud WITH (provider = 'lightgbm', path = 'tests/data/fraud.txt');
CREATE VIEW v AS SELECT id, name, half(1) AS score FROM tx;
CREATE MATERIALIZED VIEW m AS SELECT name, count(*) AS n FROM tx GROUP BY name;
INSERT INTO scored SELECT * FROM v;
";

/// A warehouse with the declarations of [`DECLARED`].
fn declaring(location: &Location) -> Arc<Warehouse> {
    let files = [Arc::new(SourceFile::new("a.sql", DECLARED))];
    let catalog = Catalog::load(&files, &|_| None).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fraud.txt");
    let slot = ModelSlot::new(Model::load(path).unwrap());
    let function = Arc::new(ScoringUdf::new("fraud", Arc::clone(&slot)).unwrap().into());
    let models = [("fraud".to_owned(), slot)].into();
    let declared = Declared { catalog, models, functions: vec![function], empty_tables: false };
    let warehouse = Warehouse::new(location.clone(), WarehouseOptions::default()).unwrap();
    Arc::new(warehouse.declaring(declared).unwrap())
}

#[tokio::test]
async fn what_files_declare_is_shown_and_secrets_are_not() {
    let warehouse = declaring(&in_memory());
    let mut shown = String::new();
    for (sql, expected) in [
        ("SHOW SOURCES", "topic tx at broker:9092"),
        ("SHOW SINKS", "blackhole"),
        ("SHOW VIEWS", "a.sql:10:13"),
        ("show materialized views", "count(*)"),
        ("SHOW FUNCTIONS", "x DOUBLE"),
        ("SHOW MODELS", "binary sigmoid:1"),
        ("SHOW SECRETS", "pw"),
        ("SHOW PIPELINES", "m, scored"),
        ("SELECT watermark FROM weir.sources", "ts AS ts - INTERVAL '5 seconds'"),
        ("DESCRIBE tx", "Timestamp(µs, \"UTC\")"),
        ("DESCRIBE DETAIL SOURCE tx", "dead_letter"),
        ("DESCRIBE v", "score"),
        ("DESCRIBE VIEW m", "Int64"),
        ("DESCRIBE FUNCTION half", "x / 2"),
        ("DESCRIBE PIPELINE a", "writes"),
        ("DESCRIBE scored", "Float64"),
        ("DESCRIBE SECRET pw", "never shown"),
        ("EXPLAIN INSERT INTO scored SELECT id, name, half(2) FROM tx", "insert into scored  [append]"),
        ("EXPLAIN SELECT name, count(*) FROM tx GROUP BY name", "operator aggregate"),
        ("SELECT half(3) AS h, fraud(1, 2, 3, 4) > 0 AS f", "| 1.5 | true |"),
    ] {
        let answer = ask(&warehouse, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert!(answer.contains(expected), "{sql}:\n{answer}");
        shown.push_str(&answer);
    }
    assert!(!shown.contains("hunter2"), "a secret was shown");
}

#[tokio::test]
async fn a_model_is_described_with_the_evaluator_and_what_it_was_chosen_by() {
    let answer = ask(&declaring(&in_memory()), "DESCRIBE MODEL fraud").await.unwrap();
    for expected in
        ["sha256", "feature_count | 4", "`amount`, `hour`, `weekend`, `night`", "trees", "leaves", "ns a row"]
    {
        assert!(answer.contains(expected), "{expected}:\n{answer}");
    }
}

#[tokio::test]
async fn without_files_declarations_are_asked_for_in_vain_with_a_hint() {
    let warehouse = warehouse(&in_memory());
    for sql in ["SHOW SOURCES", "SHOW MODELS", "EXPLAIN INSERT INTO t SELECT 1", "DESCRIBE MODEL m"] {
        let refused = refusal(&warehouse, sql).await;
        assert!(refused.hint().unwrap_or_default().contains("--file"), "{sql}: {refused:?}");
    }
    assert_eq!(number(&warehouse, "SELECT count(*) FROM weir.models").await, 0);
}

#[tokio::test]
async fn what_is_declared_and_no_table_cannot_be_read_by_a_query() {
    let location = in_memory();
    let warehouse = declaring(&location);
    for (sql, message) in [
        ("SELECT * FROM tx", "`tx` is a source, and a query reads tables"),
        ("SELECT * FROM v", "`v` is a view, and a query reads tables"),
        ("SELECT * FROM later", "table `later` is declared, and no pipeline has written it yet"),
        ("EXPLAIN INSERT INTO scord SELECT 1", "unknown table or sink `scord`"),
        ("EXPLAIN INSERT INTO scored SELECT idd FROM tx", "unknown column `idd`"),
        ("DESCRIBE MODEL fruad", "model `fruad` does not exist"),
        ("DESCRIBE HISTORY MODEL fraud", "a model has no history"),
        ("SELECT fraud(1, 2)", "model `fraud` takes 4 arguments, 2 are given"),
        ("VERIFY PIPELINE a", "`VERIFY PIPELINE` reads the sources again, which a query cannot"),
        ("OPTIMIZE scored", "`OPTIMIZE` is not supported yet"),
    ] {
        let refused = refusal(&warehouse, sql).await;
        assert_eq!((refused.kind(), refused.message()), (ErrorKind::Sql, message), "{sql}");
        assert!(refused.hint().is_some() || sql.contains("idd"), "{sql}: {refused:?}");
    }
    append(&location.child("scored"), rows(&[1])).await;
    assert_eq!(number(&warehouse, "SELECT count(*) FROM scored").await, 1);
}

#[tokio::test]
async fn a_tables_history_and_detail_come_from_its_log() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    let table = location.child("scored");
    for id in 1..=3 {
        append(&table, rows(&[id])).await;
    }
    let history = ask(&warehouse, "DESCRIBE HISTORY scored").await.unwrap();
    assert_eq!(history.matches("WRITE").count(), 3, "{history}");
    assert!(history.find("| 2 ").unwrap() < history.find("| 0 ").unwrap(), "newest first: {history}");
    let newest = ask(&warehouse, "DESCRIBE HISTORY scored LIMIT 1").await.unwrap();
    assert_eq!(newest.matches("WRITE").count(), 1, "{newest}");
    let detail = ask(&warehouse, "DESCRIBE DETAIL scored").await.unwrap();
    assert!(detail.contains("num_files") && detail.contains("| delta "), "{detail}");
    let missing = refusal(&warehouse, "DESCRIBE HISTORY scorde").await;
    assert_eq!((missing.message(), missing.hint()), ("table `scorde` does not exist", Some("Did you mean `scored`?")));
    // An entry as weir writes it.
    let entry = r#"{"commitInfo":{"timestamp":1000,"operation":"STREAMING UPDATE","userMetadata":"{\"pipeline\":\"fraud\",\"epoch\":7}"}}"#;
    put(&table.child("_delta_log"), "00000000000000000003.json", entry).await;
    let newest = ask(&warehouse, "DESCRIBE HISTORY scored LIMIT 1").await.unwrap();
    assert!(newest.contains("| fraud    | 7 "), "{newest}");
}

#[tokio::test]
async fn errors_stand_where_they_are_in_the_statement() {
    let location = in_memory();
    let warehouse = warehouse(&location);
    append(&location.child("scored"), rows(&[1])).await;
    for (sql, underlined) in [
        ("SELECT id,\n  nmae FROM scored", "nmae"),
        ("SELECT *\nFROM scorde", "scorde"),
        ("SELECT * FORM scored", "FORM"),
        ("SELECT 1; SELECT 2", "SELECT"),
        ("SELECT lenth(name) FROM scored", "lenth"),
        ("SELECT * FROM scored VERSION AS OF id", "id"),
    ] {
        let Err(Failure::Sql(found)) = warehouse.plan_statement(sql).await else { panic!("{sql}") };
        assert_eq!(found.files.slice(found.list[0].span), underlined, "{sql}: {}", found.render(false));
    }
    let told = refusal(&warehouse, "SELECT id,\n  nmae FROM scored").await;
    assert!(told.detail().unwrap_or_default().contains("At line 2, columns 3 to 6."), "{told:?}");
}
