-- The card-fraud simulator as a source: rows without any service, the same rows for the same seed.
--
--   weir run sql/generator.sql
--   weir query 'SELECT band, count(*) AS n, avg(CAST(is_fraud AS INT)) AS fraud FROM simulated GROUP BY band'

-- Columns: transaction_id, user_id, amount, ts, terminal_id, location, is_fraud, fraud_scenario.
CREATE SOURCE simulator WITH (connector = 'generator', rate = '${RATE:-1000}', seed = '42');

CREATE FUNCTION amount_band(amount DOUBLE) RETURNS STRING IMMUTABLE LANGUAGE sql AS $$
  CASE WHEN amount < 20 THEN 'small' WHEN amount <= 220 THEN 'usual' ELSE 'large' END
$$;

CREATE TABLE simulated (
  transaction_id STRING NOT NULL,
  user_id        STRING,
  terminal_id    STRING,
  amount         DOUBLE,
  band           STRING,
  ts             TIMESTAMP,
  is_fraud       BOOLEAN
) USING DELTA;

INSERT INTO simulated
SELECT transaction_id, user_id, terminal_id, amount, amount_band(amount) AS band, ts, is_fraud
FROM simulator;
