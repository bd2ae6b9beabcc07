-- Nexmark q5. Hot items: the auctions with the most bids in each sliding window.
--
--   weir run sql/nexmark/q5.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q5 (
  auction BIGINT, num BIGINT, window_start TIMESTAMP, window_end TIMESTAMP
) USING DELTA;

CREATE VIEW auction_bids AS
SELECT auction, count(*) AS num, window_start, window_end
FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2 seconds', INTERVAL '10 seconds')
GROUP BY auction, window_start, window_end;

INSERT INTO nexmark_q5
SELECT a.auction, a.num, a.window_start, a.window_end
FROM auction_bids a
JOIN (SELECT max(num) AS max_num, window_start, window_end FROM auction_bids GROUP BY window_start, window_end) m
  ON a.window_start = m.window_start AND a.window_end = m.window_end AND a.num >= m.max_num;
