-- Nexmark q2. Selection: bids on chosen auctions.
--
--   weir run sql/nexmark/q2.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q2 (
  auction BIGINT, price BIGINT
) USING DELTA;

INSERT INTO nexmark_q2
SELECT auction, price FROM bid WHERE auction % 123 = 0;
