//! A reader's requests to the brokers: partitions and offsets.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::client::{Context, Redact, sentence};
use crate::error::Error;
use crate::source::chunk::Offset;

/// The time limit for one request.
const PATIENCE: Duration = Duration::from_secs(2);

/// The reason why a request failed.
#[derive(Debug)]
pub enum Attempt {
    /// A temporary problem, with the reason.
    Retry(String),
    /// The topic does not exist, or not yet.
    Absent(Error),
    /// Repeating the request does not help.
    GiveUp(Error),
}

impl Attempt {
    /// Adds the source's name.
    pub fn for_source(self, source: &str) -> Self {
        match self {
            Self::Absent(error) => Self::Absent(error.with_detail(format!("Source `{source}` reads it."))),
            other => other,
        }
    }

    fn from_kafka(error: &KafkaError, redact: &Redact) -> Self {
        Self::Retry(redact.describe(error))
    }
}

/// Serves librdkafka's events (logs, errors, results of offset commits), which go to the context. Does not wait.
pub fn serve_events(consumer: &BaseConsumer<Context>) {
    // A poll serves one event; its result does not distinguish a served log line from an empty queue.
    for _ in 0..16 {
        let _ = consumer.poll(Duration::ZERO);
    }
}

/// The partition numbers of a topic, ascending.
pub fn partitions(consumer: &BaseConsumer<Context>, topic: &str, redact: &Redact) -> Result<Vec<i32>, Attempt> {
    let metadata =
        consumer.fetch_metadata(Some(topic), PATIENCE).map_err(|error| Attempt::from_kafka(&error, redact))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Err(Attempt::Absent(absent(topic)));
    };
    match found.error().map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::NoError) => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            return Err(Attempt::Absent(absent(topic)));
        }
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            return Err(Attempt::GiveUp(
                Error::config(format!("topic `{topic}` may not be described by this user"))
                    .with_hint("Grant the user READ and DESCRIBE on the topic."),
            ));
        }
        Some(RDKafkaErrorCode::InvalidTopic) => {
            return Err(Attempt::GiveUp(Error::config(format!("`{topic}` is not a valid topic name"))));
        }
        Some(code) => return Err(Attempt::Retry(sentence(&code.to_string()))),
    }
    let mut numbers: Vec<i32> = found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    if numbers.is_empty() {
        return Err(Attempt::Retry(format!("topic `{topic}` has no partition yet")));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn absent(topic: &str) -> Error {
    Error::environment(format!("topic `{topic}` does not exist"))
        .with_hint("Create the topic, or correct the option `topic`.")
}

/// Offsets of partitions: `Beginning`, `End` (the last stable one), or `Offset(t)`, the first at or after the time `t` in
/// milliseconds. A partition without such an offset (no record that late) is absent.
pub fn offsets(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    partitions: &[i32],
    wanted: KafkaOffset,
    redact: &Redact,
) -> Result<BTreeMap<i32, Offset>, Attempt> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition_offset(topic, *partition, wanted).map_err(|error| Attempt::from_kafka(&error, redact))?;
    }
    // For a time, -2 requests the earliest and -1 the latest offset: the values of `Beginning` and `End`.
    let answer = consumer.offsets_for_times(list, PATIENCE).map_err(|error| Attempt::from_kafka(&error, redact))?;
    let mut found = BTreeMap::new();
    for element in answer.elements() {
        element.error().map_err(|error| Attempt::from_kafka(&error, redact))?;
        if let KafkaOffset::Offset(offset) = element.offset() {
            found.insert(element.partition(), offset);
        }
    }
    Ok(found)
}
