//! `weir.state`: the size of the state of each pipeline's operators, and its growth.

use std::sync::Arc;

use datafusion::catalog::TableProvider;

use super::Warehouse;
use super::columns::{floats, integers, memory, micros, number, strings, text, timestamps};
use super::progress::{last_progress, pipelines};
use crate::epoch::{OperatorProgress, Progress};
use crate::error::Result;

const HOUR_US: i64 = 3_600_000_000;

/// One row per operator, from the last epoch of its pipeline. Growth is that of the last hour, or of the recorded time if it
/// is shorter, in rows and bytes per hour.
pub async fn table(warehouse: &Warehouse) -> Result<Arc<dyn TableProvider>> {
    let mut rows: Vec<OperatorState> = Vec::new();
    for pipeline in pipelines(warehouse.location()).await? {
        let epochs = last_progress(&pipeline, usize::MAX).await?;
        let Some(last) = epochs.last() else { continue };
        rows.extend(
            last.state_operators.iter().map(|operator| OperatorState::new(&pipeline.name, operator, last, &epochs)),
        );
    }
    let texts = |read: fn(&OperatorProgress) -> &str| strings(rows.iter().map(|row| text(read(&row.operator))));
    let numbers = |read: fn(&OperatorProgress) -> u64| integers(rows.iter().map(|row| number(read(&row.operator))));
    let times = |read: fn(&OperatorProgress) -> Option<&String>| {
        timestamps(rows.iter().map(|row| micros(read(&row.operator)?)))
    };
    memory(vec![
        ("pipeline", strings(rows.iter().map(|row| Some(row.pipeline.clone())))),
        ("operator", texts(|operator| &operator.operator)),
        ("kind", texts(|operator| &operator.kind)),
        ("rows", numbers(|operator| operator.num_rows_total)),
        ("bytes", numbers(|operator| operator.memory_used_bytes)),
        ("rows_per_hour", floats(rows.iter().map(|row| row.rows_per_hour))),
        ("bytes_per_hour", floats(rows.iter().map(|row| row.bytes_per_hour))),
        ("late_rows", numbers(|operator| operator.num_rows_late)),
        ("oldest", times(|operator| operator.oldest.as_ref())),
        ("watermark", times(|operator| operator.watermark.as_ref())),
    ])
}

/// An operator's row.
struct OperatorState {
    pipeline: String,
    operator: OperatorProgress,
    rows_per_hour: Option<f64>,
    bytes_per_hour: Option<f64>,
}

impl OperatorState {
    fn new(pipeline: &str, operator: &OperatorProgress, last: &Progress, epochs: &[Progress]) -> Self {
        let growth = |size: fn(&OperatorProgress) -> u64| growth(operator, last, epochs, size);
        Self {
            pipeline: pipeline.to_owned(),
            operator: operator.clone(),
            rows_per_hour: growth(|operator| operator.num_rows_total),
            bytes_per_hour: growth(|operator| operator.memory_used_bytes),
        }
    }
}

/// The hourly change of a number between the first epoch within an hour before the last one and the last one.
fn growth(
    operator: &OperatorProgress,
    last: &Progress,
    epochs: &[Progress],
    size: fn(&OperatorProgress) -> u64,
) -> Option<f64> {
    let now = micros(&last.timestamp)?;
    let (then, before) = epochs.iter().find_map(|epoch| {
        let then = micros(&epoch.timestamp).filter(|then| now - then <= HOUR_US)?;
        let same = epoch.state_operators.iter().find(|other| other.operator == operator.operator)?;
        Some((then, size(same) as f64))
    })?;
    let difference = size(operator) as f64 - before;
    (now > then).then(|| (difference * HOUR_US as f64 / (now - then) as f64).round())
}
