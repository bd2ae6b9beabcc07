//! Equality of keys: the same everywhere, streamed and in batch. Values written by hand.

use crate::program::Weir;

/// Twice the same key, once with the sign of -0.0.
const ROWS: &str = concat!(
    "{\"id\":1,\"k\":0.0,\"at\":\"2026-01-01T00:00:01Z\"}\n",
    "{\"id\":2,\"k\":-0.0,\"at\":\"2026-01-01T00:00:02Z\"}\n",
    "{\"id\":3,\"k\":1.5,\"at\":\"2026-01-01T00:00:03Z\"}\n",
    "{\"id\":4,\"at\":\"2026-01-01T00:00:04Z\"}\n",
);

const DIM: &str = "
CREATE SOURCE a (id BIGINT, k DOUBLE) WITH (connector = 'file', path = 'a.jsonl');
CREATE TABLE dim (k DOUBLE, name STRING) USING DELTA;
INSERT INTO dim SELECT k, 'name of ' || id FROM a WHERE id IN (2, 4);";

const SQL: &str = "
CREATE SOURCE a (id BIGINT, k DOUBLE, at TIMESTAMP, WATERMARK FOR at AS at) WITH (connector = 'file', path = 'a.jsonl');
CREATE SOURCE b (id BIGINT, k DOUBLE, at TIMESTAMP, WATERMARK FOR at AS at) WITH (connector = 'file', path = 'a.jsonl');
CREATE TABLE dim (k DOUBLE, name STRING) USING DELTA;
CREATE TABLE joined (l BIGINT, r BIGINT) USING DELTA;
CREATE TABLE near (l BIGINT, r BIGINT) USING DELTA;
CREATE TABLE same (l BIGINT, r BIGINT) USING DELTA;
CREATE TABLE known (id BIGINT, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
CREATE TABLE grouped (n BIGINT) USING DELTA;
CREATE TABLE counted (id BIGINT, n BIGINT, d BIGINT) USING DELTA;
CREATE TABLE named (id BIGINT, name STRING) USING DELTA;
CREATE TABLE nulls (id BIGINT, name STRING) USING DELTA;
CREATE TABLE firsts (id BIGINT) USING DELTA;
CREATE TABLE kept (k DOUBLE, id BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE TABLE sessions (n BIGINT) USING DELTA;
CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = '1 day', at_end = 'flush') AS BEGIN
  INSERT INTO joined SELECT a.id, b.id FROM a JOIN b ON a.k = b.k;
  INSERT INTO near SELECT a.id, b.id FROM a JOIN b ON a.k = b.k AND b.at BETWEEN a.at - INTERVAL '1 minute' AND a.at + INTERVAL '1 minute';
  INSERT INTO same SELECT a.id, b.id FROM a JOIN b ON a.k IS NOT DISTINCT FROM b.k;
  INSERT INTO grouped SELECT count(*) FROM TUMBLE(TABLE a, DESCRIPTOR(at), INTERVAL '1 hour') GROUP BY k, window_start, window_end;
  INSERT INTO known SELECT id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k);
  INSERT INTO counted SELECT id, count(*) OVER w, count(DISTINCT k) OVER (ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)
    FROM a WINDOW w AS (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW);
  INSERT INTO named SELECT a.id, dim.name FROM a LEFT JOIN dim ON a.k = dim.k;
  INSERT INTO nulls SELECT a.id, dim.name FROM a JOIN dim ON a.k IS NOT DISTINCT FROM dim.k;
  INSERT INTO firsts SELECT id FROM DEDUPLICATE(TABLE a, KEY(k));
  INSERT INTO kept SELECT k, id FROM a WHERE k IS NOT NULL;
  INSERT INTO sessions SELECT count(*) FROM SESSION(TABLE a PARTITION BY k, DESCRIPTOR(at), INTERVAL '1 hour') GROUP BY k, window_start, window_end;
END;";

#[test]
fn both_zeros_are_one_key_in_every_operator_and_in_batch() {
    let weir = Weir::new();
    weir.write("a.jsonl", ROWS);
    weir.write("p.sql", SQL);
    weir.write("dim.sql", DIM);
    weir.succeed(&["run", "dim.sql", "--trigger", "available now"]);
    weir.succeed(&["run", "p.sql"]);
    let all = |sql: &str| weir.query(sql).join(" ");
    let pairs = "1,1 1,2 2,1 2,2 3,3";
    assert_eq!(all("SELECT l, r FROM joined ORDER BY l, r"), pairs);
    assert_eq!(all("SELECT l, r FROM near ORDER BY l, r"), pairs);
    assert_eq!(all("SELECT l, r FROM same ORDER BY l, r"), format!("{pairs} 4,4"));
    assert_eq!(all("SELECT id FROM known ORDER BY id"), "1 2 3");
    assert_eq!(all("SELECT n FROM grouped ORDER BY n"), "1 1 2");
    assert_eq!(all("SELECT id, n, d FROM counted ORDER BY id"), "1,1,1 2,2,1 3,1,2 4,1,2");
    assert_eq!(all("SELECT id, name FROM named ORDER BY id"), "1,name of 2 2,name of 2 3, 4,");
    assert_eq!(all("SELECT id, name FROM nulls ORDER BY id"), "1,name of 2 2,name of 2 4,name of 4");
    assert_eq!(all("SELECT id FROM firsts ORDER BY id"), "1 3 4");
    assert_eq!(all("SELECT id FROM kept ORDER BY id"), "2 3");
    assert_eq!(all("SELECT n FROM sessions ORDER BY n"), "1 1 2");

    // The same in batch, over the table that holds both zeros.
    weir.write(
        "all.sql",
        "CREATE SOURCE a (id BIGINT, k DOUBLE) WITH (connector = 'file', path = 'a.jsonl');
        CREATE TABLE rows (id BIGINT, k DOUBLE) USING DELTA; INSERT INTO rows SELECT id, k FROM a;",
    );
    weir.succeed(&["run", "all.sql", "--trigger", "available now"]);
    let window = "SELECT id, count(*) OVER (PARTITION BY k), count(DISTINCT k) OVER () FROM rows ORDER BY id";
    assert_eq!(all(window), "1,2,2 2,2,2 3,1,2 4,1,2");
    assert_eq!(all("SELECT a.id, b.id FROM rows a JOIN rows b ON a.k = b.k ORDER BY 1, 2"), pairs);
    assert_eq!(all("SELECT count(*) FROM rows GROUP BY k ORDER BY 1"), "1 1 2");
    assert_eq!(all("SELECT id FROM rows WHERE k = 0 ORDER BY id"), "1 2");
}

/// Zeros and NaNs, plain and in lists; rows 3 and 4 have NaNs of different sign in `-f` and `f`.
const FORMS: &str = "
CREATE SOURCE a (id BIGINT, f DOUBLE, l ARRAY<DOUBLE>, at TIMESTAMP, WATERMARK FOR at AS at) WITH (connector = 'file', path = 'a.jsonl');
CREATE SOURCE b (id BIGINT, f DOUBLE, at TIMESTAMP, WATERMARK FOR at AS at) WITH (connector = 'file', path = 'a.jsonl');
CREATE VIEW s AS SELECT id, CASE WHEN id % 2 = 0 THEN -f ELSE f END AS f, l, at FROM a;
CREATE TABLE rows (id BIGINT, f DOUBLE, l ARRAY<DOUBLE>) USING DELTA;
CREATE TABLE lists (n BIGINT) USING DELTA;
CREATE TABLE floats (n BIGINT, low DOUBLE) USING DELTA;
CREATE TABLE firsts (id BIGINT) USING DELTA;
CREATE TABLE near (l BIGINT, r BIGINT) USING DELTA;
CREATE TABLE told (id BIGINT, zero BOOLEAN, one_of BOOLEAN, none DOUBLE, above BOOLEAN) USING DELTA;
CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = 'none', at_end = 'flush', max_rows_per_micro_batch = '1') AS BEGIN
  INSERT INTO rows SELECT id, f, l FROM s;
  INSERT INTO lists SELECT count(*) FROM TUMBLE(TABLE s, DESCRIPTOR(at), INTERVAL '1 hour') GROUP BY l, window_start, window_end;
  INSERT INTO floats SELECT count(*), min(f) FROM TUMBLE(TABLE s, DESCRIPTOR(at), INTERVAL '1 hour') GROUP BY f, window_start, window_end;
  INSERT INTO firsts SELECT id FROM DEDUPLICATE(TABLE s, KEY(l), WITHIN INTERVAL '24 hours');
  INSERT INTO near SELECT s.id, b.id FROM s JOIN b ON s.f * 1 = -b.f AND b.at BETWEEN s.at - INTERVAL '1 hour' AND s.at + INTERVAL '1 hour';
  INSERT INTO told SELECT id, CASE f WHEN 0.0 THEN true ELSE false END, f IN (0.0, 5, 6, 7, 8), nullif(f, 0), f > 1e300 FROM s;
  CREATE MATERIALIZED VIEW by_list AS SELECT l, count(*) AS n FROM s GROUP BY l;
  CREATE MATERIALIZED VIEW by_float AS SELECT f, count(*) AS n, count(DISTINCT l) AS d FROM s GROUP BY f;
  CREATE MATERIALIZED VIEW ranked PRIMARY KEY (id) AS SELECT id, rk FROM (SELECT *, rank() OVER (PARTITION BY 1 ORDER BY f) AS rk FROM s) WHERE rk <= 3;
END;";

#[test]
fn zeros_and_nans_are_one_in_lists_comparisons_and_every_operator() {
    let weir = Weir::new();
    let line = |id: i64, f: &str| format!("{{\"id\":{id},\"f\":{f},\"l\":[{f}],\"at\":\"2026-01-01T00:00:0{id}Z\"}}\n");
    let rows = [line(1, "0.0"), line(2, "0.0"), line(3, "\"NaN\""), line(4, "\"NaN\""), line(5, "1.5")];
    weir.write("a.jsonl", &rows.concat());
    weir.write("p.sql", FORMS);
    weir.succeed(&["run", "p.sql"]);
    let all = |sql: &str| weir.query(sql).join(" ");
    assert_eq!(all("SELECT n FROM lists ORDER BY n"), "1 2 2");
    assert_eq!(all("SELECT n, low FROM floats ORDER BY low"), "2,0.0 1,1.5 2,NaN");
    assert_eq!(all("SELECT id FROM firsts ORDER BY id"), "1 3 5");
    assert_eq!(all("SELECT l, r FROM near ORDER BY l, r"), "1,1 1,2 2,1 2,2 3,3 3,4 4,3 4,4");
    assert_eq!(
        all("SELECT * FROM told ORDER BY id"),
        "1,true,true,,false 2,true,true,,false 3,false,false,NaN,true 4,false,false,NaN,true 5,false,false,1.5,false"
    );
    assert_eq!(all("SELECT n FROM by_list ORDER BY n"), "1 2 2");
    assert_eq!(all("SELECT f, n, d FROM by_float ORDER BY f"), "0.0,2,1 1.5,1,1 NaN,2,1");
    assert_eq!(all("SELECT id, rk FROM ranked ORDER BY id"), "1,1 2,1 5,3");
    weir.succeed(&["verify", "p.sql"]);

    // The table holds -0.0 and a NaN with its sign set.
    for (condition, ids) in [
        ("f IN (0.0, 1, 2, 3, 4)", "1 2"),
        ("f NOT IN (0.0, 1.5, 2.5, 3.5, 4.5)", "3 4"),
        ("f IN (SELECT CAST(0.0 AS DOUBLE))", "1 2"),
        ("CASE f WHEN 0.0 THEN true ELSE false END", "1 2"),
        ("nullif(f, 0.0) IS NULL", "1 2"),
        ("array_has(l, -0.0)", "1 2"),
        ("l = [-0.0]", "1 2"),
        ("struct(f) = struct(0.0)", "1 2"),
        ("f = -f", "1 2 3 4"),
        ("f > 5", "3 4"),
        ("EXISTS (SELECT 1 FROM rows u WHERE u.f = rows.f AND u.id <> rows.id)", "1 2 3 4"),
        ("id IN (SELECT a.id FROM rows a JOIN rows b ON a.f = b.f WHERE b.id = 3)", "3 4"),
        ("id IN (SELECT a.id FROM rows a JOIN rows b ON a.l = b.l WHERE b.id = 2)", "1 2"),
    ] {
        assert_eq!(all(&format!("SELECT id FROM rows WHERE {condition} ORDER BY id")), ids, "{condition}");
    }
    for (sql, expected) in [
        ("SELECT f, count(*) FROM rows GROUP BY f ORDER BY f", "0.0,2 1.5,1 NaN,2"),
        ("SELECT count(*) FROM rows GROUP BY l ORDER BY 1", "1 2 2"),
        ("SELECT count(*) FROM rows GROUP BY ROLLUP(f) ORDER BY 1", "1 2 2 5"),
        ("SELECT count(DISTINCT f), count(DISTINCT l), count(DISTINCT struct(f)) FROM rows", "3,3,3"),
        ("SELECT DISTINCT f FROM rows ORDER BY f", "0.0 1.5 NaN"),
        ("SELECT rank() OVER (ORDER BY f) FROM rows ORDER BY id", "1 1 4 4 3"),
        ("SELECT dense_rank() OVER (ORDER BY f DESC) FROM rows ORDER BY id", "3 3 1 1 2"),
        (
            "SELECT sum(id) OVER (ORDER BY f RANGE BETWEEN CURRENT ROW AND CURRENT ROW) FROM rows ORDER BY id",
            "3 3 7 7 5",
        ),
        ("SELECT id FROM rows ORDER BY f, id DESC", "2 1 5 4 3"),
        ("SELECT min(f), max(f) FROM rows", "0.0,NaN"),
        ("SELECT id > 0, min(f), max(f) FROM rows GROUP BY id > 0", "true,0.0,NaN"),
        ("SELECT f FROM rows WHERE id = 2 EXCEPT SELECT f FROM rows WHERE id = 1", ""),
        ("SELECT count(*) FROM (SELECT f FROM rows WHERE id = 3 INTERSECT SELECT f FROM rows WHERE id = 4)", "1"),
    ] {
        assert_eq!(all(sql), expected, "{sql}");
    }
}

/// Every operator whose state has the key, over rows of one key that is 0.0 or -0.0 by turns.
const BY_TURNS: &str = "
CREATE SOURCE s (id BIGINT, f DOUBLE, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '1 hour') WITH (connector = 'file', path = 'in/*.jsonl');
CREATE TABLE newest (f DOUBLE, id BIGINT, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
CREATE TABLE two (f DOUBLE, id BIGINT, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
CREATE TABLE ranked (f DOUBLE, id BIGINT, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
CREATE TABLE counted (f DOUBLE, n BIGINT, PRIMARY KEY (f) NOT ENFORCED) USING DELTA;
CREATE TABLE last (f DOUBLE, id BIGINT, PRIMARY KEY (f) NOT ENFORCED) USING DELTA;
CREATE TABLE firsts (id BIGINT) USING DELTA;
CREATE TABLE rolled (id BIGINT, n BIGINT) USING DELTA;
CREATE TABLE top (id BIGINT) USING DELTA;
CREATE TABLE pairs (l BIGINT, r BIGINT) USING DELTA;
CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = '1 day', rolling_emit = 'on_arrival') AS BEGIN
  INSERT INTO newest SELECT f, id FROM (SELECT *, row_number() OVER (PARTITION BY f ORDER BY id DESC) AS r FROM s) WHERE r <= 1;
  INSERT INTO two SELECT f, id FROM (SELECT *, row_number() OVER (PARTITION BY f ORDER BY id DESC) AS r FROM s) WHERE r <= 2;
  INSERT INTO ranked SELECT f, id FROM (SELECT *, rank() OVER (PARTITION BY f ORDER BY id DESC) AS r FROM s) WHERE r <= 2;
  INSERT INTO counted SELECT f, count(*) FROM s GROUP BY f;
  INSERT INTO last SELECT f, id FROM s;
  INSERT INTO firsts SELECT id FROM DEDUPLICATE(TABLE s, KEY(f));
  INSERT INTO rolled SELECT id, count(*) OVER (PARTITION BY f ORDER BY at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW) FROM s;
  INSERT INTO top SELECT id FROM (SELECT *, row_number() OVER (PARTITION BY f, window_start ORDER BY id DESC) AS r
    FROM TUMBLE(TABLE s, DESCRIPTOR(at), INTERVAL '1 hour')) WHERE r <= 1;
  INSERT INTO pairs SELECT a.id, b.id FROM s AS a JOIN s AS b ON a.f = b.f AND a.id + 1 = b.id
    AND b.at BETWEEN a.at - INTERVAL '1 minute' AND a.at + INTERVAL '1 minute';
END;";

#[test]
fn both_zeros_are_one_key_over_restarts() {
    let weir = Weir::new();
    weir.write("p.sql", BY_TURNS);
    let row = |id: usize, f: &str, at: &str| format!("{{\"id\":{id},\"f\":{f},\"at\":\"2026-01-01T{at}Z\"}}\n");
    let runs: [&[&str]; 6] = [&["-0.0"], &["0.0"], &["0.0", "-0.0"], &["-0.0"], &["0.0"], &["-0.0"]];
    let mut id = 0;
    for (run, zeros) in runs.iter().enumerate() {
        let rows: String = zeros
            .iter()
            .map(|f| {
                id += 1;
                row(id, f, &format!("10:00:0{id}"))
            })
            .collect();
        weir.write(&format!("in/{run}.jsonl"), &rows);
        weir.succeed(&["run", "p.sql"]);
        let all = |sql: &str| weir.query(sql).join(" ");
        let before = id.saturating_sub(1).max(1);
        assert_eq!(all("SELECT id FROM newest"), id.to_string(), "run {run}");
        let two = if id == 1 { "1".to_owned() } else { format!("{before} {id}") };
        assert_eq!(all("SELECT id FROM two ORDER BY id"), two, "run {run}");
        assert_eq!(all("SELECT id FROM ranked ORDER BY id"), two, "run {run}");
        assert_eq!(all("SELECT f + 0.0, n FROM counted"), format!("0.0,{id}"), "run {run}");
        assert_eq!(all("SELECT f + 0.0, id FROM last"), format!("0.0,{id}"), "run {run}");
        assert_eq!(all("SELECT id FROM firsts"), "1", "run {run}");
        let rolled: Vec<_> = (1..=id).map(|id| format!("{id},{id}")).collect();
        assert_eq!(weir.query("SELECT id, n FROM rolled ORDER BY id"), rolled, "run {run}");
        let pairs: Vec<_> = (1..id).map(|id| format!("{id},{}", id + 1)).collect();
        assert_eq!(weir.query("SELECT l, r FROM pairs ORDER BY l"), pairs, "run {run}");
    }
    weir.write("in/end.jsonl", &row(99, "5.5", "13:00:00"));
    weir.succeed(&["run", "p.sql"]);
    assert_eq!(weir.query("SELECT id FROM top"), [id.to_string()]);
}

#[test]
fn bit_xor_of_distinct_values_counts_each_once_in_groups() {
    let weir = Weir::new();
    weir.write(
        "p.sql",
        "CREATE SOURCE s (k BIGINT, v BIGINT) WITH (connector = 'file', path = 'in/*.jsonl');
         CREATE TABLE rows (k BIGINT, v BIGINT) USING DELTA;
         CREATE TABLE t (k BIGINT, a BIGINT, d BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
         CREATE PIPELINE p WITH (trigger = 'available now', state_ttl = '1 day') AS BEGIN
           INSERT INTO rows SELECT k, v FROM s;
           INSERT INTO t SELECT k, bit_xor(v), bit_xor(DISTINCT v) FROM s GROUP BY k;
         END;",
    );
    let row = |k: i64, v: i64| format!("{{\"k\":{k},\"v\":{v}}}\n");
    weir.write("in/1.jsonl", &[row(1, 5), row(1, 5), row(1, 3), row(2, 7)].concat());
    weir.succeed(&["run", "p.sql"]);
    weir.write("in/2.jsonl", &[row(1, 3), row(2, 7), row(1, 8)].concat());
    weir.succeed(&["run", "p.sql"]);
    let expected = ["1,8,14", "2,0,7"];
    assert_eq!(weir.query("SELECT k, a, d FROM t ORDER BY k"), expected);
    assert_eq!(weir.query("SELECT k, bit_xor(v), bit_xor(DISTINCT v) FROM rows GROUP BY k ORDER BY k"), expected);
}
