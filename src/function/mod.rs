//! Functions that SQL can call beside DataFusion's own: those written in SQL, the clock of an epoch, and what the planner writes
//! where people write table functions and joins in time.
//!
//! Models become functions in [`crate::model`]; the planner registers both.

mod checked;
mod clock;
mod correlation;
mod date_bin;
mod exact;
mod first;
mod interval;
mod marks;
mod recompute;
mod sql;
mod stand_in;
mod sum;
mod window;

pub use checked::checked;
pub use clock::{EpochClock, query_now};
pub use correlation::stable_correlation;
pub use date_bin::date_bin_in_micros;
pub use exact::{as_meant, sorted_as_meant};
pub use first::{FIRST_WITHIN, first_within};
pub use marks::mark_functions;
pub use recompute::aggregates_over_frames;
pub use sql::sql_function;
pub use stand_in::stand_in;
pub use sum::{SUM_OVERFLOWS, checked_sum};
pub use window::{HOP_STARTS, SHIFT, TUMBLE_START, window_functions};
