-- Nexmark q14. Calculation: conversion, a CASE over the time of day, a function.
--
--   weir run sql/nexmark/q14.sql                 EVENTS and SEED from the environment

CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q14 (
  auction BIGINT, bidder BIGINT, price DOUBLE, bid_time_type STRING, date_time TIMESTAMP, extra STRING, c_counts BIGINT
) USING DELTA;

CREATE FUNCTION count_char(s STRING, c STRING) RETURNS BIGINT IMMUTABLE LANGUAGE sql
AS $$ CAST(length(s) - length(replace(s, c, '')) AS BIGINT) $$;

INSERT INTO nexmark_q14
SELECT auction, bidder, 0.908 * CAST(price AS DOUBLE) AS price,
  CASE
    WHEN date_part('hour', date_time) BETWEEN 8 AND 18 THEN 'dayTime'
    WHEN date_part('hour', date_time) <= 6 OR date_part('hour', date_time) >= 20 THEN 'nightTime'
    ELSE 'otherTime'
  END AS bid_time_type,
  date_time, extra, count_char(extra, 'c') AS c_counts
FROM bid
WHERE 0.908 * CAST(price AS DOUBLE) > 1000000 AND 0.908 * CAST(price AS DOUBLE) < 50000000;
