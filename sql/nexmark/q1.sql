-- Nexmark q1. Currency conversion: prices in euros.
--
--   weir run sql/nexmark/q1.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q1 (
  auction BIGINT, bidder BIGINT, price DOUBLE, date_time TIMESTAMP, extra STRING
) USING DELTA;

INSERT INTO nexmark_q1
SELECT auction, bidder, 0.908 * CAST(price AS DOUBLE) AS price, date_time, extra FROM bid;
