CREATE FUNCTION geo(s STRING) RETURNS STRING IMMUTABLE LANGUAGE python USING FILE 'udfs/geo.py';
CREATE MODEL m WITH (provider = 'lightgbm', objective = 'binary') AS SELECT a, b AS label FROM t;
REFRESH MODEL m EVERY '1 day';
OPTIMIZE t ZORDER BY (a);
VACUUM t RETAIN 24 HOURS;
EXPLAIN ANALYZE SELECT 1;
CREATE SOURCE s (a INT) WITH (connector = 'mqtt', path = 'x');
CREATE SINK o WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', format = 'avro');
CREATE TABLE t (a INT, b INT DEFAULT 1);
