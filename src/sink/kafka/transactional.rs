//! `delivery = 'exactly_once'`: the messages of an epoch become visible in one Kafka transaction, which also records the
//! epoch and its manifest.
//!
//! The record is the metadata of a consumer-group offset, committed by the transaction itself: group
//! `weir-<pipeline>-epochs`, partition 0 of every topic of the transaction, metadata `{"epoch":N,"manifest":M}`. So the
//! visible messages and the record never disagree. Opening a producer fences that of any other process with the same
//! pipeline: Kafka refuses its transactions from then on.
//!
//! Protocol: KIP-98 (transactions), KIP-447 (offsets in transactions); error classes as librdkafka names them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::direct::RefusedMessage;
use super::encode::{Message, Messages};
use super::limit::{self, SizeLimits};
use crate::catalog::KafkaConnection;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::source::kafka::client::{self, Context, sentence};
use crate::standing::{CommitPermit, Standing};

mod rehearsal;

/// The time limit for one step of a transaction.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time limit for one native call.
const CALL: Duration = Duration::from_secs(10);
/// The limit for the first call, so that a refused login is noticed soon.
const FIRST_CALL: Duration = Duration::from_secs(2);

/// The limit for a call to abort, which is repeated at once.
const ABORT_CALL: Duration = Duration::from_millis(200);

/// Attempts at one transaction.
const MAX_ATTEMPTS: u32 = 4;

/// Bits of a message's number that hold its position in its topic's messages; the bits above hold the topic.
const NUMBER_BITS: u32 = 40;

/// An epoch's messages for one topic.
#[derive(Debug, Clone)]
pub struct TopicMessages {
    /// The sink's name in dead letters.
    pub sink: String,
    pub topic: String,
    messages: Vec<Messages>,
    /// Number of messages of the sink's epoch that precede these.
    before: u64,
    /// Messages that are not sent, by position, with the reason.
    refused: BTreeMap<usize, String>,
}

impl TopicMessages {
    /// Messages of one epoch for the topic of a sink.
    pub fn new(sink: &str, topic: &str, messages: Vec<Messages>) -> Self {
        Self { sink: sink.to_owned(), topic: topic.to_owned(), messages, before: 0, refused: BTreeMap::new() }
    }

    /// Places these after `before` other messages of the sink's epoch; returns the number of both.
    pub fn after(&mut self, before: u64) -> u64 {
        self.before = before;
        before + self.messages.iter().map(|messages| messages.len() as u64).sum::<u64>()
    }

    /// The messages to send, with their positions.
    fn iter(&self) -> impl Iterator<Item = (usize, Message<'_>)> {
        let all = self.messages.iter().flat_map(Messages::iter).enumerate();
        all.filter(|(position, _)| !self.refused.contains_key(position))
    }

    /// Excludes these messages and returns them.
    fn refuse(&mut self, reasons: BTreeMap<usize, String>) -> Vec<RefusedMessage> {
        let before = self.before;
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let refused = |(position, message): (usize, Message<'_>)| {
            let reason = reasons.get(&position)?.clone();
            let (key, payload) = (owned(message.key), owned(message.payload));
            Some(RefusedMessage { position: before + position as u64, key, payload, reason })
        };
        let refused = self.iter().filter_map(refused).collect();
        self.refused.extend(reasons);
        refused
    }
}

/// Outcome of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// All its messages are visible.
    Visible,
    /// None is visible: these messages are too large for the brokers. Positions by index of the topic.
    TooLarge(BTreeMap<usize, BTreeSet<usize>>),
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
    limits: Mutex<SizeLimits>,
    env: Env,
    producer: BaseProducer<Context>,
    /// Member of no group; reads the epochs from the group and names it in transactions.
    group: BaseConsumer<Context>,
    /// The brokers refused a batch, and may refuse the next one for its sequence number.
    out_of_sequence: AtomicBool,
    /// Serialises transactions.
    turn: Mutex<()>,
}

/// The record of a transaction in the group's metadata.
#[derive(Debug, Serialize, Deserialize)]
struct EpochRecord {
    epoch: u64,
    manifest: i64,
}

/// Outcome of one attempt at a transaction. All but a commit were undone.
enum Attempt {
    Committed,
    /// The numbers of messages in batches that the brokers refused for their size.
    TooLarge(BTreeSet<usize>),
    /// Failed for this other reason.
    Undone(String),
}

/// Action after a failed step.
enum Failure {
    /// Undo the transaction; the same epoch may be tried again.
    Abort(String),
    /// The same; the message of this number is too large for the client.
    TooLarge(usize),
    /// This producer is unusable.
    Fatal(Error),
}

impl TransactionalProducer {
    /// Connects, finishes or undoes what an earlier run left open, and fences that run.
    ///
    /// `sink_set` distinguishes the pipeline's clusters (empty for the only one); `topics` are all topics that transactions
    /// write to. Errors: unreachable brokers (after 60 s), refused login, missing permissions.
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
        let limits = SizeLimits::learn(&connection, &topics, &env).await?;
        blocking(move || {
            let mut config = client::producer_config(&connection);
            limits.configure(&mut config);
            config
                .set("transactional.id", format!("weir-{pipeline}{suffix}"))
                .set("transaction.timeout.ms", "60000")
                .set("linger.ms", "5")
                // Steps of a transaction are retried at this interval; the default of 100 ms would be most of a commit.
                .set("retry.backoff.ms", "10");
            let context = Context::new(&connection, &env);
            let producer = client::create_producer(&config, context.clone())?;
            let group = client::create_consumer(&connection, &format!("weir-{pipeline}{suffix}-epochs"), context)?;
            let (limits, turn) = (Mutex::new(limits), Mutex::new(()));
            let out_of_sequence = AtomicBool::new(false);
            let inner = Inner { connection, pipeline, topics, limits, env, producer, group, out_of_sequence, turn };
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

    /// Excludes messages that exceed the known limits of their topics, and returns them.
    pub fn refuse_large(&self, messages: &mut TopicMessages) -> Vec<RefusedMessage> {
        let limits = self.inner.limits();
        let excess = |(position, message)| Some((position, limits.excess(&messages.topic, message, 0)?));
        let reasons: BTreeMap<usize, String> = messages.iter().filter_map(excess).collect();
        drop(limits);
        if reasons.is_empty() { Vec::new() } else { messages.refuse(reasons) }
    }

    /// Excludes the messages that [`Sent::TooLarge`] names, and others as large; returns them.
    pub fn refuse(&self, messages: &mut TopicMessages, positions: &BTreeSet<usize>) -> Vec<RefusedMessage> {
        let too_large = messages.iter().filter(|(position, _)| positions.contains(position));
        let reasons = too_large.map(|(position, message)| (position, limit::refused(&messages.topic, message, 0)));
        let reasons = reasons.collect();
        let mut refused = messages.refuse(reasons);
        refused.extend(self.refuse_large(messages));
        refused
    }

    /// Makes an epoch's messages visible, all or none. If some are too large for the brokers, none becomes visible: the
    /// epoch may be committed again without them.
    ///
    /// Errors: `Fenced` when another process has taken the pipeline over; otherwise `Environment`. After an error that
    /// says the outcome is unknown, open a new producer and ask it for [`TransactionalProducer::committed_epoch`].
    pub async fn commit(&self, permit: CommitPermit, messages: Vec<TopicMessages>) -> Result<Sent> {
        self.send(permit.standing(), messages).await
    }

    /// Records an epoch without messages: one that the other sinks hold already, in a restore or where Kafka has no record yet.
    /// Errors: as for [`Self::commit`].
    pub async fn record(&self, held: Standing) -> Result<()> {
        self.send(held, Vec::new()).await.map(drop)
    }

    async fn send(&self, Standing { epoch, manifest }: Standing, messages: Vec<TopicMessages>) -> Result<Sent> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let _turn = inner.turn.lock().unwrap_or_else(PoisonError::into_inner);
            inner.commit(&EpochRecord { epoch: epoch.0, manifest: manifest.0 }, &messages)
        })
        .await
    }
}

/// The number that identifies the message at `position` of the `topic`-th topic to the client.
fn number_of(topic: usize, position: usize) -> usize {
    topic << NUMBER_BITS | position
}

/// Runs a blocking call on a thread for such calls.
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
            Err(Failure::TooLarge(_)) => Err(Error::internal("a message was sent before transactions began")),
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

    fn commit(&self, record: &EpochRecord, messages: &[TopicMessages]) -> Result<Sent> {
        let failed =
            |why: &str| self.failed(&format!("commit epoch {}; the transaction was aborted", record.epoch), why);
        let mut suspects = BTreeSet::new();
        for _ in 0..MAX_ATTEMPTS {
            let refused = match self.attempt(record, messages, &suspects)? {
                Attempt::Committed => return Ok(Sent::Visible),
                // The brokers still expect the sequence numbers of the batch that they refused; the abort has begun new
                // ones.
                Attempt::Undone(_) if self.out_of_sequence.swap(false, Ordering::Relaxed) => continue,
                Attempt::Undone(why) => return Err(failed(&why)),
                Attempt::TooLarge(refused) => refused,
            };
            self.out_of_sequence.store(true, Ordering::Relaxed);
            let mut guilty = self.guilty(messages, &refused, &suspects);
            if !guilty.is_empty() {
                suspects.extend(refused);
                self.rehearse(messages, &suspects, &mut guilty)?;
                return Ok(Sent::TooLarge(guilty));
            }
            // Each message of a refused batch is sent by itself next, which shows the one that is too large.
            suspects.extend(refused);
        }
        Err(failed("the brokers refuse batches of messages for their size").with_hint("Let the user DESCRIBE_CONFIGS of the topic, or set `properties.batch.size` of the sink below the topic's `max.message.bytes`."))
    }

    /// Those of the refused messages that were alone in their batch.
    fn guilty(
        &self,
        messages: &[TopicMessages],
        refused: &BTreeSet<usize>,
        suspects: &BTreeSet<usize>,
    ) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut guilty: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (index, of_topic) in messages.iter().enumerate() {
            for (position, message) in of_topic.iter() {
                let number = number_of(index, position);
                if !refused.contains(&number) {
                    continue;
                }
                let mut limits = self.limits();
                if refused.len() == 1 || suspects.contains(&number) || limits.is_alone(message, 0) {
                    limits.learn_refused(&of_topic.topic, message, 0);
                    guilty.entry(index).or_default().insert(position);
                }
            }
        }
        guilty
    }

    /// Attempts the transaction once; messages in `alone` go in batches of their own.
    fn attempt(&self, record: &EpochRecord, messages: &[TopicMessages], alone: &BTreeSet<usize>) -> Result<Attempt> {
        let epoch = record.epoch;
        self.forget_reports();
        let done = self.persist("begin a transaction", || self.producer.begin_transaction()).and_then(|()| {
            self.produce(messages, alone)?;
            self.record(record)?;
            self.settle()?;
            self.persist("commit a transaction", || self.producer.commit_transaction(CALL))
        });
        let (why, too_large) = match done {
            Ok(()) => {
                // All messages are acknowledged: the failures that librdkafka reported on the way were repaired by retries.
                let _ = self.context().take_undelivered();
                self.out_of_sequence.store(false, Ordering::Relaxed);
                return Ok(Attempt::Committed);
            }
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Abort(why)) => (why, None),
            Err(Failure::TooLarge(number)) => (String::new(), Some(number)),
        };
        self.undo(&format!("commit epoch {epoch}"), &why)?;
        if let Some(number) = too_large {
            return Ok(Attempt::TooLarge(BTreeSet::from([number])));
        }
        let refused: BTreeSet<usize> = self.context().take_too_large().iter().map(|message| message.number).collect();
        if refused.is_empty() {
            return Ok(Attempt::Undone(why));
        }
        // Failure reports of the messages behind these, whose batches were undone with the transaction.
        let _ = self.context().take_undelivered();
        Ok(Attempt::TooLarge(refused))
    }

    /// Undoes the transaction. The reports of its messages reach the context meanwhile: they name those that were too large.
    fn undo(&self, what: &str, why: &str) -> Result<()> {
        match self.persist("abort a transaction", || self.abort()) {
            Ok(()) => {}
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Abort(_) | Failure::TooLarge(_)) => {
                return Err(self.failed(&format!("{what}; the outcome is unknown"), why));
            }
        }
        let deadline = self.env.instant() + FIRST_CALL;
        while self.producer.in_flight_count() > 0 && self.env.instant() < deadline {
            self.producer.poll(Duration::from_millis(10));
        }
        Ok(())
    }

    /// One call to abort. librdkafka waits in it until the reports of all messages have been served, which another thread
    /// must do.
    fn abort(&self) -> KafkaResult<()> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let serve = || {
                while !done.load(Ordering::Relaxed) {
                    self.producer.poll(Duration::from_millis(5));
                }
            };
            // Without the thread the call runs into its time limit, and is repeated.
            let _served = std::thread::Builder::new().name("kafka-reports".to_owned()).spawn_scoped(scope, serve);
            let deadline = self.env.instant() + CALL;
            // A call drops the messages queued when it begins; those that a broker returns for a retry wait for the next
            // call.
            let aborted = loop {
                match self.producer.abort_transaction(ABORT_CALL) {
                    Err(KafkaError::Transaction(error)) if error.is_retriable() && self.env.instant() < deadline => {}
                    aborted => break aborted,
                }
            };
            done.store(true, Ordering::Relaxed);
            aborted
        })
    }

    /// Drops the reports on messages of an earlier attempt.
    fn forget_reports(&self) {
        let _ = (self.context().take_too_large(), self.context().take_undelivered());
    }

    /// Waits until all messages are acknowledged, or until one is refused: the messages behind it are not sent any more, and
    /// a flush would wait for them in vain.
    fn settle(&self) -> Result<(), Failure> {
        let deadline = self.env.instant() + PATIENCE;
        let mut failed_since: Option<Instant> = None;
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::from_millis(10));
            let (too_large, failed) = self.context().has_failures();
            if too_large {
                return Err(Failure::Abort("a message is too large for the brokers".to_owned()));
            }
            let now = self.env.instant();
            if failed && now.duration_since(*failed_since.get_or_insert(now)) > FIRST_CALL {
                let why = self.context().take_undelivered();
                return Err(Failure::Abort(why.unwrap_or_else(|| "a message was not delivered".to_owned())));
            }
            if let Some(why) = self.context().refused() {
                return Err(Failure::Abort(why));
            }
            if now >= deadline {
                let why = self.context().last_trouble();
                return Err(Failure::Abort(why.unwrap_or_else(|| "messages are not acknowledged".to_owned())));
            }
        }
        Ok(())
    }

    fn produce(&self, messages: &[TopicMessages], alone: &BTreeSet<usize>) -> Result<(), Failure> {
        let deadline = self.env.instant() + PATIENCE;
        for (index, of_topic) in messages.iter().enumerate() {
            for (position, message) in of_topic.iter() {
                let number = number_of(index, position);
                if !alone.contains(&number) {
                    self.produce_one(&of_topic.topic, message, number, deadline)?;
                    continue;
                }
                self.settle()?;
                self.produce_one(&of_topic.topic, message, number, deadline)?;
                self.settle()?;
            }
        }
        Ok(())
    }

    fn produce_one(&self, topic: &str, message: Message<'_>, number: usize, deadline: Instant) -> Result<(), Failure> {
        use RDKafkaErrorCode as Code;
        loop {
            let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, number);
            (record.key, record.payload) = (message.key, message.payload);
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), _)) if self.env.instant() < deadline => {
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((KafkaError::MessageProduction(Code::MessageSizeTooLarge), _)) => {
                    return Err(Failure::TooLarge(number));
                }
                Err((error, _)) => return Err(self.classify(&error)),
            }
        }
    }

    fn limits(&self) -> MutexGuard<'_, SizeLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, record: &EpochRecord) -> Result<(), Failure> {
        let places = self.epoch_places(Some(record)).map_err(Failure::Fatal)?;
        let group = self
            .group
            .group_metadata()
            .ok_or_else(|| Failure::Fatal(Error::internal("kafka consumer group has no metadata")))?;
        self.persist("record the epoch", || self.producer.send_offsets_to_transaction(&places, &group, CALL))
    }

    /// The offsets under which epochs are recorded; with `record`, filled in for writing.
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

    /// Repeats a step while librdkafka reports that a retry may help, up to [`PATIENCE`].
    fn persist(&self, what: &str, mut step: impl FnMut() -> KafkaResult<()>) -> Result<(), Failure> {
        let deadline = self.env.instant() + PATIENCE;
        loop {
            let error = match step() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Serves queued events: the reason may be among them.
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
