//! The memory budget for results of a query's functions. Constants are part of the plan and copied with it; results over
//! rows are reserved in the memory pool while they live.

use std::ptr::NonNull;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::Buffer;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};

use crate::memory::bounded::{Budget, MAX_BATCH_BYTES, MaxConstants, too_large_a_batch, too_large_a_constant};
use crate::serve::interrupt::Interrupt;

/// Limits for constants: anyone who can connect can send many statements at a time.
const CONSTANTS: MaxConstants = MaxConstants { each: 1 << 20, all: 16 << 20 };

/// The budget for results of one query's functions.
#[derive(Debug)]
pub struct QueryBudget {
    pool: Arc<dyn MemoryPool>,
    constants: MemoryReservation,
    interrupt: Interrupt,
}

impl QueryBudget {
    /// The budget of a query whose memory comes from `pool`.
    pub fn new(pool: Arc<dyn MemoryPool>, interrupt: Interrupt) -> Self {
        let constants = MemoryConsumer::new("constants").register(&pool);
        Self { pool, constants, interrupt }
    }
}

impl Budget for QueryBudget {
    fn begin(&self) -> Result<()> {
        self.interrupt.check()
    }

    fn constant(&self, name: &str, bytes: usize) -> Result<()> {
        if bytes > CONSTANTS.each || self.constants.size().saturating_add(bytes) > CONSTANTS.all {
            return Err(too_large_a_constant(name, bytes, CONSTANTS));
        }
        self.constants.try_grow(bytes)
    }

    fn batch(&self, name: &str, bytes: usize, _rows: usize) -> Result<Option<MemoryReservation>> {
        if bytes > MAX_BATCH_BYTES {
            return Err(too_large_a_batch(name, bytes));
        }
        let reserved = MemoryConsumer::new(name).register(&self.pool);
        reserved.try_grow(bytes)?;
        Ok(Some(reserved))
    }

    fn made(&self, result: ArrayRef, reserved: Option<MemoryReservation>, _bytes: usize) -> Result<ArrayRef> {
        match reserved {
            Some(reserved) => held(&result, reserved),
            None => Ok(result),
        }
    }
}

/// The same array, which releases `reserved` with the last of its buffers.
fn held(array: &ArrayRef, reserved: MemoryReservation) -> Result<ArrayRef> {
    let data = array.to_data();
    reserved.try_resize(data.get_buffer_memory_size())?;
    Ok(make_array(hold(data, Arc::new(reserved))))
}

/// Ties `reserved` to the largest buffer of `data`.
fn hold(data: ArrayData, reserved: Arc<MemoryReservation>) -> ArrayData {
    let buffer = data.buffers().iter().enumerate().max_by_key(|(_, buffer)| buffer.len());
    let child = data.child_data().iter().enumerate().max_by_key(|(_, child)| child.get_buffer_memory_size());
    let own = buffer.map_or(0, |(_, buffer)| buffer.len());
    let changed = match (buffer, child) {
        (_, Some((index, child))) if child.get_buffer_memory_size() > own => {
            let mut children = data.child_data().to_vec();
            children[index] = hold(child.clone(), reserved);
            data.into_builder().child_data(children)
        }
        (Some((index, buffer)), _) => {
            let mut buffers = data.buffers().to_vec();
            buffers[index] = owned(buffer.clone(), reserved);
            data.into_builder().buffers(buffers)
        }
        _ => return data,
    };
    // SAFETY: the bytes and their layout are those of `data`, which was valid.
    unsafe { changed.build_unchecked() }
}

/// A buffer with its reservation.
struct Owner {
    _buffer: Buffer,
    _reserved: Arc<MemoryReservation>,
}

// Unwinding leaves both intact: neither the buffer nor the reservation is changed through an owner.
impl std::panic::RefUnwindSafe for Owner {}

fn owned(buffer: Buffer, reserved: Arc<MemoryReservation>) -> Buffer {
    let Some(start) = NonNull::new(buffer.as_ptr().cast_mut()) else { return buffer };
    let length = buffer.len();
    // SAFETY: the owner keeps the allocation that contains `start` and `length`.
    unsafe { Buffer::from_custom_allocation(start, length, Arc::new(Owner { _buffer: buffer, _reserved: reserved })) }
}
