//! Filling the memory of operators that are new from a table that holds the history of the pipeline's input, instead of from the
//! source's past (which a broker may no longer have).
//!
//! The table's rows go through the dataflow as the source's would, up to the operators that are new; what these give is thrown away,
//! since its time has passed. Rows that other operators still hold back are not in the table yet, and so not in the seed.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;

use super::coordinator::Job;
use super::memory::Memory;
use super::recovery::Resumed;
use super::restore::{Fate, migration};
use crate::delta::{TimeRange, rows_between};
use crate::error::{Context, Error, Result};
use crate::state::NO_WATERMARK;

/// Seeds every operator that has no state; returns their addresses.
///
/// Errors: more than one source, a source without a watermark, a table that lacks a column of the source.
pub async fn seed(job: &Job, resumed: &Resumed, memory: &mut Memory) -> Result<Vec<String>> {
    let Some(table) = &job.seed else { return Ok(Vec::new()) };
    let fates = migration(&job.dataflow, &resumed.state);
    let fresh = |id: &str| fates.iter().any(|(operator, fate)| operator == id && *fate == Fate::Build);
    let fresh: Vec<usize> =
        (0..job.dataflow.operators.len()).filter(|index| fresh(&job.dataflow.operators[*index].id)).collect();
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    let [source] = job.dataflow.sources.as_slice() else {
        return Err(Error::sql("`seed_from` needs a pipeline with one source")
            .with_hint("Start with `--allow-rebuild` and empty memory, or split the pipeline."));
    };
    let Some(time) = source.def.watermark.as_ref().map(|watermark| watermark.column.clone()) else {
        return Err(Error::sql(format!("`seed_from` needs a WATERMARK on source `{}`", source.def.name)));
    };
    if let Some(deep) = fresh.iter().find(|index| job.dataflow.operators[**index].stage > 0) {
        return Err(Error::sql(format!("operator `{}` cannot be seeded", job.dataflow.operators[*deep].id))
            .with_detail("It reads what another operator gives, which the table does not hold.")
            .with_hint("Start with `--allow-rebuild` and empty memory."));
    }
    let range = TimeRange { from: i64::MIN, to: i64::MAX };
    let runtime = Arc::clone(job.dataflow.runtime());
    let (_, rows) = rows_between(table, None, &[], &time, range, runtime).await?;
    let rows: Vec<RecordBatch> = rows.try_collect().await?;
    let schema = source.def.schema();
    let rows = rows.iter().map(|batch| as_source(batch, &schema, table.name())).collect::<Result<Vec<_>>>()?;
    let lane = job.dataflow.lane();
    lane.fill(source.stream, rows)?;
    let _passed = lane.run(&job.dataflow, 0).await?;
    let watermark = resumed.times.get(&source.def.name).map_or(NO_WATERMARK, |time| time.watermark);
    let mut seeded = Vec::new();
    for index in fresh {
        let node = &job.dataflow.operators[index];
        let inputs = node.inputs.iter().map(|stream| lane.rows(*stream).to_vec()).collect();
        let _passed = memory.step(index, inputs, watermark, job.env.unix_ms() * 1_000).await?;
        seeded.push(node.id.clone());
    }
    Ok(seeded)
}

/// Rows of the table as the source would give them: columns by name, those that may be null and are not there as nulls.
fn as_source(rows: &RecordBatch, schema: &SchemaRef, table: &str) -> Result<RecordBatch> {
    let wrong = || format!("rows of table `{table}` do not fit the source");
    let column = |field: &Arc<arrow::datatypes::Field>| -> Result<ArrayRef> {
        match rows.column_by_name(field.name()) {
            Some(column) => cast(column, field.data_type()).internal(wrong),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), rows.num_rows())),
            None => Err(Error::sql(format!("table `{table}` has no column `{}`", field.name()))
                .with_detail("`seed_from` takes the source's columns from the table, by name.")),
        }
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).internal(wrong)
}
