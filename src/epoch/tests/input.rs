//! The rows of random pipelines' sources: skewed keys, nulls, NaN, copies, rows out of order up to the watermark's lag and far beyond it.
//!
//! A source is a log of a few partitions that grows as it is read, so that rows can be put where they are late for certain: after an
//! epoch whose watermark is past them was committed, from where on no restart reads again.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use rand::Rng;
use rand::rngs::StdRng;

use super::queries::Shape;
use crate::sql::types::timestamp;

const MICROS: i64 = 1_000_000;
/// Declarations of the generated sources.
pub const LAG: i64 = 10 * MICROS;
const DAY: i64 = 86_400 * MICROS;
/// 2026-01-01T00:00:00Z.
pub const BEGINNING: i64 = 1_767_225_600 * MICROS;

/// One row, before it is in a column.
#[derive(Debug, Clone)]
struct Row {
    id: i64,
    k: Option<i64>,
    g: Option<String>,
    v: Option<f64>,
    n: Option<i64>,
    ts: Option<i64>,
}

/// A source's rows: those that count, in the order of their arrival, and those that must be dropped.
#[derive(Debug)]
pub struct Log {
    /// Rows that count, then rows that do not.
    all: RecordBatch,
    counted: usize,
    /// The partition of each row that counts.
    partition: Vec<usize>,
    /// Number of these in the log.
    taken: usize,
    /// Number of the others.
    dropped: usize,
    /// The log, per partition: rows by number.
    pub partitions: Vec<Vec<u32>>,
}

impl Log {
    /// The rows of source number `source`, none of them in the log yet.
    pub fn new(random: &mut StdRng, schema: &SchemaRef, source: usize, shape: Shape) -> Self {
        let partitions = if shape.ordered { 1 } else { random.random_range(1..=3) };
        let keys = random.random_range(2..12);
        let pace = [100, 400, 900][random.random_range(0..3)] * 1_000;
        let (mut rows, mut partition): (Vec<Row>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut newest = vec![i64::MIN; partitions];
        for number in 0..shape.rows as i64 {
            let behind = match (shape.ordered, random.random_range(0..4)) {
                (true, _) | (_, 0) => 0,
                (_, 1) => LAG,
                _ => random.random_range(0..=LAG),
            };
            // The last digits tell rows and sources apart: no two have one time.
            let ts = BEGINNING + number * pace - behind + number * 3 + source as i64;
            let row = row(random, source as i64 * 100_000 + number, keys, shape, Some(ts));
            let to = random.random_range(0..partitions).min(random.random_range(0..partitions));
            newest[to] = newest[to].max(ts);
            rows.push(row);
            partition.push(to);
            if !shape.ordered && random.random_bool(0.08) {
                let copy = rows[rows.len() - 1 - random.random_range(0..rows.len().min(6))].clone();
                let to = random.random_range(0..partitions);
                if copy.ts.is_some_and(|ts| ts >= newest[to].saturating_sub(LAG)) {
                    newest[to] = newest[to].max(copy.ts.unwrap_or_default());
                    rows.push(copy);
                    partition.push(to);
                }
            }
        }
        let counted = rows.len();
        if shape.late {
            for number in 0..12 {
                let ts = (number % 3 > 0).then(|| BEGINNING - DAY - number * MICROS);
                let id = source as i64 * 100_000 + number * 5;
                rows.push(row(random, id, keys, shape, ts));
            }
        }
        let all = batch(schema, &rows);
        Self { all, counted, partition, taken: 0, dropped: 0, partitions: vec![Vec::new(); partitions] }
    }

    /// The rows that count.
    pub fn counted(&self) -> RecordBatch {
        self.all.slice(0, self.counted)
    }

    /// Rows in the log that are late. Rows without a time lie in no window, which is not late.
    pub fn late(&self) -> usize {
        let timed = |row: &usize| self.all["ts"].is_valid(self.counted + row);
        (0..self.dropped).filter(timed).count()
    }

    /// Appends up to `count` rows to the log; `surely_late` when rows that are a day old may be among them.
    pub fn grow(&mut self, random: &mut StdRng, count: usize, surely_late: bool) {
        for _ in 0..count {
            if self.counted + self.dropped < self.all.num_rows() && surely_late && random.random_bool(0.15) {
                let to = random.random_range(0..self.partitions.len());
                self.partitions[to].push((self.counted + self.dropped) as u32);
                self.dropped += 1;
            } else if self.taken < self.counted {
                self.partitions[self.partition[self.taken]].push(self.taken as u32);
                self.taken += 1;
            }
        }
    }

    /// True when a partition has rows from `position` on, in the log or to come.
    pub fn is_open(&self, partition: usize, position: usize) -> bool {
        position < self.partitions[partition].len() || self.partition[self.taken..].contains(&partition)
    }

    /// Up to `count` rows of a partition from `position` on.
    pub fn read(&self, partition: usize, position: usize, count: usize) -> RecordBatch {
        let log = &self.partitions[partition];
        let end = log.len().min(position + count);
        take_record_batch(&self.all, &UInt32Array::from(log[position.min(end)..end].to_vec())).unwrap()
    }
}

fn row(random: &mut StdRng, id: i64, keys: i64, shape: Shape, ts: Option<i64>) -> Row {
    let key = random.random_range(0..keys).min(random.random_range(0..keys));
    Row {
        id,
        k: (!random.random_bool(0.05)).then_some(key),
        g: (!random.random_bool(0.1)).then(|| format!("g{}", random.random_range(0..4))),
        v: match random.random_range(0..14) {
            0 => None,
            1 if shape.nan => Some(f64::NAN),
            2 => Some(-0.0),
            3 => Some(0.0),
            // Quarters: their sums are exact in any order.
            _ => Some(f64::from(random.random_range(-80..80)) / 4.0),
        },
        n: (!random.random_bool(0.08)).then(|| random.random_range(0..6)),
        ts,
    }
}

fn batch(schema: &SchemaRef, rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.id)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.k).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.g.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.v).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.n).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.ts).collect::<TimestampMicrosecondArray>().with_data_type(timestamp())),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

/// The rows of the table that streams are joined to: a key twice, one that is null, some that are missing.
pub fn dim() -> RecordBatch {
    let keys = [Some(0), Some(1), Some(1), Some(2), Some(4), Some(5), None, Some(9)];
    let labels = keys.iter().enumerate().map(|(row, _)| (row != 3).then(|| format!("g{row}")));
    let rates = keys.iter().enumerate().map(|(row, _)| (row != 4).then_some(row as f64 - 3.0));
    RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(Int64Array::from(keys.to_vec())) as ArrayRef, true),
        ("label", Arc::new(labels.collect::<StringArray>()) as ArrayRef, true),
        ("rate", Arc::new(rates.collect::<Float64Array>()) as ArrayRef, true),
    ])
    .unwrap()
}

/// Batches as one.
pub fn joined(schema: &SchemaRef, batches: &[RecordBatch]) -> RecordBatch {
    concat_batches(schema, batches).unwrap()
}
