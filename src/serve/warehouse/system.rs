//! The tables of schema `weir`: pipelines, epochs, tables and dead letters.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::Column;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use serde::Serialize;

use super::columns::{floats, integers, memory, micros, number, strings, text, timestamps};
use super::progress::{last_progress, pipelines};
use super::{Declared, TableEntry, Warehouse};
use crate::delta::AsOf;
use crate::epoch::Progress;
use crate::error::Result;
use crate::serve::failure::query_error;

/// The names of the system tables, sorted.
pub const NAMES: [&str; 12] = [
    "dead_letters",
    "functions",
    "materialized_views",
    "models",
    "pipelines",
    "progress",
    "secrets",
    "sinks",
    "sources",
    "state",
    "tables",
    "views",
];

impl Warehouse {
    /// The names of the system tables and their Arrow schemas.
    pub async fn system_tables(&self) -> Result<Vec<(&'static str, SchemaRef)>> {
        let mut described = Vec::new();
        for name in NAMES {
            if let Some(table) = table(self, name).await? {
                described.push((name, table.schema()));
            }
        }
        Ok(described)
    }
}

/// The system table `name` with its current rows.
pub async fn table(warehouse: &Warehouse, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    match name {
        "progress" => progress(warehouse).await.map(Some),
        "pipelines" => pipeline_table(warehouse).await.map(Some),
        "state" => super::state::table(warehouse).await.map(Some),
        "tables" => table_table(warehouse).await.map(Some),
        "dead_letters" => dead_letters(warehouse).await.map(Some),
        other => match warehouse.declared_files() {
            Some(declared) => declared.table(other),
            // Without files there are no declarations.
            None => Declared::default().table(other),
        },
    }
}

/// One row per epoch; `sources`, `sinks` and `duration_ms` are JSON.
async fn progress(warehouse: &Warehouse) -> Result<Arc<dyn TableProvider>> {
    let mut epochs = Vec::new();
    for pipeline in pipelines(warehouse.location()).await? {
        let last = last_progress(&pipeline, usize::MAX).await?;
        epochs.extend(last.into_iter().map(|epoch| (pipeline.name.clone(), epoch)));
    }
    let texts = |read: fn(&Progress) -> Option<String>| strings(epochs.iter().map(|(_, epoch)| read(epoch)));
    let numbers = |read: fn(&Progress) -> u64| integers(epochs.iter().map(|(_, epoch)| number(read(epoch))));
    let rates = |read: fn(&Progress) -> f64| floats(epochs.iter().map(|(_, epoch)| Some(read(epoch))));
    memory(vec![
        ("pipeline", strings(epochs.iter().map(|(name, _)| Some(name.clone())))),
        ("run_id", texts(|epoch| text(&epoch.run_id))),
        ("epoch", numbers(|epoch| epoch.epoch)),
        ("timestamp", timestamps(epochs.iter().map(|(_, epoch)| micros(&epoch.timestamp)))),
        ("num_input_rows", numbers(|epoch| epoch.num_input_rows)),
        ("input_rows_per_second", rates(|epoch| epoch.input_rows_per_second)),
        ("processed_rows_per_second", rates(|epoch| epoch.processed_rows_per_second)),
        ("dead_letters", numbers(|epoch| epoch.dead_letters)),
        ("duration_ms", texts(|epoch| json(&epoch.duration_ms))),
        ("sources", texts(|epoch| json(&epoch.sources))),
        ("sinks", texts(|epoch| json(&epoch.sinks))),
    ])
}

/// One row per pipeline, from its last epoch; includes declared pipelines that have not run.
async fn pipeline_table(warehouse: &Warehouse) -> Result<Arc<dyn TableProvider>> {
    let mut rows: Vec<(String, Option<Progress>)> = Vec::new();
    for pipeline in pipelines(warehouse.location()).await? {
        let last = last_progress(&pipeline, 1).await?.pop();
        rows.push((pipeline.name, last));
    }
    let catalog = warehouse.declared_files().map(|declared| &declared.catalog);
    let declared = catalog.map(|catalog| catalog.pipelines.as_slice()).unwrap_or_default();
    for pipeline in declared {
        if !rows.iter().any(|(name, _)| *name == pipeline.name) {
            rows.push((pipeline.name.clone(), None));
        }
    }
    let writes = |name: &str| {
        let pipeline = declared.iter().find(|pipeline| pipeline.name == name)?;
        Some(pipeline.inserts.iter().map(|insert| insert.target.as_str()).collect::<Vec<_>>().join(", "))
    };
    let last = || rows.iter().map(|(_, last)| last.as_ref());
    memory(vec![
        ("pipeline", strings(rows.iter().map(|(name, _)| Some(name.clone())))),
        ("last_run_id", strings(last().map(|last| text(&last?.run_id)))),
        ("last_epoch", integers(last().map(|last| number(last?.epoch)))),
        ("last_commit", timestamps(last().map(|last| micros(&last?.timestamp)))),
        ("last_input_rows", integers(last().map(|last| number(last?.num_input_rows)))),
        ("processed_rows_per_second", floats(last().map(|last| Some(last?.processed_rows_per_second)))),
        ("writes", strings(rows.iter().map(|(name, _)| writes(name)))),
    ])
}

/// One row per table; `error` gives the reason why a table cannot be opened.
async fn table_table(warehouse: &Warehouse) -> Result<Arc<dyn TableProvider>> {
    let (mut entries, mut versions, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for entry in warehouse.list_tables().await? {
        let (version, error) = match warehouse.open(&entry.location, AsOf::Newest).await {
            Ok(opened) => (opened.and_then(|table| i64::try_from(table.version).ok()), None),
            Err(error) => (None, Some(error.to_string())),
        };
        entries.push(entry);
        versions.push(version);
        errors.push(error);
    }
    let of = |read: fn(&TableEntry) -> String| strings(entries.iter().map(|entry| Some(read(entry))));
    memory(vec![
        ("table_name", of(|entry| entry.name.clone())),
        ("location", of(|entry| entry.location.place().to_string())),
        ("version", integers(versions.into_iter())),
        ("error", strings(errors.into_iter())),
    ])
}

/// The dead letters of all pipelines, with a first column `pipeline`.
async fn dead_letters(warehouse: &Warehouse) -> Result<Arc<dyn TableProvider>> {
    let mut union: Option<LogicalPlanBuilder> = None;
    for pipeline in pipelines(warehouse.location()).await? {
        let Some(table) = warehouse.open(&pipeline.location.child("dead_letters"), AsOf::Newest).await? else {
            continue;
        };
        let columns: Vec<Expr> = std::iter::once(lit(pipeline.name.clone()).alias("pipeline"))
            .chain(
                table
                    .provider
                    .schema()
                    .fields()
                    .iter()
                    .map(|field| Expr::Column(Column::new_unqualified(field.name()))),
            )
            .collect();
        let one = LogicalPlanBuilder::scan(&pipeline.name, provider_as_source(table.provider), None)
            .and_then(|scan| scan.project(columns))
            .map_err(query_error)?;
        union = Some(match union {
            None => one,
            Some(others) => one.build().and_then(|one| others.union_by_name(one)).map_err(query_error)?,
        });
    }
    match union {
        Some(plan) => Ok(Arc::new(ViewTable::new(plan.build().map_err(query_error)?, None))),
        None => memory(vec![
            ("pipeline", strings(std::iter::empty())),
            ("source", strings(std::iter::empty())),
            ("partition", strings(std::iter::empty())),
            ("offset", integers(std::iter::empty())),
            ("reason", strings(std::iter::empty())),
        ]),
    }
}

fn json(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}
