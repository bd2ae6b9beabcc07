CREATE SOURCE s (id STRING, amount DOUBLE, n BIGINT) WITH (connector = 'file', path = 'in');
CREATE SINK o WITH (connector = 'console');
CREATE MODEL fraud WITH (provider = 'lightgbm', path = 'tests/data/fraud.txt');
INSERT INTO o SELECT fraud(amount, n) FROM s;
INSERT INTO o SELECT fraud(amount, id, n) FROM s;
INSERT INTO o SELECT fraud(amount, id, n, n) FROM s;
INSERT INTO o SELECT fraud(amont => amount, n => n) FROM s;
