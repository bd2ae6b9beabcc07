//! A Delta table as a source: the existing rows, then those of every new version, or every change.
//!
//! There is one partition, `0`; its offset encodes version and row (see [`position`]). Rows come in a fixed order, so that
//! reading can stop and resume at any row. The reader promises that a row is read once, under the version that added it, and
//! that it never silently skips a version that the log has lost. Files are read by [`crate::delta`]; fitting rows to
//! declared columns is left to [`super::decode`].

mod position;
mod columns;
mod version;
mod reader;

#[cfg(test)]
mod tests;

pub use self::columns::{Reach, complete, probe};
pub use self::position::version_read;
pub use self::reader::DeltaReader;
