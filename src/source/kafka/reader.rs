//! [`KafkaReader`]: one Kafka topic as a [`SourceReader`].

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::gather::Wants;
use super::identity::TopicWitness;
use super::native::topic_name;
use super::session::{OUTAGE, Session};
use super::shared::{Shared, Status};
use crate::catalog::{KafkaSourceOptions, OnDataLoss};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::source::chunk::{Offsets, PartitionId, Poll, PollLimit, ReadFrom, SourceReader, TopicIdentity, Witness};

/// The longest wait for the thread when a reader is dropped.
const FAREWELL: Duration = Duration::from_secs(2);

/// Reads a topic by offset ranges.
///
/// A thread reads ahead, at most the last poll's limit, while the pipeline processes earlier chunks.
pub struct KafkaReader {
    source: String,
    env: Env,
    shared: Arc<Shared>,
    on_data_loss: OnDataLoss,
    /// The topic of the last chunks.
    topic: Option<TopicIdentity>,
    /// Closed when the thread ends.
    ended: Receiver<()>,
}

impl KafkaReader {
    /// Starts to read for the source `source_name`. Returns at once: problems that only the brokers can report (a missing
    /// topic, a refused login, lost offsets) are errors of the first poll.
    ///
    /// `group_id` names the consumer group under which [`SourceReader::committed`] publishes progress for lag monitors; it
    /// is never read. Errors: options that librdkafka refuses.
    pub fn open(
        source_name: &str,
        options: &KafkaSourceOptions,
        wants: Wants,
        group_id: String,
        from: ReadFrom,
        env: &Env,
    ) -> Result<Self> {
        Self::open_with_patience(source_name, options, wants, group_id, from, env, OUTAGE)
    }

    /// As [`KafkaReader::open`], waiting up to `outage` for unreachable brokers.
    pub(super) fn open_with_patience(
        source_name: &str,
        options: &KafkaSourceOptions,
        wants: Wants,
        group_id: String,
        from: ReadFrom,
        env: &Env,
        outage: Duration,
    ) -> Result<Self> {
        super::client::check(&options.connection)?;
        // If the user sets another interval for statistics, silence of the brokers cannot be measured.
        let hears = !options.connection.properties.contains_key("statistics.interval.ms");
        let shared = Arc::new(Shared::new(wants, hears.then(|| env.instant())));
        let session = Session {
            source: source_name.to_owned(),
            options: options.clone(),
            topic: topic_name(&options.topic)?,
            group_id,
            from,
            env: env.clone(),
            shared: Arc::clone(&shared),
            outage,
        };
        let (alive, ended) = channel();
        std::thread::Builder::new()
            .name(format!("kafka-{source_name}"))
            .spawn(move || {
                let _alive = alive;
                session.run();
            })
            .map_err(|error| Error::environment("kafka reading thread could not be started").with_source(error))?;
        let on_data_loss = options.on_data_loss;
        Ok(Self { source: source_name.to_owned(), env: env.clone(), shared, on_data_loss, topic: None, ended })
    }

    /// Waits until the starting offsets are determined (`latest` means this moment) or reading has failed.
    #[cfg(test)]
    pub async fn started(&self) {
        loop {
            let news = self.shared.news.notified();
            {
                let state = self.shared.lock();
                if state.started || !matches!(state.status, Status::Reading) {
                    break;
                }
            }
            news.await;
        }
        // The next poll must not miss the notification consumed here.
        self.shared.news.notify_one();
    }

    /// The result that a poll can return at once; `None` = wait.
    fn ready(&self) -> Result<Option<Poll>> {
        let mut state = self.shared.lock();
        if state.gathered.has_chunks() {
            return Ok(Some(Poll::Chunks(Vec::new())));
        }
        match &mut state.status {
            Status::Reading => Ok(None),
            Status::Finished => Ok(Some(Poll::Finished)),
            Status::Failed(error) => Err(error.take().unwrap_or_else(|| {
                Error::internal(format!("source `{}` was polled after it had failed", self.source))
            })),
        }
    }

    async fn wait_for_chunks(&mut self, limit: PollLimit) -> Result<Poll> {
        self.shared.lock().gathered.set_limit(&limit);
        self.shared.order();
        let deadline = Instant::now() + limit.wait;
        loop {
            match self.ready()? {
                Some(Poll::Chunks(_)) => break,
                Some(other) => return Ok(other),
                None => {}
            }
            if timeout_at(deadline, self.shared.news.notified()).await.is_err() && self.ready()?.is_none() {
                return Ok(Poll::Idle);
            }
        }
        // Counted from the arrival of the first record: records that arrived while the pipeline was busy have waited
        // already.
        let came = self.shared.lock().first_came.map_or_else(Instant::now, Instant::from_std);
        let deadline = came + limit.linger;
        while !self.is_full() && timeout_at(deadline, self.shared.news.notified()).await.is_ok() {}
        let chunks = {
            let mut state = self.shared.lock();
            self.topic = state.topic.clone();
            state.gathered.take(limit.rows)
        };
        self.shared.order();
        Ok(Poll::Chunks(chunks))
    }

    /// True if waiting longer adds nothing to this poll.
    fn is_full(&self) -> bool {
        let state = self.shared.lock();
        state.gathered.room() == 0 || !matches!(state.status, Status::Reading)
    }
}

impl SourceReader for KafkaReader {
    /// Safe to cancel: records are taken only when they are returned.
    fn poll(&mut self, limit: PollLimit) -> BoxFuture<'_, Result<Poll>> {
        self.wait_for_chunks(limit).boxed()
    }

    fn lag(&self) -> Option<u64> {
        let state = self.shared.lock();
        state.started.then(|| state.gathered.lag())
    }

    fn silent_for(&self) -> Option<Duration> {
        let heard = self.shared.lock().heard?;
        Some(self.env.instant().saturating_duration_since(heard))
    }

    fn open_partitions(&self) -> Vec<PartitionId> {
        self.shared.lock().gathered.open()
    }

    fn topic(&self) -> Option<TopicIdentity> {
        self.topic.clone()
    }

    /// None under `on_data_loss = 'continue'`: a topic that was created again is read from its beginning while the run
    /// continues.
    fn witness(&self) -> Option<Arc<dyn Witness>> {
        let witness = || TopicWitness { source: self.source.clone(), shared: Arc::clone(&self.shared) };
        (self.on_data_loss == OnDataLoss::Fail).then(|| Arc::new(witness()) as Arc<dyn Witness>)
    }

    fn hold(&mut self, partitions: &[PartitionId]) {
        let mut state = self.shared.lock();
        state.hold = state.gathered.numbers(partitions);
    }

    fn committed(&mut self, offsets: &Offsets) {
        self.shared
            .lock()
            .publish
            .get_or_insert_default()
            .extend(offsets.iter().map(|(id, end)| (Arc::clone(id), *end)));
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.order();
        if self.ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(source = self.source, "kafka reading thread is slow to end");
        }
    }
}
