//! Backups of tables that the test writes, in memory. What pipelines need of one is tested with the program.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::DataType;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use super::{BackupPlace, RestoreInto, Taken, Warehouse, restore, take};
use crate::delta::testing::{WrittenTable, declared};
use crate::delta::{TableStore, files_at, parts};
use crate::env::Env;

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
        let warehouse = Warehouse { store: open("memory://w/", env), storage: BTreeMap::new() };
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
    assert_eq!(kept.place.list().await.unwrap().len(), 3);
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
