//! The reading thread: creates the consumer, determines where to begin, and moves records into [`Gathered`] until it is
//! stopped.
//!
//! Promises: it pauses while as much is gathered as the next poll may take (librdkafka's own queue is bounded too); it waits
//! for unreachable brokers up to [`OUTAGE`]; missing offsets restart the session, whose start decides on the consequence. It
//! leaves the order of offsets to [`Gathered`], decisions about starts to [`start`](super::start), and the topic's identity
//! to [`topic`].

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::client::{self, Context};
use super::cluster::{self, Attempt};
use super::gather::Begin;
use super::native::{Event, Queue};
use super::shared::{Shared, State, Status};
use super::start::{self, Facts, Range};
use crate::catalog::{KafkaSourceOptions, OnDataLoss, StartingOffsets};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::source::chunk::{Offsets, ReadFrom, TopicIdentity};

mod topic;

/// The longest wait for unreachable brokers.
pub const OUTAGE: Duration = Duration::from_secs(60);
/// The longest time that a topic may be unknown when reading begins: metadata travels between brokers.
const TOPIC_GRACE: Duration = Duration::from_secs(3);
/// Default interval of discovery of new partitions; `properties.topic.metadata.refresh.interval.ms` overrides it.
const DISCOVERY: Duration = Duration::from_secs(30);
/// The interval at which events are served, and the longest wait for records.
const HOUSEKEEPING: Duration = Duration::from_millis(50);
/// After a pause of this length the topic may have been created again: its id is checked before more records are taken.
const QUIET: Duration = Duration::from_millis(100);
/// Consecutive restarts without a record after which lost offsets are an error.
const MAX_RESTARTS: u32 = 3;

/// One source's reading thread.
pub struct Session {
    pub source: String,
    pub options: KafkaSourceOptions,
    pub topic: CString,
    pub group_id: String,
    pub from: ReadFrom,
    pub env: Env,
    pub shared: Arc<Shared>,
    pub outage: Duration,
}

/// The reason why a session ended.
enum Ended {
    Stopped,
    Finished,
    /// Offsets are missing: restart from the current positions.
    OffsetsGone {
        partition: i32,
    },
    /// Another topic has the name now: restart, if allowed.
    TopicChanged,
}

/// Progress that is kept from session to session.
struct Progress {
    committed: Offsets,
    /// The topic of these offsets.
    topic: Option<TopicIdentity>,
}

/// A session's connections.
struct Open {
    consumer: Arc<BaseConsumer<Context>>,
    context: Context,
    queue: Queue,
    next_discovery: Instant,
    next_housekeeping: Instant,
    next_outage_probe: Instant,
    /// The time of the last message, or of the session's beginning.
    last_event: Instant,
    /// `true` if records have arrived since the topic's id was checked.
    unproven: bool,
    /// The times of the last and of the next check of the topic's id.
    last_look: Instant,
    next_look: Instant,
    /// Partitions that are paused because they are ahead.
    held: Vec<i32>,
    /// The time since which the brokers report a partition as missing.
    lost_since: Option<Instant>,
}

impl Session {
    /// Reads until it is stopped, reaches the bounded end, or fails; the result is put into the shared state.
    pub fn run(self) {
        let _end = EndGuard(&self.shared);
        let status = match self.sessions() {
            Ok(()) => Status::Finished,
            Err(error) => Status::Failed(Some(error)),
        };
        self.shared.lock().status = status;
    }

    fn sessions(&self) -> Result<()> {
        let mut progress = Progress { committed: self.from.offsets.clone(), topic: self.from.topic.clone() };
        let mut restarts = 0;
        loop {
            let before = progress.committed.clone();
            let ended = self.read(&mut progress)?;
            progress.committed.extend(self.shared.lock().gathered.progress());
            match ended {
                Ended::Stopped | Ended::Finished => return Ok(()),
                Ended::TopicChanged => restarts = 0,
                Ended::OffsetsGone { partition } => {
                    let committed = &progress.committed;
                    restarts = if *committed == before { restarts + 1 } else { 1 };
                    if restarts > MAX_RESTARTS {
                        let offset = committed.get(&*start::id(&self.options.topic, partition)).copied().unwrap_or(0);
                        return Err(start::data_loss(&self.source, &self.options.topic, partition, offset, None));
                    }
                }
            }
        }
    }

    fn read(&self, progress: &mut Progress) -> Result<Ended> {
        let mut open = self.connect()?;
        let Some(partitions) = self.wait_for(&open, || {
            let topic = cluster::partitions(&open.consumer, &self.options.topic, open.context.redact());
            topic.map_err(|attempt| attempt.for_source(&self.source))
        })?
        else {
            return Ok(Ended::Stopped);
        };
        let begins_again = self.identify(&open, progress)?;
        let Some(begins) = self.wait_for(&open, || self.starts(&open, progress, &partitions, begins_again))? else {
            return Ok(Ended::Stopped);
        };
        self.begin(&open, &begins)?;
        let ended = self.pump(&mut open);
        // The consumer may still be used for requests, but need not fetch.
        let _ = open.consumer.unassign();
        ended
    }

    fn connect(&self) -> Result<Open> {
        let connection = &self.options.connection;
        let context = Context::new(connection, &self.env);
        let consumer = Arc::new(client::create_consumer(connection, &self.group_id, context.clone())?);
        let queue = Queue::new(Arc::clone(&consumer))?;
        let now = self.env.instant();
        Ok(Open {
            consumer,
            context,
            queue,
            next_discovery: now + self.discovery(),
            next_housekeeping: now + HOUSEKEEPING,
            next_outage_probe: now,
            last_event: now,
            unproven: false,
            last_look: now,
            next_look: now,
            held: Vec::new(),
            lost_since: None,
        })
    }

    /// Moves records until something ends the session.
    fn pump(&self, open: &mut Open) -> Result<Ended> {
        loop {
            if self.from.bounded && self.shared.lock().gathered.all_read() {
                return Ok(if self.topic_changed(open) { Ended::TopicChanged } else { Ended::Finished });
            }
            let room = self.shared.wait_for_room();
            if self.shared.lock().stop {
                return Ok(Ended::Stopped);
            }
            if room > 0 {
                let count = open.queue.fill(HOUSEKEEPING, room);
                if count > 0
                    && let Some(ended) = self.absorb(open, count)?
                {
                    return Ok(ended);
                }
            }
            if self.env.instant() >= open.next_housekeeping
                && let Some(ended) = self.keep_house(open)?
            {
                return Ok(ended);
            }
        }
    }

    /// Processes `count` events of the queue.
    fn absorb(&self, open: &mut Open, count: usize) -> Result<Option<Ended>> {
        let paused = self.env.instant().duration_since(open.last_event) > QUIET;
        if paused && self.topic_changed(open) {
            open.queue.each(count, |_| ());
            return Ok(Some(Ended::TopicChanged));
        }
        open.last_event = self.env.instant();
        let mut troubles = Vec::new();
        let mut done = Vec::new();
        let wake = {
            let now = self.env.instant();
            let mut state = self.shared.lock();
            let State { gathered, first_came, .. } = &mut *state;
            let had_chunks = gathered.has_chunks();
            open.queue.each(count, |event| match event {
                Event::Record(record) => {
                    if gathered.push(&record) {
                        done.push(record.partition());
                    }
                }
                Event::EndOfPartition { partition, offset } => gathered.reached_end(partition, offset),
                Event::Trouble { partition, code, text } => troubles.push((partition, code, text)),
            });
            open.unproven = true;
            let is_first = !had_chunks && gathered.has_chunks();
            if is_first {
                *first_came = Some(now);
            }
            is_first || gathered.room() == 0
        };
        if wake {
            self.shared.news.notify_one();
        }
        self.pause(open, &done);
        for (partition, code, text) in troubles {
            if let Some(ended) = self.judge(open, partition, code, &text)? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    /// The consequence of an error that a partition reports.
    fn judge(&self, open: &Open, partition: i32, code: RDKafkaErrorCode, text: &str) -> Result<Option<Ended>> {
        use RDKafkaErrorCode as Code;
        let text = open.context.redact().text(text);
        let (source, topic) = (&self.source, &self.options.topic);
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => Ok(Some(Ended::OffsetsGone { partition })),
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId => {
                // Records that arrived before the topic vanished are of that topic.
                let mut state = self.shared.lock();
                state.proven = state.gathered.progress();
                drop(state);
                self.partition_gone(partition).map(Some)
            }
            Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed => {
                Err(Error::config(format!("source `{source}` may not read topic `{topic}`"))
                    .with_detail(client::sentence(&text))
                    .with_hint("Grant the user READ and DESCRIBE on the topic."))
            }
            Code::BadMessage | Code::BadCompression => {
                Err(Error::damaged(format!("partition {partition} of topic `{topic}` has a damaged record batch"))
                    .with_detail(client::sentence(&text)))
            }
            _ => {
                tracing::warn!(source, topic, partition, ?code, "{text}");
                Ok(None)
            }
        }
    }

    /// The consequence of losing a partition that was being read.
    fn partition_gone(&self, partition: i32) -> Result<Ended> {
        let (source, topic) = (&self.source, &self.options.topic);
        match self.options.on_data_loss {
            // It may be created again soon: the start of the next session waits for it.
            OnDataLoss::Continue => Ok(Ended::OffsetsGone { partition }),
            OnDataLoss::Fail => {
                Err(Error::environment(format!("partition {partition} of topic `{topic}` is no longer there"))
                    .with_detail(format!("Source `{source}` was reading it."))
                    .with_hint("Start the pipeline without this source. A topic that is created again is another one: `on_data_loss = 'continue'` reads it from its beginning."))
            }
        }
    }

    fn keep_house(&self, open: &mut Open) -> Result<Option<Ended>> {
        let now = self.env.instant();
        open.next_housekeeping = now + HOUSEKEEPING;
        cluster::serve_events(&open.consumer);
        self.listen(open, now);
        if let Some(since) = open.context.all_down_since()
            && now >= open.next_outage_probe
        {
            self.probe_outage(open, since)?;
        }
        let positions: Vec<_> = self.shared.lock().gathered.positions().collect();
        for (partition, _) in positions {
            if let Some((_, high)) = open.queue.known_watermarks(&self.topic, partition) {
                self.shared.lock().gathered.set_high(partition, high);
            }
        }
        self.align(open);
        if let Some(ended) = self.prove(open, now) {
            return Ok(Some(ended));
        }
        let publish = self.shared.lock().publish.take();
        if let Some(offsets) = publish {
            self.publish(open, &offsets);
        }
        if now < open.next_discovery {
            return Ok(None);
        }
        open.next_discovery = now + self.discovery();
        self.discover(open, now)
    }

    /// Records when the brokers were last heard. No records are requested from them while there is no room, or partitions
    /// are held.
    fn listen(&self, open: &Open, now: Instant) {
        let asks = open.held.is_empty() && self.shared.lock().gathered.room() > 0;
        let heard = if asks { open.context.heard() } else { Some(now) };
        self.shared.hear(heard.map_or(open.last_event, |heard| heard.max(open.last_event)));
    }

    /// Pauses partitions that are ahead and resumes those that no longer are.
    fn align(&self, open: &mut Open) {
        let hold = self.shared.lock().hold.clone();
        if hold == open.held {
            return;
        }
        let ahead: Vec<i32> = hold.iter().copied().filter(|partition| !open.held.contains(partition)).collect();
        self.pause(open, &ahead);
        let mut list = TopicPartitionList::new();
        for partition in open.held.iter().filter(|partition| !hold.contains(partition)) {
            list.add_partition(&self.options.topic, *partition);
        }
        if list.count() > 0
            && let Err(error) = open.consumer.resume(&list)
        {
            tracing::debug!(source = self.source, error = open.context.redact().describe(&error), "not resumed");
        }
        open.held = hold;
    }

    /// Every broker seems down: tries once a second, and fails after the outage time.
    fn probe_outage(&self, open: &mut Open, since: Instant) -> Result<()> {
        let asked = cluster::partitions(&open.consumer, &self.options.topic, open.context.redact());
        let now = self.env.instant();
        open.next_outage_probe = now + Duration::from_secs(1);
        match asked {
            Ok(_) => {
                open.context.is_well();
                tracing::info!(source = self.source, "kafka brokers answer again");
                Ok(())
            }
            Err(_) if now.duration_since(since) > self.outage => Err(self.unreachable(open)),
            Err(_) => {
                let down_ms = now.duration_since(since).as_millis() as u64;
                tracing::warn!(source = self.source, down_ms, "no kafka broker answers, waiting");
                Ok(())
            }
        }
    }

    fn unreachable(&self, open: &Open) -> Error {
        let detail = match open.context.last_trouble() {
            Some(trouble) => trouble,
            None => format!("source `{}` waited for {} s", self.source, self.outage.as_secs()),
        };
        client::unreachable_error(&self.options.connection, &detail)
    }

    fn discovery(&self) -> Duration {
        let told = self.options.connection.properties.get("topic.metadata.refresh.interval.ms");
        let told = told.and_then(|value| value.expose().parse().ok()).filter(|ms| *ms > 0);
        told.map_or(DISCOVERY, Duration::from_millis)
    }

    /// Checks, while running, for another topic of the name and for added or lost partitions.
    fn discover(&self, open: &mut Open, now: Instant) -> Result<Option<Ended>> {
        if self.topic_changed(open) {
            return Ok(Some(Ended::TopicChanged));
        }
        let (known, committed) = {
            let state = self.shared.lock();
            let known: Vec<i32> = state.gathered.positions().map(|(partition, _)| partition).collect();
            (known, state.gathered.progress())
        };
        let partitions = match cluster::partitions(&open.consumer, &self.options.topic, open.context.redact()) {
            Ok(partitions) => partitions,
            Err(Attempt::Absent(_)) => Vec::new(),
            Err(_) => return Ok(None),
        };
        // librdkafka is silent when a topic is deleted; a single answer is not enough, because a broker's metadata may be
        // old.
        let lost = known.iter().find(|partition| !partitions.contains(partition));
        match (lost, open.lost_since) {
            (None, _) => open.lost_since = None,
            (Some(_), None) => {
                open.lost_since = Some(now);
                open.next_discovery = open.next_discovery.min(now + TOPIC_GRACE + HOUSEKEEPING);
            }
            (Some(partition), Some(since)) if now.duration_since(since) > TOPIC_GRACE => {
                return self.partition_gone(*partition).map(Some);
            }
            (Some(_), Some(_)) => {}
        }
        if self.from.bounded || partitions.iter().all(|partition| known.contains(partition)) {
            return Ok(None);
        }
        let progress = Progress { committed, topic: None };
        if let Ok(mut begins) = self.starts(open, &progress, &partitions, false) {
            begins.retain(|begin| !known.contains(&begin.partition));
            tracing::info!(source = self.source, topic = self.options.topic, added = begins.len(), "new partitions");
            self.begin(open, &begins)?;
        }
        Ok(None)
    }

    /// The start of each partition, from the brokers' current offsets.
    fn starts(
        &self,
        open: &Open,
        progress: &Progress,
        partitions: &[i32],
        begins_again: bool,
    ) -> Result<Vec<Begin>, Attempt> {
        let ask =
            |offset| cluster::offsets(&open.consumer, &self.options.topic, partitions, offset, open.context.redact());
        let (lows, highs) = (ask(KafkaOffset::Beginning)?, ask(KafkaOffset::End)?);
        let at_timestamp = match &self.options.starting_offsets {
            StartingOffsets::Timestamp(ms) => ask(KafkaOffset::Offset((*ms).max(0)))?,
            _ => BTreeMap::new(),
        };
        let missing = || Attempt::Retry("the brokers did not name every partition's offsets".to_owned());
        let mut ranges = BTreeMap::new();
        for partition in partitions {
            let low = lows.get(partition).copied().ok_or_else(missing)?;
            let high = highs.get(partition).copied().ok_or_else(missing)?;
            ranges.insert(*partition, Range { low, high });
        }
        start::decide(&Facts {
            source: &self.source,
            topic: &self.options.topic,
            ranges: &ranges,
            committed: &progress.committed,
            begins_again,
            starting: &self.options.starting_offsets,
            at_timestamp: &at_timestamp,
            on_data_loss: self.options.on_data_loss,
            bounded: self.from.bounded,
        })
        .map_err(Attempt::GiveUp)
    }

    /// Starts to fetch.
    fn begin(&self, open: &Open, begins: &[Begin]) -> Result<()> {
        let mut list = TopicPartitionList::new();
        let mut state = self.shared.lock();
        for begin in begins {
            state.gathered.begin(&self.options.topic, begin);
            if begin.stop_at.is_some_and(|end| begin.from >= end) {
                continue;
            }
            open.queue.feed_from(&self.topic, begin.partition)?;
            list.add_partition_offset(&self.options.topic, begin.partition, KafkaOffset::Offset(begin.from))
                .map_err(|error| Error::internal("offset was refused").with_detail(error.to_string()))?;
        }
        state.started = true;
        drop(state);
        self.shared.news.notify_one();
        open.consumer.incremental_assign(&list).map_err(|error| {
            Error::internal("partitions were not assigned").with_detail(open.context.redact().describe(&error))
        })
    }

    /// Stops fetching from these partitions.
    fn pause(&self, open: &Open, partitions: &[i32]) {
        if partitions.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.options.topic, *partition);
        }
        if let Err(error) = open.consumer.pause(&list) {
            tracing::debug!(source = self.source, error = open.context.redact().describe(&error), "not paused");
        }
    }

    /// Publishes the progress of commits for lag monitors; does not wait for the result.
    fn publish(&self, open: &Open, offsets: &Offsets) {
        let mut list = TopicPartitionList::new();
        for (id, offset) in offsets {
            let number = id.rsplit_once('/').and_then(|(_, number)| number.parse().ok());
            if let Some(number) = number {
                let _ = list.add_partition_offset(&self.options.topic, number, KafkaOffset::Offset(*offset));
            }
        }
        if let Err(error) = open.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(
                source = self.source,
                error = open.context.redact().describe(&error),
                "offsets not published"
            );
        }
    }

    /// Repeats `attempt` while the brokers cannot be reached. `None` if reading was stopped.
    fn wait_for<T>(&self, open: &Open, mut attempt: impl FnMut() -> Result<T, Attempt>) -> Result<Option<T>> {
        let since = self.env.instant();
        loop {
            if self.shared.lock().stop {
                return Ok(None);
            }
            let outcome = attempt();
            cluster::serve_events(&open.consumer);
            let waited = self.env.instant().duration_since(since);
            let reason = match outcome {
                Ok(value) => return Ok(Some(value)),
                Err(Attempt::GiveUp(error)) => return Err(error),
                Err(Attempt::Absent(error)) if waited > TOPIC_GRACE => return Err(error),
                Err(Attempt::Absent(error)) => error.message().to_owned(),
                Err(Attempt::Retry(reason)) => reason,
            };
            if let Some(refusal) = open.context.refused() {
                return Err(client::refused_error(&self.options.connection, &refusal));
            }
            if waited > self.outage {
                return Err(self.unreachable(open));
            }
            tracing::warn!(source = self.source, waited_ms = waited.as_millis() as u64, "kafka is not ready: {reason}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Wakes the reader when the thread ends, even by a panic.
struct EndGuard<'a>(&'a Shared);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if matches!(state.status, Status::Reading) {
            state.status = Status::Failed(Some(Error::internal("kafka reading thread ended early")));
        }
        drop(state);
        self.0.news.notify_one();
    }
}
