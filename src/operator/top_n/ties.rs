//! Rows with equal first bytes of their order values: compares them by all order values and all their columns as bytes.

use std::cmp::Ordering;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::list::{Entry, Facts};
use crate::error::Result;
use crate::operator::keyed::{Encoder, RowStore};
use crate::operator::spec::TopNSpec;

/// Encodes the bytes, of as few rows as ties require, and compares them.
#[derive(Debug)]
pub struct Ties {
    /// For one row.
    order: Encoder,
    one: Encoder,
    /// For the candidates of a batch, if there are `many` ties.
    batch: Encoder,
    /// The bytes of the current candidate; empty if not encoded.
    candidate: Vec<u8>,
    /// Number of comparisons for this batch.
    compared: usize,
    /// The previous batch took so many that it is cheaper to encode all rows at once.
    many: bool,
    /// Memory of the bytes that rows own.
    held: usize,
}

impl Ties {
    /// For rows of the schema `rows`.
    pub fn new(rows: &SchemaRef, spec: &TopNSpec) -> Result<Self> {
        let all: Vec<usize> = (0..rows.fields().len()).collect();
        let encoder = || Encoder::of_rows(rows, &all);
        Ok(Self {
            order: Encoder::new(rows, &spec.order)?,
            one: encoder()?,
            batch: encoder()?,
            candidate: Vec::new(),
            compared: 0,
            many: false,
            held: 0,
        })
    }

    /// Begins a batch of candidates.
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

    /// Compares the candidate, whose bytes must be encoded, to a stored row.
    fn compare(&mut self, rows: &RowStore, number: u32, facts: &mut Facts) -> Result<Ordering> {
        self.compared += 1;
        if facts.bytes.is_none() {
            let row = rows.gather(&[number])?;
            self.order.encode(&row)?;
            self.one.encode(&row)?;
            let bytes: Box<[u8]> = [self.order.row(0), self.one.row(0)].concat().into();
            self.held += bytes.len();
            facts.bytes = Some(bytes);
        }
        Ok(facts.bytes.as_deref().map_or(Ordering::Equal, |bytes| self.candidate.as_slice().cmp(bytes)))
    }

    /// The index in the list of a row that is equal in every column, or else the index at which candidate `at` of `batch`
    /// belongs.
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

    /// The bytes of the candidate, if a tie needed them, for the row that it becomes.
    pub fn made(&mut self) -> Option<Box<[u8]>> {
        self.held += self.candidate.len();
        (!self.candidate.is_empty()).then(|| self.candidate.as_slice().into())
    }

    /// Drops the bytes of a row that is removed.
    pub fn let_go(&mut self, facts: &mut Facts) {
        self.held -= facts.bytes.take().map_or(0, |bytes| bytes.len());
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.held + self.order.bytes() + self.one.bytes() + self.batch.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::compute::SortOptions;

    use super::*;
    use crate::operator::spec::RankFunction;
    use crate::operator::top_n::prefix;

    #[test]
    fn ties_are_told_apart_by_all_columns_and_what_they_take_is_counted() {
        let columns: [(&str, ArrayRef); 2] = [
            ("v", Arc::new(Int64Array::from(vec![7, 7, 7]))),
            ("text", Arc::new(StringArray::from(vec!["b", "a", "b"]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let spec = TopNSpec {
            input: rows.schema(),
            retract: false,
            function: RankFunction::RowNumber,
            keys: Vec::new(),
            routing: 0,
            order: vec![(0, SortOptions::default())],
            limit: 3,
            with_rank: false,
            closing: None,
            ttl: None,
            time: None,
            output: rows.schema(),
        };
        let mut order = Encoder::new(&rows.schema(), &spec.order).unwrap();
        order.encode(&rows).unwrap();
        let order = order.row(0);
        let mut store = RowStore::new(rows.schema());
        let number = store.reserve();
        store.fill(vec![number], rows.slice(0, 1));
        let list = [Entry { prefix: prefix(order), number, weight: 1, rank: 0, count: 0 }];
        let mut facts = [Facts::default()];
        let mut ties = Ties::new(&rows.schema(), &spec).unwrap();
        ties.begin(&rows).unwrap();
        for (at, place) in [(1, Err(0)), (2, Ok(0))] {
            ties.look_at(&rows, at, order).unwrap();
            assert!(ties.made().is_none());
            let found = ties.find(&list, (prefix(order), order), (&rows, at), &store, &mut facts).unwrap();
            assert_eq!(found, place, "row {at}");
        }
        let of_one = facts[0].bytes.as_ref().unwrap().len();
        assert_eq!(ties.held, of_one);
        let mut other = Facts { bytes: ties.made(), ..Facts::default() };
        assert_eq!(ties.held, 2 * of_one);
        ties.let_go(&mut other);
        ties.let_go(&mut facts[0]);
        assert_eq!(ties.held, 0);
    }
}
