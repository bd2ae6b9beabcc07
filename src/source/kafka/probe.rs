//! `weir check --connect`: tries a Kafka connection step by step and says which step failed and how to mend it.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset as KafkaOffset, TopicPartitionList};

use super::client::{self, Context};
use super::cluster::{self, Attempt};
use crate::catalog::KafkaConnection;
use crate::env::Env;
use crate::error::{Error, Result};

/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One step of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStep {
    /// `address`, `tcp`, `login`, `topic` or `sample`.
    pub name: String,
    /// What was found, or what failed, in a line.
    pub outcome: Result<String, String>,
    /// How to mend it, as a sentence.
    pub hint: Option<String>,
}

impl ProbeStep {
    fn passed(name: &str, found: String) -> Self {
        Self { name: name.to_owned(), outcome: Ok(found), hint: None }
    }

    fn failed(name: &str, why: String, hint: &str) -> Self {
        Self { name: name.to_owned(), outcome: Err(why), hint: Some(hint.to_owned()) }
    }
}

/// Tries the steps address, tcp, login, topic and sample in order and stops after the first that fails. Blocks for
/// up to 5 s a step.
pub fn probe(connection: &KafkaConnection, topic: &str, env: &Env) -> Vec<ProbeStep> {
    let mut steps = Vec::new();
    let addresses = match resolve(connection) {
        Ok((found, addresses)) => {
            steps.push(ProbeStep::passed("address", found));
            addresses
        }
        Err(step) => return with(steps, step),
    };
    match connect(&addresses) {
        Ok(step) => steps.push(step),
        Err(step) => return with(steps, step),
    }
    match login(connection, env) {
        Ok((consumer, context, step)) => {
            steps.push(step);
            topic_and_sample(&consumer, &context, topic, &mut steps);
            steps
        }
        Err(step) => with(steps, step),
    }
}

/// The value of one of the newest records of the topic; `None` = there is none (or a tombstone). Blocks up to 10 s.
pub fn sample(connection: &KafkaConnection, topic: &str, env: &Env) -> Result<Option<Vec<u8>>> {
    let context = Context::new(connection, env);
    let consumer = client::create_consumer(connection, "weir-check", context.clone())?;
    let partitions =
        cluster::partitions(&consumer, topic, context.redact()).map_err(|attempt| plain(connection, attempt))?;
    newest(&consumer, &context, topic, &partitions).map_err(|attempt| plain(connection, attempt))
}

fn with(mut steps: Vec<ProbeStep>, last: ProbeStep) -> Vec<ProbeStep> {
    steps.push(last);
    steps
}

fn plain(connection: &KafkaConnection, attempt: Attempt) -> Error {
    match attempt {
        Attempt::Retry(reason) => client::unreachable_error(connection, &reason),
        Attempt::Absent(error) | Attempt::GiveUp(error) => error,
    }
}

fn resolve(connection: &KafkaConnection) -> Result<(String, Vec<SocketAddr>), ProbeStep> {
    let mut addresses = Vec::new();
    let mut failure = None;
    for server in connection.bootstrap_servers.split(',').map(str::trim).filter(|server| !server.is_empty()) {
        let host = server.rsplit_once("://").map_or(server, |(_, host)| host);
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:9092") };
        match with_port.to_socket_addrs() {
            Ok(found) => addresses.extend(found),
            Err(error) => failure = Some(format!("`{host}` has no address: {error}")),
        }
    }
    if addresses.is_empty() {
        let why = failure.unwrap_or_else(|| "`bootstrap_servers` is empty".to_owned());
        return Err(ProbeStep::failed(
            "address",
            why,
            "Check the host names in `bootstrap_servers` and the DNS of this machine.",
        ));
    }
    let names: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    Ok((names.join(", "), addresses))
}

fn connect(addresses: &[SocketAddr]) -> Result<ProbeStep, ProbeStep> {
    let mut failure = String::new();
    for address in addresses {
        match TcpStream::connect_timeout(address, PATIENCE) {
            Ok(_) => return Ok(ProbeStep::passed("tcp", format!("{address} accepts connections"))),
            Err(error) => failure = format!("{address}: {error}"),
        }
    }
    Err(ProbeStep::failed(
        "tcp",
        failure,
        "Check that the broker runs, the port, and the firewall between it and this machine.",
    ))
}

fn login(connection: &KafkaConnection, env: &Env) -> Result<(BaseConsumer<Context>, Context, ProbeStep), ProbeStep> {
    let context = Context::new(connection, env);
    let hint = match (&connection.security.sasl, connection.security.tls) {
        (Some(_), _) => "Check `sasl_mechanism`, `sasl_username`, `sasl_password` and whether the port wants TLS.",
        (None, true) => "Check `ssl_ca_location` and whether the port speaks TLS.",
        (None, false) => "The port may want TLS or a login: see the `ssl_*` and `sasl_*` options.",
    };
    let consumer = client::create_consumer(connection, "weir-check", context.clone())
        .map_err(|error| ProbeStep::failed("login", error.detail().unwrap_or(error.message()).to_owned(), hint))?;
    match consumer.fetch_metadata(None, PATIENCE) {
        Ok(metadata) => {
            let found = format!("{} brokers, {} topics", metadata.brokers().len(), metadata.topics().len());
            Ok((consumer, context, ProbeStep::passed("login", found)))
        }
        Err(error) => {
            cluster::serve_events(&consumer);
            let why = context.refused().or_else(|| context.last_trouble());
            let why = why.unwrap_or_else(|| context.redact().describe(&error));
            Err(ProbeStep::failed("login", why, hint))
        }
    }
}

fn topic_and_sample(consumer: &BaseConsumer<Context>, context: &Context, topic: &str, steps: &mut Vec<ProbeStep>) {
    let partitions = match cluster::partitions(consumer, topic, context.redact()) {
        Ok(partitions) => partitions,
        Err(Attempt::Retry(why)) => {
            steps.push(ProbeStep::failed("topic", why, "Try again; the brokers may be starting."));
            return;
        }
        Err(Attempt::Absent(error) | Attempt::GiveUp(error)) => {
            steps.push(ProbeStep::failed("topic", error.message().to_owned(), error.hint().unwrap_or_default()));
            return;
        }
    };
    steps.push(ProbeStep::passed("topic", format!("`{topic}` has {} partitions", partitions.len())));
    steps.push(match newest(consumer, context, topic, &partitions) {
        Ok(Some(value)) => ProbeStep::passed("sample", format!("a record of {} bytes was read", value.len())),
        Ok(None) => ProbeStep::passed("sample", "no record yet".to_owned()),
        Err(Attempt::Retry(why)) => ProbeStep::failed(
            "sample",
            why,
            "Check that the user may READ the topic and that every broker's advertised listener can be reached.",
        ),
        Err(Attempt::Absent(error) | Attempt::GiveUp(error)) => {
            ProbeStep::failed("sample", error.message().to_owned(), error.hint().unwrap_or_default())
        }
    });
}

/// The value of one partition's newest record; partitions without records are passed over.
fn newest(
    consumer: &BaseConsumer<Context>,
    context: &Context,
    topic: &str,
    partitions: &[i32],
) -> Result<Option<Vec<u8>>, Attempt> {
    let lows = cluster::offsets(consumer, topic, partitions, KafkaOffset::Beginning, context.redact())?;
    let highs = cluster::offsets(consumer, topic, partitions, KafkaOffset::End, context.redact())?;
    let internal = |error: rdkafka::error::KafkaError| Attempt::Retry(context.redact().describe(&error));
    for (partition, high) in highs {
        let low = lows.get(&partition).copied().unwrap_or(0);
        if high <= low {
            continue;
        }
        let mut list = TopicPartitionList::new();
        // A little before the end: the last offsets may be transaction markers.
        let from = KafkaOffset::Offset((high - 10).max(low));
        list.add_partition_offset(topic, partition, from).map_err(internal)?;
        consumer.assign(&list).map_err(internal)?;
        return match consumer.poll(PATIENCE) {
            Some(Ok(message)) => Ok(message.payload().map(<[u8]>::to_vec)),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => Ok(None),
            Some(Err(error)) => Err(internal(error)),
            None => Err(Attempt::Retry("no record came within 5 s".to_owned())),
        };
    }
    Ok(None)
}
