-- Nexmark q13. Bounded side input: bids with what a table says of their auction.
--
--   weir run sql/nexmark/side_input.sql          makes the table
--   weir run sql/nexmark/q13.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_side_input (key BIGINT, value STRING) USING DELTA;

CREATE TABLE nexmark_q13 (
  auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, value STRING
) USING DELTA;

INSERT INTO nexmark_q13
SELECT b.auction, b.bidder, b.price, b.date_time, s.value
FROM bid b JOIN nexmark_side_input s ON b.auction % 10000 = s.key;
