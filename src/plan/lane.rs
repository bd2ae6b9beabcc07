//! Runs one lane of a micro-batch through a [`Dataflow`].
//!
//! Plans run as DataFusion has them. When a batch cannot be computed the plan is run once more, by [`Careful`], which leaves out the rows
//! that are to blame and says which they are; only then is it found out where rows come from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::{Array, UInt64Array};
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::careful::{Careful, Placed, is_volatile, next_batch};
use super::dataflow::{Branch, Dataflow, Fragment, Unshared};
use crate::error::Result;
use crate::evaluate::is_of_row;
use crate::memory::size::size_of_rows;
use crate::memory::slice::{SliceBudget, is_too_much};
use crate::operator::{Check, Describe, Held, RefusedRow, StreamId, as_json, without};
use crate::source::origin::{Origin, Origins};

/// A branch's rows are handed out when they have this many bytes.
const PIECE_BYTES: usize = 16 << 20;

/// One task's part of one micro-batch: the rows of its streams.
#[derive(Debug)]
pub struct Lane {
    held: Arc<Held>,
    context: Arc<TaskContext>,
    /// Per stream, once it was asked for: each row's number among the source's; `None` where rows have none.
    places: Vec<OnceLock<Option<UInt64Array>>>,
    /// The source's stream, and where its rows come from.
    source: OnceLock<(StreamId, Origins)>,
    /// Per stream, whether it is a shared view that failed for some row: its readers compute it.
    failed: Vec<AtomicBool>,
    refused: Mutex<Refused>,
    budget: Arc<SliceBudget>,
    /// The source's rows that were too late for some operator.
    late: Mutex<BTreeSet<u64>>,
}

/// Rows that were left out.
#[derive(Debug, Default)]
struct Refused {
    rows: Vec<RefusedRow>,
    /// Place, branch and reason of those that were taken.
    taken: BTreeSet<(u64, usize, String)>,
}

/// A plan and the streams that it reads.
type Chosen<'d> = (&'d Arc<dyn ExecutionPlan>, &'d [StreamId]);

impl Dataflow {
    /// A lane without rows.
    pub fn lane(&self) -> Lane {
        Lane::new(self.streams, &self.session, Arc::clone(&self.budget))
    }
}

impl Lane {
    /// Without rows.
    fn new(streams: usize, session: &SessionState, budget: Arc<SliceBudget>) -> Self {
        let held = Arc::new(Held::new(streams));
        let context = TaskContext::new(
            None,
            session.session_id().to_owned(),
            session.config().clone().with_extension(Arc::clone(&held)),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            Arc::clone(session.runtime_env()),
        );
        Self {
            held,
            context: Arc::new(context),
            places: (0..streams).map(|_| OnceLock::new()).collect(),
            source: OnceLock::new(),
            failed: (0..streams).map(|_| AtomicBool::new(false)).collect(),
            refused: Mutex::default(),
            budget,
            late: Mutex::default(),
        }
    }

    /// Puts rows into a stream; once per stream.
    pub fn fill(&self, stream: StreamId, rows: Vec<RecordBatch>) -> Result<()> {
        Ok(self.held.fill(stream, rows)?)
    }

    /// Puts the source's rows into its stream; they come from `origins`.
    pub fn read(&self, stream: StreamId, rows: Vec<RecordBatch>, origins: Origins) -> Result<()> {
        self.source.get_or_init(|| (stream, origins));
        self.fill(stream, rows)
    }

    /// Puts the rows `start..` of `from`'s stream, of which these are some, into the stream.
    pub fn take_part(&self, from: &Self, stream: StreamId, start: usize, rows: Vec<RecordBatch>) -> Result<()> {
        match from.source.get() {
            Some((source, origins)) if *source == stream => self.read(stream, rows, origins.after(start)),
            _ => {
                // Fragments are not run again over a part of their rows.
                self.places[stream.0].get_or_init(|| None);
                self.fill(stream, rows)
            }
        }
    }

    /// Of a lane that is to compute a part of what `from` computes: the shared views that failed there fail here.
    pub fn fail_as(&self, from: &Self) {
        for (failed, before) in self.failed.iter().zip(&from.failed) {
            failed.store(before.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// True when a shared view failed for some row, so that its readers compute it.
    pub fn recomputes(&self) -> bool {
        self.failed.iter().any(|failed| failed.load(Ordering::Relaxed))
    }

    /// The rows of a stream.
    pub fn rows(&self, stream: StreamId) -> &[RecordBatch] {
        self.held.rows(stream)
    }

    /// Bytes of lists that were unfolded.
    pub fn unfolded(&self) -> u64 {
        self.held.unfolded()
    }

    /// True when no stream holds a row.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The rows that were left out since the last call; a source's row once for a branch and a reason, whatever number of plans compute it.
    pub fn take_refused(&self) -> Vec<RefusedRow> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let Refused { rows, taken } = &mut *refused;
        let mut rows = std::mem::take(rows);
        rows.retain_mut(|row| {
            let Some(place) = row.place else { return true };
            row.within.retain(|branch| taken.insert((place, *branch, row.reason.clone())));
            !row.within.is_empty()
        });
        rows
    }

    /// The origin of the source's row `place`, and its record; where that is not held, the row as JSON.
    pub fn origin(&self, place: u64) -> (Option<Origin>, Option<Vec<u8>>) {
        let Some((stream, origins)) = self.source.get() else { return (None, None) };
        let place = place as usize;
        let mut before = 0;
        for batch in self.rows(*stream) {
            if place < before + batch.num_rows() {
                let mut origin = origins.of(place);
                let record = origin.as_mut().and_then(|origin| origin.payload.take());
                return (origin, record.or_else(|| as_json(&batch.slice(place - before, 1))));
            }
            before += batch.num_rows();
        }
        (None, None)
    }

    /// The places of a stream's rows among the source's, each row's; `None`: they have none.
    pub async fn places_of(&self, dataflow: &Dataflow, stream: StreamId) -> Result<Option<Vec<Option<u64>>>> {
        self.find_places(dataflow, stream).await?;
        Ok(self.places(stream).map(|places| places.iter().collect()))
    }

    /// The places of a branch's rows among the source's, in the order in which it hands them out; `None`: they have none.
    pub async fn places_of_branch(&self, dataflow: &Dataflow, index: usize) -> Result<Option<Vec<Option<u64>>>> {
        let (plan, reads) = self.chosen_of_branch(&dataflow.branches[index]);
        for read in reads {
            self.find_places(dataflow, *read).await?;
        }
        let (placed, _) = self.run_carefully(dataflow, plan, &[]).await?;
        Ok(joined(&placed).map(|places| places.iter().collect()))
    }

    /// For each row of `stream` the number of the row of `root` that it is made of; `None`: it is not made of such rows alone.
    pub async fn rows_of_root(
        &self,
        dataflow: &Dataflow,
        stream: StreamId,
        root: StreamId,
    ) -> Result<Option<Vec<Option<u64>>>> {
        let mut known = BTreeMap::new();
        self.trace(dataflow, stream, root, &mut known).await?;
        Ok(known.remove(&stream.0).flatten().map(|rows| rows.iter().collect()))
    }

    /// The same for the rows of a branch, in the order in which it hands them out.
    pub async fn branch_rows_of_root(
        &self,
        dataflow: &Dataflow,
        index: usize,
        root: StreamId,
    ) -> Result<Option<Vec<Option<u64>>>> {
        let (plan, reads) = self.chosen_of_branch(&dataflow.branches[index]);
        let mut known = BTreeMap::new();
        for read in reads {
            self.trace(dataflow, *read, root, &mut known).await?;
        }
        let numbers = self.numbers(dataflow, plan, &known).await?;
        Ok(numbers.map(|numbers| numbers.iter().collect()))
    }

    /// The numbers of the rows that a plan's rows are made of; `known` are those of the streams that it reads.
    async fn numbers(
        &self,
        dataflow: &Dataflow,
        plan: &Arc<dyn ExecutionPlan>,
        known: &BTreeMap<usize, Option<UInt64Array>>,
    ) -> Result<Option<UInt64Array>> {
        let places = |stream: StreamId| known.get(&stream.0).cloned().flatten();
        let (held, context, mode) = (&*self.held, &self.context, dataflow.on_row_error);
        let mut careful = Careful { held, context, places: &places, mode, within: &[], refused: Vec::new() };
        Ok(joined(&careful.run(plan).await?))
    }

    /// As [`Lane::find_places`], from another stream than the source's, into `known`.
    fn trace<'a>(
        &'a self,
        dataflow: &'a Dataflow,
        stream: StreamId,
        root: StreamId,
        known: &'a mut BTreeMap<usize, Option<UInt64Array>>,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            if known.contains_key(&stream.0) {
                return Ok(());
            }
            let rows = self.rows(stream).iter().map(RecordBatch::num_rows).sum::<usize>();
            let fragment = dataflow.fragments.iter().find(|fragment| fragment.stream == stream);
            let numbers = match fragment {
                _ if stream == root => Some(UInt64Array::from_iter_values(0..rows as u64)),
                Some(fragment) => {
                    let (plan, reads) = self.chosen_of(fragment);
                    for read in reads {
                        self.trace(dataflow, *read, root, known).await?;
                    }
                    self.numbers(dataflow, plan, known).await?.filter(|numbers| numbers.len() == rows)
                }
                None => None,
            };
            known.insert(stream.0, numbers);
            Ok(())
        }
        .boxed()
    }

    /// True when no operator before has found the source's row `place` too late.
    pub fn is_first_late(&self, place: u64) -> bool {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).insert(place)
    }

    /// Runs a branch and hands its rows out in pieces, each as soon as it is large enough to be worth it. Memory: one piece; all rows where
    /// another run would give others (`random()`).
    pub async fn run_branch<T: Future<Output = Result<()>>>(
        &self,
        dataflow: &Dataflow,
        index: usize,
        mut take: impl FnMut(Vec<RecordBatch>) -> T,
    ) -> Result<()> {
        let (plan, reads) = self.chosen_of_branch(&dataflow.branches[index]);
        if !self.has_rows(reads) {
            return Ok(());
        }
        let (mut rows, mut bytes, mut handed_out) = (Vec::new(), 0, 0);
        let whole = is_volatile(plan);
        let running = dataflow.running(plan)?;
        for partition in 0..running.output_partitioning().partition_count() {
            let mut stream = running.execute(partition, Arc::clone(&self.context))?;
            while let Some(batch) = next_batch(&mut stream).await {
                match batch {
                    Ok(batch) => {
                        bytes += batch.get_array_memory_size();
                        if whole {
                            self.budget.count(size_of_rows(&batch))?;
                        }
                        rows.extend(Some(batch).filter(|batch| batch.num_rows() > 0));
                    }
                    Err(error) if self.may_go_on(&error) => {
                        let placed = self.carefully(dataflow, plan, reads, &[index]).await?;
                        // The rows of batches that could be computed are the same as before.
                        let rest = after(placed.into_iter().map(|placed| placed.rows), handed_out);
                        return if rest.is_empty() { Ok(()) } else { take(rest).await };
                    }
                    Err(error) => return Err(error.into()),
                }
                if bytes >= PIECE_BYTES && !whole {
                    bytes = 0;
                    handed_out += rows.iter().map(RecordBatch::num_rows).sum::<usize>();
                    take(std::mem::take(&mut rows)).await?;
                }
            }
        }
        if rows.is_empty() { Ok(()) } else { take(rows).await }
    }

    /// Runs a branch and returns all its rows. Errors: they are more than the budget allows.
    pub async fn make_branch(&self, dataflow: &Dataflow, index: usize) -> Result<Vec<RecordBatch>> {
        let (plan, reads) = self.chosen_of_branch(&dataflow.branches[index]);
        if self.has_rows(reads) {
            Ok(self.collect(dataflow, plan, reads, || vec![index]).await?.0)
        } else {
            Ok(Vec::new())
        }
    }

    /// Runs those fragments of a stage that are wanted, by index, in order.
    pub async fn run_fragments(&self, dataflow: &Dataflow, stage: usize, wanted: impl Fn(usize) -> bool) -> Result<()> {
        let of_stage = dataflow.fragments.iter().enumerate().filter(|(_, fragment)| fragment.stage == stage);
        for (index, fragment) in of_stage.filter(|(index, _)| wanted(*index)) {
            let failed = self.reads_failed(&fragment.reads);
            if failed && fragment.recomputed {
                self.failed[fragment.stream.0].store(true, Ordering::Relaxed);
                continue;
            }
            let (plan, reads) = self.chosen_of(fragment);
            if !self.has_rows(reads) {
                continue;
            }
            if let Some(copied) = fragment.copies.filter(|_| !failed) {
                self.fill(fragment.stream, self.rows(copied).to_vec())?;
                continue;
            }
            if fragment.recomputed {
                match self.compute(dataflow, plan).await? {
                    Some(rows) => self.fill(fragment.stream, rows)?,
                    None => self.failed[fragment.stream.0].store(true, Ordering::Relaxed),
                }
                continue;
            }
            let within = || dataflow.branches_of(|makers| makers.fragments.contains(&index));
            let (rows, places) = self.collect(dataflow, plan, reads, within).await?;
            if let Some(places) = places {
                self.places[fragment.stream.0].get_or_init(|| Some(places));
            }
            self.fill(fragment.stream, rows)?;
        }
        Ok(())
    }

    /// All rows of a plan, as much as the budget allows; with their places where some of them could not be computed.
    async fn collect(
        &self,
        dataflow: &Dataflow,
        plan: &Arc<dyn ExecutionPlan>,
        reads: &[StreamId],
        within: impl FnOnce() -> Vec<usize>,
    ) -> Result<(Vec<RecordBatch>, Option<UInt64Array>)> {
        if let Some(rows) = self.compute(dataflow, plan).await? {
            return Ok((rows, None));
        }
        let placed = self.carefully(dataflow, plan, reads, &within()).await?;
        let places = placed.iter().flat_map(|placed| placed.places.iter()).collect();
        let rows = placed.into_iter().map(|placed| placed.rows).filter(|rows| rows.num_rows() > 0);
        Ok((rows.collect(), Some(places)))
    }

    /// All rows of a plan, as much as the budget allows; `None`: some of them could not be computed.
    async fn compute(&self, dataflow: &Dataflow, plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Vec<RecordBatch>>> {
        let mut rows = Vec::new();
        let running = dataflow.running(plan)?;
        for partition in 0..running.output_partitioning().partition_count() {
            let mut stream = running.execute(partition, Arc::clone(&self.context))?;
            while let Some(batch) = next_batch(&mut stream).await {
                match batch {
                    Ok(batch) if batch.num_rows() == 0 => {}
                    Ok(batch) => {
                        self.budget.count(size_of_rows(&batch))?;
                        rows.push(batch);
                    }
                    Err(error) if self.may_go_on(&error) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(Some(rows))
    }

    /// True when a row may be to blame for an error, and not that too many rows were computed at a time.
    fn may_go_on(&self, error: &DataFusionError) -> bool {
        is_of_row(error) && !(self.budget.has_limit() && is_too_much(error))
    }

    /// The rows that operator `index` reads at `port`, without those for which its arguments cannot be computed: it never sees them.
    pub async fn sound_rows(&self, dataflow: &Dataflow, index: usize, port: usize) -> Result<Vec<RecordBatch>> {
        let node = &dataflow.operators[index];
        let stream = node.inputs[port];
        let rows = self.rows(stream);
        let Some(checks) = node.checks.get(port).filter(|checks| !checks.is_empty()) else { return Ok(rows.to_vec()) };
        let (mut sound, mut before) = (Vec::with_capacity(rows.len()), 0);
        for batch in rows {
            sound.push(match checks.iter().all(|check| check.holds_for(batch)) {
                true => batch.clone(),
                false => self.sound_part(dataflow, index, (stream, before), batch, checks).await?,
            });
            before += batch.num_rows();
        }
        Ok(sound)
    }

    /// The same for one batch of a stream, the `before` rows of which stand in front of it.
    async fn sound_part(
        &self,
        dataflow: &Dataflow,
        index: usize,
        (stream, before): (StreamId, usize),
        rows: &RecordBatch,
        checks: &[Check],
    ) -> Result<RecordBatch> {
        self.find_places(dataflow, stream).await?;
        let within = dataflow.branches_of(|makers| makers.operators.contains(&index));
        let mut failed = BTreeMap::new();
        for check in checks {
            for (row, error) in check.failing(rows)? {
                failed.entry(row).or_insert((check, error));
            }
        }
        let place = |row: usize| {
            self.places(stream).filter(|places| places.is_valid(before + row)).map(|places| places.value(before + row))
        };
        let refused = failed.iter().filter_map(|(row, (check, error))| {
            let describe = Describe { within: &within, expr: &check.expr, column: None, rows };
            describe.row(*row, place(*row), error)
        });
        self.refuse(refused.collect());
        Ok(without(rows, &failed.into_keys().collect::<Vec<_>>())?)
    }

    fn has_rows(&self, streams: &[StreamId]) -> bool {
        streams.iter().any(|stream| !self.rows(*stream).is_empty())
    }

    fn reads_failed(&self, streams: &[StreamId]) -> bool {
        streams.iter().any(|stream| self.failed[stream.0].load(Ordering::Relaxed))
    }

    /// The plan that is run: `unshared` where a shared view that `plan` reads has failed.
    fn chosen<'d>(
        &self,
        plan: &'d Arc<dyn ExecutionPlan>,
        reads: &'d [StreamId],
        unshared: Option<&'d Unshared>,
    ) -> Chosen<'d> {
        match unshared.filter(|_| self.reads_failed(reads)) {
            Some(unshared) => (&unshared.plan, &unshared.reads),
            None => (plan, reads),
        }
    }

    fn chosen_of_branch<'d>(&self, branch: &'d Branch) -> Chosen<'d> {
        self.chosen(&branch.plan, &branch.reads, branch.unshared.as_ref())
    }

    fn chosen_of<'d>(&self, fragment: &'d Fragment) -> Chosen<'d> {
        self.chosen(&fragment.plan, &fragment.reads, fragment.unshared.as_ref())
    }

    fn refuse(&self, rows: Vec<RefusedRow>) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).rows.extend(rows);
    }

    async fn carefully(
        &self,
        dataflow: &Dataflow,
        plan: &Arc<dyn ExecutionPlan>,
        reads: &[StreamId],
        within: &[usize],
    ) -> Result<Vec<Placed>> {
        for stream in reads {
            self.find_places(dataflow, *stream).await?;
        }
        let (placed, refused) = self.run_carefully(dataflow, plan, within).await?;
        self.budget.count(placed.iter().map(|placed| size_of_rows(&placed.rows)).sum())?;
        self.refuse(refused);
        Ok(placed)
    }

    async fn run_carefully(
        &self,
        dataflow: &Dataflow,
        plan: &Arc<dyn ExecutionPlan>,
        within: &[usize],
    ) -> Result<(Vec<Placed>, Vec<RefusedRow>)> {
        let places = |stream| self.places(stream).cloned();
        let (held, context, mode) = (&*self.held, &self.context, dataflow.on_row_error);
        let mut careful = Careful { held, context, places: &places, mode, within, refused: Vec::new() };
        let placed = careful.run(plan).await?;
        Ok((placed, careful.refused))
    }

    /// The places of a stream's rows, if they have been found.
    fn places(&self, stream: StreamId) -> Option<&UInt64Array> {
        self.places.get(stream.0)?.get()?.as_ref()
    }

    /// Finds the places of a stream's rows: those of the source are counted, a fragment is run again.
    fn find_places<'a>(&'a self, dataflow: &'a Dataflow, stream: StreamId) -> BoxFuture<'a, Result<()>> {
        async move {
            if self.places[stream.0].get().is_some() {
                return Ok(());
            }
            let rows = self.rows(stream).iter().map(RecordBatch::num_rows).sum::<usize>();
            let is_source = self.source.get().is_some_and(|(source, _)| *source == stream);
            let fragment = dataflow.fragments.iter().find(|fragment| fragment.stream == stream);
            let places = match fragment {
                _ if is_source => Some(UInt64Array::from_iter_values(0..rows as u64)),
                Some(fragment) if !is_volatile(&fragment.plan) => {
                    let (plan, reads) = self.chosen_of(fragment);
                    for read in reads {
                        self.find_places(dataflow, *read).await?;
                    }
                    let (placed, _) = self.run_carefully(dataflow, plan, &[]).await?;
                    joined(&placed).filter(|places| places.len() == rows)
                }
                // Another run would give other rows.
                Some(_) | None => None,
            };
            self.places[stream.0].get_or_init(|| places);
            Ok(())
        }
        .boxed()
    }
}

fn joined(placed: &[Placed]) -> Option<UInt64Array> {
    Some(placed.iter().flat_map(|placed| placed.places.iter()).collect())
}

/// The rows behind the first `count`.
fn after(rows: impl Iterator<Item = RecordBatch>, mut count: usize) -> Vec<RecordBatch> {
    let mut rest = Vec::new();
    for batch in rows {
        let skipped = count.min(batch.num_rows());
        count -= skipped;
        rest.extend(Some(batch.slice(skipped, batch.num_rows() - skipped)).filter(|batch| batch.num_rows() > 0));
    }
    rest
}
