-- The side input of Nexmark q13: ten thousand keys with a value each. To be run once, before q13.sql.
--
--   weir run sql/nexmark/side_input.sql

CREATE SOURCE auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'auction', events = '166667', seed = '42');

CREATE TABLE nexmark_side_input (key BIGINT, value STRING) USING DELTA;

-- Auctions are numbered from 1000 on.
INSERT INTO nexmark_side_input
SELECT id - 1000 AS key, concat('item ', item_name) AS value FROM auction;
