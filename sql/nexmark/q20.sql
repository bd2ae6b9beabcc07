-- Nexmark q20. Bids with their auction, one category.
--
--   weir run sql/nexmark/q20.sql                 EVENTS and SEED from the environment

CREATE SOURCE auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'auction', events = '${EVENTS:-100000}', seed = '${SEED:-42}');
CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q20 (
  auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, bid_date_time TIMESTAMP, bid_extra STRING, item_name STRING, description STRING,
  initial_bid BIGINT, reserve BIGINT, auction_date_time TIMESTAMP, expires TIMESTAMP, seller BIGINT, category BIGINT, auction_extra STRING
) USING DELTA;

CREATE PIPELINE q20 WITH (state_ttl = 'none') AS BEGIN
  INSERT INTO nexmark_q20
  SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.date_time AS bid_date_time, b.extra AS bid_extra,
    a.item_name, a.description, a.initial_bid, a.reserve, a.date_time AS auction_date_time, a.expires, a.seller, a.category,
    a.extra AS auction_extra
  FROM bid b JOIN auction a ON b.auction = a.id
  WHERE a.category = 10;
END;
