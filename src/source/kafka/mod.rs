//! Kafka and Event Hubs as a source, by offset ranges.
//!
//! The path of a row: librdkafka's fetch threads fill a native queue ([`native`]); the reading thread ([`session`]) empties
//! it in batches into buffers per partition ([`gather`]); [`KafkaReader`] returns these as chunks. The start of a partition,
//! and whether the topic is still the one that offsets belong to, are pure decisions ([`start`], [`identity`]). Consumer
//! groups are used only to publish progress for lag monitors.
//!
//! Also here, because the Kafka sink and the commands share it: clients ([`client`]), [`probe_source`] and [`probe_sink`]
//! for `weir check --connect`.

pub(crate) mod client;

mod cluster;
mod describe;
mod gather;
mod identity;
mod native;
mod probe;
mod reader;
mod session;
mod shared;
mod start;
#[cfg(test)]
mod tests;

pub use gather::Wants;
pub(crate) use identity::{Standing, compare};
pub use probe::{ProbeStep, probe_sink, probe_source};
pub use reader::KafkaReader;
