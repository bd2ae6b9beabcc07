//! `weir verify` over pipelines that did nothing wrong, and over one whose table was changed behind its back.

use crate::program::{Weir, text};

const SOURCE: &str = "CREATE SOURCE e (id BIGINT NOT NULL, n BIGINT) WITH (connector = 'file', path = 'in.jsonl');";

fn one_table(columns: &str, rows: &str) -> Weir {
    let weir = Weir::new();
    weir.write("in.jsonl", rows);
    weir.write(
        "p.sql",
        &format!(
            "{SOURCE} CREATE TABLE o {columns} USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO o SELECT id, n FROM e; END;"
        ),
    );
    weir.succeed(&["run", "p.sql"]);
    weir
}

#[test]
fn rows_that_a_table_refuses_are_not_owed_to_it() {
    let weir =
        one_table("(id BIGINT, n BIGINT, CHECK (n > 0))", "{\"id\":1,\"n\":1}\n{\"id\":2,\"n\":-1}\n{\"id\":3}\n");
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("1 rows streamed, 1 in batch"), "{told}");
    assert!(told.contains("2 more rows in batch violate the table's NOT NULL or CHECK"), "{told}");
    let weir = one_table("(id BIGINT, n BIGINT NOT NULL)", "{\"id\":1,\"n\":1}\n{\"id\":2}\n");
    assert!(weir.succeed(&["verify", "p.sql"]).contains("1 more rows in batch violate"));
}

#[test]
fn rows_that_an_aggregate_cannot_compute_are_not_owed_either() {
    for (mode, expected) in [("dead_letter", ["1,10,1", "2,2,1"]), ("null", ["1,10,2", "2,2,1"])] {
        let weir = Weir::new();
        weir.write("in.jsonl", "{\"id\":1,\"n\":1}\n{\"id\":1,\"n\":0}\n{\"id\":2,\"n\":5}\n");
        weir.write(
            "p.sql",
            &format!(
                "{SOURCE} CREATE TABLE o (id BIGINT, s BIGINT, c BIGINT, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
                 CREATE PIPELINE p WITH (trigger = 'available now', on_row_error = '{mode}') AS BEGIN
                 INSERT INTO o SELECT id, sum(10 / n) AS s, count(*) AS c FROM e GROUP BY id; END;"
            ),
        );
        weir.succeed(&["run", "p.sql"]);
        assert_eq!(weir.query("SELECT * FROM o ORDER BY id"), expected, "{mode}");
        let told = weir.succeed(&["verify", "p.sql"]);
        assert!(told.contains("2 rows streamed, 2 in batch"), "{mode}: {told}");
    }
}

#[test]
fn a_keyed_table_holds_one_of_the_rows_of_each_key() {
    let columns = "(id BIGINT, n BIGINT, PRIMARY KEY (id) NOT ENFORCED)";
    let weir = one_table(columns, "{\"id\":1,\"n\":1}\n{\"id\":1,\"n\":2}\n{\"id\":2}\n{\"id\":2}\n");
    assert_eq!(weir.query("SELECT id, n FROM o ORDER BY id"), ["1,2", "2,"]);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("2 rows streamed, 2 in batch"), "{told}");

    // A row that the query never gave is still found.
    let wrong = format!(
        "{SOURCE} CREATE TABLE o {columns} USING DELTA;
         CREATE PIPELINE q WITH (trigger = 'available now') AS BEGIN INSERT INTO o SELECT id, 7 FROM e WHERE id = 2; END;"
    );
    weir.write("wrong.sql", &wrong);
    weir.succeed(&["run", "wrong.sql"]);
    let told = weir.run(&["verify", "p.sql"]);
    assert_eq!(told.status.code(), Some(1), "{}", text(&told.stdout));
    assert!(text(&told.stdout).contains("1 missing, 1 too many"), "{}", text(&told.stdout));
}

#[test]
fn frames_of_aggregates_that_take_nothing_back_are_computed_in_batch_too() {
    let weir = Weir::new();
    let row = |id: i32| {
        format!(
            "{{\"id\":{id},\"b\":{},\"s\":\"{}\",\"ts\":\"2024-01-01T00:00:0{id}Z\"}}\n",
            id % 3 == 0,
            (b'a' + id as u8) as char
        )
    };
    weir.write("in.jsonl", &(0..6).map(row).collect::<String>());
    let columns = "id, bool_or(b) OVER w AS some, bool_and(b) OVER w AS each, string_agg(s, '+') OVER w AS texts, bit_or(id) OVER w AS bits";
    let window = "WINDOW w AS (ORDER BY ts RANGE BETWEEN INTERVAL '1 second' PRECEDING AND CURRENT ROW)";
    weir.write(
        "p.sql",
        &format!(
            "CREATE SOURCE e (id BIGINT, b BOOLEAN, s STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'in.jsonl');
             CREATE TABLE o (id BIGINT, some BOOLEAN, each BOOLEAN, texts STRING, bits BIGINT) USING DELTA;
             CREATE TABLE all_rows (id BIGINT, b BOOLEAN, s STRING, ts TIMESTAMP) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now', at_end = 'flush') AS BEGIN
               INSERT INTO o SELECT {columns} FROM e {window};
               INSERT INTO all_rows SELECT id, b, s, ts FROM e;
             END;"
        ),
    );
    weir.succeed(&["run", "p.sql"]);
    let expected = [
        "0,true,true,a,0",
        "1,true,false,a+b,1",
        "2,false,false,b+c,3",
        "3,true,false,c+d,3",
        "4,true,false,d+e,7",
        "5,false,false,e+f,5",
    ];
    assert_eq!(weir.query("SELECT * FROM o ORDER BY id"), expected);
    assert_eq!(weir.query(&format!("SELECT {columns} FROM all_rows {window} ORDER BY id")), expected);
    let told = weir.succeed(&["verify", "p.sql"]);
    assert!(told.contains("ok    o  6 rows streamed, 6 in batch"), "{told}");
}
