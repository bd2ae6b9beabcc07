CREATE SOURCE a (n BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS n) WITH (connector = 'file', path = 'in');
CREATE SOURCE b (ts TIMESTAMP, WATERMARK FOR ts AS now() - INTERVAL '5 seconds') WITH (connector = 'file', path = 'in');
CREATE SOURCE c (ts TIMESTAMP, WATERMARK FOR ts AS ts + INTERVAL '1 hour') WITH (connector = 'file', path = 'in');
CREATE SOURCE d (ts TIMESTAMP, WATERMARK FOR ts AS date_trunk('minute', ts)) WITH (connector = 'file', path = 'in');
CREATE TABLE t (ts TIMESTAMP);
INSERT INTO t SELECT ts FROM a;
