//! Topics that are created again, grow or go away, and messages that are too large for them, on a real broker.

use std::time::{Duration, Instant};

use weir::catalog::KafkaConnection;
use weir::env::Env;
use weir::sink::kafka::{DirectProducer, Messages, Sent, TopicMessages, TransactionalProducer, encode};

use crate::kafka_support::{RealKafka, permit};
use crate::program::{Running, Weir, text};

/// A pipeline from a topic into a table, and its folder.
fn copying(kafka: &RealKafka, topic: &str, options: &str) -> Weir {
    let weir = Weir::new();
    weir.write("p.sql", &copying_sql(kafka, topic, options));
    weir
}

fn copying_sql(kafka: &RealKafka, topic: &str, options: &str) -> String {
    let servers = kafka.connection().bootstrap_servers;
    format!(
        "CREATE SOURCE s (id BIGINT, off BIGINT METADATA FROM 'offset') WITH (connector = 'kafka',
  bootstrap_servers = '{servers}', topic = '{topic}', format = 'json',
  properties.topic.metadata.refresh.interval.ms = '200'{options});
CREATE TABLE t (id BIGINT, off BIGINT) USING DELTA;
CREATE PIPELINE p WITH (trigger = '50 ms') AS BEGIN INSERT INTO t SELECT id, off FROM s; END;
"
    )
}

const CONTINUE: &str = ", on_data_loss = 'continue'";

fn ids(range: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    range.map(|id| format!("{{\"id\":{id}}}"))
}

fn create_again(kafka: &RealKafka, topic: &str) {
    kafka.delete_topic(topic);
    // Deletion is asynchronous: the name is free when making the topic succeeds.
    std::thread::sleep(Duration::from_millis(300));
    kafka.create_topic(topic, 1);
}

fn read_what_is_there(weir: &Weir) -> std::process::Output {
    weir.run(&["run", "p.sql", "--trigger", "available now"])
}

fn rows(weir: &Weir) -> Vec<String> {
    weir.query("SELECT CASE WHEN id < 1000 THEN 'old' ELSE 'new' END AS g, count(*), count(DISTINCT id) FROM t GROUP BY 1 ORDER BY 1 DESC")
}

/// Waits until the table has rows like these.
fn wait_for_rows(weir: &Weir, running: &Running, expected: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = weir.run(&["query", "--format", "csv", "SELECT count(*) FROM t"]);
        if found.status.success() && rows(weir) == expected {
            return;
        }
        assert!(Instant::now() < deadline, "not {expected:?}: {}", running.printed());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_topic_created_again_while_stopped_is_refused_however_long_it_is_or_read_from_its_start() {
    let Some(kafka) = RealKafka::shared() else { return };
    for second in [50, 200, 500] {
        let topic = format!("stopped-{second}");
        kafka.create_topic(&topic, 1);
        kafka.produce(&topic, 0, ids(0..200));
        let weir = copying(&kafka, &topic, "");
        assert!(read_what_is_there(&weir).status.success());
        create_again(&kafka, &topic);
        kafka.produce(&topic, 0, ids(1_000..1_000 + second));

        for _ in 0..2 {
            let refused = read_what_is_there(&weir);
            let said = text(&refused.stderr);
            assert!(!refused.status.success(), "{said}");
            assert!(
                said.contains(&format!("topic `{topic}` was created again: source `s` has read topic id ")),
                "{said}"
            );
            assert!(said.contains("on_data_loss"), "{said}");
            assert_eq!(rows(&weir), ["old,200,200"]);
        }
        // `latest` counts only where there is no progress: the new topic is read from its beginning.
        weir.write("p.sql", &copying_sql(&kafka, &topic, &format!("{CONTINUE}, starting_offsets = 'latest'")));
        for _ in 0..2 {
            let read = read_what_is_there(&weir);
            assert!(read.status.success(), "{}", text(&read.stderr));
            assert_eq!(rows(&weir), ["old,200,200".to_owned(), format!("new,{second},{second}")]);
        }
    }
}

#[test]
fn a_topic_created_again_while_it_is_read_is_refused_however_long_it_is_or_read_from_its_start() {
    let Some(kafka) = RealKafka::shared() else { return };
    for (second, options) in [(50, ""), (500, ""), (50, CONTINUE), (500, CONTINUE)] {
        let topic = format!("running-{second}{}", options.len());
        kafka.create_topic(&topic, 1);
        kafka.produce(&topic, 0, ids(0..200));
        let weir = copying(&kafka, &topic, options);
        let mut running = weir.start(&["run", "p.sql"], &[], "log");
        wait_for_rows(&weir, &running, &["old,200,200"]);
        create_again(&kafka, &topic);
        kafka.produce(&topic, 0, ids(1_000..1_000 + second));
        if options.is_empty() {
            let code = running.wait(Duration::from_secs(30));
            assert!(code.is_some_and(|code| code != 0), "{code:?}");
            assert!(running.printed().contains("was created again"), "{}", running.printed());
            assert_eq!(rows(&weir), ["old,200,200"]);
            continue;
        }
        let expected = ["old,200,200".to_owned(), format!("new,{second},{second}")];
        wait_for_rows(&weir, &running, &[&expected[0], &expected[1]]);
        kafka.produce(&topic, 0, ids(5_000..5_010));
        let expected = format!("new,{0},{0}", second + 10);
        wait_for_rows(&weir, &running, &["old,200,200", &expected]);
        assert_eq!(running.terminate(), Some(0), "{}", running.printed());
        assert!(read_what_is_there(&weir).status.success());
        assert_eq!(rows(&weir), ["old,200,200".to_owned(), expected], "nothing is read twice");
    }
}

#[test]
fn a_topic_that_has_fewer_partitions_when_it_is_created_again_grows_from_their_starts() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("shrunk", 3);
    (0..3).for_each(|partition| kafka.produce("shrunk", partition, ids(0..100)));
    let weir = copying(&kafka, "shrunk", CONTINUE);
    assert!(read_what_is_there(&weir).status.success());
    create_again(&kafka, "shrunk");
    kafka.produce("shrunk", 0, ids(1_000..1_150));
    assert!(read_what_is_there(&weir).status.success());
    assert_eq!(rows(&weir), ["old,300,100", "new,150,150"]);
    kafka.add_partitions("shrunk", 3);
    (1..3).for_each(|partition| {
        kafka.produce("shrunk", partition, ids(2_000 * partition as u64..2_000 * partition as u64 + 150));
    });
    assert!(read_what_is_there(&weir).status.success());
    assert_eq!(rows(&weir), ["old,300,100", "new,450,450"]);
}

#[test]
fn progress_of_a_version_that_recorded_no_topic_goes_on_and_records_it() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("older", 1);
    kafka.produce("older", 0, ids(0..10));
    let weir = copying(&kafka, "older", "");
    assert!(read_what_is_there(&weir).status.success());
    let manifests = weir.path("warehouse/_weir/p/manifests");
    let newest = || std::fs::read_dir(&manifests).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let manifest = std::fs::read_to_string(newest()).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let topics = json.as_object_mut().unwrap().remove("topics").expect("recorded");
    assert_eq!(topics["s"]["topic"], "older");
    assert!(topics["s"]["id"].is_string() && topics["s"]["cluster"].is_string(), "{topics}");
    std::fs::write(newest(), json.to_string()).unwrap();
    kafka.produce("older", 0, ids(10..20));
    assert!(read_what_is_there(&weir).status.success());
    assert_eq!(rows(&weir), ["old,20,20"]);
    let recorded: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(newest()).unwrap()).unwrap();
    assert_eq!(recorded["topics"], topics);
}

/// Rows that the console sink has printed.
fn shown(running: &Running) -> usize {
    let is_row =
        |line: &&str| line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    running.printed().lines().filter(is_row).count()
}

/// A run whose epoch stays open, once it has read `count` records.
fn open_epoch(weir: &Weir, count: usize) -> Running {
    let sql = std::fs::read_to_string(weir.path("p.sql")).unwrap();
    let sql = sql.replace("trigger = '50 ms'", "trigger = '10 minutes'").replace(
        "CREATE PIPELINE",
        "CREATE SINK shown (read_id BIGINT) WITH (connector = 'console');\nCREATE PIPELINE",
    );
    weir.write("p.sql", &sql.replace("END;", "INSERT INTO shown SELECT id AS read_id FROM s; END;"));
    let running = weir.start(&["run", "p.sql"], &[], "log");
    let deadline = Instant::now() + Duration::from_secs(30);
    while shown(&running) < count {
        assert!(Instant::now() < deadline, "nothing is read: {}", running.printed());
        std::thread::sleep(Duration::from_millis(50));
    }
    running
}

#[test]
fn what_was_read_of_a_topic_that_goes_is_committed_before_the_run_ends() {
    let Some(kafka) = RealKafka::shared() else { return };
    for (case, options, again, code) in [
        ("fail-again", "", true, Some(4)),
        ("fail-gone", "", false, Some(2)),
        ("continue-gone", CONTINUE, false, Some(2)),
        ("continue-again", CONTINUE, true, Some(0)),
    ] {
        for first in [true, false] {
            let topic = format!("open-{case}-{first}");
            kafka.create_topic(&topic, 1);
            let weir = copying(&kafka, &topic, options);
            let (before, read) = if first { (0, 100) } else { (50, 150) };
            if !first {
                kafka.produce(&topic, 0, ids(0..before));
                assert!(read_what_is_there(&weir).status.success());
            }
            kafka.produce(&topic, 0, ids(before..read));
            let mut running = open_epoch(&weir, 100);
            if again {
                create_again(&kafka, &topic);
                kafka.produce(&topic, 0, ids(1_000..1_300));
            } else {
                kafka.delete_topic(&topic);
            }
            let old = format!("old,{read},{read}");
            if code == Some(0) {
                let deadline = Instant::now() + Duration::from_secs(30);
                while shown(&running) < 400 {
                    assert!(Instant::now() < deadline, "{case}: {}", running.printed());
                    std::thread::sleep(Duration::from_millis(50));
                }
                assert_eq!(running.terminate(), code, "{case}: {}", running.printed());
                assert_eq!(rows(&weir), [old, "new,300,300".to_owned()], "{case}");
                continue;
            }
            assert_eq!(running.wait(Duration::from_secs(30)), code, "{case}: {}", running.printed());
            assert_eq!(rows(&weir), [old.as_str()], "{case} {first}: {}", running.printed());
            if !again {
                kafka.create_topic(&topic, 1);
                kafka.produce(&topic, 0, ids(1_000..1_300));
            }
            // The next start still knows which topic it was.
            let next = read_what_is_there(&weir);
            let expected = if options.is_empty() { Some(4) } else { Some(0) };
            assert_eq!(next.status.code(), expected, "{case} {first}: {}", text(&next.stderr));
            let new = (!options.is_empty()).then(|| "new,300,300".to_owned());
            assert_eq!(rows(&weir), Vec::from_iter([old].into_iter().chain(new)), "{case} {first}");
        }
    }
}

#[test]
fn a_shutdown_after_a_topic_was_created_again_commits_what_was_read_of_the_old_one() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("term", 1);
    kafka.produce("term", 0, ids(0..100));
    let weir = copying(&kafka, "term", "");
    let mut running = open_epoch(&weir, 100);
    create_again(&kafka, "term");
    kafka.produce("term", 0, ids(1_000..1_300));
    assert_eq!(running.terminate(), Some(4), "{}", running.printed());
    assert_eq!(rows(&weir), ["old,100,100"], "{}", running.printed());
    assert_eq!(read_what_is_there(&weir).status.code(), Some(4));
}

#[test]
fn a_run_that_dies_before_its_first_commit_leaves_the_id_of_what_it_read() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("died", 1);
    kafka.produce("died", 0, ids(0..100));
    let weir = copying(&kafka, "died", "");
    open_epoch(&weir, 100).kill();
    create_again(&kafka, "died");
    kafka.produce("died", 0, ids(1_000..1_300));
    let refused = read_what_is_there(&weir);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("Nothing of the old topic was committed"), "{}", text(&refused.stderr));
    weir.write("p.sql", &copying_sql(&kafka, "died", CONTINUE));
    assert!(read_what_is_there(&weir).status.success());
    assert_eq!(rows(&weir), ["new,300,300"]);
}

#[test]
fn without_the_newest_manifest_a_topic_created_again_is_still_told_from_the_old_one() {
    let Some(kafka) = RealKafka::shared() else { return };
    for case in ["lost", "all-lost", "unrecorded"] {
        let topic = format!("manifest-{case}");
        kafka.create_topic(&topic, 1);
        let weir = copying(&kafka, &topic, "");
        for n in 0..2 {
            kafka.produce(&topic, 0, ids(n * 100..(n + 1) * 100));
            assert!(read_what_is_there(&weir).status.success());
        }
        let folder = weir.path("warehouse/_weir/p/manifests");
        let mut manifests: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        manifests.sort();
        match case {
            "lost" => std::fs::remove_file(manifests.pop().unwrap()).unwrap(),
            "all-lost" => std::fs::remove_dir_all(&folder).unwrap(),
            _ => {
                // As an older version left it: the commit does not name the topic, the manifest before does.
                std::fs::remove_file(manifests.pop().unwrap()).unwrap();
                std::fs::remove_file(weir.path("warehouse/_weir/p/topics.json")).unwrap();
                for entry in std::fs::read_dir(weir.path("warehouse/t/_delta_log")).unwrap() {
                    let path = entry.unwrap().path();
                    let log = std::fs::read_to_string(&path).unwrap();
                    std::fs::write(path, log.replace("\\\"topics\\\"", "\\\"other\\\"")).unwrap();
                }
            }
        }
        kafka.produce(&topic, 0, ids(200..210));
        create_again(&kafka, &topic);
        kafka.produce(&topic, 0, ids(1_000..1_300));
        let refused = read_what_is_there(&weir);
        assert_eq!(refused.status.code(), Some(4), "{case}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains("was created again"), "{case}: {}", text(&refused.stderr));
        assert_eq!(rows(&weir), ["old,200,200"]);
    }
}

#[test]
fn another_topic_of_a_source_is_said_and_read_from_its_beginning() {
    let Some(kafka) = RealKafka::shared() else { return };
    for topic in ["before", "after"] {
        kafka.create_topic(topic, 1);
    }
    kafka.produce("before", 0, ids(0..50));
    kafka.produce("after", 0, ids(1_000..1_030));
    let weir = copying(&kafka, "before", "");
    assert!(read_what_is_there(&weir).status.success());
    let check = |weir: &Weir| weir.succeed(&["check", "p.sql", "--against-state"]);
    assert!(!check(&weir).contains("instead of"), "{}", check(&weir));
    weir.write("p.sql", &copying_sql(&kafka, "after", ""));
    let said = "source `s` reads topic `after` instead of `before`";
    assert!(check(&weir).contains(said), "{}", check(&weir));
    let run = read_what_is_there(&weir);
    assert!(run.status.success() && text(&run.stderr).contains(said), "{}", text(&run.stderr));
    assert_eq!(rows(&weir), ["old,50,50", "new,30,30"]);
    let run = read_what_is_there(&weir);
    assert!(run.status.success() && !text(&run.stderr).contains("instead of"), "{}", text(&run.stderr));
    // Back again: it continues where it was.
    kafka.produce("before", 0, ids(50..60));
    weir.write("p.sql", &copying_sql(&kafka, "before", ""));
    let run = read_what_is_there(&weir);
    assert!(run.status.success() && text(&run.stderr).contains("continues where"), "{}", text(&run.stderr));
    assert_eq!(rows(&weir), ["old,60,60", "new,30,30"]);
    // The other one, too, unless it was created again meanwhile.
    create_again(&kafka, "after");
    kafka.produce("after", 0, ids(2_000..2_050));
    weir.write("p.sql", &copying_sql(&kafka, "after", ""));
    let refused = read_what_is_there(&weir);
    let errors = text(&refused.stderr);
    assert!(refused.status.code() == Some(4) && errors.contains("topic `after` was created again"), "{errors}");
    weir.write("p.sql", &copying_sql(&kafka, "after", CONTINUE));
    assert!(read_what_is_there(&weir).status.success());
    assert_eq!(rows(&weir), ["old,60,60", "new,80,80"]);
}

#[test]
fn a_topic_that_is_missing_or_deleted_ends_the_run_with_exit_2() {
    let Some(kafka) = RealKafka::shared() else { return };
    let weir = copying(&kafka, "never-made", "");
    for arguments in [&["run", "p.sql"][..], &["check", "--connect", "p.sql"]] {
        let ended = weir.run(arguments);
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", text(&ended.stderr));
        let said = text(&ended.stdout) + &text(&ended.stderr);
        assert!(said.contains("topic `never-made` does not exist"), "{said}");
    }
    kafka.create_topic("deleted", 1);
    kafka.produce("deleted", 0, ids(0..10));
    let weir = copying(&kafka, "deleted", "");
    let mut running = weir.start(&["run", "p.sql"], &[], "log");
    wait_for_rows(&weir, &running, &["old,10,10"]);
    kafka.delete_topic("deleted");
    assert_eq!(running.wait(Duration::from_secs(30)), Some(2), "{}", running.printed());
    assert!(running.printed().contains("topic `deleted` is no longer there"), "{}", running.printed());
}

/// A pipeline that copies texts into a topic and their ids into a table.
fn sending(kafka: &RealKafka, input: &str, output: &str, options: &str) -> Weir {
    let servers = kafka.connection().bootstrap_servers;
    let weir = Weir::new();
    weir.write(
        "p.sql",
        &format!(
            "CREATE SOURCE s (id BIGINT, t STRING) WITH (connector = 'kafka', bootstrap_servers = '{servers}', topic = '{input}', format = 'json');
CREATE TABLE t (id BIGINT) USING DELTA;
CREATE SINK o WITH (connector = 'kafka', bootstrap_servers = '{servers}', topic = '{output}', format = 'json'{options});
CREATE PIPELINE p WITH (trigger = '50 ms') AS BEGIN INSERT INTO t SELECT id FROM s; INSERT INTO o SELECT id, t FROM s; END;
"
        ),
    );
    weir
}

fn record(id: u64, length: usize) -> String {
    // Not compressible, so that the broker's limit holds for any codec.
    let mut state = id + 1;
    let text: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + (state >> 40) as u8 % 90)
    })
    .filter(|c| !matches!(c, '"' | '\\'))
    .take(length)
    .collect();
    format!("{{\"id\":{id},\"t\":\"{text}\"}}")
}

#[test]
fn a_message_too_large_for_its_topic_is_a_dead_letter_and_the_others_go_on() {
    let Some(kafka) = RealKafka::shared() else { return };
    for (delivery, limit, large) in [
        ("exactly_once", "900000", 950_000),
        ("at_least_once", "900000", 950_000),
        // This limit holds for batches of small messages, too.
        ("exactly_once", "10000", 50_000),
        ("at_least_once", "10000", 50_000),
    ] {
        let (input, output) = (format!("in-{delivery}-{limit}"), format!("out-{delivery}-{limit}"));
        kafka.create_topic(&input, 1);
        kafka.create_topic_with(&output, 1, &[("max.message.bytes", limit)]);
        let weir = sending(&kafka, &input, &output, &format!(", delivery = '{delivery}'"));
        let small = || (0..200).map(|id| record(id, 200));
        kafka.produce(&input, 0, small().chain([record(900, large)]).chain((201..300).map(|id| record(id, 200))));
        for _ in 0..2 {
            let ended = read_what_is_there(&weir);
            assert!(ended.status.success(), "{delivery} {limit}: {}", text(&ended.stderr));
        }
        assert_eq!(weir.number("SELECT count(*) FROM t"), 300, "{delivery} {limit}");
        assert_eq!(kafka.read_committed(&output).len(), 299, "{delivery} {limit}");
        let letters =
            weir.query("SELECT source, partition, \"offset\", character_length(encode(payload, 'hex')) / 2, reason FROM weir.dead_letters");
        let [letter] = &letters[..] else { panic!("{delivery} {limit}: {letters:?}") };
        assert!(letter.starts_with(&format!("o,{output},200,")), "{letter}");
        assert!(letter.contains("max.message.bytes"), "{letter}");
    }
}

#[test]
fn many_messages_that_compression_leaves_too_large_are_found_in_little_time() {
    let Some(kafka) = RealKafka::shared() else { return };
    for codec in ["zstd", "gzip"] {
        let (input, output) = (format!("many-in-{codec}"), format!("many-out-{codec}"));
        kafka.create_topic(&input, 1);
        kafka.create_topic_with(&output, 1, &[("max.message.bytes", "10000")]);
        let weir = sending(&kafka, &input, &output, &format!(", properties.compression.type = '{codec}'"));
        // Too large, small, and larger than the limit but for compression.
        let records = (0..600).map(|id| match id % 5 {
            0 => record(id, 30_000),
            1 => format!("{{\"id\":{id},\"t\":\"{}\"}}", "x".repeat(30_000)),
            _ => record(id, 200),
        });
        kafka.produce(&input, 0, records);
        let since = std::time::Instant::now();
        let ended = read_what_is_there(&weir);
        assert!(ended.status.success(), "{codec}: {}", text(&ended.stderr));
        assert!(since.elapsed() < Duration::from_secs(150), "{codec}: {:?}", since.elapsed());
        assert_eq!(weir.number("SELECT count(*) FROM t"), 600, "{codec}");
        assert_eq!(weir.number("SELECT count(*) FROM weir.dead_letters"), 120, "{codec}");
        assert_eq!(kafka.read_committed(&output).len(), 480, "{codec}");
    }
}

#[test]
fn a_crash_after_the_transaction_leaves_one_dead_letter_of_a_large_message() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("large-in", 1);
    kafka.create_topic_with("large-out", 1, &[("max.message.bytes", "10000")]);
    let weir = sending(&kafka, "large-in", "large-out", "");
    kafka.produce("large-in", 0, [record(1, 10), record(2, 20_000), record(3, 10)]);
    let crashed = weir
        .start(&["run", "p.sql"], &[("WEIR_FAILPOINTS", "epoch.after_kafka=abort")], "log")
        .wait(Duration::from_secs(30));
    assert_ne!(crashed, Some(0));
    assert!(read_what_is_there(&weir).status.success());
    assert_eq!(weir.number("SELECT count(*) FROM t"), 3);
    assert_eq!(weir.number("SELECT count(*) FROM weir.dead_letters"), 1);
    assert_eq!(kafka.read_committed("large-out").len(), 2);
}

#[test]
fn a_record_over_64_mib_is_a_dead_letter_with_its_beginning() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("giant", 1);
    let weir = copying(&kafka, "giant", "");
    let mut config = kafka.config();
    config.set("message.max.bytes", "100000000").set("queue.buffering.max.kbytes", "200000");
    let producer: BaseProducer = config.set("compression.type", "lz4").create().unwrap();
    let giant = format!("{{\"id\":2,\"t\":\"{}\"}}", "x".repeat(65 << 20));
    for payload in ["{\"id\":1}", &giant, "{\"id\":3}"] {
        producer.send(BaseRecord::<(), str>::to("giant").payload(payload)).map_err(|(error, _)| error).unwrap();
        producer.flush(Duration::from_secs(60)).unwrap();
    }
    assert!(read_what_is_there(&weir).status.success());
    assert_eq!(rows(&weir), ["old,2,2"]);
    let letters = weir.query(
        "SELECT partition, \"offset\", character_length(encode(payload, 'hex')) / 2, reason FROM weir.dead_letters",
    );
    let expected = format!(
        "giant/0,1,65536,\"the record has {} bytes, more than 64 MiB: the first 65536 are kept here\"",
        giant.len()
    );
    assert_eq!(letters, [expected]);
}

fn messages(payloads: &[usize]) -> Messages {
    use arrow::array::{RecordBatch, StringArray};
    let texts: StringArray = payloads.iter().map(|length| Some("x".repeat(*length))).collect();
    let batch = RecordBatch::try_from_iter([("t", std::sync::Arc::new(texts) as arrow::array::ArrayRef)]).unwrap();
    encode(&batch, None).unwrap()
}

async fn opened(connection: &KafkaConnection, topic: &str) -> TransactionalProducer {
    let topics = [topic.to_owned()];
    TransactionalProducer::open(connection, topic, "", &topics, &Env::system().unwrap()).await.unwrap()
}

/// Length of the text whose message has `size` bytes in a batch of its own: the batch's header, its length, six bytes of the
/// record and four or three of lengths, `{"t":""}`.
fn text_of(size: usize, headers: usize) -> usize {
    size - 61 - 3 - 5 - 3 - 8 - headers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_is_the_brokers_to_the_byte() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic_with("to-the-byte", 1, &[("max.message.bytes", "30000")]);
    let producer = opened(&kafka.connection(), "to-the-byte").await;
    let fitting = text_of(30_000, 0);
    let mut of_topic = TopicMessages::new("o", "to-the-byte", vec![messages(&[fitting, fitting + 1])]);
    let refused = producer.refuse_large(&mut of_topic);
    assert_eq!(refused.iter().map(|message| message.position).collect::<Vec<_>>(), [1]);
    assert!(
        refused[0].reason.contains("has 30001 bytes in its batch, and topic `to-the-byte` takes 30000"),
        "{refused:?}"
    );
    assert_eq!(producer.commit(permit(1, 1), vec![of_topic]).await.unwrap(), Sent::Visible);
    // Options that are refused here are refused there.
    let tried = TopicMessages::new("o", "to-the-byte", vec![messages(&[fitting + 1])]);
    let Sent::TooLarge(positions) = producer.commit(permit(2, 2), vec![tried]).await.unwrap() else {
        panic!("it is too large")
    };
    assert_eq!(positions[&0].iter().copied().collect::<Vec<_>>(), [0]);
    assert_eq!(producer.committed_epoch().await.unwrap(), Some((1, 1)), "nothing of it is visible");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_messages_above_a_limit_that_is_not_known_are_found_in_few_rounds() {
    let Some(kafka) = RealKafka::shared() else { return };
    for codec in ["none", "lz4"] {
        let topic = format!("unknown-{codec}");
        kafka.create_topic(&topic, 1);
        let mut connection = kafka.connection();
        connection.properties.insert("compression.type".to_owned(), weir::catalog::Secret::new(codec));
        let producer = opened(&connection, &topic).await;
        kafka.alter_topic(&topic, "max.message.bytes", "10000");
        // Each message another size; not compressible.
        let payloads: Vec<String> = (0..300).map(|id| record(id, (id as usize * 7_919) % 25_000 + 10)).collect();
        let texts: arrow::array::StringArray = payloads.iter().map(Some).collect();
        let batch =
            arrow::array::RecordBatch::try_from_iter([("t", std::sync::Arc::new(texts) as arrow::array::ArrayRef)])
                .unwrap();
        let mut all = vec![TopicMessages::new("o", &topic, vec![encode(&batch, None).unwrap()])];
        let (since, mut rounds, mut dead) = (Instant::now(), 0, Vec::new());
        while let Sent::TooLarge(positions) = producer.commit(permit(1, 1), all.clone()).await.unwrap() {
            rounds += 1;
            assert!(rounds < 10, "{codec}: {} found", dead.len());
            dead.extend(producer.refuse(&mut all[0], &positions[&0]));
        }
        println!("{codec}: {rounds} rounds, {} refused, {:?}", dead.len(), since.elapsed());
        assert_eq!(kafka.read_committed(&topic).len() + dead.len(), 300, "{codec}");
        assert!((150..220).contains(&dead.len()), "{codec}: {}", dead.len());
        assert!(since.elapsed() < Duration::from_secs(60), "{codec}: {:?}", since.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_lowered_while_running_is_learnt_from_what_brokers_refuse() {
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("lowered", 1);
    let producer = opened(&kafka.connection(), "lowered").await;
    let direct = DirectProducer::open(&kafka.connection(), "lowered", "p", &Env::system().unwrap()).await.unwrap();
    kafka.alter_topic("lowered", "max.message.bytes", "2000");
    // Small ones in one batch with two large ones: all of the batch is refused.
    let lengths = [10, 20, 5_000, 30, 7_000, 40];
    let mut all = vec![TopicMessages::new("o", "lowered", vec![messages(&lengths)])];
    let mut dead = Vec::new();
    for _ in 0..5 {
        match producer.commit(permit(1, 1), all.clone()).await.unwrap() {
            Sent::Visible => break,
            Sent::TooLarge(positions) => dead.extend(producer.refuse(&mut all[0], &positions[&0])),
        }
    }
    let mut positions: Vec<u64> = dead.iter().map(|message| message.position).collect();
    positions.sort_unstable();
    assert_eq!(positions, [2, 4]);
    assert_eq!(kafka.read_committed("lowered").len(), 4);
    assert_eq!(producer.committed_epoch().await.unwrap(), Some((1, 1)));

    assert_eq!(direct.send(&messages(&lengths), 3, 100).await.unwrap(), []);
    let refused = direct.flush(3).await.unwrap();
    let mut positions: Vec<u64> = refused.iter().map(|message| message.position).collect();
    positions.sort_unstable();
    assert_eq!(positions, [102, 104]);
    assert!(refused[0].reason.contains("the brokers refuse the message for its size"), "{refused:?}");
    assert_eq!(kafka.read_committed("lowered").len(), 8);
    assert_eq!(direct.send(&messages(&[6_000]), 3, 106).await.unwrap().len(), 1, "it is known now");
}
