//! The tables that a pipeline writes, looked at as a start would, without making any.

use super::prepare::Surroundings;
use super::protocol::must_exist;
use super::refusal::gone;
use crate::catalog::{Catalog, PipelineDef};
use crate::delta::{Table, TableStore, UpsertTable};
use crate::error::Result;
use crate::plan::Targets;
use crate::state::SinkRecord;

/// The columns of the tables that exist; `catalog` has the columns of materialized views, `records` what the newest manifest says of the sinks.
///
/// Errors: what would stop a start: a table that differs from its declaration or cannot be written, or that was removed.
pub async fn known_targets(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    records: &[SinkRecord],
    around: &Surroundings,
) -> Result<Targets> {
    let home = around.home();
    let mut known = Targets::new();
    for insert in &pipeline.inserts {
        let Some(def) = catalog.tables.get(&insert.target).filter(|def| !known.contains_key(&def.name)) else {
            continue;
        };
        let location = around.table_location(def);
        let store = TableStore::open(&location, &around.storage_of(def), &around.env)?;
        let Some(table) = Table::open_declared(&store, def).await? else {
            let path = home.path_of(&location);
            let record = records
                .iter()
                .find(|record| record.table.as_ref().is_some_and(|place| place.is(&location, path.as_deref())));
            if let Some(had) = must_exist(record).filter(|_| !def.columns.is_empty()) {
                return Err(gone(&pipeline.name, &def.name, &location, had, None));
            }
            continue;
        };
        match def.primary_key.is_empty() {
            true => drop(around.writer.for_table(&table.properties())?),
            false => {
                let options = around.writer.for_upserts(&table)?;
                drop(UpsertTable::new(table.clone(), &def.primary_key, &options, None)?);
            }
        }
        known.insert(def.name.clone(), table.schema_with_expressions());
    }
    Ok(known)
}
