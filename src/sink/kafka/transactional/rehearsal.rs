//! Finds the messages of an epoch that are too large, all at once. The size of compressed messages is known only to the
//! brokers, and a transaction reports only the first few.

use std::collections::{BTreeMap, BTreeSet};

use super::{Failure, Inner, MAX_ATTEMPTS, Message, NUMBER_BITS, PATIENCE, TopicMessages, number_of};
use crate::error::Result;
use rdkafka::producer::Producer;

/// Messages that a rehearsal has in flight at a time: more than a client has requests in flight.
const REHEARSED: usize = 64;

impl Inner {
    /// Finds all others that are too large, so that the epoch need not be tried again for each. Sends messages that are
    /// alone in their batches in transactions that are undone, until the brokers have judged all. Those that time does not
    /// allow for show at the next commit.
    pub(super) fn rehearse(
        &self,
        messages: &[TopicMessages],
        suspects: &BTreeSet<usize>,
        guilty: &mut BTreeMap<usize, BTreeSet<usize>>,
    ) -> Result<()> {
        let mut open: BTreeMap<usize, Message<'_>> = BTreeMap::new();
        for (index, of_topic) in messages.iter().enumerate() {
            let limits = self.limits();
            let is_open = |number, message| suspects.contains(&number) || limits.is_alone(message, 0);
            let numbered = of_topic.iter().map(|(position, message)| (number_of(index, position), message));
            open.extend(numbered.filter(|(number, message)| is_open(*number, *message)));
        }
        let order = self.order(&open);
        let deadline = self.env.instant() + PATIENCE;
        let mut in_vain = 0;
        loop {
            let before = open.len();
            let limits = self.limits();
            open.retain(|number, message| {
                let is_guilty =
                    guilty.get(&(number >> NUMBER_BITS)).is_some_and(|of| of.contains(&position_of(*number)));
                !is_guilty && limits.excess(topic_of(messages, *number), *message, 0).is_none()
            });
            drop(limits);
            if open.is_empty() || in_vain == MAX_ATTEMPTS || self.env.instant() >= deadline {
                return Ok(());
            }
            let refused = self.rehearsal(messages, &order, &mut open)?;
            for (index, positions) in self.guilty(messages, &refused, &refused) {
                guilty.entry(index).or_default().extend(positions);
            }
            in_vain = if refused.is_empty() && open.len() == before { in_vain + 1 } else { 0 };
        }
    }

    /// The order in which messages are tried, chosen so that few transactions have to be undone. Uncompressed, the smallest
    /// come first: once one is refused, all later ones are too large. Compressed, those that will be the largest come first:
    /// a few are in flight at a time, and if all of them are refused, all are found at once.
    fn order(&self, open: &BTreeMap<usize, Message<'_>>) -> Vec<usize> {
        let limits = self.limits();
        let mut order: Vec<(i64, usize)> =
            open.iter().map(|(number, message)| (limits.place(*message, 0), *number)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, number)| number).collect()
    }

    /// Sends these messages, each in a batch of its own, until one is refused, then undoes the transaction. Removes the
    /// accepted messages from `open` and returns the numbers of those that were too large.
    fn rehearsal(
        &self,
        messages: &[TopicMessages],
        order: &[usize],
        open: &mut BTreeMap<usize, Message<'_>>,
    ) -> Result<BTreeSet<usize>> {
        let began = self.env.instant();
        let deadline = began + PATIENCE;
        self.forget_reports();
        self.context().watch_deliveries();
        let send = || -> Result<(), Failure> {
            let numbered = order.iter().filter_map(|number| open.get_key_value(number));
            for (sent, (number, message)) in numbered.enumerate() {
                let is_alone = self.limits().is_alone(*message, 0);
                if !is_alone || sent % REHEARSED == REHEARSED - 1 {
                    self.settle()?;
                }
                self.produce_one(topic_of(messages, *number), *message, *number, deadline)?;
                if !is_alone {
                    self.settle()?;
                }
            }
            self.settle()
        };
        let (why, too_large) =
            match self.persist("begin a transaction", || self.producer.begin_transaction()).and_then(|()| send()) {
                Ok(()) => (String::new(), None),
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Abort(why)) => (why, None),
                Err(Failure::TooLarge(number)) => (String::new(), Some(number)),
            };
        self.undo("try which messages are too large", &why)?;
        let lasted = self.env.instant().duration_since(began);
        let delivered = BTreeSet::from_iter(self.context().take_delivered());
        open.retain(|number, _| !delivered.contains(number));
        let mut refused: BTreeSet<usize> =
            self.context().take_too_large().iter().map(|message| message.number).collect();
        refused.extend(too_large);
        self.forget_reports();
        tracing::debug!(
            pipeline = self.pipeline,
            refused = refused.len(),
            taken = delivered.len(),
            ?lasted,
            "tried messages for their size"
        );
        Ok(refused)
    }
}

/// The position of the message with this number in its topic's messages.
fn position_of(number: usize) -> usize {
    number & ((1 << NUMBER_BITS) - 1)
}

/// The topic of the message with this number.
fn topic_of(messages: &[TopicMessages], number: usize) -> &str {
    messages.get(number >> NUMBER_BITS).map_or("", |of_topic| &of_topic.topic)
}
