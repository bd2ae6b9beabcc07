//! The epoch that is being filled: its sink writers, its dead letters, what it has read.
//!
//! Lanes run side by side and each has writers of its own, opened when the first row comes, so a quiet epoch makes one
//! file and a busy one makes a file per lane.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use arrow::array::{Array, AsArray, Int64Array};
use arrow::compute::kernels::cmp::gt;
use arrow::compute::{concat_batches, filter_record_batch, not};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use tokio::sync::Mutex;

use super::feed::Fed;
use super::memory::{Memory, SPREAD_ROWS};
use super::sinks::{BranchSink, Sinks, TableSink};
use crate::delta::{TableWriter, UpsertRows, Violations};
use crate::error::{Context, Error, Result};
use crate::operator::WEIGHT;
use crate::plan::{Branch, Dataflow, Lane};
use crate::sink::console;
use crate::sink::dead_letters::Letter;
use crate::sink::file::FileWriter;
use crate::sink::kafka::{Messages, encode};
use crate::source::chunk::{DeadLetter, PartitionId};
use crate::state::{Epoch, OffsetRange};

/// What one epoch has read, per source index.
pub type Ranges = BTreeMap<usize, BTreeMap<PartitionId, OffsetRange>>;

/// An epoch's writers, shared by its lanes.
pub struct Outputs {
    epoch: Epoch,
    run: String,
    sinks: Arc<Sinks>,
    dataflow: Arc<Dataflow>,
    /// Per branch, per lane.
    writers: Vec<Vec<Mutex<Option<LaneWriter>>>>,
    rows: Vec<AtomicU64>,
    buffered: AtomicU64,
    violations: std::sync::Mutex<Vec<Letter>>,
    position: AtomicU64,
    /// Late rows become dead letters.
    keep_late: bool,
    /// Micro-batches taken before the one that runs.
    micro_batch: AtomicU64,
}

/// Rows of one source, or none when only time has moved.
pub struct MicroBatch {
    pub source: Option<usize>,
    /// Rows per lane.
    pub lanes: Vec<Vec<RecordBatch>>,
    /// The watermark of every source after these rows, microseconds.
    pub times: Vec<i64>,
    /// The epoch's processing time, microseconds.
    pub now: i64,
}

/// One lane's open writer of one branch.
pub enum LaneWriter {
    Table(Box<TableWriter>),
    Changes(Vec<Arrived>),
    Messages(Vec<Messages>),
    File(Box<FileWriter>),
}

/// Rows that wait to be consolidated, with their place in the epoch.
pub struct Arrived {
    pub micro_batch: u64,
    pub branch: usize,
    pub lane: usize,
    pub rows: UpsertRows,
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
        Self {
            epoch,
            run: run.to_owned(),
            sinks,
            writers: (0..branches).map(|_| (0..lanes).map(|_| Mutex::new(None)).collect()).collect(),
            rows: (0..branches).map(|_| AtomicU64::new(0)).collect(),
            buffered: AtomicU64::new(0),
            violations: std::sync::Mutex::default(),
            position: AtomicU64::new(0),
            keep_late,
            micro_batch: AtomicU64::new(0),
            dataflow,
        }
    }

    /// Rows written so far, per branch.
    pub fn rows(&self) -> Vec<u64> {
        self.rows.iter().map(|rows| rows.load(Ordering::Relaxed)).collect()
    }

    /// The INSERT behind a branch.
    pub fn branch(&self, branch: usize) -> &Branch {
        &self.dataflow.branches[branch]
    }

    /// Bytes held until the epoch closes.
    pub fn buffered(&self) -> u64 {
        self.buffered.load(Ordering::Relaxed)
    }

    /// Rows that a table's constraints refused; taken once, when the epoch closes.
    pub fn take_violations(&self) -> Vec<Letter> {
        std::mem::take(&mut *self.violations.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes every open writer, per branch; used once, when the epoch closes.
    pub async fn take_writers(&self) -> Vec<Vec<LaneWriter>> {
        let mut taken = Vec::with_capacity(self.writers.len());
        for lanes in &self.writers {
            let mut open = Vec::new();
            for lane in lanes {
                open.extend(lane.lock().await.take());
            }
            taken.push(open);
        }
        taken
    }

    /// Runs a micro-batch through the dataflow and writes what comes out: stage by stage, lanes side by side within a stage.
    pub async fn run(self: &Arc<Self>, batch: MicroBatch, memory: &mut Memory) -> Result<()> {
        let lanes = batch.lanes.len().max(memory.widest()).max(1);
        let lanes: Vec<Arc<Lane>> = (0..lanes).map(|_| Arc::new(self.dataflow.lane())).collect();
        if let Some(source) = batch.source {
            let stream = self.dataflow.sources[source].stream;
            for (lane, rows) in lanes.iter().zip(batch.lanes) {
                lane.fill(stream, rows)?;
            }
        }
        for stage in 0..self.dataflow.stages {
            self.run_stage(stage, &lanes).await?;
            let operators: Vec<usize> = self.dataflow.operators_of(stage).map(|(index, _)| index).collect();
            for index in operators {
                self.run_operator(index, &lanes, &batch.times, batch.now, memory).await?;
            }
        }
        Ok(())
    }

    async fn run_stage(self: &Arc<Self>, stage: usize, lanes: &[Arc<Lane>]) -> Result<()> {
        let others: Vec<_> = lanes
            .iter()
            .enumerate()
            .skip(1)
            .filter(|(_, lane)| !lane.is_empty())
            .map(|(number, lane)| {
                let (outputs, lane) = (Arc::clone(self), Arc::clone(lane));
                tokio::spawn(async move { outputs.run_lane(stage, number, &lane).await })
            })
            .collect();
        if let Some(lane) = lanes.first() {
            self.run_lane(stage, 0, lane).await?;
        }
        for task in others {
            task.await.internal(|| "a lane ended abnormally".to_owned())??;
        }
        Ok(())
    }

    /// Runs one lane through one stage and writes what comes out.
    async fn run_lane(&self, stage: usize, number: usize, lane: &Lane) -> Result<()> {
        let mut waiting = Vec::new();
        for (branch, rows) in lane.run(&self.dataflow, stage).await? {
            // What is sent at once goes before anything that encodes files.
            if matches!(self.sinks.branches[branch], BranchSink::Direct { .. }) {
                self.write(branch, number, rows).await?;
            } else {
                waiting.push((branch, rows));
            }
        }
        for (branch, rows) in waiting {
            self.write(branch, number, rows).await?;
        }
        Ok(())
    }

    /// Gives an operator the rows of all lanes; what its shards give goes back to the lanes.
    async fn run_operator(
        &self,
        index: usize,
        lanes: &[Arc<Lane>],
        times: &[i64],
        now: i64,
        memory: &mut Memory,
    ) -> Result<()> {
        let node = &self.dataflow.operators[index];
        let of_port = |stream| lanes.iter().flat_map(|lane| lane.rows(stream).iter().cloned()).collect();
        let inputs: Vec<Vec<RecordBatch>> = node.inputs.iter().map(|stream| of_port(*stream)).collect();
        let watermark = node.sources.iter().map(|source| times[*source]).min().unwrap_or(crate::state::NO_WATERMARK);
        let stepped = memory.step(index, inputs, watermark, now).await?;
        let mut of_shards = Vec::with_capacity(stepped.len());
        for out in stepped {
            if self.keep_late {
                self.keep_late_rows(&node.id, out.late)?;
            }
            of_shards.push(out.rows);
        }
        for (lane, rows) in lanes.iter().zip(in_lanes(of_shards)?) {
            lane.fill(node.output, rows)?;
        }
        Ok(())
    }

    fn keep_late_rows(&self, operator: &str, late: Vec<(usize, RecordBatch)>) -> Result<()> {
        for (_, rows) in late {
            let letters = late_rows(operator, &rows)?;
            self.violations.lock().unwrap_or_else(PoisonError::into_inner).extend(letters);
        }
        Ok(())
    }

    async fn write(&self, branch: usize, lane: usize, rows: Vec<RecordBatch>) -> Result<()> {
        let name = &self.dataflow.branches[branch].target;
        let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
        match &self.sinks.branches[branch] {
            BranchSink::Blackhole => {}
            BranchSink::Console(output) if self.dataflow.branches[branch].retract => {
                console::print_changes(name, &rows, output).await?;
            }
            BranchSink::Console(output) => console::print(name, &rows, output).await?,
            sink if sink.consolidates() => self.hold(branch, lane, rows).await?,
            BranchSink::Direct { producer, key, .. } => {
                for batch in &rows {
                    let first = self.position.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                    producer.send(&encode(batch, key.as_deref())?, self.epoch.0, first).await?;
                }
            }
            BranchSink::Transaction { key, .. } => {
                let mut slot = self.writers[branch][lane].lock().await;
                let LaneWriter::Messages(held) = slot.get_or_insert_with(|| LaneWriter::Messages(Vec::new())) else {
                    return Ok(());
                };
                for batch in &rows {
                    let encoded = encode(batch, key.as_deref())?;
                    self.buffered.fetch_add(encoded.bytes() as u64, Ordering::Relaxed);
                    held.push(encoded);
                }
            }
            BranchSink::File { folder, format } => {
                let mut slot = self.writers[branch][lane].lock().await;
                if slot.is_none() {
                    let file = format!("{:010}-{lane}-{}", self.epoch.0, self.run);
                    let schema = &self.dataflow.branches[branch].schema;
                    *slot = Some(LaneWriter::File(Box::new(FileWriter::create(folder, &file, *format, schema)?)));
                }
                if let Some(LaneWriter::File(file)) = slot.as_mut() {
                    rows.iter().try_for_each(|batch| file.write(batch))?;
                }
            }
            BranchSink::Table(table) => self.write_table(branch, lane, *table, rows).await?,
            BranchSink::Upsert(_) => {}
        }
        self.rows[branch].fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn write_table(&self, branch: usize, lane: usize, table: usize, rows: Vec<RecordBatch>) -> Result<()> {
        let sink = &self.sinks.tables[table];
        let mut slot = self.writers[branch][lane].lock().await;
        if slot.is_none() {
            *slot = Some(LaneWriter::Table(Box::new(sink.table.writer(&sink.options)?)));
        }
        let Some(LaneWriter::Table(writer)) = slot.as_mut() else { return Ok(()) };
        for batch in rows {
            writer.write(&self.checked(sink, batch)?).await?;
        }
        Ok(())
    }

    /// The rows that break no rule of the table; the others become dead letters.
    fn checked(&self, sink: &TableSink, rows: RecordBatch) -> Result<RecordBatch> {
        match sink.table.validator().check(&rows)? {
            None => Ok(rows),
            Some(Violations { good, letters }) => {
                let refused = letters.into_iter().map(|row| refused_row(&sink.name, row));
                self.violations.lock().unwrap_or_else(PoisonError::into_inner).extend(refused);
                Ok(good)
            }
        }
    }

    /// Keeps rows until the epoch closes, then to be consolidated by key.
    async fn hold(&self, branch: usize, lane: usize, rows: Vec<RecordBatch>) -> Result<()> {
        let check = |rows: RecordBatch| match &self.sinks.branches[branch] {
            BranchSink::Upsert(table) => self.checked(&self.sinks.tables[*table], rows),
            _ => Ok(rows),
        };
        let micro_batch = self.micro_batch.load(Ordering::Relaxed);
        let mut arrived = Vec::with_capacity(rows.len());
        for batch in rows {
            let parts = match self.dataflow.branches[branch].retract {
                false => vec![UpsertRows { rows: check(batch)?, weights: None }],
                true => retracting_rows(&batch, check)?,
            };
            for rows in parts {
                self.buffered.fetch_add(size_of_rows(&rows.rows), Ordering::Relaxed);
                arrived.push(Arrived { micro_batch, branch, lane, rows });
            }
        }
        let mut slot = self.writers[branch][lane].lock().await;
        if let LaneWriter::Changes(held) = slot.get_or_insert_with(|| LaneWriter::Changes(Vec::new())) {
            held.extend(arrived);
        }
        Ok(())
    }
}

/// What shards gave, as rows per lane. A few go on in one lane, as one batch: what every batch and every task costs would be more than
/// what its rows cost, and where processors are busy each task waits for its turn.
fn in_lanes(of_shards: Vec<Vec<RecordBatch>>) -> Result<Vec<Vec<RecordBatch>>> {
    let total: usize = of_shards.iter().flatten().map(RecordBatch::num_rows).sum();
    if total >= SPREAD_ROWS {
        return Ok(of_shards);
    }
    let rows: Vec<RecordBatch> = of_shards.into_iter().flatten().filter(|rows| rows.num_rows() > 0).collect();
    if rows.len() < 2 {
        return Ok(vec![rows]);
    }
    let joined = concat_batches(&rows[0].schema(), &rows);
    Ok(vec![vec![joined.internal(|| "shards of an operator differ in schema".to_owned())?]])
}

/// Bytes of these very rows: batches may be parts of larger ones.
fn size_of_rows(rows: &RecordBatch) -> u64 {
    rows.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0) as u64).sum()
}

/// Parts of a retracting batch, with their weights. Only rows given are checked: what is taken back was checked when it was given.
fn retracting_rows(
    batch: &RecordBatch,
    check: impl FnOnce(RecordBatch) -> Result<RecordBatch>,
) -> Result<Vec<UpsertRows>> {
    let fail = || "weights of a retracting stream cannot be read".to_owned();
    let (mut rows, weights) = split_weights(batch)?;
    let given = gt(&weights, &Int64Array::new_scalar(0)).internal(fail)?;
    let checked = check(filter_record_batch(&rows, &given).internal(fail)?)?;
    if checked.num_rows() == given.true_count() {
        return Ok(vec![UpsertRows { rows, weights: Some(weights) }]);
    }
    // Within a step the order of taking back and giving does not matter.
    rows = filter_record_batch(&rows, &not(&given).internal(fail)?).internal(fail)?;
    let back = Int64Array::from_value(-1, rows.num_rows());
    Ok(vec![UpsertRows { rows, weights: Some(back) }, UpsertRows { rows: checked, weights: None }])
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
fn refused_row(table: &str, (payload, rules, column): (Vec<u8>, String, Option<String>)) -> Letter {
    let letter = DeadLetter {
        partition: Arc::from(""),
        offset: -1,
        timestamp_ms: -1,
        key: None,
        payload: Some(payload),
        reason: format!("table `{table}`: {rules}"),
        column,
    };
    Letter { source: table.to_owned(), letter }
}

/// The epoch that is being filled.
pub struct OpenEpoch {
    pub epoch: Epoch,
    pub outputs: Arc<Outputs>,
    pub began: Instant,
    pub began_ms: i64,
    pub ranges: Ranges,
    pub dead: Vec<Letter>,
    pub records: u64,
    pub bytes: u64,
    pub micro_batches: u64,
    /// From arrival to written, of the slowest micro-batch, microseconds.
    pub worst_latency_us: u64,
    /// A micro-batch has run, if only one that moved time.
    pub touched: bool,
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
            worst_latency_us: 0,
            touched: false,
        }
    }

    /// True when nothing was read and time stood still, so that there is nothing to commit.
    pub fn is_idle(&self) -> bool {
        self.ranges.is_empty() && !self.touched
    }

    /// Notes what a micro-batch has read.
    pub fn note(&mut self, fed: &mut Fed, source_name: &str) {
        let dead = std::mem::take(&mut fed.dead);
        self.dead.extend(dead.into_iter().map(|letter| Letter { source: source_name.to_owned(), letter }));
        let read = self.ranges.entry(fed.source).or_default();
        for (partition, range) in &fed.ranges {
            let known = read.entry(Arc::clone(partition)).or_insert(*range);
            known.end = known.end.max(range.end);
        }
        self.records += fed.records;
        self.bytes += fed.bytes;
    }

    /// Runs a micro-batch to the end: through the dataflow and into the writers.
    pub async fn take(&mut self, batch: MicroBatch, memory: &mut Memory, arrived: Instant) -> Result<()> {
        self.touched = true;
        self.outputs.run(batch, memory).await?;
        self.micro_batches += 1;
        self.outputs.micro_batch.fetch_add(1, Ordering::Relaxed);
        self.worst_latency_us = self.worst_latency_us.max(arrived.elapsed().as_micros() as u64);
        Ok(())
    }
}

/// Rows that came too late for an operator, as dead letters: the row as JSON.
fn late_rows(operator: &str, rows: &RecordBatch) -> Result<Vec<Letter>> {
    let messages = encode(rows, None)?;
    let letter = |payload: Option<&[u8]>| DeadLetter {
        partition: Arc::from(""),
        offset: -1,
        timestamp_ms: -1,
        key: None,
        payload: payload.map(<[u8]>::to_vec),
        reason: "the row is older than the watermark".to_owned(),
        column: None,
    };
    Ok(messages.iter().map(|row| Letter { source: operator.to_owned(), letter: letter(row.payload) }).collect())
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

    #[test]
    fn only_rows_given_are_checked_and_none_is_lost_when_all_are_good() {
        let mut seen = Vec::new();
        let check = |rows: RecordBatch| {
            seen = ids(&rows);
            Ok(rows)
        };
        let parts = retracting_rows(&weighted(&[1, 2, 3], &[1, -1, 1]), check).unwrap();
        assert_eq!(seen, [1, 3]);
        let [part] = parts.as_slice() else { panic!("{parts:?}") };
        assert_eq!(ids(&part.rows), [1, 2, 3]);
        assert_eq!(part.weights.as_ref().unwrap().values(), &[1, -1, 1]);
    }

    #[test]
    fn rows_that_break_a_rule_leave_the_others_taken_back_first() {
        let check = |rows: RecordBatch| Ok(rows.slice(1, rows.num_rows() - 1));
        let parts = retracting_rows(&weighted(&[1, 2, 3], &[1, -1, 1]), check).unwrap();
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
