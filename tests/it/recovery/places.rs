//! Warehouses, tables and pipelines whose folders have names that a URL would change, and what lies beside them.

use super::*;

/// Percent signs before two hexadecimal digits, and what else an address has a meaning for.
const NAMES: [&str; 6] = ["./ü w%20h", "a%41", "a b#c?d=e&f", "100%/%2e%2e", "back\\slash", "it's \"w\""];

fn config(stage: &Stage, warehouse: &str) {
    let quoted = serde_json::to_string(warehouse).unwrap();
    stage.weir.write("config/weir.yaml", &format!("warehouse: {quoted}\n"));
}

/// A run, an epoch after it, a status, a backup, and a restore to a folder of another such name.
fn works(stage: &mut Stage, other: &str) {
    stage.epochs(2);
    stage.check();
    stage.weir.succeed(&["check", "p.sql", "--against-state"]);
    assert!(stage.weir.succeed(&["status"]).contains("epoch 2"));
    assert_eq!(stage.weir.query("SELECT count(*) FROM weir.progress"), ["2"]);
    assert_eq!(stage.weir.query("SELECT table_name FROM weir.tables WHERE error IS NULL"), ["everything", "some"]);
    stage.weir.succeed(&["backup", "kept %20"]);
    stage.crash("epoch.between_sinks");
    stage.weir.succeed(&TO_THE_END);
    stage.check();
    stage.weir.succeed(&["restore", "--pipeline", "p", "--epoch", "2"]);
    stage.weir.succeed(&TO_THE_END);
    stage.check();
    let _ = std::fs::remove_dir_all(stage.weir.path(other));
    stage.weir.succeed(&["restore", "--from", "kept %20", "--to", other]);
    config(stage, other);
    stage.weir.succeed(&TO_THE_END);
    stage.check();
}

#[test]
fn a_warehouse_may_have_any_name_relative_and_absolute() {
    for (index, name) in NAMES.iter().enumerate() {
        let mut stage = Stage::new(STATELESS);
        config(&stage, name);
        works(&mut stage, NAMES[(index + 1) % NAMES.len()]);
        let absolute = stage.weir.path(&format!("deep/{name}")).display().to_string();
        let mut stage = Stage { weir: stage.weir, files: 0 };
        std::fs::remove_dir_all(stage.weir.path("in")).unwrap();
        std::fs::remove_dir_all(stage.weir.path("kept %20")).unwrap();
        config(&stage, &absolute);
        let to = stage.weir.path("to/%41").display().to_string();
        works(&mut stage, &to);
    }
}

#[test]
fn a_location_may_have_any_name() {
    for name in NAMES {
        for absolute in [false, true] {
            let weir = Weir::new();
            let place = if absolute { weir.path(name).display().to_string() } else { name.to_owned() };
            let declared = format!("some (id BIGINT NOT NULL) USING DELTA LOCATION '{}'", place.replace('\'', "''"));
            weir.write("p.sql", &STATELESS.replace("some (id BIGINT NOT NULL) USING DELTA", &declared));
            let mut stage = Stage { weir, files: 0 };
            stage.epochs(2);
            stage.crash("epoch.between_sinks");
            stage.weir.succeed(&TO_THE_END);
            let sql = "SELECT count(*), count(DISTINCT id) FROM some";
            let found = stage.weir.succeed(&["query", "--format", "csv", "-f", "p.sql", sql]);
            assert_eq!(found.lines().nth(1), Some("300,300"), "{place}");
            assert!(stage.weir.path(name).join("_delta_log").exists(), "{place}");
        }
    }
}

#[test]
fn folders_of_others_with_odd_names_are_in_nobodys_way() {
    let mut stage = Stage::new(STATELESS);
    stage.epochs(1);
    copy(&stage.table("some"), &stage.table("t%41/b%20c"));
    copy(&stage.table("some"), &stage.table("t%41x"));
    stage.weir.write("warehouse/a%41/file", "x");
    stage.weir.write("warehouse/broken/_delta_log/00000000000000000000.json", "no entry");
    let output = stage.weir.run(&["backup", "kept"]);
    let errors = text(&output.stderr);
    assert!(output.status.success() && errors.contains("a table of no pipeline cannot be read"), "{errors}");
    assert_eq!(stage.weir.query("SELECT count(*) FROM \"t%41x\""), [(PER_FILE / 2).to_string()]);
    stage.weir.succeed(&["restore", "--from", "kept", "--to", "again"]);
    assert!(stage.weir.path("again/t%41/b%20c/_delta_log").exists() && !stage.weir.path("again/broken").exists());
    // One that a pipeline writes is no such thing.
    std::fs::write(stage.table("some/_delta_log/00000000000000000001.json"), "no entry").unwrap();
    assert!(!stage.weir.run(&["backup", "kept"]).status.success());
}

#[test]
fn pipelines_with_slashes_are_listed() {
    let mut stage = Stage::new(&STATELESS.replace("PIPELINE p", "PIPELINE \"team/ü %41/p\"").replace("%41", "x"));
    stage.epochs(2);
    let printed = stage.weir.succeed(&["status"]);
    assert!(printed.contains("team/ü x/p  epoch 2"), "{printed}");
    stage.weir.succeed(&["status", "team/ü x/p"]);
    assert_eq!(stage.weir.query("SELECT DISTINCT pipeline FROM weir.progress"), ["team/ü x/p"]);
}

/// The files below a folder.
fn files(folder: std::fs::ReadDir) -> Vec<PathBuf> {
    let paths = folder.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(path.read_dir().unwrap()) } else { vec![path] }).collect()
}

#[test]
fn a_backup_without_a_state_file_says_which() {
    let mut stage = Stage::new(SQL);
    stage.epochs(1);
    let states = std::fs::read_dir(stage.table("_weir/p/state")).unwrap();
    files(states).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let output = stage.weir.run(&["backup", "kept"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{errors}");
    assert!(errors.contains("state file `_weir/p/state/") && errors.contains("does not exist"), "{errors}");
}

#[test]
fn of_an_empty_warehouse_no_backup_is_taken() {
    let weir = Weir::new();
    let output = weir.run(&["backup", "kept"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("is empty: there is nothing to back up"), "{errors}");
    assert!(!weir.path("kept/backups").exists());
}

#[test]
fn pipelines_whose_records_in_one_table_would_be_confused_are_refused_it() {
    for (first, second) in [("p", "p:manifest"), ("p:manifest", "p")] {
        let named = |name: &str| STATELESS.replace("PIPELINE p", &format!("PIPELINE \"{name}\""));
        let mut stage = Stage::new(&named(first));
        stage.epochs(1);
        stage.weir.write("p.sql", &named(second));
        let output = stage.weir.run(&TO_THE_END);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(&format!("pipeline `{second}` cannot write table `everything`")), "{errors}");
        stage.weir.write("p.sql", &named(first));
        stage.epochs(1);
        stage.check();
    }
}

/// A log entry of a table, and the bytes in it.
fn entry(stage: &Stage, table: &str, version: u64) -> (PathBuf, Vec<u8>) {
    let path = stage.table(table).join(format!("_delta_log/{version:020}.json"));
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn folders_that_changed_places_stop_the_pipeline_and_a_restore() {
    let refused = "of pipeline `p` holds the table";
    let same_columns = STATELESS.replace("some (id BIGINT NOT NULL)", "some (id BIGINT NOT NULL, k BIGINT)");
    let same_columns = same_columns.replace("SELECT id FROM", "SELECT id, k FROM");
    let mut stage = Stage::new(&same_columns);
    stage.epochs(3);
    let (everything, some, aside) = (stage.table("everything"), stage.table("some"), stage.table("aside"));
    let exchange = || {
        std::fs::rename(&everything, &aside).unwrap();
        std::fs::rename(&some, &everything).unwrap();
        std::fs::rename(&aside, &some).unwrap();
    };
    exchange();
    stage.add();
    stage.refused(&["the folder of table `everything`", refused, "Put each table's folder where it was"]);
    let output = stage.weir.run(&["restore", "--pipeline", "p", "--epoch", "2"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains(refused), "{}", text(&output.stderr));
    exchange();
    stage.weir.succeed(&TO_THE_END);
    stage.check();
    // Without the newest manifest the tables' commits tell.
    exchange();
    std::fs::remove_file(stage.newest_manifest()).unwrap();
    stage.add();
    stage.refused(&[refused]);
    exchange();
    stage.weir.succeed(&TO_THE_END);
    stage.check();
    // One is overwritten with a copy of the other.
    std::fs::rename(&some, &aside).unwrap();
    copy(&everything, &some);
    stage.add();
    stage.refused(&["the folder of table `some`", "holds the table `everything`"]);
    std::fs::remove_dir_all(&some).unwrap();
    std::fs::rename(&aside, &some).unwrap();
    stage.weir.succeed(&TO_THE_END);
    stage.check();
}

#[test]
fn a_restore_looks_at_the_files_of_tables_that_it_leaves_as_they_are() {
    let mut stage = Stage::new(&STATELESS.replace("WHERE id % 2 = 0", "WHERE id < 200 AND id % 2 = 0"));
    stage.epochs(3);
    let file = files(std::fs::read_dir(stage.table("some")).unwrap())
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "parquet"))
        .unwrap();
    let kept = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let before = stage.logs();
    let output = stage.weir.run(&["restore", "--pipeline", "p", "--epoch", "2"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{errors}");
    let name = file.file_name().unwrap().to_str().unwrap();
    for wanted in ["files that table `some` had after epoch 2 are gone", name, "Nothing was changed"] {
        assert!(errors.contains(wanted), "`{wanted}` is not in {errors}");
    }
    assert_eq!(stage.logs(), before, "a table was taken back all the same");
    std::fs::write(&file, kept).unwrap();
    stage.restore(2);
    stage.weir.succeed(&TO_THE_END);
}

#[test]
fn a_log_entry_that_was_lost_is_named_and_no_row_is() {
    let mut stage = Stage::new(SQL);
    stage.epochs(4);
    for table in ["everything", "per_key"] {
        let (path, whole) = entry(&stage, table, 2);
        let last_line = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
        for lost in [&b""[..], b"\n", b"   ", &whole[..=last_line]] {
            std::fs::write(&path, lost).unwrap();
            let named = format!("log entry `_delta_log/{:020}.json`", 2);
            stage.refused(&[&named, "Put the file back from a backup"]);
            let query = format!("SELECT count(*) FROM {table}");
            let as_of = format!("SELECT count(*) FROM {table} VERSION AS OF 3");
            for command in
                [&["query", query.as_str()][..], &["query", &as_of], &["verify", "p.sql"], &["backup", "kept"]]
            {
                let output = stage.weir.run(command);
                let errors = text(&output.stderr);
                assert_eq!(output.status.code(), Some(4), "{command:?}: {errors}");
                assert!(errors.contains(&named), "{command:?}: {errors}");
            }
        }
        std::fs::write(&path, whole).unwrap();
        stage.epochs(1);
        stage.check();
    }
    // The newest: a writer died in it, or the write was lost. The manifest knows what was committed.
    for table in ["everything", "per_key"] {
        let log = files(std::fs::read_dir(stage.table(table).join("_delta_log")).unwrap());
        let newest = log.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")).max();
        std::fs::write(newest.unwrap(), "").unwrap();
        stage.epochs(1);
        stage.check();
    }
    stage.weir.succeed(&["verify", "p.sql"]);
}
