//! Functions that SQL can call beside DataFusion's own: those written in SQL, the clock of an epoch, and what the planner writes
//! where people write table functions and joins in time.
//!
//! Models become functions in [`crate::model`]; the planner registers both.

use datafusion::logical_expr::ScalarUDF;

use crate::micros::{date_trunc_in_micros, to_char_in_micros};

mod beside;
mod clock;
mod correlation;
mod date_bin;
mod exact;
mod exclusive_or;
mod extreme;
mod first;
mod interval;
mod local;
mod marks;
mod nested_names;
mod nvl;
mod recompute;
mod replaced;
mod round;
mod series;
mod sql;
mod stand_in;
mod sum;
mod to_timestamp;
mod window;

pub use clock::{EpochClock, query_now};
pub use correlation::stable_correlation;
pub use exact::{as_meant, column_as_meant, instants_alike, pair_as_meant, sorted_as_meant};
pub use exclusive_or::exclusive_or;
pub use extreme::extremes;
pub use first::first_within;
pub use interval::texts_as_intervals;
pub use local::local_time;
pub use marks::mark_functions;
pub use nested_names::shorten_names;
pub use nvl::null_functions;
pub use recompute::aggregates_over_frames;
pub use round::rounding_to_places;
pub use sql::{sql_function, written_out};
pub use stand_in::stand_in;
pub use sum::checked_sum;
pub use window::{HOP_STARTS, SHIFT, TUMBLE_START, window_functions};

/// Functions of dates and times in the place of DataFusion's: in microseconds, as all of weir's timestamps are.
pub fn time_functions() -> impl Iterator<Item = ScalarUDF> {
    let others = [date_bin::date_bin_in_micros(), date_trunc_in_micros(), to_char_in_micros()];
    to_timestamp::to_timestamps().chain(others).chain(series::series_in_micros())
}
