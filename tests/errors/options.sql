-- Every kind of wrong option.
CREATE SECRET login FROM ENV NOT_SET_EITHER;

CREATE SOURCE transactions (id STRING NOT NULL, ts TIMESTAMP) WITH (
  connector = 'kafka',
  bootstrap_server = 'localhost:9092',
  topci = 'transactions',
  starting_offsets = 'newest',
  on_error = 'dead_leter',
  group_id = '${GROUP}',
  sasl_username = 'me',
  sasl_password = SECRET login,
  properties.enable.auto.commit = 'false'
);

CREATE SINK alerts WITH (connector = 'kafak', topic = 'alerts');

CREATE SINK archive WITH (connector = 'file', path = 'out', format = 'orc', compresion = 'zstd');

CREATE SINK out WITH (connector = 'kafka', bootstrap_servers = 'b:1', topic = 't', delivery = 'atleast_once');

CREATE SINK nowhere WITH (topic = 'x');
