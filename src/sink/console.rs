//! `connector = 'console'`: rows as a table on standard output. For looking, not for pipelines.

use std::io::Write;

use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;

use crate::error::{Context, Result};

/// Prints `rows` under the sink's name.
pub fn print(name: &str, rows: &[RecordBatch]) -> Result<()> {
    let shown = pretty_format_batches(rows).internal(|| format!("rows of `{name}` cannot be shown"))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "-- {name}\n{shown}").environment(|| "standard output is closed".to_owned())
}

/// One row as a line of JSON, for messages.
pub fn row(batch: &RecordBatch, row: usize) -> Result<String> {
    let mut text = Vec::new();
    let mut writer = arrow::json::LineDelimitedWriter::new(&mut text);
    writer.write(&batch.slice(row, 1)).internal(|| "a row cannot be shown".to_owned())?;
    writer.finish().internal(|| "a row cannot be shown".to_owned())?;
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}
