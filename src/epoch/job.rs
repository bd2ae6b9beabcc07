//! Inputs of a pipeline's run, and its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::progress::ProgressSink;
use crate::catalog::Trigger;
use crate::delta::{Table, TableStore};
use crate::env::Env;
use crate::function::EpochClock;
use crate::metrics::Metrics;
use crate::plan::Dataflow;
use crate::run::memory::Limits;
use crate::run::sinks::Sinks;
use crate::source::chunk::PollLimit;
use crate::state::{ManifestStore, StateStore};

/// Everything a run needs.
pub struct Job {
    pub dataflow: Dataflow,
    pub sinks: Sinks,
    pub manifests: ManifestStore,
    pub states: StateStore,
    /// Tables that streams are joined to, by name.
    pub lookups: BTreeMap<String, TableStore>,
    pub limits: Limits,
    /// The table of `seed_from`.
    pub seed: Option<SeedTable>,
    /// State that does not fit the dataflow may be dropped, and operators without state may begin empty.
    pub allow_rebuild: bool,
    pub keep_late: bool,
    /// At the end of all input everything that waits for time is emitted.
    pub flush_at_end: bool,
    pub trigger: Trigger,
    pub lanes: usize,
    pub poll: PollLimit,
    /// Model name to hash.
    pub models: BTreeMap<String, String>,
    pub clock: EpochClock,
    pub env: Env,
    /// Names this process in manifests and progress.
    pub run: String,
    pub progress: ProgressSink,
    pub metrics: Arc<Metrics>,
}

/// The table of `seed_from`.
pub struct SeedTable {
    /// As the SQL calls it.
    pub name: String,
    pub table: Table,
}

/// The end of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finish {
    pub epochs: u64,
    pub records: u64,
}
