//! Warehouses that lost something: a manifest, a table's folder, epochs of one table or of all, what Kafka knew. A start
//! either continues without losing or repeating a row, or stops with exit code 4 and says what mends it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures::executor::block_on;
use rdkafka::admin::AdminOptions;

use crate::kafka_support::RealKafka;
use crate::program::{Weir, text};

pub const SQL: &str = "
CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v BIGINT) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE everything (id BIGINT NOT NULL, k BIGINT) USING DELTA;
CREATE TABLE per_key (k BIGINT, n BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE TABLE some (id BIGINT NOT NULL) USING DELTA;
CREATE PIPELINE p WITH (trigger = '50 ms', state_ttl = 'none') AS BEGIN
  INSERT INTO everything SELECT id, k FROM events;
  INSERT INTO per_key SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k;
  INSERT INTO some SELECT id FROM events WHERE id % 2 = 0;
END;
";

/// The same without operators that keep state.
pub const STATELESS: &str = "
CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v BIGINT) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE everything (id BIGINT NOT NULL, k BIGINT) USING DELTA;
CREATE TABLE some (id BIGINT NOT NULL) USING DELTA;
CREATE PIPELINE p WITH (trigger = '50 ms') AS BEGIN
  INSERT INTO everything SELECT id, k FROM events;
  INSERT INTO some SELECT id FROM events WHERE id % 2 = 0;
END;
";

pub const PER_FILE: u64 = 200;
const KEYS: u64 = 17;
pub const TO_THE_END: [&str; 4] = ["run", "p.sql", "--trigger", "available now"];

/// A folder with a pipeline over files; each run of it is one epoch.
pub struct Stage {
    pub weir: Weir,
    pub files: u64,
}

impl Stage {
    pub fn new(sql: &str) -> Self {
        let weir = Weir::new();
        weir.write("p.sql", sql);
        Self { weir, files: 0 }
    }

    pub fn add(&mut self) {
        let line = |id: u64| format!("{{\"id\":{id},\"k\":{},\"v\":{}}}\n", id * 7 % KEYS, id % 100);
        let lines: String = (self.files * PER_FILE..(self.files + 1) * PER_FILE).map(line).collect();
        self.weir.write(&format!("in/{:05}.jsonl", self.files), &lines);
        self.files += 1;
    }

    /// So many committed epochs more.
    pub fn epochs(&mut self, count: u64) {
        for _ in 0..count {
            self.add();
            self.weir.succeed(&TO_THE_END);
        }
    }

    /// Another epoch that ends at a failpoint.
    pub fn crash(&mut self, point: &str) {
        self.add();
        let mut running = self.weir.start(&TO_THE_END, &[("WEIR_FAILPOINTS", &format!("{point}=abort"))], "log");
        assert_eq!(running.wait(std::time::Duration::from_secs(60)), None, "{point} was passed: {}", running.printed());
    }

    pub fn table(&self, name: &str) -> PathBuf {
        self.weir.path("warehouse").join(name)
    }

    /// All tables hold exactly the input.
    pub fn check(&self) {
        let rows = self.files * PER_FILE;
        let found = self.weir.query("SELECT count(*), count(DISTINCT id), max(id) FROM everything");
        assert_eq!(found, [format!("{rows},{rows},{}", rows - 1)]);
        let found = self.weir.query("SELECT count(*), count(DISTINCT id) FROM some");
        assert_eq!(found, [format!("{0},{0}", rows / 2)]);
        if self.table("per_key").exists() {
            let total: u64 = (0..rows).map(|id| id % 100).sum();
            let found = self.weir.query("SELECT count(*), sum(n), sum(total) FROM per_key");
            assert_eq!(found, [format!("{KEYS},{rows},{total}")]);
        }
    }

    /// The next run stops with exit code 4 and prints all of these; nothing is committed.
    pub fn refused(&self, wanted: &[&str]) {
        let before = self.logs();
        let output = self.weir.run(&TO_THE_END);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{errors}");
        for text in wanted {
            assert!(errors.contains(text), "`{text}` is not in: {errors}");
        }
        assert_eq!(self.logs(), before, "a refused start commits nothing");
    }

    /// The log entries of all tables that are there.
    fn logs(&self) -> BTreeSet<PathBuf> {
        let folders =
            ["everything", "per_key", "some", "_weir/p/dead_letters"].map(|name| self.table(name).join("_delta_log"));
        let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    pub fn restore(&self, epoch: u64) -> String {
        self.weir.succeed(&["restore", "--pipeline", "p", "--epoch", &epoch.to_string()])
    }

    pub fn newest_manifest(&self) -> PathBuf {
        let folder = std::fs::read_dir(self.weir.path("warehouse/_weir/p/manifests")).unwrap();
        folder.map(|entry| entry.unwrap().path()).max().unwrap()
    }
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copied = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &copied),
            false => assert_eq!(std::fs::copy(&path, copied).unwrap(), path.metadata().unwrap().len()),
        }
    }
}

/// Puts a copy in a folder's place.
fn put_back(copied: &Path, folder: &Path) {
    std::fs::remove_dir_all(folder).unwrap();
    copy(copied, folder);
}

/// The version of a table that committed each epoch.
fn versions(table: &Path) -> BTreeMap<u64, u64> {
    let mut versions = BTreeMap::new();
    for entry in std::fs::read_dir(table.join("_delta_log")).unwrap() {
        let path = entry.unwrap().path();
        let Some(version) = path.file_stem().and_then(|name| name.to_str()?.parse::<u64>().ok()) else { continue };
        let logged = std::fs::read_to_string(&path).unwrap();
        let actions = logged.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut epochs = actions
            .filter(|action| action["txn"]["appId"] == "weir:p")
            .filter_map(|action| action["txn"]["version"].as_u64());
        if let Some(epoch) = epochs.next() {
            versions.insert(epoch, version);
        }
    }
    versions
}

/// A RESTORE by another program.
pub fn restore_by_other(table: &Path, epoch: u64) {
    let version = versions(table)[&epoch];
    let url = url::Url::from_directory_path(table).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let table = deltalake::open_table(url).await.unwrap();
        table.restore().with_version_to_restore(version).await.unwrap();
    });
}

#[test]
fn without_its_manifest_a_half_done_epoch_stops_the_pipeline_and_a_restore_mends_it() {
    for sql in [SQL, STATELESS] {
        let mut stage = Stage::new(sql);
        stage.epochs(2);
        stage.crash("epoch.between_sinks");
        std::fs::remove_file(stage.newest_manifest()).unwrap();
        stage.refused(&[
            "manifest",
            "of epoch 3",
            "is missing",
            "`everything` has epoch 3",
            "`some` has epoch 2",
            "weir restore --pipeline p --epoch 2",
        ]);
        let printed = stage.restore(2);
        assert!(printed.contains("everything: epoch 2, version"), "{printed}");
        assert!(printed.contains("some: epoch 2, left as it is"), "{printed}");
        stage.weir.succeed(&TO_THE_END);
        stage.check();
    }
}

#[test]
fn without_its_manifest_a_complete_epoch_is_continued_from_the_tables() {
    let mut stage = Stage::new(STATELESS);
    stage.epochs(2);
    std::fs::remove_dir_all(stage.weir.path("warehouse/_weir/p/manifests")).unwrap();
    stage.epochs(2);
    stage.check();
}

#[test]
fn tables_that_were_all_restored_to_one_epoch_continue_there_with_state_and_offsets() {
    let mut stage = Stage::new(SQL);
    stage.epochs(4);
    for table in ["everything", "per_key", "some"] {
        restore_by_other(&stage.table(table), 2);
    }
    assert_eq!(stage.weir.number("SELECT count(*) FROM everything"), 2 * PER_FILE as i64);
    stage.epochs(1);
    stage.check();
    stage.epochs(2);
    stage.check();
}

#[test]
fn one_table_that_was_restored_alone_stops_the_pipeline_and_a_restore_brings_it_forward_again() {
    for table in ["everything", "per_key", "some"] {
        for epoch in [2, 3] {
            let mut stage = Stage::new(SQL);
            stage.epochs(4);
            restore_by_other(&stage.table(table), epoch);
            stage.add();
            let named = format!("`{table}` has epoch {epoch}");
            stage.refused(&[&named, "has epoch 4", "weir restore --pipeline p --epoch 4"]);
            stage.restore(4);
            stage.weir.succeed(&TO_THE_END);
            stage.check();
        }
    }
}

#[test]
fn a_restore_to_what_the_newest_epoch_left_changes_nothing() {
    let mut stage = Stage::new(STATELESS);
    stage.epochs(2);
    let table = stage.table("some");
    let url = url::Url::from_directory_path(&table).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (opened, _) = deltalake::open_table(url.clone()).await.unwrap().delete().await.unwrap();
        drop(opened);
    });
    restore_by_other(&table, 2);
    stage.epochs(1);
    stage.check();
}

#[test]
fn a_folder_that_was_copied_back_stops_the_pipeline() {
    for table in ["everything", "per_key", "some"] {
        for behind in [1, 2] {
            let mut stage = Stage::new(SQL);
            stage.epochs(2);
            let copied = stage.weir.path("copied");
            copy(&stage.table(table), &copied);
            stage.epochs(behind);
            put_back(&copied, &stage.table(table));
            stage.add();
            let newest = format!("has epoch {}", 2 + behind);
            stage.refused(&[&format!("`{table}` has epoch 2"), &newest, "weir restore --pipeline p --epoch 2"]);
            stage.restore(2);
            stage.weir.succeed(&TO_THE_END);
            stage.check();
        }
    }
}

#[test]
fn folders_that_were_all_copied_back_to_one_epoch_continue_there() {
    let mut stage = Stage::new(SQL);
    stage.epochs(2);
    let tables = ["everything", "per_key", "some", "_weir/p/dead_letters"];
    for table in tables {
        copy(&stage.table(table), &stage.weir.path("copied").join(table));
    }
    stage.epochs(2);
    for table in tables {
        put_back(&stage.weir.path("copied").join(table), &stage.table(table));
    }
    stage.epochs(1);
    stage.check();
}

#[test]
fn a_table_whose_folder_is_gone_is_not_made_again() {
    let mut stage = Stage::new(SQL);
    stage.epochs(2);
    let (folder, away) = (stage.table("some"), stage.weir.path("away"));
    std::fs::rename(&folder, &away).unwrap();
    stage.refused(&["table `some` of pipeline `p` does not exist", "It had epoch 1"]);
    assert!(!folder.exists());
    std::fs::rename(&away, &folder).unwrap();
    stage.epochs(1);
    stage.check();
    for table in ["everything", "per_key", "some", "_weir/p/dead_letters"] {
        std::fs::remove_dir_all(stage.table(table)).unwrap();
    }
    stage.refused(&["does not exist"]);
}

#[test]
fn a_folder_that_goes_while_the_pipeline_runs_stops_it_and_gets_no_entry() {
    let mut stage = Stage::new(SQL);
    stage.epochs(1);
    stage.add();
    let folder = stage.table("per_key");
    // The epoch waits before its first commit until the folder is gone.
    let mut running = stage.weir.start(&TO_THE_END, &[("WEIR_FAILPOINTS", "epoch.after_manifest=pause:3000")], "log");
    let manifests = || std::fs::read_dir(stage.weir.path("warehouse/_weir/p/manifests")).unwrap().count();
    while manifests() < 2 {
        assert!(running.runs(), "{}", running.printed());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::fs::rename(&folder, stage.weir.path("away")).unwrap();
    assert_eq!(running.wait(std::time::Duration::from_secs(60)), Some(4), "{}", running.printed());
    assert!(running.printed().contains("the log of table `per_key`"), "{}", running.printed());
    assert!(!folder.join("_delta_log").exists());
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::rename(stage.weir.path("away"), &folder).unwrap();
    stage.weir.succeed(&TO_THE_END);
    stage.check();
}

#[test]
fn a_warehouse_that_was_moved_after_a_crash_rolls_forward_where_it_is_now() {
    let mut stage = Stage::new(SQL);
    stage.epochs(1);
    stage.crash("epoch.between_sinks");
    std::fs::rename(stage.weir.path("warehouse"), stage.weir.path("moved")).unwrap();
    stage.weir.write("config/weir.yaml", "warehouse: moved\n");
    stage.weir.succeed(&TO_THE_END);
    assert!(!stage.weir.path("warehouse").exists());
    let rows = 2 * PER_FILE as i64;
    assert_eq!(stage.weir.query("SELECT count(*), count(DISTINCT id) FROM some"), [format!("{0},{0}", rows / 2)]);
    assert_eq!(stage.weir.number("SELECT sum(n) FROM per_key"), rows);
}

#[test]
fn a_restore_takes_everything_back_and_what_follows_is_computed_again() {
    let mut stage = Stage::new(SQL);
    stage.epochs(5);
    let printed = stage.restore(3);
    assert!(printed.contains("back to epoch 3"), "{printed}");
    assert_eq!(stage.weir.number("SELECT count(*) FROM everything"), 3 * PER_FILE as i64);
    assert_eq!(stage.weir.number("SELECT sum(n) FROM per_key"), 3 * PER_FILE as i64);
    stage.weir.succeed(&TO_THE_END);
    stage.check();
    // Again, over the epochs that were computed anew.
    stage.epochs(1);
    stage.restore(4);
    stage.restore(3);
    stage.epochs(1);
    stage.check();
}

#[test]
fn a_restore_that_dies_anywhere_is_run_again() {
    for point in
        ["restore.before_table", "restore.before_table@2", "restore.before_table@4", "restore.before_manifests"]
    {
        let mut stage = Stage::new(SQL);
        stage.epochs(3);
        let points = format!("{point}=abort");
        let restore = ["restore", "--pipeline", "p", "--epoch", "1"];
        let mut running = stage.weir.start(&restore, &[("WEIR_FAILPOINTS", &points)], "log");
        assert_eq!(running.wait(std::time::Duration::from_secs(60)), None, "{point}: {}", running.printed());
        stage.refused(&["a restore of pipeline `p` to epoch 1 did not finish", "weir restore --pipeline p --epoch 1"]);
        stage.restore(1);
        stage.weir.succeed(&TO_THE_END);
        stage.check();
    }
}

#[test]
fn a_restore_that_cannot_be_whole_changes_nothing() {
    let mut stage = Stage::new(SQL);
    stage.epochs(3);
    let refused = |stage: &Stage, epoch: &str, code: i32, wanted: &[&str]| {
        let before = stage.logs();
        let output = stage.weir.run(&["restore", "--pipeline", "p", "--epoch", epoch]);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        wanted.iter().for_each(|text| assert!(errors.contains(text), "`{text}` is not in {errors}"));
        assert_eq!(stage.logs(), before);
    };
    refused(&stage, "9", 1, &["it has no manifest", "epochs 1 to 3"]);
    refused(&stage, "0", 1, &["0"]);
    stage.add();
    let mut running = stage.weir.start(&["run", "p.sql"], &[], "log");
    while !running.printed().contains("runId") {
        assert!(running.runs(), "{}", running.printed());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    refused(&stage, "1", 1, &["pipeline `p` is running"]);
    running.kill();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(stage.table("everything")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    files.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    let (first, whole) = (&files[0], std::fs::read(&files[0]).unwrap());
    std::fs::remove_file(first).unwrap();
    refused(
        &stage,
        "1",
        4,
        &["files that table `everything` had after epoch 1 are gone", first.file_name().unwrap().to_str().unwrap()],
    );
    std::fs::write(first, whole).unwrap();
    stage.restore(1);
    stage.weir.succeed(&TO_THE_END);
    stage.check();
}

const WITH_KAFKA: &str = "
CREATE SOURCE events (id BIGINT NOT NULL) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE everything (id BIGINT NOT NULL) USING DELTA;
CREATE TABLE some (id BIGINT NOT NULL) USING DELTA;
CREATE SINK alerts WITH (connector = 'kafka', bootstrap_servers = 'SERVERS', topic = 'TOPIC', format = 'json', delivery = 'exactly_once');
CREATE PIPELINE p WITH (trigger = '50 ms') AS BEGIN
  INSERT INTO everything SELECT id FROM events;
  INSERT INTO some SELECT id FROM events WHERE id % 2 = 0;
  INSERT INTO alerts SELECT id FROM events;
END;
";

fn with_kafka(topic: &str) -> Option<(Stage, std::sync::Arc<RealKafka>)> {
    let kafka = RealKafka::shared()?;
    kafka.create_topic(topic, 1);
    let servers = kafka.connection().bootstrap_servers;
    Some((Stage::new(&WITH_KAFKA.replace("SERVERS", &servers).replace("TOPIC", topic)), kafka))
}

/// Messages in the topic, and how many of them differ.
fn messages(kafka: &RealKafka, topic: &str) -> (usize, usize) {
    let all = kafka.read_committed(topic);
    let distinct: BTreeSet<_> = all.iter().map(|(_, payload)| payload.clone()).collect();
    (all.len(), distinct.len())
}

#[test]
fn an_epoch_that_only_kafka_has_is_not_sent_twice_without_its_manifest() {
    let Some((mut stage, kafka)) = with_kafka("lost-manifest") else { return };
    stage.epochs(1);
    stage.crash("epoch.after_kafka");
    std::fs::remove_file(stage.newest_manifest()).unwrap();
    stage.refused(&[
        "The Kafka sinks have epoch 2",
        "`everything` has epoch 1",
        "weir restore --pipeline p --epoch 1 FILE.sql",
    ]);
    let all = 2 * PER_FILE as usize;
    assert_eq!(messages(&kafka, "lost-manifest"), (all, all));
    let output = stage.weir.run(&["restore", "--pipeline", "p", "--epoch", "1"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let printed = stage.weir.succeed(&["restore", "--pipeline", "p", "--epoch", "1", "p.sql"]);
    assert!(printed.contains("the next run sends them again"), "{printed}");
    stage.weir.succeed(&TO_THE_END);
    stage.check();
    assert_eq!(messages(&kafka, "lost-manifest").1, all);
}

#[test]
fn of_a_copied_warehouse_only_the_one_that_is_ahead_continues() {
    let Some((mut stage, kafka)) = with_kafka("copied") else { return };
    stage.epochs(2);
    let (warehouse, copied) = (stage.weir.path("warehouse"), stage.weir.path("copied"));
    copy(&warehouse, &copied);
    stage.epochs(1);
    let ahead = stage.weir.path("ahead");
    std::fs::rename(&warehouse, &ahead).unwrap();
    std::fs::rename(&copied, &warehouse).unwrap();
    stage.refused(&["The Kafka sinks have epoch 3", "`everything` has epoch 2", "copy of this warehouse"]);
    std::fs::remove_dir_all(&warehouse).unwrap();
    std::fs::rename(&ahead, &warehouse).unwrap();
    stage.epochs(1);
    stage.check();
    let all = 4 * PER_FILE as usize;
    assert_eq!(messages(&kafka, "copied"), (all, all));
}

/// Removes what weir's group has recorded, as its expiry would.
fn forget(kafka: &RealKafka, warehouse: &Path) {
    let id = std::fs::read_to_string(warehouse.join("_weir/p/id")).unwrap();
    let group = format!("weir-p-{}-epochs", id.trim());
    let admin = kafka.admin();
    for result in block_on(admin.delete_groups(&[&group], &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
}

#[test]
fn kafka_without_its_record_is_neither_new_nor_repeated() {
    let Some((mut stage, kafka)) = with_kafka("forgot") else { return };
    let all = |epochs: u64| (epochs * PER_FILE) as usize;
    // Nothing was under way: the record is made again.
    stage.epochs(2);
    forget(&kafka, &stage.weir.path("warehouse"));
    stage.epochs(1);
    assert_eq!(messages(&kafka, "forgot"), (all(3), all(3)));
    // An epoch was under way and may be in Kafka.
    stage.crash("epoch.after_kafka");
    forget(&kafka, &stage.weir.path("warehouse"));
    stage.refused(&[
        "have no record of what they committed",
        "Epoch 4 was begun",
        "weir restore --pipeline p --epoch 3 FILE.sql",
    ]);
    assert_eq!(messages(&kafka, "forgot"), (all(4), all(4)));
    stage.weir.succeed(&["restore", "--pipeline", "p", "--epoch", "3", "p.sql"]);
    stage.weir.succeed(&TO_THE_END);
    stage.check();
    assert_eq!(messages(&kafka, "forgot").1, all(4));
}

#[test]
fn kafka_that_forgets_the_very_first_epoch_is_not_new() {
    let Some((mut stage, kafka)) = with_kafka("forgot-first") else { return };
    stage.crash("epoch.after_kafka");
    forget(&kafka, &stage.weir.path("warehouse"));
    stage.refused(&["have no record of what they committed", "Epoch 1 was begun", "remove `_weir/p/manifests`"]);
    std::fs::remove_dir_all(stage.weir.path("warehouse/_weir/p/manifests")).unwrap();
    stage.weir.succeed(&TO_THE_END);
    stage.check();
}

mod edited;
mod moved;
mod places;
