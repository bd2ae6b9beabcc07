CREATE TABLE t (a INT);
INSERT INTO t SELECT 1 /* and nobody knows
