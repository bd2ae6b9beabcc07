//! Upkeep beside the commits: log checkpoints, log cleanup, manifests nobody needs.

use std::time::Duration;

use super::job::Job;
use crate::delta::{Cleanup, MaintenancePolicy, Table};
use crate::run::stop::Stop;
use crate::state::{Epoch, ManifestStore};

/// Interval of upkeep.
const PAUSE: Duration = Duration::from_secs(2);

/// Retention of a pipeline's files.
#[derive(Debug, Clone, Copy)]
pub struct UpkeepPolicy {
    pub checkpoint_every_commits: u64,
    pub log_cleanup: bool,
    /// `true` if files that upserts have replaced are deleted once the table no longer keeps them.
    pub remove_expired_files: bool,
    /// At least 2: the newest epoch's manifest and the one before.
    pub keep_manifests: u64,
}

/// The upkeep of one pipeline.
pub struct Upkeep {
    /// With their names, and whether they are upserted.
    tables: Vec<(String, Table, bool)>,
    pipeline: String,
    manifests: ManifestStore,
    policy: UpkeepPolicy,
}

impl Upkeep {
    /// Upkeep for the tables and manifests of `job`.
    pub fn of(job: &Job, policy: UpkeepPolicy) -> Self {
        let tables = job.sinks.tables.iter();
        let tables = tables.map(|sink| (sink.name.clone(), sink.table.clone(), sink.upsert.is_some())).collect();
        let pipeline = job.dataflow.pipeline.clone();
        Self { tables, pipeline, manifests: job.manifests.clone(), policy }
    }

    /// Works until `stop` is set. Failures are logged and tried again: upkeep never stops a pipeline.
    pub async fn run(self, stop: Stop) {
        let when = |on: bool| if on { Cleanup::Expired } else { Cleanup::Never };
        let policy_of = |upserted: bool| MaintenancePolicy {
            checkpoint_every: self.policy.checkpoint_every_commits,
            cleanup: when(self.policy.log_cleanup),
            removed_files: when(self.policy.remove_expired_files && upserted),
        };
        let mut rounds: u64 = 0;
        loop {
            tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            for (name, table, upserted) in &self.tables {
                if let Err(error) = table.maintain(&policy_of(*upserted)).await {
                    tracing::warn!(table = name, %error, "log checkpoint failed, will be tried again");
                }
            }
            rounds += 1;
            if rounds.is_multiple_of(15) {
                self.drop_manifests().await;
            }
        }
    }

    async fn drop_manifests(&self) {
        let Some((_, first, _)) = self.tables.first() else { return };
        let Ok(Some(epoch)) = first.recorded_epoch(&self.pipeline).await else { return };
        let Ok(epoch) = u64::try_from(epoch) else { return };
        let keep_from = Epoch(epoch.saturating_sub(self.policy.keep_manifests.max(2)));
        if let Err(error) = self.manifests.remove_before(keep_from).await {
            tracing::warn!(pipeline = self.pipeline, %error, "old manifests stay");
        }
    }
}
