//! The SQL writes to other tables than before: the pipeline continues where it was, whichever table holds its newest epoch.

use super::*;

const SOURCE: &str = "CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT, v BIGINT) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');\n";

/// Tables that all get every row; the columns of each, its LOCATION, and what the INSERT selects.
fn write(stage: &Stage, tables: &[(&str, &str, &str, &str)]) {
    let mut sql = SOURCE.to_owned();
    for (name, columns, location, _) in tables {
        sql += &format!("CREATE TABLE {name} ({columns}) USING DELTA{location};\n");
    }
    sql += "CREATE PIPELINE p WITH (trigger = '50 ms') AS BEGIN\n";
    for (name, _, _, select) in tables {
        sql += &format!("  INSERT INTO {name} SELECT {select} FROM events;\n");
    }
    stage.weir.write("p.sql", &(sql + "END;\n"));
}

fn narrow(name: &str) -> (&str, &str, &str, &str) {
    (name, "id BIGINT NOT NULL", "", "id")
}

const WIDE: (&str, &str, &str, &str) = ("wide", "id BIGINT NOT NULL, k BIGINT", "", "id, k");

fn stage(tables: &[(&str, &str, &str, &str)]) -> Stage {
    let stage = Stage { weir: Weir::new(), files: 0 };
    write(&stage, tables);
    stage
}

/// A table of the SQL holds just the rows of these files.
fn holds(stage: &Stage, table: &str, files: std::ops::Range<u64>) {
    let sql = format!("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM {table}");
    let found = stage.weir.succeed(&["query", "--format", "csv", "-f", "p.sql", &sql]);
    let (rows, first, end) = ((files.end - files.start) * PER_FILE, files.start * PER_FILE, files.end * PER_FILE);
    let wanted = match rows {
        0 => "0,0,,".to_owned(),
        _ => format!("{rows},{rows},{first},{}", end - 1),
    };
    assert_eq!(found.lines().nth(1), Some(wanted.as_str()), "{table}");
}

#[test]
fn an_insert_that_goes_to_another_table_continues_after_any_number_of_epochs() {
    for letters in [false, true] {
        for epochs in 1..=3 {
            let mut stage = stage(&[narrow("narrow")]);
            if letters {
                stage.weir.write("in/bad.jsonl", "{\"id\":null}\n");
            }
            stage.epochs(epochs);
            write(&stage, &[WIDE]);
            stage.weir.succeed(&TO_THE_END);
            holds(&stage, "wide", 0..0);
            stage.epochs(2);
            holds(&stage, "wide", epochs..epochs + 2);
            write(&stage, &[narrow("third")]);
            stage.epochs(1);
            holds(&stage, "third", epochs + 2..epochs + 3);
            write(&stage, &[narrow("narrow")]);
            holds(&stage, "narrow", 0..epochs);
        }
    }
}

#[test]
fn a_table_at_another_location_begins_where_the_pipeline_is() {
    for (from, to) in [("", " LOCATION 'elsewhere/t'"), (" LOCATION 'elsewhere/t'", "")] {
        let at = |location| ("t", "id BIGINT NOT NULL", location, "id");
        let mut stage = stage(&[at(from)]);
        stage.epochs(2);
        write(&stage, &[at(to)]);
        stage.epochs(1);
        holds(&stage, "t", 2..3);
        write(&stage, &[at(from)]);
        holds(&stage, "t", 0..2);
    }
}

#[test]
fn a_crash_between_two_sinks_is_finished_in_tables_that_the_edit_has_dropped() {
    for point in ["epoch.after_manifest", "epoch.between_sinks"] {
        let mut stage = stage(&[narrow("a"), narrow("b")]);
        stage.epochs(1);
        stage.crash(point);
        write(&stage, &[narrow("c")]);
        stage.weir.succeed(&TO_THE_END);
        // Nothing of an epoch without a commit: it is computed again, by the SQL as it is now.
        let kept = if point == "epoch.between_sinks" { 2 } else { 1 };
        holds(&stage, "c", kept..2);
        stage.epochs(1);
        holds(&stage, "c", kept..3);
        write(&stage, &[narrow("a"), narrow("b")]);
        holds(&stage, "a", 0..kept);
        holds(&stage, "b", 0..kept);
    }
}

#[test]
fn a_crash_before_the_first_epoch_of_the_new_tables_can_be_followed_by_any_edit() {
    for next in [&[narrow("a")][..], &[narrow("b")], &[narrow("c")], &[narrow("a"), narrow("c")]] {
        let mut stage = stage(&[narrow("a")]);
        stage.epochs(2);
        write(&stage, &[narrow("b")]);
        stage.crash("epoch.after_manifest");
        write(&stage, next);
        stage.epochs(1);
        for (table, ..) in next {
            holds(&stage, table, if *table == "a" { 0..4 } else { 2..4 });
        }
    }
}

#[test]
fn tables_that_change_places_keep_what_each_has() {
    let selects =
        |a: &'static str, b: &'static str| [("a", "id BIGINT NOT NULL", "", a), ("b", "id BIGINT NOT NULL", "", b)];
    let mut stage = stage(&selects("id", "-id"));
    stage.epochs(2);
    write(&stage, &selects("-id", "id"));
    stage.epochs(1);
    let rows = PER_FILE as i64;
    for table in ["a", "b"] {
        assert_eq!(stage.weir.number(&format!("SELECT count(DISTINCT abs(id)) FROM {table}")), 3 * rows);
    }
    assert_eq!(stage.weir.number("SELECT count(*) FROM a WHERE id < 0"), rows);
}

#[test]
fn a_table_that_is_written_again_lacks_what_came_in_between_and_is_refused_also_after_one_epoch() {
    for epochs in 1..=2 {
        let mut stage = stage(&[narrow("a")]);
        stage.epochs(2);
        write(&stage, &[narrow("b")]);
        stage.epochs(epochs);
        write(&stage, &[narrow("a")]);
        stage.add();
        stage.refused(&["`a` holds an older epoch of pipeline `p`", "`a` has epoch 2", "--allow-rebuild"]);
        write(&stage, &[narrow("b")]);
        stage.weir.succeed(&TO_THE_END);
        holds(&stage, "b", 2..epochs + 3);
    }
}

#[test]
fn state_goes_on_when_its_table_is_another() {
    let mut stage = Stage::new(SQL);
    stage.epochs(2);
    let sql = SQL.replace("everything", "all_").replace("per_key", "keys").replace("some", "even");
    stage.weir.write("p.sql", &sql);
    stage.epochs(1);
    let rows = (stage.files * PER_FILE) as i64;
    assert_eq!(stage.weir.query("SELECT sum(n) FROM keys"), [rows.to_string()]);
    assert_eq!(stage.weir.number("SELECT count(*) FROM all_"), PER_FILE as i64);
}

#[test]
fn a_dropped_table_that_cannot_be_read_stops_the_start_while_it_may_hold_the_newest_epoch() {
    let mut stage = stage(&[narrow("a")]);
    stage.epochs(2);
    let log = stage.table("a").join("_delta_log");
    let entry = |version: u64| log.join(format!("{version:020}.json"));
    let saved = std::fs::read(entry(1)).unwrap();
    std::fs::write(entry(1), "no entry").unwrap();
    write(&stage, &[narrow("c")]);
    stage.refused(&["The SQL no longer names table `a`"]);
    std::fs::write(entry(1), saved).unwrap();
    stage.add();
    stage.weir.succeed(&TO_THE_END);
    // From here on nothing depends on it.
    std::fs::write(entry(1), "no entry").unwrap();
    stage.epochs(1);
    holds(&stage, "c", 2..4);
}
