CREATE SOURCE clicks (user_id STRING, day DATE, n BIGINT) WITH (connector = 'file', path = 'in');
CREATE MATERIALIZED VIEW missing AS SELECT count(*) AS n FROM clicks GROUP BY user_id;
CREATE MATERIALIZED VIEW unnamed AS SELECT upper(user_id), count(*) AS n FROM clicks GROUP BY upper(user_id);
CREATE MATERIALIZED VIEW sets AS SELECT user_id, day, count(*) AS n FROM clicks GROUP BY ROLLUP (user_id, day);
CREATE MATERIALIZED VIEW everything AS SELECT user_id, count(*) AS n FROM clicks GROUP BY ALL;
CREATE MATERIALIZED VIEW fine AS SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id;
CREATE TABLE fine (a INT);
INSERT INTO fine SELECT user_id, n FROM clicks;
DROP VIEW fine;
