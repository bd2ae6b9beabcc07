CREATE SOURCE a (id STRING, ts TIMESTAMP, WATERMARK FOR id AS ts) WITH (connector = 'file', path = 'in');
CREATE SOURCE b (id STRING, ts TIMESTAMP, WATERMARK FOR ts AS tz - INTERVAL '5 seconds') WITH (connector = 'file', path = 'in');
CREATE SOURCE c (id STRING, ts TIMESTAMP) WITH (connector = 'file', path = 'in', idle_after = '30 seconds', max_drift = 'far');
CREATE PIPELINE p WITH (rolling_emit = 'at_once', late = 'keep', state_ttl = 'forever', at_end = 'flsh', seed_from = 'history') AS BEGIN
  INSERT INTO t SELECT id FROM c;
END;
CREATE TABLE t (id STRING);
