//! `delivery = 'at_least_once'`: messages are sent at once; their delivery is confirmed by the flush before the epoch's
//! manifest.
//!
//! An epoch that is read again after a crash sends its messages again. Every message carries `weir-pipeline`, `weir-epoch`
//! and `weir-position`, its place among the epoch's messages to this sink. A run after a crash may cut its epochs elsewhere,
//! so these headers give the origin of a message and do not identify its row: consumers deduplicate by a key in the row.
//!
//! A message that is too large is returned: at once if the topic's limit is known, else at the flush.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::encode::{Message, Messages};
use super::limit::{self, SizeLimits};
use crate::catalog::KafkaConnection;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::source::kafka::client::{self, Context, TooLarge, sentence};

/// The longest wait for a full queue or for acknowledgements; messages expire in librdkafka after 60 s.
const PATIENCE: Duration = Duration::from_secs(65);

/// Bits of a message's number that hold its position; the bits above hold the lowest bits of its epoch.
const POSITION_BITS: u32 = 40;
const MAX_POSITION: u64 = (1 << POSITION_BITS) - 1;

/// A message that is too large for its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedMessage {
    /// Its place among the epoch's messages to this sink.
    pub position: u64,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    /// The message's size and the limit.
    pub reason: String,
}

/// Sends messages at once.
pub struct DirectProducer {
    topic: String,
    limits: Mutex<SizeLimits>,
    /// Messages in refused batches, of the committing epoch and of the next.
    suspects: Mutex<Vec<TooLarge>>,
    pipeline: String,
    connection: KafkaConnection,
    env: Env,
    producer: Arc<BaseProducer<Context>>,
    stop: Arc<AtomicBool>,
}

impl DirectProducer {
    /// Creates the producer and asks the brokers for the size limits of messages; they need not answer. Errors: options that
    /// librdkafka refuses.
    pub async fn open(connection: &KafkaConnection, topic: &str, pipeline: &str, env: &Env) -> Result<Self> {
        let limits = SizeLimits::learn(connection, &[topic.to_owned()], env).await?;
        let mut config = client::producer_config(connection);
        limits.configure(&mut config);
        if !connection.properties.keys().any(|key| key == "linger.ms" || key == "queue.buffering.max.ms") {
            config.set("linger.ms", "0");
        }
        let producer = Arc::new(client::create_producer(&config, Context::new(connection, env))?);
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::clone(&producer);
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new()
            .name(format!("kafka-acks-{topic}"))
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    served.poll(Duration::from_millis(20));
                }
            })
            .map_err(|error| Error::environment("kafka sending thread could not be started").with_source(error))?;
        Ok(Self {
            topic: topic.to_owned(),
            limits: Mutex::new(limits),
            suspects: Mutex::default(),
            pipeline: pipeline.to_owned(),
            connection: connection.clone(),
            env: env.clone(),
            producer,
            stop,
        })
    }

    /// The topic that messages are sent to.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Hands messages to the client, which sends them at once; waits while its queue is full. `position` is the place
    /// of the first message among the epoch's messages to this sink. Returns the messages that are too large.
    ///
    /// Errors: a message of an earlier call was not delivered; the queue stays full.
    pub async fn send(&self, messages: &Messages, epoch: u64, position: u64) -> Result<Vec<RefusedMessage>> {
        self.undelivered()?;
        let text = epoch.to_string();
        let mut refused = Vec::new();
        for (message, position) in messages.iter().zip(position..) {
            let excess = self.limits().excess(&self.topic, message, self.header_bytes(&text, position));
            if let Some(reason) = excess {
                refused.push(refused_message(message, position, reason));
                continue;
            }
            let since = self.env.instant();
            loop {
                match self.offer(message, epoch, position)? {
                    Offered::Taken => break,
                    Offered::TooLarge => {
                        refused.push(self.refused(message, &text, position));
                        break;
                    }
                    Offered::QueueFull if self.env.instant().duration_since(since) > PATIENCE => {
                        return Err(self.stuck());
                    }
                    Offered::QueueFull => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        }
        Ok(refused)
    }

    /// Waits until every message sent so far is acknowledged by all in-sync replicas. Returns those of `epoch` that the
    /// brokers refused for their size.
    ///
    /// Errors: one was not delivered for another reason.
    pub async fn flush(&self, epoch: u64) -> Result<Vec<RefusedMessage>> {
        self.acknowledged().await?;
        let suspects = self.take_suspects(epoch);
        let is_only = suspects.len() == 1;
        let text = epoch.to_string();
        let mut refused = Vec::new();
        for TooLarge { number, key, payload } in suspects {
            let message = Message { key: key.as_deref(), payload: payload.as_deref() };
            let position = number as u64 & MAX_POSITION;
            let headers = self.header_bytes(&text, position);
            let is_alone = is_only || self.limits().is_alone(message, headers);
            // A batch of several messages was refused: each is tried in a batch of its own.
            if is_alone || !self.send_alone(message, epoch, position).await? {
                self.limits().learn_refused(&self.topic, message, headers);
                refused.push(self.refused(message, &text, position));
            }
        }
        Ok(refused)
    }

    /// Sends one message in a batch of its own; false if it is too large.
    async fn send_alone(&self, message: Message<'_>, epoch: u64, position: u64) -> Result<bool> {
        match self.offer(message, epoch, position)? {
            Offered::Taken => {
                self.acknowledged().await?;
                Ok(self.take_suspects(epoch).iter().all(|other| other.number != number_of(epoch, position)))
            }
            Offered::TooLarge => Ok(false),
            Offered::QueueFull => Err(self.stuck()),
        }
    }

    /// Takes the messages of this epoch that were in refused batches; those of the next, which fills meanwhile, stay.
    fn take_suspects(&self, epoch: u64) -> Vec<TooLarge> {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.extend(self.context().take_too_large());
        let (taken, kept) =
            suspects.drain(..).partition(|message| message.number & !(MAX_POSITION as usize) == number_of(epoch, 0));
        *suspects = kept;
        taken
    }

    async fn acknowledged(&self) -> Result<()> {
        let producer = Arc::clone(&self.producer);
        let flushed = tokio::task::spawn_blocking(move || producer.flush(PATIENCE))
            .await
            .map_err(|error| Error::internal("kafka flush ended early").with_source(error))?;
        self.undelivered()?;
        flushed.map_err(|_| self.stuck())
    }

    fn offer(&self, message: Message<'_>, epoch: u64, position: u64) -> Result<Offered> {
        let (epoch_text, position_text) = (epoch.to_string(), position.to_string());
        let headers = self.headers(&epoch_text, &position_text).into_iter().fold(
            OwnedHeaders::new_with_capacity(3),
            |all, one| {
                let (key, value) = one;
                all.insert(Header { key, value: Some(value) })
            },
        );
        let mut record =
            BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.topic, number_of(epoch, position)).headers(headers);
        (record.key, record.payload) = (message.key, message.payload);
        match self.producer.send(record) {
            Ok(()) => Ok(Offered::Taken),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(Offered::QueueFull),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => Ok(Offered::TooLarge),
            Err((error, _)) => Err(not_delivered(&self.topic, &self.context().redact().describe(&error))),
        }
    }

    fn headers<'a>(&'a self, epoch: &'a str, position: &'a str) -> [(&'static str, &'a str); 3] {
        [("weir-pipeline", self.pipeline.as_str()), ("weir-epoch", epoch), ("weir-position", position)]
    }

    fn header_bytes(&self, epoch: &str, position: u64) -> usize {
        limit::header_bytes(self.headers(epoch, &position.to_string()).into_iter())
    }

    fn refused(&self, message: Message<'_>, epoch: &str, position: u64) -> RefusedMessage {
        let reason = limit::refused(&self.topic, message, self.header_bytes(epoch, position));
        refused_message(message, position, reason)
    }

    fn limits(&self) -> MutexGuard<'_, SizeLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn undelivered(&self) -> Result<()> {
        self.context().take_undelivered().map_or(Ok(()), |why| Err(not_delivered(&self.topic, &why)))
    }

    fn stuck(&self) -> Error {
        let context = self.context();
        let why = context.refused().or_else(|| context.last_trouble());
        client::unreachable_error(&self.connection, &why.unwrap_or_else(|| "messages are not acknowledged".to_owned()))
    }

    fn context(&self) -> &Arc<Context> {
        self.producer.context()
    }
}

/// The number that identifies a message to the client; epochs in progress at the same time have different ones.
fn number_of(epoch: u64, position: u64) -> usize {
    (epoch << POSITION_BITS | position & MAX_POSITION) as usize
}

/// Result of offering a message to the client.
enum Offered {
    Taken,
    QueueFull,
    TooLarge,
}

fn refused_message(message: Message<'_>, position: u64, reason: String) -> RefusedMessage {
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    RefusedMessage { position, key: owned(message.key), payload: owned(message.payload), reason }
}

impl Drop for DirectProducer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn not_delivered(topic: &str, why: &str) -> Error {
    Error::environment(format!("messages to topic `{topic}` were not delivered")).with_detail(sentence(why)).with_hint(
        "The epoch is replayed when the pipeline is started again; consumers drop repeats by a key in the row.",
    )
}
