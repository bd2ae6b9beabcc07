-- Nexmark q4. Average of the winning prices per category.
--
--   weir run sql/nexmark/q4.sql                 EVENTS and SEED from the environment

CREATE SOURCE auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'auction', events = '${EVENTS:-100000}', seed = '${SEED:-42}');
CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'bid', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q4 (
  category BIGINT NOT NULL, avg_final DOUBLE, PRIMARY KEY (category) NOT ENFORCED
) USING DELTA;

CREATE PIPELINE q4 WITH (state_ttl = 'none') AS BEGIN
  INSERT INTO nexmark_q4
  SELECT q.category, avg(q.final) AS avg_final
  FROM (
    SELECT max(b.price) AS final, a.category
    FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
    GROUP BY a.id, a.category
  ) q
  GROUP BY q.category;
END;
