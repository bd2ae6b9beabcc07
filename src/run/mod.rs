//! The engine room: a micro-batch's way from a feed, through the dataflow and its operators, into the sinks' writers.
//!
//! A row's path, file by file: [`feed`] hands over decoded rows, one micro-batch at a time, and [`watermark`] says how far event
//! time has come. [`slices`] runs the micro-batch through the stages of the dataflow, lanes side by side; rows that become many
//! go in [`halves`]. Between two stages [`memory`] gives them to the shards of an operator, whose rows come back in order
//! ([`ordered`]). [`open`] holds the epoch that is being filled: it checks rows, hands them to the writers of [`sinks`] and keeps
//! [`letters`] of refused ones, whose records [`finder`] and [`traced`] find; [`late`] and [`row_errors`] do so for rows that came
//! too late or could not be computed. [`remember`] writes the changes of operators' state at the end of the epoch.
//!
//! It knows nothing of commits: `epoch` decides when one begins, is closed, made durable and visible.

pub(crate) mod feed;
mod finder;
mod halves;
pub(crate) mod late;
pub(crate) mod lease;
mod letters;
pub(crate) mod memory;
pub(crate) mod open;
mod ordered;
pub(crate) mod remember;
pub(crate) mod row_errors;
pub(crate) mod sinks;
mod slices;
pub(crate) mod stop;
mod traced;
pub(crate) mod vitals;
pub(crate) mod watermark;
