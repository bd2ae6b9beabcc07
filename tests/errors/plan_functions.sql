CREATE SOURCE transactions (transaction_id STRING, user_id STRING, amount DOUBLE, ts TIMESTAMP)
WITH (connector = 'file', path = 'in');
CREATE SINK out WITH (connector = 'console');
CREATE FUNCTION risk(a DOUBLE) RETURNS DOUBLE LANGUAGE sql AS $$ a / 2 $$;

CREATE VIEW odd AS
SELECT rsik(amount) FROM transactions;

INSERT INTO out
SELECT user_id,
       rund(amount) AS amount
FROM transactions;

INSERT INTO out SELECT date_part(amount) FROM transactions;
INSERT INTO out SELECT amount FROM transactoins;
INSERT INTO out SELECT amount FROM out;
INSERT INTO out SELECT * FROM tumbel(transactions, ts);
INSERT INTO out SELECT NOT amount FROM transactions;
INSERT INTO out SELECT amount FROM transactions UNION ALL SELECT amount, ts FROM transactions;
