SELCT 1;
CREATE SOURC s (a INT) WITH (connector = 'kafka');
SELECT a, b FORM t WHERE a;
SELECT a FROM WHERE b;
INSERT INTO t SELECT a FROM t WHERE (a > 1;
CREATE VIEW v AS
SELECT a,
       count(* AS n
FROM t;
CREATE TABLE t (a INT b STRING);
CREATE TABLE u (a INT) PARTITIONED (a);
CREATE FUNCTION f(x DOUBLE) RETURNS DOUBLE LANGUAGE sql AS $$
  x / (x +
$$;
CREATE SINK k WITH (connector = console);
EXPLAIN DROP t;
SHOW TABELS;
CREATE SINK z WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', sasl_password = 'letmein', sasl_username 'u');
