//! A group of shards with a substitute for the store: changes are kept, and restored to other shards.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::row::{RowConverter, SortField};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::operator::aggregate::{sharing, times::microseconds};
use crate::operator::spec::AggregateSpec;
use crate::operator::{Operator, Stepped, Tick};
use crate::state::{StateTable, key_groups, shard_of};
use crate::time::{EventTime, Watermark};

pub struct Shards {
    spec: AggregateSpec,
    worthwhile: usize,
    shards: Vec<Box<dyn Operator>>,
    tables: Vec<Kept>,
}

/// One stored table.
struct Kept {
    table: StateTable,
    key: RowConverter,
    whole: RowConverter,
    /// Key bytes to row bytes and time.
    rows: BTreeMap<Vec<u8>, (Vec<u8>, i64)>,
}

impl Kept {
    fn new(table: StateTable) -> Self {
        let converter = |columns: &[usize]| {
            let field = |column: &usize| SortField::new(table.schema.field(*column).data_type().clone());
            RowConverter::new(columns.iter().map(field).collect()).unwrap()
        };
        let all: Vec<usize> = (0..table.schema.fields().len()).collect();
        // Deletes hold the routing columns, then the rest of the key.
        assert_eq!(table.key[..table.routing], all[..table.routing]);
        Self { key: converter(&table.key), whole: converter(&all), rows: BTreeMap::new(), table }
    }

    fn keys(&self, columns: &[ArrayRef], rows: usize) -> Vec<Vec<u8>> {
        if columns.is_empty() {
            return vec![vec![]; rows];
        }
        self.key.convert_columns(columns).unwrap().iter().map(|row| row.data().to_vec()).collect()
    }

    fn upsert(&mut self, rows: &RecordBatch) {
        assert_eq!(rows.schema(), self.table.schema);
        let key_columns: Vec<_> = self.table.key.iter().map(|column| rows.column(*column).clone()).collect();
        let whole = self.whole.convert_columns(rows.columns()).unwrap();
        let times = self.table.time.map_or_else(
            || Int64Array::from(vec![i64::MAX; rows.num_rows()]),
            |time| microseconds(rows.column(time)).unwrap(),
        );
        for (row, key) in self.keys(&key_columns, rows.num_rows()).into_iter().enumerate() {
            self.rows.insert(key, (whole.row(row).data().to_vec(), times.value(row)));
        }
    }

    fn delete(&mut self, keys: &RecordBatch) {
        for key in self.keys(keys.columns(), keys.num_rows()) {
            assert!(self.rows.remove(&key).is_some(), "a row that was never written is said to be gone");
        }
    }

    fn cut(&mut self, cutoff: Watermark) {
        self.rows.retain(|_, (_, time)| !EventTime(*time).is_below(cutoff));
    }

    fn read(&self, random: &mut StdRng) -> Vec<RecordBatch> {
        let parser = self.whole.parser();
        let mut rows: Vec<_> = self.rows.values().map(|(row, _)| parser.parse(row)).collect();
        rows.shuffle(random);
        let mut batches = Vec::new();
        while !rows.is_empty() {
            let part = rows.split_off(rows.len() - random.random_range(1..=rows.len()));
            let columns = self.whole.convert_rows(part).unwrap();
            batches.push(RecordBatch::try_new(self.table.schema.clone(), columns).unwrap());
        }
        batches
    }
}

impl Shards {
    pub fn new(spec: &AggregateSpec, shards: usize, worthwhile: usize) -> Self {
        let shards: Vec<_> = (0..shards).map(|_| sharing(spec.clone(), worthwhile).unwrap()).collect();
        let tables = shards[0].state().into_iter().map(Kept::new).collect();
        Self { spec: spec.clone(), worthwhile, shards, tables }
    }

    /// Passes to each shard its rows.
    pub fn step(&mut self, batches: &[RecordBatch], tick: Tick) -> Stepped {
        let routing: Vec<usize> = self.spec.keys[..self.spec.routing].to_vec();
        let mut stepped = Stepped::default();
        let count = self.shards.len();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let own = batches.iter().map(|batch| own(batch, &routing, number, count)).collect();
            let result = shard.step(vec![own], tick).unwrap();
            let mut last = i64::MIN;
            for rows in &result.rows {
                assert_eq!(rows.schema(), self.spec.output);
                if let Some(closing) = self.spec.closing {
                    let key = self.spec.keys.iter().position(|key| *key == closing.column).unwrap();
                    for value in microseconds(rows.column(key)).unwrap().values() {
                        assert!(last <= *value, "windows come in order");
                        last = *value;
                    }
                }
            }
            stepped.rows.extend(result.rows);
            stepped.late.extend(result.late);
        }
        stepped
    }

    /// Applies the shards' changes to the kept tables.
    pub fn snapshot(&mut self) {
        for shard in &mut self.shards {
            for change in shard.changes().unwrap() {
                let kept = &mut self.tables[change.table];
                change.deletes.iter().for_each(|keys| kept.delete(keys));
                change.upserts.iter().for_each(|rows| kept.upsert(rows));
                kept.cut(change.cutoff);
            }
        }
    }

    /// Restarts from the kept tables, with another number of shards.
    pub fn restart(&mut self, random: &mut StdRng, shards: usize, watermark: Watermark) {
        let before = self.rows();
        self.shards = (0..shards).map(|_| sharing(self.spec.clone(), self.worthwhile).unwrap()).collect();
        let mut order: Vec<usize> = (0..self.tables.len()).collect();
        order.shuffle(random);
        for number in order {
            let routing: Vec<usize> = (0..self.tables[number].table.routing).collect();
            for rows in self.tables[number].read(random) {
                for (shard, operator) in self.shards.iter_mut().enumerate() {
                    operator.restore(number, own(&rows, &routing, shard, shards), watermark).unwrap();
                }
            }
        }
        assert_eq!(self.rows(), before, "as many rows are remembered after a restart");
    }

    pub fn rows(&self) -> u64 {
        self.shards.iter().map(|shard| shard.usage().rows).sum()
    }
}

/// The rows of a batch that belong to a shard.
fn own(batch: &RecordBatch, routing: &[usize], shard: usize, shards: usize) -> RecordBatch {
    let columns: Vec<_> = routing.iter().map(|column| batch.column(*column).clone()).collect();
    let groups = key_groups(&columns, batch.num_rows()).unwrap();
    let rows = (0..groups.len()).filter(|row| shard_of(groups[*row], shards) == shard);
    take_record_batch(batch, &UInt32Array::from_iter_values(rows.map(|row| row as u32))).unwrap()
}
