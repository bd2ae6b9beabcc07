//! Manifests, the immutable objects that name everything needed to resume an epoch; and the state of operators.

mod key_group;
mod table;
mod interleave;
mod scatter;
mod views;
mod keyed;
mod standing;
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

pub use background::Background;
pub use budget::{MemoryBudget, MemoryShare, Pressure};
pub use compaction::Compaction;
pub use interleave::interleave_rows;
pub use key_group::{KEY_GROUPS, groups_of, key_groups, shard_of, split};
pub use keyed::{KeyIndex, KeyedChanges, KeyedTable};
pub use manifest::{
    CommitPermit, Manifest, ManifestStore, OffsetRange, SinkRecord, SourceTime, TableCommit, TablePlace,
};
pub use newest::{Newest, Older};
pub use pins::Pins;
pub use snapshot::{OperatorSnapshot, STATE_FORMAT, StateFile, TableSnapshot, TableUsage, usage};
pub use spill::{SpillFolder, SpillStore};
pub use standing::{Epoch, ManifestId, Standing};
pub use store::StateStore;
pub use table::{NO_WATERMARK, StateChange, StateTable};
pub use views::compact_views;
