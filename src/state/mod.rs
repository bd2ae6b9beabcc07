//! Manifests, the immutable objects that name everything needed to resume an epoch; and the state of operators.

mod key_group;
mod table;
mod interleave;
mod scatter;
mod views;
mod keyed;
mod manifest;
mod snapshot;
mod newest;
mod pins;
mod file;
mod store;
mod compaction;
mod background;
mod budget;
mod spill;
#[cfg(test)]
mod tests;

pub use crate::standing::Epoch;
pub(crate) use crate::standing::{CommitPermit, ManifestId, Standing};
pub(crate) use background::Background;
pub(crate) use budget::{MemoryBudget, MemoryShare, Pressure};
pub(crate) use compaction::Compaction;
pub(crate) use interleave::interleave_rows;
pub(crate) use key_group::{KEY_GROUPS, groups_of};
pub use key_group::{key_groups, shard_of, split};
pub(crate) use keyed::{KeySlots, KeyedChanges, KeyedTable};
pub(crate) use manifest::{Manifest, ManifestStore, OffsetRange, SinkRecord, SourceTime, TableCommit, TablePlace};
pub(crate) use newest::{Newest, Older};
pub(crate) use pins::Pins;
pub(crate) use snapshot::StateFile;
pub use snapshot::{OperatorSnapshot, usage};
pub(crate) use spill::{SpillFolder, SpillStore};
pub use store::StateStore;
pub use table::{KeyEquality, StateChange, StateTable};
pub(crate) use views::compact_views;
