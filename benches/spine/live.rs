//! Freshness of tables and alerts while rows arrive at a steady rate.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::kafka_support::RealKafka;
use super::{PARTITIONS, VIEW, now_us, start};

/// Deduplicated rows with features of their customer and terminal over the last day and week, as in `sql/fraud.sql`.
const HISTORIES: &str =
    "CREATE VIEW once AS SELECT * FROM DEDUPLICATE(TABLE transactions, KEY(id), WITHIN INTERVAL '24 hours');
CREATE VIEW customers AS SELECT *, count(*) OVER d1 AS customer_n_1d, avg(amount) OVER d1 AS customer_mean_1d,
    count(*) OVER d7 AS customer_n_7d, avg(amount) OVER d7 AS customer_mean_7d FROM once
    WINDOW d1 AS (PARTITION BY user_id ORDER BY ts RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
           d7 AS (PARTITION BY user_id ORDER BY ts RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);
CREATE VIEW terminals AS SELECT *, count(*) OVER d1 AS terminal_n_1d, avg(amount) OVER d1 AS terminal_mean_1d,
    count(*) OVER d7 AS terminal_n_7d, avg(amount) OVER d7 AS terminal_mean_7d FROM customers
    WINDOW d1 AS (PARTITION BY terminal_id ORDER BY ts RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
           d7 AS (PARTITION BY terminal_id ORDER BY ts RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);
CREATE MODEL fraud_score WITH (provider = 'lightgbm', path = 'fraud.txt');
CREATE VIEW enriched AS SELECT *, fraud_score(amount, customer_n_1d + customer_n_7d + terminal_n_1d + terminal_n_7d,
    customer_mean_1d + customer_mean_7d, terminal_mean_1d + terminal_mean_7d) AS score FROM terminals;";

/// Sends 20,000 rows a second through scoring into a table and an alert topic; every record carries the time at which it was
/// sent. With `histories`, every row is scored by rolling features on its arrival.
pub fn live(kafka: &RealKafka, folder: &Path, seconds: usize, histories: bool) {
    const RATE: usize = 20_000;
    let servers = kafka.connection().bootstrap_servers;
    let (topic, alerts) = if histories { ("histories", "histories-alerts") } else { ("live", "alerts") };
    kafka.create_topic(topic, PARTITIONS);
    kafka.create_topic(alerts, 1);
    let view = if histories { HISTORIES } else { VIEW };
    let sql = format!(
        "CREATE SOURCE transactions (id BIGINT NOT NULL, user_id STRING, terminal_id STRING, amount DOUBLE, ts TIMESTAMP, \
         sent BIGINT, WATERMARK FOR ts AS ts - INTERVAL '5 seconds') WITH (connector = 'kafka', \
         bootstrap_servers = '${{KAFKA}}', topic = '${{TOPIC}}', format = 'json'); {view}
         CREATE TABLE scored (id BIGINT NOT NULL, sent BIGINT, score DOUBLE) USING DELTA;
         CREATE SINK alerts WITH (connector = 'kafka', bootstrap_servers = '{servers}', topic = '{alerts}', delivery = 'at_least_once');
         CREATE PIPELINE bench WITH (rolling_emit = 'on_arrival') AS BEGIN
         INSERT INTO scored SELECT id, sent, score FROM enriched;
         INSERT INTO alerts SELECT id, sent, score FROM enriched WHERE id % 100 = 0; END;"
    );
    std::fs::write(folder.join("bench.sql"), sql).unwrap();
    let _ = std::fs::remove_dir_all(folder.join("warehouse"));
    let mut weir = start(kafka, folder, topic, "1 second");
    let consumer: BaseConsumer =
        kafka.config().set("group.id", "alerts").set("fetch.wait.max.ms", "5").create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(alerts, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let over = Arc::new(AtomicBool::new(false));
    let sending = send(kafka, topic, RATE, Arc::clone(&over));
    let log = folder.join("warehouse/scored/_delta_log");
    let began = Instant::now();
    let (mut latencies, mut ages, mut version) = (Vec::new(), Vec::new(), 1);
    // The first seconds warm up both sides and do not count.
    let warm = Duration::from_secs(5);
    while began.elapsed() < Duration::from_secs(seconds as u64) + warm {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(1)) {
            let sent = number(message.payload().unwrap_or_default(), "\"sent\":");
            if began.elapsed() > warm {
                latencies.push((now_us() - sent) as f64 / 1000.0);
            }
        }
        if let Ok(entry) = std::fs::read_to_string(log.join(format!("{version:020}.json"))) {
            version += 1;
            if began.elapsed() > warm {
                ages.extend(row_ages(&entry, now_us()));
            }
        }
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", weir.id())).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim().to_owned();
    over.store(true, Ordering::Relaxed);
    let sent = sending.join().unwrap();
    let _ = weir.kill();
    let _ = weir.wait();
    let rate = sent as f64 / began.elapsed().as_secs_f64();
    let how = if histories { "deduplicated, eight rolling features on arrival, scored" } else { "scored" };
    println!(
        "\nat {rate:.0} rows/s for {seconds} s, 1 s trigger, {how}, one alert in a hundred; the producer shares the machine"
    );
    println!("freshness, ms      {}", percentiles(&mut ages));
    println!("alert latency, ms  {}", percentiles(&mut latencies));
    println!("peak resident      {peak}");
}

fn send(kafka: &RealKafka, topic: &'static str, rate: usize, over: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let producer: BaseProducer = kafka.config().set("linger.ms", "5").set("acks", "1").create().unwrap();
    std::thread::spawn(move || {
        let (began, mut sent) = (Instant::now(), 0);
        while !over.load(Ordering::Relaxed) {
            while sent as f64 >= began.elapsed().as_secs_f64() * rate as f64 {
                producer.poll(Duration::ZERO);
                std::thread::sleep(Duration::from_micros(500));
            }
            let payload = format!(
                "{{\"id\":{sent},\"user_id\":\"c{:05}\",\"terminal_id\":\"t{:06}\",\"amount\":{}.5,\"ts\":{},\"sent\":{}}}",
                // Multipliers without a factor in common with the counts, so that rows cycle through all of them.
                sent * 7_919 % 5_000,
                sent * 104_729 % 10_007,
                sent % 300,
                now_us() / 1_000,
                now_us()
            );
            let record = BaseRecord::<(), [u8]>::to(topic)
                .partition((sent % PARTITIONS as usize) as i32)
                .payload(payload.as_bytes());
            if producer.send(record).is_ok() {
                sent += 1;
            }
        }
        let _ = producer.flush(Duration::from_secs(10));
        sent
    })
}

fn number(payload: &[u8], key: &str) -> i64 {
    let text = String::from_utf8_lossy(payload);
    let digits = text.split_once(key).map_or("", |(_, rest)| rest);
    digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

/// Ages at `now` of a hundred rows spread evenly between the oldest and the newest in a commit's statistics.
fn row_ages(entry: &str, now: i64) -> Vec<f64> {
    let mut ages = Vec::new();
    for line in entry.lines().filter(|line| line.starts_with("{\"add\"")) {
        let action: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let stats: serde_json::Value =
            serde_json::from_str(action["add"]["stats"].as_str().unwrap_or("{}")).unwrap_or_default();
        if let (Some(old), Some(new)) = (stats["minValues"]["sent"].as_i64(), stats["maxValues"]["sent"].as_i64()) {
            ages.extend((0..100).map(|i| (now - old - (new - old) * i / 99) as f64 / 1000.0));
        }
    }
    ages
}

fn percentiles(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let at =
        |share: f64| values.get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1))).copied();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| at(share).unwrap_or(f64::NAN));
    format!("p50 {p50:.1}  p99 {p99:.1}  max {max:.1}  ({} samples)", values.len())
}
