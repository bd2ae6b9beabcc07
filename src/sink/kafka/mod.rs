//! Kafka as a sink: a transaction per epoch ([`TransactionalProducer`]), or each micro-batch at once ([`DirectProducer`]).
//! Rows become messages by [`encode`], those of a retracting stream by [`encode_changes`].
//!
//! A message that is too large for its topic ([`limit`]) is returned and stops nothing: the epoch keeps it as a dead letter.
//!
//! Neither producer decides when an epoch commits: the coordinator calls it and gets the result.

mod changes;
mod direct;
mod encode;
mod limit;
#[cfg(test)]
mod tests;
mod transactional;

pub(crate) use changes::{ChangeOrigin, encode_changes};
pub use direct::DirectProducer;
pub(crate) use direct::RefusedMessage;
pub use encode::{Messages, encode};
pub use transactional::{Sent, TopicMessages, TransactionalProducer};
