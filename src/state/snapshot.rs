//! The state of an operator at an epoch: plain data, part of the manifest.
//!
//! A snapshot names immutable files, oldest first. A row's newest version is in the newest file that holds its key; rows of
//! a file are dead when a newer file deletes or replaces them, or when their time is below the table's cutoff. So an epoch
//! adds at most one file per table, and the meaning of a snapshot never changes.

use serde::{Deserialize, Serialize};

use super::table::StateTable;
use crate::standing::Epoch;
use crate::time::{EventTime, Watermark};

/// The layout of snapshots and state files that this version writes, and the only one it reads.
pub const STATE_FORMAT: u32 = 1;

/// State of one operator at an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorSnapshot {
    /// [`STATE_FORMAT`].
    pub format: u32,
    /// The operator's fingerprint.
    pub operator: String,
    pub tables: Vec<TableSnapshot>,
}

/// State of one table at an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSnapshot {
    pub name: String,
    /// Oldest first.
    pub files: Vec<StateFile>,
    /// Rows with time below this are dead; [`Watermark::NONE`]: none are.
    pub cutoff: Watermark,
}

/// An immutable file of upserts and deletes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// Relative to the store's root.
    pub path: String,
    /// The epoch that was under way when it was written.
    pub epoch: Epoch,
    pub rows: u64,
    pub deletes: u64,
    /// The size of the object.
    pub bytes: u64,
    /// The size of the footer, which ends the object and holds the checksums of everything before it.
    pub footer: u64,
    /// XXH64 of the footer, hexadecimal.
    pub checksum: String,
    /// Smallest and greatest time of the rows; absent when the table has no time, or a row has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<(EventTime, EventTime)>,
}

/// Size of a table in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableUsage {
    pub table: String,
    pub files: usize,
    /// Versions of rows, live or dead.
    pub rows: u64,
    pub deletes: u64,
    pub bytes: u64,
    /// The newest epoch that changed it.
    pub changed: Option<Epoch>,
    /// No live row has a time below this, if the table has times.
    pub oldest: Option<EventTime>,
}

/// Size of every table of a snapshot in the store.
pub fn usage(snapshot: &OperatorSnapshot) -> Vec<TableUsage> {
    let table = |table: &TableSnapshot| TableUsage {
        table: table.name.clone(),
        files: table.files.len(),
        rows: table.files.iter().map(|file| file.rows).sum(),
        deletes: table.files.iter().map(|file| file.deletes).sum(),
        bytes: table.files.iter().map(|file| file.bytes).sum(),
        changed: table.files.iter().map(|file| file.epoch).max(),
        oldest: table
            .files
            .iter()
            .filter_map(|file| file.times)
            .map(|(oldest, _)| oldest.max(table.cutoff.time()))
            .min(),
    };
    snapshot.tables.iter().map(table).collect()
}

impl OperatorSnapshot {
    /// An operator without state.
    pub fn empty(operator: impl Into<String>) -> Self {
        Self { format: STATE_FORMAT, operator: operator.into(), tables: Vec::new() }
    }

    /// The table of that name; `None` when nothing was ever written to it.
    pub fn table(&self, name: &str) -> Option<&TableSnapshot> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The table of that name; created if missing.
    pub(super) fn table_mut(&mut self, name: &str) -> &mut TableSnapshot {
        let index = self.tables.iter().position(|table| table.name == name).unwrap_or_else(|| {
            self.tables.push(TableSnapshot { name: name.to_owned(), files: Vec::new(), cutoff: Watermark::NONE });
            self.tables.len() - 1
        });
        &mut self.tables[index]
    }

    /// Every file it names.
    pub fn files(&self) -> impl Iterator<Item = &StateFile> {
        self.tables.iter().flat_map(|table| &table.files)
    }
}

impl TableSnapshot {
    /// Drops files that hold only dead rows, except where that would bring rows of older files back to life.
    pub(super) fn drop_dead_files(&mut self, table: &StateTable) {
        let cutoff = self.cutoff;
        let dead = |file: &StateFile| file.rows == 0 || file.times.is_some_and(|(_, newest)| newest.is_below(cutoff));
        if table.append_only {
            self.files.retain(|file| !dead(file));
        } else {
            let dead = self.files.iter().take_while(|file| dead(file)).count();
            self.files.drain(..dead);
        }
    }
}
