CREATE SOURCE transactions (transaction_id STRING, user_id STRING, amount DOUBLE, ts TIMESTAMP)
WITH (connector = 'file', path = 'in');
CREATE SINK out WITH (connector = 'console');

CREATE VIEW big AS
SELECT user_id, ammount
FROM transactions;

INSERT INTO out SELECT t.usr_id FROM transactions t;
INSERT INTO out SELECT a.user_id FROM transactions a JOIN transactions b ON user_id = b.user_id;
INSERT INTO out SELECT "User_Id" FROM transactions;
INSERT INTO out SELECT nothing_like_it FROM transactions;
INSERT INTO out SELECT user_id, count(*) FROM transactions;
