//! The Nexmark generator as a source: an online auction's persons, auctions and bids.
//!
//! The model is that of Apache Beam's Nexmark suite, which Flink's and RisingWave's benchmarks also follow: of 50 events one
//! is a person, three are auctions, 46 are bids; recent auctions and a few hot sellers and bidders get most of the traffic.
//! Every event is a function of seed and number, so a source can begin anywhere, and three sources with one seed are
//! consistent with each other.

mod event;
mod reader;
#[cfg(test)]
mod tests;

pub use reader::NexmarkReader;
