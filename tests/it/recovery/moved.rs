//! Names with colons, tables that were moved, copied or left out of the SQL, and names that are odd folders.

use super::*;

#[test]
fn offsets_of_sources_and_pipelines_with_colons_are_found_in_the_tables() {
    let sql = STATELESS.replace("events", "\"ev:e nts\"").replace("PIPELINE p", "PIPELINE \"p:q\"");
    let mut stage = Stage::new(&sql.replace("'in/", "'i:n/"));
    let epoch = |stage: &mut Stage| {
        stage.add();
        let _ = std::fs::remove_dir_all(stage.weir.path("i:n"));
        copy(&stage.weir.path("in"), &stage.weir.path("i:n"));
        stage.weir.succeed(&TO_THE_END);
        stage.check();
    };
    epoch(&mut stage);
    epoch(&mut stage);
    std::fs::remove_dir_all(stage.weir.path("warehouse/_weir/p:q/manifests")).unwrap();
    epoch(&mut stage);
}

/// The tables' statements with another one for `some`.
fn edited(stage: &Stage, name: &str, location: &str) {
    let table = format!("CREATE TABLE {name} (id BIGINT NOT NULL) USING DELTA{location};");
    let sql = STATELESS.replace("CREATE TABLE some (id BIGINT NOT NULL) USING DELTA;", &table);
    stage.weir.write("p.sql", &sql.replace("INSERT INTO some", &format!("INSERT INTO {name}")));
}

#[test]
fn a_table_that_was_moved_while_it_was_owed_an_epoch_is_not_new() {
    for (name, location) in [("some", " LOCATION 'elsewhere/some'"), ("zzz", ""), ("zzz", " LOCATION 'elsewhere/some'")]
    {
        let mut stage = Stage::new(STATELESS);
        stage.epochs(2);
        stage.crash("epoch.between_sinks");
        let to = if location.is_empty() { stage.table(name) } else { stage.weir.path("elsewhere/some") };
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(stage.table("some"), &to).unwrap();
        edited(&stage, name, location);
        stage.refused(&[
            &format!("`{name}` holds an older epoch"),
            "`some at ",
            "is gone",
            "move it back",
            "--allow-rebuild",
        ]);
        std::fs::rename(&to, stage.table("some")).unwrap();
        stage.weir.write("p.sql", STATELESS);
        stage.weir.succeed(&TO_THE_END);
        stage.check();
        // At rest it can move.
        std::fs::rename(stage.table("some"), &to).unwrap();
        edited(&stage, name, location);
        stage.epochs(1);
        let rows = stage.files * PER_FILE / 2;
        let sql = format!("SELECT count(*), count(DISTINCT id) FROM {name}");
        let found = stage.weir.succeed(&["query", "--format", "csv", "-f", "p.sql", &sql]);
        assert_eq!(found.lines().nth(1), Some(format!("{rows},{rows}").as_str()));
    }
}

#[test]
fn an_older_copy_of_a_table_does_not_join_unless_the_user_takes_it() {
    let mut stage = Stage::new(STATELESS);
    stage.epochs(1);
    copy(&stage.table("some"), &stage.table("zzz"));
    stage.epochs(1);
    edited(&stage, "zzz", "");
    stage.add();
    stage.refused(&[
        "`zzz` holds an older epoch of pipeline `p`",
        "`zzz` has epoch 1",
        "lacks what was committed since",
    ]);
    stage.weir.succeed(&["run", "p.sql", "--trigger", "available now", "--allow-rebuild"]);
    assert_eq!(stage.weir.number("SELECT count(*) FROM zzz"), PER_FILE as i64);
    stage.epochs(1);
}

#[test]
fn a_table_that_the_sql_has_dropped_is_not_given_up_while_it_may_be_owed_an_epoch() {
    let mut stage = Stage::new(STATELESS);
    stage.epochs(1);
    stage.crash("epoch.between_sinks");
    let away = stage.weir.path("away");
    std::fs::rename(stage.table("some"), &away).unwrap();
    edited(&stage, "zzz", "");
    stage.add();
    stage.refused(&["`some at ", "took part in epoch 2", "does not exist", "--allow-rebuild"]);
    stage.weir.succeed(&["run", "p.sql", "--trigger", "available now", "--allow-rebuild"]);
    assert_eq!(stage.weir.number("SELECT count(*) FROM zzz"), PER_FILE as i64 / 2);
    stage.epochs(1);
}

#[test]
fn a_new_table_joins_and_so_does_one_of_another_pipeline() {
    let mut stage = Stage::new(STATELESS);
    stage.epochs(3);
    edited(&stage, "zzz", "");
    stage.epochs(1);
    assert_eq!(stage.weir.number("SELECT count(*) FROM zzz"), PER_FILE as i64 / 2);
    let sql = std::fs::read_to_string(stage.weir.path("p.sql")).unwrap();
    stage.weir.write("p.sql", &sql.replace("PIPELINE p", "PIPELINE other"));
    stage.weir.succeed(&TO_THE_END);
    assert_eq!(stage.weir.number("SELECT count(*) FROM zzz"), (PER_FILE / 2 + stage.files * PER_FILE / 2) as i64);
}

#[test]
fn names_with_spaces_and_letters_beyond_ascii_work() {
    let mut stage = Stage::new(&STATELESS.replace("PIPELINE p", "PIPELINE \"ü p/100% #?x\""));
    stage.epochs(2);
    stage.check();
    assert!(stage.weir.path("warehouse/_weir/ü p/100% #?x/manifests").exists());
}
