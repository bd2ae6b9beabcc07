//! Backups of tables that the test writes, in memory. Backups of pipelines are tested with the program.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::DataType;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::{BackupPlace, RestoreInto, Taken, Warehouse, restore, take};
use crate::delta::testing::{WrittenTable, declared};
use crate::delta::{TableStore, files_at, parts};
use crate::env::Env;
use crate::state::ManifestStore;

fn open(location: &str, env: &Env) -> TableStore {
    TableStore::open(location, &BTreeMap::new(), env).unwrap()
}

fn rows(from: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 10));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true)]).unwrap()
}

async fn written(env: &Env) -> WrittenTable {
    let mut table = WrittenTable::create(&declared("t", &[("id", DataType::Int64, true)], &[]), env).await;
    table.append(&[rows(0)]).await;
    table
}

struct Kept {
    warehouse: Warehouse,
    place: BackupPlace,
}

impl Kept {
    fn new(env: &Env) -> Self {
        let warehouse = Warehouse { store: open("memory://w/", env) };
        Self { warehouse, place: BackupPlace::new(&open("memory://kept/", env)) }
    }

    async fn take(&self) -> Taken {
        take(&self.warehouse, &self.place).await.unwrap()
    }
}

#[tokio::test]
async fn a_backup_adds_only_what_is_new_and_each_is_restored_as_it_was() {
    let env = Env::manual(1_700_000_000_000, 1);
    let mut table = written(&env).await;
    let kept = Kept::new(&env);
    let first = kept.take().await;
    assert_eq!(first.backup.tables, BTreeMap::from([("t".to_owned(), 1)]));
    assert_eq!(first.new_files, first.backup.files.len() as u64);
    env.advance(std::time::Duration::from_secs(1));
    assert_eq!(kept.take().await.new_files, 0);
    env.advance(std::time::Duration::from_secs(1));
    table.append(&[rows(10)]).await;
    let third = kept.take().await;
    assert_eq!(third.new_files, 2, "a data file and a log entry");
    assert_eq!(kept.place.list().await.unwrap().backups.len(), 3);
    for (taken, to, files) in [(&first, "memory://one/", 1), (&third, "memory://two/", 2)] {
        let store = open(to, &env);
        restore(&kept.place, &taken.backup, &store, RestoreInto::Empty).await.unwrap();
        let table = store.child("t").unwrap();
        assert_eq!(files_at(&table, taken.backup.tables["t"]).await.unwrap().len(), files);
        let again = restore(&kept.place, &taken.backup, &store, RestoreInto::Empty).await.unwrap_err();
        assert!(again.message().contains("is not empty"), "{again}");
        restore(&kept.place, &first.backup, &store, RestoreInto::Replaced).await.unwrap();
        let objects: Vec<_> = store.object_store().list(None).try_collect().await.unwrap();
        assert_eq!(objects.len(), first.backup.files.len(), "nothing is left of what was replaced");
    }
}

#[tokio::test]
async fn a_file_that_the_place_has_lost_is_copied_again() {
    let env = Env::manual(1_700_000_000_000, 6);
    written(&env).await;
    let kept = Kept::new(&env);
    let first = kept.take().await.backup;
    let lost = &first.files[0].sha256;
    let path = Path::from(format!("files/{}/{lost}", &lost[..2]));
    open("memory://kept/", &env).object_store().delete(&path).await.unwrap();
    let again = restore(&kept.place, &first, &open("memory://one/", &env), RestoreInto::Empty).await.unwrap_err();
    assert!(again.message().contains("is missing"), "{again}");
    env.advance(std::time::Duration::from_secs(1));
    assert_eq!(kept.take().await.new_files, 1);
    restore(&kept.place, &first, &open("memory://two/", &env), RestoreInto::Empty).await.unwrap();
}

#[tokio::test]
async fn parts_of_a_version_leave_out_later_ones_and_name_what_is_gone() {
    let env = Env::manual(1_700_000_000_000, 2);
    let mut table = written(&env).await;
    table.append(&[rows(10)]).await;
    table.replace(&[rows(20)], true).await;
    let store = table.store();
    let names = |parts: Vec<object_store::ObjectMeta>| -> Vec<String> {
        parts.into_iter().map(|part| part.location.to_string()).collect()
    };
    let at = |version: u64| parts(&store, version);
    let (one, three) = (names(at(1).await.unwrap()), names(at(3).await.unwrap()));
    assert_eq!(one.iter().filter(|name| name.ends_with(".parquet")).count(), 1, "{one:?}");
    assert_eq!(one.iter().filter(|name| name.ends_with(".json")).count(), 2, "{one:?}");
    assert_eq!(three.iter().filter(|name| name.ends_with(".parquet")).count(), 3, "also what was replaced: {three:?}");
    let newest = &table.files[0].path;
    store.object_store().delete(&newest.object().unwrap()).await.unwrap();
    let error = at(3).await.unwrap_err();
    assert!(error.message().contains(newest.as_str()), "{error}");
    assert!(at(2).await.is_ok(), "an older version does not need it");
}

#[tokio::test]
async fn backups_and_warehouse_never_lie_in_one_another() {
    let env = Env::manual(1_700_000_000_000, 3);
    written(&env).await;
    let kept = Kept::new(&env);
    let first = kept.take().await.backup;
    for place in ["memory://w/", "memory://w", "memory://w/kept", "memory://w/a/../kept/"] {
        let refused = take(&kept.warehouse, &BackupPlace::new(&open(place, &env))).await.unwrap_err();
        assert!(refused.message().contains("lie in one another"), "{place}: {refused}");
    }
    let files: Vec<_> = open("memory://kept/", &env).object_store().list(None).try_collect().await.unwrap();
    for to in ["memory://kept/", "memory://kept/files/new"] {
        let refused = restore(&kept.place, &first, &open(to, &env), RestoreInto::Replaced).await.unwrap_err();
        assert!(refused.message().contains("lie in one another"), "{to}: {refused}");
    }
    let around = open("memory://kept/", &env);
    let other = BackupPlace::new(&open("memory://other/", &env));
    take(&kept.warehouse, &other).await.unwrap();
    let refused = restore(&other, &first, &around, RestoreInto::Replaced).await.unwrap_err();
    assert!(refused.message().contains("has backups in it"), "{refused}");
    let left: Vec<_> = around.object_store().list(None).try_collect().await.unwrap();
    assert_eq!(left.len(), files.len(), "nothing of a backup is deleted");
}

#[tokio::test]
async fn a_damaged_backup_does_not_cost_the_warehouse_that_it_should_replace() {
    let env = Env::manual(1_700_000_000_000, 4);
    written(&env).await;
    let kept = Kept::new(&env);
    let backup = kept.take().await.backup;
    let (store, to) = (open("memory://kept/", &env).object_store(), open("memory://w/", &env));
    let file = backup.files.iter().find(|file| file.path.ends_with(".parquet")).unwrap();
    let path = object_store::path::Path::from(format!("files/{}/{}", &file.sha256[..2], file.sha256));
    let objects = || async { to.object_store().list(None).try_collect::<Vec<_>>().await.unwrap() };
    let before = objects().await;
    store.put(&path, vec![0; file.bytes as usize].into()).await.unwrap();
    let refused = restore(&kept.place, &backup, &to, RestoreInto::Replaced).await.unwrap_err();
    assert!(refused.message().contains("is damaged"), "{refused}");
    store.delete(&path).await.unwrap();
    let refused = restore(&kept.place, &backup, &to, RestoreInto::Replaced).await.unwrap_err();
    assert!(refused.message().contains("is missing"), "{refused}");
    assert_eq!(objects().await, before, "nothing was deleted or added");
}

/// Writes an entry to the log of `memory://w/t`: a commit of an epoch of `p`, a RESTORE, or both, as `weir restore` does.
async fn entry(env: &Env, version: u64, epoch: Option<u64>, restored: Option<u64>) {
    let mut lines = String::new();
    if let Some(to) = restored {
        lines += &format!(r#"{{"commitInfo":{{"operation":"RESTORE","operationParameters":{{"version":{to}}}}}}}"#);
        lines.push('\n');
    }
    if let Some(epoch) = epoch {
        let id = if restored.is_some() { epoch * 101 } else { epoch * 100 + version };
        for (app_id, version) in [("weir:p", epoch), ("weir:p:manifest", id)] {
            lines += &format!(r#"{{"txn":{{"appId":"{app_id}","version":{version},"lastUpdated":1}}}}"#);
            lines.push('\n');
        }
        let manifest = serde_json::json!({
            "format": 1, "pipeline": "p", "epoch": epoch, "id": id, "run": "r", "created_ms": 0,
            "fingerprint": "f", "ranges": {}, "positions": {}, "models": {}, "rows_in": 0, "dead_letters": 0,
            "tables": [{ "name": "t", "location": "memory://w/t", "rows": 0, "bytes": 0, "adds": [] }],
        });
        let folder = open("memory://w/_weir/p/manifests", env);
        let manifests = ManifestStore::new(folder.object_store());
        manifests.write(&serde_json::from_value(manifest).unwrap()).await.unwrap();
    }
    if lines.is_empty() {
        lines += "{\"commitInfo\":{\"operation\":\"OPTIMIZE\"}}\n";
    }
    let path = object_store::path::Path::from(format!("_delta_log/{version:020}.json"));
    open("memory://w/t", env).object_store().put(&path, lines.into()).await.unwrap();
}

#[tokio::test]
async fn after_a_restore_only_what_it_brought_back_and_what_was_committed_since_counts() {
    // Epochs 1 to 40; the table goes back to epoch 2, by weir or by another writer; others write; then another epoch 3 is
    // committed.
    for (by_weir, others, goes_on) in [
        (true, 0, false),
        (true, 0, true),
        (true, 30, false),
        (false, 0, false),
        (false, 0, true),
        (false, 3, false),
        (false, 30, false),
        (false, 30, true),
    ] {
        let env = Env::manual(1_700_000_000_000, 7);
        WrittenTable::create(&declared("t", &[("id", DataType::Int64, true)], &[]), &env).await;
        for epoch in 1..=40 {
            entry(&env, epoch, Some(epoch), None).await;
        }
        entry(&env, 41, by_weir.then_some(2), Some(2)).await;
        for version in 42..42 + others {
            entry(&env, version, None, None).await;
        }
        if goes_on {
            entry(&env, 42 + others, Some(3), None).await;
        }
        let backup = Kept::new(&env).take().await.backup;
        let found = (backup.pipelines["p"].epoch, backup.tables["t"]);
        let wanted = if goes_on { (3, 42 + others) } else { (2, 41 + others) };
        assert_eq!(found, wanted, "by weir: {by_weir}, others: {others}");
    }
}

#[tokio::test]
async fn a_restore_to_a_version_that_the_log_does_not_describe_is_named() {
    let env = Env::manual(1_700_000_000_000, 8);
    WrittenTable::create(&declared("t", &[("id", DataType::Int64, true)], &[]), &env).await;
    entry(&env, 1, Some(1), None).await;
    entry(&env, 2, None, Some(7)).await;
    let kept = Kept::new(&env);
    let refused = take(&kept.warehouse, &kept.place).await.unwrap_err();
    assert!(refused.message().contains("table `t` does not say which epoch of pipeline `p`"), "{refused}");
}

#[tokio::test]
async fn tables_are_found_in_whatever_folder_they_are() {
    let env = Env::manual(1_700_000_000_000, 9);
    written(&env).await;
    for name in ["a/b/c", "ü d/t", "a/x", "t/inside"] {
        let def = declared(name, &[("id", DataType::Int64, true)], &[]);
        WrittenTable::create(&def, &env).await.append(&[rows(0)]).await;
    }
    let taken = Kept::new(&env).take().await.backup;
    assert_eq!(taken.tables.keys().collect::<Vec<_>>(), ["a/b/c", "a/x", "t", "ü d/t"]);
}

/// Writes a manifest of epoch 20 of pipeline `p`, which has no rows for its table `rare`.
async fn manifest(env: &Env, location: &str, path: Option<&str>) {
    let manifest = serde_json::from_value(serde_json::json!({
        "format": 1, "pipeline": "p", "epoch": 20, "id": 7, "run": "r", "created_ms": 0, "fingerprint": "f",
        "ranges": {}, "positions": {}, "models": {}, "tables": [], "rows_in": 0, "dead_letters": 0,
        "sinks": [{
            "name": "rare", "before": null, "takes_part": false,
            "table": { "location": location, "path": path, "version": 1 },
        }],
    }));
    let folder = open("memory://w/_weir/p/manifests", env);
    ManifestStore::new(folder.object_store()).write(&manifest.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_table_that_new_epochs_have_nothing_for_is_in_the_backup() {
    let env = Env::manual(1_700_000_000_000, 5);
    let rare = declared("nested/deep/rare", &[("id", DataType::Int64, true)], &[]);
    WrittenTable::create(&rare, &env).await.append(&[rows(0)]).await;
    manifest(&env, "memory://w/nested/deep/rare", Some("nested/deep/rare")).await;
    let tables = Kept::new(&env).take().await.backup.tables;
    assert_eq!(tables, BTreeMap::from([("nested/deep/rare".to_owned(), 1)]));
}

#[tokio::test]
async fn a_table_outside_that_new_epochs_have_nothing_for_is_refused() {
    let env = Env::manual(1_700_000_000_000, 6);
    written(&env).await;
    manifest(&env, "memory://elsewhere/rare", None).await;
    let kept = Kept::new(&env);
    let refused = take(&kept.warehouse, &kept.place).await.unwrap_err();
    assert!(refused.message().contains("table `rare` lies outside"), "{refused}");
}
