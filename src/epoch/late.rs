//! Rows that came too late for an operator, as dead letters: of the source's record where the row still is one, one letter whatever
//! number of operators it is late for.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};

use super::open::Outputs;
use crate::error::{Context, Result};
use crate::plan::Lane;
use crate::sink::dead_letters::Letter;
use crate::sink::kafka::encode;
use crate::source::chunk::DeadLetter;
use crate::source::origin::Origin;

const REASON: &str = "the row is older than the watermark";

/// The number of late rows, by content.
type Counts = HashMap<Vec<u8>, usize>;

impl Outputs {
    /// Keeps what came too late for operator `index`, rows per port, of a micro-batch of `source`.
    pub(super) async fn keep_late_rows(
        &self,
        index: usize,
        (source, lanes): (Option<usize>, &[Arc<Lane>]),
        late: Vec<(usize, RecordBatch)>,
    ) -> Result<()> {
        let name = source.map(|source| self.dataflow.sources[source].def.name.as_str());
        for (port, rows) in late {
            let found = match name {
                Some(_) => self.records_of(index, port, lanes, &rows).await?,
                None => Vec::new(),
            };
            if found.len() < rows.num_rows() {
                self.refuse(without_origin(&self.dataflow.operators[index].id, &rows)?).await?;
                continue;
            }
            let source: Arc<str> = Arc::from(name.unwrap_or_default());
            let first = found.into_iter().filter(|(lane, place)| lane.is_first_late(*place));
            let letters = first.filter_map(|(lane, place)| {
                let (origin, row) = lane.origin(place);
                let Origin { partition, offset, timestamp_ms } = origin?;
                let reason = REASON.to_owned();
                let letter =
                    DeadLetter { partition, offset, timestamp_ms, key: None, payload: row, reason, column: None };
                Some(Letter { source: Arc::clone(&source), letter })
            });
            self.refuse(letters.collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// The source's records that late rows are, lane and place of each: operators say which rows are late, not where they stood. Fewer
    /// than rows: some are no records any more.
    async fn records_of<'l>(
        &self,
        index: usize,
        port: usize,
        lanes: &'l [Arc<Lane>],
        late: &RecordBatch,
    ) -> Result<Vec<(&'l Arc<Lane>, u64)>> {
        let stream = self.dataflow.operators[index].inputs[port];
        let fields = late.schema_ref().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let Ok(converter) = RowConverter::new(fields) else { return Ok(Vec::new()) };
        let failed = || "late rows cannot be compared".to_owned();
        let mut wanted = Counts::new();
        for row in &converter.convert_columns(late.columns()).internal(failed)? {
            *wanted.entry(row.as_ref().to_vec()).or_default() += 1;
        }
        let mut found = Vec::with_capacity(late.num_rows());
        for lane in lanes {
            let Some(places) = lane.places_of(&self.dataflow, stream).await? else { continue };
            let mut before = 0;
            for rows in lane.rows(stream) {
                for (row, content) in converter.convert_columns(rows.columns()).internal(failed)?.iter().enumerate() {
                    let Some(count) = wanted.get_mut(content.as_ref()).filter(|count| **count > 0) else { continue };
                    // A row whose record has no position is told as it is.
                    let place = places.get(before + row).copied().flatten();
                    if let Some(place) = place.filter(|place| lane.origin(*place).0.is_some()) {
                        *count -= 1;
                        found.push((lane, place));
                    }
                }
                before += rows.num_rows();
            }
        }
        Ok(found)
    }
}

fn without_origin(operator: &str, rows: &RecordBatch) -> Result<Vec<Letter>> {
    let messages = encode(rows, None)?;
    let letter = |payload: Option<&[u8]>| DeadLetter {
        partition: Arc::from(""),
        offset: -1,
        timestamp_ms: -1,
        key: None,
        payload: payload.map(<[u8]>::to_vec),
        reason: REASON.to_owned(),
        column: None,
    };
    let source: Arc<str> = Arc::from(operator);
    Ok(messages.iter().map(|row| Letter { source: Arc::clone(&source), letter: letter(row.payload) }).collect())
}
