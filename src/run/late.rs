//! Rows that came too late for an operator, or have no event time, as dead letters: of the source's record where the row still is one,
//! one letter whatever number of operators it is late for.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::{concat_batches, filter_record_batch, is_null, not};
use arrow::record_batch::RecordBatch;

use super::open::Outputs;
use super::traced::{Traced, not_compared};
use crate::error::{Context, Result};
use crate::plan::Lane;
use crate::sink::dead_letters::Letter;
use crate::sink::kafka::encode;
use crate::source::chunk::DeadLetter;
use crate::source::origin::Origin;

/// The reason in letters of late rows.
pub(crate) const LATE: &str = "the row is older than the watermark";
/// The reason in letters of rows that have no place in time.
const NO_TIME: &str = "its event time is NULL";

impl Outputs {
    /// Keeps what came too late for operator `index`, rows per port, of a micro-batch of `source`.
    pub(super) async fn keep_late_rows(
        &self,
        index: usize,
        (source, lanes): (Option<usize>, &[Arc<Lane>]),
        late: Vec<(usize, RecordBatch)>,
    ) -> Result<()> {
        let time = self.dataflow.operators[index].spec.event_time();
        for (port, rows) in late {
            let (late, without_time) = by_time(rows, time)?;
            self.keep_rows((index, port), (source, lanes), late, LATE).await?;
            self.keep_rows((index, port), (source, lanes), without_time, NO_TIME).await?;
        }
        Ok(())
    }

    async fn keep_rows(
        &self,
        (index, port): (usize, usize),
        (source, lanes): (Option<usize>, &[Arc<Lane>]),
        rows: RecordBatch,
        reason: &str,
    ) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let name = source.map(|source| self.dataflow.sources[source].def.name.as_str());
        let source: Arc<str> = Arc::from(name.unwrap_or_default());
        let traced = match name {
            Some(_) => self.trace_inputs(index, port, lanes, &rows).await?,
            None => (0..rows.num_rows()).map(|_| Traced::Unknown).collect(),
        };
        let unknown: Vec<bool> = traced.iter().map(|traced| matches!(traced, Traced::Unknown)).collect();
        let unknown = filter_record_batch(&rows, &BooleanArray::from(unknown)).internal(not_compared)?;
        let mut others = BTreeMap::from([(index, vec![unknown])]);
        let mut letters = Vec::new();
        for traced in traced {
            match traced {
                Traced::Record(lane, place) if lane.is_first_late(place) => {
                    let (origin, row) = lane.origin(place);
                    letters.extend(origin.map(|origin| of_record(&source, origin, row, reason)));
                }
                Traced::Input(before, row) => others.entry(before).or_default().push(row),
                Traced::Record(..) | Traced::Unknown => {}
            }
        }
        for (operator, rows) in others {
            let rows = concat_batches(&rows[0].schema(), &rows).internal(not_compared)?;
            letters.extend(without_origin(&self.dataflow.operators[operator].id, &rows, reason)?);
        }
        self.refuse(letters).await
    }
}

fn of_record(source: &Arc<str>, origin: Origin, payload: Option<Vec<u8>>, reason: &str) -> Letter {
    let Origin { partition, offset, timestamp_ms, key, .. } = origin;
    let reason = reason.to_owned();
    let letter = DeadLetter { partition, offset, timestamp_ms, key, payload, reason, column: None };
    Letter { source: Arc::clone(source), letter }
}

/// The rows that have an event time, and the others.
fn by_time(rows: RecordBatch, time: Option<usize>) -> Result<(RecordBatch, RecordBatch)> {
    let nulls = time
        .and_then(|time| rows.columns().get(time))
        .map(|column| is_null(column))
        .transpose()
        .internal(not_compared)?;
    let Some(nulls) = nulls.filter(|nulls| nulls.true_count() > 0) else {
        let none = rows.slice(0, 0);
        return Ok((rows, none));
    };
    let of = |mask: &BooleanArray| filter_record_batch(&rows, mask).internal(not_compared);
    Ok((of(&not(&nulls).internal(not_compared)?)?, of(&nulls)?))
}

fn without_origin(operator: &str, rows: &RecordBatch, reason: &str) -> Result<Vec<Letter>> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let messages = encode(rows, None)?;
    let letter = |payload: Option<&[u8]>| DeadLetter {
        partition: Arc::from(""),
        offset: -1,
        timestamp_ms: -1,
        key: None,
        payload: payload.map(<[u8]>::to_vec),
        reason: reason.to_owned(),
        column: None,
    };
    let source: Arc<str> = Arc::from(operator);
    Ok(messages.iter().map(|row| Letter { source: Arc::clone(&source), letter: letter(row.payload) }).collect())
}
