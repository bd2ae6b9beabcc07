-- Nexmark q18. Last bid of each bidder on each auction.
--
--   weir run sql/nexmark/q18.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q18 (
  auction BIGINT NOT NULL, bidder BIGINT NOT NULL, price BIGINT, channel STRING, url STRING, date_time TIMESTAMP, extra STRING,
  PRIMARY KEY (bidder, auction) NOT ENFORCED
) USING DELTA;

CREATE PIPELINE q18 WITH (state_ttl = 'none') AS BEGIN
  INSERT INTO nexmark_q18
  SELECT auction, bidder, price, channel, url, date_time, extra
  FROM (SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS rank FROM bid) ranked
  WHERE rank <= 1;
END;
