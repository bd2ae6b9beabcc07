//! The rows that a pipeline still owes: what its operators would emit if time ended now, found from their state.

use std::collections::BTreeMap;

use arrow::array::{AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;

use super::super::prepare::{Surroundings, open_lookups};
use super::compare::Withheld;
use crate::catalog::{Catalog, PipelineDef};
use crate::delta::TableStore;
use crate::error::{Context, Error, Result};
use crate::plan::{Dataflow, OperatorSpec};
use crate::run::memory::Memory;
use crate::run::sinks::below;
use crate::state::{Manifest, StateStore};
use crate::time::{EventTime, Watermark};

/// Per target what is still held back after the manifest's epoch.
///
/// Errors: state that cannot be read.
pub(super) async fn withheld(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    dataflow: &Dataflow,
    manifest: &Manifest,
    around: &Surroundings,
) -> Result<BTreeMap<String, Withheld>> {
    let mut all: BTreeMap<String, Withheld> = BTreeMap::new();
    if !dataflow.operators.iter().any(|node| node.spec.follows_time()) {
        return Ok(all);
    }
    let (lookups, _) = open_lookups(catalog, pipeline, around).await?;
    let mut memory = Memory::new(dataflow, 1, &lookups, around.limits.clone()).await?;
    memory.expect(dataflow, &manifest.state)?;
    let folder = below(&around.pipeline_location(&pipeline.name), "state");
    let store = TableStore::open(&folder, &around.storage, &around.env)?;
    let states = StateStore::new(store.object_store(), around.env.clone());
    for (index, node) in dataflow.operators.iter().enumerate() {
        let watermark = manifest.watermarks.get(&node.id).copied().unwrap_or(Watermark::NONE);
        memory.resume(index, watermark);
        if let Some(snapshot) = manifest.state.iter().find(|snapshot| snapshot.operator == node.id) {
            memory.restore(index, &states, snapshot, watermark).await?;
        }
    }
    let now = EventTime::of_millis(around.env.unix_ms());
    for (branch, rows) in end_time(dataflow, &mut memory, now).await? {
        let branch = &dataflow.branches[branch];
        let of_target = all.entry(branch.target.clone()).or_default();
        for rows in rows {
            if !branch.retract {
                of_target.rows.push(rows);
                continue;
            }
            let (given, retracted) = by_weight(&rows)?;
            of_target.rows.push(given);
            of_target.retracted.push(retracted);
        }
    }
    Ok(all)
}

/// The rows that each branch would emit if event time ended.
async fn end_time(dataflow: &Dataflow, memory: &mut Memory, now: EventTime) -> Result<Vec<(usize, Vec<RecordBatch>)>> {
    let lane = dataflow.lane();
    let mut given = Vec::new();
    for stage in 0..dataflow.stages {
        lane.run_fragments(dataflow, stage, |_| true).await?;
        for (index, _) in dataflow.branches.iter().enumerate().filter(|(_, branch)| branch.stage == stage) {
            given.push((index, lane.make_branch(dataflow, index).await?));
        }
        for (index, node) in dataflow.operators_of(stage) {
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for port in 0..node.inputs.len() {
                inputs.push(lane.sound_rows(dataflow, index, port).await?);
            }
            let watermark = match node.spec {
                OperatorSpec::Lookup(_) => Watermark::NONE,
                _ => Watermark::END,
            };
            let mut stepped = memory.step(index, inputs, watermark, now).await?;
            while let Some(more) = memory.next_part(index).await? {
                stepped.extend(more);
            }
            lane.fill(node.output, stepped.into_iter().flat_map(|out| out.rows).collect())?;
        }
    }
    Ok(given)
}

/// The rows of a retracting stream that are given and those that are retracted, without their weights.
fn by_weight(rows: &RecordBatch) -> Result<(RecordBatch, RecordBatch)> {
    let last = rows.num_columns().checked_sub(1).ok_or_else(|| Error::internal("a retracting stream has no weight"))?;
    let weights = rows.column(last).as_primitive::<Int64Type>();
    let of = |wanted: fn(i64) -> bool| -> Result<RecordBatch> {
        let mask: BooleanArray = weights.values().iter().map(|weight| Some(wanted(*weight))).collect();
        let columns: Vec<usize> = (0..last).collect();
        let wrong = || "rows cannot be parted by their weight".to_owned();
        filter_record_batch(&rows.project(&columns).internal(wrong)?, &mask).internal(wrong)
    };
    Ok((of(|weight| weight > 0)?, of(|weight| weight < 0)?))
}
