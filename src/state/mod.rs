//! Manifests, the immutable object that names everything an epoch needs to be resumed; and state, what operators remember.

mod key_group;
mod keyed;
mod manifest;
mod table;

pub use keyed::{KeyIndex, KeyedChanges, KeyedTable};
pub use key_group::{KEY_GROUPS, key_groups, shard_of};
pub use manifest::{CommitPermit, Epoch, Manifest, ManifestId, ManifestStore, OffsetRange, TableCommit};
pub use table::{NO_WATERMARK, StateChange, StateTable};
