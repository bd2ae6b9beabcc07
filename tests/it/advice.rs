//! The advice of a refused start is followed here as it is written, and then works.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::text;
use crate::recovery::{PER_FILE, SQL, STATELESS, Stage, TO_THE_END, copy, restore_by_other};

const TABLES: [&str; 3] = ["everything", "per_key", "some"];

impl Stage {
    /// The errors of the next run, which stops with exit code 4.
    fn errors(&self) -> String {
        let output = self.weir.run(&TO_THE_END);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{errors}");
        errors
    }

    /// Types the `weir restore` command that the errors advise into a shell. Returns what it prints.
    fn type_advice(&self, errors: &str) -> String {
        let advised = errors.split('`').find(|part| part.starts_with("weir restore --pipeline"));
        let advised = advised.unwrap_or_else(|| panic!("no command in: {errors}")).replace("FILE.sql", "p.sql");
        let program = self.weir.command(&[]).get_program().to_string_lossy().into_owned();
        let typed = advised.replacen("weir", &format!("'{program}'"), 1);
        let output = Command::new("sh").args(["-c", &typed]).current_dir(self.weir.path("")).output().unwrap();
        assert!(output.status.success(), "{typed}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Follows the advice of the refused start, to an epoch; then the pipeline continues to the right end.
    fn follow_to(&mut self, epoch: u64) {
        let errors = self.errors();
        assert!(errors.contains(&format!("--epoch {epoch}")), "{errors}");
        self.type_advice(&errors);
        self.weir.succeed(&TO_THE_END);
        self.check();
        self.epochs(1);
        self.check();
    }

    /// No epoch can be restored: the pipeline begins again.
    fn begin_again(&mut self) {
        let errors = self.errors();
        assert!(!errors.contains("weir restore --pipeline"), "{errors}");
        assert!(errors.contains("remove `_weir/p` and the pipeline's tables"), "{errors}");
        for folder in TABLES.into_iter().chain(["_weir/p"]) {
            let _ = std::fs::remove_dir_all(self.table(folder));
        }
        self.weir.succeed(&TO_THE_END);
        self.check();
        self.epochs(1);
        self.check();
    }

    fn manifests(&self) -> PathBuf {
        self.weir.path("warehouse/_weir/p/manifests")
    }

    fn manifest(&self, epoch: u64) -> serde_json::Value {
        let of = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{epoch:020}-"));
        let mut paths = std::fs::read_dir(self.manifests()).unwrap().map(|entry| entry.unwrap().path());
        serde_json::from_slice(&std::fs::read(paths.find(|path| of(path)).unwrap()).unwrap()).unwrap()
    }
}

/// A stage with committed epochs, and a dead letter in the first.
fn started(sql: &str, epochs: u64) -> Stage {
    let mut stage = Stage::new(sql);
    stage.weir.write("in/bad.jsonl", "{\"id\":null}\n");
    stage.epochs(epochs);
    stage
}

#[test]
fn a_half_done_epoch_without_its_manifest() {
    for sql in [SQL, STATELESS] {
        let mut stage = started(sql, 2);
        stage.crash("epoch.between_sinks");
        std::fs::remove_file(stage.newest_manifest()).unwrap();
        stage.follow_to(2);
        stage.crash("epoch.between_sinks");
        std::fs::remove_dir_all(stage.manifests()).unwrap();
        stage.begin_again();
    }
}

#[test]
fn the_state_of_the_newest_epoch_without_its_manifest() {
    let mut stage = started(SQL, 3);
    std::fs::remove_file(stage.newest_manifest()).unwrap();
    stage.follow_to(2);
    std::fs::remove_dir_all(stage.manifests()).unwrap();
    let errors = stage.errors();
    assert!(!errors.contains("weir restore --pipeline") && errors.contains("weir run --allow-rebuild"), "{errors}");
    stage.add();
    stage.weir.succeed(&["run", "p.sql", "--trigger", "available now", "--allow-rebuild"]);
    assert_eq!(stage.weir.number("SELECT count(*) FROM everything"), (stage.files * PER_FILE) as i64);
}

#[test]
fn dead_letters_whose_folder_is_gone() {
    for crash in [false, true] {
        for sql in [SQL, STATELESS] {
            let mut stage = started(sql, 3);
            if crash {
                stage.crash("epoch.between_sinks");
            }
            std::fs::remove_dir_all(stage.table("_weir/p/dead_letters")).unwrap();
            let errors = stage.errors();
            assert!(errors.contains("make the table again, empty: `weir restore --pipeline p --epoch 3`"), "{errors}");
            stage.follow_to(3);
            assert_eq!(stage.weir.number("SELECT count(*) FROM weir.dead_letters"), 0);
            // Epochs of the old table can still be gone back to.
            stage.restore(2);
            stage.epochs(1);
            stage.check();
        }
    }
}

#[test]
fn a_restore_of_dead_letters_that_dies_is_run_again() {
    let mut stage = started(STATELESS, 2);
    std::fs::remove_dir_all(stage.table("_weir/p/dead_letters")).unwrap();
    let restore = ["restore", "--pipeline", "p", "--epoch", "2"];
    let mut running = stage.weir.start(&restore, &[("WEIR_FAILPOINTS", "restore.before_manifests=abort")], "log");
    assert_eq!(running.wait(std::time::Duration::from_secs(60)), None, "{}", running.printed());
    stage.follow_to(2);
}

#[test]
fn files_of_the_newest_epoch_that_are_gone() {
    let mut stage = started(SQL, 2);
    stage.crash("epoch.between_sinks");
    let manifest = stage.manifest(3);
    let tables = manifest["tables"].as_array().unwrap();
    let add = |name: &str| {
        let table = tables.iter().find(|table| table["name"] == name).unwrap();
        stage.table(name).join(table["adds"][0]["path"].as_str().unwrap())
    };
    std::fs::remove_file(add("some")).unwrap();
    stage.follow_to(2);
}

#[test]
fn a_table_that_was_put_back() {
    for table in TABLES {
        let mut stage = started(SQL, 2);
        copy(&stage.table(table), &stage.weir.path("copied"));
        stage.epochs(2);
        std::fs::remove_dir_all(stage.table(table)).unwrap();
        copy(&stage.weir.path("copied"), &stage.table(table));
        stage.follow_to(2);
        restore_by_other(&stage.table(table), 3);
        let newest = stage.manifests().read_dir().unwrap().count() as u64;
        stage.follow_to(newest);
    }
}

#[test]
fn tables_that_were_restored_to_an_epoch_whose_state_is_gone() {
    let newest = 10;
    let mut stage = started(SQL, newest);
    let folder = stage.table("_weir/p/state");
    let named = |epoch: u64| -> BTreeSet<String> {
        let state = stage.manifest(epoch)["state"].to_string();
        state.split('"').filter(|text| folder.join(text).is_file()).map(str::to_owned).collect()
    };
    let needed = named(newest);
    let only_old = |epoch: &u64| named(*epoch).difference(&needed).next().cloned();
    let (epoch, file) = (1..newest).find_map(|epoch| Some((epoch, only_old(&epoch)?))).unwrap();
    std::fs::remove_file(folder.join(file)).unwrap();
    TABLES.iter().for_each(|table| restore_by_other(&stage.table(table), epoch));
    stage.follow_to(newest);
}

#[test]
fn tables_that_were_restored_to_before_their_first_epoch() {
    let mut stage = started(STATELESS, 3);
    for table in ["everything", "some", "_weir/p/dead_letters"] {
        let url = url::Url::from_directory_path(stage.table(table)).unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            deltalake::open_table(url).await.unwrap().restore().with_version_to_restore(0).await.unwrap();
        });
    }
    stage.follow_to(3);
}

#[test]
fn tables_that_are_gone_with_everything_that_they_held() {
    let stage = started(STATELESS, 2);
    for table in ["everything", "some", "_weir/p/dead_letters"] {
        std::fs::remove_dir_all(stage.table(table)).unwrap();
    }
    let errors = stage.errors();
    assert!(errors.contains("declare it under another name or LOCATION"), "{errors}");
    let other = STATELESS.replace("everything (", "all_ (").replace("INTO everything", "INTO all_");
    stage.weir.write("p.sql", &other.replace("some (", "even (").replace("INTO some", "INTO even"));
    let errors = stage.errors();
    assert!(errors.contains("remove `_weir/p` and the pipeline's tables"), "{errors}");
    std::fs::remove_dir_all(stage.table("_weir/p")).unwrap();
    std::fs::remove_dir_all(stage.table("all_")).unwrap();
    std::fs::remove_dir_all(stage.table("even")).unwrap();
    stage.weir.succeed(&TO_THE_END);
    assert_eq!(stage.weir.number("SELECT count(*) FROM all_"), 2 * PER_FILE as i64);
}

#[test]
fn an_empty_table_in_the_place_of_one_that_is_gone() {
    let mut stage = started(STATELESS, 2);
    std::fs::remove_dir_all(stage.table("some")).unwrap();
    assert!(stage.errors().contains("declare it under another name or LOCATION"));
    stage.weir.write("p.sql", &STATELESS.replace("some (", "even (").replace("INTO some", "INTO even"));
    stage.add();
    assert!(stage.errors().contains("`weir run --allow-rebuild`"));
    stage.weir.succeed(&["run", "p.sql", "--trigger", "available now", "--allow-rebuild"]);
    stage.epochs(1);
    assert_eq!(stage.weir.number("SELECT count(*) FROM even"), PER_FILE as i64);
    assert_eq!(stage.weir.number("SELECT count(*) FROM everything"), 4 * PER_FILE as i64);
}

#[test]
fn one_epoch_from_two_runs() {
    let mut stage = started(SQL, 2);
    copy(&stage.weir.path("warehouse"), &stage.weir.path("twin"));
    stage.epochs(1);
    stage.weir.write("config/weir.yaml", "warehouse: twin\n");
    stage.weir.succeed(&TO_THE_END);
    std::fs::remove_file(stage.weir.path("config/weir.yaml")).unwrap();
    std::fs::remove_dir_all(stage.table("some")).unwrap();
    copy(&stage.weir.path("twin/some"), &stage.table("some"));
    assert!(stage.errors().contains("from two different runs"));
    stage.follow_to(2);
}

#[test]
fn tables_outside_of_the_warehouse_are_restored_only_if_the_sql_names_them() {
    let here = "some (id BIGINT NOT NULL) USING DELTA";
    let mut stage = started(&SQL.replace(here, &format!("{here} LOCATION 'elsewhere/some'")), 3);
    let entries = || stage.weir.path("elsewhere/some/_delta_log").read_dir().unwrap().count();
    let before = entries();
    stage.weir.write("other.sql", SQL);
    for (file, hint) in
        [("", "`weir restore --pipeline p --epoch 2 FILE.sql`"), ("other.sql", "declare it with this LOCATION")]
    {
        let mut arguments = vec!["restore", "--pipeline", "p", "--epoch", "2"];
        arguments.extend(Some(file).filter(|file| !file.is_empty()));
        let refused = stage.weir.run(&arguments);
        let errors = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{errors}");
        assert!(errors.contains("table `some` of pipeline `p` lies outside") && errors.contains(hint), "{errors}");
    }
    assert_eq!(entries(), before);
    stage.crash("epoch.between_sinks");
    std::fs::remove_file(stage.newest_manifest()).unwrap();
    let errors = stage.errors();
    stage.type_advice(&errors);
    stage.weir.succeed(&TO_THE_END);
    let found = stage.weir.succeed(&["query", "--format", "csv", "-f", "p.sql", "SELECT count(*) FROM some"]);
    assert_eq!(found.lines().nth(1), Some((stage.files * PER_FILE / 2).to_string().as_str()));
}

#[test]
fn a_pipeline_whose_name_a_shell_would_split() {
    let mut stage = started(&STATELESS.replace("PIPELINE p", "PIPELINE \"it's p\""), 2);
    let folder = stage.weir.path("warehouse/_weir/it's p/dead_letters");
    std::fs::remove_dir_all(folder).unwrap();
    let errors = stage.errors();
    let printed = stage.type_advice(&errors);
    assert!(printed.contains("weir.dead_letters: was gone, made again, empty"), "{printed}");
    stage.epochs(1);
    stage.check();
}
