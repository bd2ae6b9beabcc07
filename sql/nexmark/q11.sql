-- Nexmark q11. User sessions: bids of each bidder between pauses of ten seconds.
--
--   weir run sql/nexmark/q11.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q11 (
  bidder BIGINT, bid_count BIGINT, window_start TIMESTAMP, window_end TIMESTAMP
) USING DELTA;

INSERT INTO nexmark_q11
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM SESSION(TABLE bid PARTITION BY bidder, DESCRIPTOR(date_time), INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end;
