//! The Kafka source and sink against a real broker: what librdkafka's mock cluster cannot show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use weir::catalog::{
    ColumnDef, ColumnOrigin, Format, KafkaSourceOptions, OnDataLoss, OnError, Secret, SourceConnector, SourceDef,
    StartingOffsets,
};
use weir::env::Env;
use weir::error::ErrorKind;
use weir::sink::kafka::{DirectProducer, Messages, TopicMessages, TransactionalProducer, encode};
use weir::source::chunk::{Chunk, Offsets, Payload, Poll, PollLimit, ReadFrom, SourceReader};
use weir::source::kafka::{KafkaReader, ProbeStep, Wants, probe_sink, probe_source};

use crate::kafka_support::acl::rd_kafka_AclOperation_t as Acl;
use crate::kafka_support::{GUEST, PASSWORD, RealKafka, permit};

fn options(kafka: &RealKafka, topic: &str) -> KafkaSourceOptions {
    KafkaSourceOptions {
        connection: kafka.connection(),
        topic: topic.to_owned(),
        group_id: None,
        starting_offsets: StartingOffsets::Earliest,
        on_data_loss: OnDataLoss::Fail,
        on_null: Default::default(),
        event_hubs: false,
    }
}

fn open(options: &KafkaSourceOptions, from: ReadFrom) -> KafkaReader {
    let env = Env::system().unwrap();
    KafkaReader::open("s", options, Wants::default(), "test-lag".to_owned(), from, &env).unwrap()
}

fn bounded(offsets: Offsets) -> ReadFrom {
    ReadFrom { offsets, bounded: true, topic: None }
}

fn limit() -> PollLimit {
    PollLimit { rows: 50_000, bytes: 64 << 20, wait: Duration::from_secs(20), linger: Duration::from_millis(2) }
}

async fn read_all(reader: &mut KafkaReader) -> weir::error::Result<Vec<Chunk>> {
    let mut all = Vec::new();
    loop {
        match reader.poll(limit()).await? {
            Poll::Chunks(chunks) => all.extend(chunks),
            Poll::Idle => panic!("bounded reading stopped short"),
            Poll::Finished => return Ok(all),
        }
    }
}

async fn next(reader: &mut KafkaReader) -> Vec<Chunk> {
    match reader.poll(limit()).await.unwrap() {
        Poll::Chunks(chunks) => chunks,
        other => panic!("chunks, not {other:?}"),
    }
}

fn refresh_every_100_ms(options: &mut KafkaSourceOptions) {
    let name = "topic.metadata.refresh.interval.ms".to_owned();
    options.connection.properties.insert(name, Secret::new("100"));
}

fn payloads(chunks: &[Chunk]) -> Vec<String> {
    let mut found = Vec::new();
    for chunk in chunks {
        let Payload::Records(records) = &chunk.payload else { panic!("kafka chunks are records") };
        found.extend((0..records.len()).map(|index| String::from_utf8(records.payload(index).to_vec()).unwrap()));
    }
    found
}

/// The end of what was read, per partition, after checking that chunks follow each other without a gap.
fn progress(chunks: &[Chunk]) -> Offsets {
    let mut ends = Offsets::new();
    for chunk in chunks {
        if let Some(end) = ends.insert(Arc::clone(&chunk.partition), chunk.end) {
            assert_eq!(chunk.start, end, "chunks of {} are contiguous", chunk.partition);
        }
        assert!(chunk.start <= chunk.end);
    }
    ends
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_transactions_are_passed_over_and_bounded_reading_ends_behind_their_markers() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("aborted", 2);
    let transactions = kafka.transactions("aborted-writer");
    transactions.commit("aborted", 0, ["a", "b"]);
    transactions.abort("aborted", 0, ["never"]);
    transactions.commit("aborted", 0, ["c"]);
    transactions.abort("aborted", 1, ["never", "never"]);

    let mut reader = open(&options(&kafka, "aborted"), bounded(Offsets::new()));
    let chunks = read_all(&mut reader).await.unwrap();
    assert_eq!(payloads(&chunks), ["a", "b", "c"]);
    // Partition 0: a b marker, never marker, c marker; partition 1: never never marker.
    let expected = Offsets::from([(Arc::from("aborted/0"), 7), (Arc::from("aborted/1"), 3)]);
    assert_eq!(progress(&chunks), expected);
    assert_eq!(reader.lag(), Some(0));

    let mut again = open(&options(&kafka, "aborted"), bounded(expected));
    assert!(read_all(&mut again).await.unwrap().is_empty(), "nothing is read twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_records_are_each_read_once_across_restarts() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("many", 6);
    for partition in 0..6 {
        kafka.produce("many", partition, (0..33_334).map(|n| format!("{{\"p\":{partition},\"n\":{n}}}")));
    }
    let mut seen = BTreeMap::new();
    let mut offsets = Offsets::new();
    for round in 0..3 {
        let mut reader = open(&options(&kafka, "many"), bounded(offsets.clone()));
        let mut rows = 0;
        while round == 2 || rows < 60_000 {
            match reader.poll(PollLimit { rows: 7_777, ..limit() }).await.unwrap() {
                Poll::Chunks(chunks) => {
                    let texts = payloads(&chunks);
                    assert!(texts.len() <= 7_777, "the limit is kept");
                    rows += texts.len();
                    texts.into_iter().for_each(|text| *seen.entry(text).or_insert(0) += 1);
                    offsets.extend(progress(&chunks));
                }
                Poll::Idle => panic!("bounded reading stopped short"),
                Poll::Finished => break,
            }
        }
    }
    assert_eq!(seen.len(), 6 * 33_334);
    assert!(seen.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_offsets_fail_clearly_or_continue_at_the_earliest() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("expired", 1);
    kafka.produce("expired", 0, (0..10).map(|n| n.to_string()));
    kafka.expire("expired", 0, 6);
    let from = bounded(Offsets::from([(Arc::from("expired/0"), 2)]));

    let error = read_all(&mut open(&options(&kafka, "expired"), from.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.message().contains("offset 2 of partition 0 of topic `expired`"), "{error}");
    assert!(error.detail().unwrap().contains("holds offsets 6 to 10: 4 records expired"), "{:?}", error.detail());
    assert!(error.hint().unwrap().contains("on_data_loss"));

    let tolerant = KafkaSourceOptions { on_data_loss: OnDataLoss::Continue, ..options(&kafka, "expired") };
    let chunks = read_all(&mut open(&tolerant, from)).await.unwrap();
    assert_eq!(payloads(&chunks), ["6", "7", "8", "9"]);
    assert_eq!((chunks[0].start, progress(&chunks)[&*chunks[0].partition]), (2, 10), "the gap is covered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_fails_clearly_or_is_read_from_its_start() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("recreated", 1);
    kafka.produce("recreated", 0, ["old 0", "old 1", "old 2"]);
    let tolerant = KafkaSourceOptions { on_data_loss: OnDataLoss::Continue, ..options(&kafka, "recreated") };
    let mut reader = open(&tolerant, ReadFrom::default());
    let Poll::Chunks(chunks) = reader.poll(limit()).await.unwrap() else { panic!("three records") };
    assert_eq!(payloads(&chunks).len(), 3);
    drop(reader);
    kafka.delete_topic("recreated");
    // Deletion is asynchronous: the name is free when making the topic succeeds.
    std::thread::sleep(Duration::from_millis(300));
    kafka.create_topic("recreated", 1);
    kafka.produce("recreated", 0, ["new 0"]);
    let from = ReadFrom { offsets: progress(&chunks), bounded: true, topic: None };

    let error = read_all(&mut open(&options(&kafka, "recreated"), from.clone())).await.unwrap_err();
    assert!(error.detail().unwrap().contains("made anew"), "{:?}", error.detail());
    assert_eq!(payloads(&read_all(&mut open(&tolerant, from)).await.unwrap()), ["new 0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_while_it_is_read_is_read_from_its_start_when_told_to() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("anew", 1);
    kafka.produce("anew", 0, ["old 0", "old 1", "old 2"]);
    let mut tolerant = KafkaSourceOptions { on_data_loss: OnDataLoss::Continue, ..options(&kafka, "anew") };
    refresh_every_100_ms(&mut tolerant);
    let mut reader = open(&tolerant, ReadFrom::default());
    assert_eq!(payloads(&next(&mut reader).await).len(), 3);
    kafka.delete_topic("anew");
    std::thread::sleep(Duration::from_millis(300));
    kafka.create_topic("anew", 1);
    kafka.produce("anew", 0, ["new 0"]);
    assert_eq!(payloads(&next(&mut reader).await), ["new 0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_deleted_while_it_is_read_is_an_error() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("deleted", 1);
    kafka.produce("deleted", 0, ["a"]);
    let mut strict = options(&kafka, "deleted");
    refresh_every_100_ms(&mut strict);
    let mut reader = open(&strict, ReadFrom::default());
    assert_eq!(payloads(&next(&mut reader).await), ["a"]);
    kafka.delete_topic("deleted");
    let error = reader.poll(PollLimit { wait: Duration::from_secs(60), ..limit() }).await.unwrap_err();
    assert_eq!(error.message(), "partition 0 of topic `deleted` is no longer there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_added_while_reading_are_read_from_their_start() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("growing", 1);
    kafka.produce("growing", 0, ["old"]);
    let mut latest = KafkaSourceOptions { starting_offsets: StartingOffsets::Latest, ..options(&kafka, "growing") };
    refresh_every_100_ms(&mut latest);
    let mut reader = open(&latest, ReadFrom::default());
    assert_eq!(payloads(&next(&mut reader).await).len(), 0);
    kafka.add_partitions("growing", 3);
    kafka.produce("growing", 2, ["new"]);
    let chunks = next(&mut reader).await;
    assert_eq!(payloads(&chunks), ["new"]);
    assert_eq!((&*chunks[0].partition, chunks[0].start, chunks[0].end), ("growing/2", 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_markers_alone_are_no_news_and_no_lag() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("markers", 1);
    let transactions = kafka.transactions("marker-writer");
    let mut reader = open(&options(&kafka, "markers"), ReadFrom::default());
    transactions.commit("markers", 0, ["a"]);
    let chunks = next(&mut reader).await;
    assert_eq!((payloads(&chunks).len(), chunks[0].start), (1, 0));
    transactions.abort("markers", 0, ["never"]);
    let poll = reader.poll(PollLimit { wait: Duration::from_millis(500), ..limit() }).await.unwrap();
    assert!(matches!(poll, Poll::Idle), "{poll:?}");
    assert_eq!(reader.lag(), Some(0));
    transactions.commit("markers", 0, ["b"]);
    let later = next(&mut reader).await;
    assert_eq!((payloads(&later), later[0].start), (vec!["b".to_owned()], chunks[0].end));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_topic_is_read_over_its_gaps() {
    let Some(kafka) = RealKafka::shared() else { return };
    let settings = [("cleanup.policy", "compact"), ("segment.bytes", "1048576"), ("min.cleanable.dirty.ratio", "0.01")];
    kafka.create_topic_with("compacted", 1, &settings);
    let padding = "x".repeat(1000);
    // One key written again and again over several segments: all but the newest segments shrink to one record.
    kafka.produce_keyed("compacted", 0, "k", (0..4000).map(|n| format!("{n} {padding}")));
    for _ in 0..200 {
        let mut reader = open(&options(&kafka, "compacted"), bounded(Offsets::new()));
        let chunks = read_all(&mut reader).await.unwrap();
        let found = payloads(&chunks).len();
        assert_eq!(progress(&chunks), Offsets::from([(Arc::from("compacted/0"), 4000)]));
        assert_eq!(chunks[0].start, 0);
        if found < 4000 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the broker compacted nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timestamp_start_begins_at_the_first_record_that_late() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("stamped", 1);
    kafka.produce("stamped", 0, ["first"]);
    let mut reader = open(&options(&kafka, "stamped"), bounded(Offsets::new()));
    let chunks = read_all(&mut reader).await.unwrap();
    let Payload::Records(records) = &chunks[0].payload else { panic!("kafka chunks are records") };
    let stamped = records.timestamps_ms[0];
    std::thread::sleep(Duration::from_millis(20));
    kafka.produce("stamped", 0, ["second"]);

    let later =
        KafkaSourceOptions { starting_offsets: StartingOffsets::Timestamp(stamped + 1), ..options(&kafka, "stamped") };
    assert_eq!(payloads(&read_all(&mut open(&later, bounded(Offsets::new()))).await.unwrap()), ["second"]);
    let never = KafkaSourceOptions {
        starting_offsets: StartingOffsets::Timestamp(stamped + 3_600_000),
        ..options(&kafka, "stamped")
    };
    let chunks = read_all(&mut open(&never, bounded(Offsets::new()))).await.unwrap();
    assert_eq!((payloads(&chunks).len(), progress(&chunks)[&*chunks[0].partition]), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_offsets_are_published_for_lag_monitors() {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("monitored", 1);
    kafka.produce("monitored", 0, ["a", "b"]);
    let mut reader = open(&options(&kafka, "monitored"), ReadFrom::default());
    let Poll::Chunks(chunks) = reader.poll(limit()).await.unwrap() else { panic!("two records") };
    reader.committed(&progress(&chunks));
    let monitor: BaseConsumer = kafka.config().set("group.id", "test-lag").create().unwrap();
    for _ in 0..200 {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition("monitored", 0);
        let found = monitor.committed_offsets(list, Duration::from_secs(10)).unwrap();
        if found.elements()[0].offset() == rdkafka::Offset::Offset(2) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the offset was not published");
}

fn rows(from: i64, count: i64) -> Messages {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("text", DataType::Utf8, false)]);
    let ids = Int64Array::from_iter_values(from..from + count);
    let texts = StringArray::from_iter_values((from..from + count).map(|id| format!("row {id}")));
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(texts)]).unwrap();
    encode(&batch, Some("id")).unwrap()
}

fn to(topic: &str, messages: Messages) -> Vec<TopicMessages> {
    vec![TopicMessages::new("sink", topic, vec![messages])]
}

async fn transactional(kafka: &RealKafka, pipeline: &str, topic: &str) -> TransactionalProducer {
    let env = Env::system().unwrap();
    TransactionalProducer::open(&kafka.connection(), pipeline, "", &[topic.to_owned()], &env).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_epoch_is_visible_and_found_by_the_next_run() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("alerts", 3);
    let producer = transactional(&kafka, "visible", "alerts").await;
    assert_eq!(producer.committed_epoch().await.unwrap(), None);
    producer.commit(permit(1, 77), to("alerts", rows(0, 5_000))).await.unwrap();
    assert_eq!(producer.committed_epoch().await.unwrap(), Some((1, 77)));
    producer.commit(permit(2, 78), Vec::new()).await.unwrap();
    drop(producer);

    let next = transactional(&kafka, "visible", "alerts").await;
    assert_eq!(next.committed_epoch().await.unwrap(), Some((2, 78)));
    let mut found = kafka.read_committed("alerts");
    assert_eq!(found.len(), 5_000);
    found.sort();
    let (key, payload) = &found[0];
    assert_eq!((key.as_deref(), payload.as_slice()), (Some(&b"0"[..]), &br#"{"id":0,"text":"row 0"}"#[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_run_that_was_taken_over_is_fenced_and_its_epoch_stays_invisible() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("fenced", 1);
    let old = transactional(&kafka, "fencing", "fenced").await;
    old.commit(permit(1, 1), to("fenced", rows(0, 3))).await.unwrap();
    let new = transactional(&kafka, "fencing", "fenced").await;

    let error = old.commit(permit(2, 2), to("fenced", rows(3, 3))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}: {:?}", error.detail());
    assert!(error.message().contains("pipeline `fencing`"), "{error}");
    assert_eq!(new.committed_epoch().await.unwrap(), Some((1, 1)));
    new.commit(permit(2, 3), to("fenced", rows(3, 3))).await.unwrap();
    assert_eq!(kafka.read_committed("fenced").len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_left_open_by_a_dead_run_never_becomes_visible() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("open", 1);
    let dead: BaseProducer = kafka.config().set("transactional.id", "weir-dying").create().unwrap();
    dead.init_transactions(Duration::from_secs(30)).unwrap();
    dead.begin_transaction().unwrap();
    dead.send(BaseRecord::<(), str>::to("open").payload("half an epoch")).map_err(|(error, _)| error).unwrap();
    dead.flush(Duration::from_secs(30)).unwrap();

    let next = transactional(&kafka, "dying", "open").await;
    assert_eq!(next.committed_epoch().await.unwrap(), None);
    next.commit(permit(1, 5), to("open", rows(0, 1))).await.unwrap();
    let found = kafka.read_committed("open");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, br#"{"id":0,"text":"row 0"}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_messages_are_read_within_milliseconds() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("direct", 1);
    let env = Env::system().unwrap();
    let producer = DirectProducer::open(&kafka.connection(), "direct", "p", &env).await.unwrap();
    let mut reader = open(&options(&kafka, "direct"), ReadFrom::default());
    producer.send(&rows(0, 1), 1, 0).await.unwrap();
    producer.flush(1).await.unwrap();
    let Poll::Chunks(_) = reader.poll(limit()).await.unwrap() else { panic!("one record") };
    let mut times = Vec::new();
    for n in 1..101 {
        tokio::time::sleep(Duration::from_millis(7)).await;
        let sent = env.instant();
        producer.send(&rows(n, 1), 1, n.unsigned_abs()).await.unwrap();
        let Poll::Chunks(_) = reader.poll(PollLimit { linger: Duration::ZERO, ..limit() }).await.unwrap() else {
            panic!("one record")
        };
        times.push(sent.elapsed());
    }
    times.sort();
    println!("produced to polled: p50 {:?}, p90 {:?}, p99 {:?}", times[50], times[90], times[99]);
    assert!(times[50] < Duration::from_millis(50), "p50 {:?}", times[50]);
}

/// The steps of a probe of a source with one column, `n BIGINT`.
async fn probed_source(options: KafkaSourceOptions) -> Vec<ProbeStep> {
    let column = ColumnDef {
        name: "n".to_owned(),
        data_type: DataType::Int64,
        nullable: true,
        origin: ColumnOrigin::Field(vec!["n".to_owned()]),
        span: Default::default(),
    };
    let def = SourceDef {
        name: "s".to_owned(),
        columns: vec![column],
        watermark: None,
        connector: SourceConnector::Kafka(options.clone()),
        format: Format::Json,
        on_error: OnError::DeadLetter,
        idle_after: Duration::from_secs(30),
        max_drift: None,
        timestamp_unit: None,
        max_future: None,
        span: Default::default(),
    };
    let task = tokio::task::spawn_blocking(move || probe_source(&def, &options, &Env::system().unwrap()));
    task.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_names_every_step_that_worked_and_decodes_the_newest_records() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("probed", 2);
    kafka.transactions("prober").commit("probed", 1, ["{\"n\":1}", "{\"n\":\"one\"}"]);
    let steps = probed_source(options(&kafka, "probed")).await;
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["address", "tcp", "login", "topic", "sample"], "{steps:?}");
    assert_eq!(steps[3].outcome.as_deref(), Ok("`probed` has 2 partitions"));
    let sample = steps[4].outcome.as_deref().unwrap();
    assert!(sample.starts_with("1 of 2 records decode; `probed/1` at 1: column `n`: "), "{sample}");

    kafka.create_topic("unlike", 1);
    kafka.produce("unlike", 0, ["n=1"]);
    let steps = probed_source(options(&kafka, "unlike")).await;
    let sample = steps[4].outcome.as_ref().unwrap_err();
    assert!(sample.starts_with("0 of 1 records decode; `unlike/0` at 0: not valid JSON"), "{sample}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_of_a_sink_tells_whether_the_user_may_write_and_writes_nothing() {
    let Some(kafka) = RealKafka::shared() else { return };
    for topic in ["open-to-guests", "closed-to-guests", "unseen-by-guests"] {
        kafka.create_topic(topic, 1);
    }
    kafka.allow(Acl::RD_KAFKA_ACL_OPERATION_READ, "closed-to-guests");
    kafka.allow(Acl::RD_KAFKA_ACL_OPERATION_WRITE, "open-to-guests");
    let last = async |topic: &'static str| {
        let connection = kafka.connection_as(GUEST, PASSWORD);
        let steps = tokio::task::spawn_blocking(move || probe_sink(&connection, topic, &Env::system().unwrap()));
        steps.await.unwrap().pop().unwrap()
    };
    let open = last("open-to-guests").await;
    assert_eq!((open.name.as_str(), open.outcome.is_ok()), ("write", true), "{open:?}");
    let closed = last("closed-to-guests").await;
    assert_eq!(closed.outcome, Err("the user may not write to `closed-to-guests`".to_owned()));
    let unseen = last("unseen-by-guests").await;
    assert_eq!(unseen.outcome, Err("topic `unseen-by-guests` may not be described by this user".to_owned()));
    let mut reader = self::open(&options(&kafka, "open-to-guests"), bounded(Offsets::new()));
    assert!(read_all(&mut reader).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_opens_the_topic_and_a_wrong_password_is_refused_without_being_told() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("guarded", 1);
    kafka.produce("guarded", 0, ["a"]);
    let right = KafkaSourceOptions { connection: kafka.connection_with_login(PASSWORD), ..options(&kafka, "guarded") };
    assert_eq!(payloads(&read_all(&mut open(&right, bounded(Offsets::new()))).await.unwrap()), ["a"]);

    let connection = kafka.connection_with_login("under-the-dam");
    let wrong = KafkaSourceOptions { connection: connection.clone(), ..right };
    let error = read_all(&mut open(&wrong, bounded(Offsets::new()))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("refuse the connection"), "{error}");
    assert!(error.detail().unwrap().contains("Authentication failed"), "{:?}", error.detail());
    assert!(!format!("{error:?}").contains("under-the-dam"));

    let env = Env::system().unwrap();
    let refused = TransactionalProducer::open(&connection, "p", "", &["guarded".to_owned()], &env).await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Config);

    let steps = tokio::task::spawn_blocking(move || probe_sink(&connection, "guarded", &Env::system().unwrap()));
    let steps = steps.await.unwrap();
    let last = steps.last().unwrap();
    assert_eq!((last.name.as_str(), last.outcome.is_err()), ("login", true), "{steps:?}");
    assert!(last.hint.as_ref().unwrap().contains("sasl_password"));
}
