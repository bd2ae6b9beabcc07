CREATE SOURCE s (
  a STRNG,
  b DECIMAL(40, 2),
  c ARRAY<MAP<STRING, INTT>>,
  d JSON,
  e TIMESTAMP(9),
  f INT METADATA FROM 'offset',
  g BIGINT METADATA FROM 'ofset',
  WATERMARK FOR a AS a
) WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't');

CREATE SOURCE m (
  f INT METADATA FROM 'offset',
  g BIGINT METADATA FROM 'ofset',
  h STRING FROM 'a..b',
  ts TIMESTAMP,
  WATERMARK FOR tss AS ts - INTERVAL '5 seconds'
) WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't');

CREATE SOURCE w (ts TIMESTAMP, id STRING, WATERMARK FOR id AS ts) WITH (connector = 'file', path = 'x');
