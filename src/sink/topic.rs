//! Kafka topics as sinks of a pipeline: rows or changes, in the epoch's transaction or sent with each micro-batch.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::kafka::{ChangeOrigin, DirectProducer, Messages, RefusedMessage, TopicMessages, encode, encode_changes};
use super::writer::{Arrival, Held, Opening, Refused, Sink, SinkWriter, Staged, Written, in_order};
use crate::catalog::ChangeEncoding;
use crate::delta::UpsertRows;
use crate::env::Env;
use crate::error::Result;

/// The way of messages to a topic.
#[derive(Clone)]
pub enum Delivery {
    /// `exactly_once`: kept until the epoch's transaction.
    Transaction { topic: String },
    /// `at_least_once`: sent with each micro-batch.
    Direct(Arc<DirectProducer>),
}

impl Delivery {
    fn kind(&self) -> &'static str {
        match self {
            Self::Transaction { .. } => "kafka exactly_once",
            Self::Direct(_) => "kafka at_least_once",
        }
    }
}

/// A topic that takes each row as a message.
pub struct RowsSink {
    pub delivery: Delivery,
    /// Column that becomes the message's key.
    pub key: Option<String>,
}

impl Sink for RowsSink {
    fn kind(&self) -> &'static str {
        self.delivery.kind()
    }

    fn sends_at_once(&self) -> bool {
        matches!(self.delivery, Delivery::Direct(_))
    }

    fn open(&self, opening: &Opening) -> Arc<dyn SinkWriter> {
        let key = self.key.clone();
        match self.delivery.clone() {
            Delivery::Transaction { topic } => {
                let lanes = (0..opening.lanes).map(|_| Mutex::default()).collect();
                Arc::new(Kept { topic, key, target: opening.target.clone(), lanes })
            }
            Delivery::Direct(producer) => Arc::new(Direct { producer, key, opening: opening.clone() }),
        }
    }
}

/// Messages of an epoch that wait for its transaction.
struct Kept {
    topic: String,
    key: Option<String>,
    target: String,
    lanes: Vec<Mutex<Vec<Messages>>>,
}

#[async_trait]
impl SinkWriter for Kept {
    async fn write(&self, at: Arrival, rows: Vec<UpsertRows>) -> Result<Written> {
        let mut held = self.lanes[at.lane].lock().await;
        let mut waits = 0;
        for UpsertRows { rows, .. } in rows {
            let encoded = encode(&rows, self.key.as_deref())?;
            waits += encoded.bytes() as u64;
            held.push(encoded);
        }
        Ok(Written { waits, ..Written::default() })
    }

    async fn close(&self) -> Result<Staged> {
        let mut messages = Vec::new();
        for lane in &self.lanes {
            let held = std::mem::take(&mut *lane.lock().await);
            if !held.is_empty() {
                messages.push(TopicMessages::new(&self.target, &self.topic, held));
            }
        }
        Ok(Staged::Messages(messages))
    }
}

/// Messages that leave at once.
struct Direct {
    producer: Arc<DirectProducer>,
    key: Option<String>,
    opening: Opening,
}

#[async_trait]
impl SinkWriter for Direct {
    async fn write(&self, _: Arrival, rows: Vec<UpsertRows>) -> Result<Written> {
        let mut refused = Vec::new();
        for UpsertRows { rows, .. } in rows {
            let first = self.opening.sent.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
            let messages = encode(&rows, self.key.as_deref())?;
            refused.extend(self.producer.send(&messages, self.opening.epoch.0, first).await?);
        }
        Ok(Written { refused: refused_by(&self.producer, refused), ..Written::default() })
    }

    async fn close(&self) -> Result<Staged> {
        let refused = self.producer.flush(self.opening.epoch.0).await?;
        Ok(Staged::Sent(refused_by(&self.producer, refused)))
    }
}

/// A topic that takes the changes of an epoch, one message per key.
pub struct ChangesSink {
    pub delivery: Delivery,
    pub encoding: ChangeEncoding,
    pub pipeline: String,
    pub env: Env,
}

impl Sink for ChangesSink {
    fn kind(&self) -> &'static str {
        self.delivery.kind()
    }

    fn consolidates(&self) -> bool {
        true
    }

    fn sends_at_once(&self) -> bool {
        matches!(self.delivery, Delivery::Direct(_))
    }

    fn open(&self, opening: &Opening) -> Arc<dyn SinkWriter> {
        Arc::new(Changed {
            delivery: self.delivery.clone(),
            encoding: self.encoding.clone(),
            origin: ChangeOrigin {
                pipeline: self.pipeline.clone(),
                sink: opening.target.clone(),
                epoch: opening.epoch.0,
            },
            env: self.env.clone(),
            held: Held::default(),
        })
    }
}

struct Changed {
    delivery: Delivery,
    encoding: ChangeEncoding,
    origin: ChangeOrigin,
    env: Env,
    held: Held,
}

#[async_trait]
impl SinkWriter for Changed {
    async fn write(&self, at: Arrival, rows: Vec<UpsertRows>) -> Result<Written> {
        Ok(self.held.put(at, rows).await)
    }

    async fn close(&self) -> Result<Staged> {
        let rows = self.held.take().await;
        let messages = match rows.is_empty() {
            true => None,
            false => Some(encode_changes(in_order(rows), &self.encoding, &self.origin, &self.env)?),
        };
        Ok(match &self.delivery {
            Delivery::Transaction { topic } => {
                let messages = messages.map(|messages| TopicMessages::new(&self.origin.sink, topic, vec![messages]));
                Staged::Messages(messages.into_iter().collect())
            }
            Delivery::Direct(producer) => {
                let mut refused = Vec::new();
                if let Some(messages) = messages {
                    refused.extend(producer.send(&messages, self.origin.epoch, 0).await?);
                }
                refused.extend(producer.flush(self.origin.epoch).await?);
                Staged::Sent(refused_by(producer, refused))
            }
        })
    }
}

fn refused_by(producer: &DirectProducer, messages: Vec<RefusedMessage>) -> Option<Refused> {
    (!messages.is_empty()).then(|| Refused { topic: producer.topic().to_owned(), messages })
}
