//! Sinks: rows in, files or messages out; nothing of an epoch becomes visible without a commit permit.
//!
//! A [`Sink`] is the target of one INSERT, opened for a run. For each epoch it gives a [`SinkWriter`], which takes the rows of
//! all lanes and is closed once; what it has [`Staged`] is handed to the commit. Each kind of sink keeps its own lanes, typed:
//! a writer never meets rows or files of another kind.
//!
//! Delta tables and `exactly_once` Kafka topics take part in the commit; `at_least_once` Kafka, console, files and
//! `blackhole` are written as micro-batches come and take no part in it.

pub(crate) mod blackhole;
pub(crate) mod console;
mod csv;
pub(crate) mod dead_letters;
pub(crate) mod delta;
pub(crate) mod file;
pub mod kafka;
pub(crate) mod topic;
mod writer;

pub(crate) use writer::{Arrival, Arrived, Opening, Refused, Sink, SinkWriter, Staged, Written, in_order};
