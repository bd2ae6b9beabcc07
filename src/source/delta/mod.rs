//! A Delta table as a source: the rows that are there, then those of every new version, or every change.
//!
//! There is one partition, `0`; its offset says version and row (see [`position`]). Rows come in a fixed order, so that
//! reading may be left and taken up again at any row. The reader promises that a row is read once under the version that
//! brought it, and never silently passes over a version that the log has lost. What the files hold is read by
//! [`crate::delta`]; fitting rows to declared columns is left to [`super::decode`].

mod position;
mod columns;
mod version;
mod reader;

#[cfg(test)]
mod tests;

pub use self::columns::{Reach, complete, probe};
pub use self::position::version_read;
pub use self::reader::DeltaReader;
