//! Delta tables through the public API of `weir::delta`: what is committed, once, whatever the store does.

mod clouds;
mod commits;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use weir::catalog::{CheckDef, ColumnDef, ColumnOrigin, TableDef};
use weir::delta::{CommitRequest, StagedFiles, Table, TableStore, WriterOptions};
use weir::env::Env;
use weir::error::Result;
use weir::standing::{CommitPermit, Epoch, ManifestId};

/// `id BIGINT NOT NULL, amount DOUBLE, day STRING`.
fn payments() -> TableDef {
    let column = |name: &str, data_type, nullable| ColumnDef {
        name: name.to_owned(),
        data_type,
        nullable,
        origin: ColumnOrigin::Field(vec![name.to_owned()]),
        span: Default::default(),
    };
    TableDef {
        name: "payments".to_owned(),
        columns: vec![
            column("id", DataType::Int64, false),
            column("amount", DataType::Float64, true),
            column("day", DataType::Utf8, true),
        ],
        partitioned_by: Vec::new(),
        location: None,
        properties: BTreeMap::new(),
        storage: BTreeMap::new(),
        primary_key: Vec::new(),
        checks: Vec::new(),
        span: Default::default(),
    }
}

fn check(name: &str, text: &str) -> CheckDef {
    let expression = Parser::new(&GenericDialect {}).try_with_sql(text).unwrap().parse_expr().unwrap();
    CheckDef { name: name.to_owned(), expression, text: text.to_owned() }
}

fn store(location: &str, env: &Env) -> TableStore {
    TableStore::open(location, &BTreeMap::new(), env).unwrap()
}

/// Rows with the given ids, amount = id, day = `d<id mod 3>`.
fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
        ("amount", Arc::new(Float64Array::from_iter_values(ids.clone().map(|id| id as f64)))),
        ("day", Arc::new(StringArray::from_iter_values(ids.map(|id| format!("d{}", id % 3))))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

async fn stage(table: &Table, rows: &RecordBatch) -> Result<StagedFiles> {
    let mut writer = table.writer(&WriterOptions::default())?;
    writer.write(rows).await?;
    writer.close().await
}

fn request(pipeline: &str, epoch: i64, manifest_id: i64, staged: StagedFiles) -> CommitRequest {
    let permit = CommitPermit::of_durable(Epoch(epoch as u64), ManifestId(manifest_id));
    let offsets = vec![(format!("weir:{pipeline}:src:0"), epoch * 100)];
    CommitRequest::new(permit, pipeline, offsets, staged, serde_json::Map::new())
}

async fn query(table: &Table, sql: &str) -> Vec<RecordBatch> {
    let config = SessionConfig::new().set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
    let context = SessionContext::new_with_config(config);
    context.register_table("t", table.provider(None).await.unwrap()).unwrap();
    context.sql(sql).await.unwrap().collect().await.unwrap()
}

/// All ids in the table, sorted.
async fn ids(table: &Table) -> Vec<i64> {
    let batches = query(table, "SELECT id FROM t ORDER BY id").await;
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}
