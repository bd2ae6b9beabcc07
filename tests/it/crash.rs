//! The program is killed, again and again, at random moments and at every step of the commit protocol, and nothing is
//! lost or doubled: two tables, dead letters and an exactly-once Kafka topic say the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::kafka_support::{RealKafka, Transactions};
use crate::program::Weir;

const PARTITIONS: i32 = 6;
const PER_ROUND: i64 = 2_000;
/// Every record whose number is divisible by this is cut short.
const MALFORMED: i64 = 100;

fn sql(kafka: &RealKafka, input: &str, output: &str) -> String {
    let servers = kafka.connection().bootstrap_servers;
    format!(
        "
CREATE SOURCE events (id BIGINT NOT NULL, v DOUBLE)
  WITH (connector = 'kafka', bootstrap_servers = '{servers}', topic = '{input}', format = 'json');
CREATE TABLE everything (id BIGINT NOT NULL, v DOUBLE) USING DELTA;
CREATE TABLE some (id BIGINT NOT NULL) USING DELTA;
CREATE SINK alerts WITH (connector = 'kafka', bootstrap_servers = '{servers}', topic = '{output}', format = 'json', delivery = 'exactly_once');
CREATE VIEW seen AS SELECT id, v * 2 AS v FROM events;
CREATE PIPELINE p WITH (trigger = '100 ms') AS BEGIN
  INSERT INTO everything SELECT id, v FROM seen;
  INSERT INTO some SELECT id FROM seen WHERE id % 3 = 0;
  INSERT INTO alerts SELECT id FROM seen WHERE id % 5 = 0;
END;
"
    )
}

struct Input {
    kafka: Arc<RealKafka>,
    topic: String,
    /// One a partition.
    producers: Vec<Transactions>,
    next: i64,
}

impl Input {
    /// Records `next..next + count` over all partitions, in committed transactions, with aborted ones in between.
    fn produce(&mut self, count: i64) {
        let range = self.next..self.next + count;
        self.next += count;
        for partition in 0..PARTITIONS {
            let mine = range.clone().filter(|id| id % i64::from(PARTITIONS) == i64::from(partition));
            let transactions = &self.producers[partition as usize];
            transactions.abort(&self.topic, partition, [r#"{"id":-1,"v":0}"#]);
            transactions.commit(&self.topic, partition, mine.map(record));
        }
    }
}

fn record(id: i64) -> String {
    let whole = format!("{{\"id\":{id},\"v\":{}.25}}", id % 1000);
    if id % MALFORMED == 0 { whole[..whole.len() - 3].to_owned() } else { whole }
}

/// Reads everything that is left and compares all sinks with what was produced.
fn check(weir: &Weir, input: &Input, output: &str) {
    weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    let good: Vec<i64> = (0..input.next).filter(|id| id % MALFORMED != 0).collect();
    let expected = |keep: fn(&i64) -> bool| good.iter().filter(|id| keep(id)).count() as i64;
    let both = |table: &str| weir.query(&format!("SELECT count(*), count(DISTINCT id) FROM {table}"));
    let twice = |n: i64| vec![format!("{n},{n}")];
    assert_eq!(both("everything"), twice(expected(|_| true)));
    assert_eq!(both("some"), twice(expected(|id| id % 3 == 0)));
    assert_eq!(weir.number("SELECT min(id) FROM everything"), 1, "aborted transactions are not seen");
    let dead = weir.query("SELECT count(*), count(DISTINCT concat(partition, '@', \"offset\")) FROM weir.dead_letters");
    assert_eq!(dead, twice((0..input.next).filter(|id| id % MALFORMED == 0).count() as i64));
    let alerts = input.kafka.read_committed(output);
    let distinct: BTreeSet<_> = alerts.iter().map(|(_, payload)| payload.clone()).collect();
    assert_eq!(alerts.len() as i64, expected(|id| id % 5 == 0));
    assert_eq!(distinct.len(), alerts.len());
}

fn set_up(name: &str) -> Option<(Weir, Input, String)> {
    let kafka = RealKafka::shared()?;
    let (topic, output) = (format!("{name}-in"), format!("{name}-out"));
    kafka.create_topic(&topic, PARTITIONS);
    kafka.create_topic(&output, 2);
    let weir = Weir::new();
    weir.write("p.sql", &sql(&kafka, &topic, &output));
    let producers = (0..PARTITIONS).map(|partition| kafka.transactions(&format!("{topic}-{partition}"))).collect();
    Some((weir, Input { kafka, topic, producers, next: 0 }, output))
}

/// Between two rounds the newest manifest goes: either it is not needed, or weir stops until it is back.
fn lose_manifest(weir: &Weir) {
    let Ok(folder) = std::fs::read_dir(weir.path("warehouse/_weir/p/manifests")) else { return };
    let Some(newest) = folder.map(|entry| entry.unwrap().path()).max() else { return };
    let away = weir.path("away");
    std::fs::rename(&newest, &away).unwrap();
    let output = weir.run(&["run", "p.sql", "--trigger", "available now"]);
    match output.status.code() {
        Some(0) => std::fs::remove_file(&away).unwrap(),
        Some(4) => std::fs::rename(&away, &newest).unwrap(),
        other => panic!("{other:?}: {}", crate::program::text(&output.stderr)),
    }
}

/// Between two rounds a table's folder is away: weir stops, and does not make it again.
fn rename_folder(weir: &Weir, table: &str) {
    let (folder, away) = (weir.path("warehouse").join(table), weir.path("away"));
    if std::fs::rename(&folder, &away).is_err() {
        return;
    }
    let output = weir.run(&["run", "p.sql", "--trigger", "available now"]);
    let errors = crate::program::text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{errors}");
    assert!(errors.contains(&format!("`{table}`")) && !folder.exists(), "{errors}");
    std::fs::rename(&away, &folder).unwrap();
}

/// 30 rounds, or as many as `WEIR_CRASH_ROUNDS` says.
pub fn rounds() -> u64 {
    std::env::var("WEIR_CRASH_ROUNDS").map_or(30, |rounds| rounds.parse().expect("WEIR_CRASH_ROUNDS is a number"))
}

#[test]
fn killed_thirty_times_at_random_nothing_is_lost_or_doubled() {
    let Some((weir, mut input, output)) = set_up("random-kills") else { return };
    // The table that is renamed below has had an epoch.
    input.produce(PER_ROUND);
    weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    // A fixed sequence of moments: a failing round can be run again.
    let mut state: u64 = 0x5EED;
    for round in 0..rounds() {
        input.produce(PER_ROUND);
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let running = weir.start(&["run", "p.sql"], &[], "log");
        std::thread::sleep(Duration::from_millis(100 + (state >> 33) % 1400));
        running.kill();
        match round % 6 {
            1 => lose_manifest(&weir),
            3 => rename_folder(&weir, if round % 12 == 3 { "everything" } else { "some" }),
            _ => {}
        }
    }
    check(&weir, &input, &output);
}

#[test]
fn killed_at_every_step_of_the_protocol_nothing_is_lost_or_doubled() {
    let Some((weir, mut input, output)) = set_up("failpoints") else { return };
    let steps = [
        "epoch.before_manifest",
        "epoch.after_manifest",
        "epoch.after_kafka",
        "delta.before_put",
        "delta.after_put",
        "epoch.between_sinks",
        "delta.before_put@2",
        "delta.after_put@2",
        "epoch.after_commit",
    ];
    for step in steps {
        input.produce(PER_ROUND);
        let points = format!("{step}=abort");
        let mut running = weir.start(&["run", "p.sql"], &[("WEIR_FAILPOINTS", &points)], "log");
        assert_eq!(running.wait(Duration::from_secs(60)), None, "{step} was passed: {}", running.printed());
    }
    check(&weir, &input, &output);
}

#[test]
fn killed_between_a_log_checkpoint_and_its_pointer_the_table_stays_whole() {
    let Some((weir, mut input, output)) = set_up("checkpoints") else { return };
    weir.write("config/weir.yaml", "maintenance:\n  checkpoint_every_commits: 2\n");
    let mut running = weir.start(&["run", "p.sql"], &[("WEIR_FAILPOINTS", "delta.checkpoint=abort")], "log");
    for _ in 0..200 {
        if !running.runs() {
            break;
        }
        input.produce(60);
    }
    assert_eq!(running.wait(Duration::from_secs(30)), None, "{}", running.printed());
    check(&weir, &input, &output);
}

#[test]
fn of_two_processes_on_one_pipeline_one_stops_with_3_and_the_data_are_whole() {
    let Some((weir, mut input, output)) = set_up("two-processes") else { return };
    input.produce(PER_ROUND);
    let mut first = weir.start(&["run", "p.sql"], &[], "first");
    std::thread::sleep(Duration::from_millis(700));
    let mut second = weir.start(&["run", "p.sql"], &[], "second");
    let mut rounds = 0;
    while first.runs() && second.runs() {
        input.produce(600);
        rounds += 1;
        assert!(rounds < 200, "nobody was fenced: {} {}", first.printed(), second.printed());
    }
    let (fenced, other) = if first.runs() { (&mut second, &mut first) } else { (&mut first, &mut second) };
    assert_eq!(fenced.wait(Duration::from_secs(5)), Some(3), "{}", fenced.printed());
    assert_eq!(other.terminate(), Some(0), "{}", other.printed());
    check(&weir, &input, &output);
}

#[test]
fn a_store_that_fails_lies_and_lags_loses_and_doubles_nothing() {
    let Some((weir, mut input, output)) = set_up("bad-store") else { return };
    let faults = [("WEIR_STORE_FAULTS", "error=0.1,ambiguous=0.1,slow=0.1,slow_ms=20")];
    for _ in 0..4 {
        input.produce(PER_ROUND);
        let mut running = weir.start(&["run", "p.sql"], &faults, "log");
        std::thread::sleep(Duration::from_millis(2_500));
        if running.runs() {
            running.terminate();
        }
    }
    check(&weir, &input, &output);
}

#[test]
fn two_hundred_thousand_records_one_in_a_hundred_malformed_arrive_once() {
    let Some((weir, mut input, output)) = set_up("many") else { return };
    input.produce(200_000);
    let mut running = weir.start(&["run", "p.sql"], &[], "log");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(running.terminate(), Some(0), "{}", running.printed());
    check(&weir, &input, &output);
}
