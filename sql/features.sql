-- The 15 features of the fraud handbook, over two streams: transactions, and what is known of them a week later.
--
--   weir run sql/features.sql
--   weir query 'SELECT * FROM features ORDER BY ts LIMIT 10'
--
-- From the environment: DAYS (183 for the published simulation), SEED, CUSTOMERS, TERMINALS.
--
-- Every window ends with its row and counts rows with the same time; the stream gives what a batch over all rows would give,
-- since a row comes out when the watermark has passed it.

CREATE SOURCE transactions (
  WATERMARK FOR ts AS ts
) WITH (
  connector = 'generator', days = '${DAYS:-20}', seed = '${SEED:-42}',
  customers = '${CUSTOMERS:-500}', terminals = '${TERMINALS:-1000}'
);

-- The same transactions, seven days later, with the truth: `ts` is when it is known.
CREATE SOURCE labels (
  WATERMARK FOR ts AS ts
) WITH (
  connector = 'generator', table = 'labels', label_delay = '7 days', days = '${DAYS:-20}', seed = '${SEED:-42}',
  customers = '${CUSTOMERS:-500}', terminals = '${TERMINALS:-1000}'
);

CREATE TABLE features (
  transaction_id STRING NOT NULL, user_id STRING, terminal_id STRING, ts TIMESTAMP, is_fraud BOOLEAN,
  amount DOUBLE, weekend BIGINT, night BIGINT,
  customer_n_1d BIGINT, customer_mean_1d DOUBLE,
  customer_n_7d BIGINT, customer_mean_7d DOUBLE,
  customer_n_30d BIGINT, customer_mean_30d DOUBLE,
  terminal_n_1d BIGINT, terminal_risk_1d DOUBLE,
  terminal_n_7d BIGINT, terminal_risk_7d DOUBLE,
  terminal_n_30d BIGINT, terminal_risk_30d DOUBLE
) USING DELTA;

CREATE FUNCTION share(part BIGINT, whole BIGINT) RETURNS DOUBLE IMMUTABLE LANGUAGE sql AS $$
  CASE WHEN whole = 0 THEN 0.0 ELSE CAST(part AS DOUBLE) / CAST(whole AS DOUBLE) END
$$;

-- How often and how much the customer pays.
CREATE VIEW customers AS
SELECT transaction_id, user_id, terminal_id, ts, is_fraud, amount,
  count(*)    OVER d1  AS customer_n_1d,  avg(amount) OVER d1  AS customer_mean_1d,
  count(*)    OVER d7  AS customer_n_7d,  avg(amount) OVER d7  AS customer_mean_7d,
  count(*)    OVER d30 AS customer_n_30d, avg(amount) OVER d30 AS customer_mean_30d
FROM transactions
WINDOW d1  AS (PARTITION BY user_id ORDER BY ts RANGE BETWEEN INTERVAL '1 day'   PRECEDING AND CURRENT ROW),
       d7  AS (PARTITION BY user_id ORDER BY ts RANGE BETWEEN INTERVAL '7 days'  PRECEDING AND CURRENT ROW),
       d30 AS (PARTITION BY user_id ORDER BY ts RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW);

-- Transactions and labels of a terminal in one stream: a label counts from when it is known.
CREATE VIEW terminal_events AS
SELECT transaction_id, user_id, terminal_id, ts, is_fraud, amount,
  customer_n_1d, customer_mean_1d, customer_n_7d, customer_mean_7d, customer_n_30d, customer_mean_30d,
  CAST(NULL AS BOOLEAN) AS label
FROM customers
UNION ALL
SELECT transaction_id, user_id, terminal_id, ts, CAST(NULL AS BOOLEAN), CAST(NULL AS DOUBLE),
  CAST(NULL AS BIGINT), CAST(NULL AS DOUBLE), CAST(NULL AS BIGINT), CAST(NULL AS DOUBLE), CAST(NULL AS BIGINT), CAST(NULL AS DOUBLE),
  is_fraud AS label
FROM labels;

-- How often the terminal was used, and how often it proved to be fraud.
CREATE VIEW terminals AS
SELECT *,
  count(label) OVER d1  AS terminal_n_1d,  count(*) FILTER (WHERE label) OVER d1  AS terminal_frauds_1d,
  count(label) OVER d7  AS terminal_n_7d,  count(*) FILTER (WHERE label) OVER d7  AS terminal_frauds_7d,
  count(label) OVER d30 AS terminal_n_30d, count(*) FILTER (WHERE label) OVER d30 AS terminal_frauds_30d
FROM terminal_events
WINDOW d1  AS (PARTITION BY terminal_id ORDER BY ts RANGE BETWEEN INTERVAL '1 day'   PRECEDING AND CURRENT ROW),
       d7  AS (PARTITION BY terminal_id ORDER BY ts RANGE BETWEEN INTERVAL '7 days'  PRECEDING AND CURRENT ROW),
       d30 AS (PARTITION BY terminal_id ORDER BY ts RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW);

INSERT INTO features
SELECT transaction_id, user_id, terminal_id, ts, is_fraud, amount,
  CASE WHEN date_part('dow', ts) IN (0, 6) THEN 1 ELSE 0 END AS weekend,
  CASE WHEN date_part('hour', ts) <= 6 THEN 1 ELSE 0 END AS night,
  customer_n_1d, customer_mean_1d, customer_n_7d, customer_mean_7d, customer_n_30d, customer_mean_30d,
  terminal_n_1d, share(terminal_frauds_1d, terminal_n_1d) AS terminal_risk_1d,
  terminal_n_7d, share(terminal_frauds_7d, terminal_n_7d) AS terminal_risk_7d,
  terminal_n_30d, share(terminal_frauds_30d, terminal_n_30d) AS terminal_risk_30d
FROM terminals
WHERE label IS NULL;
