//! Tables that tests write commit by commit: appended to, rewritten, overwritten, at times that the test chooses.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use object_store::ObjectStoreExt;
use serde_json::{Value, json};

use super::log::entry_path;
use super::{Add, LogPath, Table, TableStore, WriterOptions};
use crate::catalog::{ColumnDef, ColumnOrigin, TableDef};
use crate::env::Env;

/// A declaration with these columns.
pub fn declared(name: &str, columns: &[(&str, DataType, bool)], partitioned_by: &[&str]) -> TableDef {
    let column = |(name, data_type, nullable): &(&str, DataType, bool)| ColumnDef {
        name: (*name).to_owned(),
        data_type: data_type.clone(),
        nullable: *nullable,
        origin: ColumnOrigin::Field(vec![(*name).to_owned()]),
        span: Default::default(),
    };
    TableDef {
        name: name.to_owned(),
        columns: columns.iter().map(column).collect(),
        partitioned_by: partitioned_by.iter().map(ToString::to_string).collect(),
        location: None,
        properties: BTreeMap::new(),
        storage: BTreeMap::new(),
        primary_key: Vec::new(),
        checks: Vec::new(),
        span: Default::default(),
    }
}

/// A table that only the test writes to.
pub struct WrittenTable {
    pub table: Table,
    pub env: Env,
    pub version: u64,
    /// The files of the newest version.
    pub files: Vec<Add>,
}

impl WrittenTable {
    /// Makes the table at `memory://w/<name>`; version 0.
    pub async fn create(def: &TableDef, env: &Env) -> Self {
        let store = TableStore::open(&format!("memory://w/{}", def.name), &BTreeMap::new(), env).unwrap();
        let table = Table::open_or_create(store, def).await.unwrap();
        Self { table, env: env.clone(), version: 0, files: Vec::new() }
    }

    /// The store of the table.
    pub fn store(&self) -> TableStore {
        self.table.store().clone()
    }

    /// Writes files that no version has yet.
    pub async fn stage(&self, rows: &[RecordBatch]) -> Vec<Add> {
        let mut adds = Vec::new();
        for batch in rows {
            let mut writer = self.table.writer(&WriterOptions::default()).unwrap();
            writer.write(batch).await.unwrap();
            adds.extend(writer.close().await.unwrap().adds);
        }
        adds
    }

    /// Adds a file (or one per partition) for each batch, in one version.
    pub async fn append(&mut self, rows: &[RecordBatch]) {
        let adds = self.stage(rows).await;
        self.commit(adds, Vec::new(), true).await;
    }

    /// Replaces all rows, or only rewrites them.
    pub async fn replace(&mut self, rows: &[RecordBatch], data_change: bool) {
        let (adds, removed) = (self.stage(rows).await, self.files.clone());
        self.commit(adds, removed, data_change).await;
    }

    /// Commits what came and what went.
    pub async fn commit(&mut self, mut adds: Vec<Add>, removed: Vec<Add>, data_change: bool) {
        let gone: Vec<LogPath> = removed.iter().map(|add| add.path.clone()).collect();
        let removes = removed.into_iter().map(|add| add.removal(self.env.unix_ms(), data_change));
        let removes: Vec<Value> = removes.map(|remove| json!({ "remove": remove })).collect();
        adds.iter_mut().for_each(|add| add.data_change = data_change);
        self.files.retain(|file| !gone.contains(&file.path));
        self.files.extend(adds.iter().cloned());
        self.entry(removes.into_iter().chain(adds.iter().map(|add| json!({ "add": add }))).collect()).await;
    }

    /// Commits any actions.
    pub async fn entry(&mut self, actions: Vec<Value>) {
        self.version += 1;
        let info = json!({ "commitInfo": { "timestamp": self.env.unix_ms(), "operation": "TEST" } });
        let lines: String = std::iter::once(info).chain(actions).map(|action| format!("{action}\n")).collect();
        self.table.store().object_store().put(&entry_path(self.version), lines.into()).await.unwrap();
    }
}
