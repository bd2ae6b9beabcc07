//! `weir check --connect`: tries a Kafka connection step by step; reports the step that failed, with a hint on how to fix
//! it.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset as KafkaOffset, TopicPartitionList};

use super::client::{self, Context};
use super::cluster::{self, Attempt};
use super::describe::{self, Ask};
use crate::catalog::{KafkaConnection, KafkaSourceOptions, SourceDef};
use crate::env::Env;
use crate::source::chunk::{Chunk, Payload, Records};
use crate::source::sample;

/// The time limit for one step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Number of a partition's newest offsets that are sampled.
const SAMPLE: i64 = 10;

/// One step of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStep {
    /// `address`, `tcp`, `tls`, `login`, `topic`, `sample` or `write`.
    pub name: String,
    /// The finding or the failure, in one line.
    pub outcome: Result<String, String>,
    /// The remedy, as a sentence.
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

/// Tries the steps address, tcp, tls, login, topic and sample in order and stops after the first that fails. Blocks for up
/// to 5 s per step. The newest records of one partition, at most ten, are decoded with the source's definition.
pub fn probe_source(def: &SourceDef, options: &KafkaSourceOptions, env: &Env) -> Vec<ProbeStep> {
    let (mut steps, reached) = reach(&options.connection, &options.topic, env);
    if let Some(Reached { consumer, context, partitions }) = reached {
        steps.push(match newest(&consumer, &context, &options.topic, &partitions) {
            Ok(None) => ProbeStep::passed("sample", "no record yet".to_owned()),
            Ok(Some(chunk)) => match sample::describe(def, chunk, env) {
                Ok(found) => ProbeStep::passed("sample", found),
                Err(why) => ProbeStep::failed("sample", why, sample::HINT),
            },
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
    steps
}

/// Tries the steps address, tcp, tls, login, topic and write in order and stops after the first that fails. Writes nothing:
/// the brokers report the user's permissions. Blocks for up to 5 s per step.
pub fn probe_sink(connection: &KafkaConnection, topic: &str, env: &Env) -> Vec<ProbeStep> {
    let (mut steps, reached) = reach(connection, topic, env);
    if let Some(Reached { consumer, .. }) = reached {
        steps.push(match describe::topic(&consumer, topic, Ask::Permissions, PATIENCE).map(|found| found.may_write) {
            Ok(Some(true)) => ProbeStep::passed("write", format!("the user may write to `{topic}`")),
            Ok(Some(false)) => ProbeStep::failed(
                "write",
                format!("the user may not write to `{topic}`"),
                "Grant the user WRITE on the topic.",
            ),
            Ok(None) => ProbeStep::passed("write", "the brokers do not tell who may write".to_owned()),
            Err(why) => ProbeStep::failed("write", why, "Try again; the brokers may be starting."),
        });
    }
    steps
}

/// A topic that was reached.
struct Reached {
    consumer: BaseConsumer<Context>,
    context: Context,
    partitions: Vec<i32>,
}

/// The steps up to the topic, and their result if all passed.
fn reach(connection: &KafkaConnection, topic: &str, env: &Env) -> (Vec<ProbeStep>, Option<Reached>) {
    let mut steps = Vec::new();
    let addresses = match resolve(connection) {
        Ok((found, addresses)) => {
            steps.push(ProbeStep::passed("address", found));
            addresses
        }
        Err(step) => return (with(steps, step), None),
    };
    match connect(&addresses) {
        Ok(step) => steps.push(step),
        Err(step) => return (with(steps, step), None),
    }
    let (consumer, context) = match login(connection, env) {
        Ok((consumer, context, found)) => {
            steps.extend(found);
            (consumer, context)
        }
        Err(failed) => {
            steps.extend(failed);
            return (steps, None);
        }
    };
    match cluster::partitions(&consumer, topic, context.redact()) {
        Ok(partitions) => {
            let count = partitions.len();
            let noun = if count == 1 { "partition" } else { "partitions" };
            steps.push(ProbeStep::passed("topic", format!("`{topic}` has {count} {noun}")));
            (steps, Some(Reached { consumer, context, partitions }))
        }
        Err(Attempt::Retry(why)) => {
            (with(steps, ProbeStep::failed("topic", why, "Try again; the brokers may be starting.")), None)
        }
        Err(Attempt::Absent(error) | Attempt::GiveUp(error)) => {
            let step = ProbeStep::failed("topic", error.message().to_owned(), error.hint().unwrap_or_default());
            (with(steps, step), None)
        }
    }
}

fn with(mut steps: Vec<ProbeStep>, last: ProbeStep) -> Vec<ProbeStep> {
    steps.push(last);
    steps
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
    // One broker of several is enough to start; a wrong name is still reported.
    let but = failure.map(|why| format!("; but {why}")).unwrap_or_default();
    Ok((names.join(", ") + &but, addresses))
}

fn connect(addresses: &[SocketAddr]) -> Result<ProbeStep, ProbeStep> {
    let mut failures = Vec::new();
    for address in addresses {
        match TcpStream::connect_timeout(address, PATIENCE) {
            Ok(_) => {
                let before: String = failures.iter().map(|failure| format!("; but {failure}")).collect();
                return Ok(ProbeStep::passed("tcp", format!("{address} accepts connections{before}")));
            }
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    Err(ProbeStep::failed(
        "tcp",
        failures.join("; "),
        "Check that the broker runs, the port, and the firewall between it and this machine.",
    ))
}

/// Encryption and login, which librdkafka does in one step: its message shows which of the two failed.
fn login(
    connection: &KafkaConnection,
    env: &Env,
) -> Result<(BaseConsumer<Context>, Context, Vec<ProbeStep>), Vec<ProbeStep>> {
    let context = Context::new(connection, env);
    let security = &connection.security;
    let hint = match (&security.sasl, security.tls) {
        (Some(_), _) => "Check `sasl_mechanism`, `sasl_username`, `sasl_password` and whether the port wants TLS.",
        (None, true) => "Check `ssl_ca_location` and whether the port speaks TLS.",
        (None, false) => "The port may want TLS or a login: see the `ssl_*` and `sasl_*` options.",
    };
    let encrypted = || ProbeStep::passed("tls", "the connection is encrypted and the certificate trusted".to_owned());
    let consumer = client::create_consumer(connection, "weir-check", context.clone()).map_err(|error| {
        vec![ProbeStep::failed("login", error.detail().unwrap_or(error.message()).to_owned(), hint)]
    })?;
    match consumer.fetch_metadata(None, PATIENCE) {
        Ok(metadata) => {
            let found = format!("{} brokers, {} topics", metadata.brokers().len(), metadata.topics().len());
            let mut steps: Vec<ProbeStep> = security.tls.then(encrypted).into_iter().collect();
            steps.push(ProbeStep::passed("login", found));
            Ok((consumer, context, steps))
        }
        Err(error) => {
            cluster::serve_events(&consumer);
            let refused = context.refused();
            let login_refused =
                refused.as_ref().is_some_and(|why| why.contains("SASL") || why.contains("uthentication"));
            let why = refused.or_else(|| context.last_trouble());
            let why = why.unwrap_or_else(|| context.redact().describe(&error));
            Err(match (security.tls, login_refused) {
                (true, true) => vec![encrypted(), ProbeStep::failed("login", why, hint)],
                (true, false) => vec![ProbeStep::failed(
                    "tls",
                    why,
                    "Check `ssl_ca_location`, the certificate's host name, and whether the port speaks TLS.",
                )],
                (false, _) => vec![ProbeStep::failed("login", why, hint)],
            })
        }
    }
}

/// The newest records, at most [`SAMPLE`], of the first partition that has any; `None` if none has.
fn newest(
    consumer: &BaseConsumer<Context>,
    context: &Context,
    topic: &str,
    partitions: &[i32],
) -> Result<Option<Chunk>, Attempt> {
    let lows = cluster::offsets(consumer, topic, partitions, KafkaOffset::Beginning, context.redact())?;
    let highs = cluster::offsets(consumer, topic, partitions, KafkaOffset::End, context.redact())?;
    let internal = |error: rdkafka::error::KafkaError| Attempt::Retry(context.redact().describe(&error));
    for (partition, high) in highs {
        let low = lows.get(&partition).copied().unwrap_or(0);
        if high <= low {
            continue;
        }
        let mut list = TopicPartitionList::new();
        let from = (high - SAMPLE).max(low);
        list.add_partition_offset(topic, partition, KafkaOffset::Offset(from)).map_err(internal)?;
        consumer.assign(&list).map_err(internal)?;
        let mut records = Records { bounds: vec![0], ..Records::default() };
        // The last offsets may be transaction markers: then the partition's end is reached without a record for them.
        let end = loop {
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => {
                    let end = message.offset() + 1;
                    add(&mut records, &message);
                    if end >= high {
                        break end;
                    }
                }
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => break high,
                Some(Err(error)) => return Err(internal(error)),
                None if records.is_empty() => return Err(Attempt::Retry("no record came within 5 s".to_owned())),
                None => break records.offsets.last().map_or(from, |last| last + 1),
            }
        };
        if !records.is_empty() {
            let partition = format!("{topic}/{partition}").into();
            return Ok(Some(Chunk { partition, start: from, end, payload: Payload::Records(records) }));
        }
    }
    Ok(None)
}

fn add(records: &mut Records, message: &BorrowedMessage<'_>) {
    match message.payload() {
        Some(payload) => records.data.extend_from_slice(payload),
        None => records.tombstones.push(records.len() as u32),
    }
    records.bounds.push(records.data.len() as u32);
    records.offsets.push(message.offset());
    records.timestamps_ms.push(message.timestamp().to_millis().unwrap_or(-1));
}
