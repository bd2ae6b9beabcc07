//! Describes a sample of a source's records after decoding, for `weir check --connect`.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Field, TimestampMicrosecondType};
use chrono::DateTime;

use super::chunk::{Chunk, Payload, Poll, PollLimit, ReadFrom, SourceReader};
use super::decode::Decoder;
use super::file::FileReader;
use crate::catalog::{FileSourceOptions, OnError, SourceDef};
use crate::env::Env;
use crate::error::Error;

/// The remedy if records do not fit.
pub const HINT: &str =
    "Compare the source's columns and `format` with the records; `weir run` would make them dead letters.";

/// The maximum number of records that are decoded.
const ROWS: usize = 100;

/// Decodes `chunk` with the source's definition; reports how many records fit, and why the first other one does not. Errors:
/// none fits, or one does not fit and the source has `on_error = 'fail'`.
pub fn describe(def: &SourceDef, chunk: Chunk, env: &Env) -> Result<String, String> {
    let count = match &chunk.payload {
        Payload::Records(records) => records.len(),
        Payload::Rows(batch) => batch.num_rows(),
    };
    // Keeps the first refusal, so that it can be reported, whatever a run would do with it.
    let keeping = SourceDef { on_error: OnError::DeadLetter, ..def.clone() };
    let decoded =
        Decoder::new(&keeping).and_then(|decoder| decoder.decode(chunk)).map_err(|error| in_a_line(&error))?;
    let Some(first) = decoded.dead.first() else {
        let doubt = doubtful_time(&decoded.rows, env.unix_ms()).map(|doubt| format!("; WARNING: {doubt}"));
        return Ok(format!("{count} of {count} records decode{}", doubt.unwrap_or_default()));
    };
    let column = first.column.as_ref().map(|column| format!("column `{column}`: ")).unwrap_or_default();
    let told = format!(
        "{} of {count} records decode; `{}` at {}: {column}{}",
        count - decoded.refused,
        first.partition,
        first.offset,
        first.reason
    );
    if decoded.refused == count || def.on_error == OnError::Fail { Err(told) } else { Ok(told) }
}

/// A warning about a time in 1970, which usually is a number of another unit, or in the future.
fn doubtful_time(rows: &RecordBatch, now_ms: i64) -> Option<String> {
    const DAY: i64 = 86_400_000_000;
    let schema = rows.schema();
    let doubt = |(field, column): (&Arc<Field>, &ArrayRef)| {
        let times = column.as_primitive_opt::<TimestampMicrosecondType>()?;
        let now = now_ms.saturating_mul(1_000);
        let is_doubtful = |time: &i64| (0..365 * DAY).contains(time) || *time > now + DAY;
        let time = times.iter().flatten().find(is_doubtful)?;
        let shown = DateTime::from_timestamp_micros(time).map(|time| time.to_rfc3339()).unwrap_or_default();
        let (lies, hint) = match time > now {
            true => ("in the future", "rows beyond `max_future` are refused"),
            false => ("in 1970", "if its numbers are seconds, say `timestamp_unit = 'seconds'`"),
        };
        Some(format!("`{}` of a record is {shown}, {lies}: {hint}", field.name()))
    };
    schema.fields().iter().zip(rows.columns()).find_map(doubt)
}

/// Reads the first records of the first file and describes them. Errors: the path cannot be read, or as [`describe`].
pub async fn of_file(def: &SourceDef, options: &FileSourceOptions, env: &Env) -> Result<String, String> {
    let from = ReadFrom { bounded: true, ..ReadFrom::default() };
    let limit = PollLimit { rows: ROWS, bytes: 1 << 20, wait: Duration::ZERO, linger: Duration::ZERO };
    let polled = match FileReader::open(&def.name, options, def.format, &from, env) {
        Ok(mut reader) => reader.poll(limit).await,
        Err(error) => Err(error),
    };
    match polled.map_err(|error| in_a_line(&error))? {
        Poll::Chunks(chunks) => {
            chunks.into_iter().next().map_or_else(|| Ok(no_record()), |chunk| describe(def, chunk, env))
        }
        Poll::Idle | Poll::Finished => Ok(no_record()),
    }
}

fn no_record() -> String {
    "no record yet".to_owned()
}

fn in_a_line(error: &Error) -> String {
    let mut text = error.message().to_owned();
    if let Some(detail) = error.detail() {
        text = format!("{text}: {detail}");
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
