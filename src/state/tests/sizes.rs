//! Sizes of files, and the part of them that is read for a few key groups.

use std::collections::BTreeMap;

use arrow::array::{StringViewArray, UInt64Array};
use arrow::compute::take_record_batch;

use super::*;
use crate::state::file::Kind;
use crate::state::{Epoch, KEY_GROUPS, KeyEquality, groups_of};
use crate::time::Watermark;

const ROWS: i64 = 50_000;

/// Numbers and strings of 36 bytes.
fn table() -> StateTable {
    let fields = vec![Field::new("number", DataType::Int64, false), Field::new("text", DataType::Utf8View, false)];
    StateTable {
        name: "rows",
        schema: Arc::new(Schema::new(fields)),
        routing: 1,
        key: vec![0],
        time: None,
        equality: KeyEquality::Bits,
        append_only: true,
    }
}

fn rows(table: &StateTable) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..ROWS)),
        Arc::new(StringViewArray::from_iter_values((0..ROWS).map(|row| format!("{row:036}")))),
    ];
    RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap()
}

async fn written(table: &StateTable, upserts: Vec<RecordBatch>) -> (StateStore, OperatorSnapshot) {
    let store = StateStore::new(Arc::new(InMemory::new()), Env::manual(0, 1));
    let change = StateChange { table: 0, upserts, deletes: Vec::new(), cutoff: Watermark::NONE };
    let tables = std::slice::from_ref(table);
    let snapshot = store.write("op", Epoch(1), tables, None, vec![vec![change]]).await.unwrap();
    (store, snapshot)
}

fn size(snapshot: &OperatorSnapshot) -> u64 {
    snapshot.files().map(|file| file.bytes).sum()
}

#[tokio::test]
async fn a_file_holds_the_rows_and_not_what_their_texts_share_buffers_with() {
    let table = table();
    // A view of 16 bytes, a string of 36 and a number of 8.
    let (all, tenth) = (ROWS as u64 * 60, ROWS as u64 * 6);
    let (store, snapshot) = written(&table, vec![rows(&table)]).await;
    assert!((all..all * 11 / 10).contains(&size(&snapshot)), "{} bytes", size(&snapshot));
    let every_tenth = UInt64Array::from_iter_values((0..ROWS as u64).step_by(10));
    let some = take_record_batch(&rows(&table), &every_tenth).unwrap();
    for few in [vec![some.clone()], vec![some.slice(0, 2_500), some.slice(2_500, 2_500)]] {
        let (_, snapshot) = written(&table, few).await;
        assert!((tenth..tenth * 12 / 10).contains(&size(&snapshot)), "{} bytes", size(&snapshot));
    }

    let mut found = BTreeMap::new();
    for shard in 0..3 {
        let take = |batch: RecordBatch| {
            let (numbers, texts) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string_view());
            found.extend(numbers.values().iter().copied().zip(texts.iter().map(|text| text.unwrap().to_owned())));
            Ok(())
        };
        store.read(&snapshot, &table, shard, 3, take).await.unwrap();
    }
    assert_eq!(found, (0..ROWS).map(|row| (row, format!("{row:036}"))).collect());
}

#[tokio::test]
async fn one_of_many_shards_reads_a_part_of_a_large_file() {
    let table = table();
    let (store, snapshot) = written(&table, vec![rows(&table); 4]).await;
    let readers = store.open_files("op", snapshot.files(), &table).await.unwrap();
    let read = |groups| -> u64 {
        let runs = readers[0].runs(Kind::Upserts, &groups, Watermark::NONE);
        runs.iter().flatten().map(|block| block.bytes).sum()
    };
    let whole = read(0..KEY_GROUPS);
    for shard in 0..8 {
        let part = read(groups_of(shard, 8));
        assert!((whole / 8..whole / 3).contains(&part), "{part} of {whole} bytes");
    }
}

#[tokio::test]
async fn files_of_far_stores_are_compressed() {
    let table = table();
    let (store, near) = written(&table, vec![rows(&table)]).await;
    let far = store.clone().far();
    let change = StateChange { table: 0, upserts: vec![rows(&table)], deletes: Vec::new(), cutoff: Watermark::NONE };
    let tables = std::slice::from_ref(&table);
    let far = far.write("op", Epoch(2), tables, None, vec![vec![change]]).await.unwrap();
    assert!(size(&far) * 2 < size(&near), "{} and {} bytes", size(&far), size(&near));
    let of = async |snapshot: &OperatorSnapshot| {
        let mut rows = 0;
        let count = |batch: RecordBatch| {
            rows += batch.num_rows();
            Ok(())
        };
        store.read(snapshot, &table, 0, 1, count).await.unwrap();
        rows
    };
    assert_eq!((of(&near).await, of(&far).await), (ROWS as usize, ROWS as usize));
}
