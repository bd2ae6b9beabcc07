//! Options of `connector = 'eventhubs'`: Azure Event Hubs through its Kafka endpoint, given by a connection string
//! `Endpoint=sb://NAMESPACE.servicebus.windows.net/;SharedAccessKeyName=…;SharedAccessKey=…[;EntityPath=topic]`.
//!
//! The endpoint uses SASL_SSL with mechanism PLAIN, user `$ConnectionString`, and the string as password; the local emulator
//! (`UseDevelopmentEmulator=true`) uses SASL_PLAINTEXT. Messages show no part of the string except its topic.

use super::super::definition::{KafkaConnection, KafkaSecurity, KafkaSinkOptions, KafkaSourceOptions, Secret};
use super::OptionReader;
use super::kafka::{plain_connection, properties, sink_rest, source_rest};
use crate::sql::{Diagnostic, Span};

/// Options of a source.
pub fn source(reader: &mut OptionReader<'_>) -> Option<KafkaSourceOptions> {
    let (connection, topic) = connection(reader);
    let rest = source_rest(reader, topic.as_deref().unwrap_or(""));
    properties(reader, connection, |connection| {
        Some(KafkaSourceOptions { connection, topic: topic?, event_hubs: true, ..rest? })
    })
}

/// Options of a sink.
pub fn sink(reader: &mut OptionReader<'_>) -> Option<KafkaSinkOptions> {
    let (connection, topic) = connection(reader);
    let rest = sink_rest(reader);
    properties(reader, connection, |connection| Some(KafkaSinkOptions { connection, topic: topic?, ..rest }))
}

/// The connection, and the topic from its option or from the connection string.
fn connection(reader: &mut OptionReader<'_>) -> (Option<KafkaConnection>, Option<String>) {
    let override_servers = reader.text(&["bootstrap_servers", "properties.bootstrap.servers"]);
    let topic = reader.text(&["topic", "eventhub", "event_hub"]);
    let before = reader.errors.len();
    let Some((string, span)) = reader.secret(&["connection_string"]) else {
        if reader.errors.len() == before {
            reader.missing("connection_string");
        }
        return (None, topic.map(|topic| topic.value));
    };
    let parts = match Parts::read(string.expose()) {
        Ok(parts) => parts,
        Err(problem) => {
            reader.report(malformed(span, problem));
            return (None, topic.map(|topic| topic.value));
        }
    };
    if let (Some(topic), Some(entity)) = (&topic, &parts.topic)
        && topic.value != *entity
    {
        let message = format!("the connection string is for `{entity}`, not for topic `{}`", topic.value);
        reader.report(
            Diagnostic::new(topic.span, message).with_hint("Use a connection string of the namespace, or that topic."),
        );
    }
    let topic = topic.map(|topic| topic.value).or(parts.topic);
    if topic.is_none() {
        reader.missing("topic");
    }
    let port = if parts.is_emulator { 9092 } else { 9093 };
    let servers = override_servers.map_or_else(|| format!("{}:{port}", parts.host), |text| text.value);
    let security = KafkaSecurity {
        tls: !parts.is_emulator,
        sasl: Some(("PLAIN".to_owned(), "$ConnectionString".to_owned(), Secret::new(string.expose().trim()))),
        ..plain_connection(String::new()).security
    };
    (Some(KafkaConnection { security, ..plain_connection(servers) }), topic)
}

fn malformed(span: Span, problem: &str) -> Diagnostic {
    Diagnostic::new(span, format!("the connection string {problem}")).with_hint(
        "Copy it from the Azure portal: `Endpoint=sb://…/;SharedAccessKeyName=…;SharedAccessKey=…[;EntityPath=…]`.",
    )
}

/// Contents of a connection string.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    host: String,
    topic: Option<String>,
    is_emulator: bool,
}

impl Parts {
    /// Parses a connection string; the error completes the sentence "the connection string …".
    fn read(string: &str) -> Result<Self, &'static str> {
        let field = |name: &str| {
            let fields = string.trim().split(';').filter_map(|field| field.split_once('='));
            fields.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
        };
        let endpoint = field("Endpoint").ok_or("has no `Endpoint`")?;
        let host = endpoint.strip_prefix("sb://").ok_or("has an `Endpoint` that does not begin with `sb://`")?;
        let host = host.split(['/', ':']).next().filter(|host| !host.is_empty()).ok_or("has an empty `Endpoint`")?;
        field("SharedAccessKeyName").filter(|name| !name.is_empty()).ok_or("has no `SharedAccessKeyName`")?;
        field("SharedAccessKey").filter(|key| !key.is_empty()).ok_or("has no `SharedAccessKey`")?;
        Ok(Self {
            host: host.to_owned(),
            topic: field("EntityPath").filter(|topic| !topic.is_empty()).map(str::to_owned),
            is_emulator: field("UseDevelopmentEmulator").is_some_and(|flag| flag.eq_ignore_ascii_case("true")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_give_host_and_topic() {
        let string =
            "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=abc=;EntityPath=tx";
        let parts = Parts::read(string).unwrap();
        assert_eq!(parts.host, "ns.servicebus.windows.net");
        assert_eq!(parts.topic.as_deref(), Some("tx"));
        assert!(!parts.is_emulator);
        for text in ["", "Endpoint=https://x/", "Endpoint=sb://x/;SharedAccessKeyName=a", "SharedAccessKey=b"] {
            assert!(Parts::read(text).is_err(), "{text}");
        }
    }
}
