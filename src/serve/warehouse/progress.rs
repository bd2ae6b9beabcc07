//! The epochs of pipelines from `_weir/<pipeline>/progress.jsonl`: one JSON object per epoch, oldest first.
//!
//! The file is written by `epoch`. Only its end is read, so that the cost does not grow with a pipeline's age.

use serde_json::Value;

use super::location::{Complete, Location};
use crate::epoch::{self, Progress};
use crate::error::Result;

/// Bytes read from the end of a progress file: several thousand epochs.
const TAIL_BYTES: u64 = 4 << 20;

/// A pipeline's folder below `_weir`.
#[derive(Debug, Clone)]
pub struct PipelineFolder {
    pub name: String,
    pub location: Location,
}

/// The pipelines that have ever run on this warehouse, by name.
pub async fn pipelines(warehouse: &Location) -> Result<Vec<PipelineFolder>> {
    let root = warehouse.child("_weir");
    let names = epoch::pipelines(&warehouse.folder(), warehouse.place().as_str()).await?;
    let below = |name: &str| name.split('/').fold(root.clone(), |folder, part| folder.child(part));
    Ok(names.into_iter().map(|name| PipelineFolder { location: below(&name), name }).collect())
}

/// The last epochs of a pipeline, oldest first, at most `limit`.
pub async fn last_progress(pipeline: &PipelineFolder, limit: usize) -> Result<Vec<Progress>> {
    last(pipeline, limit, Progress::of_line).await
}

/// The same as JSON, as they were written.
pub async fn last_epochs(pipeline: &PipelineFolder, limit: usize) -> Result<Vec<Value>> {
    let sound = |line: &[u8]| Progress::of_line(line).and_then(|_| serde_json::from_slice(line).ok());
    last(pipeline, limit, sound).await
}

async fn last<T>(pipeline: &PipelineFolder, limit: usize, parse: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>> {
    let Some((bytes, complete)) = pipeline.location.tail("progress.jsonl", TAIL_BYTES).await? else {
        return Ok(Vec::new());
    };
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    if complete == Complete::No && !lines.is_empty() {
        // The tail begins somewhere in a line.
        lines.remove(0);
    }
    // A line that does not parse is still being written, or was when the process died, or is damaged.
    let mut epochs: Vec<T> = lines.iter().rev().filter_map(|line| parse(line)).take(limit).collect();
    epochs.reverse();
    Ok(epochs)
}
