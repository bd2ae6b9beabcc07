//! Functions that SQL can call beside DataFusion's own: those written in SQL, and the clock of an epoch.
//!
//! Models become functions in [`crate::model`]; the planner registers both.

mod clock;
mod sql;

pub use clock::EpochClock;
pub use sql::sql_function;
