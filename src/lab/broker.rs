//! A Kafka broker inside this process, for the demo and for tests: librdkafka's mock cluster on loopback.
//!
//! It keeps the newest 5 MiB or 100,000 record batches of a partition and drops the rest, keeps nothing when the process
//! ends, supports neither `read_committed` nor offsets by time, and drops offsets that transactions commit (so that an
//! exactly-once sink finds no committed epoch on it). Never for real data.

use std::sync::{Mutex, PoisonError};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::error::{Context, ErrorKind, Result};

/// A running broker; dropping it stops it.
pub struct Broker {
    cluster: Mutex<Cluster>,
    bootstrap_servers: String,
}

struct Cluster(MockCluster<'static, DefaultProducerContext>);

// SAFETY: librdkafka's mock cluster runs on its own thread and takes commands through a locked queue, from any thread; the
// binding lacks the marker only because it holds a raw pointer. The `Mutex` also serialises our use.
unsafe impl Send for Cluster {}

impl Broker {
    /// Starts a broker with these topics and their numbers of partitions.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self> {
        let cluster = MockCluster::new(1).environment(|| "embedded kafka broker could not be started".to_owned())?;
        let bootstrap_servers = cluster.bootstrap_servers();
        let broker = Self { cluster: Mutex::new(Cluster(cluster)), bootstrap_servers };
        for (topic, partitions) in topics {
            broker.create_topic(topic, *partitions)?;
        }
        Ok(broker)
    }

    /// `host:port` for `bootstrap_servers`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Adds a topic. Errors: it exists.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.with(|cluster| cluster.create_topic(topic, partitions, 1))
            .context(ErrorKind::Environment, || format!("topic `{topic}` could not be made on the embedded broker"))
    }

    /// Cuts all connections and refuses new ones, as a crash would.
    #[cfg(test)]
    pub fn go_down(&self) -> Result<()> {
        self.with(|cluster| cluster.broker_down(-1)).internal(|| "the embedded broker does not go down".to_owned())
    }

    /// Accepts connections again.
    #[cfg(test)]
    pub fn come_up(&self) -> Result<()> {
        self.with(|cluster| cluster.broker_up(-1)).internal(|| "the embedded broker does not come up".to_owned())
    }

    fn with<T>(&self, act: impl FnOnce(&MockCluster<'static, DefaultProducerContext>) -> T) -> T {
        act(&self.cluster.lock().unwrap_or_else(PoisonError::into_inner).0)
    }
}
