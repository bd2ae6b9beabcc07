//! Runs an operator in shards as a dataflow would, with its state written and restored, for oracle tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int64Array, ListArray, StringArray, StringViewArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::utils::normalize_float_zero;
use datafusion::prelude::SessionContext;
use rand::Rng;
use rand::rngs::StdRng;

use super::{Encoder, micros};
use crate::operator::{Operator, Tick};
use crate::state::{key_groups, shard_of};
use crate::time::{EventTime, Watermark};

/// Creates an instance.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Operator>;

/// Rows of a state table by their key, each a batch of one row.
type Table = BTreeMap<Vec<u8>, RecordBatch>;

/// A sharded operator with its state store.
pub struct Flow<'a> {
    make: Make<'a>,
    routing: Vec<usize>,
    shards: Vec<Box<dyn Operator>>,
    tables: Vec<Table>,
    /// The watermark after the last step.
    pub watermark: Watermark,
    pub now: EventTime,
    pub rows: Vec<RecordBatch>,
    pub late: Vec<RecordBatch>,
}

impl<'a> Flow<'a> {
    /// One shard of an operator from `make`; `routing` are the input columns that route.
    pub fn new(make: Make<'a>, routing: &[usize]) -> Self {
        let operator = make();
        let tables = vec![Table::new(); operator.state().len()];
        Self {
            make,
            routing: routing.to_vec(),
            shards: vec![operator],
            tables,
            watermark: Watermark::NONE,
            now: EventTime(0),
            rows: Vec::new(),
            late: Vec::new(),
        }
    }

    /// A step with these batches, each divided by shard; returns the emitted rows.
    pub fn step(&mut self, batches: &[RecordBatch], watermark: Watermark) -> Vec<RecordBatch> {
        let tick = Tick { before: self.watermark, watermark, now: self.now };
        let count = self.shards.len();
        let mut out = Vec::new();
        for (shard, operator) in self.shards.iter_mut().enumerate() {
            let part = |batch: &RecordBatch| shard_part(batch, &self.routing, shard, count);
            let stepped = operator.step(vec![batches.iter().map(part).collect()], tick).unwrap();
            out.extend(stepped.rows);
            self.late.extend(stepped.late.into_iter().map(|(port, rows)| {
                assert_eq!(port, 0);
                rows
            }));
        }
        self.watermark = watermark;
        self.rows.extend(out.iter().cloned());
        out
    }

    /// Writes the changes to the store.
    pub fn save(&mut self) {
        let specs = self.shards[0].state();
        let mut cutoffs = vec![Watermark::NONE; specs.len()];
        let mut seen = vec![BTreeMap::new(); specs.len()];
        for operator in &mut self.shards {
            for change in operator.changes().unwrap() {
                let spec = &specs[change.table];
                let table = &mut self.tables[change.table];
                cutoffs[change.table] = cutoffs[change.table].max(change.cutoff);
                for rows in change.upserts.iter().filter(|rows| rows.num_rows() > 0) {
                    assert_eq!(rows.schema(), spec.schema);
                    for (row, key) in keys_of(rows, &spec.key).into_iter().enumerate() {
                        assert!(seen[change.table].insert(key.clone(), ()).is_none(), "a key is written twice at once");
                        let old = table.insert(key, rows.slice(row, 1));
                        assert!(!(spec.append_only && old.is_some()), "a key of an append-only table is written again");
                    }
                }
                for rows in change.deletes.iter().filter(|rows| rows.num_rows() > 0) {
                    assert!(!spec.append_only);
                    let mut order: Vec<usize> = (0..spec.routing).collect();
                    order.extend(spec.key.iter().copied().filter(|column| *column >= spec.routing));
                    let places: Vec<usize> =
                        spec.key.iter().map(|k| order.iter().position(|o| o == k).unwrap()).collect();
                    for key in keys_of(rows, &places) {
                        assert!(seen[change.table].insert(key.clone(), ()).is_none(), "a key is deleted twice at once");
                        assert!(table.remove(&key).is_some(), "a key is deleted that was not there");
                    }
                }
            }
        }
        for (spec, (table, cutoff)) in specs.iter().zip(self.tables.iter_mut().zip(cutoffs)) {
            if let Some(time) = spec.time {
                table.retain(|_, row| !EventTime(micros(row, time).unwrap().value(0)).is_below(cutoff));
            }
        }
    }

    /// Drops the instances and restores the state into `shards` new ones, in batches of random size and order.
    pub fn rebuild(&mut self, shards: usize, rng: &mut StdRng) {
        self.shards = (0..shards).map(|_| (self.make)()).collect();
        let specs = self.shards[0].state();
        for (at, spec) in specs.iter().enumerate() {
            let mut rows: Vec<&RecordBatch> = self.tables[at].values().collect();
            for i in (1..rows.len()).rev() {
                rows.swap(i, rng.random_range(0..=i));
            }
            let routing: Vec<usize> = (0..spec.routing).collect();
            while !rows.is_empty() {
                let some = rows.split_off(rows.len() - rng.random_range(1..=rows.len().min(40)));
                let batch = concat_batches(&spec.schema, some).unwrap();
                for (shard, operator) in self.shards.iter_mut().enumerate() {
                    let part = shard_part(&batch, &routing, shard, shards);
                    operator.restore(at, part, self.watermark).unwrap();
                }
            }
        }
    }

    /// Rows in state, over all shards and in the store.
    pub fn remembered(&self) -> (u64, u64) {
        let live = self.shards.iter().map(|shard| shard.usage().rows).sum();
        (live, self.tables.iter().map(|table| table.len() as u64).sum())
    }

    /// Memory over all shards.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.usage().bytes).sum()
    }
}

fn shard_part(batch: &RecordBatch, routing: &[usize], shard: usize, shards: usize) -> RecordBatch {
    let columns: Vec<ArrayRef> = routing.iter().map(|&column| normalize_float_zero(batch.column(column))).collect();
    let groups = key_groups(&columns, batch.num_rows()).unwrap();
    let rows = (0..batch.num_rows() as u32).filter(|&row| shard_of(groups[row as usize], shards) == shard);
    take_record_batch(batch, &UInt32Array::from_iter_values(rows)).unwrap()
}

fn keys_of(rows: &RecordBatch, columns: &[usize]) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::of_rows(&rows.schema(), columns).unwrap();
    encoder.encode(rows).unwrap();
    (0..rows.num_rows()).map(|row| encoder.row(row).to_vec()).collect()
}

/// Rows as strings, with their counts: summed from the last column if `weighted`. Zero counts are left out.
pub fn consolidated(batches: &[RecordBatch], weighted: bool) -> BTreeMap<String, i64> {
    let mut rows = BTreeMap::new();
    for batch in batches {
        let width = batch.num_columns() - usize::from(weighted);
        let options = FormatOptions::default().with_null("null");
        let cells: Vec<_> =
            batch.columns()[..width].iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let text: Vec<String> = cells.iter().map(|cell| cell.value(row).to_string()).collect();
            let weight = if weighted { micros(batch, width).unwrap().value(row) } else { 1 };
            *rows.entry(text.join("|")).or_insert(0) += weight;
        }
    }
    rows.retain(|_, count| *count != 0);
    rows
}

/// DataFusion's result in batch, over the rows as table `t`.
pub fn batch_sql(rows: &RecordBatch, sql: &str) -> BTreeMap<String, i64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let out = runtime.block_on(async {
        let context = SessionContext::new();
        context.register_batch("t", rows.clone()).unwrap();
        context.sql(sql).await.unwrap().collect().await.unwrap()
    });
    consolidated(&out, false)
}

/// Fails with the rows that differ, if any.
pub fn assert_same(got: &BTreeMap<String, i64>, wanted: &BTreeMap<String, i64>, seed: u64) {
    let without = |all: &BTreeMap<String, i64>, other: &BTreeMap<String, i64>| -> Vec<(String, i64)> {
        all.iter().filter(|(row, n)| other.get(*row) != Some(*n)).map(|(row, n)| (row.clone(), *n)).collect()
    };
    let (more, missing) = (without(got, wanted), without(wanted, got));
    assert!(more.is_empty() && missing.is_empty(), "seed {seed}: got {more:?} instead of {missing:?}");
    assert!(!wanted.is_empty());
}

/// `k STRING, ts TIMESTAMP, v DOUBLE, n BIGINT, id BIGINT`: `n` has few values, `id` numbers the rows.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Utf8, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("v", DataType::Float64, true),
        Field::new("n", DataType::Int64, true),
        Field::new("id", DataType::Int64, true),
    ]))
}

/// Column numbers of [`schema`].
pub const K: usize = 0;
pub const TS: usize = 1;
pub const V: usize = 2;
pub const N: usize = 3;
pub const ID: usize = 4;

/// Random rows of [`schema`]: skewed keys with nulls, times up to `disorder` behind, values with null, NaN, and zeros of
/// both signs.
pub fn random_rows(rng: &mut StdRng, count: usize, disorder: i64) -> RecordBatch {
    let keys = rng.random_range(1..30_u32);
    let pace = *[1, 5, 40].get(rng.random_range(0..3)).unwrap();
    let (mut k, mut ts, mut v, mut n) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in 0..count {
        let skewed = rng.random_range(0..keys).min(rng.random_range(0..keys));
        k.push((!rng.random_bool(0.05)).then(|| format!("key {skewed}")));
        ts.push(1000 + row as i64 * pace / 2 - rng.random_range(0..=disorder));
        v.push(match rng.random_range(0..12) {
            0 => None,
            1 => Some(f64::NAN),
            2 => Some(-0.0),
            3 => Some(0.0),
            _ => Some(f64::from(rng.random_range(-5..5))),
        });
        n.push((!rng.random_bool(0.1)).then(|| rng.random_range(0..4)));
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(k)),
        Arc::new(TimestampMicrosecondArray::from(ts)),
        Arc::new(Float64Array::from(v)),
        Arc::new(Int64Array::from(n)),
        Arc::new(Int64Array::from_iter_values(0..count as i64)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Random rows `a STRING VIEW, b DICTIONARY, c LIST, ts BIGINT`, with nulls and strings too long to be inlined.
pub fn rows_of_odd_types(rng: &mut StdRng, count: usize) -> RecordBatch {
    let text = |n: u32| format!("{n}{}", " and so on".repeat(n as usize % 4));
    let mut pick =
        |null: f64| (0..count).map(|_| (!rng.random_bool(null)).then(|| rng.random_range(0..5_u32))).collect();
    let (a, b, c): (Vec<_>, Vec<_>, Vec<_>) = (pick(0.1), pick(0.1), pick(0.1));
    let a: StringViewArray = a.into_iter().map(|n| n.map(text)).collect();
    let b: DictionaryArray<Int32Type> =
        b.into_iter().map(|n| n.map(text)).collect::<Vec<_>>().iter().map(|t| t.as_deref()).collect();
    let lists = c.into_iter().map(|n| n.map(|n| (0..n as i64 % 3).map(Some).collect::<Vec<_>>()));
    let c = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
    let ts = Int64Array::from_iter_values(0..count as i64);
    let columns: [(&str, ArrayRef); 4] =
        [("a", Arc::new(a)), ("b", Arc::new(b)), ("c", Arc::new(c)), ("ts", Arc::new(ts))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// Runs all rows in random micro-batches, some empty, with random saves and rebuilds, then ends time. No row is late if none
/// is more than `disorder` behind; the watermark is ahead of that by `lead`.
pub fn feed(flow: &mut Flow<'_>, rows: &RecordBatch, time: usize, disorder: i64, lead: i64, rng: &mut StdRng) {
    let times = micros(rows, time).unwrap();
    let (mut at, mut highest) = (0, None);
    let largest = *[3, 20, 100].get(rng.random_range(0..3)).unwrap();
    while at < rows.num_rows() {
        let mut batches = Vec::new();
        for _ in 0..rng.random_range(0..3) {
            let len = rng.random_range(0..=largest).min(rows.num_rows() - at);
            batches.push(rows.slice(at, len));
            highest = times.values()[at..at + len].iter().copied().max().max(highest);
            at += len;
        }
        // Future rows are not older than the newest one so far minus the disorder.
        let promised = highest.map_or(Watermark::NONE, |highest| Watermark(highest - disorder + lead));
        let watermark = if rng.random_bool(0.8) { promised.max(flow.watermark) } else { flow.watermark };
        flow.step(&batches, watermark);
        if rng.random_bool(0.3) {
            flow.save();
            if rng.random_bool(0.5) {
                flow.rebuild(rng.random_range(1..5), rng);
            }
        }
    }
    flow.step(&[], Watermark::END);
}
