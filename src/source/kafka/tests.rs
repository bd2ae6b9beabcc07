//! The source against the embedded broker, and its decisions without a broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::client::{self, Redact};
use super::gather::Begin;
use super::start::{Facts, Range, decide};
use super::*;
use crate::catalog::{KafkaConnection, KafkaSecurity, KafkaSourceOptions, OnDataLoss, Secret, StartingOffsets};
use crate::env::Env;
use crate::error::{ErrorKind, Result};
use crate::lab::broker::Broker;
use crate::source::chunk::{Chunk, Offsets, Payload, Poll, PollLimit, ReadFrom, Records, SourceReader};

pub fn connection(bootstrap_servers: &str) -> KafkaConnection {
    KafkaConnection {
        bootstrap_servers: bootstrap_servers.to_owned(),
        security: KafkaSecurity {
            tls: false,
            ca_location: None,
            certificate_location: None,
            key_location: None,
            sasl: None,
        },
        properties: BTreeMap::new(),
    }
}

fn options(broker: &Broker, topic: &str) -> KafkaSourceOptions {
    KafkaSourceOptions {
        connection: connection(broker.bootstrap_servers()),
        topic: topic.to_owned(),
        group_id: None,
        starting_offsets: StartingOffsets::Earliest,
        on_data_loss: OnDataLoss::Fail,
        on_null: Default::default(),
        event_hubs: false,
    }
}

fn env() -> Env {
    Env::system().unwrap()
}

fn open(options: &KafkaSourceOptions, from: ReadFrom) -> KafkaReader {
    KafkaReader::open("s", options, Wants::default(), "weir-test".to_owned(), from, &env()).unwrap()
}

fn produce(broker: &Broker, topic: &str, partition: i32, payloads: &[&str]) {
    let producer: BaseProducer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();
    for payload in payloads {
        let record = BaseRecord::<(), str>::to(topic).partition(partition).payload(payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

fn limit(rows: usize) -> PollLimit {
    PollLimit { rows, bytes: 1 << 20, wait: Duration::from_secs(10), linger: Duration::from_millis(1) }
}

fn bounded(offsets: Offsets) -> ReadFrom {
    ReadFrom { offsets, bounded: true, topic: None }
}

async fn next(reader: &mut KafkaReader) -> Vec<Chunk> {
    match reader.poll(limit(1000)).await.unwrap() {
        Poll::Chunks(chunks) => chunks,
        other => panic!("chunks, not {other:?}"),
    }
}

async fn read_all(mut reader: KafkaReader, rows: usize) -> Result<Vec<Chunk>> {
    let mut all = Vec::new();
    loop {
        match reader.poll(limit(rows)).await? {
            Poll::Chunks(chunks) => all.extend(chunks),
            Poll::Idle => panic!("bounded reading stopped short"),
            Poll::Finished => return Ok(all),
        }
    }
}

fn records(chunk: &Chunk) -> &Records {
    match &chunk.payload {
        Payload::Records(records) => records,
        Payload::Rows(_) => panic!("kafka chunks are records"),
    }
}

fn payloads(chunks: &[Chunk]) -> Vec<String> {
    let all = chunks.iter().map(records);
    all.flat_map(|records| (0..records.len()).map(|index| String::from_utf8(records.payload(index).to_vec()).unwrap()))
        .collect()
}

fn offsets(list: &[(&str, i64)]) -> Offsets {
    list.iter().map(|(id, offset)| (Arc::from(*id), *offset)).collect()
}

#[tokio::test]
async fn bounded_reading_ends_at_the_offsets_known_at_the_start() {
    let broker = Broker::start(&[("t", 2)]).unwrap();
    produce(&broker, "t", 0, &["a", "b"]);
    produce(&broker, "t", 1, &["c"]);
    let mut reader = open(&options(&broker, "t"), bounded(Offsets::new()));
    reader.started().await;
    produce(&broker, "t", 0, &["too late"]);
    let mut found = Vec::new();
    loop {
        match reader.poll(limit(1)).await.unwrap() {
            Poll::Chunks(chunks) => found.extend(payloads(&chunks)),
            Poll::Idle => panic!("bounded reading stopped short"),
            Poll::Finished => break,
        }
    }
    found.sort();
    assert_eq!(found, ["a", "b", "c"]);
}

#[tokio::test]
async fn an_empty_topic_read_to_its_end_is_finished_at_once() {
    let broker = Broker::start(&[("t", 3)]).unwrap();
    assert!(read_all(open(&options(&broker, "t"), bounded(Offsets::new())), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn reading_goes_on_where_it_was_committed() {
    let broker = Broker::start(&[("t", 1)]).unwrap();
    produce(&broker, "t", 0, &["a", "b", "c"]);
    let chunks = read_all(open(&options(&broker, "t"), bounded(offsets(&[("t/0", 2)]))), 10).await.unwrap();
    assert_eq!(payloads(&chunks), ["c"]);
    assert_eq!((chunks[0].start, chunks[0].end), (2, 3));
    assert_eq!(&*chunks[0].partition, "t/0");
}

#[tokio::test]
async fn records_that_come_later_are_read_and_counted_as_lag_until_then() {
    let broker = Broker::start(&[("t", 1)]).unwrap();
    let mut reader = open(&options(&broker, "t"), ReadFrom::default());
    let idle = PollLimit { wait: Duration::from_millis(1), ..limit(10) };
    assert!(matches!(reader.poll(idle).await.unwrap(), Poll::Idle));
    produce(&broker, "t", 0, &["a", "b", "c"]);
    let Poll::Chunks(chunks) = reader.poll(limit(1)).await.unwrap() else { panic!("a record") };
    assert_eq!(payloads(&chunks), ["a"]);
    assert!(reader.lag() >= Some(1), "{:?}", reader.lag());
    let mut rest = payloads(&next(&mut reader).await);
    if rest.len() == 1 {
        rest.extend(payloads(&next(&mut reader).await));
    }
    assert_eq!(rest, ["b", "c"]);
    assert_eq!(reader.lag(), Some(0));
}

#[tokio::test]
async fn a_start_at_the_latest_passes_over_what_is_there_and_records_it() {
    let broker = Broker::start(&[("t", 1)]).unwrap();
    produce(&broker, "t", 0, &["old", "old"]);
    let latest = KafkaSourceOptions { starting_offsets: StartingOffsets::Latest, ..options(&broker, "t") };
    let mut reader = open(&latest, ReadFrom::default());
    reader.started().await;
    let chunks = next(&mut reader).await;
    assert_eq!((chunks[0].start, chunks[0].end, records(&chunks[0]).len()), (0, 2, 0));
    produce(&broker, "t", 0, &["new"]);
    assert_eq!(payloads(&next(&mut reader).await), ["new"]);
}

#[tokio::test]
async fn keys_headers_timestamps_and_tombstones_arrive_when_wanted() {
    let broker = Broker::start(&[("t", 1)]).unwrap();
    let producer: BaseProducer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "h", value: Some("v") })
        .insert(Header { key: "none", value: None::<&str> });
    let full = BaseRecord::to("t").key("k").payload("p").timestamp(1_234_567).headers(headers);
    producer.send(full).map_err(|(error, _)| error).unwrap();
    producer.send(BaseRecord::<(), str>::to("t").payload("")).map_err(|(error, _)| error).unwrap();
    producer.send(BaseRecord::<str, ()>::to("t").key("gone")).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();

    let wants = Wants { keys: true, headers: true };
    let from = bounded(Offsets::new());
    let reader = KafkaReader::open("s", &options(&broker, "t"), wants, "g".to_owned(), from, &env()).unwrap();
    let chunks = read_all(reader, 2).await.unwrap();
    let first = records(&chunks[0]);
    assert_eq!((first.key(0), first.payload(0), first.timestamps_ms[0]), (Some(&b"k"[..]), &b"p"[..], 1_234_567));
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    assert_eq!(first.headers.as_ref().unwrap()[0], [header("h", Some(b"v")), header("none", None)]);
    let keys: Vec<_> =
        chunks.iter().map(records).flat_map(|records| (0..records.len()).map(|i| records.key(i))).collect();
    assert_eq!(keys, [Some(&b"k"[..]), None, Some(&b"gone"[..])]);
    let dead = chunks.iter().map(records).map(|records| records.tombstones.len()).sum::<usize>();
    assert_eq!(dead, 1, "the empty payload is no tombstone, the null one is");
}

#[tokio::test]
async fn a_missing_topic_is_named() {
    let broker = Broker::start(&[("t", 1)]).unwrap();
    let error = read_all(open(&options(&broker, "nowhere"), bounded(Offsets::new())), 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment, "exit 2, as `weir check --connect` has it");
    assert_eq!(error.message(), "topic `nowhere` does not exist");
}

#[tokio::test]
async fn lost_offsets_say_what_is_there() {
    let broker = Broker::start(&[("t", 1)]).unwrap();
    produce(&broker, "t", 0, &["a"]);
    let error = read_all(open(&options(&broker, "t"), bounded(offsets(&[("t/0", 9)]))), 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.message().contains("offset 9 of partition 0 of topic `t`"), "{error}");
    assert!(error.detail().unwrap().contains("offsets 0 to 1"), "{:?}", error.detail());
}

#[tokio::test]
async fn a_broker_that_comes_back_is_read_on() {
    let broker = Broker::start(&[("t", 1)]).unwrap();
    produce(&broker, "t", 0, &["a"]);
    let mut reader = open(&options(&broker, "t"), ReadFrom::default());
    assert_eq!(payloads(&next(&mut reader).await), ["a"]);
    broker.go_down().unwrap();
    let idle = PollLimit { wait: Duration::from_millis(300), ..limit(10) };
    assert!(matches!(reader.poll(idle).await.unwrap(), Poll::Idle));
    broker.come_up().unwrap();
    produce(&broker, "t", 0, &["b"]);
    assert_eq!(payloads(&next(&mut reader).await), ["b"]);
}

#[tokio::test]
async fn brokers_that_stay_away_are_an_environment_error() {
    let gone = connection("127.0.0.1:1");
    let options = KafkaSourceOptions { connection: gone, ..options(&Broker::start(&[]).unwrap(), "t") };
    let patience = Duration::from_millis(100);
    let from = ReadFrom::default();
    let mut reader =
        KafkaReader::open_with_patience("s", &options, Wants::default(), "g".to_owned(), from, &env(), patience)
            .unwrap();
    let error = reader.poll(limit(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert_eq!(error.message(), "no kafka broker at `127.0.0.1:1` can be reached");
}

#[tokio::test]
async fn brokers_that_go_away_for_good_are_an_environment_error() {
    let broker = Broker::start(&[("t", 1)]).unwrap();
    produce(&broker, "t", 0, &["a"]);
    let patience = Duration::from_millis(500);
    let (options, from) = (options(&broker, "t"), ReadFrom::default());
    let mut reader =
        KafkaReader::open_with_patience("s", &options, Wants::default(), "g".to_owned(), from, &env(), patience)
            .unwrap();
    next(&mut reader).await;
    broker.go_down().unwrap();
    let error = reader.poll(PollLimit { wait: Duration::from_secs(30), ..limit(1) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment, "{error}");
}

#[test]
fn secrets_never_reach_an_error() {
    let mut with_secrets = connection("localhost:1");
    with_secrets.security.tls = true;
    with_secrets.security.sasl = Some(("PLAIN".to_owned(), "user".to_owned(), Secret::new("hunter22")));
    with_secrets.properties.insert("linger.ms".to_owned(), Secret::new("sesame-open"));
    let error = client::check(&with_secrets).map(|()| "accepted").err();
    // A consumer only warns about a producer's property; a value that is not a number is refused.
    let error = error.expect("`sesame-open` is no number");
    assert_eq!(error.message(), "kafka property `linger.ms` was refused");
    assert!(!format!("{error:?}").contains("sesame") && !format!("{error:?}").contains("hunter22"));
    assert_eq!(Redact::new(&with_secrets).text("login hunter22 failed"), "login *** failed");
}

#[test]
fn an_unknown_property_is_named() {
    let mut typo = connection("localhost:1");
    typo.properties.insert("fetch.min.bites".to_owned(), Secret::new("1"));
    let error = client::check(&typo).unwrap_err();
    assert_eq!(error.detail(), Some("Librdkafka has no property `fetch.min.bites`."));
}

#[test]
fn a_probe_stops_at_the_first_step_that_fails() {
    let steps = probe_sink(&connection("127.0.0.1:1"), "t", &env());
    let outcomes: Vec<_> = steps.iter().map(|step| (step.name.as_str(), step.outcome.is_ok())).collect();
    assert_eq!(outcomes, [("address", true), ("tcp", false)]);
    assert!(steps[1].hint.is_some());

    let broker = Broker::start(&[("t", 1)]).unwrap();
    let steps = probe_sink(&connection(broker.bootstrap_servers()), "missing", &env());
    assert_eq!(steps.last().unwrap().outcome, Err("topic `missing` does not exist".to_owned()));
}

struct World {
    ranges: BTreeMap<i32, Range>,
    committed: Offsets,
    at_timestamp: BTreeMap<i32, i64>,
}

impl World {
    fn of(ranges: &[(i64, i64)], committed: &[(&str, i64)]) -> Self {
        let ranges = (0..).zip(ranges.iter().map(|(low, high)| Range { low: *low, high: *high })).collect();
        Self { ranges, committed: offsets(committed), at_timestamp: BTreeMap::new() }
    }

    fn decide(&self, starting: &StartingOffsets, on_data_loss: OnDataLoss) -> Result<Vec<Begin>> {
        decide(&Facts {
            source: "s",
            topic: "t",
            ranges: &self.ranges,
            begins_again: false,
            committed: &self.committed,
            starting,
            at_timestamp: &self.at_timestamp,
            on_data_loss,
            bounded: false,
        })
    }

    /// `(chunk_start, from)` per partition.
    fn starts(&self, starting: &StartingOffsets, on_data_loss: OnDataLoss) -> Vec<(i64, i64)> {
        let begins = self.decide(starting, on_data_loss).unwrap();
        begins.iter().map(|begin| (begin.chunk_start, begin.from)).collect()
    }
}

#[test]
fn options_say_where_a_fresh_source_begins() {
    let mut world = World::of(&[(3, 9), (0, 5)], &[]);
    world.at_timestamp.insert(0, 7);
    assert_eq!(world.starts(&StartingOffsets::Earliest, OnDataLoss::Fail), [(3, 3), (0, 0)]);
    assert_eq!(world.starts(&StartingOffsets::Latest, OnDataLoss::Fail), [(3, 9), (0, 5)]);
    assert_eq!(world.starts(&StartingOffsets::Timestamp(1), OnDataLoss::Fail), [(7, 7), (0, 5)]);
    let explicit = StartingOffsets::Explicit(BTreeMap::from([(0, 4)]));
    assert_eq!(world.starts(&explicit, OnDataLoss::Fail), [(4, 4), (0, 0)]);
}

#[test]
fn a_partition_that_appears_beside_committed_ones_begins_at_its_earliest_record() {
    let world = World::of(&[(0, 9), (2, 5)], &[("t/0", 4)]);
    assert_eq!(world.starts(&StartingOffsets::Latest, OnDataLoss::Fail), [(4, 4), (2, 2)]);
}

#[test]
fn an_offset_outside_of_the_partition_is_data_loss() {
    for (committed, words) in [(1, "2 records expired"), (10, "made anew")] {
        let world = World::of(&[(3, 9)], &[("t/0", committed)]);
        let error = world.decide(&StartingOffsets::Earliest, OnDataLoss::Fail).unwrap_err();
        assert!(error.detail().unwrap().contains(words), "{:?}", error.detail());
    }
    let gap = World::of(&[(3, 9)], &[("t/0", 1)]).starts(&StartingOffsets::Earliest, OnDataLoss::Continue);
    assert_eq!(gap, [(1, 3)], "the chunk covers what expired");
    let anew = World::of(&[(3, 9)], &[("t/0", 10)]).starts(&StartingOffsets::Earliest, OnDataLoss::Continue);
    assert_eq!(anew, [(3, 3)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_limits_hand_out_each_record_once_and_without_gaps(
        sizes in prop::collection::vec(0_usize..40, 1..4),
        rows in 1_usize..30,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let broker = Broker::start(&[("t", sizes.len() as i32)]).unwrap();
            let mut expected = Vec::new();
            for (partition, size) in sizes.iter().enumerate() {
                let texts: Vec<String> = (0..*size).map(|n| format!("{partition}:{n}")).collect();
                let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
                produce(&broker, "t", partition as i32, &refs);
                expected.extend(texts);
            }
            let wants = Wants { keys: true, headers: true };
            let from = bounded(Offsets::new());
            let reader = KafkaReader::open("s", &options(&broker, "t"), wants, "g".to_owned(), from, &env()).unwrap();
            let chunks = read_all(reader, rows).await.unwrap();
            let mut ends = BTreeMap::new();
            for chunk in &chunks {
                prop_assert_eq!(chunk.start, ends.insert(chunk.partition.clone(), chunk.end).unwrap_or(0));
                prop_assert_eq!(records(chunk).len() as i64, chunk.end - chunk.start);
                prop_assert!(records(chunk).len() <= rows);
            }
            let mut found = payloads(&chunks);
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
            Ok(())
        })?;
    }
}
