//! Clients of Kafka clusters: the one place where connection options become librdkafka's configuration, and where
//! librdkafka's errors and log lines become weir's.
//!
//! Promises: no message, detail, hint or log line from this file contains a secret.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::AdminClient;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, ProducerContext};
use rdkafka::statistics::{Broker, Statistics};
use rdkafka::types::RDKafkaConfRes;
use rdkafka::{ClientContext, TopicPartitionList};

use crate::catalog::KafkaConnection;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// `true` if a cluster with this id is a development broker inside a process (`lab::broker`). It answers no question about topics' ids and settings, so none is put.
pub fn is_development(id: &str) -> bool {
    id.starts_with("mockCluster")
}

/// True for Azure Event Hubs, which is recognised by its login name.
pub fn is_event_hubs(connection: &KafkaConnection) -> bool {
    connection.security.sasl.as_ref().is_some_and(|(_, user, _)| user == "$ConnectionString")
}

/// Configuration of every client of this connection; `properties.*` override it.
fn base_config(connection: &KafkaConnection) -> ClientConfig {
    let security = &connection.security;
    let protocol = match (security.tls, security.sasl.is_some()) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    let mut config = ClientConfig::new();
    config
        .set_log_level(RDKafkaLogLevel::Notice)
        .set("bootstrap.servers", &connection.bootstrap_servers)
        .set("client.id", "weir")
        .set("security.protocol", protocol)
        .set("socket.nagle.disable", "true")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "2000")
        .set("log.connection.close", "false")
        .set("topic.metadata.refresh.interval.ms", "30000");
    if let Some((mechanism, user, password)) = &security.sasl {
        config.set("sasl.mechanism", mechanism).set("sasl.username", user).set("sasl.password", password.expose());
    }
    let files = [
        ("ssl.ca.location", &security.ca_location),
        ("ssl.certificate.location", &security.certificate_location),
        ("ssl.key.location", &security.key_location),
    ];
    for (key, value) in files {
        if let Some(value) = value {
            config.set(key, value);
        }
    }
    if is_event_hubs(connection) {
        // The service closes connections that were idle for 240 s and refuses requests over 1,046,528 bytes.
        config.set("connections.max.idle.ms", "180000").set("metadata.max.age.ms", "180000");
    }
    config
}

fn with_properties(mut config: ClientConfig, connection: &KafkaConnection) -> ClientConfig {
    for (key, value) in &connection.properties {
        config.set(key, value.expose());
    }
    config
}

/// Configuration of a consumer that reads by explicit offsets and commits no progress of its own.
///
/// Memory: librdkafka holds at most 32 MiB of fetched records plus one response of 16 MiB. Latency: a response is sent as
/// soon as a byte is available; brokers without a purgatory (the embedded one) answer after `fetch.wait.max.ms`.
pub fn consumer_config(connection: &KafkaConnection, group_id: &str) -> ClientConfig {
    let mut config = base_config(connection);
    config
        .set("group.id", group_id)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false")
        // Statistics contain the time since a broker last sent something.
        .set("statistics.interval.ms", "1000")
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", if is_event_hubs(connection) { "50" } else { "5" })
        .set("fetch.queue.backoff.ms", "2")
        .set("fetch.error.backoff.ms", "100")
        .set("fetch.max.bytes", "16777216")
        .set("fetch.message.max.bytes", "4194304")
        // A batch larger than all limits is still sent by the brokers: refusing it here would stop the partition for ever.
        .set("receive.message.max.bytes", "1000000000")
        .set("queued.min.messages", "200000")
        .set("queued.max.messages.kbytes", "32768");
    with_properties(config, connection)
}

/// Configuration of a producer whose records are acknowledged by all in-sync replicas and never duplicated by retries.
pub fn producer_config(connection: &KafkaConnection) -> ClientConfig {
    let mut config = base_config(connection);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "60000")
        .set("queue.buffering.max.messages", "200000")
        .set("queue.buffering.max.kbytes", "65536");
    if is_event_hubs(connection) {
        config.set("message.max.bytes", "1000000").set("batch.size", "900000");
    }
    with_properties(config, connection)
}

/// Errors: options that librdkafka does not accept. Makes no connection.
pub fn check(connection: &KafkaConnection) -> Result<()> {
    let checked = consumer_config(connection, "weir-check").create_native_config().map(drop);
    checked.map_err(|error| Redact::new(connection).creation_error(&error))
}

/// Creates a consumer whose events go to `context`.
pub fn create_consumer(
    connection: &KafkaConnection,
    group_id: &str,
    context: Context,
) -> Result<BaseConsumer<Context>> {
    let redact = context.redact.clone();
    consumer_config(connection, group_id).create_with_context(context).map_err(|error| redact.creation_error(&error))
}

/// Creates a client for queries about topics, which changes nothing.
pub fn create_admin(connection: &KafkaConnection, context: Context) -> Result<AdminClient<Context>> {
    let redact = context.redact.clone();
    let config = producer_config(connection);
    AdminClient::from_config_and_context(&config, context).map_err(|error| redact.creation_error(&error))
}

/// Creates a producer whose events go to `context`.
pub fn create_producer(config: &ClientConfig, context: Context) -> Result<BaseProducer<Context>> {
    let redact = context.redact.clone();
    config.create_with_context(context).map_err(|error| redact.creation_error(&error))
}

/// Removes a connection's secrets from librdkafka's texts.
#[derive(Clone)]
pub struct Redact {
    secrets: Arc<[String]>,
}

impl Redact {
    /// For texts about this connection.
    pub fn new(connection: &KafkaConnection) -> Self {
        let password = connection.security.sasl.iter().map(|(_, _, password)| password.expose());
        let is_secret =
            |key: &str| ["password", "secret", "token", "key", "jaas", "pem"].iter().any(|s| key.contains(s));
        let properties =
            connection.properties.iter().filter(|(key, _)| is_secret(key)).map(|(_, value)| value.expose());
        Self { secrets: password.chain(properties).filter(|text| text.len() > 3).map(str::to_owned).collect() }
    }

    /// The text without secrets.
    pub fn text(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }

    /// librdkafka's error in words, without the value of a `ClientConfig` error.
    pub fn describe(&self, error: &KafkaError) -> String {
        match error {
            KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, key, _) => {
                format!("librdkafka has no property `{key}`")
            }
            KafkaError::ClientConfig(_, _, key, _) => format!("the value of `{key}` is not valid"),
            other => self.text(&other.to_string()),
        }
    }

    fn creation_error(&self, error: &KafkaError) -> Error {
        let text = self.describe(error);
        match error {
            KafkaError::ClientConfig(_, _, key, _) => {
                Error::config(format!("kafka property `{key}` was refused")).with_detail(sentence(&text)).with_hint(
                    "Options that begin with `properties.` are handed to librdkafka under the rest of their name.",
                )
            }
            _ => Error::config("kafka client could not be made").with_detail(sentence(&text)),
        }
    }
}

/// `text` as a sentence, for details and hints.
pub fn sentence(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

/// Problems of the cluster that librdkafka has reported since it last worked.
#[derive(Debug, Default)]
struct Troubles {
    all_down_since: Option<Instant>,
    refused: Option<String>,
    last: Option<String>,
    /// The time at which every broker that leads a partition had been heard.
    heard: Option<Instant>,
    undelivered: Option<String>,
    too_large: Vec<TooLarge>,
    /// Numbers of delivered messages, while they are being watched.
    delivered: Option<Vec<usize>>,
}

/// A message that the brokers refused for the size of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLarge {
    /// The number given by its producer.
    pub number: usize,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
}

/// Receives a client's events: logs them, and keeps those that the client's owner needs.
#[derive(Clone)]
pub struct Context {
    env: Env,
    redact: Redact,
    troubles: Arc<Mutex<Troubles>>,
}

impl Context {
    /// For clients of this connection.
    pub fn new(connection: &KafkaConnection, env: &Env) -> Self {
        Self { env: env.clone(), redact: Redact::new(connection), troubles: Arc::default() }
    }

    /// Removes this connection's secrets from texts.
    pub fn redact(&self) -> &Redact {
        &self.redact
    }

    /// The time since which no broker could be reached, if so.
    pub fn all_down_since(&self) -> Option<Instant> {
        self.troubles().all_down_since
    }

    /// The last time at which every broker that leads a partition had been heard, according to the statistics.
    pub fn heard(&self) -> Option<Instant> {
        self.troubles().heard
    }

    /// The reason why the brokers refuse this client (login, certificates), if they do.
    pub fn refused(&self) -> Option<String> {
        self.troubles().refused.clone()
    }

    /// The last problem reported, in words.
    pub fn last_trouble(&self) -> Option<String> {
        self.troubles().last.clone()
    }

    /// The first delivery failure since the last call.
    pub fn take_undelivered(&self) -> Option<String> {
        self.troubles().undelivered.take()
    }

    /// The messages that were too large for the brokers since the last call.
    pub fn take_too_large(&self) -> Vec<TooLarge> {
        std::mem::take(&mut self.troubles().too_large)
    }

    /// `true` if a message was too large since [`Context::take_too_large`]; `true` if one failed since
    /// [`Context::take_undelivered`].
    pub fn has_failures(&self) -> (bool, bool) {
        let troubles = self.troubles();
        (!troubles.too_large.is_empty(), troubles.undelivered.is_some())
    }

    /// Starts to collect the numbers of delivered messages.
    pub fn watch_deliveries(&self) {
        self.troubles().delivered = Some(Vec::new());
    }

    /// The numbers of messages delivered since [`Context::watch_deliveries`]; ends the collection.
    pub fn take_delivered(&self) -> Vec<usize> {
        self.troubles().delivered.take().unwrap_or_default()
    }

    /// Clears the recorded problems, because the cluster has answered.
    pub fn is_well(&self) {
        let mut troubles = self.troubles();
        troubles.all_down_since = None;
        troubles.refused = None;
    }

    fn troubles(&self) -> std::sync::MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    /// A frozen broker keeps its connections and sends nothing: only the time since the last data shows that.
    fn stats(&self, statistics: Statistics) {
        let leaders: Vec<_> = statistics.brokers.values().filter(|broker| !broker.toppars.is_empty()).collect();
        let idle = |broker: &&Broker| u64::try_from(broker.rxidle).ok().filter(|_| broker.state == "UP");
        let idle: Option<Vec<u64>> = leaders.iter().map(idle).collect();
        let longest = idle.and_then(|idle| idle.into_iter().max());
        let heard = longest.and_then(|idle| self.env.instant().checked_sub(Duration::from_micros(idle)));
        let mut troubles = self.troubles();
        troubles.heard = troubles.heard.max(heard);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let message = self.redact.text(message);
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(target: "weir::kafka", facility, "{message}");
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
                tracing::info!(target: "weir::kafka", facility, "{message}");
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(target: "weir::kafka", facility, "{message}");
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = self.redact.text(reason);
        let code = error.rdkafka_error_code();
        tracing::debug!(target: "weir::kafka", ?code, "{reason}");
        let now = self.env.instant();
        let mut troubles = self.troubles();
        match code {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                troubles.all_down_since.get_or_insert(now);
            }
            Some(
                RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL | RDKafkaErrorCode::SaslAuthenticationFailed,
            ) => {
                troubles.refused = Some(reason.clone());
                troubles.last = Some(reason);
            }
            _ => troubles.last = Some(reason),
        }
    }
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: rdkafka::error::KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(target: "weir::kafka", error = self.redact.describe(&error), "offsets for lag monitors not published");
        }
    }
}

impl ProducerContext for Context {
    /// The number that the producer gave a message.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let Err((error, message)) = result else {
            if let Some(delivered) = &mut self.troubles().delivered {
                delivered.push(number);
            }
            return;
        };
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
            let (key, payload) = (message.key().map(<[u8]>::to_vec), message.payload().map(<[u8]>::to_vec));
            self.troubles().too_large.push(TooLarge { number, key, payload });
            return;
        }
        let text = self.redact.describe(error);
        self.troubles().undelivered.get_or_insert(text);
    }
}

/// The error for a cluster that refuses this client.
pub fn refused_error(connection: &KafkaConnection, reason: &str) -> Error {
    Error::new(ErrorKind::Config, format!("kafka brokers at `{}` refuse the connection", connection.bootstrap_servers))
        .with_detail(sentence(reason))
        .with_hint("Check the `sasl_*` and `ssl_*` options: user, password, mechanism, certificates.")
}

/// The error for a cluster that cannot be reached.
pub fn unreachable_error(connection: &KafkaConnection, detail: &str) -> Error {
    Error::environment(format!("no kafka broker at `{}` can be reached", connection.bootstrap_servers))
        .with_detail(sentence(detail))
        .with_hint("Check that the brokers run, that `bootstrap_servers` is right and that their advertised listeners can be reached from here.")
}
