-- Nexmark q17. Auction statistics per day.
--
--   weir run sql/nexmark/q17.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q17 (
  auction BIGINT NOT NULL, day DATE NOT NULL, total_bids BIGINT, rank1_bids BIGINT, rank2_bids BIGINT, rank3_bids BIGINT,
  min_price BIGINT, max_price BIGINT, avg_price DOUBLE, sum_price BIGINT, PRIMARY KEY (auction, day) NOT ENFORCED
) USING DELTA;

INSERT INTO nexmark_q17
SELECT auction, CAST(date_time AS DATE) AS day,
  count(*) AS total_bids,
  count(*) FILTER (WHERE price < 10000) AS rank1_bids,
  count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
  count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
  min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price
FROM bid
GROUP BY auction, CAST(date_time AS DATE);
