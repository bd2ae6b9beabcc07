//! Keeps a table's log short: checkpoints and the removal of expired entries, outside of commits.
//!
//! Promises: safe beside commits and beside other maintainers, and at whatever moment the process dies: a checkpoint only
//! repeats what the log says, its pointer is written after it, and entries go only when a checkpoint covers them.
//! Rewriting small files is left to others.

use std::time::Duration;

use deltalake::checkpoints::cleanup_expired_logs_for;
use deltalake::table::config::TablePropertiesExt;

use super::log::{KernelTable, with_snapshot};
use super::table::Table;
use crate::error::{Context, Result};

/// When the log is tended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaintenancePolicy {
    /// Commits after which a checkpoint is due.
    pub checkpoint_every: u64,
    /// Removal of expired log entries after a checkpoint.
    pub cleanup: Cleanup,
    /// Deletion, before a checkpoint drops their tombstones, of files removed over `delta.deletedFileRetentionDuration` ago.
    pub removed_files: Cleanup,
}

/// Handling of what is past the table's retention; for log entries, `delta.logRetentionDuration` (30 days).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// They are removed, unless the table forbids it.
    Expired,
    /// They stay.
    Never,
}

impl Default for MaintenancePolicy {
    fn default() -> Self {
        Self { checkpoint_every: 50, cleanup: Cleanup::Expired, removed_files: Cleanup::Never }
    }
}

/// The result of a maintenance run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaintenanceReport {
    /// The newest version.
    pub version: u64,
    /// `true` if a checkpoint of it was written.
    pub checkpointed: bool,
    /// Removed files of the log.
    pub log_files_removed: usize,
    /// Deleted files that were no longer part of the table.
    pub files_deleted: usize,
}

impl Table {
    /// Writes a checkpoint if one is due and removes what has expired.
    pub async fn maintain(&self, policy: &MaintenancePolicy) -> Result<MaintenanceReport> {
        let (every, name) = (policy.checkpoint_every.max(1), self.name().to_owned());
        let is_due = move |table: &KernelTable| {
            let last = table.snapshot.log_segment().checkpoint_version.map_or(0, |version| version + 1);
            table.snapshot.version() + 1 >= last + every
        };
        let (version, due) =
            with_snapshot(self.store(), None, move |table| Ok((table.snapshot.version(), is_due(table)))).await?;
        let mut report = MaintenanceReport { version, ..MaintenanceReport::default() };
        if !due {
            return Ok(report);
        }
        if policy.removed_files == Cleanup::Expired {
            report.files_deleted = self.remove_expired_files().await?;
        }
        report.version = with_snapshot(self.store(), None, move |table| {
            let written = table.snapshot.checkpoint(table.engine.as_ref(), None);
            written.environment(|| format!("cannot write a log checkpoint of table `{name}`"))?;
            Ok(table.snapshot.version())
        })
        .await?;
        report.checkpointed = true;
        let metadata = self.metadata();
        let properties = metadata.table_properties();
        let wanted = policy.cleanup == Cleanup::Expired && properties.enable_expired_log_cleanup();
        if report.checkpointed && wanted && metadata.allows_log_cleanup() {
            report.log_files_removed = self.clean_up(report.version, properties.log_retention_duration()).await?;
        }
        Ok(report)
    }

    async fn clean_up(&self, version: u64, retention: Duration) -> Result<usize> {
        let log_store = self.store().log_store();
        let before =
            self.store().env().unix_ms().saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
        let removed = cleanup_expired_logs_for(version, log_store.as_ref(), before, None).await;
        removed.environment(|| format!("cannot remove expired log entries of table `{}`", self.name()))
    }
}
