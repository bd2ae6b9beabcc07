CREATE SOURCE s (id STRING, n BIGNT) WITH (connector = 'file', path = 'in');
CREATE SOURCE r (id STRING, n BIGINT) WITH (connector = 'file', path = 'in');
CREATE TABLE t (id STRING, n BIGINT);
