//! The description of a topic by the brokers: its id, and the user's permissions. Finding out writes nothing.
//!
//! KIP-516 (ids) and KIP-430 (permissions); librdkafka's `DescribeTopics`, which `rdkafka` does not wrap.

use std::ffi::{CStr, CString};
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::client::Context;

/// A topic's description.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Created with the topic and never reused; `None` if the brokers give none (before Kafka 2.8, Event Hubs).
    pub id: Option<String>,
    /// `true` if the user may write; `None` if the brokers do not report it, or were not asked.
    pub may_write: Option<bool>,
}

/// The requested part of the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Id,
    Permissions,
}

/// Requests a topic's description. Errors: the reason why there is no answer.
pub fn topic(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    ask: Ask,
    patience: Duration,
) -> Result<Description, String> {
    let name = CString::new(topic).map_err(|_| "the topic's name has a zero byte".to_owned())?;
    let patience_ms = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let client = consumer.client().native_ptr();
    let mut names = [name.as_ptr()];
    // SAFETY: `client` and `name` live to the end of this function. Everything created here is destroyed below, once, in
    // reverse order; the event owns the data read from it and is destroyed after the last read.
    unsafe {
        let options =
            native::rd_kafka_AdminOptions_new(client, native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let queue = native::rd_kafka_queue_new(client);
        let topics = native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let mut text = [0; 256];
        native::rd_kafka_AdminOptions_set_request_timeout(options, patience_ms, text.as_mut_ptr(), text.len());
        let wanted = i32::from(ask == Ask::Permissions);
        let refused = native::rd_kafka_AdminOptions_set_include_authorized_operations(options, wanted);
        let answer = if refused.is_null() {
            native::rd_kafka_DescribeTopics(client, topics, options, queue);
            let event = native::rd_kafka_queue_poll(queue, patience_ms);
            let answer = if event.is_null() { Err("the brokers did not answer".to_owned()) } else { read(event) };
            if !event.is_null() {
                native::rd_kafka_event_destroy(event);
            }
            answer
        } else {
            native::rd_kafka_error_destroy(refused);
            Ok(Description::default())
        };
        native::rd_kafka_TopicCollection_destroy(topics);
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AdminOptions_destroy(options);
        answer
    }
}

/// The description in an answer about one topic.
///
/// # Safety
/// `event` must be alive.
unsafe fn read(event: *mut native::rd_kafka_event_t) -> Result<Description, String> {
    const NO_ERROR: native::rd_kafka_resp_err_t = native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: the event is alive, and the data read from it lives as long. The counts are the lengths of the arrays.
    unsafe {
        if native::rd_kafka_event_error(event) != NO_ERROR {
            return Err(CStr::from_ptr(native::rd_kafka_event_error_string(event)).to_string_lossy().into_owned());
        }
        let result = native::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Ok(Description::default());
        }
        let mut count = 0;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return Ok(Description::default());
        }
        let topic = *topics;
        let error = native::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() && native::rd_kafka_error_code(error) != NO_ERROR {
            return Err(CStr::from_ptr(native::rd_kafka_error_string(error)).to_string_lossy().into_owned());
        }
        Ok(Description { id: read_id(topic), may_write: read_permission(topic) })
    }
}

/// # Safety
/// `topic` must be alive.
unsafe fn read_id(topic: *const native::rd_kafka_TopicDescription_t) -> Option<String> {
    // SAFETY: the id belongs to the topic, and its text to the id.
    unsafe {
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() {
            return None;
        }
        let bits = (native::rd_kafka_Uuid_most_significant_bits(id), native::rd_kafka_Uuid_least_significant_bits(id));
        let text = native::rd_kafka_Uuid_base64str(id);
        (bits != (0, 0) && !text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

/// # Safety
/// `topic` must be alive.
unsafe fn read_permission(topic: *const native::rd_kafka_TopicDescription_t) -> Option<bool> {
    let mut count = 0;
    // SAFETY: the operations belong to the topic, and `count` is their number.
    unsafe {
        let operations = native::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut count);
        if operations.is_null() || count == 0 {
            return None;
        }
        // Compared as numbers: a broker may send an operation that the enum does not have.
        let allowed = std::slice::from_raw_parts(operations.cast::<u32>(), count);
        let may = [
            native::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE as u32,
            native::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_ALL as u32,
        ];
        Some(allowed.iter().any(|operation| may.contains(operation)))
    }
}
