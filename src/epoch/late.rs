//! Rows that came too late for an operator, as dead letters: of the source's record where the row still is one, one letter whatever
//! number of operators it is late for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::open::Outputs;
use crate::error::{Context, Result};
use crate::operator::StreamId;
use crate::plan::Lane;
use crate::sink::dead_letters::Letter;
use crate::sink::kafka::encode;
use crate::source::chunk::DeadLetter;
use crate::source::origin::Origin;

/// The reason of their letters.
pub(super) const REASON: &str = "the row is older than the watermark";

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
            let (found, others) = match name {
                Some(_) => self.records_of(index, port, lanes, rows).await?,
                None => (Vec::new(), rows),
            };
            self.refuse(without_origin(&self.dataflow.operators[index].id, &others)?).await?;
            let source: Arc<str> = Arc::from(name.unwrap_or_default());
            let first = found.into_iter().filter(|(lane, place)| lane.is_first_late(*place));
            let letters = first.filter_map(|(lane, place)| {
                let (origin, row) = lane.origin(place);
                let Origin { partition, offset, timestamp_ms, key, .. } = origin?;
                let reason = REASON.to_owned();
                let letter = DeadLetter { partition, offset, timestamp_ms, key, payload: row, reason, column: None };
                Some(Letter { source: Arc::clone(&source), letter })
            });
            self.refuse(letters.collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// The source's records that late rows are, lane and place of each, and the rows that are none (any more): operators say which rows
    /// are late, not where they stood. A row that operators have passed on as it came is looked for in what the first of them read.
    fn records_of<'l>(
        &'l self,
        index: usize,
        port: usize,
        lanes: &'l [Arc<Lane>],
        late: RecordBatch,
    ) -> BoxFuture<'l, Result<(Vec<Record<'l>>, RecordBatch)>> {
        async move {
            let stream = self.dataflow.operators[index].inputs[port];
            let Some(mut wanted) = Wanted::new(late)? else {
                return Ok((Vec::new(), RecordBatch::new_empty(Arc::new(Schema::empty()))));
            };
            let mut found = Vec::with_capacity(wanted.rows.num_rows());
            let mut passed_on: BTreeMap<usize, Vec<RecordBatch>> = BTreeMap::new();
            for lane in lanes {
                if let Some(places) = lane.places_of(&self.dataflow, stream).await? {
                    for row in wanted.take(lane.rows(stream))? {
                        // A row whose record has no position is told as it is.
                        match places.get(row).copied().flatten().filter(|place| lane.origin(*place).0.is_some()) {
                            Some(place) => found.push((lane, place)),
                            None => wanted.give_back(lane.rows(stream), row)?,
                        }
                    }
                }
                for (before, columns) in self.passing(stream) {
                    let root = self.dataflow.operators[before].output;
                    let Some(roots) = lane.rows_of_root(&self.dataflow, stream, root).await? else { continue };
                    for row in wanted.take(lane.rows(stream))? {
                        let passed = roots.get(row).copied().flatten();
                        match passed.and_then(|passed| row_at(lane.rows(root), passed as usize)) {
                            Some(passed) => {
                                let columns: Vec<usize> = (0..columns).collect();
                                let passed = passed.project(&columns).internal(not_compared)?;
                                passed_on.entry(before).or_default().push(passed);
                            }
                            None => wanted.give_back(lane.rows(stream), row)?,
                        }
                    }
                }
            }
            for (before, rows) in passed_on {
                let rows = concat_batches(&rows[0].schema(), &rows).internal(not_compared)?;
                // What is not found there has no record at hand: it is told as it was there.
                let (records, others) = self.records_of(before, 0, lanes, rows).await?;
                found.extend(records);
                self.refuse(without_origin(&self.dataflow.operators[before].id, &others)?).await?;
            }
            Ok((found, wanted.left()?))
        }
        .boxed()
    }

    /// The operators whose rows `stream` is made of, which they have passed on as they came, with the columns that these begin with.
    fn passing(&self, stream: StreamId) -> Vec<(usize, usize)> {
        let mut reads = vec![stream];
        let mut seen = 0;
        while let Some(read) = reads.get(seen).copied() {
            seen += 1;
            let fragments = self.dataflow.fragments.iter().filter(|fragment| fragment.stream == read);
            let more: Vec<_> = fragments.flat_map(|fragment| &fragment.reads).copied().collect();
            reads.extend(more.into_iter().filter(|more| !reads.contains(more)).collect::<Vec<_>>());
        }
        let operators = self.dataflow.operators.iter().enumerate();
        let passing = operators.filter(|(_, node)| reads.contains(&node.output));
        passing.filter_map(|(index, node)| Some((index, node.spec.passes_on()?))).collect()
    }
}

/// A record of the source: its lane, and its place there.
type Record<'l> = (&'l Arc<Lane>, u64);

/// Late rows that have not been found yet.
struct Wanted {
    rows: RecordBatch,
    converter: RowConverter,
    counts: Counts,
}

impl Wanted {
    /// Nothing where there are no rows.
    fn new(rows: RecordBatch) -> Result<Option<Self>> {
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let fields = rows.schema_ref().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).internal(not_compared)?;
        let mut counts = Counts::new();
        for row in &converter.convert_columns(rows.columns()).internal(not_compared)? {
            *counts.entry(row.as_ref().to_vec()).or_default() += 1;
        }
        Ok(Some(Self { rows, converter, counts }))
    }

    /// The numbers of those rows of a stream that are wanted; they no longer are.
    fn take(&mut self, rows: &[RecordBatch]) -> Result<Vec<usize>> {
        let (mut taken, mut before) = (Vec::new(), 0);
        for batch in rows {
            for (row, content) in
                self.converter.convert_columns(batch.columns()).internal(not_compared)?.iter().enumerate()
            {
                if let Some(count) = self.counts.get_mut(content.as_ref()).filter(|count| **count > 0) {
                    *count -= 1;
                    taken.push(before + row);
                }
            }
            before += batch.num_rows();
        }
        Ok(taken)
    }

    /// Row `row` of a stream was not what is wanted.
    fn give_back(&mut self, rows: &[RecordBatch], row: usize) -> Result<()> {
        let Some(row) = row_at(rows, row) else { return Ok(()) };
        for content in &self.converter.convert_columns(row.columns()).internal(not_compared)? {
            *self.counts.entry(content.as_ref().to_vec()).or_default() += 1;
        }
        Ok(())
    }

    /// The rows that were not found.
    fn left(mut self) -> Result<RecordBatch> {
        let mut left = Vec::with_capacity(self.rows.num_rows());
        for content in &self.converter.convert_columns(self.rows.columns()).internal(not_compared)? {
            let count = self.counts.get_mut(content.as_ref()).filter(|count| **count > 0);
            left.push(count.is_some());
            count.into_iter().for_each(|count| *count -= 1);
        }
        filter_record_batch(&self.rows, &BooleanArray::from(left)).internal(not_compared)
    }
}

fn not_compared() -> String {
    "late rows cannot be compared".to_owned()
}

/// Row `row` of some batches.
fn row_at(rows: &[RecordBatch], mut row: usize) -> Option<RecordBatch> {
    for batch in rows {
        if row < batch.num_rows() {
            return Some(batch.slice(row, 1));
        }
        row -= batch.num_rows();
    }
    None
}

fn without_origin(operator: &str, rows: &RecordBatch) -> Result<Vec<Letter>> {
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
        reason: REASON.to_owned(),
        column: None,
    };
    let source: Arc<str> = Arc::from(operator);
    Ok(messages.iter().map(|row| Letter { source: Arc::clone(&source), letter: letter(row.payload) }).collect())
}
