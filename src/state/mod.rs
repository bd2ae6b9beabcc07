//! Manifests, the immutable object that names everything an epoch needs to be resumed; and state, what operators remember.

mod key_group;
mod manifest;
mod table;

pub use key_group::{KEY_GROUPS, key_groups, shard_of};
pub use manifest::{CommitPermit, Epoch, Manifest, ManifestId, ManifestStore, OffsetRange, SourceTime, TableCommit};
pub use table::{NO_WATERMARK, StateChange, StateTable};
