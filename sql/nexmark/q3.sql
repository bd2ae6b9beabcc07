-- Nexmark q3. Local item suggestion: who sells in three states, in one category.
--
--   weir run sql/nexmark/q3.sql                 EVENTS and SEED from the environment

CREATE SOURCE person (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'person', events = '${EVENTS:-100000}', seed = '${SEED:-42}');
CREATE SOURCE auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') WITH (connector = 'nexmark', table = 'auction', events = '${EVENTS:-100000}', seed = '${SEED:-42}');

CREATE TABLE nexmark_q3 (
  name STRING, city STRING, state STRING, id BIGINT
) USING DELTA;

CREATE PIPELINE q3 WITH (state_ttl = 'none') AS BEGIN
  INSERT INTO nexmark_q3
  SELECT p.name, p.city, p.state, a.id
  FROM auction a JOIN person p ON a.seller = p.id
  WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA');
END;
