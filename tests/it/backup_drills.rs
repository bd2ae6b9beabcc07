//! Backups of warehouses that were taken back in time, whose pipelines have odd names or whose tables have a LOCATION of their own:
//! restored elsewhere and continued, they end as the original does, and the original is never written to.

use std::collections::BTreeMap;

use crate::program::text;
use crate::recovery::{PER_FILE, SQL, STATELESS, Stage, TO_THE_END, restore_by_other};

impl Stage {
    fn back_up(&self) -> String {
        self.weir.succeed(&["backup", "kept"])
    }

    /// The newest backup as a warehouse in another place, which becomes the configured one.
    fn restore_to(&self, name: &str) {
        self.weir.succeed(&["restore", "--from", "kept", "--to", name]);
        self.weir.write("config/weir.yaml", &format!("warehouse: {name}\n"));
    }

    /// Every file below a folder, with its bytes; locks and progress aside.
    fn content(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let (mut content, mut folders) = (BTreeMap::new(), vec![self.weir.path(folder)]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(content.insert(path.display().to_string(), std::fs::read(&path).unwrap())),
                }
            }
        }
        content
    }
}

#[test]
fn a_backup_after_going_back_holds_what_was_computed_since() {
    for by_weir in [true, false] {
        for goes_on in [false, true] {
            let mut stage = Stage::new(SQL);
            stage.epochs(6);
            match by_weir {
                true => drop(stage.restore(4)),
                false => {
                    ["everything", "per_key", "some"].iter().for_each(|name| restore_by_other(&stage.table(name), 4));
                }
            }
            if goes_on {
                stage.weir.succeed(&TO_THE_END);
            }
            let printed = stage.back_up();
            let epoch = if goes_on { "epoch 5" } else { "epoch 4" };
            assert!(printed.contains(&format!("pipeline p  {epoch}")), "{printed}");
            stage.restore_to("elsewhere");
            let rows = (if goes_on { 6 } else { 4 }) * PER_FILE as i64;
            assert_eq!(stage.weir.number("SELECT count(*) FROM everything"), rows);
            assert_eq!(stage.weir.number("SELECT sum(n) FROM per_key"), rows);
            let original = stage.content("warehouse");
            stage.epochs(2);
            stage.check();
            assert_eq!(stage.content("warehouse"), original);
        }
    }
}

#[test]
fn pipelines_of_any_name_are_cut_where_they_are_whole() {
    for name in ["a:b", "a/b", "p:manifest", "ü 100%"] {
        let mut stage = Stage::new(&STATELESS.replace("PIPELINE p", &format!("PIPELINE \"{name}\"")));
        stage.epochs(2);
        stage.crash("epoch.between_sinks");
        let printed = stage.back_up();
        assert!(printed.contains(&format!("pipeline {name}  epoch 2")), "{printed}");
        assert!(printed.contains("  3 tables, "), "two tables and the dead letters: {printed}");
        stage.restore_to("elsewhere");
        assert_eq!(stage.weir.number("SELECT count(*) FROM everything"), 2 * PER_FILE as i64);
        assert!(stage.weir.path("elsewhere/_weir").join(name).join("manifests").exists());
        stage.epochs(1);
        stage.check();
    }
}

#[test]
fn a_pipeline_in_the_folder_of_another_has_its_own_files_only() {
    let mut stage = Stage::new(&STATELESS.replace("PIPELINE p", "PIPELINE a"));
    stage.epochs(1);
    let other =
        STATELESS.replace("everything", "all").replace("some", "even").replace("PIPELINE p", "PIPELINE \"a/b\"");
    stage.weir.write("other.sql", &other);
    stage.weir.succeed(&["run", "other.sql", "--trigger", "available now"]);
    let printed = stage.back_up();
    assert!(printed.contains("pipeline a  epoch 1") && printed.contains("pipeline a/b  epoch 1"), "{printed}");
    stage.restore_to("elsewhere");
    stage.epochs(1);
    stage.check();
}

#[test]
fn a_warehouse_is_not_replaced_while_a_pipeline_runs_there() {
    let mut stage = Stage::new(STATELESS);
    stage.epochs(1);
    stage.back_up();
    stage.add();
    let mut running = stage.weir.start(&["run", "p.sql"], &[], "log");
    while !running.printed().contains("runId") {
        assert!(running.runs(), "{}", running.printed());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let names = || stage.content("warehouse").into_keys().collect::<Vec<_>>();
    let before = names();
    let refused = stage.weir.run(&["restore", "--from", "kept", "--replace"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("pipeline `p` is running"), "{}", text(&refused.stderr));
    assert_eq!(names(), before);
    assert_eq!(running.terminate(), Some(0));
    stage.weir.succeed(&["restore", "--from", "kept", "--replace"]);
    stage.epochs(1);
    stage.check();
}

#[test]
fn a_damaged_list_of_a_backup_is_named_and_the_others_serve() {
    let mut stage = Stage::new(STATELESS);
    let mut ids = Vec::new();
    for _ in 0..3 {
        stage.epochs(1);
        ids.push(stage.back_up().split_whitespace().nth(1).unwrap().to_owned());
    }
    let damage = |id: &String| stage.weir.write(&format!("kept/backups/{id}.json"), "{\"format\":1");
    damage(&ids[2]);
    let listed = stage.weir.run(&["backup", "kept", "--list"]);
    assert_eq!(listed.status.code(), Some(4));
    let (shown, errors) = (text(&listed.stdout), text(&listed.stderr));
    assert!(shown.contains(&ids[0]) && shown.contains(&ids[1]) && !shown.contains(&ids[2]), "{shown}");
    assert!(errors.contains(&format!("backup `backups/{}.json` in `kept` is damaged", ids[2])), "{errors}");
    // The newest is not silently replaced by an older one.
    let refused = stage.weir.run(&["restore", "--from", "kept", "--to", "elsewhere"]);
    let errors = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{errors}");
    assert!(errors.contains(&ids[2]) && errors.contains(&format!("`--backup {}`", ids[1])), "{errors}");
    stage.weir.succeed(&["restore", "--from", "kept", "--backup", &ids[1], "--to", "elsewhere"]);
    damage(&ids[0]);
    // Another backup is taken beside them, and is the newest.
    stage.back_up();
    stage.restore_to("again");
    stage.epochs(1);
    stage.check();
}

#[test]
fn nothing_is_taken_back_or_replaced_under_a_backup() {
    let mut stage = Stage::new(STATELESS);
    stage.epochs(2);
    stage.back_up();
    stage.weir.write("warehouse/_weir/p/pins/other", &i64::MAX.to_string());
    for arguments in [&["restore", "--pipeline", "p", "--epoch", "1"][..], &["restore", "--from", "kept", "--replace"]]
    {
        let refused = stage.weir.run(arguments);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains("is being backed up"), "{}", text(&refused.stderr));
    }
    std::fs::remove_file(stage.weir.path("warehouse/_weir/p/pins/other")).unwrap();
    stage.restore(1);
    stage.epochs(1);
    stage.check();
}

/// A relative warehouse, and a table inside of it whose LOCATION is an absolute path.
fn with_absolute_location(stage: &Stage, warehouse: &str) -> String {
    let here = "some (id BIGINT NOT NULL) USING DELTA";
    let absolute = stage.weir.path(warehouse).join("sub/some");
    SQL.replace(here, &format!("{here} LOCATION '{}'", absolute.display()))
}

/// All tables hold exactly the input.
fn check(stage: &Stage) {
    let rows = stage.files * PER_FILE;
    let count = |sql: &str| {
        let found = stage.weir.succeed(&["query", "--format", "csv", "-f", "p.sql", sql]);
        found.lines().nth(1).unwrap().to_owned()
    };
    assert_eq!(count("SELECT count(*), count(DISTINCT id) FROM everything"), format!("{rows},{rows}"));
    assert_eq!(count("SELECT count(*), count(DISTINCT id) FROM some"), format!("{0},{0}", rows / 2));
    assert_eq!(count("SELECT sum(n) FROM per_key"), rows.to_string());
}

#[test]
fn an_absolute_location_inside_a_relative_warehouse_is_inside() {
    let mut stage = Stage::new("");
    stage.weir.write("p.sql", &with_absolute_location(&stage, "warehouse"));
    stage.weir.write("config/weir.yaml", "warehouse: ./warehouse\n");
    stage.epochs(3);
    stage.back_up();
    stage.epochs(3);
    let original = stage.content("warehouse");
    stage.restore_to("elsewhere");
    stage.weir.write("p.sql", &with_absolute_location(&stage, "elsewhere"));
    stage.epochs(1);
    check(&stage);
    // Going back in the copy concerns the copy only.
    stage.restore(3);
    stage.epochs(1);
    check(&stage);
    assert_eq!(stage.content("warehouse"), original);
    // The original continues, too.
    stage.weir.write("config/weir.yaml", "warehouse: ./warehouse\n");
    stage.weir.write("p.sql", &with_absolute_location(&stage, "warehouse"));
    stage.epochs(1);
    check(&stage);
}

#[test]
fn a_warehouse_with_an_absolute_location_inside_can_be_moved_after_a_crash() {
    let mut stage = Stage::new("");
    stage.weir.write("p.sql", &with_absolute_location(&stage, "warehouse"));
    stage.weir.write("config/weir.yaml", "warehouse: ./warehouse\n");
    stage.epochs(2);
    stage.crash("epoch.between_sinks");
    std::fs::rename(stage.weir.path("warehouse"), stage.weir.path("moved")).unwrap();
    stage.weir.write("p.sql", &with_absolute_location(&stage, "moved"));
    stage.weir.write("config/weir.yaml", "warehouse: moved\n");
    stage.epochs(1);
    check(&stage);
    assert!(!stage.weir.path("warehouse").exists());
}
