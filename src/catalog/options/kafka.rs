//! Options of `connector = 'kafka'`, in weir's names and in Flink's and Spark's.
//!
//! The security protocol follows from the other options when it is not given: `sasl_ssl` with a login, `ssl` with
//! certificates, else `plaintext`.

use std::collections::BTreeMap;

use super::super::definition::{
    ChangeEncoding, ChangeFormat, Delivery, Format, KafkaConnection, KafkaSecurity, KafkaSinkOptions,
    KafkaSourceOptions, KeyFormat, OnDataLoss, OnNull, Secret, StartingOffsets,
};
use super::super::value::{instant, starting_offsets};
use super::{OptionReader, Text};
use crate::sql::Diagnostic;
use crate::sql::suggest::did_you_mean;

/// Security protocols, each with TLS and login or without.
const PROTOCOLS: &[(&str, (bool, bool))] = &[
    ("plaintext", (false, false)),
    ("ssl", (true, false)),
    ("sasl_plaintext", (false, true)),
    ("sasl_ssl", (true, true)),
];

const MECHANISMS: &[(&str, &str)] =
    &[("PLAIN", "PLAIN"), ("SCRAM-SHA-256", "SCRAM-SHA-256"), ("SCRAM-SHA-512", "SCRAM-SHA-512")];

/// librdkafka's properties that weir's guarantees depend on.
const OWN: &[&str] = &[
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "isolation.level",
    "transactional.id",
];

/// Options of a source.
pub fn source(reader: &mut OptionReader<'_>) -> Option<KafkaSourceOptions> {
    let connection = connection(reader);
    let topic = reader.required(&["topic", "subscribe"]);
    let rest = source_rest(reader, topic.as_ref().map_or("", |topic| topic.value.as_str()));
    properties(reader, connection, |connection| Some(KafkaSourceOptions { connection, topic: topic?.value, ..rest? }))
}

/// Options that Kafka and Event Hubs sources share; connection and topic are left empty.
pub(super) fn source_rest(reader: &mut OptionReader<'_>, topic: &str) -> Option<KafkaSourceOptions> {
    let group_id = reader.text(&["group_id", "properties.group.id"]).map(|text| text.value);
    let offsets = reader.text(&["starting_offsets", "scan.startup.mode", "startingoffsets"]);
    let start = reader.text(&["starting_timestamp", "scan.startup.timestamp-millis"]);
    let on_data_loss = reader
        .choice(&["on_data_loss"], &[("fail", OnDataLoss::Fail), ("continue", OnDataLoss::Continue)])
        .unwrap_or_default();
    let on_null =
        reader.choice(&["on_null"], &[("dead_letter", OnNull::DeadLetter), ("skip", OnNull::Skip)]).unwrap_or_default();
    Some(KafkaSourceOptions {
        connection: plain_connection(String::new()),
        topic: topic.to_owned(),
        group_id,
        starting_offsets: starting(reader, offsets, start, topic)?,
        on_data_loss,
        on_null,
        event_hubs: false,
    })
}

/// The start position; by default the earliest record, so that nothing is lost.
fn starting(
    reader: &mut OptionReader<'_>,
    offsets: Option<Text>,
    start: Option<Text>,
    topic: &str,
) -> Option<StartingOffsets> {
    let is_mode = |text: &Text| text.value.trim().eq_ignore_ascii_case("timestamp");
    match (offsets, start) {
        (None, None) => Some(StartingOffsets::Earliest),
        (Some(mode), None) if is_mode(&mode) => {
            reader.missing("starting_timestamp");
            None
        }
        (Some(text), None) => match starting_offsets(&text.value, topic) {
            Ok(offsets) => Some(offsets),
            Err(hint) => {
                reader.invalid("starting_offsets", &text, hint);
                None
            }
        },
        (Some(offsets), Some(_)) if !is_mode(&offsets) => {
            let message = "options `starting_offsets` and `starting_timestamp` exclude each other";
            reader.report(Diagnostic::new(offsets.span, message).with_hint("Leave one of them out."));
            None
        }
        (_, Some(text)) => match instant(&text.value) {
            Ok(ms) => Some(StartingOffsets::Timestamp(ms)),
            Err(hint) => {
                reader.invalid("starting_timestamp", &text, hint);
                None
            }
        },
    }
}

/// Options of a sink.
pub fn sink(reader: &mut OptionReader<'_>) -> Option<KafkaSinkOptions> {
    let connection = connection(reader);
    let topic = reader.required(&["topic"]);
    let rest = sink_rest(reader);
    properties(reader, connection, |connection| Some(KafkaSinkOptions { connection, topic: topic?.value, ..rest }))
}

/// Options that Kafka and Event Hubs sinks share; connection and topic are left empty.
pub(super) fn sink_rest(reader: &mut OptionReader<'_>) -> KafkaSinkOptions {
    const WORDS: &[(&str, Delivery)] = &[
        ("exactly_once", Delivery::ExactlyOnce),
        ("at_least_once", Delivery::AtLeastOnce),
        ("exactly-once", Delivery::ExactlyOnce),
        ("at-least-once", Delivery::AtLeastOnce),
    ];
    let delivery = reader.choice(&["delivery", "sink.delivery-guarantee"], WORDS).unwrap_or_default();
    let key = reader.text(&["key", "key.fields"]).map(|text| text.value);
    let changes = changes(reader);
    let start = reader.text(&["starting_timestamp"]);
    let starting_timestamp_ms = start.and_then(|text| match instant(&text.value) {
        Ok(ms) => Some(ms),
        Err(hint) => {
            reader.invalid("starting_timestamp", &text, hint);
            None
        }
    });
    let (connection, topic) = (plain_connection(String::new()), String::new());
    KafkaSinkOptions { connection, topic, delivery, key, changes, starting_timestamp_ms }
}

/// The encoding of changes: by primary key, in Debezium's envelope, or `None`.
fn changes(reader: &mut OptionReader<'_>) -> Option<ChangeEncoding> {
    let names =
        |text: &str| text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    let key: Vec<String> = reader.text(&["primary_key"]).map(|text| names(&text.value)).unwrap_or_default();
    let words = &[("json", KeyFormat::Json), ("text", KeyFormat::Text), ("raw", KeyFormat::Text)];
    let key_format = reader.choice(&["key_format", "key.format"], words);
    if key_format == Some(KeyFormat::Text) && key.len() != 1 {
        let error = Diagnostic::new(reader.anchor(), "`key_format = 'text'` needs a `primary_key` of one column");
        reader.report(error.with_hint("Write `key_format = 'json'` for several."));
    }
    let format = match sink_format(reader) {
        ChangeFormat::Debezium => ChangeFormat::Debezium,
        ChangeFormat::Upsert if key.is_empty() => return None,
        ChangeFormat::Upsert => ChangeFormat::Upsert,
    };
    Some(ChangeEncoding { format, key, key_format: key_format.unwrap_or_default() })
}

/// The format of a sink's messages.
fn sink_format(reader: &mut OptionReader<'_>) -> ChangeFormat {
    const DEBEZIUM: &str = "debezium-json";
    let named = reader.peek(&["format", "value.format"]);
    if named.is_some_and(|format| format.trim().eq_ignore_ascii_case(DEBEZIUM)) {
        reader.skip(&["format", "value.format"]);
        return ChangeFormat::Debezium;
    }
    message_format(reader);
    ChangeFormat::Upsert
}

/// The encoding of messages.
pub fn message_format(reader: &mut OptionReader<'_>) -> Format {
    if let Some(text) = reader.text(&["format", "value.format"]) {
        match text.value.trim().to_lowercase().as_str() {
            "json" => {}
            "avro" | "protobuf" | "debezium-json" | "csv" | "raw" | "parquet" => {
                let message = format!("format `{}` is not supported yet for messages", text.value);
                reader.report(Diagnostic::new(text.span, message).with_hint("Write `format = 'json'`."));
            }
            other => {
                let hint = did_you_mean(other, ["json"]).unwrap_or_else(|| "Write `'json'`.".to_owned());
                reader.invalid("format", &text, hint);
            }
        }
    }
    Format::Json
}

/// Reads the remaining `properties.*`, then finishes with `make`.
pub(super) fn properties<T>(
    reader: &mut OptionReader<'_>,
    connection: Option<KafkaConnection>,
    make: impl FnOnce(KafkaConnection) -> Option<T>,
) -> Option<T> {
    let mut properties = BTreeMap::new();
    for (name, value) in reader.prefixed("properties.") {
        if OWN.contains(&name.value.as_str()) {
            let message = format!("property `{}` is set by weir", name.value);
            reader.report(Diagnostic::new(name.span, message).with_detail("Exactly-once processing depends on it."));
        } else if name.value == "sasl.jaas.config" {
            let error = Diagnostic::new(name.span, "property `sasl.jaas.config` is for Java clients");
            reader.report(error.with_hint("Use `sasl_mechanism`, `sasl_username` and `sasl_password`."));
        } else {
            properties.insert(name.value, value);
        }
    }
    make(KafkaConnection { properties, ..connection? })
}

/// A connection without TLS and login.
pub(super) fn plain_connection(bootstrap_servers: String) -> KafkaConnection {
    let security =
        KafkaSecurity { tls: false, ca_location: None, certificate_location: None, key_location: None, sasl: None };
    KafkaConnection { bootstrap_servers, security, properties: BTreeMap::new() }
}

fn connection(reader: &mut OptionReader<'_>) -> Option<KafkaConnection> {
    const SERVERS: &[&str] = &[
        "bootstrap_servers",
        "properties.bootstrap.servers",
        "properties.bootstrap.server",
        "kafka.bootstrap.servers",
        "bootstrap.servers",
    ];
    let servers = reader.required(SERVERS);
    let security = security(reader);
    Some(KafkaConnection { security: security?, ..plain_connection(servers?.value) })
}

fn security(reader: &mut OptionReader<'_>) -> Option<KafkaSecurity> {
    let protocol = reader.choice(&["security_protocol", "properties.security.protocol"], PROTOCOLS);
    let ca_location = shown(reader, &["ssl_ca_location", "properties.ssl.ca.location"]);
    let certificate_location = shown(reader, &["ssl_certificate_location", "properties.ssl.certificate.location"]);
    let key_location = shown(reader, &["ssl_key_location", "properties.ssl.key.location"]);
    let login_given = ["sasl_username", "sasl_password", "properties.sasl.username", "properties.sasl.password"];
    let login_given = login_given.iter().any(|name| reader.has(name));
    let login = login(reader);
    let has_certificates = ca_location.is_some() || certificate_location.is_some() || key_location.is_some();
    let (tls, wants_login) = protocol.unwrap_or((login.is_some() || has_certificates, login.is_some()));
    if wants_login && !login_given {
        reader.missing("sasl_username");
    }
    if !wants_login && login.is_some() {
        let error = Diagnostic::new(reader.anchor(), "a login needs a `sasl` protocol");
        reader.report(error.with_hint("Write `security_protocol = 'sasl_ssl'` or `'sasl_plaintext'`."));
    }
    if !tls && has_certificates {
        let error = Diagnostic::new(reader.anchor(), "certificates need an `ssl` protocol");
        reader.report(error.with_hint("Write `security_protocol = 'ssl'` or `'sasl_ssl'`."));
    }
    Some(KafkaSecurity { tls, ca_location, certificate_location, key_location, sasl: login })
}

fn shown(reader: &mut OptionReader<'_>, names: &[&'static str]) -> Option<String> {
    reader.text(names).map(|text| text.value)
}

/// Mechanism, user and password; all or none.
fn login(reader: &mut OptionReader<'_>) -> Option<(String, String, Secret)> {
    const MECHANISM: &[&str] = &["sasl_mechanism", "properties.sasl.mechanism", "properties.sasl.mechanisms"];
    let before = reader.errors.len();
    let mechanism = reader.choice(MECHANISM, MECHANISMS);
    let user = reader.text(&["sasl_username", "properties.sasl.username"]);
    let password = reader.secret(&["sasl_password", "properties.sasl.password"]);
    match (user, password) {
        (Some(user), Some((password, _))) => Some((mechanism.unwrap_or("PLAIN").to_owned(), user.value, password)),
        (Some(_), None) if reader.errors.len() == before => {
            reader.missing("sasl_password");
            None
        }
        (None, Some(_)) if reader.errors.len() == before => {
            reader.missing("sasl_username");
            None
        }
        _ => None,
    }
}
