-- Nexmark q7. Highest bid: the bids that reached the highest price of their ten seconds.
--
--   weir run sql/nexmark/q7.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q7 (
  auction BIGINT, price BIGINT, bidder BIGINT, date_time TIMESTAMP, extra STRING
) USING DELTA;

INSERT INTO nexmark_q7
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM bid b
JOIN (
  SELECT max(price) AS max_price, window_end
  FROM TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10 seconds')
  GROUP BY window_start, window_end
) m ON b.price = m.max_price AND b.date_time BETWEEN m.window_end - INTERVAL '10 seconds' AND m.window_end;
