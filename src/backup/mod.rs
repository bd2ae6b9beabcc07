//! Copies of a whole warehouse, taken while its pipelines run, and the warehouses that are restored from them.
//!
//! A backup holds the tables, the pipelines' manifests and state, and the other files in `_weir`, as they were at one
//! [`cut`]. It goes to a [`place`] in any store, which keeps every file once, by its SHA-256: a second backup adds only new
//! files. The backup's own list of files is written last, so an interrupted backup does not count, but the next one reuses
//! the files that it copied.
//!
//! Leaves to others: sources and sinks outside of the warehouse, and the behaviour of a pipeline whose Kafka sinks are ahead
//! of the restored tables (`epoch` decides that).

mod cut;
mod place;
mod survey;
mod take;
mod restore;

#[cfg(test)]
mod tests;

pub use self::place::{Backup, BackupPlace, ListedBackups};
pub use self::restore::{RestoreInto, restore};
pub use self::survey::Warehouse;
pub use self::take::{Taken, take};
