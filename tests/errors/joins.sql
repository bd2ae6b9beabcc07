CREATE SOURCE payments (id STRING, ts TIMESTAMP) WITH (connector = 'file', path = 'in');
CREATE TABLE customers (id STRING, name STRING);
CREATE SINK out WITH (connector = 'console');
INSERT INTO out SELECT * FROM customers FOR SYSTEM_TIME AS OF now();
INSERT INTO out SELECT * FROM payments p LEFT JOIN customers FOR SYSTEM_TIME AS OF p.ts AS c USING (id);
INSERT INTO out SELECT * FROM payments p ASOF JOIN payments q MATCH_CONDITION (p.ts >= q.ts) USING (id);
