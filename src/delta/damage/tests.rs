use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::prelude::SessionContext;

use super::super::shown::FileColumns;
use super::super::testing::{WrittenTable, declared};
use super::super::{
    Add, Cleanup, DataFile, LogPath, MaintenancePolicy, Table, UpsertRows, UpsertTable, WriterOptions, files_at,
    read_file,
};
use super::*;
use crate::env::Env;

fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
        ("v", Arc::new(Float64Array::from_iter_values(ids.map(|id| id as f64 / 2.0)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A table of `versions` versions, with a checkpoint of version 4.
async fn table(versions: i64) -> WrittenTable {
    let def = declared("t", &[("id", DataType::Int64, true), ("v", DataType::Float64, true)], &[]);
    let mut written = WrittenTable::create(&def, &Env::manual(1_000, 1)).await;
    let policy = MaintenancePolicy { checkpoint_every: 5, cleanup: Cleanup::Never, ..MaintenancePolicy::default() };
    for version in 1..=versions {
        written.append(&[rows(version * 10..version * 10 + 10)]).await;
        if version == 4 {
            assert!(written.table.maintain(&policy).await.unwrap().checkpointed);
        }
    }
    written
}

async fn count(store: &TableStore) -> Result<usize> {
    let table = Table::open(store.clone()).await?;
    let context = SessionContext::new();
    context.register_table("t", table.provider(None).await?)?;
    Ok(context.sql("SELECT id FROM t").await?.count().await?)
}

async fn put(store: &TableStore, path: &str, bytes: impl Into<object_store::PutPayload>) {
    store.object_store().put(&Path::from(path), bytes.into()).await.unwrap();
}

async fn get(store: &TableStore, path: &str) -> Vec<u8> {
    store.object_store().get(&Path::from(path)).await.unwrap().bytes().await.unwrap().to_vec()
}

async fn delete(store: &TableStore, path: &str) {
    store.object_store().delete(&Path::from(path)).await.unwrap();
}

const CHECKPOINT: &str = "_delta_log/00000000000000000004.checkpoint.parquet";
const HINT: &str = "_delta_log/_last_checkpoint";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_log_entry_is_named_with_the_remedy() {
    let written = table(8).await;
    let store = written.store();
    delete(&store, "_delta_log/00000000000000000006.json").await;
    for error in [Table::open(store.clone()).await.unwrap_err(), count(&store).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Damaged);
        let expected = "log entry `_delta_log/00000000000000000006.json` of the table at `";
        assert!(error.message().starts_with(expected), "{}", error.message());
        assert_eq!(error.detail(), Some("Entries lead up to 8, and the checkpoint is at 4."));
        assert!(error.hint().unwrap().contains("backup"));
    }
    let error = written.table.provider(None).await.unwrap_err();
    assert!(error.message().contains("00000000000000000006.json"), "queries say the same: {}", error.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_that_leads_nowhere_is_survived_and_removed() {
    for hint in
        ["{\"version\":999,\"size\":5}", "{\"version\":3,\"size\":5}", "{\"version\":4,\"parts\":3}", "{nonsense"]
    {
        let written = table(8).await;
        let store = written.store();
        put(&store, HINT, hint).await;
        assert_eq!(count(&store).await.unwrap(), 80, "{hint}");
        put(&store, HINT, hint).await;
        written.table.provider(None).await.unwrap();
        put(&store, HINT, hint).await;
        assert_eq!(files_at(&store, 8).await.unwrap().len(), 8);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_checkpoint_is_set_aside_while_the_log_is_complete_and_else_named() {
    let written = table(8).await;
    let store = written.store();
    let (bytes, hint) = (get(&store, CHECKPOINT).await, get(&store, HINT).await);
    let cut = bytes[..bytes.len() / 2].to_vec();
    let aside = "_delta_log/_damaged.00000000000000000004.checkpoint.parquet";
    for files_first in [false, true] {
        put(&store, CHECKPOINT, cut.clone()).await;
        put(&store, HINT, hint.clone()).await;
        if files_first {
            assert_eq!(files_at(&store, 8).await.unwrap().len(), 8);
        }
        assert_eq!(count(&store).await.unwrap(), 80);
        assert_eq!(get(&store, aside).await, cut);
        assert!(store.object_store().head(&Path::from(CHECKPOINT)).await.is_err());
    }
    // Without its beginning the log is not complete.
    delete(&store, "_delta_log/00000000000000000000.json").await;
    put(&store, CHECKPOINT, cut).await;
    let error = Table::open(store.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let expected = format!("checkpoint `{CHECKPOINT}` of the table at `");
    assert!(error.message().starts_with(&expected), "{}", error.message());
    assert!(error.hint().unwrap().starts_with("Put the file back"), "{:?}", error.hint());
    put(&store, CHECKPOINT, bytes).await;
    assert_eq!(count(&store).await.unwrap(), 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_in_a_checkpoint_that_is_noticed_is_survived() {
    let written = table(8).await;
    let store = written.store();
    let bytes = get(&store, CHECKPOINT).await;
    let mut set_aside = 0;
    for at in (0..bytes.len()).step_by(bytes.len() / 40) {
        let mut damaged = bytes.clone();
        let end = (at + 60).min(damaged.len());
        damaged[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        put(&store, CHECKPOINT, damaged).await;
        let log =
            super::super::log::load(&store, "t", super::super::log::Transactions::Read).await.map(|log| log.version);
        let files = files_at(&store, 8).await.map(|files| files.len());
        // A file that still decodes, but to other values, is not noticed.
        let still_decodes = match store.object_store().head(&Path::from(CHECKPOINT)).await {
            Ok(_) => read_all(get(&store, CHECKPOINT).await.into()).is_ok(),
            Err(_) => false,
        };
        set_aside += usize::from(!still_decodes);
        assert!(still_decodes || matches!((&log, &files), (Ok(8), Ok(8))), "at {at}: {log:?} {files:?}");
    }
    assert!(set_aside > 20, "{set_aside}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_entry_is_named() {
    let written = table(6).await;
    let store = written.store();
    put(&store, "_delta_log/00000000000000000006.json", "{\"add\":{\"path\":").await;
    let error = Table::open(store.clone()).await.err().unwrap_or_else(|| panic!("opened"));
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.message().contains("log entry `_delta_log/00000000000000000006.json`"), "{}", error.message());
}

const MIDDLE: &str = "_delta_log/00000000000000000006.json";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_empty_or_cut_is_damage_for_every_reader() {
    let written = table(8).await;
    let store = written.store();
    let whole = get(&store, MIDDLE).await;
    let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap();
    for lost in [&b""[..], b"\n", b"   ", b"\0\0\0\0", b"{}\n", &whole[..first_line / 2]] {
        put(&store, MIDDLE, lost.to_vec()).await;
        let upsert =
            UpsertTable::new(written.table.clone(), &["id".to_owned()], &WriterOptions::default(), None).unwrap();
        let errors = [
            Table::open(store.clone()).await.map(drop).unwrap_err(),
            count(&store).await.map(drop).unwrap_err(),
            written.table.provider(Some(7)).await.map(drop).unwrap_err(),
            files_at(&store, 8).await.map(drop).unwrap_err(),
            super::super::Commit::read(&store, 6).await.map(drop).unwrap_err(),
            super::super::read_entry(&store, 6).await.map(drop).unwrap_err(),
            upsert.load().await.map(drop).unwrap_err(),
            super::super::history(store.object_store().as_ref(), &Path::default(), None).await.map(drop).unwrap_err(),
        ];
        for (reader, error) in errors.into_iter().enumerate() {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{reader} {lost:?}: {error:?}");
            assert!(error.message().contains("00000000000000000006.json"), "{reader} {lost:?}: {}", error.message());
            assert!(error.detail().is_some() && error.hint().is_some(), "{reader} {lost:?}: {error:?}");
        }
    }
    put(&store, MIDDLE, whole).await;
    assert_eq!(count(&store).await.unwrap(), 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_entry_is_damage_when_it_is_empty() {
    let written = table(0).await;
    let store = written.store();
    put(&store, "_delta_log/00000000000000000000.json", "").await;
    let error = Table::open(store).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.message().contains("00000000000000000000.json"), "{}", error.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_newest_entry_is_no_commit_and_is_filled_before_the_next() {
    for lost in ["", " \n", "\0\0\0"] {
        let written = table(2).await;
        let store = written.store();
        let newest = "_delta_log/00000000000000000002.json";
        put(&store, newest, lost).await;
        assert_eq!(count(&store).await.unwrap(), 10, "its writer died in it");
        let error = super::super::Commit::read(&store, 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "a stream would skip it for good");
        let table = Table::open(store.clone()).await.unwrap();
        let commit = || super::super::CommitRequest {
            app: super::super::PipelineTxns { pipeline: "p".to_owned(), epoch: 1, manifest_id: 1, offsets: Vec::new() },
            adds: Vec::new(),
            removes: Vec::new(),
            cdc: Vec::new(),
            upsert: None,
            info: serde_json::Map::new(),
        };
        let outcome = table.commit(commit()).await.unwrap();
        assert_eq!(outcome, super::super::CommitOutcome::Committed { version: 3 });
        let filled = get(&store, newest).await;
        assert!(filled.starts_with(b"{\"commitInfo\":") && filled.ends_with(b"}\n"), "{filled:?}");
        assert_eq!(count(&store).await.unwrap(), 10);
        // One that comes while the table is open.
        put(&store, "_delta_log/00000000000000000004.json", lost).await;
        let mut next = commit();
        next.app.epoch = 2;
        let outcome = table.commit(next).await.unwrap();
        assert_eq!(outcome, super::super::CommitOutcome::Committed { version: 5 });
        assert_eq!(count(&store).await.unwrap(), 10);
    }
}

fn schema() -> SchemaRef {
    rows(0..1).schema()
}

/// The result of each reader of data files for the table's only file: upserts, streams, queries.
async fn read_all_ways(written: &WrittenTable) -> [Result<usize>; 3] {
    let upsert = UpsertTable::new(written.table.clone(), &["id".to_owned()], &WriterOptions::default(), None).unwrap();
    // One row goes, so that the others are read and rewritten.
    let upserted =
        upsert.stage(vec![UpsertRows { rows: rows(0..11), weights: None }]).await.map(|staged| staged.adds.len());
    let files = files_at(&written.store(), written.version).await.unwrap();
    let streamed = read_file(&written.store(), &files[0], &schema(), &FileColumns::default()).await;
    let streamed = streamed.map(|batches| batches.iter().map(RecordBatch::num_rows).sum());
    let context = SessionContext::new();
    context.register_table("t", written.table.provider(None).await.unwrap()).unwrap();
    let queried = context.sql("SELECT id, v FROM t").await.unwrap().collect().await;
    let queried = queried.map(|batches| batches.iter().map(RecordBatch::num_rows).sum()).map_err(Error::from);
    [upserted, streamed, queried]
}

/// A table whose only file is one that pyarrow wrote with page checksums, with one bit flipped at `at`, if any.
async fn foreign(at: Option<(usize, u8)>) -> WrittenTable {
    let mut bytes = include_bytes!("../../../tests/data/parquet/checksums.parquet").to_vec();
    if let Some((byte, bit)) = at {
        bytes[byte] ^= 1 << bit;
    }
    let mut def = declared("t", &[("id", DataType::Int64, true), ("v", DataType::Float64, true)], &[]);
    def.properties.insert("delta.enableDeletionVectors".into(), "false".into());
    let mut written = WrittenTable::create(&def, &Env::manual(1_000, 1)).await;
    let size = bytes.len() as i64;
    put(&written.store(), "theirs.parquet", bytes).await;
    let add = Add { path: LogPath::spelled("theirs.parquet"), size, data_change: true, ..Add::default() };
    written.commit(vec![add], Vec::new(), true).await;
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_bit_under_a_page_checksum_is_found_by_every_reader() {
    for result in read_all_ways(&foreign(None).await).await {
        result.unwrap();
    }
    let bytes = include_bytes!("../../../tests/data/parquet/checksums.parquet");
    // The values of `id` and `v` as they lie in their pages: little-endian, one after the other.
    let place = |first: &[u8]| bytes.windows(first.len()).position(|window| window == first).unwrap();
    let ids = place(&[1_i64.to_le_bytes(), 2_i64.to_le_bytes()].concat());
    let values = place(&[0.5_f64.to_le_bytes(), 1.0_f64.to_le_bytes()].concat());
    for at in [(ids, 0), (ids + 50, 3), (values + 6, 4), (values + 100, 7)] {
        let written = foreign(Some(at)).await;
        for (reader, result) in ["upsert", "stream", "query"].into_iter().zip(read_all_ways(&written).await) {
            let error = result.expect_err(reader);
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let shown = format!("{error} {:?} {source:?}", error.detail());
            assert!(shown.to_lowercase().contains("crc"), "{reader} at {at:?}: {shown}");
            assert_eq!(error.kind(), ErrorKind::Damaged, "{reader}");
            if reader != "query" {
                assert!(error.message().contains("`theirs.parquet`") && error.hint().is_some(), "{}", error.message());
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_missing_or_cut_off_is_damage_with_its_name() {
    let written = foreign(None).await;
    let store = written.store();
    let bytes = get(&store, "theirs.parquet").await;
    put(&store, "theirs.parquet", bytes[..300].to_vec()).await;
    let [upserted, streamed, _] = read_all_ways(&written).await;
    for error in [upserted.unwrap_err(), streamed.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.message().ends_with(&format!("has 300 bytes, not {}", bytes.len())), "{}", error.message());
    }
    delete(&store, "theirs.parquet").await;
    let [upserted, ..] = read_all_ways(&written).await;
    let error = upserted.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.message().starts_with("file `theirs.parquet` of the table at `"), "{}", error.message());
}

#[tokio::test]
async fn a_damaged_deletion_vector_is_named() {
    let written = foreign(None).await;
    let store = written.store();
    let dead: Vec<roaring::RoaringBitmap> = vec![(0..5_000).map(|row| row * 3).collect()];
    let (vectors, _) = super::super::upsert::write_vectors(&store, &dead).await.unwrap();
    let listed: Vec<_> = store.object_store().list(None).try_collect().await.unwrap();
    let file =
        listed.iter().find_map(|o| o.location.filename().filter(|name| name.ends_with(".bin"))).unwrap().to_owned();
    let mut bytes = get(&store, &file).await;
    bytes[40] ^= 1;
    put(&store, &file, bytes).await;
    let data = DataFile::of_add(Add {
        path: LogPath::spelled("theirs.parquet"),
        deletion_vector: Some(vectors[0].clone()),
        ..Add::default()
    });
    let error = read_file(&store, &data, &schema(), &FileColumns::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.message().contains("theirs.parquet") && error.message().contains(&file), "{}", error.message());
    delete(&store, &file).await;
    let error = read_file(&store, &data, &schema(), &FileColumns::default()).await.unwrap_err();
    assert!(error.message().contains("is missing"), "{}", error.message());
}
