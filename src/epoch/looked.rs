//! One sink's part of the facts: what a table's log, or Kafka's record, says of a pipeline's epochs.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::protocol::{Held, Role, SinkFact, SinkKind};
use super::standings::KAFKA;
use crate::delta::{AppId, Contents, LoggedEpoch, PipelinePast, Table};
use crate::error::Result;
use crate::state::{Epoch, ManifestId, Standing};

/// A table and what its log shows.
pub struct Looked {
    pub location: String,
    pub past: PipelinePast,
    /// The pipeline's `txn` actions.
    pub transactions: BTreeMap<String, i64>,
}

impl Looked {
    /// Looks at a table that is at `location`.
    pub async fn at(location: &str, table: &Table, pipeline: &str) -> Result<Self> {
        let transactions = table.transactions(AppId::PREFIX).await?;
        let past = table.past(pipeline, &transactions).await?;
        Ok(Self { location: location.to_owned(), past, transactions })
    }

    /// The facts so far: a role comes from the newest epoch's manifest.
    pub fn fact(&self, name: &str) -> SinkFact {
        let held = match self.past.contents {
            Contents::Unknown => Held::Unknown,
            Contents::UpTo(epoch) => epoch.and_then(standing).map_or(Held::Nothing, Held::UpTo),
        };
        fact(name, held, self.past.recorded.and_then(standing))
    }

    /// The value of this name in the commit of `epoch`, if that is what the table holds.
    pub fn told<T: DeserializeOwned>(&self, epoch: Standing, name: &str) -> Option<T> {
        let Contents::UpTo(Some(held)) = self.past.contents else { return None };
        let info = self.past.info.as_ref().filter(|_| standing(held) == Some(epoch))?;
        serde_json::from_value(info["weir"][name].clone()).ok()
    }
}

/// The facts of the Kafka sinks so far.
pub fn kafka_fact(committed: Option<(u64, i64)>) -> SinkFact {
    let held = match committed {
        None => Held::Unknown,
        Some((0, _)) => Held::Nothing,
        Some((epoch, manifest)) => Held::UpTo(Standing { epoch: Epoch(epoch), manifest: ManifestId(manifest) }),
    };
    SinkFact { kind: SinkKind::Kafka, ..fact(KAFKA, held, None) }
}

fn fact(name: &str, held: Held, recorded: Option<Standing>) -> SinkFact {
    SinkFact {
        sink: name.to_owned(),
        kind: SinkKind::Table,
        held,
        recorded,
        role: Role::Joins { moved: false },
        files_exist: true,
        log_is_behind: false,
    }
}

/// Epoch 0 says that a table was taken back to before its first epoch. An epoch without a manifest names none that exists.
fn standing((epoch, manifest): LoggedEpoch) -> Option<Standing> {
    let epoch = u64::try_from(epoch).ok().filter(|epoch| *epoch > 0)?;
    Some(Standing { epoch: Epoch(epoch), manifest: ManifestId(manifest.unwrap_or(-1)) })
}
