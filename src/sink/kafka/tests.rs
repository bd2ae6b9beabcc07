//! Encoding, and delivery to the embedded broker. Transactions are tested against a real broker in `tests/it/kafka.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::record_batch::RecordBatch;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::*;
use crate::catalog::{ChangeEncoding, ChangeFormat, KafkaConnection, KafkaSecurity, KeyFormat, Secret};
use crate::delta::UpsertRows;
use crate::env::Env;
use crate::error::ErrorKind;
use crate::lab::broker::Broker;
use crate::standing::{CommitPermit, Epoch, ManifestId};

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn texts(messages: &Messages) -> Vec<&str> {
    messages.iter().map(|message| std::str::from_utf8(message.payload.unwrap()).unwrap()).collect()
}

#[test]
fn rows_become_json_objects_of_all_columns() {
    let at = TimestampMicrosecondArray::from(vec![Some(1_700_000_000_123_456), None]);
    let rows = batch(vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2]))),
        ("text", Arc::new(StringArray::from(vec![Some("line\nend \"q\""), None]))),
        ("score", Arc::new(Float64Array::from(vec![0.5, f64::NAN]))),
        ("ok", Arc::new(BooleanArray::from(vec![true, false]))),
        ("at", Arc::new(at.clone().with_timezone("UTC"))),
        ("local", Arc::new(at)),
    ]);
    assert_eq!(
        texts(&encode(&rows, None).unwrap()),
        [
            r#"{"id":1,"text":"line\nend \"q\"","score":0.5,"ok":true,"at":"2023-11-14T22:13:20.123456Z","local":"2023-11-14T22:13:20.123456"}"#,
            r#"{"id":2,"text":null,"score":"NaN","ok":false,"at":null,"local":null}"#,
        ]
    );
}

#[test]
fn the_key_column_becomes_the_key_as_text_or_bytes() {
    let rows = batch(vec![
        ("n", Arc::new(Int64Array::from(vec![Some(7), None]))),
        ("b", Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0xFF, 0x00][..]), Some(&[][..])]))),
    ]);
    let keys = |name| encode(&rows, Some(name)).unwrap().iter().map(|m| m.key.map(<[u8]>::to_vec)).collect::<Vec<_>>();
    assert_eq!(keys("n"), [Some(b"7".to_vec()), None]);
    assert_eq!(keys("b"), [Some(vec![0xFF, 0x00]), Some(Vec::new())]);
    assert_eq!(encode(&rows, Some("missing")).unwrap_err().kind(), ErrorKind::Sql);
}

#[test]
fn no_rows_are_no_messages() {
    let rows = batch(vec![("n", Arc::new(Int64Array::from(Vec::<i64>::new())))]);
    assert!(encode(&rows, Some("n")).unwrap().is_empty());
}

fn connection(broker: &str) -> KafkaConnection {
    let security =
        KafkaSecurity { tls: false, ca_location: None, certificate_location: None, key_location: None, sasl: None };
    KafkaConnection { bootstrap_servers: broker.to_owned(), security, properties: BTreeMap::new() }
}

#[tokio::test]
async fn direct_messages_carry_pipeline_epoch_and_position() {
    let broker = Broker::start(&[("alerts", 1)]).unwrap();
    let env = Env::system().unwrap();
    let producer =
        DirectProducer::open(&connection(broker.bootstrap_servers()), "alerts", "fraud", &env).await.unwrap();
    let rows = batch(vec![("n", Arc::new(Int64Array::from(vec![1, 2])))]);
    producer.send(&encode(&rows, Some("n")).unwrap(), 9, 40).await.unwrap();
    producer.flush(9).await.unwrap();

    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap_servers())
        .set("group.id", "g")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("alerts", 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    for (payload, key, position) in [(r#"{"n":1}"#, "1", "40"), (r#"{"n":2}"#, "2", "41")] {
        let message = consumer.poll(Duration::from_secs(10)).unwrap().unwrap();
        assert_eq!(message.payload(), Some(payload.as_bytes()));
        assert_eq!(message.key(), Some(key.as_bytes()));
        let headers = message.headers().unwrap();
        let found: Vec<_> = headers.iter().map(|h| (h.key, std::str::from_utf8(h.value.unwrap()).unwrap())).collect();
        assert_eq!(found, [("weir-pipeline", "fraud"), ("weir-epoch", "9"), ("weir-position", position)]);
    }
}

/// A connection whose clients hold no more than ten messages.
fn narrow(broker: &Broker) -> KafkaConnection {
    let mut connection = connection(broker.bootstrap_servers());
    connection.properties.insert("queue.buffering.max.messages".to_owned(), Secret::new("10"));
    connection
}

fn end_of(broker: &Broker, topic: &str) -> i64 {
    let consumer: BaseConsumer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();
    consumer.fetch_watermarks(topic, 0, Duration::from_secs(10)).unwrap().1
}

#[tokio::test]
async fn direct_messages_wait_while_the_queue_is_full() {
    let broker = Broker::start(&[("alerts", 1)]).unwrap();
    let producer = DirectProducer::open(&narrow(&broker), "alerts", "fraud", &Env::system().unwrap()).await.unwrap();
    let rows = batch(vec![("n", Arc::new(Int64Array::from_iter_values(0..500)))]);
    producer.send(&encode(&rows, None).unwrap(), 1, 0).await.unwrap();
    producer.flush(1).await.unwrap();
    assert_eq!(end_of(&broker, "alerts"), 500);
}

#[tokio::test]
async fn a_message_that_is_not_delivered_fails_the_flush() {
    let broker = Broker::start(&[("alerts", 1)]).unwrap();
    let mut connection = connection(broker.bootstrap_servers());
    connection.properties.insert("message.timeout.ms".to_owned(), Secret::new("300"));
    let producer = DirectProducer::open(&connection, "alerts", "fraud", &Env::system().unwrap()).await.unwrap();
    broker.go_down().unwrap();
    let rows = batch(vec![("n", Arc::new(Int64Array::from(vec![1])))]);
    producer.send(&encode(&rows, None).unwrap(), 1, 0).await.unwrap();
    let error = producer.flush(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.message().contains("topic `alerts`"), "{error}");
}

/// The embedded broker drops the epoch's record, so its contents are tested against a real broker.
#[tokio::test]
async fn a_transaction_delivers_its_messages_through_a_queue_that_is_full() {
    let broker = Broker::start(&[("alerts", 1)]).unwrap();
    let topics = ["alerts".to_owned()];
    let connection = narrow(&broker);
    let producer = TransactionalProducer::open(&connection, "p", "", &topics, &Env::system().unwrap()).await.unwrap();
    assert_eq!(producer.committed_epoch().await.unwrap(), None);
    let rows = batch(vec![("n", Arc::new(Int64Array::from_iter_values(0..1000)))]);
    let messages = vec![TopicMessages::new("s", "alerts", vec![encode(&rows, None).unwrap()])];
    assert_eq!(
        producer.commit(CommitPermit::of_durable(Epoch(4), ManifestId(1)), messages).await.unwrap(),
        Sent::Visible
    );
    assert_eq!(end_of(&broker, "alerts"), 1000);
}

/// Four keys: one updated, one created, one deleted; one created and deleted.
fn changes() -> Vec<UpsertRows> {
    let step = |rows: &[(i64, &str, i64)]| UpsertRows {
        rows: batch(vec![
            ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)))),
            ("v", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)))),
        ]),
        weights: Some(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
    };
    vec![
        step(&[(1, "b", 1), (1, "a", -1), (2, "x", 1), (3, "gone", -1), (4, "brief", 1)]),
        step(&[(1, "b", -1), (1, "c", 1), (4, "brief", -1)]),
    ]
}

fn encoded(format: ChangeFormat, key: &[&str], key_format: KeyFormat) -> Vec<(Option<String>, Option<String>)> {
    let key = key.iter().map(|key| (*key).to_owned()).collect();
    let encoding = ChangeEncoding { format, key, key_format };
    let origin = ChangeOrigin { pipeline: "p".to_owned(), sink: "s".to_owned(), epoch: 7 };
    let messages = encode_changes(changes(), &encoding, &origin, &Env::manual(5, 1)).unwrap();
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    messages.iter().map(|message| (text(message.key), text(message.payload))).collect()
}

#[test]
fn upserts_are_one_message_a_key_and_a_tombstone_for_one_that_is_gone() {
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        encoded(ChangeFormat::Upsert, &["id"], KeyFormat::Json),
        [
            (some(r#"{"id":1}"#), some(r#"{"id":1,"v":"c"}"#)),
            (some(r#"{"id":2}"#), some(r#"{"id":2,"v":"x"}"#)),
            (some(r#"{"id":3}"#), None),
        ]
    );
    let keys: Vec<_> = encoded(ChangeFormat::Upsert, &["id"], KeyFormat::Text).into_iter().map(|m| m.0).collect();
    assert_eq!(keys, [some("1"), some("2"), some("3")]);
    let both = encoded(ChangeFormat::Upsert, &["v", "id"], KeyFormat::Json);
    assert!(both.contains(&(some(r#"{"v":"a","id":1}"#), None)), "{both:?}");
}

#[test]
fn debezium_messages_say_what_was_before_and_after() {
    let parts = |key: &[&str]| -> Vec<String> {
        let messages = encoded(ChangeFormat::Debezium, key, KeyFormat::Json);
        let read = |(key, payload): (Option<String>, Option<String>)| {
            let value: serde_json::Value = serde_json::from_str(&payload.unwrap()).unwrap();
            assert_eq!((&value["source"]["table"], &value["source"]["epoch"]), (&"s".into(), &7.into()));
            assert_eq!(value["ts_ms"], 5);
            let v = |side: &str| value[side]["v"].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {}", key.unwrap_or_default(), value["op"].as_str().unwrap(), v("before"), v("after"))
        };
        messages.into_iter().map(read).collect()
    };
    assert_eq!(parts(&["id"]), [r#"{"id":1} u a c"#, r#"{"id":2} c - x"#, r#"{"id":3} d gone -"#]);
    // Without a key every row is a message of its own.
    assert_eq!(parts(&[]), [" c - b", " d a -", " c - x", " d gone -", " c - brief", " d b -", " c - c", " d brief -"]);
}

#[tokio::test]
async fn a_tombstone_reaches_the_topic_as_a_key_without_a_value() {
    let broker = Broker::start(&[("alerts", 1)]).unwrap();
    let env = Env::system().unwrap();
    let producer = DirectProducer::open(&connection(broker.bootstrap_servers()), "alerts", "p", &env).await.unwrap();
    let encoding =
        ChangeEncoding { format: ChangeFormat::Upsert, key: vec!["id".to_owned()], key_format: KeyFormat::Text };
    let origin = ChangeOrigin { pipeline: "p".to_owned(), sink: "s".to_owned(), epoch: 7 };
    producer.send(&encode_changes(changes(), &encoding, &origin, &env).unwrap(), 7, 0).await.unwrap();
    producer.flush(7).await.unwrap();
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap_servers())
        .set("group.id", "g")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("alerts", 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let mut found = Vec::new();
    for _ in 0..3 {
        let message = consumer.poll(Duration::from_secs(10)).unwrap().unwrap();
        found.push((message.key().map(<[u8]>::to_vec), message.payload().is_some()));
    }
    assert_eq!(found, [(Some(b"1".to_vec()), true), (Some(b"2".to_vec()), true), (Some(b"3".to_vec()), false)]);
}
