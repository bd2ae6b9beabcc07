//! The epoch that each sink of a running pipeline holds; written into every manifest and every commit, so that a
//! start can tell a sink that has nothing to catch up on from one that has lost something.

use crate::run::sinks::Sinks;
use crate::state::{SinkRecord, Standing, TablePlace};

/// The name of all exactly-once Kafka sinks together, in records.
pub const KAFKA: &str = "kafka";

/// The last epoch of each sink in which it took part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standings {
    pub kafka: Option<Standing>,
    /// In the order of [`Sinks::tables`].
    pub tables: Vec<Option<Standing>>,
}

impl Standings {
    /// The records of all sinks for the manifest of the next epoch, in commit order. `takes_part` tells which tables the epoch
    /// has something for.
    pub async fn records(&self, sinks: &Sinks, takes_part: impl Fn(usize) -> bool) -> Vec<SinkRecord> {
        let mut records = Vec::with_capacity(sinks.tables.len() + 1);
        if sinks.transaction.is_some() {
            records.push(SinkRecord { name: KAFKA.to_owned(), table: None, before: self.kafka, takes_part: true });
        }
        for (index, sink) in sinks.tables.iter().enumerate() {
            let place = TablePlace {
                location: sink.location.clone(),
                path: sinks.home.path_of(&sink.location),
                version: sink.table.version().await,
                id: sink.table.id(),
            };
            records.push(SinkRecord {
                name: sink.name.clone(),
                table: Some(place),
                before: self.tables.get(index).copied().flatten(),
                takes_part: takes_part(index),
            });
        }
        records
    }

    /// Notes that `epoch` is committed everywhere. `takes_part` as in [`Standings::records`].
    pub fn advance(&mut self, epoch: Standing, sinks: &Sinks, takes_part: impl Fn(usize) -> bool) {
        if sinks.transaction.is_some() {
            self.kafka = Some(epoch);
        }
        self.tables.resize(sinks.tables.len(), None);
        for (_, table) in self.tables.iter_mut().enumerate().filter(|(index, _)| takes_part(*index)) {
            *table = Some(epoch);
        }
    }
}
