//! Limits on the size of a message. The topic is asked for its limit before anything is sent, so that a message that is too
//! large becomes a dead letter instead of an error that returns with every start.
//!
//! Brokers compare the size of a whole record batch with the topic's `max.message.bytes`. librdkafka's `batch.size` keeps
//! batches of several messages below it; what remains is a single message that is too large, whose batch size is computed
//! here byte by byte (KIP-98, record batch version 2). The size of compressed messages is known only to the brokers; then,
//! and if they do not report the topic's limit, the limit is learnt from what they refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};

use super::encode::Message;
use crate::catalog::KafkaConnection;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::source::kafka::client::{self, Context};

/// The longest wait for the brokers to report a topic's limit.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest wait for an embedded broker to say that it is one; clusters without an id never answer.
const EMBEDDED_PATIENCE: Duration = Duration::from_secs(1);
/// librdkafka's default limits of a message and of a batch.
const CLIENT_LIMIT: usize = 1_000_000;
/// Default capacity of the client's queue in KiB.
const QUEUE_KIB: usize = 64 << 10;
/// Allowance for the overhead that librdkafka adds to a message's size.
const FRAME: usize = 1_024;

/// The known limits of a producer's topics.
#[derive(Debug, Clone)]
pub struct SizeLimits {
    /// Largest batch that a topic takes, if the brokers have reported it or refused a larger one.
    topics: BTreeMap<String, usize>,
    /// `message.max.bytes`: the largest message that the client sends.
    client: usize,
    /// `batch.size`: a larger batch holds a single message.
    batch: usize,
    /// Batches are compressed, so that their size as sent is not known here.
    compressed: bool,
}

impl SizeLimits {
    /// Asks the brokers for the limits of `topics`. A topic whose limit they do not report in time has none.
    ///
    /// Errors: options that librdkafka refuses.
    pub async fn learn(connection: &KafkaConnection, topics: &[String], env: &Env) -> Result<Self> {
        let context = Context::new(connection, env);
        let admin = client::create_admin(connection, context.clone())?;
        // Asking and dropping wait for the client's threads: not on this one.
        let admin = tokio::task::spawn_blocking(move || {
            let cluster = admin.inner().fetch_cluster_id(EMBEDDED_PATIENCE);
            (!cluster.is_some_and(|id| client::is_development(&id))).then_some(admin)
        })
        .await
        .map_err(|error| Error::internal("the question for the cluster's id ended early").with_source(error))?;
        let Some(admin) = admin else { return Ok(Self::of(&client::producer_config(connection), BTreeMap::new())) };
        let asked: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(PATIENCE));
        let answer = match tokio::time::timeout(PATIENCE, admin.describe_configs(&asked, &options)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::info!(error = context.redact().describe(&error), "the limits of kafka topics are not known");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        let mut known = BTreeMap::new();
        for found in answer.into_iter().flatten() {
            let OwnedResourceSpecifier::Topic(topic) = &found.specifier else { continue };
            let limit = found.get("max.message.bytes").and_then(|entry| entry.value.as_ref()?.parse().ok());
            known.extend(limit.map(|limit| (topic.clone(), limit)));
        }
        for topic in topics.iter().filter(|topic| !known.contains_key(*topic)) {
            tracing::info!(topic, "the brokers do not tell the topic's `max.message.bytes`");
        }
        tokio::task::spawn_blocking(move || drop(admin));
        Ok(Self::of(&client::producer_config(connection), known))
    }

    fn of(config: &ClientConfig, topics: BTreeMap<String, usize>) -> Self {
        let number = |key: &str| config.get(key).and_then(|value| value.parse::<usize>().ok());
        let largest = topics.values().copied().max().map_or(0, |limit| limit.saturating_add(FRAME));
        // A message larger than the client's queue would wait for room for ever.
        let queue = number("queue.buffering.max.kbytes").unwrap_or(QUEUE_KIB).saturating_mul(1024);
        let client = number("message.max.bytes").unwrap_or(largest.max(CLIENT_LIMIT)).min(queue - queue / 16);
        let smallest = topics.values().copied().min().unwrap_or(usize::MAX);
        let batch = number("batch.size").unwrap_or(CLIENT_LIMIT).min(smallest).max(1);
        let codec = config.get("compression.type").or_else(|| config.get("compression.codec"));
        Self { topics, client, batch, compressed: codec.is_some_and(|codec| codec != "none") }
    }

    /// Configures the client to send messages up to the topics' limits, in batches that every topic takes.
    pub fn configure(&self, config: &mut ClientConfig) {
        config.set("message.max.bytes", self.client.to_string()).set("batch.size", self.batch.to_string());
    }

    /// The reason why a message cannot be sent to `topic`; `None` if it can. `headers` is the size of its headers in bytes.
    pub fn excess(&self, topic: &str, message: Message<'_>, headers: usize) -> Option<String> {
        let size = batch_size(message, headers);
        match self.topics.get(topic) {
            Some(limit) if size > *limit && !self.compressed => Some(format!(
                "the message has {size} bytes in its batch, and topic `{topic}` takes {limit} (`max.message.bytes`)"
            )),
            _ if size > self.client => Some(format!(
                "the message has {size} bytes, and `properties.message.max.bytes` of the sink allows {}",
                self.client
            )),
            _ => None,
        }
    }

    /// `true` if the refused batch with this message cannot have held another one.
    pub fn is_alone(&self, message: Message<'_>, headers: usize) -> bool {
        batch_size(message, headers) > self.batch
    }

    /// The rank of a message when messages are tried for their size: the lowest first.
    pub fn place(&self, message: Message<'_>, headers: usize) -> i64 {
        let size = match self.compressed {
            true => compressed_size(message.payload.unwrap_or_default()),
            false => batch_size(message, headers),
        };
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        if self.compressed { -size } else { size }
    }

    /// Records that the brokers refused this message, alone in its batch: others of its size need not be tried.
    pub fn learn_refused(&mut self, topic: &str, message: Message<'_>, headers: usize) {
        let most = batch_size(message, headers) - 1;
        self.topics.entry(topic.to_owned()).and_modify(|known| *known = (*known).min(most)).or_insert(most);
    }
}

/// A guess at the compressed size of `bytes`, good enough for comparing: the number of positions whose next four bytes were
/// not seen shortly before.
fn compressed_size(bytes: &[u8]) -> usize {
    let mut seen = [0_u32; 4096];
    let is_new = |window: &&[u8]| {
        let next = window.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let slot = &mut seen[(next.wrapping_mul(2_654_435_761) >> 20) as usize];
        std::mem::replace(slot, next) != next
    };
    bytes.windows(4).filter(is_new).count()
}

/// The reason for a message that the brokers refused when it was alone in its batch.
pub fn refused(topic: &str, message: Message<'_>, headers: usize) -> String {
    let size = batch_size(message, headers);
    format!("the brokers refuse the message for its size: {size} bytes are more than topic `{topic}` takes")
}

/// Bytes of an uncompressed batch that holds only this message.
fn batch_size(message: Message<'_>, headers: usize) -> usize {
    /// Offsets, length, epoch, magic, checksum, attributes, times, producer, sequence, count.
    const BATCH_HEADER: usize = 61;
    let bytes = |field: Option<&[u8]>| field.map_or(varint(1), |bytes| varint(2 * bytes.len()) + bytes.len());
    // Attributes, time delta and offset delta take a byte each; the number of headers is below 64.
    let record = 3 + bytes(message.key) + bytes(message.payload) + 1 + headers;
    BATCH_HEADER + varint(2 * record) + record
}

/// Bytes of headers with these names and values.
pub fn header_bytes<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> usize {
    let bytes = |text: &str| varint(2 * text.len()) + text.len();
    headers.map(|(name, value)| bytes(name) + bytes(value)).sum()
}

/// Bytes of a number with seven bits in each byte.
fn varint(number: usize) -> usize {
    (usize::BITS - number.leading_zeros()).max(1).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(pairs: &[(&str, &str)], topics: &[(&str, usize)]) -> SizeLimits {
        let mut config = ClientConfig::new();
        for (key, value) in pairs {
            config.set(*key, *value);
        }
        SizeLimits::of(&config, topics.iter().map(|(topic, limit)| ((*topic).to_owned(), *limit)).collect())
    }

    fn message(payload: &[u8]) -> Message<'_> {
        Message { key: None, payload: Some(payload) }
    }

    #[test]
    fn a_client_sends_what_its_topics_take_in_batches_that_all_of_them_take() {
        let both = limits(&[], &[("a", 10_000), ("b", 2_000_000)]);
        assert_eq!((both.client, both.batch), (2_000_000 + FRAME, 10_000));
        let text = vec![b'x'; 1_200_000];
        assert!(both.excess("a", message(&text), 0).unwrap().contains("topic `a` takes 10000"));
        assert_eq!(both.excess("b", message(&text), 0), None);
        let unknown = limits(&[], &[]);
        assert_eq!((unknown.client, unknown.batch), (CLIENT_LIMIT, CLIENT_LIMIT));
        assert!(unknown.excess("a", message(&text), 0).unwrap().contains("message.max.bytes"));
        let told = limits(&[("message.max.bytes", "5000"), ("batch.size", "3000")], &[("a", 10_000)]);
        assert_eq!((told.client, told.batch), (5_000, 3_000));
        assert!(told.excess("a", message(&[b'x'; 6_000]), 0).is_some());
        assert!(told.is_alone(message(&[b'x'; 3_000]), 0) && !told.is_alone(message(&[b'x'; 2_900]), 0));
        assert_eq!(limits(&[], &[("a", 1 << 40)]).client, 60 << 20, "what the queue holds");
    }

    #[test]
    fn compressed_messages_are_tried_and_what_was_refused_is_not_tried_again() {
        let mut limits = limits(&[("compression.type", "zstd")], &[("a", 10_000)]);
        let text = vec![b'x'; 50_000];
        assert_eq!(limits.excess("a", message(&text), 0), None);
        limits.compressed = false;
        limits.topics.clear();
        limits.learn_refused("a", message(&text), 0);
        assert!(limits.excess("a", message(&text), 0).is_some());
        assert_eq!(limits.excess("a", message(&text[1..]), 0), None);
    }

    #[test]
    fn messages_are_tried_from_the_smallest_and_compressed_ones_from_the_least_compressible() {
        let random: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_246_822_519) >> 13) as u8).collect();
        let (flat, short) = (vec![b'x'; 30_000], vec![b'y'; 100]);
        let text = b"{\"id\":1,\"name\":\"somebody\"}".repeat(800);
        let all = [&random[..], &flat, &short, &text];
        let order = |limits: SizeLimits| {
            let mut places: Vec<(i64, usize)> =
                all.iter().enumerate().map(|(index, bytes)| (limits.place(message(bytes), 0), index)).collect();
            places.sort_unstable();
            places.into_iter().map(|(_, index)| index).collect::<Vec<_>>()
        };
        assert_eq!(order(limits(&[], &[])), [2, 0, 3, 1]);
        let compressed = order(limits(&[("compression.type", "zstd")], &[]));
        assert_eq!(compressed[..2], [0, 3]);
    }

    #[test]
    fn sizes_are_those_of_the_record_batch_format() {
        // As a broker reports them for batches of one such message; `tests/it/kafka.rs` tests the limit itself.
        assert_eq!(batch_size(Message { key: None, payload: Some(b"") }, 0), 61 + 1 + 6);
        assert_eq!(batch_size(Message { key: Some(b"k"), payload: None }, 0), 61 + 1 + 7);
        assert_eq!([0, 1, 63, 64, 127, 128, 16_383, 16_384].map(varint), [1, 1, 1, 1, 1, 2, 2, 3]);
    }
}
