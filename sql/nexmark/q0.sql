-- Nexmark q0. Pass through: every bid as it is.
--
--   weir run sql/nexmark/q0.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q0 (
  auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra STRING
) USING DELTA;

INSERT INTO nexmark_q0
SELECT auction, bidder, price, date_time, extra FROM bid;
