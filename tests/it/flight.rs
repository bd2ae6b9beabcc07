//! Flight SQL and HTTP as clients see them: `arrow-flight`'s own client, then ADBC's driver and pyarrow (neither ours),
//! against a server in this process over tables written by delta-rs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandGetTables, SqlInfo};
use arrow_flight::{CancelFlightInfoRequest, CancelStatus, FlightClient, FlightInfo};
use deltalake::DeltaTable;
use deltalake::protocol::SaveMode;
use futures::{FutureExt, TryStreamExt};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use weir::config::Secret;
use weir::metrics::Metrics;
use weir::serve::BoundServer;
use weir::serve::engine::QueryLimits;
use weir::serve::flight::{self, FlightOptions, TlsIdentity};
use weir::serve::http::{self, HttpState, Readiness};
use weir::serve::warehouse::location::Location;
use weir::serve::warehouse::{Warehouse, WarehouseOptions};

const TOKEN: &str = "let-me-in";

struct Server {
    folder: TempDir,
    metrics: Arc<Metrics>,
    flight: BoundServer,
    http: BoundServer,
    stop: oneshot::Sender<()>,
}

impl Server {
    async fn start(token: Option<&str>, tls: Option<TlsIdentity>) -> Self {
        Self::start_with(FlightOptions { token: token.map(Secret::new), tls, ..FlightOptions::default() }).await
    }

    async fn start_with(options: FlightOptions) -> Self {
        let folder = TempDir::new().unwrap();
        let memory = WarehouseOptions { memory_limit_bytes: 64 << 20, ..WarehouseOptions::default() };
        let location = Location::local(folder.path()).unwrap();
        let warehouse = Arc::new(Warehouse::new(location, memory).unwrap());
        let metrics = Arc::new(Metrics::new());
        let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = stopped.map(|_| ()).shared();
        let (tables, counts) = (Arc::clone(&warehouse), Arc::clone(&metrics));
        let flight = flight::serve(anywhere, tables, counts, options, shutdown.clone()).await.unwrap();
        let readiness = Arc::new(|| Readiness::NotReady("still starting".to_owned()));
        let state = HttpState { metrics: Arc::clone(&metrics), warehouse, readiness };
        let http = http::serve(anywhere, state, shutdown).await.unwrap();
        Self { folder, metrics, flight, http, stop }
    }

    fn flight_addr(&self) -> SocketAddr {
        self.flight.addr
    }

    fn http_addr(&self) -> SocketAddr {
        self.http.addr
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.flight_addr())).unwrap().connect().await.unwrap()
    }

    async fn client(&self) -> FlightSqlServiceClient<Channel> {
        FlightSqlServiceClient::new(self.channel().await)
    }

    async fn append(&self, table: &str, ids: std::ops::Range<i64>) {
        append(&self.folder.path().join(table), ids).await;
    }
}

async fn append(folder: &Path, ids: std::ops::Range<i64>) {
    std::fs::create_dir_all(folder).unwrap();
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)]);
    let names: Vec<String> = ids.clone().map(|id| format!("n{id}")).collect();
    let columns: Vec<Arc<dyn Array>> =
        vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(StringArray::from(names))];
    let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    let url = url::Url::from_directory_path(folder).unwrap();
    let table = DeltaTable::try_from_url(url).await.unwrap();
    table.write([batch]).with_save_mode(SaveMode::Append).await.unwrap();
}

async fn fetch(client: &mut FlightSqlServiceClient<Channel>, info: FlightInfo) -> Vec<RecordBatch> {
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    client.do_get(ticket).await.unwrap().try_collect().await.unwrap()
}

async fn ask(client: &mut FlightSqlServiceClient<Channel>, sql: &str) -> Vec<RecordBatch> {
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    fetch(client, info).await
}

fn integers(batches: &[RecordBatch]) -> Vec<i64> {
    let columns = batches.iter().map(|batch| batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap());
    columns.flat_map(|column| column.values().to_vec()).collect()
}

fn status(error: FlightError) -> (Code, String) {
    match error {
        FlightError::Tonic(status) => (status.code(), status.message().to_owned()),
        other => panic!("not a status: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_sees_what_was_committed_before_it() {
    let server = Server::start(None, None).await;
    let mut client = server.client().await;
    server.append("payments", 0..10).await;
    assert_eq!(integers(&ask(&mut client, "SELECT count(*) FROM payments").await), [10]);
    server.append("payments", 10..15).await;
    assert_eq!(integers(&ask(&mut client, "SELECT count(*) FROM payments").await), [15]);
    assert_eq!(integers(&ask(&mut client, "SELECT id FROM payments WHERE name = 'n12'").await), [12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_arrive_with_their_hint_and_writes_are_refused() {
    let server = Server::start(None, None).await;
    server.append("payments", 0..3).await;
    let mut client = server.client().await;
    let (code, text) = status(client.execute("SELECT nmae FROM payments".to_owned(), None).await.unwrap_err());
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(text, "column `nmae` does not exist\nAt line 1, columns 8 to 11.\nhint: Did you mean `name`?");
    let failed = || server.metrics.flight_queries.with(["failed"]).get();
    assert_eq!(failed(), 1, "a statement that cannot be planned has failed");
    assert!(client.prepare("SELECT nmae FROM payments".to_owned(), None).await.is_err());
    assert_eq!(failed(), 2);
    for sql in ["INSERT INTO payments VALUES (1, 'x')", "DROP TABLE payments"] {
        let (code, text) = status(client.execute(sql.to_owned(), None).await.unwrap_err());
        assert_eq!(code, Code::InvalidArgument);
        assert!(text.starts_with("only queries are served"), "{text}");
        let (_, text) = status(client.execute_update(sql.to_owned(), None).await.unwrap_err());
        assert!(text.starts_with("only queries are served"), "{text}");
    }
    assert_eq!(integers(&ask(&mut client, "SELECT count(*) FROM payments").await), [3]);
}

fn state(error: FlightError) -> String {
    match error {
        FlightError::Tonic(status) => match status.metadata().get("sqlstate") {
            Some(state) => state.to_str().unwrap().to_owned(),
            None => panic!("no SQLSTATE: {status:?}"),
        },
        other => panic!("not a status: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_carries_its_sqlstate() {
    let server = Server::start(Some(TOKEN), None).await;
    let mut client = server.client().await;
    assert_eq!(state(client.execute("SELECT 1".to_owned(), None).await.unwrap_err()), "28000");
    client.set_token(TOKEN.to_owned());
    let huge = format!("SELECT '{}'", "x".repeat(5 << 20));
    let large = format!("SELECT '{}'", "x".repeat(1 << 20));
    for (sql, expected) in [
        ("SELEC 1", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT a FROM generate_series(1, 2)", "42703"),
        ("DROP TABLE t", "25006"),
        (&large, "54001"),
        // Refused by the transport.
        (&huge, "08P01"),
    ] {
        assert_eq!(state(client.execute(sql.to_owned(), None).await.unwrap_err()), expected, "{sql:.40}");
    }
    // In the middle of the rows.
    let info = client.execute("SELECT 1 / (value - 100000) FROM generate_series(1, 200000)".to_owned(), None).await;
    let rows = client.do_get(info.unwrap().endpoint[0].ticket.clone().unwrap()).await.unwrap();
    assert_eq!(state(rows.try_collect::<Vec<_>>().await.unwrap_err()), "22012");
    let handle = client.begin_transaction().await.unwrap_err();
    assert_eq!(state(handle), "0A000");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_and_queries_are_refused_in_words() {
    let limits = QueryLimits { running: 1, waiting: 0, connections: 2, ..QueryLimits::default() };
    let server = Server::start_with(FlightOptions { limits, ..FlightOptions::default() }).await;
    let mut first = server.client().await;
    let info = first.execute("SELECT value FROM generate_series(1, 1000000000)".to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut rows = first.do_get(ticket).await.unwrap();
    rows.try_next().await.unwrap().unwrap();
    let mut second = server.client().await;
    let info = second.execute("SELECT 1".to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let error = second.do_get(ticket.clone()).await.err().unwrap();
    assert_eq!(state(error), "53300");
    let mut third = server.client().await;
    assert_eq!(state(third.execute("SELECT 1".to_owned(), None).await.unwrap_err()), "53300");
    // Whoever leaves makes room.
    drop(rows);
    drop(first);
    for attempt in 0.. {
        match second.do_get(ticket.clone()).await {
            Ok(rows) => {
                assert_eq!(integers(&rows.try_collect::<Vec<_>>().await.unwrap()), [1]);
                break;
            }
            Err(error) => assert!(attempt < 200, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_when_its_time_is_over_and_when_nobody_reads() {
    let short = Duration::from_millis(1_500);
    for (timeout, idle_timeout) in [(short, Duration::from_secs(60)), (Duration::from_secs(60), short)] {
        let limits = QueryLimits { timeout, idle_timeout, ..QueryLimits::default() };
        let server = Server::start_with(FlightOptions { limits, ..FlightOptions::default() }).await;
        let mut client = server.client().await;
        let sql = "SELECT value, repeat('x', 1000) AS x FROM generate_series(1, 1000000000)";
        let info = client.execute(sql.to_owned(), None).await.unwrap();
        let mut rows = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
        rows.try_next().await.unwrap();
        let running = || server.metrics.flight_queries_running.with([]).get();
        tokio::time::sleep(Duration::from_secs(4)).await;
        // Rows that are on the way arrive first.
        let ended = rows.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(state(ended), "57014");
        until("the query ends", || running().abs() < f64::EPSILON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_runs_once_for_each_bound_row() {
    let server = Server::start(None, None).await;
    server.append("payments", 0..100).await;
    let mut client = server.client().await;
    let sql = "SELECT id FROM payments WHERE id = ? OR name = ? ORDER BY id";
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    let types: Vec<_> = prepared.parameter_schema().unwrap().fields().iter().map(|f| f.data_type().clone()).collect();
    assert_eq!(types, [DataType::Int64, DataType::Utf8]);
    assert_eq!(prepared.dataset_schema().unwrap().field(0).name(), "id");
    let parameters = RecordBatch::try_from_iter([
        ("a", Arc::new(Int64Array::from(vec![3, 50])) as _),
        ("b", Arc::new(StringArray::from(vec!["n9", "n51"])) as _),
    ]);
    prepared.set_parameters(parameters.unwrap()).unwrap();
    let info = prepared.execute().await.unwrap();
    assert_eq!(integers(&fetch(&mut client, info).await), [3, 9, 50, 51]);
    prepared.close().await.unwrap();

    let mut closed = client.prepare("SELECT max(id) FROM payments".to_owned(), None).await.unwrap();
    let info = closed.execute().await.unwrap();
    closed.close().await.unwrap();
    assert_eq!(integers(&fetch(&mut client, info).await), [99], "a ticket outlives its statement");

    let mut unbound = client.prepare(sql.to_owned(), None).await.unwrap();
    let info = unbound.execute().await.unwrap();
    let refused = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.err().unwrap();
    assert_eq!(status(refused).0, Code::InvalidArgument);
}

/// Statements whose types or nulls are settled only when they are planned to the end.
const DESCRIBED: &[&str] = &[
    "SELECT 1",
    "SELECT NULL",
    "SELECT max(a) FROM (SELECT 1 AS a)",
    "SELECT sum(a) FROM (SELECT 1 AS a UNION ALL SELECT 1.5)",
    "SELECT avg(id), min(id), max(id), count(*), count(name) FROM t",
    "SELECT count(*) FROM t",
    "SELECT count(DISTINCT name) FROM t",
    "SELECT max(name) FROM t",
    "SELECT [1, 2]",
    "SELECT [1, NULL]",
    "SELECT ['a']",
    "SELECT [[1], [2]]",
    "SELECT [id] FROM t",
    "SELECT {'x': 1}",
    "SELECT {'x': id, 'y': [name]} FROM t",
    "SELECT MAP {'a': 1}",
    "SELECT map(['a'], [1.5])",
    "SELECT struct(1, 'a')",
    "SELECT struct(id, 'a') FROM t",
    "SELECT named_struct('a', 1)",
    "SELECT arrays_zip([1], ['a'])",
    "SELECT version()",
    "SELECT abs(-1)",
    "SELECT id, upper('x') FROM t",
    "SELECT upper(name), lower('X'), length(name) FROM t",
    "SELECT CASE WHEN true THEN 1 END",
    "SELECT CASE WHEN id > 1 THEN 1 ELSE 2.5 END FROM t",
    "SELECT power(10, 400), ln(-1), sqrt(2)",
    "SELECT round(1.5), floor(1.5), ceil(id) FROM t",
    "SELECT lpad('a', 5)",
    "SELECT to_hex(1)",
    "SELECT concat('a', 'b'), 'a' || 'b', concat_ws('-', 'a', name) FROM t",
    "SELECT coalesce(NULL, 1), nullif(1, 1)",
    "SELECT now() IS NULL, current_date IS NULL",
    "SELECT DATE '2026-01-01', TIMESTAMP '2026-01-01 00:00:00', INTERVAL '1 day'",
    "SELECT CAST(1 AS DECIMAL(10, 2)) AS a, CAST('1' AS INT) AS b, CAST(1 AS VARCHAR) AS c",
    "SELECT arrow_cast('a', 'Dictionary(Int32, Utf8)')",
    "SELECT [arrow_cast('a', 'Dictionary(Int32, Utf8)')]",
    "SELECT arrow_cast('a', 'Utf8View'), arrow_cast([1], 'LargeList(Int64)')",
    "SELECT true AND false, 1 = 1, 1 IS NULL, 'a' LIKE 'b'",
    "SELECT 1 + 1.5, 1 / 2, 7 % 3",
    "SELECT id + 1, id * 1.5, -id FROM t",
    "SELECT * FROM t",
    "SELECT t.*, u.id AS other FROM t LEFT JOIN t u ON t.id = u.id + 1",
    "SELECT * FROM t FULL JOIN (SELECT 1 AS one) ON id = one",
    "SELECT id FROM t UNION ALL SELECT NULL",
    "SELECT 1 AS a UNION SELECT 2",
    "SELECT * FROM (VALUES (1, 'a'), (2, NULL)) v(a, b)",
    "SELECT unnest([1, 2])",
    "SELECT unnest({'a': 1, 'b': 'x'})",
    "SELECT row_number() OVER (ORDER BY id), lag(id) OVER (ORDER BY id), sum(id) OVER () FROM t",
    "SELECT array_agg(id), string_agg(name, ','), first_value(id) FROM t",
    "SELECT name, count(*) FROM t GROUP BY name ORDER BY 2 DESC LIMIT 3",
    "SELECT name, count(*) FROM t GROUP BY ROLLUP (name)",
    "SELECT id FROM t WHERE false",
    "SELECT (SELECT max(id) FROM t)",
    "SELECT id FROM t WHERE id IN (SELECT id FROM t) AND EXISTS (SELECT 1)",
    "SELECT value FROM generate_series(1, 3)",
    "WITH a AS (SELECT 1 AS x) SELECT x, x + 1 FROM a",
    "SELECT median(id), stddev(id), approx_distinct(id), bool_and(id > 0) FROM t",
    "EXPLAIN SELECT 1",
    "SHOW TABLES",
    "DESCRIBE t",
    "SELECT * FROM weir.tables",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_described_as_its_rows_are() {
    let server = Server::start(None, None).await;
    server.append("t", 0..10).await;
    let mut client = server.client().await;
    let mut wrong = Vec::new();
    for sql in DESCRIBED {
        let info = client.execute((*sql).to_owned(), None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let described = info.clone().try_decode_schema().unwrap();
        let prepared = client.prepare((*sql).to_owned(), None).await.unwrap().dataset_schema().unwrap().clone();
        let mut rows = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
        while rows.try_next().await.unwrap_or_else(|error| panic!("{sql}: {error}")).is_some() {}
        let sent = rows.schema().unwrap().as_ref().clone();
        if sent != described || sent != prepared {
            wrong.push(format!("{sql}\n  described {described:?}\n  prepared {prepared:?}\n  sent {sent:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_query_is_described_as_its_rows_are() {
    let server = Server::start(None, None).await;
    server.append("t", 0..10).await;
    let mut client = server.client().await;
    let texts = |values: Vec<Option<&str>>| {
        let column: Arc<dyn Array> = Arc::new(StringArray::from(values));
        RecordBatch::try_from_iter([("p", column)]).unwrap()
    };
    for sql in
        ["SELECT upper($1)", "SELECT $1", "SELECT [$1]", "SELECT struct($1, 'a')", "SELECT id FROM t WHERE name = $1"]
    {
        for values in [vec![Some("n1")], vec![None], vec![Some("n1"), None, Some("n2")]] {
            let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
            prepared.set_parameters(texts(values)).unwrap();
            let info = prepared.execute().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let described = info.clone().try_decode_schema().unwrap();
            let mut rows = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
            while rows.try_next().await.unwrap_or_else(|error| panic!("{sql}: {error}")).is_some() {}
            assert_eq!(rows.schema().unwrap().as_ref(), &described, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_describes_server_and_tables() {
    let server = Server::start(None, None).await;
    server.append("payments", 0..3).await;
    let mut client = server.client().await;
    let info = client.get_tables(CommandGetTables { include_schema: true, ..Default::default() }).await.unwrap();
    let tables = fetch(&mut client, info).await;
    let names = tables[0].column_by_name("table_name").unwrap().as_any().downcast_ref::<StringArray>().unwrap();
    let names: Vec<_> = names.iter().flatten().collect();
    let system = ["dead_letters", "functions", "materialized_views", "models", "pipelines", "progress", "secrets"];
    let system = [&system[..], &["sinks", "sources", "state", "tables", "views"]].concat();
    assert_eq!(names, [&["payments"][..], &system].concat());
    let info = client.get_sql_info(vec![SqlInfo::FlightSqlServerName]).await.unwrap();
    assert_eq!(fetch(&mut client, info).await[0].num_rows(), 1);
    let info = client.get_catalogs().await.unwrap();
    assert_eq!(fetch(&mut client, info).await[0].num_rows(), 1);
}

/// The result is 16 GB; rows are made only as they are taken, and dropping the stream ends the query.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_the_query_back_and_a_gone_one_ends_it() {
    let server = Server::start(None, None).await;
    let mut client = server.client().await;
    let sql = "SELECT value, value + 1 AS next FROM generate_series(1, 1000000000)";
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    let mut rows = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    assert!(rows.try_next().await.unwrap().unwrap().num_rows() > 0);
    let running = server.metrics.flight_queries_running.with([]);
    let sent = server.metrics.flight_rows.with([]);
    until("the server stops making rows", || {
        let before = sent.get();
        std::thread::sleep(Duration::from_millis(100));
        sent.get() == before
    })
    .await;
    assert!(sent.get() < 5_000_000, "{} rows were made ahead of the reader", sent.get());
    assert!((running.get() - 1.0).abs() < f64::EPSILON);
    drop(rows);
    until("the query has ended", || running.get() < 0.5).await;
    assert_eq!(server.metrics.flight_queries.with(["cancelled"]).get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_can_be_cancelled_by_its_flight_info() {
    let server = Server::start(None, None).await;
    let mut client = server.client().await;
    let info = client.execute("SELECT value FROM generate_series(1, 1000000000)".to_owned(), None).await.unwrap();
    let mut rows = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    rows.try_next().await.unwrap().unwrap();
    let mut canceller = FlightClient::new(server.channel().await);
    let answer = canceller.cancel_flight_info(CancelFlightInfoRequest::new(info.clone())).await.unwrap();
    assert_eq!(answer.status, CancelStatus::Cancelled as i32);
    let refused = loop {
        match rows.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended as if it were complete"),
            Err(error) => break status(error),
        }
    };
    assert_eq!(refused.0, Code::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_nothing_is_answered() {
    let server = Server::start(Some(TOKEN), None).await;
    let mut client = server.client().await;
    let (code, text) = status(client.execute("SELECT 1".to_owned(), None).await.unwrap_err());
    assert_eq!(code, Code::Unauthenticated);
    assert!(text.contains("hint: Send `Authorization: Bearer <token>`"), "{text}");
    let refused = client.handshake("ana", "wrong").await.unwrap_err().to_string();
    assert!(refused.contains("token or password is wrong"), "{refused}");
    client.handshake("ana", TOKEN).await.unwrap();
    assert_eq!(integers(&ask(&mut client, "SELECT 1").await), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_encrypted_when_a_certificate_is_given() {
    let folder = TempDir::new().unwrap();
    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        eprintln!("SKIPPED connections_are_encrypted_when_a_certificate_is_given: openssl cannot make a certificate");
        return;
    }
    let certificate_pem = std::fs::read_to_string(certificate).unwrap();
    let identity = TlsIdentity {
        certificate_pem: certificate_pem.clone(),
        key_pem: Secret::new(std::fs::read_to_string(key).unwrap()),
    };
    let server = Server::start(Some(TOKEN), Some(identity)).await;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate_pem)).domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", server.flight_addr().port())).unwrap();
    let mut client = FlightSqlServiceClient::new(endpoint.tls_config(tls).unwrap().connect().await.unwrap());
    client.set_token(TOKEN.to_owned());
    assert_eq!(integers(&ask(&mut client, "SELECT 1").await), [1]);

    let plain = Endpoint::from_shared(format!("http://{}", server.flight_addr())).unwrap().connect().await;
    if let Ok(channel) = plain {
        let mut client = FlightSqlServiceClient::new(channel);
        client.set_token(TOKEN.to_owned());
        assert!(client.execute("SELECT 1".to_owned(), None).await.is_err(), "plain text was answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_shows_metrics_health_progress_and_the_dashboard() {
    let server = Server::start(None, None).await;
    server.append("payments", 0..3).await;
    let mut client = server.client().await;
    ask(&mut client, "SELECT * FROM payments").await;
    let pipeline = server.folder.path().join("_weir/fraud");
    std::fs::create_dir_all(&pipeline).unwrap();
    let epochs: String = (1..=300).map(|n| format!("{{\"name\":\"fraud\",\"epoch\":{n}}}\n")).collect();
    std::fs::write(pipeline.join("progress.jsonl"), epochs).unwrap();

    let (head, metrics) = get(server.http_addr(), "/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(metrics.contains("weir_flight_rows_total 3\n"), "{metrics}");
    assert!(metrics.contains("weir_flight_queries_total{outcome=\"done\"} 1\n"), "{metrics}");
    assert!(metrics.contains("process_resident_memory_bytes "), "{metrics}");

    assert!(get(server.http_addr(), "/health/live").await.0.starts_with("HTTP/1.1 200"));
    let (head, reason) = get(server.http_addr(), "/health/ready").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(reason, "not ready: still starting\n");

    let (_, progress) = get(server.http_addr(), "/progress?limit=5").await;
    let progress: serde_json::Value = serde_json::from_str(&progress).unwrap();
    let epochs = progress["pipelines"][0]["epochs"].as_array().unwrap();
    let numbers: Vec<_> = epochs.iter().map(|epoch| epoch["epoch"].as_i64().unwrap()).collect();
    assert_eq!(numbers, [296, 297, 298, 299, 300]);

    let (head, page) = get(server.http_addr(), "/").await;
    assert!(head.contains("text/html"), "{head}");
    assert!(
        !page.contains("http://") || page.contains("http://www.w3.org/2000/svg"),
        "nothing is loaded from elsewhere"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_the_servers_even_while_rows_are_sent() {
    let server = Server::start(None, None).await;
    let mut client = server.client().await;
    let info = client.execute("SELECT value FROM generate_series(1, 1000000000)".to_owned(), None).await.unwrap();
    let mut rows = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    rows.try_next().await.unwrap().unwrap();
    server.stop.send(()).unwrap();
    for task in [server.flight.task, server.http.task] {
        tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn adbc_and_pyarrow_agree_with_the_server() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/python");
    let setup = Command::new("bash").arg(tools.join("setup.sh")).output();
    let Some(python) = setup.ok().filter(|setup| setup.status.success()) else {
        eprintln!(
            "SKIPPED adbc_and_pyarrow_agree_with_the_server: no Python environment (tests/tools/python/setup.sh)"
        );
        return;
    };
    let python = String::from_utf8(python.stdout).unwrap().trim().to_owned();
    let server = Server::start(Some(TOKEN), None).await;
    let mut command = Command::new(python);
    command
        .arg(tools.join("flight_sql.py"))
        .arg(format!("grpc://{}", server.flight_addr()))
        .arg(server.folder.path())
        .arg(TOKEN);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (said, faults) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{faults}");
    assert!(said.contains("all checks passed"), "{said}\n{faults}");
    let running = server.metrics.flight_queries_running.with([]);
    until("cancelled queries have ended", || running.get() < 0.5).await;
}

/// Polls until `holds`, at most half a minute.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..300 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("waited in vain until {what}");
}

/// Head and body of an answer, by hand: the client should not be the server's library.
async fn get(addr: SocketAddr, path: &str) -> (String, String) {
    let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
