//! A shard's partitions, by number: their keys, their lifetimes, and an operator's data for each.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::lifetime::Lifetime;
use crate::error::Result;
use crate::operator::keyed::{Encoder, KeyIndex};
use crate::operator::spec::TopNSpec;

/// Partitions, and the order values of the rows that arrive for them.
#[derive(Debug)]
pub struct Keyed<P> {
    keys: KeyIndex,
    /// The order values of the rows last [resolved](Keyed::resolve).
    pub order: Encoder,
    pub life: Lifetime,
    /// The operator's data of each partition, by number.
    pub of: Vec<P>,
    /// Reused to save allocations.
    numbers: Vec<u32>,
}

impl<P: Default> Keyed<P> {
    /// No partitions yet; their rows have the schema `rows`.
    pub fn new(rows: &SchemaRef, spec: &TopNSpec, life: Lifetime) -> Result<Self> {
        Ok(Self {
            keys: KeyIndex::new(rows, &spec.keys)?,
            order: Encoder::new(rows, &spec.order)?,
            life,
            of: Vec::new(),
            numbers: Vec::new(),
        })
    }

    /// The partition of each row of a batch, created if new; the result is to be [returned](Keyed::give_back).
    pub fn resolve(&mut self, batch: &RecordBatch) -> Result<Vec<u32>> {
        let mut numbers = std::mem::take(&mut self.numbers);
        self.keys.resolve(batch, &mut numbers)?;
        self.of.resize_with(self.keys.bound(), P::default);
        self.life.grow(self.keys.bound());
        self.order.encode(batch)?;
        Ok(numbers)
    }

    /// Takes back the result of [`Keyed::resolve`] for reuse.
    pub fn give_back(&mut self, numbers: Vec<u32>) {
        self.numbers = numbers;
    }

    /// The numbers given back last.
    pub fn resolved(&self) -> &[u32] {
        &self.numbers
    }

    /// Removes a partition; its number may be reused.
    pub fn take(&mut self, number: u32) -> P {
        self.keys.remove(number);
        self.life.forget(number);
        std::mem::take(&mut self.of[number as usize])
    }

    /// Memory, in bytes, without what the partitions own beyond their own size.
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.order.bytes() + self.life.bytes() + self.of.capacity() * size_of::<P>()
    }
}
