-- Nexmark q19. Top ten bids of each auction.
--
--   weir run sql/nexmark/q19.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q19 (
  auction BIGINT NOT NULL, bidder BIGINT, price BIGINT, channel STRING, url STRING, date_time TIMESTAMP, extra STRING, rank BIGINT NOT NULL,
  PRIMARY KEY (auction, rank) NOT ENFORCED
) USING DELTA;

CREATE PIPELINE q19 WITH (state_ttl = 'none') AS BEGIN
  INSERT INTO nexmark_q19
  SELECT auction, bidder, price, channel, url, date_time, extra, CAST(rank AS BIGINT) AS rank
  FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time, bidder) AS rank FROM bid) ranked
  WHERE rank <= 10;
END;
