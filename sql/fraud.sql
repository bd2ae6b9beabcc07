-- Card fraud: every transaction that arrives in Kafka is scored by a LightGBM model and committed to Delta exactly once;
-- suspicious ones go to a second table in the same commit and at once to an alert topic.
--
--   make demo                                            everything in one process, nothing to install
--   KAFKA=broker:9092 weir run sql/fraud.sql --serve     the same against your Kafka
--
-- From the environment: KAFKA (bootstrap servers), TOPIC, ALERTS (topics), MODEL (path of the model file).

CREATE SOURCE transactions (
  transaction_id STRING NOT NULL,
  user_id        STRING,
  amount         DOUBLE,
  ts             TIMESTAMP,
  terminal_id    STRING,
  location       STRING,
  WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
) WITH (
  connector = 'kafka',
  bootstrap_servers = '${KAFKA:-localhost:9092}',
  topic = '${TOPIC:-transactions}',
  format = 'json',
  starting_offsets = 'earliest',
  on_error = 'dead_letter'
);

-- Trained on (amount, hour, weekend, night), in this order.
CREATE MODEL fraud_score WITH (provider = 'lightgbm', path = '${MODEL:-models/fraud.txt}');

CREATE TABLE scored (
  transaction_id STRING NOT NULL,
  user_id        STRING,
  terminal_id    STRING,
  location       STRING,
  amount         DOUBLE,
  ts             TIMESTAMP,
  score          DOUBLE,
  day            DATE
) USING DELTA
PARTITIONED BY (day);

CREATE TABLE fraud_alerts (
  transaction_id STRING NOT NULL,
  user_id        STRING,
  terminal_id    STRING,
  amount         DOUBLE,
  ts             TIMESTAMP,
  score          DOUBLE
) USING DELTA;

-- Alerts must not wait for a commit: drop repeats after a crash by transaction_id.
CREATE SINK alerts_topic WITH (
  connector = 'kafka',
  bootstrap_servers = '${KAFKA:-localhost:9092}',
  topic = '${ALERTS:-alerts}',
  format = 'json',
  delivery = 'at_least_once'
);

-- What the model looks at and needs no memory; weekend and night as in the fraud handbook (night: until 06:59 UTC).
CREATE VIEW features AS
SELECT
  transaction_id, user_id, terminal_id, location, amount, ts,
  date_part('hour', ts) AS hour,
  CASE WHEN date_part('dow', ts) IN (0, 6) THEN 1 ELSE 0 END AS weekend,
  CASE WHEN date_part('hour', ts) <= 6 THEN 1 ELSE 0 END AS night
FROM transactions;

-- Computed once, however many INSERTs read it.
CREATE VIEW enriched AS
SELECT
  transaction_id, user_id, terminal_id, location, amount, ts,
  fraud_score(amount, hour, weekend, night) AS score
FROM features;

CREATE PIPELINE fraud WITH (trigger = '1 second') AS BEGIN
  INSERT INTO scored
  SELECT transaction_id, user_id, terminal_id, location, amount, ts, score, CAST(ts AS DATE) AS day FROM enriched;

  INSERT INTO fraud_alerts
  SELECT transaction_id, user_id, terminal_id, amount, ts, score FROM enriched WHERE score > 0.5;

  INSERT INTO alerts_topic
  SELECT transaction_id, user_id, amount, ts, score FROM enriched WHERE score > 0.5;
END;
