-- Every kind of state and of table that weir keeps. An older version ran this and wrote `old.tar.gz`; see make.py.
CREATE SOURCE events (id BIGINT NOT NULL, k BIGINT NOT NULL, v DOUBLE, p STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '10 seconds')
  WITH (connector = 'file', path = 'in/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE VIEW bids AS SELECT id, k, v, ts FROM events WHERE id % 2 = 0;
CREATE VIEW asks AS SELECT id, k, v, ts FROM events WHERE id % 2 = 1;
CREATE VIEW per_k AS SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k;
CREATE VIEW per_half AS SELECT k % 7 AS k, count(*) AS m, max(v) AS most FROM events WHERE v > 20 GROUP BY k % 7;

CREATE TABLE names (k BIGINT NOT NULL, name STRING) USING DELTA;
CREATE TABLE appended (id BIGINT, p STRING, v DOUBLE, CHECK (v < 99)) USING DELTA PARTITIONED BY (p);
CREATE TABLE firsts (id BIGINT, k BIGINT, ts TIMESTAMP) USING DELTA;
CREATE TABLE earliest (id BIGINT, k BIGINT, ts TIMESTAMP) USING DELTA;
CREATE TABLE kinds (k BIGINT, p STRING) USING DELTA;
CREATE TABLE tumbled (k BIGINT, window_start TIMESTAMP, n BIGINT, total DOUBLE, kinds BIGINT) USING DELTA;
CREATE TABLE hopped (k BIGINT, window_start TIMESTAMP, n BIGINT, most DOUBLE) USING DELTA;
CREATE TABLE sessions (k BIGINT, window_start TIMESTAMP, window_end TIMESTAMP, n BIGINT) USING DELTA;
CREATE TABLE ranked_windows (k BIGINT, window_start TIMESTAMP, n BIGINT, r BIGINT) USING DELTA;
CREATE TABLE rolled (id BIGINT, k BIGINT, ts TIMESTAMP, n BIGINT, total DOUBLE, least DOUBLE, kinds BIGINT, middle DOUBLE, before DOUBLE) USING DELTA;
CREATE TABLE rows_rolled (id BIGINT, k BIGINT, ts TIMESTAMP, total DOUBLE) USING DELTA;
CREATE TABLE joined (bid BIGINT, ask BIGINT, k BIGINT) USING DELTA;
CREATE TABLE unmatched (bid BIGINT, ask BIGINT, k BIGINT) USING DELTA;
CREATE TABLE asof_joined (id BIGINT, ask BIGINT) USING DELTA;
CREATE TABLE looked_up (id BIGINT, name STRING) USING DELTA;
CREATE TABLE grouped (k BIGINT, n BIGINT, total DOUBLE, least DOUBLE, most DOUBLE, kinds BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE TABLE both_sides (k BIGINT, n BIGINT, m BIGINT, most DOUBLE, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE TABLE top (p STRING, r BIGINT, id BIGINT, v DOUBLE, PRIMARY KEY (p, r) NOT ENFORCED) USING DELTA;
CREATE TABLE newest (k BIGINT, id BIGINT, p STRING, PRIMARY KEY (k) NOT ENFORCED) USING DELTA PARTITIONED BY (p)
  TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true');
CREATE TABLE copied (k BIGINT, id BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA TBLPROPERTIES ('delta.enableDeletionVectors' = 'false');
CREATE TABLE arrived (id BIGINT, k BIGINT, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;

CREATE PIPELINE p WITH (state_ttl = 'none', at_end = 'keep') AS BEGIN
  INSERT INTO firsts SELECT id, k, ts FROM DEDUPLICATE(TABLE events, KEY(id), WITHIN INTERVAL '1 hour');
  INSERT INTO earliest SELECT id, k, ts FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY ts) AS rn FROM events) WHERE rn = 1;
  INSERT INTO kinds SELECT DISTINCT k, p FROM events;
  INSERT INTO tumbled SELECT k, window_start, count(*) AS n, sum(v) AS total, count(DISTINCT p) AS kinds
    FROM TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY k, window_start, window_end;
  INSERT INTO hopped SELECT k, window_start, count(*) AS n, max(v) AS most
    FROM HOP(TABLE events, DESCRIPTOR(ts), INTERVAL '30 seconds', INTERVAL '2 minutes') GROUP BY k, window_start, window_end;
  INSERT INTO sessions SELECT k, window_start, window_end, count(*) AS n
    FROM SESSION(TABLE events PARTITION BY k, DESCRIPTOR(ts), INTERVAL '20 seconds') GROUP BY k, window_start, window_end;
  INSERT INTO ranked_windows SELECT k, window_start, n, CAST(r AS BIGINT) AS r FROM (
    SELECT k, window_start, n, row_number() OVER (PARTITION BY window_start ORDER BY n DESC, k) AS r FROM (
      SELECT k, window_start, count(*) AS n FROM TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY k, window_start, window_end)) WHERE r <= 2;
  INSERT INTO rolled SELECT id, k, ts, count(*) OVER w AS n, sum(v) OVER w AS total, min(v) OVER w AS least, count(DISTINCT p) OVER w AS kinds,
      median(v) OVER w AS middle, lag(v) OVER (PARTITION BY k ORDER BY ts) AS before FROM events
    WINDOW w AS (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '2 minutes' PRECEDING AND CURRENT ROW);
  INSERT INTO rows_rolled SELECT id, k, ts, sum(v) OVER (PARTITION BY k ORDER BY ts ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS total FROM events;
  INSERT INTO joined SELECT b.id AS bid, a.id AS ask, b.k FROM bids b JOIN asks a ON a.k = b.k AND a.ts BETWEEN b.ts AND b.ts + INTERVAL '30 seconds';
  INSERT INTO unmatched SELECT b.id AS bid, a.id AS ask, b.k FROM bids b LEFT JOIN asks a
    ON a.k = b.k AND a.v > b.v AND a.ts BETWEEN b.ts - INTERVAL '20 seconds' AND b.ts;
  INSERT INTO asof_joined SELECT b.id, a.id AS ask FROM bids b ASOF JOIN asks a MATCH_CONDITION (b.ts >= a.ts) ON b.k = a.k;
  INSERT INTO looked_up SELECT e.id, n.name FROM events e LEFT JOIN names n ON n.k = e.k;
  INSERT INTO grouped SELECT k, count(*) AS n, sum(v) AS total, min(v) AS least, max(v) AS most, count(DISTINCT p) AS kinds FROM events GROUP BY k;
  INSERT INTO both_sides SELECT coalesce(a.k, b.k) AS k, n, m, most FROM per_k a FULL JOIN per_half b ON a.k = b.k;
  INSERT INTO top SELECT p, CAST(r AS BIGINT) AS r, id, v FROM (SELECT coalesce(p, '-') AS p, id, v, row_number() OVER (PARTITION BY coalesce(p, '-') ORDER BY v DESC, id) AS r FROM events) WHERE r <= 3;
END;

-- What a batch does not tell: what CHECKs refuse, which row of a key came last, what has arrived before a row.
CREATE PIPELINE q WITH (rolling_emit = 'on_arrival', at_end = 'keep') AS BEGIN
  INSERT INTO appended SELECT id, p, v FROM events;
  INSERT INTO newest SELECT k, id, p FROM events;
  INSERT INTO copied SELECT k, id FROM events;
  INSERT INTO arrived SELECT id, k, count(*) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '10 hours' PRECEDING AND CURRENT ROW) AS n FROM events;
END;
