//! Rows that cannot be told apart by the first bytes of their order values: their order values and all their columns as bytes.

use std::cmp::Ordering;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::list::{Entry, Facts};
use crate::error::Result;
use crate::operator::keyed::{Encoder, RowStore};
use crate::operator::spec::TopNSpec;

/// Makes the bytes, of as few rows as ties ask for, and compares them.
#[derive(Debug)]
pub struct Ties {
    /// Of one row.
    order: Encoder,
    one: Encoder,
    /// Of the candidates of a batch, if there are `many` ties.
    batch: Encoder,
    /// Of the candidate that is being looked at; empty = not made.
    candidate: Vec<u8>,
    /// How many comparisons this batch took.
    compared: usize,
    /// The batch before took so many that it is cheaper to make the bytes of all rows at once.
    many: bool,
}

impl Ties {
    /// For rows of the schema `rows`.
    pub fn new(rows: &SchemaRef, spec: &TopNSpec) -> Result<Self> {
        let all: Vec<usize> = (0..rows.fields().len()).collect();
        let encoder = || Encoder::of_keys(rows, &all);
        Ok(Self {
            order: Encoder::new(rows, &spec.order)?,
            one: encoder()?,
            batch: encoder()?,
            candidate: Vec::new(),
            compared: 0,
            many: false,
        })
    }

    /// Begins with a batch of candidates.
    pub fn begin(&mut self, batch: &RecordBatch) -> Result<()> {
        self.many = self.compared * 16 > batch.num_rows();
        self.compared = 0;
        if self.many { self.batch.encode(batch) } else { Ok(()) }
    }

    /// Begins with candidate `at` of `batch`.
    pub fn look_at(&mut self, batch: &RecordBatch, at: usize, order: &[u8]) -> Result<()> {
        self.candidate.clear();
        if self.many { self.make(batch, at, order) } else { Ok(()) }
    }

    fn make(&mut self, batch: &RecordBatch, at: usize, order: &[u8]) -> Result<()> {
        if !self.candidate.is_empty() {
            return Ok(());
        }
        self.candidate.extend_from_slice(order);
        if self.many {
            self.candidate.extend_from_slice(self.batch.row(at));
        } else {
            self.one.encode(&batch.slice(at, 1))?;
            self.candidate.extend_from_slice(self.one.row(0));
        }
        Ok(())
    }

    /// How the candidate, whose bytes are made, stands to a remembered row.
    fn compare(&mut self, rows: &RowStore, number: u32, facts: &mut Facts) -> Result<Ordering> {
        self.compared += 1;
        if facts.bytes.is_none() {
            let row = rows.gather(&[number])?;
            self.order.encode(&row)?;
            self.one.encode(&row)?;
            facts.bytes = Some([self.order.row(0), self.one.row(0)].concat().into());
        }
        Ok(facts.bytes.as_deref().map_or(Ordering::Equal, |bytes| self.candidate.as_slice().cmp(bytes)))
    }

    /// Where in a list a row equal in every column is, or else where candidate `at` of `batch` belongs.
    pub fn find(
        &mut self,
        list: &[Entry],
        (prefix, order): (u128, &[u8]),
        (batch, at): (&RecordBatch, usize),
        rows: &RowStore,
        facts: &mut [Facts],
    ) -> Result<Result<usize, usize>> {
        let mut low = list.partition_point(|row| row.prefix < prefix);
        let mut high = low + list[low..].partition_point(|row| row.prefix == prefix);
        if low < high {
            self.make(batch, at, order)?;
        }
        while low < high {
            let middle = low.midpoint(high);
            let number = list[middle].number;
            match self.compare(rows, number, &mut facts[number as usize])? {
                Ordering::Less => high = middle,
                Ordering::Greater => low = middle + 1,
                Ordering::Equal => return Ok(Ok(middle)),
            }
        }
        Ok(Err(low))
    }

    /// The bytes of the candidate, if a tie has asked for them.
    pub fn made(&self) -> Option<Box<[u8]>> {
        (!self.candidate.is_empty()).then(|| self.candidate.as_slice().into())
    }
}
