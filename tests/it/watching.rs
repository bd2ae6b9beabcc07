//! A running pipeline as operators see it: metrics, and readiness, while brokers are well, frozen, and back.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::kafka_support::RealKafka;
use crate::program::{Running, Weir};

/// A pipeline that serves HTTP.
struct Watched {
    weir: Weir,
    running: Running,
    port: u16,
}

impl Watched {
    fn start(sql: &str) -> Self {
        let weir = Weir::new();
        // Somebody else may take it first; then the test fails, and says so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        weir.write(
            "weir.yaml",
            &format!(
                "http: {{listen: '127.0.0.1:{port}', max_source_silence: 6s}}\nflight: {{listen: '127.0.0.1:0'}}\nmemory_limit: 512MiB\n"
            ),
        );
        weir.write("p.sql", sql);
        let running = weir.start(&["run", "--serve", "-c", "weir.yaml", "p.sql"], &[], "log");
        Self { weir, running, port }
    }

    /// The status and the body of an answer; status 0: there is none.
    fn get(&self, path: &str) -> (u16, String) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return (0, String::new()) };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = String::new();
        let asked = write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        if asked.and_then(|()| stream.read_to_string(&mut answer)).is_err() {
            return (0, String::new());
        }
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// Every sample of `/metrics`, by its name with its labels.
    fn metrics(&self) -> BTreeMap<String, f64> {
        let (_, text) = self.get("/metrics");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| line.rsplit_once(' ')).map(|(k, v)| (k.to_owned(), v.parse().unwrap())).collect()
    }

    /// Waits until the metrics are as wanted.
    fn wait_for(&mut self, what: &str, wanted: impl Fn(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let metrics = self.metrics();
            if wanted(&metrics) {
                return metrics;
            }
            let log = self.running.printed();
            assert!(self.running.runs() && Instant::now() < deadline, "{what}: {metrics:#?}\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn wait_for_readiness(&mut self, status: u16) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (found, body) = self.get("/health/ready");
            if found == status {
                return body;
            }
            let log = self.running.printed();
            assert!(self.running.runs() && Instant::now() < deadline, "{found} {body}\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_frozen_broker_shows_in_metrics_and_readiness_and_so_does_its_return() {
    let Some(kafka) = RealKafka::start() else { return };
    kafka.create_topic("watched", 2);
    let servers = kafka.connection().bootstrap_servers;
    let mut watched = Watched::start(&format!(
        "
CREATE SOURCE events (id BIGINT NOT NULL) WITH (connector = 'kafka', bootstrap_servers = '{servers}', topic = 'watched', format = 'json');
CREATE TABLE t (id BIGINT) USING DELTA;
CREATE PIPELINE p WITH (trigger = '100 ms') AS BEGIN INSERT INTO t SELECT id FROM events; END;
"
    ));
    let connected = "weir_source_connected{pipeline=\"p\",source=\"events\"}";
    let silent = "weir_source_silent_seconds{pipeline=\"p\",source=\"events\"}";
    kafka.produce("watched", 0, ["{\"id\":1}"]);
    watched.wait_for("no commit", |metrics| metrics.get("weir_last_epoch{pipeline=\"p\"}") == Some(&1.0));
    assert!(watched.metrics()["weir_last_commit_timestamp_seconds{pipeline=\"p\"}"] > 1.7e9);
    // A topic in which nothing comes is not a broker that says nothing.
    std::thread::sleep(Duration::from_secs(8));
    let metrics = watched.metrics();
    assert!(metrics[connected] == 1.0 && metrics[silent] < 6.0, "{metrics:#?}");
    assert_eq!(watched.get("/health/ready").0, 200);
    kafka.freeze();
    let reason = watched.wait_for_readiness(503);
    assert!(reason.contains("the brokers of source `events` of pipeline `p` have not answered for"), "{reason}");
    watched.wait_for("a frozen broker counts as connected", |metrics| metrics[connected] == 0.0);
    kafka.thaw();
    watched.wait_for_readiness(200);
    watched.wait_for("the broker is not connected again", |metrics| metrics[connected] == 1.0);
    kafka.produce("watched", 1, ["{\"id\":2}"]);
    watched.wait_for("nothing more is read", |metrics| {
        metrics.get("weir_rows_out_total{pipeline=\"p\",sink=\"t\"}") == Some(&2.0)
    });
    assert_eq!(watched.running.terminate(), Some(0));
    assert_eq!(watched.weir.number("SELECT count(*) FROM t"), 2);
}

#[test]
fn metrics_count_micro_batches_duplicates_refused_rows_and_ages() {
    let weir_rows = |rows: &[(i64, i64)]| -> String {
        rows.iter().map(|(id, v)| format!("{{\"id\":{id},\"v\":{v},\"ts\":\"2026-01-01T00:00:00Z\"}}\n")).collect()
    };
    let mut watched = Watched::start(
        "
CREATE SOURCE events (id BIGINT NOT NULL, v BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts)
  WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE t (id BIGINT, v BIGINT, CHECK (v > 0)) USING DELTA;
CREATE PIPELINE p WITH (trigger = '3 seconds') AS BEGIN
  INSERT INTO t SELECT id, v FROM DEDUPLICATE(TABLE events, KEY(id), WITHIN INTERVAL '1 day');
END;
",
    );
    for file in 0..4 {
        watched.weir.write(&format!("in/{file}.jsonl"), &weir_rows(&[(file, 1), (file, 1), (file + 100, -1)]));
        std::thread::sleep(Duration::from_millis(200));
    }
    let named = |metrics: &BTreeMap<String, f64>, name: &str| -> f64 {
        metrics.iter().filter(|(key, _)| key.starts_with(name)).map(|(_, value)| value).sum()
    };
    let metrics = watched.wait_for("not all rows come", |metrics| named(metrics, "weir_rows_refused_total") == 4.0);
    assert_eq!(named(&metrics, "weir_rows_out_total"), 4.0, "{metrics:#?}");
    assert_eq!(named(&metrics, "weir_deduplicated_rows"), 4.0, "{metrics:#?}");
    assert!(named(&metrics, "weir_micro_batch_seconds_count") > named(&metrics, "weir_epochs_total"), "{metrics:#?}");
    assert_eq!(named(&metrics, "weir_event_to_commit_seconds_count"), 12.0, "{metrics:#?}");
    assert!(named(&metrics, "weir_event_to_commit_seconds_sum") > 12.0 * 86_400.0, "{metrics:#?}");
    assert!(named(&metrics, "weir_watermark_lag_seconds") > 86_400.0, "{metrics:#?}");
    assert!(!metrics.keys().any(|key| key.starts_with("weir_source_connected")), "files have no brokers");
}

#[test]
fn check_warns_of_times_in_1970_and_in_the_future() {
    let weir = Weir::new();
    weir.write("seconds.jsonl", "{\"ts\": 1767225600}\n");
    weir.write("late.jsonl", "{\"ts\": \"2999-01-01T00:00:00Z\"}\n");
    weir.write("good.jsonl", "{\"ts\": \"2026-01-01T00:00:00Z\"}\n");
    for (file, warning) in [
        ("seconds", Some("`ts` of a record is 1970-01-21T10:53:45.600+00:00, in 1970")),
        ("late", Some("`ts` of a record is 2999-01-01T00:00:00+00:00, in the future")),
        ("good", None),
    ] {
        weir.write(
            "p.sql",
            &format!(
                "CREATE SOURCE s (ts TIMESTAMP) WITH (connector = 'file', path = '{file}.jsonl', format = 'json');
                 CREATE TABLE t (ts TIMESTAMP) USING DELTA; INSERT INTO t SELECT * FROM s;"
            ),
        );
        let out = weir.succeed(&["check", "--connect", "p.sql"]);
        assert_eq!(out.contains("WARNING"), warning.is_some(), "{out}");
        assert!(warning.is_none_or(|warning| out.contains(warning)), "{out}");
    }
}
