//! Checks that the records of a session are still of one topic: at its start, after pauses, and periodically.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::identity::{self, Answer, Standing};
use super::{Ended, HOUSEKEEPING, Open, Progress, QUIET, Session, TOPIC_GRACE};
use crate::catalog::OnDataLoss;
use crate::error::Result;
use crate::source::chunk::TopicIdentity;

/// The least interval between checks while records arrive without a pause.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The wait before the next check if the brokers did not answer.
const LOOK_LATER: Duration = Duration::from_secs(10);

impl Session {
    /// Determines whether the topic is the one of `progress`; returns true if it is another and is read from its beginning.
    ///
    /// Errors: it is another, and `on_data_loss = 'fail'`.
    pub(super) fn identify(&self, open: &Open, progress: &mut Progress) -> Result<bool> {
        let since = self.env.instant();
        let found = loop {
            match identity::ask(&open.consumer, &self.options.topic) {
                Ok(found) => break found,
                Err(why) if self.shared.lock().stop || self.env.instant().duration_since(since) > TOPIC_GRACE => {
                    tracing::warn!(source = self.source, "whether the topic is the same is not known: {why}");
                    break TopicIdentity { topic: self.options.topic.clone(), ..TopicIdentity::default() };
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        let standing = progress.topic.as_ref().map_or(Standing::Same, |known| identity::compare(known, &found));
        let begins_again = match (&progress.topic, standing) {
            (Some(known), Standing::Another) => {
                let lost = if progress.committed.is_empty() { identity::UNCOMMITTED } else { identity::VOID };
                let error = identity::recreated(&self.source, known, &found, lost);
                if self.options.on_data_loss == OnDataLoss::Fail {
                    return Err(error);
                }
                tracing::warn!(source = self.source, "{error}; it is read from its beginning");
                true
            }
            (Some(known), Standing::Moved) => {
                let (old, new) = (known.cluster.as_deref(), found.cluster.as_deref());
                tracing::warn!(source = self.source, old, new, "the topic is the same, its cluster has another id");
                false
            }
            _ => false,
        };
        if begins_again {
            self.wait_until_taken();
            progress.committed.clear();
        }
        let topic = match (&progress.topic, begins_again) {
            (Some(known), true) => TopicIdentity { earlier: known.others(&found.topic), ..found },
            (known, _) => identity::merge(known.as_ref(), found),
        };
        progress.topic = Some(topic.clone());
        let mut state = self.shared.lock();
        if begins_again {
            state.gathered.forget();
            state.proven.clear();
        }
        state.topic = Some(topic);
        if self.options.on_data_loss == OnDataLoss::Fail {
            state.consumer = Some(Arc::clone(&open.consumer));
        }
        Ok(begins_again)
    }

    /// Waits until the pipeline has taken the records of a topic that was deleted.
    fn wait_until_taken(&self) {
        loop {
            let state = self.shared.lock();
            if state.stop || !state.gathered.has_chunks() {
                return;
            }
            drop(state);
            self.shared.news.notify_one();
            std::thread::sleep(HOUSEKEEPING);
        }
    }

    /// `true` if another topic has the name now; `false` if the brokers do not answer or give no ids.
    pub(super) fn topic_changed(&self, open: &mut Open) -> bool {
        let (known, read) = {
            let state = self.shared.lock();
            (state.topic.clone().filter(|known| known.id.is_some()), state.gathered.progress())
        };
        open.last_look = self.env.instant();
        open.next_look = open.last_look + LOOK_EVERY;
        let Some(known) = known else { return false };
        let answer = identity::look(&open.consumer, &known);
        if answer.proves() {
            self.shared.lock().proven = read;
            open.unproven = false;
        } else if let Answer::Unknown(why) = &answer {
            tracing::debug!(source = self.source, "the topic's id is not told: {why}");
            open.next_look = self.env.instant() + LOOK_LATER;
        }
        matches!(answer, Answer::Another(_))
    }

    /// If a topic that is created again ends the run, the records read before are committed first, so it has to be known
    /// which these are. Checks the topic's id as soon as no more records arrive, and else every second.
    pub(super) fn prove(&self, open: &mut Open, now: Instant) -> Option<Ended> {
        if std::mem::take(&mut self.shared.lock().changed) {
            return Some(Ended::TopicChanged);
        }
        let quiet = now.duration_since(open.last_event) > QUIET && open.last_look < open.last_event;
        let wanted = open.unproven && self.options.on_data_loss == OnDataLoss::Fail;
        (wanted && (quiet || now >= open.next_look) && self.topic_changed(open)).then_some(Ended::TopicChanged)
    }
}
