//! One pipeline's progress in a table's log: the recorded epoch, and the epoch that the table really holds.
//!
//! The two differ after a Delta RESTORE: it brings back the files of an older version and leaves `txn` actions as they are.
//! So the log is followed backwards, through every RESTORE, to the commit that wrote what the table holds now.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::DateTime;
use deltalake::DeltaTable;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use super::judge::{Entry, PipelineTxns, RestoredTo};
use super::log::{read_entry, transactions_at};
use super::store::TableStore;
use super::table::Table;
use crate::error::{Error, Result};

/// Log entries that are read at a time.
const READ_AHEAD: u64 = 16;

/// RESTOREs that are followed before the table counts as unknown.
const MAX_RESTORES: usize = 100;

/// An epoch and the id of its manifest; without an id its `txn` action is missing.
pub type LoggedEpoch = (i64, Option<i64>);

/// The extent of one pipeline's rows in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Everything up to this epoch; `None` before the first.
    UpTo(Option<LoggedEpoch>),
    /// A RESTORE names a version that the log no longer describes.
    Unknown,
}

/// One pipeline's past in a table.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelinePast {
    /// The table's newest version.
    pub version: u64,
    /// The epoch in the `txn` actions.
    pub recorded: Option<LoggedEpoch>,
    pub contents: Contents,
    /// The `userMetadata` of the commit of the contents' epoch; `None` once its log entry is gone.
    pub info: Option<Value>,
}

/// The newest log entry, at or before some version, that concerns a pipeline's contents.
pub(super) enum Landmark {
    /// A commit of the pipeline.
    Own {
        version: u64,
        entry: Entry,
        bytes: Bytes,
    },
    Restore {
        version: u64,
        to: RestoredTo,
    },
    /// The log begins, with neither.
    Beginning,
    /// The log is cut off: this entry was removed.
    CutOff {
        version: u64,
    },
}

impl Table {
    /// The past of `pipeline`; `transactions` are those that [`Table::transactions`] has just read.
    pub async fn past(&self, pipeline: &str, transactions: &BTreeMap<String, i64>) -> Result<PipelinePast> {
        let version = self.version().await;
        let recorded = logged_epoch(pipeline, |id| transactions.get(id).copied());
        let mut past = PipelinePast { version, recorded, contents: Contents::UpTo(recorded), info: None };
        if recorded.is_none() {
            return Ok(past);
        }
        let (mut from, mut restored) = (version, false);
        for _ in 0..MAX_RESTORES {
            match landmark(self.store(), pipeline, from).await? {
                Landmark::Own { entry, bytes, .. } => {
                    past.contents = Contents::UpTo(logged_epoch(pipeline, |id| entry.txn(id)));
                    past.info = user_metadata(&bytes);
                    return Ok(past);
                }
                Landmark::Restore { version, to } => {
                    let Some(target) = self.target(to).await?.filter(|target| *target < version) else { break };
                    (from, restored) = (target, true);
                }
                Landmark::Beginning => {
                    past.contents = if restored { Contents::UpTo(None) } else { past.contents };
                    return Ok(past);
                }
                Landmark::CutOff { .. } if !restored => return Ok(past),
                Landmark::CutOff { version } => {
                    let Ok(then) = transactions_at(self.store(), self.name(), version).await else { break };
                    past.contents = Contents::UpTo(logged_epoch(pipeline, |id| then.get(id).copied()));
                    return Ok(past);
                }
            }
        }
        past.contents = Contents::Unknown;
        Ok(past)
    }

    /// The version that a RESTORE went back to, if it can be told.
    async fn target(&self, to: RestoredTo) -> Result<Option<u64>> {
        let ms = match to {
            RestoredTo::Version(version) => return Ok(Some(version)),
            RestoredTo::Unclear => return Ok(None),
            RestoredTo::Time(ms) => ms,
        };
        let Some(moment) = DateTime::from_timestamp_millis(ms) else { return Ok(None) };
        let mut table = DeltaTable::new(self.store().log_store());
        Ok(match table.load_with_datetime(moment).await {
            Ok(()) => table.version(),
            Err(_) => None,
        })
    }
}

/// Looks for the pipeline's last landmark at or before version `from`.
pub(super) async fn landmark(store: &TableStore, pipeline: &str, from: u64) -> Result<Landmark> {
    let epoch = PipelineTxns::epoch_app_id(pipeline);
    let mut next = Some(from);
    // The newest entry is the one that is looked for, most of the time.
    let mut count = 1;
    while let Some(last) = next {
        let first = last.saturating_sub(count - 1);
        let read = |version| async move { Ok::<_, Error>((version, read_entry(store, version).await?)) };
        let mut entries = stream::iter((first..=last).rev()).map(read).buffered(READ_AHEAD as usize);
        while let Some((version, bytes)) = entries.try_next().await? {
            let Some(bytes) = bytes else { return Ok(Landmark::CutOff { version }) };
            let entry = Entry::parse(version, &bytes)?;
            if entry.txn(&epoch).is_some() {
                return Ok(Landmark::Own { version, entry, bytes });
            }
            if let Some(to) = entry.restore {
                return Ok(Landmark::Restore { version, to });
            }
        }
        (next, count) = (first.checked_sub(1), READ_AHEAD);
    }
    Ok(Landmark::Beginning)
}

/// The epoch and manifest of a pipeline among `txn` actions.
pub fn logged_epoch(pipeline: &str, version_of: impl Fn(&str) -> Option<i64>) -> Option<LoggedEpoch> {
    let epoch = version_of(&PipelineTxns::epoch_app_id(pipeline))?;
    Some((epoch, version_of(&PipelineTxns::manifest_app_id(pipeline))))
}

/// The `userMetadata` of a commit by weir.
fn user_metadata(entry: &[u8]) -> Option<Value> {
    let lines = entry.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let info = lines.map(|mut line| line["commitInfo"].take()).find(|info| !info.is_null())?;
    serde_json::from_str(info["userMetadata"].as_str()?).ok()
}
