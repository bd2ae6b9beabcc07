//! Sinks: rows in, files or messages out; nothing of an epoch becomes visible without a commit permit.
//!
//! A [`Sink`] is the target of one INSERT, opened for a run. For each epoch it gives a [`SinkWriter`], which takes the rows of
//! all lanes and is closed once; what it has [`Staged`] is handed to the commit. Each kind of sink keeps its own lanes, typed:
//! a writer never meets rows or files of another kind.
//!
//! Delta tables and `exactly_once` Kafka topics take part in the commit; `at_least_once` Kafka, console, files and
//! `blackhole` are written as micro-batches come and take no part in it.

pub mod blackhole;
pub mod console;
mod csv;
pub mod dead_letters;
pub mod delta;
pub mod file;
pub mod kafka;
pub mod topic;
mod writer;

pub use writer::{Arrival, Arrived, Held, Opening, Refused, Sink, SinkWriter, Staged, Written, in_order};
