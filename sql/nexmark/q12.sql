-- Nexmark q12. Windows per bidder: bids in ten seconds. (Nexmark asks for processing time; event time gives the same rows on every run.)
--
--   weir run sql/nexmark/q12.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q12 (
  bidder BIGINT, bid_count BIGINT, window_start TIMESTAMP, window_end TIMESTAMP
) USING DELTA;

INSERT INTO nexmark_q12
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end;
