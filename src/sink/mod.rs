//! Sinks: rows in, files or messages out; nothing of an epoch becomes visible without a commit permit.
//!
//! Delta tables and `exactly_once` Kafka topics take part in the commit; `at_least_once` Kafka, console, files and
//! `blackhole` are written as micro-batches come and take no part in it.

pub(crate) mod console;
mod csv;
pub(crate) mod dead_letters;
pub(crate) mod file;
pub mod kafka;
