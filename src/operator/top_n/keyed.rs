//! What is known of a shard's partitions, by number: their keys, when they end, and what an operator keeps of each.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::lifetime::Lifetime;
use crate::error::Result;
use crate::operator::keyed::{Encoder, KeyIndex};
use crate::operator::spec::TopNSpec;

/// Partitions, and the order of the rows that come for them.
#[derive(Debug)]
pub struct Keyed<P> {
    keys: KeyIndex,
    /// The order values of the rows last [resolved](Keyed::resolve).
    pub order: Encoder,
    pub life: Lifetime,
    /// By number.
    pub of: Vec<P>,
    /// Kept for its memory.
    numbers: Vec<u32>,
}

impl<P: Default> Keyed<P> {
    /// No partitions yet, of rows of the schema `rows`.
    pub fn new(rows: &SchemaRef, spec: &TopNSpec, life: Lifetime) -> Result<Self> {
        Ok(Self {
            keys: KeyIndex::new(rows, &spec.keys)?,
            order: Encoder::new(rows, &spec.order)?,
            life,
            of: Vec::new(),
            numbers: Vec::new(),
        })
    }

    /// The partition of each row of a batch, made where it is new; to be [given back](Keyed::give_back).
    pub fn resolve(&mut self, batch: &RecordBatch) -> Result<Vec<u32>> {
        let mut numbers = std::mem::take(&mut self.numbers);
        self.keys.resolve(batch, &mut numbers)?;
        self.of.resize_with(self.keys.bound(), P::default);
        self.life.grow(self.keys.bound());
        self.order.encode(batch)?;
        Ok(numbers)
    }

    /// Takes back what [`Keyed::resolve`] gave.
    pub fn give_back(&mut self, numbers: Vec<u32>) {
        self.numbers = numbers;
    }

    /// What was given back last.
    pub fn resolved(&self) -> &[u32] {
        &self.numbers
    }

    /// Ends a partition; its number may be given to another one.
    pub fn take(&mut self, number: u32) -> P {
        self.keys.remove(number);
        self.life.forget(number);
        std::mem::take(&mut self.of[number as usize])
    }

    /// Memory, without what the partitions hold beyond their own size.
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.order.bytes() + self.life.bytes() + self.of.capacity() * size_of::<P>()
    }
}
