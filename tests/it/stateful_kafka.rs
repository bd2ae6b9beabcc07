//! Pipelines that remember, on a real Kafka: killed thirty times at random moments. Tables, a materialized view, dead letters and an
//! exactly-once topic say in the end what a batch over all the input says, nothing lost or doubled.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kafka_support::{RealKafka, Transactions};
use crate::program::{Running, Weir};

const PARTITIONS: u64 = 3;
const PER_ROUND: u64 = 400;
const ROUNDS: usize = 30;
const KEYS: u64 = 40;
/// Every record whose number is divisible by this is cut short.
const MALFORMED: u64 = 97;

fn sql(kafka: &RealKafka, at_end: &str) -> String {
    let servers = kafka.connection().bootstrap_servers;
    format!(
        "
CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v DOUBLE, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '10 seconds')
  WITH (connector = 'kafka', bootstrap_servers = '{servers}', topic = 'remembered-in', format = 'json', idle_after = 'none');
CREATE TABLE firsts (id BIGINT, k BIGINT, ts TIMESTAMP) USING DELTA;
CREATE TABLE minutes (k BIGINT, window_start TIMESTAMP, window_end TIMESTAMP, n BIGINT, total DOUBLE) USING DELTA;
CREATE TABLE rolled (id BIGINT, k BIGINT, ts TIMESTAMP, n BIGINT, total DOUBLE) USING DELTA;
CREATE TABLE per_key (k BIGINT, n BIGINT, total DOUBLE, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE SINK alerts WITH (connector = 'kafka', bootstrap_servers = '{servers}', topic = 'remembered-out', format = 'json',
  delivery = 'exactly_once');
CREATE VIEW unique_events AS SELECT * FROM DEDUPLICATE(TABLE events, KEY(id), WITHIN INTERVAL '1 hour');
CREATE VIEW features AS SELECT id, k, ts, count(*) OVER w AS n, sum(v) OVER w AS total FROM unique_events
  WINDOW w AS (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '5 minutes' PRECEDING AND CURRENT ROW);
CREATE PIPELINE p WITH (trigger = '50 ms', max_rows_per_micro_batch = 200, state_ttl = 'none', at_end = '{at_end}') AS BEGIN
  CREATE MATERIALIZED VIEW newest AS SELECT k, max(id) AS id, max(ts) AS ts FROM unique_events GROUP BY k;
  INSERT INTO firsts SELECT id, k, ts FROM unique_events;
  INSERT INTO minutes SELECT k, window_start, window_end, count(*) AS n, sum(v) AS total
    FROM TUMBLE(TABLE unique_events, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY k, window_start, window_end;
  INSERT INTO rolled SELECT id, k, ts, n, total FROM features;
  INSERT INTO per_key SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k;
  INSERT INTO alerts SELECT id, n FROM features WHERE n % 7 = 0;
END;
"
    )
}

/// Contents of record `n` of the input: every 13th repeats an earlier one of its partition.
fn event_of(n: u64) -> u64 {
    if n % 13 == 5 { n - PARTITIONS } else { n }
}

/// The moment of event `id` is up to 8 seconds out of order, within the watermark's 10; some values are null.
fn record(n: u64) -> String {
    let id = event_of(n);
    let mixed = id * 2_654_435_761 % (1 << 32);
    let at = id * 100 + mixed % 8_000;
    let (seconds, ms) = (at / 1_000, at % 1_000);
    let v = if mixed.is_multiple_of(31) { "null".to_owned() } else { format!("{}.25", (mixed >> 16) % 100) };
    let ts = format!("2026-01-01T{:02}:{:02}:{:02}.{ms:03}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let whole = format!("{{\"id\":{id},\"k\":{},\"v\":{v},\"ts\":\"{ts}\"}}", (mixed >> 8) % KEYS);
    if n.is_multiple_of(MALFORMED) { whole[..whole.len() - 3].to_owned() } else { whole }
}

struct Stage {
    weir: Weir,
    kafka: Arc<RealKafka>,
    /// One a partition.
    producers: Vec<Transactions>,
    next: u64,
}

impl Stage {
    fn new() -> Option<Self> {
        let kafka = RealKafka::shared()?;
        kafka.create_topic("remembered-in", PARTITIONS as i32);
        kafka.create_topic("remembered-out", 2);
        let weir = Weir::new();
        weir.write("p.sql", &sql(&kafka, "keep"));
        let producers =
            (0..PARTITIONS).map(|partition| kafka.transactions(&format!("remembered-{partition}"))).collect();
        Some(Self { weir, kafka, producers, next: 0 })
    }

    /// More records over all partitions, in committed transactions, with aborted ones in between.
    fn produce(&mut self, count: u64) {
        let range = self.next..self.next + count;
        self.next += count;
        for (partition, producer) in self.producers.iter().enumerate() {
            let mine = range.clone().filter(|n| n % PARTITIONS == partition as u64);
            producer.abort("remembered-in", partition as i32, [r#"{"id":-1,"k":0,"v":1,"ts":"2026-01-01T00:00:00Z"}"#]);
            producer.commit("remembered-in", partition as i32, mine.map(record));
        }
    }

    /// Reads what is left, lets every window out and compares everything with the batch and with the input.
    fn check(&self) {
        self.weir.write("p.sql", &sql(&self.kafka, "flush"));
        self.weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
        let verdict = self.weir.succeed(&["verify", "p.sql"]);
        assert_eq!(verdict.matches("  ok  ").count(), 5, "{verdict}");
        assert_eq!(verdict.matches(" 0 not due yet").count(), 5, "{verdict}");
        let good: Vec<u64> = (0..self.next).filter(|n| !n.is_multiple_of(MALFORMED)).collect();
        let ids = good.iter().map(|n| event_of(*n)).collect::<BTreeSet<_>>().len();
        for table in ["firsts", "rolled"] {
            let found = self.weir.query(&format!("SELECT count(*), count(DISTINCT id) FROM {table}"));
            assert_eq!(found, [format!("{ids},{ids}")], "{table}");
        }
        assert_eq!(self.weir.query("SELECT count(*), sum(n) FROM per_key"), [format!("{KEYS},{}", good.len())]);
        assert_eq!(self.weir.query("SELECT sum(n) FROM minutes"), [ids.to_string()]);
        let dead = "SELECT count(*), count(DISTINCT concat(partition, '@', \"offset\")) FROM weir.dead_letters";
        let malformed = self.next - good.len() as u64;
        assert_eq!(self.weir.query(dead), [format!("{malformed},{malformed}")]);
        let alerts = self.kafka.read_committed("remembered-out");
        let distinct: BTreeSet<_> = alerts.iter().map(|(_, payload)| payload).collect();
        let wanted = self.weir.number("SELECT count(*) FROM rolled WHERE n % 7 = 0");
        assert!(wanted > 1_000, "{wanted}");
        assert_eq!((alerts.len() as i64, distinct.len() as i64), (wanted, wanted));
    }
}

fn epochs(running: &Running) -> usize {
    running.printed().matches("\"runId\"").count()
}

#[test]
fn killed_thirty_times_on_kafka_what_is_remembered_is_neither_lost_nor_doubled() {
    let Some(mut stage) = Stage::new() else { return };
    // The steps of a commit take their time, so that many a kill falls between two of them.
    let slow = "epoch.before_state=pause:3;epoch.before_manifest=pause:10;epoch.after_manifest=pause:10;\
                epoch.after_kafka=pause:10;epoch.between_sinks=pause:10;epoch.after_commit=pause:5";
    // A fixed sequence of moments: a failing round can be run again.
    let mut state: u64 = 0x5EED;
    for round in 0..ROUNDS {
        stage.produce(PER_ROUND);
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let running = stage.weir.start(&["run", "p.sql"], &[("WEIR_FAILPOINTS", slow)], "log");
        if round % 3 == 0 {
            // Every third kill comes after the run has committed something, however slow the machine; the others may come before.
            let (before, deadline) = (epochs(&running), Instant::now() + Duration::from_secs(60));
            while epochs(&running) == before {
                assert!(Instant::now() < deadline, "nothing is committed: {}", running.printed());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let moment = Instant::now() + Duration::from_millis(100 + (state >> 33) % 900);
        while Instant::now() < moment {
            stage.produce(30);
            std::thread::sleep(Duration::from_millis(50));
        }
        running.kill();
    }
    stage.check();
}
