//! Kafka as a sink: a transaction per epoch ([`TransactionalProducer`]), or each micro-batch at once
//! ([`DirectProducer`]). Rows become messages by [`encode`],
//! those of a stream that also takes back by [`encode_changes`].
//!
//! Neither decides when an epoch commits: the coordinator calls, this carries out and reports what became of it.

mod changes;
mod direct;
mod encode;
#[cfg(test)]
mod tests;
mod transactional;

pub use changes::{ChangeOrigin, encode_changes};
pub use direct::DirectProducer;
pub use encode::{Messages, encode};
pub use transactional::{TopicMessages, TransactionalProducer};
