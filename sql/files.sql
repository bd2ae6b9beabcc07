-- JSON lines into Delta, without Kafka. Each run takes what is new since the last one (new files, appended lines), commits
-- and ends: the offset of a file source is a file and a position in it.
--
--   mkdir -p data && weir generate transactions --days 7 --seed 42 --to data/transactions.jsonl
--   weir run sql/files.sql
--   weir query 'SELECT location, count(*) AS n FROM large_payments GROUP BY location ORDER BY n DESC'
--
-- From the environment: INPUT (a file, a folder, or a pattern with `*`).

CREATE SOURCE payments (
  transaction_id STRING NOT NULL,
  user_id        STRING,
  amount         DOUBLE,
  ts             TIMESTAMP,
  location       STRING,
  file           STRING METADATA FROM 'topic'
) WITH (
  connector = 'file',
  path = '${INPUT:-data/*.jsonl}',
  format = 'json',
  on_error = 'dead_letter'
);

CREATE TABLE all_payments (
  transaction_id STRING NOT NULL,
  user_id        STRING,
  amount         DOUBLE,
  ts             TIMESTAMP,
  location       STRING,
  file           STRING,
  day            DATE
) USING DELTA
PARTITIONED BY (day);

CREATE TABLE large_payments (
  transaction_id STRING NOT NULL,
  user_id        STRING,
  amount         DOUBLE,
  location       STRING
) USING DELTA;

CREATE PIPELINE files WITH (trigger = 'available now') AS BEGIN
  INSERT INTO all_payments   SELECT *, CAST(ts AS DATE) AS day FROM payments;
  INSERT INTO large_payments SELECT transaction_id, user_id, amount, location FROM payments WHERE amount > 220;
END;
