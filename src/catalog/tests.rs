use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;

use super::*;

fn lookup(name: &str) -> Option<String> {
    match name {
        "BROKER" => Some("broker:9092".to_owned()),
        "PASSWORD" => Some("hunter2".to_owned()),
        "EMPTY" => Some(String::new()),
        "EVENTHUB" => Some(
            "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=hunter2=;EntityPath=tx"
                .to_owned(),
        ),
        _ => None,
    }
}

fn load(text: &str) -> Result<Catalog, Diagnostics> {
    Catalog::load(&[Arc::new(SourceFile::new("sql/test.sql", text))], &lookup)
}

fn loaded(text: &str) -> Catalog {
    load(text).unwrap_or_else(|errors| panic!("{}", errors.render(false)))
}

/// The messages of a text's errors.
fn errors(text: &str) -> Vec<String> {
    load(text).err().map(|errors| errors.list.into_iter().map(|error| error.message).collect()).unwrap_or_default()
}

fn kafka(catalog: &Catalog, source: &str) -> KafkaSourceOptions {
    match &catalog.sources[source].connector {
        SourceConnector::Kafka(options) => options.clone(),
        other => panic!("{other:?}"),
    }
}

const COLUMNS: &str = "(id STRING NOT NULL, ts TIMESTAMP)";

#[test]
fn a_kafka_source_has_typed_options() {
    let catalog = loaded(&format!(
        "CREATE SECRET p FROM ENV PASSWORD;
         CREATE SOURCE t {COLUMNS} WITH (connector = 'kafka', bootstrap_servers = '${{BROKER}}', topic = '${{T:-tx}}',
           sasl_mechanism = 'scram-sha-512', sasl_username = 'u', sasl_password = SECRET p, ssl_ca_location = '/ca.pem',
           starting_offsets = '{{\"0\": 5}}', on_data_loss = 'continue', on_error = 'drop', group_id = 'g',
           properties.fetch.min.bytes = 100)"
    ));
    let options = kafka(&catalog, "t");
    assert_eq!((options.connection.bootstrap_servers.as_str(), options.topic.as_str()), ("broker:9092", "tx"));
    let security = &options.connection.security;
    assert!(security.tls);
    let (mechanism, user, password) = security.sasl.as_ref().unwrap();
    assert_eq!((mechanism.as_str(), user.as_str(), password.expose()), ("SCRAM-SHA-512", "u", "hunter2"));
    assert_eq!(options.connection.properties["fetch.min.bytes"].expose(), "100");
    assert_eq!(options.starting_offsets, StartingOffsets::Explicit([(0, 5)].into()));
    assert_eq!(options.on_data_loss, OnDataLoss::Continue);
    assert_eq!(catalog.sources["t"].on_error, OnError::Drop);
    assert_eq!(catalog.secrets, ["p"]);
    assert!(!format!("{catalog:?}").contains("hunter2"), "a secret must not be printed");
}

#[test]
fn flink_spellings_are_accepted() {
    let catalog = loaded(&format!(
        "CREATE TABLE t {COLUMNS} WITH ('connector' = 'kafka', 'properties.bootstrap.servers' = 'b:1', 'topic' = 'tx',
           'format' = 'json', 'scan.startup.mode' = 'timestamp', 'scan.startup.timestamp-millis' = '17');
         CREATE TABLE o {COLUMNS} WITH ('connector' = 'kafka', 'properties.bootstrap.servers' = 'b:1', 'topic' = 'o',
           'format' = 'json', 'scan.startup.mode' = 'latest-offset', 'sink.delivery-guarantee' = 'at-least-once');
         INSERT INTO o SELECT * FROM t;"
    ));
    let options = kafka(&catalog, "t");
    assert_eq!(options.starting_offsets, StartingOffsets::Timestamp(17));
    assert!(!options.connection.security.tls);
    let SinkConnector::Kafka(sink) = &catalog.sinks["o"].connector else { panic!() };
    assert_eq!(sink.delivery, Delivery::AtLeastOnce);
    assert!(!catalog.sources.contains_key("o") && catalog.tables.is_empty());
}

#[test]
fn an_event_hub_is_told_by_its_connection_string() {
    let catalog = loaded(&format!(
        "CREATE SECRET e FROM ENV EVENTHUB;
         CREATE SOURCE t {COLUMNS} WITH (connector = 'eventhubs', connection_string = SECRET e);
         CREATE SINK o WITH (connector = 'eventhubs', connection_string = SECRET e, bootstrap_servers = 'other:1');"
    ));
    let options = kafka(&catalog, "t");
    assert!(options.event_hubs && options.connection.security.tls);
    assert_eq!(
        (options.connection.bootstrap_servers.as_str(), options.topic.as_str()),
        ("ns.servicebus.windows.net:9093", "tx")
    );
    let (mechanism, user, password) = options.connection.security.sasl.unwrap();
    assert_eq!((mechanism.as_str(), user.as_str()), ("PLAIN", "$ConnectionString"));
    assert!(password.expose().starts_with("Endpoint=sb://"));
    let SinkConnector::Kafka(sink) = &catalog.sinks["o"].connector else { panic!() };
    assert_eq!(sink.connection.bootstrap_servers, "other:1");
}

#[test]
fn files_generators_and_simple_sinks_are_read() {
    let catalog = loaded(&format!(
        "CREATE SOURCE f {COLUMNS} WITH (connector = 'file', path = 'in/*.csv', poll_interval = '200 ms');
         CREATE SOURCE g (WATERMARK FOR ts AS ts - INTERVAL '1 second') WITH (connector = 'generator', rate = 500, days = 3, seed = 42);
         CREATE SINK c WITH (connector = 'console'); CREATE SINK b WITH (connector = 'blackhole');
         CREATE SINK o WITH (connector = 'file', path = 'out', format = 'parquet');"
    ));
    let SourceConnector::File(file) = &catalog.sources["f"].connector else { panic!() };
    assert_eq!((file.poll_interval, catalog.sources["f"].format), (Duration::from_millis(200), Format::Csv));
    let generator = &catalog.sources["g"];
    let SourceConnector::Generator(options) = &generator.connector else { panic!() };
    assert_eq!((options.rate, options.days, options.seed, options.customers), (Some(500.0), Some(3), 42, 5_000));
    assert_eq!(generator.columns.len(), 8);
    assert_eq!(generator.watermark.as_ref().map(|watermark| watermark.column.as_str()), Some("ts"));
    assert!(matches!(catalog.sinks["b"].connector, SinkConnector::Blackhole));
    assert_eq!(catalog.sinks["o"].format, Format::Parquet);
}

#[test]
fn tables_functions_models_and_pipelines_are_built() {
    let catalog = loaded(
        "CREATE TABLE t (a INT NOT NULL, b STRING, d DATE, CHECK (a > 0), CONSTRAINT small CHECK (a < 10), PRIMARY KEY (a) NOT ENFORCED)
           PARTITIONED BY (d) LOCATION '${BROKER}/x' TBLPROPERTIES ('delta.appendOnly' = 'false', 'mine' = 'x') OPTIONS (aws_secret = '${PASSWORD}');
         CREATE FUNCTION f(x DOUBLE) RETURNS DOUBLE LANGUAGE sql AS $$ x / 2 $$;
         CREATE MODEL m WITH (provider = 'LightGBM', path = 'm.txt');
         CREATE VIEW w AS SELECT 1 AS a; CREATE VIEW v (x) AS SELECT a FROM w;
         CREATE PIPELINE p WITH (trigger = 'available now', max_delay = '0 ms', parallelism = 2) AS BEGIN INSERT INTO t (a) SELECT x FROM v; END;
         INSERT INTO t SELECT 1, 'x', DATE '2026-01-01'; EXPLAIN SELECT 1; SHOW TABLES;",
    );
    let table = &catalog.tables["t"];
    assert_eq!(table.location.as_deref(), Some("broker:9092/x"));
    let checks: Vec<_> = table.checks.iter().map(|check| (check.name.as_str(), check.text.as_str())).collect();
    assert_eq!(checks, [("check_1", "a > 0"), ("small", "a < 10")]);
    assert_eq!(
        (table.primary_key.as_slice(), table.partitioned_by.as_slice()),
        (&["a".to_owned()][..], &["d".to_owned()][..])
    );
    assert_eq!(table.storage["aws_secret"].expose(), "hunter2");
    assert_eq!(catalog.functions["f"].arguments, [("x".to_owned(), DataType::Float64)]);
    assert_eq!(catalog.models["m"].path, "m.txt");
    assert_eq!(catalog.view_order, ["w", "v"]);
    let names: Vec<_> = catalog.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    assert_eq!(names, ["p", "test"]);
    let options = &catalog.pipelines[0].options;
    assert_eq!(
        (options.trigger, options.max_delay, options.parallelism),
        (Some(Trigger::AvailableNow), Duration::ZERO, Some(2))
    );
    assert_eq!(catalog.pipelines[0].inserts[0].columns, ["a"]);
    assert_eq!(catalog.statements.len(), 2);
}

#[test]
fn drop_replace_and_keep_act_in_order() {
    let catalog = loaded(
        "CREATE TABLE t (a INT); DROP TABLE t; CREATE TABLE t (b INT); CREATE OR REPLACE TABLE t (c INT);
         CREATE TABLE IF NOT EXISTS t (d INT); DROP VIEW IF EXISTS nothing;
         CREATE VIEW v AS SELECT 1; DROP VIEW v; CREATE VIEW w AS SELECT 1;",
    );
    assert_eq!(catalog.tables["t"].columns[0].name, "c");
    assert_eq!(catalog.view_order, ["w"]);
    assert_eq!(errors("DROP TABLE t"), ["unknown table `t`"]);
    assert_eq!(errors("CREATE VIEW v AS SELECT 1; DROP TABLE v"), ["`v` is a view, not a table"]);
    assert_eq!(errors("CREATE TABLE t (a INT); CREATE VIEW t AS SELECT 1"), ["table `t` exists already"]);
}

#[test]
fn a_missing_secret_matters_where_it_is_used() {
    assert!(load("CREATE SECRET s FROM ENV NOT_SET;").is_ok());
    let text = format!(
        "CREATE SECRET s FROM ENV NOT_SET;\nCREATE SOURCE t {COLUMNS} WITH (connector = 'eventhubs', topic = 'x', connection_string = SECRET s)"
    );
    let found = load(&text).unwrap_err();
    assert_eq!((found.list.len(), found.list[0].span.start.line), (1, 2));
    assert_eq!(found.list[0].message, "secret `s` cannot be read");
}

#[test]
fn an_empty_variable_counts_as_unset_in_options_and_secrets() {
    let table = |location: &str| errors(&format!("CREATE TABLE t (a INT) LOCATION '{location}';"));
    assert_eq!(table("/tmp/${EMPTY}"), ["environment variable `EMPTY` is empty"]);
    assert!(table("/tmp/${EMPTY:-}x${EMPTY:-y}").is_empty());
    let secret = "CREATE SECRET s FROM ENV EMPTY; CREATE TABLE t (a INT) OPTIONS (aws_secret = SECRET s);";
    assert_eq!(errors(secret), ["secret `s` cannot be read"]);
}

#[test]
fn a_broken_object_is_blamed_once() {
    let text = "CREATE SOURCE s (id STRNG) WITH (connector = 'console'); CREATE TABLE t (a INT) LOCATION '${NOT_SET}';
                INSERT INTO t SELECT * FROM s; INSERT INTO s SELECT 1;";
    assert_eq!(errors(text), ["unknown type `STRNG`", "environment variable `NOT_SET` is not set"]);
}

#[test]
fn views_that_read_themselves_are_refused() {
    assert_eq!(
        errors("CREATE VIEW a AS SELECT * FROM b; CREATE VIEW b AS SELECT * FROM a; CREATE VIEW c AS SELECT * FROM a"),
        ["view `a` reads itself", "view `b` reads itself"]
    );
    assert!(load("CREATE VIEW a AS WITH a AS (SELECT 1) SELECT * FROM a").is_ok());
}

#[test]
fn spans_lead_back_to_their_file() {
    let files = [
        Arc::new(SourceFile::new("one.sql", "CREATE TABLE t (a INT);")),
        Arc::new(SourceFile::new("two.sql", "\n  CREATE TABLE t (a INT);\n  INSERT INTO u SELECT 1;")),
    ];
    let found = Catalog::load(&files, &lookup).unwrap_err();
    let places: Vec<_> = found.list.iter().filter_map(|error| found.files.place(error.span)).collect();
    assert_eq!(places, ["two.sql:2:16", "two.sql:3:15"]);
    assert_eq!(found.list[0].detail.as_deref(), Some("It is created at one.sql:1:14."));
}

#[test]
fn a_materialized_view_is_a_table_a_view_and_an_insert() {
    let source = "CREATE SOURCE t (k STRING, v BIGINT, ts TIMESTAMP) WITH (connector = 'file', path = 'in');";
    let catalog = loaded(&format!(
        "{source}
         CREATE MATERIALIZED VIEW m LOCATION 'here' AS SELECT k, count(*) AS n FROM t GROUP BY k;
         CREATE TABLE u (k STRING, n BIGINT);
         INSERT INTO u SELECT * FROM m;"
    ));
    assert_eq!(catalog.tables["m"].primary_key, ["k"]);
    assert_eq!(catalog.tables["m"].location.as_deref(), Some("here"));
    assert!(catalog.views.contains_key("m") && catalog.materialized.contains_key("m"));
    let [pipeline] = catalog.pipelines.as_slice() else { panic!("{:?}", catalog.pipelines) };
    let targets: Vec<_> = pipeline.inserts.iter().map(|insert| insert.target.as_str()).collect();
    assert_eq!((pipeline.name.as_str(), targets.as_slice()), ("test", ["m", "u"].as_slice()));

    let catalog = loaded(&format!(
        "{source} CREATE PIPELINE p AS BEGIN CREATE MATERIALIZED VIEW m AS SELECT k, sum(v) AS s FROM t GROUP BY 1; END;"
    ));
    assert_eq!(catalog.pipelines.len(), 1);
    assert_eq!(catalog.pipelines[0].inserts[0].target, "m");
    let catalog = loaded(&format!(
        "{source} CREATE MATERIALIZED VIEW m AS SELECT k FROM t; DROP MATERIALIZED VIEW m;
         CREATE MATERIALIZED VIEW n AS SELECT k FROM t; CREATE OR REPLACE MATERIALIZED VIEW n AS SELECT v FROM t;"
    ));
    assert_eq!(catalog.tables.keys().collect::<Vec<_>>(), ["n"]);
    assert_eq!(catalog.pipelines[0].inserts.len(), 1);
}

#[test]
fn the_key_of_a_materialized_view_is_what_it_groups_by() {
    for (query, keys) in [
        ("SELECT k AS who, count(*) AS n FROM t GROUP BY k", vec!["who"]),
        ("SELECT count(*) AS n, t.k FROM t GROUP BY t.k", vec!["k"]),
        (
            "SELECT date_trunc('day', ts) AS day, k, sum(v) AS s FROM t GROUP BY date_trunc('day', ts), k",
            vec!["day", "k"],
        ),
        ("SELECT date_trunc('day', ts) AS day, sum(v) AS s FROM t GROUP BY day", vec!["day"]),
        (
            "SELECT k, window_start, sum(v) AS s FROM TUMBLE(t, ts, INTERVAL '1 minute') GROUP BY k, window_start, window_end",
            vec!["k", "window_start"],
        ),
        ("SELECT k, v FROM t WHERE v > 1", vec![]),
        ("SELECT sum(v) AS s FROM t", vec![]),
    ] {
        let catalog = loaded(&format!(
            "CREATE SOURCE t (k STRING, v BIGINT, ts TIMESTAMP) WITH (connector = 'file', path = 'in');
             CREATE MATERIALIZED VIEW m AS {query};"
        ));
        assert_eq!(catalog.tables["m"].primary_key, keys, "{query}");
    }
    let catalog = loaded(
        "CREATE SOURCE t (k STRING, v BIGINT) WITH (connector = 'file', path = 'in');
         CREATE MATERIALIZED VIEW m (a, b) AS SELECT count(*), k FROM t GROUP BY 2;",
    );
    assert_eq!(catalog.tables["m"].primary_key, ["b"]);
}

#[test]
fn options_of_csv_and_of_timestamps_are_typed() {
    let catalog = loaded(
        "CREATE SOURCE t (k STRING) WITH (connector = 'file', path = 'in.csv.gz', delimiter = '\\t', quote = '', escape = '\\',
           header = 'false', null = 'NA', timestamp_unit = 'Seconds');",
    );
    let source = &catalog.sources["t"];
    assert_eq!((source.format, source.timestamp_unit), (Format::Csv, Some(TimestampUnit::Seconds)));
    let SourceConnector::File(options) = &source.connector else { panic!("not a file") };
    let dialect =
        CsvDialect { delimiter: b'\t', quote: None, escape: Some(b'\\'), header: false, null: "NA".to_owned() };
    assert_eq!(options.csv, dialect);
}

#[test]
fn options_of_time_and_state_are_typed() {
    let catalog = loaded(
        "CREATE SOURCE t (k STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts)
         WITH (connector = 'file', path = 'in', idle_after = '20 seconds', max_drift = '1 minute');
         CREATE TABLE history (k STRING);
         CREATE TABLE u (k STRING);
         CREATE PIPELINE p WITH (rolling_emit = 'on_arrival', late = 'dead_letter', state_ttl = '7 days', at_end = 'keep', seed_from = 'History')
         AS BEGIN INSERT INTO u SELECT k FROM t; END;
         CREATE PIPELINE q WITH (state_ttl = 'none') AS BEGIN INSERT INTO u SELECT k FROM t; END;",
    );
    let source = &catalog.sources["t"];
    assert_eq!(source.idle_after, Duration::from_secs(20));
    assert_eq!(source.max_drift, Some(Duration::from_secs(60)));
    let options = &catalog.pipeline("p").unwrap().options;
    assert_eq!(options.rolling_emit, Emit::OnArrival);
    assert_eq!(options.late, Late::DeadLetter);
    assert_eq!(options.state_ttl, Some(StateTtl::After(Duration::from_secs(7 * 86_400))));
    assert_eq!(options.at_end, Some(AtEnd::Keep));
    assert_eq!(options.seed_from.as_ref().map(|seed| seed.table.as_str()), Some("history"));
    let options = &catalog.pipeline("q").unwrap().options;
    assert_eq!((options.state_ttl, options.rolling_emit), (Some(StateTtl::Never), Emit::OnWatermark));
}

/// The SQL files of the distribution.
fn shipped() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["sql", "udfs"].map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let paths = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .map(|path| SourceFile::new(path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

#[test]
fn every_shipped_file_loads_without_anything_in_the_environment() {
    let files = shipped();
    assert!(files.len() >= 4);
    for file in files {
        if let Err(errors) = Catalog::load(&[Arc::new(file)], &|_| None) {
            panic!("{}", errors.render(false));
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_makes_the_catalog_panic(
        file in 0usize..4,
        edits in proptest::collection::vec((0usize..100_000, 0usize..4, 0usize..30), 1..5),
    ) {
        let mut chars: Vec<char> = shipped()[file].text.chars().collect();
        for (at, kind, amount) in edits {
            let at = at % (chars.len() + 1);
            let end = (at + amount).min(chars.len());
            match kind {
                0 => drop(chars.drain(at..end)),
                1 => drop(chars.splice(at..at, "${'é".chars().take(amount % 5))),
                2 => chars[at..end].reverse(),
                _ => { let part: Vec<char> = chars[at..end].to_vec(); drop(chars.splice(at..at, part)); }
            }
        }
        let text: String = chars.into_iter().collect();
        if let Err(errors) = load(&text) {
            proptest::prop_assert!(!errors.is_empty());
            proptest::prop_assert!(errors.list.iter().all(|error| !error.span.is_empty()), "{}", errors.render(true));
        }
    }
}
#[test]
fn a_primary_key_makes_columns_not_null_and_a_table_that_takes_rows_back() {
    let catalog = loaded(
        "CREATE TABLE t (a INT, b STRING, v DOUBLE, PRIMARY KEY (b, a) NOT ENFORCED); CREATE TABLE plain (a INT);
         CREATE SINK f WITH (connector = 'file', path = 'x'); CREATE SINK c WITH (connector = 'console');",
    );
    let table = &catalog.tables["t"];
    assert_eq!(table.primary_key, ["b", "a"]);
    let nullable: Vec<_> = table.columns.iter().map(|column| column.nullable).collect();
    assert_eq!(nullable, [false, false, true]);
    let accepting = ["t", "plain", "f", "c", "nobody"].map(|target| catalog.accepts_retractions(target));
    assert_eq!(accepting, [true, false, false, true, false]);
}

#[test]
fn keys_that_cannot_be_are_refused() {
    for (text, message) in [
        ("CREATE TABLE t (a INT, PRIMARY KEY (a, a) NOT ENFORCED)", "column `a` is in the key twice"),
        ("CREATE TABLE t (a ARRAY<INT>, PRIMARY KEY (a) NOT ENFORCED)", "column `a` is ARRAY<INT> and cannot be a key"),
        (
            "CREATE TABLE t (a INT, PRIMARY KEY (a) NOT ENFORCED) TBLPROPERTIES ('delta.appendOnly' = 'true')",
            "a table with a primary key cannot be append-only",
        ),
        (
            "CREATE SINK s WITH (connector = 'upsert-kafka', bootstrap_servers = 'b', topic = 't')",
            "connector `upsert-kafka` needs a key",
        ),
        (
            "CREATE SINK s (a INT) WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', primary_key = 'b')",
            "unknown column `b`",
        ),
        (
            "CREATE SINK s WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', primary_key = 'a, b', key_format = 'text')",
            "`key_format = 'text'` needs a `primary_key` of one column",
        ),
        (
            "CREATE SINK s WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', format = 'avro')",
            "format `avro` is not supported yet for messages",
        ),
    ] {
        assert_eq!(errors(text), [message], "{text}");
    }
}

#[test]
fn topics_take_changes_by_key_or_in_debeziums_envelope() {
    let catalog = loaded(
        "CREATE SINK plain WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', key = 'a');
         CREATE SINK keyed WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', format = 'json', primary_key = 'a, b');
         CREATE SINK upserts WITH (connector = 'upsert-kafka', bootstrap_servers = 'b', topic = 't', primary_key = 'a', key_format = 'text');
         CREATE SINK debezium WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', format = 'debezium-json');
         CREATE TABLE flink (a INT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'upsert-kafka', 'topic' = 't',
           'properties.bootstrap.servers' = 'b', 'key.format' = 'json', 'value.format' = 'json');
         CREATE TABLE src (a INT) WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', format = 'json');
         INSERT INTO flink SELECT a FROM src;",
    );
    let changes = |sink: &str| match &catalog.sinks[sink].connector {
        SinkConnector::Kafka(options) => options.changes.clone(),
        other => panic!("{other:?}"),
    };
    let encoding = |format, key: &[&str], key_format| {
        Some(ChangeEncoding { format, key: key.iter().map(|key| (*key).to_owned()).collect(), key_format })
    };
    assert_eq!(changes("plain"), None);
    assert_eq!(changes("keyed"), encoding(ChangeFormat::Upsert, &["a", "b"], KeyFormat::Json));
    assert_eq!(changes("upserts"), encoding(ChangeFormat::Upsert, &["a"], KeyFormat::Text));
    assert_eq!(changes("debezium"), encoding(ChangeFormat::Debezium, &[], KeyFormat::Json));
    assert_eq!(changes("flink"), encoding(ChangeFormat::Upsert, &["a"], KeyFormat::Json));
    assert!(!catalog.accepts_retractions("plain") && catalog.accepts_retractions("debezium"));
}

#[test]
fn names_that_cannot_be_folders_are_refused_with_a_place() {
    let text = |table: &str, location: &str, pipeline: &str| {
        format!(
            "CREATE SOURCE s (id BIGINT) WITH (connector = 'file', path = 'x', format = 'json');
             CREATE TABLE \"{table}\" (id BIGINT) USING DELTA {location};
             CREATE PIPELINE \"{pipeline}\" AS BEGIN INSERT INTO \"{table}\" SELECT id FROM s; END;"
        )
    };
    for name in ["..", ".", "../../x", "a\\b", "p%20x", "a\tb"] {
        assert_eq!(errors(&text(name, "", "p")), [format!("table `{name}` cannot have a folder of its name")]);
        assert_eq!(errors(&text(name, "LOCATION 'x/t'", "p")), Vec::<String>::new());
        assert_eq!(errors(&text("t", "", name)), [format!("pipeline `{name}` cannot have a folder of its name")]);
    }
    for hidden in ["_t", ".t"] {
        assert_eq!(errors(&text(hidden, "", "p")), [format!("table `{hidden}` cannot have a folder of its name")]);
        assert_eq!(errors(&text(hidden, "LOCATION 'x/t'", "p")), Vec::<String>::new());
        assert_eq!(errors(&text("t", "", hidden)), Vec::<String>::new());
    }
    assert_eq!(errors(&text("ü p", "", "ü/p:q 100%")), Vec::<String>::new());
    // The table would confuse epochs of the one with manifests of the other.
    let both = text("t", "", "p") + "CREATE PIPELINE \"p:manifest\" AS BEGIN INSERT INTO t SELECT id FROM s; END;";
    assert_eq!(errors(&both), ["pipelines `p` and `p:manifest` cannot both write `t`"]);
    assert_eq!(errors(&text("t", "", "p:manifest")), Vec::<String>::new());
}
