//! Which keys are equal: the same everywhere, streamed and in batch. Values written by hand.

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
