//! weir: a SQL streaming engine in one binary. Event streams in, Delta Lake tables out, exactly once.
//!
//! The modules stand in reading order: a newcomer follows one row from SQL text to Delta commit by opening them from
//! top to bottom. Imports run downward in this list's sense only (`tests/it/architecture.rs` holds them to it):
//! `sql` knows nothing of ours but errors, `cli` knows everything.

pub mod error;
pub mod output;
pub mod json;
pub mod env;
pub mod metrics;
pub mod memory;
pub mod equality;
pub mod evaluate;
pub mod config;
pub mod sql;
pub mod arithmetic;
pub mod micros;
pub mod catalog;
pub mod delta;
pub mod model;
pub mod function;
pub mod source;
pub mod state;
pub mod sink;
pub mod operator;
pub mod plan;
pub mod epoch;
pub mod backup;
pub mod serve;
pub mod cli;
