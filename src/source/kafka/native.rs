//! The unsafe interface to librdkafka: one queue for all partitions of a consumer, emptied in batches.
//!
//! `rdkafka`'s own consumers allocate per message; this lends each message's bytes for the duration of a call instead.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use super::client::Context;
use crate::error::{Error, Result};

/// Messages taken from the queue by one native call.
const BATCH: usize = 2048;

/// A record, or an event of a partition; borrowed from librdkafka.
pub enum Event<'a> {
    Record(RecordRef<'a>),
    /// The partition's end was reached: the next offset to arrive is `offset`.
    EndOfPartition {
        partition: i32,
        offset: i64,
    },
    /// The partition reports an error.
    Trouble {
        partition: i32,
        code: RDKafkaErrorCode,
        text: String,
    },
}

/// One record, borrowed from librdkafka.
pub struct RecordRef<'a> {
    message: &'a native::rd_kafka_message_t,
}

impl<'a> RecordRef<'a> {
    /// The partition's number.
    pub fn partition(&self) -> i32 {
        self.message.partition
    }

    /// The record's offset.
    pub fn offset(&self) -> i64 {
        self.message.offset
    }

    /// The value; `None` is a tombstone.
    pub fn payload(&self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka guarantees that `payload` is null or points to `len` bytes that live as long as the message.
        unsafe { bytes(self.message.payload, self.message.len) }
    }

    /// The key.
    pub fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: as for `payload`.
        unsafe { bytes(self.message.key, self.message.key_len) }
    }

    /// Milliseconds since 1970 UTC; -1 = unknown.
    pub fn timestamp_ms(&self) -> i64 {
        // SAFETY: the message is alive; a null type pointer is allowed.
        unsafe { native::rd_kafka_message_timestamp(self.message, ptr::null_mut()) }
    }

    /// The headers, copied.
    pub fn headers(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let mut list = ptr::null_mut();
        let mut found = Vec::new();
        // SAFETY: the message is alive; on success `list` belongs to it.
        let code = unsafe { native::rd_kafka_message_headers(self.message, &raw mut list) };
        if code != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return found;
        }
        loop {
            let (mut name, mut value, mut size): (*const c_char, *const c_void, usize) = (ptr::null(), ptr::null(), 0);
            // SAFETY: `list` is alive; an index past the end returns an error.
            let code = unsafe {
                native::rd_kafka_header_get_all(list, found.len(), &raw mut name, &raw mut value, &raw mut size)
            };
            if code != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                return found;
            }
            // SAFETY: a header's name is a C string, its value null or `size` bytes; both belong to the message.
            let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, size)) };
            found.push((name.to_string_lossy().into_owned(), value.map(<[u8]>::to_vec)));
        }
    }
}

/// `None` for null, else the `len` bytes at `start`.
///
/// # Safety
/// A `start` that is not null must point to `len` bytes that live and stay unchanged for `'a`.
unsafe fn bytes<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: guaranteed by the caller.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast::<u8>(), len) })
}

/// The queue of a consumer's partitions. It holds the consumer, so that it never outlives it.
pub struct Queue {
    queue: NonNull<native::rd_kafka_queue_t>,
    batch: Vec<*mut native::rd_kafka_message_t>,
    consumer: Arc<BaseConsumer<Context>>,
}

impl Queue {
    /// A new, empty queue of this consumer.
    pub fn new(consumer: Arc<BaseConsumer<Context>>) -> Result<Self> {
        // SAFETY: the client is alive.
        let queue = NonNull::new(unsafe { native::rd_kafka_queue_new(consumer.client().native_ptr()) })
            .ok_or_else(|| Error::internal("librdkafka made no queue"))?;
        Ok(Self { queue, batch: vec![ptr::null_mut(); BATCH], consumer })
    }

    /// Makes a partition feed this queue. Must be called before the partition is assigned.
    pub fn feed_from(&self, topic: &CStr, partition: i32) -> Result<()> {
        // SAFETY: client, topic and queue are alive; forwarding keeps its own reference to this queue, and the partition's
        // handle is released.
        unsafe {
            let source =
                native::rd_kafka_queue_get_partition(self.consumer.client().native_ptr(), topic.as_ptr(), partition);
            if source.is_null() {
                return Err(Error::internal(format!("librdkafka has no queue for partition {partition}")));
            }
            native::rd_kafka_queue_forward(source, self.queue.as_ptr());
            native::rd_kafka_queue_destroy(source);
        }
        Ok(())
    }

    /// Waits up to `wait` for the first event, then takes the available ones, at most `limit` and at most 2,048. Returns
    /// their number; [`Queue::each`] must be called for them before the next `fill`.
    pub fn fill(&mut self, wait: Duration, limit: usize) -> usize {
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        if self.take(0, wait_ms, 1) == 0 {
            return 0;
        }
        1 + self.take(1, 0, limit.clamp(1, BATCH) - 1)
    }

    fn take(&mut self, from: usize, wait_ms: i32, count: usize) -> usize {
        let room = &mut self.batch[from..from + count];
        // SAFETY: the queue is alive and `room` has space for `count` pointers.
        let taken = unsafe {
            native::rd_kafka_consume_batch_queue(self.queue.as_ptr(), wait_ms, room.as_mut_ptr(), room.len())
        };
        usize::try_from(taken).unwrap_or(0)
    }

    /// Calls `see` for the first `count` events of the last `fill` and returns them to librdkafka.
    pub fn each(&mut self, count: usize, mut see: impl FnMut(Event<'_>)) {
        for slot in &mut self.batch[..count] {
            let message = std::mem::replace(slot, ptr::null_mut());
            // SAFETY: `fill` put live messages here; each is seen and destroyed once.
            unsafe {
                see(event(&*message));
                native::rd_kafka_message_destroy(message);
            }
        }
    }

    /// Low and high watermark as of the partition's last fetch; makes no request. `None` if they are not known yet.
    pub fn known_watermarks(&self, topic: &CStr, partition: i32) -> Option<(i64, i64)> {
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the client is alive and the pointers are valid for the call.
        let code = unsafe {
            native::rd_kafka_get_watermark_offsets(
                self.consumer.client().native_ptr(),
                topic.as_ptr(),
                partition,
                &raw mut low,
                &raw mut high,
            )
        };
        (code == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some((low, high))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once, while the consumer is alive.
        unsafe { native::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

fn event(message: &native::rd_kafka_message_t) -> Event<'_> {
    match RDKafkaErrorCode::from(message.err) {
        RDKafkaErrorCode::NoError => Event::Record(RecordRef { message }),
        RDKafkaErrorCode::PartitionEOF => {
            Event::EndOfPartition { partition: message.partition, offset: message.offset }
        }
        code => {
            // SAFETY: an error message's payload is its text, as bytes that live as long as the message.
            let text = unsafe { bytes(message.payload, message.len) }.unwrap_or_default();
            let text = String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
            Event::Trouble { partition: message.partition, code, text }
        }
    }
}

/// A topic's name for native calls.
pub fn topic_name(topic: &str) -> Result<CString> {
    CString::new(topic).map_err(|_| Error::config(format!("topic name `{}` has a zero byte", topic.escape_debug())))
}
