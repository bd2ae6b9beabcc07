CREATE SOURCE a (x INT) WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', security_protocol = 'sasl_ssl');
CREATE SOURCE b (x INT) WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', security_protocol = 'plaintext', sasl_username = 'u', sasl_password = 'p');
CREATE SOURCE c (x INT) WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', security_protocol = 'tls');
CREATE SOURCE d (x INT) WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', sasl_username = 'u');
CREATE SOURCE e (x INT) WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 't', starting_offsets = 'latest', starting_timestamp = '2026-01-01');
CREATE SOURCE f (x INT) WITH (connector = 'kafka', bootstrap_servers = 'b', 'properties.bootstrap.servers' = 'c', topic = '', properties.sasl.jaas.config = 'x');
