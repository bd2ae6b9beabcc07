//! The commit protocol: decisions (pure), the coordinator that carries them out, recovery, triggers.
//!
//! A pipeline runs as a sequence of epochs. The engine room ([`crate::run`]) fills one; [`commit`] makes a closed epoch durable
//! and visible in the fixed order of the protocol, [`recovery`] finishes what a crash left half done, and [`coordinator`] ties
//! them together. [`protocol`] holds the decisions and touches nothing outside.

mod commit;
mod coordinator;
mod folders;
mod indexes;
mod job;
mod looked;
mod prepare;
mod progress;
mod protocol;
mod recovery;
mod refusal;
mod restore;
mod rewind;
mod rewind_plan;
mod seed;
mod standings;
mod survey;
mod targets;
mod undeclared;
mod upkeep;
mod verify;

pub use coordinator::run;
pub use folders::pipelines;
pub use job::{Finish, Job};
pub use prepare::{Surroundings, UNFINISHED, declared_targets, known_lookups, plan, prepare};
pub use progress::{OperatorProgress, Progress, ProgressFile, ProgressSink, SinkProgress, SourceProgress};
pub use recovery::{Resumed, recover};
pub use restore::{Fate, migration, other_topics};
pub use rewind::{RestoredSink, rewind};
pub use seed::check_seed;
pub use targets::known_targets;
pub use upkeep::{Upkeep, UpkeepPolicy};
pub use verify::{Comparison, verify};

pub use crate::run::lease::Lease;
pub use crate::run::memory::Limits;
pub use crate::run::sinks::below;
pub use crate::run::stop::Stop;

#[cfg(test)]
mod tests;
