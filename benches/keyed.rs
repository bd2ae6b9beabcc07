//! The cost of keyed state: CPU time per row and memory per key of deduplication and of the best row per key.
//!
//! CPU time is that of the main thread, so other load on the machine does not count. `--keys` (default 10 million), `--part
//! <name>`.

#![allow(clippy::allow_attributes, reason = "as in the other measurements")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement that cannot be made stops")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use weir::operator::spec::{DeduplicateEmit, DeduplicateSpec, RankFunction, TimeColumn, TopNSpec};
use weir::operator::{Operator, Tick, WEIGHT, deduplicate, top_n};
use weir::time::{EventTime, Lag, Watermark};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of a micro-batch.
const STEP: u64 = 10_000;

fn main() {
    let argument = |name: &str| std::env::args().skip_while(|argument| argument != name).nth(1);
    let keys: u64 = argument("--keys").and_then(|value| value.parse().ok()).unwrap_or(10_000_000);
    let part = argument("--part").unwrap_or_default();
    println!("measurement                                   ns a row   bytes a key   resident bytes a key");
    let all: [(&str, &dyn Fn()); 6] = [
        ("string", &|| distinct("dedup, distinct strings, 24 h", keys, Some(24), string_key)),
        ("bigint", &|| distinct("dedup, distinct bigints, 24 h", keys, Some(24), bigint_key)),
        ("ever", &|| distinct("dedup, distinct strings, for ever", keys, None, string_key)),
        ("rolling", &|| distinct("dedup, distinct strings, forgotten after 1 h", keys, Some(1), string_key)),
        ("waiting", &|| waiting(keys / 10)),
        ("best", &|| best(keys / 2)),
    ];
    for (name, measure) in all {
        if part.is_empty() || part == name {
            measure();
        }
    }
}

fn string_key(i: u64) -> ArrayRef {
    let keys = (i..i + STEP).map(|i| format!("{:010x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24));
    Arc::new(StringArray::from_iter_values(keys))
}

fn bigint_key(i: u64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values((i..i + STEP).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64)))
}

fn schema(key: &ArrayRef) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", key.data_type().clone(), true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("amount", DataType::Int64, true),
    ]))
}

/// Rows a millisecond apart.
fn rows(key: ArrayRef, from: u64) -> RecordBatch {
    let schema = schema(&key);
    let times: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from_iter_values((from..from + STEP).map(|i| i as i64 * 1000)));
    let amounts: ArrayRef = Arc::new(Int64Array::from_iter_values((from..from + STEP).map(|i| i as i64)));
    RecordBatch::try_new(schema, vec![key, times, amounts]).unwrap()
}

/// Runs `steps` micro-batches and prints their cost per row and per key.
fn measure(name: &str, make: &dyn Fn() -> Box<dyn Operator>, steps: u64, input: impl Fn(u64) -> RecordBatch) {
    let mut operator = make();
    let resident = resident_bytes();
    let (mut spent, mut before, mut slowest) = (0, Watermark::NONE, 0);
    for step in 0..steps {
        let batch = input(step * STEP);
        let watermark = Watermark((step * STEP) as i64 * 1000);
        let start = cpu_ns();
        operator.step(vec![vec![batch]], Tick { before, watermark, now: EventTime(0) }).unwrap();
        let took = cpu_ns() - start;
        (spent, before, slowest) = (spent + took, watermark, slowest.max(took));
    }
    let usage = operator.usage();
    let keys = usage.rows.max(1) as f64;
    let grown = resident_bytes().saturating_sub(resident);
    println!(
        "{name:<45} {:>8.0} {:>13.1} {:>22.1}   slowest step {:.1} ms, {} keys",
        spent as f64 / (steps * STEP) as f64,
        usage.bytes as f64 / keys,
        grown as f64 / keys,
        slowest as f64 / 1e6,
        usage.rows
    );
    let start = cpu_ns();
    let changes = operator.changes().unwrap();
    let wrote = cpu_ns() - start;
    let mut restored = make();
    let (mut rows, start) = (0, cpu_ns());
    for change in changes {
        for batch in change.upserts {
            rows += batch.num_rows();
            restored.restore(change.table, batch, before).unwrap();
        }
    }
    let restoring = cpu_ns() - start;
    if rows > 0 {
        let each = |ns: u64| ns as f64 / rows as f64;
        println!("    all of it written: {:.0} ns a row, read back: {:.0} ns a row", each(wrote), each(restoring));
    }
}

fn deduplication(key: &ArrayRef, hours: Option<i64>, emit: DeduplicateEmit) -> Box<dyn Operator> {
    let (input, time) = (schema(key), Some(TimeColumn { column: 1, lag: Lag(0) }));
    let within = hours.map(|hours| Lag(hours * 3_600_000_000));
    deduplicate(DeduplicateSpec { input, keys: vec![0], time, within, emit }).unwrap()
}

fn distinct(name: &str, keys: u64, hours: Option<i64>, key: fn(u64) -> ArrayRef) {
    let make = || deduplication(&key(0), hours, DeduplicateEmit::OnArrival);
    measure(name, &make, keys / STEP, |from| rows(key(from), from));
}

fn waiting(keys: u64) {
    let make = || deduplication(&string_key(0), Some(24), DeduplicateEmit::OnWatermark);
    measure("dedup by watermark, distinct strings", &make, keys / STEP, |from| rows(string_key(from), from));
}

fn best(count: u64) {
    let key = |from: u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(
            (from..from + STEP).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as i64 % 100_000),
        ))
    };
    for (name, descending) in [("last row per key, 100,000 keys", true), ("first row per key, 100,000 keys", false)] {
        let input = schema(&key(0));
        let mut fields: Vec<_> = input.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
        let spec = |limit| TopNSpec {
            input: Arc::clone(&input),
            retract: false,
            function: RankFunction::RowNumber,
            keys: vec![0],
            routing: 1,
            order: vec![(1, SortOptions { descending, nulls_first: false })],
            limit,
            with_rank: false,
            closing: None,
            ttl: None,
            time: None,
            output: Arc::new(Schema::new(fields.clone())),
        };
        measure(name, &|| top_n(spec(1)).unwrap(), count / STEP, |from| rows(key(from), from));
        let name = format!("{} of 10", name.replace("row per", "10 rows per"));
        measure(&name, &|| top_n(spec(10)).unwrap(), count / STEP / 5, |from| rows(key(from), from));
    }
}

/// CPU time of this thread.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
