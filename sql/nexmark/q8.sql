-- Nexmark q8. Monitor new users: persons who opened an auction within ten seconds of signing up.
--
--   weir run sql/nexmark/q8.sql                 EVENTS and SEED from the environment

CREATE SOURCE person (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'person', events = '${EVENTS:-100000}', seed = '${SEED:-42}');
CREATE SOURCE auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'auction', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q8 (
  id BIGINT, name STRING, window_start TIMESTAMP
) USING DELTA;

INSERT INTO nexmark_q8
SELECT p.id, p.name, p.window_start
FROM (
  SELECT id, name, window_start, window_end
  FROM TUMBLE(TABLE person, DESCRIPTOR(date_time), INTERVAL '10 seconds')
  GROUP BY id, name, window_start, window_end
) p
JOIN (
  SELECT seller, window_start, window_end
  FROM TUMBLE(TABLE auction, DESCRIPTOR(date_time), INTERVAL '10 seconds')
  GROUP BY seller, window_start, window_end
) a ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end;
