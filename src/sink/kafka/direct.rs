//! `delivery = 'at_least_once'`: messages leave at once; what became of them is known at the flush before the epoch's
//! manifest.
//!
//! An epoch that is read again after a crash sends its messages again. Every message carries `weir-pipeline`, `weir-epoch`
//! and `weir-position`, its place among the epoch's messages to this sink. A run after a crash may cut its epochs elsewhere,
//! so these say where a message comes from and do not identify its row: consumers drop repeats by a key in the row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::encode::{Message, Messages};
use crate::catalog::KafkaConnection;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::source::kafka::client::{self, Context, sentence};

/// How long a full queue or unacknowledged messages are waited for; messages expire in librdkafka after 60 s.
const PATIENCE: Duration = Duration::from_secs(65);

/// Sends messages at once.
pub struct DirectProducer {
    topic: String,
    pipeline: String,
    connection: KafkaConnection,
    env: Env,
    producer: Arc<BaseProducer<Context>>,
    stop: Arc<AtomicBool>,
}

impl DirectProducer {
    /// Makes the producer; no connection is needed yet. Errors: options that librdkafka refuses.
    pub fn open(connection: &KafkaConnection, topic: &str, pipeline: &str, env: &Env) -> Result<Self> {
        let mut config = client::producer_config(connection);
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
            pipeline: pipeline.to_owned(),
            connection: connection.clone(),
            env: env.clone(),
            producer,
            stop,
        })
    }

    /// Hands messages to the client, which sends them at once; waits while its queue is full. `position` is the place
    /// of the first message among the epoch's messages to this sink.
    ///
    /// Errors: a message of an earlier call was not delivered; the queue stays full.
    pub async fn send(&self, messages: &Messages, epoch: u64, position: u64) -> Result<()> {
        self.undelivered()?;
        let epoch = epoch.to_string();
        for (message, position) in messages.iter().zip(position..) {
            let since = self.env.instant();
            while !self.offer(message, &epoch, position)? {
                if self.env.instant().duration_since(since) > PATIENCE {
                    return Err(self.stuck());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }

    /// Waits until every message sent so far is acknowledged by all in-sync replicas. Errors: one was not delivered.
    pub async fn flush(&self) -> Result<()> {
        let producer = Arc::clone(&self.producer);
        let flushed = tokio::task::spawn_blocking(move || producer.flush(PATIENCE))
            .await
            .map_err(|error| Error::internal("kafka flush ended early").with_source(error))?;
        self.undelivered()?;
        flushed.map_err(|_| self.stuck())
    }

    /// False when the client's queue is full.
    fn offer(&self, message: Message<'_>, epoch: &str, position: u64) -> Result<bool> {
        let position = position.to_string();
        let headers = OwnedHeaders::new_with_capacity(3)
            .insert(Header { key: "weir-pipeline", value: Some(self.pipeline.as_str()) })
            .insert(Header { key: "weir-epoch", value: Some(epoch) })
            .insert(Header { key: "weir-position", value: Some(position.as_str()) });
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).headers(headers);
        (record.key, record.payload) = (message.key, message.payload);
        match self.producer.send(record) {
            Ok(()) => Ok(true),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((error, _)) => Err(not_delivered(&self.topic, &self.context().redact().describe(&error))),
        }
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
