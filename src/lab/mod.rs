//! What is made up for trying weir out: simulated transactions, the Nexmark auction, a development broker, a store with faults.
//!
//! Nothing here is part of the engine. It promises data that are the same for the same seed in every version, and stand-ins
//! that behave as their documentation says. It does not know sources, pipelines or tables: `source/generator` and
//! `source/nexmark` are the connectors that hand its rows to a pipeline, and beside them only the commands and tests
//! name this module (`tests/it/architecture.rs` holds the others to it).

pub(crate) mod broker;
pub mod faults;
pub mod generator;
pub(crate) mod nexmark;
pub(crate) mod produce;
