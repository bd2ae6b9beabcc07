//! The epoch that is being filled: its sinks' writers, its dead letters, the offsets that it has read.
//!
//! Lanes run side by side; each sink's [`SinkWriter`] keeps them apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, Int64Array};
use arrow::compute::kernels::cmp::gt;
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use futures::future::try_join_all;

use super::feed::Fed;
use super::finder::RowFinder;
use super::letters::LetterBox;
use super::memory::Memory;
use super::sinks::Sinks;
use crate::delta::{StagedFiles, UpsertRows, Violations, size_of_rows};
use crate::error::{Context, Error, Result};
use crate::memory::Reserved;
use crate::operator::WEIGHT;
use crate::plan::{Branch, Dataflow};
use crate::sink::dead_letters::{Letter, of_message};
use crate::sink::{Arrival, Opening, Refused, Sink, SinkWriter, Staged, Written};
use crate::source::chunk::{DeadLetter, PartitionId};
use crate::source::origin::{Origin, Origins};
use crate::state::{Epoch, OffsetRange};
use crate::time::{EventTime, Watermark};

/// Bytes of a row, besides itself, in the changes of an operator's state.
const CHANGED_ROW_BYTES: u64 = 32;

/// An epoch holds at least this many micro-batches when one makes much that waits for its end. While cold state is on disk it is one: every
/// micro-batch may read all of it.
const MICRO_BATCHES_PER_EPOCH: u64 = 4;

/// Offsets that one epoch has read, per source index.
pub type Ranges = BTreeMap<usize, BTreeMap<PartitionId, OffsetRange>>;

/// An epoch's writers, shared by its lanes.
pub struct Outputs {
    epoch: Epoch,
    pub(super) sinks: Arc<Sinks>,
    pub(crate) dataflow: Arc<Dataflow>,
    /// Per branch.
    writers: Vec<Arc<dyn SinkWriter>>,
    rows: Vec<AtomicU64>,
    /// Rows that the branch's target refused or that could not be computed for it.
    refused: Vec<AtomicU64>,
    /// Some plan may make many rows of one.
    unfolds: bool,
    /// Bytes that plans which grow rows have made of the slice that runs.
    made: AtomicU64,
    /// Bytes that wait for the end of the epoch: rows, messages, names of files.
    waiting: AtomicU64,
    /// `waiting` and the open files.
    reserved: Reserved,
    letters: LetterBox,
    /// Late rows become dead letters.
    pub(super) keep_late: bool,
    /// Micro-batches taken before the one that runs.
    pub(super) micro_batch: AtomicU64,
}

/// Rows of one source, or none when only time has moved.
pub struct MicroBatch {
    pub source: Option<usize>,
    /// Rows per lane.
    pub lanes: Vec<Vec<RecordBatch>>,
    /// The origins of the rows, per lane; empty when they are not known.
    pub origins: Vec<Origins>,
    /// The places within these rows at which event time moves, in order; otherwise it moves with the last row.
    pub cuts: Vec<Cut>,
    /// The watermark of every source after these rows.
    pub times: Vec<Watermark>,
    /// The epoch's processing time.
    pub now: EventTime,
}

/// A place in a micro-batch at which event time moves: what is behind it is late, or sees less.
#[derive(Debug)]
pub struct Cut {
    pub lane: usize,
    /// Rows of the lane before it.
    pub rows: usize,
    /// The watermark of every source there.
    pub times: Vec<Watermark>,
}

impl Outputs {
    /// Writers for `epoch`; nothing is opened yet.
    pub fn new(
        epoch: Epoch,
        run: &str,
        sinks: Arc<Sinks>,
        dataflow: Arc<Dataflow>,
        lanes: usize,
        keep_late: bool,
    ) -> Self {
        let branches = dataflow.branches.len();
        let sent = Arc::new(AtomicU64::new(0));
        let open = |(sink, branch): (&Arc<dyn Sink>, &Branch)| {
            sink.open(&Opening {
                epoch,
                run: run.to_owned(),
                target: branch.target.clone(),
                schema: Arc::clone(&branch.schema),
                retracts: branch.retract,
                lanes,
                sent: Arc::clone(&sent),
            })
        };
        Self {
            epoch,
            writers: sinks.branches.iter().zip(&dataflow.branches).map(open).collect(),
            rows: (0..branches).map(|_| AtomicU64::new(0)).collect(),
            refused: (0..branches).map(|_| AtomicU64::new(0)).collect(),
            unfolds: dataflow.unfolds(),
            made: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            reserved: sinks.memory.reserve(),
            letters: LetterBox::new(sinks.memory.reserve()),
            sinks,
            keep_late,
            micro_batch: AtomicU64::new(0),
            dataflow,
        }
    }

    /// Rows written so far, per branch.
    pub fn rows(&self) -> Vec<u64> {
        self.rows.iter().map(|rows| rows.load(Ordering::Relaxed)).collect()
    }

    /// Rows refused so far, per branch.
    pub fn refused_rows(&self) -> Vec<u64> {
        self.refused.iter().map(|rows| rows.load(Ordering::Relaxed)).collect()
    }

    pub(super) fn count_refused(&self, branch: usize, rows: u64) {
        self.refused[branch].fetch_add(rows, Ordering::Relaxed);
    }

    /// Rows that count as written, or are about to, were refused.
    pub(crate) fn count_taken_back(&self, branch: usize, rows: u64) {
        self.count_refused(branch, rows);
        self.rows[branch].fetch_sub(rows, Ordering::Relaxed);
    }

    /// True when some plan may make many rows of one.
    pub fn unfolds(&self) -> bool {
        self.unfolds
    }

    /// True when some plan may make much of few rows.
    pub fn grows(&self) -> bool {
        self.dataflow.growing.grows()
    }

    /// Rows of each of `lanes` that may run at a time.
    pub(super) fn slice_rows(&self, lanes: usize) -> usize {
        self.sinks.memory.slice_rows(self.unfolds, self.dataflow.growing.row_bytes, lanes)
    }

    /// A stage has made this much of the slice.
    pub(super) fn made(&self, bytes: u64) {
        self.made.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The output of the slice.
    pub(super) fn take_made(&self) -> u64 {
        self.made.swap(0, Ordering::Relaxed)
    }

    /// Bytes that wait for the end of the epoch.
    fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// True when so much waits for the end of the epoch that it should close, whatever its trigger says: another micro-batch that adds
    /// `more` bytes would be too much.
    pub fn is_full(&self, more: u64) -> bool {
        self.waiting() > self.sinks.memory.waiting_bytes().saturating_sub(more)
    }

    /// Notes what waits from now on.
    fn wait(&self, bytes: u64) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        self.reserved.add(bytes);
    }

    /// Records that could not be decoded.
    pub async fn refuse(&self, letters: impl IntoIterator<Item = Letter>) -> Result<()> {
        if self.letters.put(letters) { self.write_letters().await } else { Ok(()) }
    }

    /// Dead letters so far.
    pub fn refused(&self) -> u64 {
        self.letters.count()
    }

    async fn write_letters(&self) -> Result<()> {
        self.letters.write(&self.sinks.tables[self.sinks.dead_letters], self.epoch.0).await
    }

    /// The files of dead letters and how many there are; taken once, when the epoch closes.
    pub async fn close_letters(&self) -> Result<(StagedFiles, u64)> {
        self.write_letters().await?;
        Ok((self.letters.close().await?, self.refused()))
    }

    /// Makes dead letters of messages that are too large for a branch's topic.
    pub(crate) async fn refuse_messages(&self, branch: usize, refused: Option<Refused>) -> Result<()> {
        let Some(Refused { topic, messages }) = refused else { return Ok(()) };
        let sink = &self.dataflow.branches[branch].target;
        self.count_taken_back(branch, messages.len() as u64);
        self.refuse(messages.into_iter().map(|message| of_message(sink, &topic, message))).await
    }

    /// Closes the writers of the branches for whose sinks `is_wanted` holds, side by side; gives the branch of each output.
    /// A writer is closed once, when the epoch closes.
    pub async fn close_writers(&self, is_wanted: impl Fn(&dyn Sink) -> bool) -> Result<Vec<(usize, Staged)>> {
        let wanted = (0..self.writers.len()).filter(|branch| is_wanted(self.sinks.branches[*branch].as_ref()));
        let close = |branch: usize| async move { Ok((branch, self.writers[branch].close().await?)) };
        try_join_all(wanted.map(close)).await
    }

    /// Writes rows of a branch that `lane` has made; `records` finds what they were.
    pub(super) async fn write(&self, records: &RowFinder<'_>, lane: usize, rows: Vec<RecordBatch>) -> Result<()> {
        let branch = records.branch;
        let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let is_split = self.dataflow.branches[branch].retract && self.sinks.branches[branch].consolidates();
        let mut good = Vec::with_capacity(rows.len());
        for batch in rows {
            let first = records.pass(batch.num_rows());
            if is_split {
                good.extend(self.retracting_rows(records, &batch, first).await?);
            } else {
                let rows = self.checked(records, batch, |row| first + row).await?;
                good.push(UpsertRows { rows, weights: None });
            }
        }
        let at = Arrival { micro_batch: self.micro_batch.load(Ordering::Relaxed), branch, lane };
        let Written { waits, open, refused } = self.writers[branch].write(at, good).await?;
        self.wait(waits);
        self.reserved.change(open.0, open.1);
        self.refuse_messages(branch, refused).await?;
        self.rows[branch].fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The rows that break no rule of the branch's table, if it has one; the others become dead letters. `number` gives a row's
    /// number in the branch.
    async fn checked(
        &self,
        records: &RowFinder<'_>,
        rows: RecordBatch,
        number: impl Fn(usize) -> usize,
    ) -> Result<RecordBatch> {
        let Some(table) = self.sinks.branches[records.branch].table() else { return Ok(rows) };
        let sink = &self.sinks.tables[table];
        let Some(Violations { good, letters, rows: refused }) = sink.table.validator().check(&rows)? else {
            return Ok(rows);
        };
        // They are about to be counted as written.
        self.count_taken_back(records.branch, letters.len() as u64);
        let refused: Vec<usize> = refused.into_iter().map(number).collect();
        let mut origins = self.origins(records, &refused).await;
        let letters = refused.iter().zip(letters);
        let all: Vec<Letter> =
            letters.map(|(row, letter)| refused_row(&sink.name, letter, origins.remove(row))).collect();
        self.refuse(all).await?;
        Ok(good)
    }

    /// Parts of a retracting batch, with their weights. Only rows given are checked: what is taken back was checked when it was given.
    async fn retracting_rows(
        &self,
        records: &RowFinder<'_>,
        batch: &RecordBatch,
        first: usize,
    ) -> Result<Vec<UpsertRows>> {
        let (rows, weights) = split_weights(batch)?;
        let is_given = gt(&weights, &Int64Array::new_scalar(0)).internal(unreadable)?;
        let given = filter_record_batch(&rows, &is_given).internal(unreadable)?;
        let numbers: Vec<usize> = is_given.values().set_indices().map(|row| first + row).collect();
        let checked = self.checked(records, given, |row| numbers[row]).await?;
        checked_parts(rows, weights, checked)
    }
}

/// A retracting batch without those rows given that were refused. `checked` are the others.
fn checked_parts(rows: RecordBatch, weights: Int64Array, checked: RecordBatch) -> Result<Vec<UpsertRows>> {
    let given = gt(&weights, &Int64Array::new_scalar(0)).internal(unreadable)?;
    if checked.num_rows() == given.true_count() {
        return Ok(vec![UpsertRows { rows, weights: Some(weights) }]);
    }
    // Within a step the order of taking back and giving does not matter.
    let rows = filter_record_batch(&rows, &not(&given).internal(unreadable)?).internal(unreadable)?;
    let back = Int64Array::from_value(-1, rows.num_rows());
    Ok(vec![UpsertRows { rows, weights: Some(back) }, UpsertRows { rows: checked, weights: None }])
}

fn unreadable() -> String {
    "weights of a retracting stream cannot be read".to_owned()
}

/// The rows of a retracting stream and, apart from them, their weights.
fn split_weights(batch: &RecordBatch) -> Result<(RecordBatch, Int64Array)> {
    let lacking = || Error::internal("a retracting stream has no weights");
    let last = batch.num_columns().checked_sub(1).ok_or_else(lacking)?;
    if batch.schema().field(last).name() != WEIGHT {
        return Err(lacking());
    }
    let weights = batch.column(last).as_primitive_opt::<Int64Type>().ok_or_else(lacking)?.clone();
    let rows = batch.project(&(0..last).collect::<Vec<_>>()).internal(|| "weights cannot be cut off".to_owned())?;
    Ok((rows, weights))
}

/// A row that breaks a table's rules, as a dead letter: the row as JSON, the rules it breaks, the column to blame.
fn refused_row(
    table: &str,
    (payload, rules, column): (Vec<u8>, String, Option<String>),
    origin: Option<Origin>,
) -> Letter {
    let (partition, offset, timestamp_ms, key) = match origin {
        Some(Origin { partition, offset, timestamp_ms, key, .. }) => (partition, offset, timestamp_ms, key),
        None => (Arc::from(""), -1, -1, None),
    };
    let (payload, reason) = (Some(payload), format!("table `{table}`: {rules}"));
    let letter = DeadLetter { partition, offset, timestamp_ms, key, payload, reason, column };
    Letter { source: Arc::from(table), letter }
}

/// The epoch that is being filled.
pub struct OpenEpoch {
    pub epoch: Epoch,
    pub outputs: Arc<Outputs>,
    pub began: Instant,
    pub began_ms: i64,
    pub ranges: Ranges,
    /// Read with the micro-batch that comes next.
    dead: Vec<Letter>,
    pub records: u64,
    pub bytes: u64,
    pub micro_batches: u64,
    /// From arrival to written, of each micro-batch.
    pub latencies: Vec<Duration>,
    /// Of each micro-batch with an event time, the mean of its rows and how many they are.
    pub event_times: Vec<(EventTime, u64)>,
    /// A micro-batch has run, if only one that moved time.
    pub touched: bool,
    /// Bytes that the last micro-batch left waiting for the end of the epoch.
    last_waits: u64,
}

impl OpenEpoch {
    /// An epoch that has read nothing.
    pub fn new(epoch: Epoch, outputs: Outputs, now_ms: i64) -> Self {
        Self {
            epoch,
            outputs: Arc::new(outputs),
            began: Instant::now(),
            began_ms: now_ms,
            ranges: Ranges::new(),
            dead: Vec::new(),
            records: 0,
            bytes: 0,
            micro_batches: 0,
            latencies: Vec::new(),
            event_times: Vec::new(),
            touched: false,
            last_waits: 0,
        }
    }

    /// True when it takes no more before it is committed.
    pub fn is_full(&self) -> bool {
        self.outputs.is_full(self.last_waits)
    }

    /// True when nothing was read and time stood still, so that there is nothing to commit.
    pub fn is_idle(&self) -> bool {
        self.ranges.is_empty() && !self.touched
    }

    /// Notes what a micro-batch has read.
    pub fn note(&mut self, fed: &mut Fed, source_name: &str) {
        let source: Arc<str> = Arc::from(source_name);
        let dead = std::mem::take(&mut fed.dead);
        self.dead.extend(dead.into_iter().map(|letter| Letter { source: Arc::clone(&source), letter }));
        let read = self.ranges.entry(fed.source).or_default();
        for (partition, range) in &fed.ranges {
            let known = read.entry(Arc::clone(partition)).or_insert(*range);
            // Back before what was read: the topic is another one, and its offsets are what counts from here on.
            *known = if range.start < known.end { *range } else { OffsetRange { end: range.end, ..*known } };
        }
        self.records += fed.records;
        self.bytes += fed.bytes;
        self.event_times.extend(fed.event_time.mean());
    }

    /// Runs a micro-batch to the end: through the dataflow and into the writers.
    pub async fn take(&mut self, batch: MicroBatch, memory: &mut Memory, arrived: Instant) -> Result<()> {
        self.touched = true;
        self.outputs.refuse(std::mem::take(&mut self.dead)).await?;
        let rows = batch.lanes.iter().flatten().map(RecordBatch::num_rows).sum();
        let before = self.outputs.waiting();
        if !memory.is_empty() {
            // Changes of operators are written when the epoch closes: roughly at most as much as the operators were given.
            let given: u64 = batch.lanes.iter().flatten().map(size_of_rows).sum();
            self.outputs.wait(given + rows as u64 * CHANGED_ROW_BYTES);
        }
        self.outputs.run(batch, memory).await?;
        self.last_waits = self.outputs.waiting() - before;
        let per_epoch = if memory.is_divided() { 1 } else { MICRO_BATCHES_PER_EPOCH };
        self.outputs.sinks.memory.micro_batch(rows, self.last_waits, per_epoch);
        self.micro_batches += 1;
        self.outputs.micro_batch.fetch_add(1, Ordering::Relaxed);
        self.latencies.push(arrived.elapsed());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::ArrayRef;

    use super::*;

    fn weighted(ids: &[i64], weights: &[i64]) -> RecordBatch {
        let column = |values: &[i64]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
        RecordBatch::try_from_iter([("id", column(ids)), (WEIGHT, column(weights))]).unwrap()
    }

    fn ids(rows: &RecordBatch) -> Vec<i64> {
        rows.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    /// The rows that are checked, and the parts when `check` lets these through.
    fn parts(batch: &RecordBatch, check: impl FnOnce(RecordBatch) -> RecordBatch) -> (Vec<i64>, Vec<UpsertRows>) {
        let (rows, weights) = split_weights(batch).unwrap();
        let given = filter_record_batch(&rows, &gt(&weights, &Int64Array::new_scalar(0)).unwrap()).unwrap();
        (ids(&given), checked_parts(rows, weights, check(given)).unwrap())
    }

    #[test]
    fn only_rows_given_are_checked_and_none_is_lost_when_all_are_good() {
        let (seen, parts) = parts(&weighted(&[1, 2, 3], &[1, -1, 1]), |rows| rows);
        assert_eq!(seen, [1, 3]);
        let [part] = parts.as_slice() else { panic!("{parts:?}") };
        assert_eq!(ids(&part.rows), [1, 2, 3]);
        assert_eq!(part.weights.as_ref().unwrap().values(), &[1, -1, 1]);
    }

    #[test]
    fn rows_that_break_a_rule_leave_the_others_taken_back_first() {
        let (_, parts) = parts(&weighted(&[1, 2, 3], &[1, -1, 1]), |rows| rows.slice(1, rows.num_rows() - 1));
        let [back, given] = parts.as_slice() else { panic!("{parts:?}") };
        assert_eq!((ids(&back.rows), back.weights.as_ref().unwrap().values().to_vec()), (vec![2], vec![-1]));
        assert_eq!((ids(&given.rows), &given.weights), (vec![3], &None));
    }

    #[test]
    fn a_stream_without_weights_is_not_taken_for_a_retracting_one() {
        let plain = weighted(&[1], &[1]).project(&[0]).unwrap();
        assert!(split_weights(&plain).is_err());
    }
}
