//! The spine: the cost of the parts and of the whole, and the freshness of tables and alerts. See `README.md` here.
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

#[path = "../../tests/it/kafka_support/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod kafka_support;
mod live;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::{Float32Array, Float64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use kafka_support::RealKafka;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use weir::catalog::{Catalog, SourceDef};
use weir::error::Result;
use weir::lab::generator::{Rendering, Simulator, StampedTime, to_json_lines};
use weir::model::evaluator::{Batch, Column};
use weir::model::{Model, train};
use weir::source::chunk::{Chunk, Payload, Records};
use weir::source::decode::Decoder;
use weir::sql::SourceFile;

const PARTITIONS: i32 = 6;
const CHUNK: usize = 16_384;
/// Rows in every second of the dense topic: 6,000 a minute.
const DENSE: usize = 100;

fn main() -> Result<()> {
    let argument = |name: &str| {
        let mut arguments = std::env::args().skip_while(move |argument| argument != name);
        arguments.nth(1).and_then(|value| value.parse::<usize>().ok())
    };
    let rows = argument("--rows").unwrap_or(1_000_000);
    let seconds = argument("--seconds").unwrap_or(20);
    let live_only = std::env::args().any(|argument| argument == "--live");
    let Some(kafka) = RealKafka::start() else { return Ok(()) };
    let folder = tempfile::tempdir().unwrap();
    if live_only {
        let (def, _) = source();
        let decoder = Decoder::new(&def)?;
        let chunks = chunks(&lines(4 * CHUNK, None)?).into_iter();
        let batches: Vec<_> = chunks.map(|chunk| decoder.decode(chunk).unwrap().rows).collect();
        std::fs::write(folder.path().join("fraud.txt"), model(&batches)?).unwrap();
        live::live(&kafka, folder.path(), seconds, true);
        return Ok(());
    }
    let lines = lines(rows, None)?;
    println!(
        "{rows} transactions, {:.0} bytes each; CPU-seconds per million rows\n",
        lines.0.len() as f64 / rows as f64
    );
    kafka.create_topic("transactions", PARTITIONS);
    fill(&kafka, "transactions", &lines);
    kafka.create_topic("dense", PARTITIONS);
    fill(&kafka, "dense", &self::lines(rows, Some(DENSE))?);

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
    let stateful = [
        ("deduplicated", "transactions", DEDUPLICATED),
        ("minute windows", "transactions", MINUTES),
        ("dense minutes", "dense", MINUTES),
    ];
    for (name, topic, sql) in stateful {
        let cost = run(&kafka, folder.path(), topic, sql, rows);
        println!("{name:<18} {cost:>8.3}  {:.2} million rows/s/core", 1.0 / cost);
    }
    live::live(&kafka, folder.path(), seconds, false);
    live::live(&kafka, folder.path(), seconds, true);
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

/// Transactions as the simulation has them, about seven a minute, or `a_second` of them in every second.
fn lines(rows: usize, a_second: Option<usize>) -> Result<(Vec<u8>, Vec<u32>)> {
    let mut simulator = Simulator::new(42, 5000, 10_000);
    let (mut data, mut bounds) = (Vec::new(), vec![0]);
    while bounds.len() <= rows {
        let day = simulator.next_day()?;
        let step = a_second.unwrap_or(day.num_rows()).max(1);
        for start in (0..day.num_rows()).step_by(step) {
            let part = day.slice(start, step.min(day.num_rows() - start));
            let second = bounds.len() / step;
            let event_time = a_second.map_or(StampedTime::Simulated, |_| StampedTime::At(second as i64 * 1_000));
            let (text, ends) = to_json_lines(&part, Rendering { event_time, ..Rendering::default() })?;
            for pair in ends.windows(2).take(rows + 1 - bounds.len()) {
                data.extend_from_slice(&text[pair[0] as usize..pair[1] as usize]);
                bounds.push(data.len() as u32);
            }
        }
    }
    Ok((data, bounds))
}

fn fill(kafka: &RealKafka, topic: &str, (data, bounds): &(Vec<u8>, Vec<u32>)) {
    for partition in 0..PARTITIONS {
        let mine = bounds.windows(2).skip(partition as usize).step_by(PARTITIONS as usize);
        kafka.produce(topic, partition, mine.map(|pair| data[pair[0] as usize..pair[1] as usize].trim_ascii_end()));
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

/// [`SOURCE`] with event time; rows of a partition are in its order.
macro_rules! timed {
    ($rest:literal) => {
        concat!(
            "CREATE SOURCE transactions (transaction_id STRING NOT NULL, user_id STRING, amount DOUBLE, \
    ts TIMESTAMP, terminal_id STRING, location STRING, WATERMARK FOR ts AS ts - INTERVAL '5 seconds') WITH (connector = 'kafka', \
    bootstrap_servers = '${KAFKA}', topic = '${TOPIC}', format = 'json');",
            $rest
        )
    };
}

const DEDUPLICATED: &str = timed!(
    "CREATE TABLE once (transaction_id STRING NOT NULL, user_id STRING, amount DOUBLE, ts TIMESTAMP, terminal_id STRING, \
     location STRING) USING DELTA; \
     INSERT INTO once SELECT * FROM DEDUPLICATE(TABLE transactions, KEY(transaction_id), WITHIN INTERVAL '24 hours');"
);

const MINUTES: &str = timed!(
    "CREATE TABLE minutes (window_start TIMESTAMP, n BIGINT, total DOUBLE, highest DOUBLE) USING DELTA; \
     INSERT INTO minutes SELECT window_start, count(*), sum(amount), max(amount) \
     FROM TUMBLE(TABLE transactions, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY window_start, window_end;"
);

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
    run(kafka, folder, topic, &format!("{SOURCE}\n{insert}"), rows)
}

/// Cost of reading the topic to its end under this SQL.
fn run(kafka: &RealKafka, folder: &Path, topic: &str, sql: &str, rows: usize) -> f64 {
    std::fs::write(folder.join("bench.sql"), sql).unwrap();
    let _ = std::fs::remove_dir_all(folder.join("warehouse"));
    cost(rows, || assert!(start(kafka, folder, topic, "available now").wait().unwrap().success()))
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
}
