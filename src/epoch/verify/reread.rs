//! The sources' records, read again: those that the pipeline had read, and what it had refused or found late, as its dead letters say.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;

use super::super::late::REASON as LATE;
use super::super::prepare::Surroundings;
use super::super::sinks::below;
use crate::catalog::{OnError, SourceDef};
use crate::delta::{Table, TableStore};
use crate::error::{Context, Error, Result};
use crate::source::chunk::{Offset, Offsets, PartitionId, Payload, Poll, PollLimit, ReadFrom};
use crate::source::decode::{Decoder, MAX_FUTURE};
use crate::source::origin::RowOrigins;

/// The records of one source that have letters.
type Records = BTreeSet<(String, Offset)>;

/// A source's rows.
#[derive(Debug, Default)]
pub(super) struct Reread {
    pub(super) rows: Vec<RecordBatch>,
    /// The same without those that were late, as far as letters name them.
    pub(super) in_time: Vec<RecordBatch>,
    pub(super) late: u64,
}

/// The dead letters of a pipeline.
pub(super) struct Letters(Vec<RecordBatch>);

impl Letters {
    /// Reads them; there may be none.
    pub(super) async fn of(pipeline: &str, around: &Surroundings) -> Result<Self> {
        let location = below(&around.pipeline_location(pipeline), "dead_letters");
        let store = TableStore::open(&location, &around.storage, &around.env)?;
        if !store.is_table().await? {
            return Ok(Self(Vec::new()));
        }
        let provider = Table::open(store).await?.provider(None).await?;
        let wanted = ["source", "partition", "offset", "reason"];
        let letters = SessionContext::new().read_table(provider)?.select_columns(&wanted)?.collect().await?;
        Ok(Self(letters))
    }

    /// The records of a source whose letters give such a reason.
    fn records(&self, source: &str, is_wanted: impl Fn(&str) -> bool) -> Result<Records> {
        let mut found = Records::new();
        for batch in &self.0 {
            let texts = |column: usize| {
                let text = arrow::compute::cast(batch.column(column), &arrow::datatypes::DataType::Utf8);
                text.internal(|| "dead letters cannot be read".to_owned())
            };
            let (sources, partitions, reasons) = (texts(0)?, texts(1)?, texts(3)?);
            let (sources, partitions, reasons) =
                (sources.as_string::<i32>(), partitions.as_string::<i32>(), reasons.as_string::<i32>());
            let offsets = batch.column(2).as_primitive_opt::<Int64Type>();
            let offsets = offsets.ok_or_else(|| Error::internal("dead letters have no offsets"))?;
            for row in (0..batch.num_rows()).filter(|row| offsets.is_valid(*row) && partitions.is_valid(*row)) {
                if sources.value(row) == source && is_wanted(reasons.value(row)) {
                    found.insert((partitions.value(row).to_owned(), offsets.value(row)));
                }
            }
        }
        Ok(found)
    }
}

/// Reads a source again up to `ends`.
pub(super) async fn reread(
    def: &SourceDef,
    pipeline: &str,
    ends: &Offsets,
    letters: &Letters,
    around: &Surroundings,
) -> Result<Reread> {
    let from = ReadFrom { bounded: true, ..ReadFrom::default() };
    let mut reader = crate::source::open(def, &format!("{pipeline}-verify"), from, &around.env).await?;
    let decoder = Decoder::new(def)?;
    // The clock has gone on: rows that were too far ahead of it are known by their letters, where there are letters.
    let decoder = if def.on_error == OnError::DeadLetter { decoder } else { decoder.with_clock(def, &around.env) };
    let refused = letters.records(&def.name, |reason| reason.contains(MAX_FUTURE))?;
    let late = letters.records(&def.name, |reason| reason.starts_with(LATE))?;
    let limit = PollLimit {
        rows: 100_000,
        bytes: around.limits.pool.poll_bytes(1),
        wait: std::time::Duration::from_millis(200),
        linger: std::time::Duration::ZERO,
    };
    let mut read = Reread::default();
    let mut reached = Offsets::new();
    loop {
        match reader.poll(limit).await? {
            Poll::Finished => return Ok(read),
            Poll::Idle => {}
            Poll::Chunks(chunks) => {
                for mut chunk in chunks {
                    let end = ends.get(&chunk.partition).copied().unwrap_or(chunk.start);
                    reached.insert(Arc::clone(&chunk.partition), chunk.end);
                    if chunk.start >= end {
                        continue;
                    }
                    if let (Payload::Rows(batch), true) = (&chunk.payload, chunk.end > end) {
                        let rows = usize::try_from(end - chunk.start).unwrap_or(0).min(batch.num_rows());
                        chunk.payload = Payload::Rows(batch.slice(0, rows));
                    }
                    let decoded = decoder.decode(chunk)?;
                    let of = |record: &(&PartitionId, Offset), records: &Records| {
                        !records.is_empty() && records.contains(&(record.0.to_string(), record.1))
                    };
                    let rows =
                        kept(&decoded.rows, &decoded.origins, |record| record.1 < end && !of(&record, &refused))?;
                    let in_time = kept(&decoded.rows, &decoded.origins, |record| {
                        record.1 < end && !of(&record, &refused) && !of(&record, &late)
                    })?;
                    read.late += (rows.num_rows() - in_time.num_rows()) as u64;
                    read.rows.extend(Some(rows).filter(|rows| rows.num_rows() > 0));
                    read.in_time.extend(Some(in_time).filter(|rows| rows.num_rows() > 0));
                }
            }
        }
        if ends.iter().all(|(partition, end)| reached.get(partition).is_some_and(|at| at >= end)) {
            return Ok(read);
        }
    }
}

/// The rows whose record is wanted.
fn kept(
    rows: &RecordBatch,
    origins: &RowOrigins,
    is_wanted: impl Fn((&PartitionId, Offset)) -> bool,
) -> Result<RecordBatch> {
    let wanted = (0..rows.num_rows())
        .map(|row| Some(origins.offsets.get(row).is_none_or(|offset| is_wanted((&origins.partition, offset)))));
    let wanted: BooleanArray = wanted.collect();
    match wanted.true_count() == rows.num_rows() {
        true => Ok(rows.clone()),
        false => filter_record_batch(rows, &wanted).internal(|| "rows cannot be left out".to_owned()),
    }
}
