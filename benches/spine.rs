//! The spine: what the parts cost alone, what the whole costs, how fresh tables and alerts are. See `README.md` here.
//!
//! Needs a real Kafka (Java 17 and Maven). CPU time is that of whole processes, user and system, read from `/proc`.

#![allow(clippy::allow_attributes, reason = "which of these the shared test support needs changes with it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made stops"
)]

#[path = "../tests/it/kafka_support/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod kafka_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::{Float32Array, Float64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use kafka_support::RealKafka;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use weir::catalog::{Catalog, SourceDef};
use weir::error::Result;
use weir::model::evaluator::{Batch, Column};
use weir::model::{Model, train};
use weir::source::chunk::{Chunk, Payload, Records};
use weir::source::decode::Decoder;
use weir::source::generator::{Rendering, Simulator, to_json_lines};
use weir::sql::SourceFile;

const PARTITIONS: i32 = 6;
const CHUNK: usize = 16_384;

fn main() -> Result<()> {
    let argument = |name: &str| {
        let mut arguments = std::env::args().skip_while(move |argument| argument != name);
        arguments.nth(1).and_then(|value| value.parse::<usize>().ok())
    };
    let rows = argument("--rows").unwrap_or(1_000_000);
    let seconds = argument("--seconds").unwrap_or(20);
    let Some(kafka) = RealKafka::start() else { return Ok(()) };
    let folder = tempfile::tempdir().unwrap();
    let lines = lines(rows)?;
    println!(
        "{rows} transactions, {:.0} bytes each; CPU-seconds per million rows\n",
        lines.0.len() as f64 / rows as f64
    );
    kafka.create_topic("transactions", PARTITIONS);
    fill(&kafka, &lines);

    let mut parts = 0.0;
    let raw = cost(rows, || read_raw(&kafka, rows));
    parts += show("topic, raw", raw, None);
    let (def, schema) = source();
    let yardstick = cost(rows, || drop(arrow_json(&schema, &lines)));
    show("arrow-json", yardstick, None);
    let decoder = Decoder::new(&def)?;
    let chunks = chunks(&lines);
    let mut batches = Vec::new();
    let decode = cost(rows, || {
        batches = chunks.into_iter().map(|chunk| decoder.decode(chunk).unwrap().rows).collect();
    });
    parts += show("decode", decode, Some(yardstick / decode));
    let parquet = cost(rows, || write_parquet(&schema, &batches));
    parts += show("Parquet", parquet, None);
    let model = model(&batches)?;
    std::fs::write(folder.path().join("fraud.txt"), &model).unwrap();
    let (lightgbm, ours) = scoring(&model, &batches)?;
    show("LightGBM", lightgbm, None);
    show("our evaluator", ours, Some(lightgbm / ours));

    let idle = pipeline(&kafka, folder.path(), "empty", false, 1);
    let plain = pipeline(&kafka, folder.path(), "transactions", false, rows);
    show("pipeline", plain, Some(plain / parts));
    let scored = pipeline(&kafka, folder.path(), "transactions", true, rows);
    show("pipeline, scored", scored, Some(scored / (parts + ours)));
    println!(
        "\nratios: decode and evaluator against the yardstick above them; pipelines against the sum of their parts"
    );
    println!("of which starting and ending the program: {:.3} CPU-seconds", idle / 1e6);
    println!("pipeline: {:.2} million rows/s/core", 1.0 / plain);
    live(&kafka, folder.path(), seconds);
    Ok(())
}

fn show(name: &str, cost: f64, ratio: Option<f64>) -> f64 {
    println!("{name:<18} {cost:>8.3}  {}", ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} x")));
    cost
}

/// CPU seconds of this process and its ended children so far.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn cost(rows: usize, work: impl FnOnce()) -> f64 {
    let before = cpu();
    work();
    (cpu() - before) / (rows as f64 / 1e6)
}

fn lines(rows: usize) -> Result<(Vec<u8>, Vec<u32>)> {
    let mut simulator = Simulator::new(42, 5000, 10_000);
    let (mut data, mut bounds) = (Vec::new(), vec![0]);
    while bounds.len() <= rows {
        let (text, ends) = to_json_lines(&simulator.next_day()?, Rendering::default())?;
        for pair in ends.windows(2).take(rows + 1 - bounds.len()) {
            data.extend_from_slice(&text[pair[0] as usize..pair[1] as usize]);
            bounds.push(data.len() as u32);
        }
    }
    Ok((data, bounds))
}

fn fill(kafka: &RealKafka, (data, bounds): &(Vec<u8>, Vec<u32>)) {
    let each = (bounds.len() - 1).div_ceil(PARTITIONS as usize);
    for partition in 0..PARTITIONS {
        let mine = bounds.windows(2).skip(partition as usize * each).take(each);
        kafka.produce(
            "transactions",
            partition,
            mine.map(|pair| data[pair[0] as usize..pair[1] as usize].trim_ascii_end()),
        );
    }
}

fn read_raw(kafka: &RealKafka, rows: usize) {
    let consumer: BaseConsumer = kafka.config().set("group.id", "raw").create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset("transactions", partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut seen = 0;
    while seen < rows {
        if let Some(Ok(_)) = consumer.poll(Duration::from_secs(5)) {
            seen += 1;
        }
    }
}

const SOURCE: &str = "CREATE SOURCE transactions (transaction_id STRING NOT NULL, user_id STRING, amount DOUBLE, \
    ts TIMESTAMP, terminal_id STRING, location STRING) WITH (connector = 'kafka', bootstrap_servers = '${KAFKA}', \
    topic = '${TOPIC}', format = 'json');";

fn source() -> (SourceDef, SchemaRef) {
    let file = Arc::new(SourceFile::new("bench.sql", SOURCE));
    let catalog = Catalog::load(&[file], &|_| Some("x".to_owned())).unwrap();
    let def = catalog.sources["transactions"].clone();
    let schema = def.schema();
    (def, schema)
}

fn arrow_json(schema: &SchemaRef, (data, _): &(Vec<u8>, Vec<u32>)) -> Vec<RecordBatch> {
    let reader = arrow::json::ReaderBuilder::new(schema.clone()).with_batch_size(CHUNK).build(data.as_slice()).unwrap();
    reader.map(|batch| batch.unwrap()).collect()
}

fn chunks((data, bounds): &(Vec<u8>, Vec<u32>)) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (index, piece) in bounds[..bounds.len() - 1].chunks(CHUNK).enumerate() {
        let first = index * CHUNK;
        let start = bounds[first];
        let ends = &bounds[first..=first + piece.len()];
        let offsets: Vec<i64> = (first as i64..(first + piece.len()) as i64).collect();
        chunks.push(Chunk {
            partition: Arc::from("transactions/0"),
            start: first as i64,
            end: (first + piece.len()) as i64,
            payload: Payload::Records(Records {
                data: data[start as usize..ends[piece.len()] as usize].to_vec(),
                bounds: ends.iter().map(|end| end - start).collect(),
                timestamps_ms: vec![0; offsets.len()],
                offsets,
                ..Records::default()
            }),
        });
    }
    chunks
}

fn write_parquet(schema: &SchemaRef, batches: &[RecordBatch]) {
    let level = ZstdLevel::try_new(1).unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.into_inner().unwrap();
}

/// 100 trees of 31 leaves over 4 features, the shape of the demo's model.
fn model(batches: &[RecordBatch]) -> Result<String> {
    let amounts: Vec<f64> = batches.iter().take(4).flat_map(amount).collect();
    let features = features(&amounts);
    let labels = Float32Array::from_iter_values(
        amounts.iter().enumerate().map(|(i, a)| f32::from(a * ((i % 7) as f64) > 300.0)),
    );
    let named = ["amount", "hour", "weekend", "night"].iter().zip(&features);
    let columns = named.map(|(name, values)| (*name, Arc::new(Float64Array::from(values.clone())) as _, false));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let parameters = [("objective", "binary"), ("num_iterations", "100"), ("num_leaves", "31")];
    train(
        &batch,
        labels.values(),
        &parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect::<BTreeMap<_, _>>(),
    )
}

fn amount(batch: &RecordBatch) -> Vec<f64> {
    use arrow::array::AsArray;
    batch.column(2).as_primitive::<arrow::datatypes::Float64Type>().values().to_vec()
}

fn features(amounts: &[f64]) -> [Vec<f64>; 4] {
    let of = |each: fn(usize) -> f64| (0..amounts.len()).map(each).collect();
    [amounts.to_vec(), of(|i| (i % 24) as f64), of(|i| (i % 7 / 5) as f64), of(|i| (i % 24 / 18) as f64)]
}

fn scoring(text: &str, batches: &[RecordBatch]) -> Result<(f64, f64)> {
    let amounts = amount(&batches[0])[..8192].to_vec();
    let columns = features(&amounts);
    let batch = Batch::new(columns.iter().map(|column| Column::plain(column)).collect(), amounts.len())?;
    let model = Model::from_text("bench", text)?;
    let lightgbm = Model::evaluators(text)?.remove(0);
    let mut scores = vec![0.0; amounts.len()];
    let rounds = 40;
    let theirs =
        cost(rounds * amounts.len(), || (0..rounds).for_each(|_| lightgbm.score(&batch, &mut scores).unwrap()));
    let rounds = 400;
    let ours = cost(rounds * amounts.len(), || (0..rounds).for_each(|_| model.score(&batch, &mut scores).unwrap()));
    Ok((theirs, ours))
}

const VIEW: &str = "CREATE VIEW features AS SELECT *, date_part('hour', ts) AS hour, \
    CASE WHEN date_part('dow', ts) IN (0, 6) THEN 1 ELSE 0 END AS weekend, \
    CASE WHEN date_part('hour', ts) <= 6 THEN 1 ELSE 0 END AS night FROM transactions;
CREATE MODEL fraud_score WITH (provider = 'lightgbm', path = 'fraud.txt');
CREATE VIEW enriched AS SELECT *, fraud_score(amount, hour, weekend, night) AS score FROM features;";

fn start(kafka: &RealKafka, folder: &Path, topic: &str, trigger: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(["run", "bench.sql", "--trigger", trigger]).current_dir(folder);
    command.env("KAFKA", kafka.connection().bootstrap_servers).env("TOPIC", topic);
    command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap()
}

fn pipeline(kafka: &RealKafka, folder: &Path, topic: &str, scored: bool, rows: usize) -> f64 {
    if topic == "empty" {
        kafka.create_topic(topic, PARTITIONS);
    }
    let insert = if scored {
        format!(
            "{VIEW} CREATE TABLE scored (transaction_id STRING NOT NULL, user_id STRING, amount DOUBLE, ts TIMESTAMP, \
             terminal_id STRING, location STRING, score DOUBLE) USING DELTA; INSERT INTO scored SELECT transaction_id, \
             user_id, amount, ts, terminal_id, location, score FROM enriched;"
        )
    } else {
        "CREATE TABLE plain (transaction_id STRING NOT NULL, user_id STRING, amount DOUBLE, ts TIMESTAMP, \
         terminal_id STRING, location STRING) USING DELTA; INSERT INTO plain SELECT * FROM transactions;"
            .to_owned()
    };
    std::fs::write(folder.join("bench.sql"), format!("{SOURCE}\n{insert}")).unwrap();
    let _ = std::fs::remove_dir_all(folder.join("warehouse"));
    cost(rows, || assert!(start(kafka, folder, topic, "available now").wait().unwrap().success()))
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
}

/// 20,000 rows a second through scoring into a table and an alert topic; every record carries when it was sent.
fn live(kafka: &RealKafka, folder: &Path, seconds: usize) {
    const RATE: usize = 20_000;
    let servers = kafka.connection().bootstrap_servers;
    kafka.create_topic("live", PARTITIONS);
    kafka.create_topic("alerts", 1);
    let sql = format!(
        "CREATE SOURCE transactions (id BIGINT NOT NULL, amount DOUBLE, ts TIMESTAMP, sent BIGINT) WITH (connector = 'kafka', \
         bootstrap_servers = '${{KAFKA}}', topic = '${{TOPIC}}', format = 'json'); {VIEW}
         CREATE TABLE scored (id BIGINT NOT NULL, sent BIGINT, score DOUBLE) USING DELTA;
         CREATE SINK alerts WITH (connector = 'kafka', bootstrap_servers = '{servers}', topic = 'alerts', delivery = 'at_least_once');
         INSERT INTO scored SELECT id, sent, score FROM enriched;
         INSERT INTO alerts SELECT id, sent, score FROM enriched WHERE id % 100 = 0;"
    );
    std::fs::write(folder.join("bench.sql"), sql).unwrap();
    let _ = std::fs::remove_dir_all(folder.join("warehouse"));
    let mut weir = start(kafka, folder, "live", "1 second");
    let consumer: BaseConsumer =
        kafka.config().set("group.id", "alerts").set("fetch.wait.max.ms", "5").create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("alerts", 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let over = Arc::new(AtomicBool::new(false));
    let sending = send(kafka, RATE, Arc::clone(&over));
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
    println!(
        "\nat {rate:.0} rows/s for {seconds} s, 1 s trigger, scored, one alert in a hundred; the producer shares the machine"
    );
    println!("freshness, ms      {}", percentiles(&mut ages));
    println!("alert latency, ms  {}", percentiles(&mut latencies));
    println!("peak resident      {peak}");
}

fn send(kafka: &RealKafka, rate: usize, over: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let producer: BaseProducer = kafka.config().set("linger.ms", "5").set("acks", "1").create().unwrap();
    std::thread::spawn(move || {
        let (began, mut sent) = (Instant::now(), 0);
        while !over.load(Ordering::Relaxed) {
            while sent as f64 >= began.elapsed().as_secs_f64() * rate as f64 {
                producer.poll(Duration::ZERO);
                std::thread::sleep(Duration::from_micros(500));
            }
            let payload = format!(
                "{{\"id\":{sent},\"amount\":{}.5,\"ts\":\"2026-01-01T10:00:00Z\",\"sent\":{}}}",
                sent % 300,
                now_us()
            );
            let record = BaseRecord::<(), [u8]>::to("live")
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

/// Ages at `now` of a hundred rows spread evenly between the oldest and the newest that a commit's statistics name.
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
