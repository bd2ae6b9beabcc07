//! The state store against a plain map of rows.

mod compaction;
mod damage;
mod groups;
mod oracle;
mod sizes;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::{KeyEquality, OperatorSnapshot, StateChange, StateStore, StateTable};
use crate::env::Env;
use crate::error::Result;
use crate::time::Watermark;

/// Shape of a test table's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    /// One BIGINT, never null: 8 bytes.
    Narrow,
    /// A BIGINT and a SMALLINT that may be null.
    Medium,
    /// With a string.
    Wide,
}

/// A row of a test table: key number, part, text, time, value. The key consists of those of the first three that its kind
/// has.
type Row = (Option<i64>, Option<i16>, Option<String>, Option<i64>, i64);

fn table(kind: KeyKind, append_only: bool) -> StateTable {
    let fields = vec![
        Field::new("number", DataType::Int64, kind != KeyKind::Narrow),
        Field::new("part", DataType::Int16, true),
        Field::new("at", DataType::Int64, true),
        Field::new("value", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
    ];
    let key = match kind {
        KeyKind::Narrow => vec![0],
        KeyKind::Medium => vec![0, 1],
        KeyKind::Wide => vec![0, 4],
    };
    let schema = Arc::new(Schema::new(fields));
    StateTable { name: "rows", schema, routing: 1, key, time: Some(2), equality: KeyEquality::Bits, append_only }
}

/// Rows in the table's schema.
fn upserts(table: &StateTable, rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0))),
        Arc::new(arrow::array::Int16Array::from_iter(rows.iter().map(|row| row.1))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.3))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.4))),
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.2.clone()))),
    ];
    RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap()
}

/// The keys of rows as deletes.
fn deletes(table: &StateTable, rows: &[Row]) -> RecordBatch {
    upserts(table, rows).project(&table.delete_columns()).unwrap()
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let numbers = batch.column(0).as_primitive::<Int64Type>();
    let parts = batch.column(1).as_primitive::<arrow::datatypes::Int16Type>();
    let times = batch.column(2).as_primitive::<Int64Type>();
    let values = batch.column(3).as_primitive::<Int64Type>();
    let texts = batch.column(4).as_string::<i32>();
    let row = |i: usize| {
        let text = texts.iter().nth(i).unwrap().map(str::to_owned);
        (
            numbers.iter().nth(i).unwrap(),
            parts.iter().nth(i).unwrap(),
            text,
            times.iter().nth(i).unwrap(),
            values.value(i),
        )
    };
    (0..batch.num_rows()).map(row).collect()
}

fn change(upserts: Vec<RecordBatch>, deletes: Vec<RecordBatch>, cutoff: Watermark) -> StateChange {
    StateChange { table: 0, upserts, deletes, cutoff }
}

/// Numbered rows with values that do not compress.
fn numbered(range: std::ops::Range<i64>) -> Vec<Row> {
    range.map(|n| (Some(n), None, None, Some(n), n.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64))).collect()
}

fn in_memory() -> (Arc<dyn ObjectStore>, StateStore) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    (Arc::clone(&store), StateStore::new(store, Env::manual(0, 7)))
}

/// The rows of all shards, in order of shard; asserts that each row belongs to its shard.
async fn read_all(
    store: &StateStore,
    snapshot: &OperatorSnapshot,
    table: &StateTable,
    shards: usize,
) -> Result<Vec<RecordBatch>> {
    let mut all = Vec::new();
    for shard in 0..shards {
        let mut own = Vec::new();
        let collect = |rows| {
            own.push(rows);
            Ok(())
        };
        store.read(snapshot, table, shard, shards, collect).await?;
        for rows in &own {
            assert!(table.groups(rows)?.into_iter().all(|group| super::shard_of(group, shards) == shard));
        }
        all.extend(own);
    }
    Ok(all)
}

async fn sorted_rows(store: &StateStore, snapshot: &OperatorSnapshot, table: &StateTable, shards: usize) -> Vec<Row> {
    let read = read_all(store, snapshot, table, shards).await.unwrap();
    let mut rows: Vec<_> = read.iter().flat_map(rows_of).collect();
    rows.sort();
    rows
}

/// One epoch with upserts only.
fn only(upserts: RecordBatch) -> Vec<Vec<StateChange>> {
    vec![vec![change(vec![upserts], Vec::new(), Watermark::NONE)]]
}
