CREATE SECRET hub FROM ENV PASSWORD;
CREATE SOURCE a (id STRING) WITH (connector = 'eventhubs', connection_string = SECRET hub, topic = 'x');
CREATE SOURCE b (id STRING) WITH (connector = 'kafka', bootstrap_servers = SECRET hub, topic = 'x');
CREATE SOURCE c (id STRING) WITH (connector = 'kafka', bootstrap_servers = 'b', topic = 'x', sasl_username = 'u', sasl_password = SECRET hubb);
CREATE SECRET eh FROM ENV EVENTHUB;
CREATE SOURCE d (id STRING) WITH (connector = 'eventhubs', connection_string = SECRET eh, topic = 'other');
CREATE SECRET plain FROM 'hunter' ;
