//! The numbers that name an epoch and the manifest that it is committed under, and the right to commit it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of an epoch: 1, 2, 3 … per pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells two manifests of one epoch apart; random, never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ManifestId(pub i64);

impl fmt::Display for ManifestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// An epoch of a sink, and the manifest under which it was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Standing {
    pub epoch: Epoch,
    pub manifest: ManifestId,
}

/// The right to commit an epoch to its sinks: proof that the epoch's manifest is durable. No table and no topic takes an epoch
/// without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitPermit(Standing);

impl CommitPermit {
    /// For a manifest that was made durable, or read back. Only `state::ManifestStore` calls it (`tests/it/architecture.rs`).
    pub fn of_durable(epoch: Epoch, manifest: ManifestId) -> Self {
        Self(Standing { epoch, manifest })
    }

    /// The epoch that may be committed.
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// The manifest that holds the commits.
    pub fn manifest(&self) -> ManifestId {
        self.0.manifest
    }

    /// Both.
    pub fn standing(&self) -> Standing {
        self.0
    }
}
