//! Shared by the operators that keep rows or keys one by one: event time as numbers, keys as bytes, an index of keys, a
//! store of rows, and the layout of rows in state tables.
//!
//! Hashes exist in memory only and never affect the output; everything written to state is exact values.

mod encoder;
#[cfg(test)]
pub mod harness;
mod index;
mod layout;
mod rows;
mod sequenced;
mod slots;
mod time;

pub use encoder::Encoder;
pub use index::KeyIndex;
pub use layout::{Layout, with_columns};
pub use rows::{RowStore, pick};
pub use sequenced::{SequencedRows, Waiting};
pub use slots::{SlotTable, WARM};
pub use time::{micros, split_late};
