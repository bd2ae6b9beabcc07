//! Decides whether a topic is still the one that offsets belong to: a pure decision over the identity recorded with them and
//! the one that brokers report.
//!
//! A topic that is deleted and created again has the same name and partitions, and its offsets start at 0 again: offsets of
//! the old one would skip that many records of the new one. The topic's id distinguishes the two. For brokers without ids
//! (before Kafka 2.8, Event Hubs) only the id of the cluster is compared: there, a topic that was created again is detected
//! only if it is shorter than the offsets read from the old one.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::client::{self, Context};
use super::describe::{self, Ask};
use super::shared::Shared;
use crate::error::{Context as _, Error, Result};
use crate::source::chunk::{Offset, Offsets, PartitionId, TopicIdentity, Witness};

/// The time limit for one request.
const PATIENCE: Duration = Duration::from_secs(2);
/// The number of requests before an epoch is committed unchecked.
const ATTEMPTS: u32 = 3;

/// The relation between two identities with the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing contradicts their being the same.
    Same,
    /// The same topic, in a cluster whose id has changed.
    Moved,
    /// Another topic: offsets of the one mean nothing in the other.
    Another,
}

/// Compares the topic for which offsets were recorded with the one that brokers report.
pub fn compare(known: &TopicIdentity, found: &TopicIdentity) -> Standing {
    // The option `topic` names a topic that was never read: its partitions have other names, and no offsets yet.
    let Some(known) = known.named(&found.topic) else { return Standing::Same };
    let moved = known.cluster.is_some() && found.cluster.is_some() && known.cluster != found.cluster;
    match (&known.id, &found.id) {
        (Some(known), Some(found)) if known != found => Standing::Another,
        (Some(_), Some(_)) if moved => Standing::Moved,
        (Some(_), Some(_)) => Standing::Same,
        _ if moved => Standing::Another,
        _ => Standing::Same,
    }
}

/// Requests the identity of the topic that has this name now. Errors: the reason why there is no answer.
pub fn ask(consumer: &BaseConsumer<Context>, topic: &str) -> Result<TopicIdentity, String> {
    let cluster = consumer.client().fetch_cluster_id(PATIENCE);
    let id = match &cluster {
        Some(cluster) if client::is_development(cluster) => None,
        _ => describe::topic(consumer, topic, Ask::Id, PATIENCE)?.id,
    };
    Ok(TopicIdentity { topic: topic.to_owned(), id, cluster, ..TopicIdentity::default() })
}

/// The brokers' answer about a topic that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Same,
    /// No topic has the name.
    Gone,
    Another(TopicIdentity),
    /// No answer, with the reason.
    Unknown(String),
}

impl Answer {
    /// True if all records read before the request are of the expected topic: no other has had its name since.
    pub fn proves(&self) -> bool {
        matches!(self, Self::Same | Self::Gone)
    }
}

/// Asks whether `expected` still has its name.
pub fn look(consumer: &BaseConsumer<Context>, expected: &TopicIdentity) -> Answer {
    match ask(consumer, &expected.topic) {
        Ok(found) if compare(expected, &found) == Standing::Another => Answer::Another(found),
        Ok(_) => Answer::Same,
        Err(why) if why.contains("Unknown topic") => Answer::Gone,
        Err(why) => Answer::Unknown(why),
    }
}

/// The identity to record from now on: the reported one, completed by the known one, with the topics that were read before.
pub fn merge(known: Option<&TopicIdentity>, found: TopicIdentity) -> TopicIdentity {
    let earlier = known.map(|known| known.others(&found.topic)).unwrap_or_default();
    let known = known.and_then(|known| known.named(&found.topic));
    TopicIdentity {
        earlier,
        id: found.id.or_else(|| known?.id.clone()),
        cluster: found.cluster.or_else(|| known?.cluster.clone()),
        topic: found.topic,
    }
}

/// The error for a topic that is not the one whose offsets were recorded; `lost` is the consequence for the records read.
pub fn recreated(source: &str, known: &TopicIdentity, found: &TopicIdentity, lost: &str) -> Error {
    let topic = &found.topic;
    let known = known.named(topic).unwrap_or(known);
    let shown = |id: &Option<String>| id.clone().unwrap_or_else(|| "unknown".to_owned());
    let error = match (&known.id, &found.id) {
        (Some(old), Some(new)) => Error::damaged(format!(
            "topic `{topic}` was created again: source `{source}` has read topic id {old}, and now it is {new}"
        )),
        _ => Error::damaged(format!(
            "topic `{topic}` is in another cluster: source `{source}` has read cluster {}, and now it is {}",
            shown(&known.cluster),
            shown(&found.cluster)
        )),
    };
    let (old, new) = (shown(&known.cluster), shown(&found.cluster));
    let cluster = if old == new { format!("cluster {new}") } else { format!("cluster {old}, now {new}") };
    error
        .with_detail(format!("{lost} ({cluster})"))
        .with_hint("Set `on_data_loss = 'continue'` on the source to read the new topic from its beginning, or point the source at the topic that it has read.")
}

/// The consequence if offsets were recorded.
pub const VOID: &str = "Offsets of the old topic mean nothing in the new one: to go on at them would skip records.";
/// The consequence if none were.
pub const UNCOMMITTED: &str =
    "Nothing of the old topic was committed: what was read of it is lost, unless it still exists elsewhere.";
/// The consequence if the open epoch may hold records of both topics.
const MIXED: &str = "It was created again within moments of being read, so that the open epoch may hold records of both topics: it was not committed.";

/// Checks, before an epoch is committed, that the records are of the topic for which its offsets are recorded: librdkafka
/// continues at the same offset when a topic is created again.
pub struct TopicWitness {
    pub source: String,
    pub shared: Arc<Shared>,
}

impl Witness for TopicWitness {
    fn check(&self, ends: Offsets) -> BoxFuture<'_, Result<Option<Error>>> {
        let (expected, consumer) = {
            let state = self.shared.lock();
            (state.topic.clone(), state.consumer.clone())
        };
        async move {
            let (Some(expected), Some(consumer)) = (expected, consumer) else { return Ok(None) };
            if expected.id.is_none() {
                return Ok(None);
            }
            let (source, shared) = (self.source.clone(), Arc::clone(&self.shared));
            let asked = tokio::task::spawn_blocking(move || judge(&source, &expected, &consumer, &shared, &ends)).await;
            asked.internal(|| "a question to the brokers ended abnormally".to_owned())?
        }
        .boxed()
    }
}

fn judge(
    source: &str,
    expected: &TopicIdentity,
    consumer: &BaseConsumer<Context>,
    shared: &Shared,
    ends: &Offsets,
) -> Result<Option<Error>> {
    for _ in 0..ATTEMPTS {
        match look(consumer, expected) {
            Answer::Another(found) => {
                let proven = {
                    let mut state = shared.lock();
                    state.changed = true;
                    state.proven.clone()
                };
                let is_proven = |(id, end): (&PartitionId, &Offset)| {
                    proven.get(id).is_some_and(|proven| proven >= end) || is_beyond(consumer, &found.topic, id, *end)
                };
                return match ends.iter().all(is_proven) {
                    true => Ok(Some(recreated(source, expected, &found, VOID))),
                    false => Err(recreated(source, expected, &found, MIXED)),
                };
            }
            Answer::Same | Answer::Gone => return Ok(None),
            Answer::Unknown(why) => tracing::debug!(source, "the topic's id is not told: {why}"),
        }
    }
    // If it was created again, the next start finds the recorded id changed and refuses.
    tracing::warn!(
        source,
        topic = expected.topic,
        "brokers do not answer: whether the topic is the same is not checked"
    );
    Ok(None)
}

/// `true` if the topic that has the name now is shorter than the offset read, so that the records were of the old one.
fn is_beyond(consumer: &BaseConsumer<Context>, topic: &str, id: &PartitionId, end: Offset) -> bool {
    let number = id.rsplit_once('/').and_then(|(_, number)| number.parse().ok());
    let high = number.and_then(|number| Some(consumer.fetch_watermarks(topic, number, PATIENCE).ok()?.1));
    high.is_some_and(|high| high < end)
}

impl Drop for TopicWitness {
    fn drop(&mut self) {
        let consumer = self.shared.lock().consumer.take();
        // Closing a consumer waits for its threads: not on this thread.
        let _handle = std::thread::Builder::new().spawn(move || drop(consumer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(id: Option<&str>, cluster: Option<&str>) -> TopicIdentity {
        TopicIdentity {
            topic: "t".to_owned(),
            id: id.map(str::to_owned),
            cluster: cluster.map(str::to_owned),
            earlier: Vec::new(),
        }
    }

    #[test]
    fn ids_decide_and_clusters_where_there_are_none() {
        let cases = [
            ((Some("a"), Some("c")), (Some("a"), Some("c")), Standing::Same),
            ((Some("a"), Some("c")), (Some("b"), Some("c")), Standing::Another),
            ((Some("a"), Some("c")), (Some("a"), Some("d")), Standing::Moved),
            ((Some("a"), Some("c")), (Some("b"), Some("d")), Standing::Another),
            ((None, Some("c")), (Some("b"), Some("c")), Standing::Same),
            ((Some("a"), Some("c")), (None, Some("c")), Standing::Same),
            ((Some("a"), Some("c")), (None, Some("d")), Standing::Another),
            ((None, Some("c")), (None, Some("d")), Standing::Another),
            ((None, None), (Some("b"), Some("d")), Standing::Same),
            ((None, None), (None, None), Standing::Same),
        ];
        for (known, found, expected) in cases {
            assert_eq!(compare(&topic(known.0, known.1), &topic(found.0, found.1)), expected, "{known:?} {found:?}");
        }
        let other = TopicIdentity { topic: "other".to_owned(), ..topic(Some("b"), Some("d")) };
        assert_eq!(compare(&topic(Some("a"), Some("c")), &other), Standing::Same, "a new name is a new topic");
    }

    #[test]
    fn what_brokers_do_not_tell_stays_known() {
        let known = topic(Some("a"), Some("c"));
        assert_eq!(merge(Some(&known), topic(None, Some("c"))), known);
        assert_eq!(merge(None, topic(None, Some("c"))), topic(None, Some("c")));
        let other = TopicIdentity { topic: "other".to_owned(), ..TopicIdentity::default() };
        let merged = merge(Some(&known), other.clone());
        assert_eq!(merged, TopicIdentity { earlier: vec![known], ..other });
    }

    #[test]
    fn a_topic_that_is_read_again_is_compared_with_what_it_was() {
        let (a, b) =
            (topic(Some("a"), Some("c")), TopicIdentity { topic: "u".to_owned(), ..topic(Some("b"), Some("c")) });
        let then = merge(Some(&a), b.clone());
        assert_eq!(compare(&then, &a), Standing::Same);
        assert_eq!(compare(&then, &topic(Some("z"), Some("c"))), Standing::Another);
        assert!(recreated("s", &then, &topic(Some("z"), None), VOID).message().contains("has read topic id a"));
        let back = merge(Some(&then), a.clone());
        assert_eq!(back, TopicIdentity { earlier: vec![b], ..a.clone() });
        // Older versions recorded a single topic.
        let old: TopicIdentity = serde_json::from_str(r#"{"topic":"t","id":"a","cluster":"c"}"#).unwrap();
        assert_eq!(old, a);
    }

    #[test]
    fn the_error_names_both_topics_and_what_to_do() {
        let error = recreated("s", &topic(Some("a"), Some("c")), &topic(Some("b"), Some("c")), VOID);
        assert_eq!(error.message(), "topic `t` was created again: source `s` has read topic id a, and now it is b");
        assert!(error.hint().unwrap().contains("on_data_loss"));
        let error = recreated("s", &topic(None, Some("c")), &topic(None, Some("d")), VOID);
        assert!(error.message().ends_with("has read cluster c, and now it is d"), "{error}");
    }
}
