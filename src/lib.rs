//! weir: a SQL streaming engine in one binary. Event streams in, Delta Lake tables out, exactly once.
//!
//! The modules stand in reading order: a newcomer follows one row from SQL text to Delta commit by opening them from
//! top to bottom. Imports run downward in this list's sense only (`tests/it/architecture.rs` holds them to it):
//! `sql` knows nothing of ours but errors, `cli` knows everything. Public are only modules that `main`, the integration tests
//! and the benchmarks use.

pub mod error;
mod output;
mod json;
pub mod env;
pub mod metrics;
mod memory;
mod equality;
mod evaluate;
pub mod config;
pub mod sql;
mod arithmetic;
mod micros;
pub mod catalog;
pub mod time;
pub mod lab;
pub mod standing;
pub mod delta;
pub mod model;
mod function;
pub mod source;
pub mod state;
pub mod sink;
pub mod operator;
pub mod plan;
mod run;
pub mod epoch;
mod backup;
pub mod serve;
pub mod cli;
