-- Errors of every stage at once; what hangs on a broken statement is passed over.
CREATE SOURCE a (id STRNG, ts TIMESTAMP) WITH (connector = 'file', path = 'in');
CREATE SOURCE b (id STRING, n BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds')
WITH (connector = 'kafka', topics = 'b', bootstrap_servers = 'h:9092');
CREATE SOURCE c (id STRING, n BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS date_trunk('minute', ts))
WITH (connector = 'file', path = 'in');
CREATE TABLE t (id STRING, n BIGINT);
CREATE TABLE u (id STRING) PARTITIONED BY (dya);
CREATE FUNCTION half(x DOUBLE) RETURNS DOUBLE LANGUAGE sql AS $$ y / 2 $$;
CREATE FUNCTION lost(x DOUBLE) RETURNS DOUBEL LANGUAGE sql AS $$ x $$;
CREATE MODEL m WITH (provider = 'lightgbm', path = 'missing.txt');
CREATE VIEW on_a AS SELECT id FROM a;
CREATE VIEW ring AS SELECT * FROM ring;
CREATE VIEW unread AS SELECT nn FROM c;
INSERT INTO t SELECT id, 1 FROM on_a;
INSERT INTO t SELECT idd, n FROM b;
INSERT INTO t SELECT id, half(n) + m(n, x => n) + nn FROM c;
INSERT INTO t SELECT id, lost(n) FROM c;
INSERT INTO t SELECT id, n FROM ring;
INSERT INTO u SELECT id FROM b ORDER BY id;
INSERT INTO nowhere SELECT id, mm FROM c;
CREATE PIPELINE p WITH (triger = '1 second') AS BEGIN
  INSERT INTO t SELECT id FROM c WHERE;
  INSERT INTO t SELECT id, amount FROM c;
END;
SELECT idd FROM t;
EXPLAIN INSERT INTO t SELECT id, nnn FROM b;
DESCRIBE tt;
DESCRIBE m;
VERIFY PIPELINE q;
SELECT * FROM a;
