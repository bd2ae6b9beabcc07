//! The commit protocol: decisions (pure), the coordinator that carries them out, recovery, triggers.
//!
//! A pipeline runs as a sequence of epochs. [`feed`] brings decoded micro-batches, [`open`] collects an epoch's rows in
//! its sink writers, [`commit`] makes a closed epoch durable and visible in the fixed order of the protocol, [`recovery`]
//! finishes what a crash left half done, and [`coordinator`] ties them together. [`protocol`] holds the decisions and
//! touches nothing outside.

mod commit;
mod coordinator;
mod feed;
mod finder;
mod folders;
mod halves;
mod indexes;
mod job;
mod late;
mod lease;
mod letters;
mod looked;
mod memory;
mod open;
mod ordered;
mod prepare;
mod progress;
mod protocol;
mod recovery;
mod refusal;
mod remember;
mod restore;
mod rewind;
mod rewind_plan;
mod row_errors;
mod seed;
mod sinks;
mod slices;
mod standings;
mod stop;
mod survey;
mod targets;
mod traced;
mod undeclared;
mod upkeep;
mod verify;
mod vitals;
mod watermark;

pub use coordinator::run;
pub use folders::pipelines;
pub use job::{Finish, Job};
pub use lease::Lease;
pub use memory::Limits;
pub use prepare::{Surroundings, UNFINISHED, declared_targets, known_lookups, plan, prepare};
pub use progress::{OperatorProgress, Progress, ProgressFile, ProgressSink, SinkProgress, SourceProgress};
pub use recovery::{Resumed, recover};
pub use restore::{Fate, migration, other_topics};
pub use rewind::{RestoredSink, rewind};
pub use seed::check_seed;
pub use sinks::{Home, OutputMemory, Sinks, TableSink, below, one_cluster};
pub use stop::Stop;
pub use targets::known_targets;
pub use upkeep::{Upkeep, UpkeepPolicy};
pub use verify::{Comparison, verify};

#[cfg(test)]
mod tests;
