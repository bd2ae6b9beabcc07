//! `delivery = 'exactly_once'`: the messages of an epoch become visible in one Kafka transaction, which also records the
//! epoch and its manifest.
//!
//! The record is the metadata of a consumer-group offset, committed by the transaction itself: group
//! `weir-<pipeline>-epochs`, partition 0 of every topic of the transaction, metadata `{"epoch":N,"manifest":M}`. So what is
//! visible and what is recorded never disagree. Opening a producer fences the one of any other process with the same
//! pipeline: Kafka refuses its transactions from then on.
//!
//! Protocol: KIP-98 (transactions), KIP-447 (offsets in transactions); error classes as librdkafka names them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::encode::{Message, Messages};
use crate::catalog::KafkaConnection;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::source::kafka::client::{self, Context, sentence};

/// How long one step of a transaction is tried.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one native call may block.
const CALL: Duration = Duration::from_secs(10);
/// The same for the first call, so that a refused login is noticed soon.
const FIRST_CALL: Duration = Duration::from_secs(2);

/// An epoch's messages for one topic.
#[derive(Debug, Clone)]
pub struct TopicMessages {
    pub topic: String,
    pub messages: Vec<Messages>,
}

/// Commits epochs to the exactly-once topics of one pipeline on one cluster.
#[derive(Clone)]
pub struct TransactionalProducer {
    inner: Arc<Inner>,
}

struct Inner {
    connection: KafkaConnection,
    pipeline: String,
    topics: Vec<String>,
    env: Env,
    producer: BaseProducer<Context>,
    /// Member of no group; reads and names the group that holds the epochs.
    group: BaseConsumer<Context>,
    /// One transaction at a time.
    turn: Mutex<()>,
}

/// What a transaction records about itself.
#[derive(Debug, Serialize, Deserialize)]
struct EpochRecord {
    epoch: u64,
    manifest: i64,
}

/// What to do about a failed step.
enum Failure {
    /// Undo the transaction; the same epoch may be tried again.
    Abort(String),
    /// This producer is done for.
    Fatal(Error),
}

impl TransactionalProducer {
    /// Connects, finishes or undoes what an earlier run left open, and fences it.
    ///
    /// `sink_set` tells the pipeline's clusters apart (empty for the only one); `topics` are all topics that
    /// transactions write to. Errors: unreachable brokers (after 60 s), refused login, missing permissions.
    pub async fn open(
        connection: &KafkaConnection,
        pipeline: &str,
        sink_set: &str,
        topics: &[String],
        env: &Env,
    ) -> Result<Self> {
        let (connection, pipeline) = (connection.clone(), pipeline.to_owned());
        let suffix = if sink_set.is_empty() { String::new() } else { format!("-{sink_set}") };
        let (topics, env) = (topics.to_vec(), env.clone());
        blocking(move || {
            let mut config = client::producer_config(&connection);
            config
                .set("transactional.id", format!("weir-{pipeline}{suffix}"))
                .set("transaction.timeout.ms", "60000")
                .set("linger.ms", "5")
                // Steps of a transaction are asked for again at this pace; the default of 100 ms would be most of a commit.
                .set("retry.backoff.ms", "10");
            let context = Context::new(&connection, &env);
            let producer = client::create_producer(&config, context.clone())?;
            let group = client::create_consumer(&connection, &format!("weir-{pipeline}{suffix}-epochs"), context)?;
            let inner = Inner { connection, pipeline, topics, env, producer, group, turn: Mutex::new(()) };
            inner.init()?;
            Ok(Self { inner: Arc::new(inner) })
        })
        .await
    }

    /// The newest epoch that is visible in the topics, with its manifest; `None` before the first.
    pub async fn committed_epoch(&self) -> Result<Option<(u64, i64)>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.committed_epoch()).await
    }

    /// Makes an epoch's messages visible, all or none.
    ///
    /// Errors: `Fenced` when another process has taken the pipeline over; otherwise `Environment`. After an error that
    /// says the outcome is unknown, open a new producer and ask it for [`TransactionalProducer::committed_epoch`].
    pub async fn commit(&self, epoch: u64, manifest: i64, messages: Vec<TopicMessages>) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let _turn = inner.turn.lock().unwrap_or_else(PoisonError::into_inner);
            inner.commit(&EpochRecord { epoch, manifest }, &messages)
        })
        .await
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(act)
        .await
        .unwrap_or_else(|error| Err(Error::internal("kafka transaction ended early").with_source(error)))
}

impl Inner {
    fn init(&self) -> Result<()> {
        match self.persist("begin to write", || self.producer.init_transactions(FIRST_CALL)) {
            Ok(()) => Ok(()),
            Err(Failure::Fatal(error)) => Err(error),
            Err(Failure::Abort(why)) => Err(match self.context().refused() {
                Some(refusal) => client::refused_error(&self.connection, &refusal),
                None => self.failed("begin to write", &why),
            }),
        }
    }

    fn committed_epoch(&self) -> Result<Option<(u64, i64)>> {
        let deadline = self.env.instant() + PATIENCE;
        let list = loop {
            match self.group.committed_offsets(self.epoch_places(None)?, CALL) {
                Ok(list) => break list,
                Err(error) if self.env.instant() >= deadline => {
                    return Err(self.failed("read the committed epoch", &self.context().redact().describe(&error)));
                }
                Err(error) => self.wait_after("read the committed epoch", &error),
            }
        };
        let mut newest: Option<(u64, i64)> = None;
        for element in list.elements() {
            let KafkaOffset::Offset(_) = element.offset() else { continue };
            let record: EpochRecord = serde_json::from_str(element.metadata()).map_err(|error| {
                Error::damaged(format!("offset metadata of topic `{}` does not name an epoch", element.topic()))
                    .with_detail(format!(
                        "Group `weir-{}-epochs` is weir's own; something else wrote to it.",
                        self.pipeline
                    ))
                    .with_source(error)
            })?;
            newest = newest.max(Some((record.epoch, record.manifest)));
        }
        Ok(newest)
    }

    fn commit(&self, record: &EpochRecord, messages: &[TopicMessages]) -> Result<()> {
        let epoch = record.epoch;
        let done = self.persist("begin a transaction", || self.producer.begin_transaction()).and_then(|()| {
            self.produce(messages)?;
            self.record(record)?;
            self.persist("commit a transaction", || self.producer.commit_transaction(CALL))
        });
        match done {
            Ok(()) => {
                // Acknowledged: what librdkafka reported about single messages on the way was mended by retries.
                let _ = self.context().take_undelivered();
                Ok(())
            }
            Err(Failure::Fatal(error)) => Err(error),
            Err(Failure::Abort(why)) => {
                match self.persist("abort a transaction", || self.producer.abort_transaction(CALL)) {
                    Ok(()) => Err(self.failed(&format!("commit epoch {epoch}; the transaction was aborted"), &why)),
                    Err(Failure::Fatal(error)) => Err(error),
                    Err(Failure::Abort(_)) => {
                        Err(self.failed(&format!("commit epoch {epoch}; the outcome is unknown"), &why))
                    }
                }
            }
        }
    }

    fn produce(&self, messages: &[TopicMessages]) -> Result<(), Failure> {
        let deadline = self.env.instant() + PATIENCE;
        for TopicMessages { topic, messages } in messages {
            for message in messages.iter().flat_map(Messages::iter) {
                self.produce_one(topic, message, deadline)?;
            }
        }
        Ok(())
    }

    fn produce_one(&self, topic: &str, message: Message<'_>, deadline: Instant) -> Result<(), Failure> {
        loop {
            let mut record = BaseRecord::<[u8], [u8]>::to(topic);
            (record.key, record.payload) = (message.key, message.payload);
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _))
                    if self.env.instant() < deadline =>
                {
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(self.classify(&error)),
            }
        }
    }

    fn record(&self, record: &EpochRecord) -> Result<(), Failure> {
        let places = self.epoch_places(Some(record)).map_err(Failure::Fatal)?;
        let group = self
            .group
            .group_metadata()
            .ok_or_else(|| Failure::Fatal(Error::internal("kafka consumer group has no metadata")))?;
        self.persist("record the epoch", || self.producer.send_offsets_to_transaction(&places, &group, CALL))
    }

    /// Where epochs are recorded, filled in for writing.
    fn epoch_places(&self, record: Option<&EpochRecord>) -> Result<TopicPartitionList> {
        let refused = |error: KafkaError| Error::internal("epoch offset was refused").with_detail(error.to_string());
        let mut list = TopicPartitionList::new();
        for topic in &self.topics {
            let mut place = list.add_partition(topic, 0);
            if let Some(record) = record {
                let offset = i64::try_from(record.epoch).unwrap_or(i64::MAX);
                place.set_offset(KafkaOffset::Offset(offset)).map_err(refused)?;
                place.set_metadata(format!(r#"{{"epoch":{},"manifest":{}}}"#, record.epoch, record.manifest));
            }
        }
        Ok(list)
    }

    /// Repeats a step while librdkafka says that a retry may help, up to [`PATIENCE`].
    fn persist(&self, what: &str, mut step: impl FnMut() -> KafkaResult<()>) -> Result<(), Failure> {
        let deadline = self.env.instant() + PATIENCE;
        loop {
            let error = match step() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Serves what is queued: the reason may be among it.
            self.producer.poll(Duration::from_millis(10));
            let retriable = match &error {
                KafkaError::Transaction(error) => error.is_retriable() && !error.is_fatal(),
                KafkaError::Flush(code) => *code == RDKafkaErrorCode::OperationTimedOut,
                _ => false,
            };
            let hopeless = self.context().refused().is_some() || self.env.instant() >= deadline;
            if !retriable || hopeless {
                return Err(self.classify(&error));
            }
            self.wait_after(what, &error);
        }
    }

    fn wait_after(&self, what: &str, error: &KafkaError) {
        let why = self.context().redact().describe(error);
        tracing::warn!(pipeline = self.pipeline, "kafka could not {what} yet: {why}");
        std::thread::sleep(Duration::from_millis(100));
    }

    fn classify(&self, error: &KafkaError) -> Failure {
        use RDKafkaErrorCode as Code;
        let fatal = self.producer.client().fatal_error();
        let is_fatal = matches!(error, KafkaError::Transaction(error) if error.is_fatal());
        let why = self.context().redact().describe(error);
        if fatal.is_none() && !is_fatal {
            return Failure::Abort(why);
        }
        let code = fatal.as_ref().map(|(code, _)| *code).or(error.rdkafka_error_code());
        let why = fatal.map_or(why, |(_, text)| self.context().redact().text(&text));
        let fenced =
            [Code::Fenced, Code::ProducerFenced, Code::InvalidProducerEpoch, Code::TransactionCoordinatorFenced];
        Failure::Fatal(if code.is_some_and(|code| fenced.contains(&code)) {
            Error::fenced(format!("another run of pipeline `{}` has taken over its kafka sinks", self.pipeline))
                .with_detail(sentence(&why))
                .with_hint("Stop one of the two. Nothing of this run's open epoch became visible.")
        } else {
            self.failed("go on", &why).with_hint("Start the pipeline again: it rolls forward from what is committed.")
        })
    }

    fn failed(&self, what: &str, why: &str) -> Error {
        Error::environment(format!("kafka sinks of pipeline `{}` could not {what}", self.pipeline))
            .with_detail(sentence(why))
    }

    fn context(&self) -> &Context {
        self.producer.context()
    }
}
