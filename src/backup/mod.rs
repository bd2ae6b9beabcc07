//! Copies of a whole warehouse, taken while its pipelines run, and what is made of them elsewhere.
//!
//! A backup holds the tables, the pipelines' manifests and state and what else lies in `_weir`, as they were at one [`cut`]. It goes
//! to a [`place`] of any store, which keeps every file once, by its SHA-256: a second backup adds only what is new. The backup's own
//! list of files is written last, so a backup that was broken off is no backup, and what it has copied serves the next.
//!
//! Leaves to others: sources and sinks outside of the warehouse, and what a pipeline does when its Kafka sinks are ahead of the
//! tables that were restored (`epoch` decides that).

mod cut;
mod place;
mod survey;
mod take;
mod restore;

#[cfg(test)]
mod tests;

pub use self::place::{Backup, BackupFile, BackupPlace, ListedBackups, PipelineAt};
pub use self::restore::{RestoreInto, restore};
pub use self::survey::Warehouse;
pub use self::take::{Taken, take};
