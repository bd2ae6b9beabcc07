//! The state shared by a source's reading thread and its reader.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use tokio::sync::Notify;

use super::client::Context;
use super::gather::{Gathered, Wants};
use crate::error::Error;
use crate::source::chunk::{Offsets, TopicIdentity};

/// The longest wait for room.
const WAIT: Duration = Duration::from_millis(50);

/// The state shared by the reading thread and the reader.
pub struct Shared {
    state: Mutex<State>,
    /// Wakes the reading thread, which waits for room or commands.
    orders: Condvar,
    /// Wakes the reader, which waits for records or the end.
    pub news: Notify,
}

/// See [`Shared`].
pub struct State {
    pub gathered: Gathered,
    pub status: Status,
    /// Committed offsets to be published for lag monitors.
    pub publish: Option<Offsets>,
    pub stop: bool,
    /// Partitions that are not fetched for now.
    pub hold: Vec<i32>,
    /// `true` once the starting offsets are determined.
    pub started: bool,
    /// The arrival of the oldest gathered record.
    pub first_came: Option<Instant>,
    /// The topic that is read.
    pub topic: Option<TopicIdentity>,
    /// Offsets up to which all records are known to be of that topic.
    pub proven: Offsets,
    /// `true` if a witness has found that another topic has its name now.
    pub changed: bool,
    /// The session's consumer, for other requests; it stays when the session has ended.
    pub consumer: Option<Arc<BaseConsumer<Context>>>,
    /// The time of the brokers' last answer, initially the start of reading; `None` if it is not measured.
    pub heard: Option<Instant>,
}

/// The status of the reading thread.
pub enum Status {
    Reading,
    Finished,
    /// The error, until it was returned.
    Failed(Option<Error>),
}

impl Shared {
    pub fn new(wants: Wants, heard: Option<Instant>) -> Self {
        let state = State {
            gathered: Gathered::new(wants),
            status: Status::Reading,
            publish: None,
            stop: false,
            started: false,
            first_came: None,
            hold: Vec::new(),
            topic: None,
            proven: Offsets::new(),
            changed: false,
            consumer: None,
            heard,
        };
        Self { state: Mutex::new(state), orders: Condvar::new(), news: Notify::new() }
    }

    /// The locked state.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the brokers have answered at `at`, or were not asked anything.
    pub fn hear(&self, at: Instant) {
        let mut state = self.lock();
        state.heard = state.heard.map(|heard| heard.max(at));
    }

    /// Wakes the reading thread.
    pub fn order(&self) {
        self.orders.notify_all();
    }

    /// Waits a short time for room; returns the number of records for which there is room.
    pub fn wait_for_room(&self) -> usize {
        let state = self.lock();
        if state.stop || state.gathered.room() > 0 {
            return state.gathered.room();
        }
        let (state, _) = self.orders.wait_timeout(state, WAIT).unwrap_or_else(PoisonError::into_inner);
        state.gathered.room()
    }
}
