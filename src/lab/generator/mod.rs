//! The card-fraud simulator, and its transactions as JSON for producers.
//!
//! Owns the data of the running example: customers who pay at terminals within reach, and three kinds of fraud. It promises
//! that the same seed gives the same rows, in event-time order, in every version; one day is in memory at a time.

mod random;
mod render;
mod simulator;
mod world;

#[cfg(test)]
mod tests;

pub use self::render::{Labels, Rendering, StampedTime, to_json_lines};
pub use self::simulator::{Simulator, schema};
