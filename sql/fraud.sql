-- Card fraud: every transaction that arrives in Kafka is scored by a LightGBM model that sees what the customer and the terminal did
-- lately, and committed to Delta exactly once; suspicious ones go to a second table in the same commit and at once to an alert topic.
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
  -- Where the record lies in the topic: what a score was computed from can be read again.
  kafka_partition INT    METADATA FROM 'partition',
  kafka_offset    BIGINT METADATA FROM 'offset',
  WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
) WITH (
  connector = 'kafka',
  bootstrap_servers = '${KAFKA:-localhost:9092}',
  topic = '${TOPIC:-transactions}',
  format = 'json',
  starting_offsets = 'earliest',
  on_error = 'dead_letter'
);

-- Trained on the columns of `features`, in this order, as `weir demo` does it: the same SQL over history.
CREATE MODEL fraud_score WITH (provider = 'lightgbm', path = '${MODEL:-models/fraud.txt}');

-- The score with everything that it was computed from: see "Explaining a score" in docs/recipes.md.
CREATE TABLE scored (
  transaction_id STRING NOT NULL,
  user_id        STRING,
  terminal_id    STRING,
  location       STRING,
  amount         DOUBLE,
  ts             TIMESTAMP,
  weekend        BIGINT,
  night          BIGINT,
  customer_n_1d  BIGINT, customer_mean_1d DOUBLE, customer_n_7d BIGINT, customer_mean_7d DOUBLE,
  terminal_n_1d  BIGINT, terminal_mean_1d DOUBLE, terminal_n_7d BIGINT, terminal_mean_7d DOUBLE,
  kafka_partition INT,
  kafka_offset    BIGINT,
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

-- A producer that tries again sends a transaction twice.
CREATE VIEW transactions_once AS
SELECT * FROM DEDUPLICATE(TABLE transactions, KEY(transaction_id), WITHIN INTERVAL '24 hours');

-- How often and how much the customer has paid lately …
CREATE VIEW customers AS
SELECT *,
  count(*) OVER d1 AS customer_n_1d, avg(amount) OVER d1 AS customer_mean_1d,
  count(*) OVER d7 AS customer_n_7d, avg(amount) OVER d7 AS customer_mean_7d
FROM transactions_once
WINDOW d1 AS (PARTITION BY user_id ORDER BY ts RANGE BETWEEN INTERVAL '1 day'  PRECEDING AND CURRENT ROW),
       d7 AS (PARTITION BY user_id ORDER BY ts RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);

-- … and how busy the terminal has been.
CREATE VIEW terminals AS
SELECT *,
  count(*) OVER d1 AS terminal_n_1d, avg(amount) OVER d1 AS terminal_mean_1d,
  count(*) OVER d7 AS terminal_n_7d, avg(amount) OVER d7 AS terminal_mean_7d
FROM customers
WINDOW d1 AS (PARTITION BY terminal_id ORDER BY ts RANGE BETWEEN INTERVAL '1 day'  PRECEDING AND CURRENT ROW),
       d7 AS (PARTITION BY terminal_id ORDER BY ts RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);

-- What the model looks at; weekend and night as in the fraud handbook (night: until 06:59 UTC).
CREATE VIEW features AS
SELECT
  transaction_id, user_id, terminal_id, location, amount, ts,
  CASE WHEN date_part('dow', ts) IN (0, 6) THEN 1 ELSE 0 END AS weekend,
  CASE WHEN date_part('hour', ts) <= 6 THEN 1 ELSE 0 END AS night,
  customer_n_1d, customer_mean_1d, customer_n_7d, customer_mean_7d,
  terminal_n_1d, terminal_mean_1d, terminal_n_7d, terminal_mean_7d,
  kafka_partition, kafka_offset
FROM terminals;

-- Computed once, however many INSERTs read it.
CREATE VIEW enriched AS
SELECT
  *,
  fraud_score(
    amount, weekend, night,
    customer_n_1d, customer_mean_1d, customer_n_7d, customer_mean_7d,
    terminal_n_1d, terminal_mean_1d, terminal_n_7d, terminal_mean_7d
  ) AS score
FROM features;

-- `on_arrival`: an alert does not wait for a watermark; features are those of the rows known when the transaction came.
CREATE PIPELINE fraud WITH (trigger = '1 second', rolling_emit = 'on_arrival') AS BEGIN
  INSERT INTO scored
  SELECT *, CAST(ts AS DATE) AS day FROM enriched;

  INSERT INTO fraud_alerts
  SELECT transaction_id, user_id, terminal_id, amount, ts, score FROM enriched WHERE score > 0.5;

  INSERT INTO alerts_topic
  SELECT transaction_id, user_id, amount, ts, score FROM enriched WHERE score > 0.5;

  -- One row a customer, kept up to date.
  CREATE MATERIALIZED VIEW user_stats AS
  SELECT user_id, count(*) AS n, sum(amount) AS total, max(score) AS highest_score, max(ts) AS last_seen
  FROM enriched
  GROUP BY user_id;
END;
