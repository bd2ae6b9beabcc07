//! All integration tests in one binary, so that they are linked once. One `mod` a line, in alphabetical order.

#![cfg(test)]

mod accepted;
mod advice;
mod architecture;
mod arrival;
mod attack;
mod backup_drills;
mod backups;
mod changing;
mod clauses;
mod crash;
mod delta;
mod editing;
mod event_time;
mod file_sources;
mod flight;
mod expressions;
mod fuzzing;
mod instants;
mod kafka;
mod kafka_support;
mod kafka_topics;
mod keyed_targets;
mod keys;
mod lookups;
mod memory;
mod memory_limit;
mod null_rules;
mod odd_partitions;
mod pipelines;
mod program;
mod readers;
mod recipes;
mod recovery;
mod row_errors;
mod sql_files;
mod stateful;
mod stateful_crash;
mod stateful_kafka;
mod statements;
mod stopping;
mod upgrade;
mod upserts;
mod verify;
mod watching;
