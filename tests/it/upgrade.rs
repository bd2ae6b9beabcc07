//! A warehouse that an older version wrote and left half committed, continued by this one: state of every kind, tables of every kind,
//! manifests and dead letters. `tests/data/upgrade` has it and says how it was made.

use std::path::Path;
use std::process::Command;

use crate::program::Weir;

const TO_THE_END: [&str; 4] = ["run", "p.sql", "--trigger", "available now"];
/// Records of an input file.
const PER_FILE: i64 = 120;

/// The old warehouse with its SQL, in a folder of its own.
fn old() -> Weir {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/upgrade");
    let weir = Weir::new();
    weir.write("p.sql", &std::fs::read_to_string(data.join("p.sql")).unwrap());
    let unpacked = Command::new("tar").arg("xzf").arg(data.join("old.tar.gz")).arg("-C").arg(weir.path("")).status();
    assert!(unpacked.unwrap().success());
    weir
}

/// Lets every window end and compares the tables of pipeline `p` with the batch, those of `q` with what `files` input files hold.
fn check(weir: &Weir, files: i64) {
    let sql = std::fs::read_to_string(weir.path("p.sql")).unwrap();
    weir.write("p.sql", &sql.replace("at_end = 'keep'", "at_end = 'flush'"));
    weir.succeed(&TO_THE_END);
    let (others, _) = sql.split_once("-- What a batch does not tell").unwrap();
    weir.write("p.sql", &others.replace("at_end = 'keep'", "at_end = 'flush'"));
    let verdict = weir.succeed(&["verify", "p.sql"]);
    let targets = others.matches("INSERT INTO").count();
    assert_eq!(verdict.matches("  ok  ").count(), targets, "{verdict}");
    assert_eq!(verdict.matches(" 0 not due yet").count(), targets, "{verdict}");

    // Every 50th record is no JSON, every 40th breaks a CHECK, every 37th has no value, which breaks it too.
    let records = 0..files * PER_FILE;
    let good = records.clone().filter(|n| n % 50 != 49);
    let refused = good.clone().filter(|n| n % 40 == 3 || n % 37 == 5).count() as i64;
    let (records, good) = (records.count() as i64, good.count() as i64);
    assert_eq!(weir.number("SELECT count(*) FROM appended"), good - refused);
    let letters = "SELECT count(*) FROM weir.dead_letters WHERE reason";
    assert_eq!(weir.number(&format!("{letters} LIKE '%violates constraint%'")), refused);
    assert_eq!(weir.number(&format!("{letters} LIKE 'not valid JSON%'")), 2 * (records - good));
    let newest = newest(weir, files);
    assert_eq!(weir.query("SELECT k, id, coalesce(p, '-') FROM newest ORDER BY k"), newest);
    assert_eq!(
        weir.query("SELECT c.k, c.id, coalesce(n.p, '-') FROM copied c JOIN newest n ON n.k = c.k ORDER BY 1"),
        newest
    );
    // The frame holds a key's rows up to each one's time, and they arrive nearly in order.
    let counted = "SELECT count(*) FROM (SELECT k, max(n) AS n, count(*) AS ids FROM arrived GROUP BY k) WHERE n < ids";
    assert_eq!(weir.number(counted), 0);
}

/// Per key its last record, as a query prints it.
fn newest(weir: &Weir, files: i64) -> Vec<String> {
    let mut newest = std::collections::BTreeMap::new();
    for file in 0..files {
        let text = std::fs::read_to_string(weir.path(&format!("in/{file:03}.jsonl"))).unwrap();
        for row in text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
            let k = row["k"].as_i64().unwrap();
            newest.insert(k, format!("{k},{},{}", row["id"], row["p"].as_str().unwrap_or("-")));
        }
    }
    newest.into_values().collect()
}

#[test]
fn a_half_committed_warehouse_of_the_version_before_is_finished_and_continued_exactly_once() {
    let weir = old();
    for entry in std::fs::read_dir(weir.path("later")).unwrap() {
        let entry = entry.unwrap();
        std::fs::rename(entry.path(), weir.path("in").join(entry.file_name())).unwrap();
    }
    check(&weir, 7);
}

#[test]
fn the_epoch_that_the_version_before_left_half_done_is_finished_without_new_input() {
    check(&old(), 5);
}
