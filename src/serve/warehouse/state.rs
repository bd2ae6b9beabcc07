//! `weir.state`: the size of the state of each pipeline's operators, and its growth.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use serde_json::Value;

use super::Warehouse;
use super::progress::{last_epochs, pipelines};
use super::system::{floats, integer, integers, memory, micros, strings, text, timestamps};
use crate::error::Result;

const HOUR_US: i64 = 3_600_000_000;

/// One row per operator, from the last epoch of its pipeline. Growth is that of the last hour, or of the recorded time if it
/// is shorter, in rows and bytes per hour.
pub async fn table(warehouse: &Warehouse) -> Result<Arc<dyn TableProvider>> {
    let mut rows: Vec<Row> = Vec::new();
    for pipeline in pipelines(warehouse.location()).await? {
        let epochs = last_epochs(&pipeline, usize::MAX).await?;
        let Some(last) = epochs.last() else { continue };
        for operator in operators(last) {
            rows.push(Row::new(&pipeline.name, operator, last, &epochs));
        }
    }
    let of = |read: fn(&Row) -> Option<i64>| integers(rows.iter().map(read));
    memory(vec![
        ("pipeline", strings(rows.iter().map(|row| Some(row.pipeline.clone())))),
        ("operator", strings(rows.iter().map(|row| text(&row.operator, &["operator"])))),
        ("kind", strings(rows.iter().map(|row| text(&row.operator, &["kind"])))),
        ("rows", of(|row| integer(&row.operator, &["numRowsTotal"]))),
        ("bytes", of(|row| integer(&row.operator, &["memoryUsedBytes"]))),
        ("rows_per_hour", floats(rows.iter().map(|row| row.rows_per_hour))),
        ("bytes_per_hour", floats(rows.iter().map(|row| row.bytes_per_hour))),
        ("late_rows", of(|row| integer(&row.operator, &["numRowsLate"]))),
        ("oldest", timestamps(rows.iter().map(|row| micros(row.operator.get("oldest"))))),
        ("watermark", timestamps(rows.iter().map(|row| micros(row.operator.get("watermark"))))),
    ])
}

struct Row {
    pipeline: String,
    operator: Value,
    rows_per_hour: Option<f64>,
    bytes_per_hour: Option<f64>,
}

impl Row {
    fn new(pipeline: &str, operator: &Value, last: &Value, epochs: &[Value]) -> Self {
        let growth = |what: &str| growth(operator, last, epochs, what);
        Self {
            pipeline: pipeline.to_owned(),
            operator: operator.clone(),
            rows_per_hour: growth("numRowsTotal"),
            bytes_per_hour: growth("memoryUsedBytes"),
        }
    }
}

/// The hourly change of a number between the first epoch within an hour before the last one and the last one.
fn growth(operator: &Value, last: &Value, epochs: &[Value], what: &str) -> Option<f64> {
    let name = operator.get("operator")?;
    let now = micros(last.get("timestamp"))?;
    let (then, before) = epochs.iter().find_map(|epoch| {
        let then = micros(epoch.get("timestamp")).filter(|then| now - then <= HOUR_US)?;
        let same = operators(epoch).find(|other| other.get("operator") == Some(name))?;
        Some((then, same.get(what)?.as_f64()?))
    })?;
    let difference = operator.get(what)?.as_f64()? - before;
    (now > then).then(|| (difference * HOUR_US as f64 / (now - then) as f64).round())
}

fn operators(epoch: &Value) -> impl Iterator<Item = &Value> {
    epoch.get("stateOperators").and_then(Value::as_array).into_iter().flatten()
}
