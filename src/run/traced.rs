//! Finds the source records of rows that operators have passed on as they came: DEDUPLICATE, rolling windows on arrival, joins to a
//! table. Operators say which rows they emit, not where these stood, so rows are looked for by their values in what was read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::finder::RowFinder;
use super::open::Outputs;
use crate::error::{Context, Result};
use crate::operator::StreamId;
use crate::plan::Lane;
use crate::source::origin::Origin;

/// The record that a row was made from.
pub enum Traced<'l> {
    /// A record of the source: its lane, its place there.
    Record(&'l Arc<Lane>, u64),
    /// A row that this operator has read and passed on; from before nothing is at hand.
    Input(usize, RecordBatch),
    Unknown,
}

impl Outputs {
    /// The records behind each of `rows`, which operator `index` read at `port`.
    pub(super) fn trace_inputs<'l: 'r, 'r>(
        &'l self,
        index: usize,
        port: usize,
        lanes: &'l [Arc<Lane>],
        rows: &'r RecordBatch,
    ) -> BoxFuture<'r, Result<Vec<Traced<'l>>>> {
        async move {
            let stream = self.dataflow.operators[index].inputs[port];
            let mut traced: Vec<Traced<'l>> = (0..rows.num_rows()).map(|_| Traced::Unknown).collect();
            let mut wanted = Wanted::new(rows)?;
            let mut passed_on = PassedOn::default();
            for lane in lanes {
                if wanted.is_empty() {
                    break;
                }
                if let Some(places) = lane.places_of(&self.dataflow, stream).await? {
                    for (asked, row) in wanted.take(lane.rows(stream))? {
                        // A row whose record has no position is told as it is.
                        match places.get(row).copied().flatten().filter(|place| lane.origin(*place).0.is_some()) {
                            Some(place) => traced[asked] = Traced::Record(lane, place),
                            None => wanted.give_back(asked),
                        }
                    }
                }
                for (before, columns) in self.passing(&[stream]) {
                    let root = self.dataflow.operators[before].output;
                    let Some(roots) = lane.rows_of_root(&self.dataflow, stream, root).await? else { continue };
                    let mut became = Vec::new();
                    for (asked, row) in wanted.take(lane.rows(stream))? {
                        match roots.get(row).copied().flatten() {
                            Some(passed) => became.push((asked, passed)),
                            None => wanted.give_back(asked),
                        }
                    }
                    passed_on.note((before, columns), lane.rows(root), &became)?;
                }
            }
            for (before, asked, rows) in passed_on.joined()? {
                let found = self.trace_inputs(before, 0, lanes, &rows).await?;
                for ((asked, found), row) in asked.into_iter().zip(found).zip(0..) {
                    traced[asked] = match found {
                        Traced::Unknown => Traced::Input(before, rows.slice(row, 1)),
                        found => found,
                    };
                }
            }
            Ok(traced)
        }
        .boxed()
    }

    /// The origins of rows of a branch, by their numbers. The others are made of others, or their records are not at hand.
    pub(super) async fn origins(&self, records: &RowFinder<'_>, rows: &[usize]) -> BTreeMap<usize, Origin> {
        let (lane, places) = (records.lane(), records.places(&self.dataflow).await);
        let origin = |row: &usize| Some((*row, lane.origin(places.get(*row).copied().flatten()?).0?));
        let mut origins: BTreeMap<usize, Origin> = rows.iter().filter_map(origin).collect();
        let others: Vec<usize> = rows.iter().copied().filter(|row| !origins.contains_key(row)).collect();
        if !others.is_empty() {
            match self.origins_behind(records.branch, lane, records.lanes(), &others).await {
                Ok(found) => origins.extend(found),
                Err(error) => tracing::debug!(%error, "refused rows are not traced through operators"),
            }
        }
        origins
    }

    /// The same of those that operators have passed on.
    async fn origins_behind(
        &self,
        branch: usize,
        lane: &Lane,
        lanes: &[Arc<Lane>],
        rows: &[usize],
    ) -> Result<BTreeMap<usize, Origin>> {
        let mut origins = BTreeMap::new();
        for (before, columns) in self.passing(&self.dataflow.branches[branch].reads) {
            let root = self.dataflow.operators[before].output;
            let Some(roots) = lane.branch_rows_of_root(&self.dataflow, branch, root).await? else { continue };
            let became = rows.iter().filter_map(|row| Some((*row, roots.get(*row).copied().flatten()?)));
            let mut passed_on = PassedOn::default();
            passed_on.note((before, columns), lane.rows(root), &became.collect::<Vec<_>>())?;
            for (before, asked, passed) in passed_on.joined()? {
                let traced = self.trace_inputs(before, 0, lanes, &passed).await?;
                // A lookup may have made several rows of one.
                let contents = Contents::of(&passed)?;
                let mut known: HashMap<&[u8], Origin> = HashMap::new();
                for (row, traced) in traced.iter().enumerate() {
                    if let Traced::Record(lane, place) = traced
                        && let Some(origin) = lane.origin(*place).0
                    {
                        known.insert(contents.of_row(row), origin.clone());
                        origins.insert(asked[row], origin);
                    }
                }
                for (row, asked) in asked.into_iter().enumerate() {
                    if let Some(origin) = known.get(contents.of_row(row)) {
                        origins.entry(asked).or_insert_with(|| origin.clone());
                    }
                }
            }
        }
        Ok(origins)
    }

    /// The operators whose rows `streams` are made of, which they have passed on as they came, with the columns that these begin with.
    fn passing(&self, streams: &[StreamId]) -> Vec<(usize, usize)> {
        let mut reads = streams.to_vec();
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

/// Rows as operators read them, by the operator that passed them on, and which of the rows asked for they became.
#[derive(Default)]
struct PassedOn(BTreeMap<usize, (Vec<usize>, Vec<RecordBatch>)>);

impl PassedOn {
    /// Of the rows that operator `before` `emitted`, these became rows that were asked for: numbers of the latter and of the former. They
    /// were read as the first `columns`.
    fn note(
        &mut self,
        (before, columns): (usize, usize),
        emitted: &[RecordBatch],
        became: &[(usize, u64)],
    ) -> Result<()> {
        let mut ends = Vec::with_capacity(emitted.len());
        let mut end = 0;
        for batch in emitted {
            end += batch.num_rows();
            ends.push(end);
        }
        let (mut numbers, mut places) = (Vec::new(), Vec::new());
        for (asked, passed) in became {
            let passed = *passed as usize;
            let batch = ends.partition_point(|end| *end <= passed);
            if let Some(rows) = emitted.get(batch) {
                numbers.push(*asked);
                places.push((batch, passed - (ends[batch] - rows.num_rows())));
            }
        }
        if numbers.is_empty() {
            return Ok(());
        }
        let rows = interleave_record_batch(&emitted.iter().collect::<Vec<_>>(), &places).internal(not_compared)?;
        let rows = rows.project(&(0..columns).collect::<Vec<_>>()).internal(not_compared)?;
        let (all, batches) = self.0.entry(before).or_default();
        all.extend(numbers);
        batches.push(rows);
        Ok(())
    }

    fn joined(self) -> Result<Vec<(usize, Vec<usize>, RecordBatch)>> {
        let joined = self.0.into_iter().map(|(before, (numbers, rows))| {
            Ok((before, numbers, concat_batches(&rows[0].schema(), &rows).internal(not_compared)?))
        });
        joined.collect()
    }
}

/// Rows in a form that can be compared.
struct Contents {
    converter: RowConverter,
    rows: Rows,
}

impl Contents {
    fn of(rows: &RecordBatch) -> Result<Self> {
        let fields = rows.schema_ref().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).internal(not_compared)?;
        let rows = converter.convert_columns(rows.columns()).internal(not_compared)?;
        Ok(Self { converter, rows })
    }

    fn of_row(&self, row: usize) -> &[u8] {
        self.rows.row(row).data()
    }
}

/// Rows that have not been found yet, by content.
struct Wanted {
    contents: Contents,
    open: HashMap<Vec<u8>, Vec<usize>>,
}

impl Wanted {
    fn new(rows: &RecordBatch) -> Result<Self> {
        let contents = Contents::of(rows)?;
        let mut open: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for row in (0..rows.num_rows()).rev() {
            open.entry(contents.of_row(row).to_vec()).or_default().push(row);
        }
        Ok(Self { contents, open })
    }

    fn is_empty(&self) -> bool {
        self.open.values().all(Vec::is_empty)
    }

    /// The rows of a stream that are wanted: the number of each among those asked for, and its own. They no longer are.
    fn take(&mut self, rows: &[RecordBatch]) -> Result<Vec<(usize, usize)>> {
        let (mut taken, mut before) = (Vec::new(), 0);
        for batch in rows {
            let contents = self.contents.converter.convert_columns(batch.columns()).internal(not_compared)?;
            for (row, content) in contents.iter().enumerate() {
                if let Some(asked) = self.open.get_mut(content.as_ref()).and_then(Vec::pop) {
                    taken.push((asked, before + row));
                }
            }
            before += batch.num_rows();
        }
        Ok(taken)
    }

    /// The record found for this row was another one.
    fn give_back(&mut self, asked: usize) {
        if let Some(open) = self.open.get_mut(self.contents.of_row(asked)) {
            open.push(asked);
        }
    }
}

pub(super) fn not_compared() -> String {
    "rows cannot be compared".to_owned()
}
