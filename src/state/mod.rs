//! Manifests: the immutable object that names everything an epoch needs to be resumed.

mod manifest;

pub use manifest::{CommitPermit, Epoch, Manifest, ManifestId, ManifestStore, OffsetRange, TableCommit};
