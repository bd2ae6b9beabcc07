-- Nexmark q9. Winning bids: the best bid of each auction while it was open.
--
--   weir run sql/nexmark/q9.sql                 EVENTS and SEED from the environment

CREATE SOURCE auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'auction', events = '${EVENTS:-100000}', seed = '${SEED:-42}');
CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q9 (
  id BIGINT NOT NULL, item_name STRING, description STRING, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMP, expires TIMESTAMP,
  seller BIGINT, category BIGINT, bidder BIGINT, price BIGINT, bid_date_time TIMESTAMP, PRIMARY KEY (id) NOT ENFORCED
) USING DELTA;

CREATE PIPELINE q9 WITH (state_ttl = 'none') AS BEGIN
  INSERT INTO nexmark_q9
  SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, bidder, price, bid_date_time
  FROM (
    SELECT a.id, a.item_name, a.description, a.initial_bid, a.reserve, a.date_time, a.expires, a.seller, a.category,
           b.bidder, b.price, b.date_time AS bid_date_time,
           row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time ASC, b.bidder) AS rank
    FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
  ) ranked
  WHERE rank <= 1;
END;
