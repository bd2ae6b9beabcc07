//! Where a source's reading thread and its reader meet.

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

/// What the reading thread and the reader share.
pub struct Shared {
    state: Mutex<State>,
    /// The reading thread waits here for room or orders.
    orders: Condvar,
    /// The reader waits here for records or the end.
    pub news: Notify,
}

/// See [`Shared`].
pub struct State {
    pub gathered: Gathered,
    pub status: Status,
    /// Committed offsets to be published for lag monitors.
    pub publish: Option<Offsets>,
    pub stop: bool,
    /// Partitions that are not to be fetched for now.
    pub hold: Vec<i32>,
    /// Starts have been decided.
    pub started: bool,
    /// When the oldest of what is gathered came.
    pub first_came: Option<Instant>,
    /// The topic that is read.
    pub topic: Option<TopicIdentity>,
    /// Up to here everything that was read is known to be of that topic.
    pub proven: Offsets,
    /// Somebody else has found out that another topic has its name now.
    pub changed: bool,
    /// The session's, for questions beside the reading; it stays when the session has ended.
    pub consumer: Option<Arc<BaseConsumer<Context>>>,
    /// When the brokers answered last, at first when reading began; `None`: nobody looks.
    pub heard: Option<Instant>,
}

/// How the reading thread fares.
pub enum Status {
    Reading,
    Finished,
    /// The error, until it has been handed out.
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

    /// The state, locked.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the brokers have answered, or had nothing to answer, at `at`.
    pub fn hear(&self, at: Instant) {
        let mut state = self.lock();
        state.heard = state.heard.map(|heard| heard.max(at));
    }

    /// Wakes the reading thread.
    pub fn order(&self) {
        self.orders.notify_all();
    }

    /// Waits until there is room for records (how many), or a while (0).
    pub fn wait_for_room(&self) -> usize {
        let state = self.lock();
        if state.stop || state.gathered.room() > 0 {
            return state.gathered.room();
        }
        let (state, _) = self.orders.wait_timeout(state, WAIT).unwrap_or_else(PoisonError::into_inner);
        state.gathered.room()
    }
}
