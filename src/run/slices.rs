//! Runs a micro-batch through the dataflow: stage by stage, lanes side by side within a stage; in slices where rows become many or
//! large.
//!
//! An operator may give the rows of a step in parts (a join of keys that many rows share), an unnest may make many rows of one, and a
//! function a large value of a small one. A part, or a slice of the input, runs through the rest of the dataflow and is written before
//! the next one is made; a slice that turns out too large is cut in two ([`super::halves`]). The watermark moves with the last of
//! them: to the operators behind, the others are steps in which time stands still.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::finder::RowFinder;
use super::halves::{StageEnd, halves, rows_before, take_rows};
use super::memory::Memory;
use super::open::{Cut, MicroBatch, Outputs};
use super::ordered::SPREAD_ROWS;
use crate::error::{Context, Result};
use crate::memory::size::size_of_rows;
use crate::operator::Stepped;
use crate::plan::{Branch, Lane};
use crate::source::origin::Origins;
use crate::time::{EventTime, Watermark};

/// Shards' rows are joined to one batch up to this size.
const JOINED_BYTES: u64 = 16 << 20;

/// A stage, and the operator behind it that has given the rows, if one has.
#[derive(Clone, Copy)]
struct Reached {
    stage: usize,
    operator: Option<usize>,
}

/// The source of a run's rows, event time and processing time.
#[derive(Clone, Copy)]
struct Now<'a> {
    source: Option<usize>,
    times: &'a [Watermark],
    now: EventTime,
}

impl Outputs {
    /// Runs a micro-batch through the dataflow and writes what comes out; what is before a cut as one of its own.
    pub async fn run(self: &Arc<Self>, mut batch: MicroBatch, memory: &mut Memory) -> Result<()> {
        let mut done = vec![0; batch.lanes.len()];
        for Cut { lane, rows, times } in std::mem::take(&mut batch.cuts) {
            let mut before = MicroBatch {
                source: batch.source,
                lanes: vec![Vec::new(); batch.lanes.len()],
                origins: batch.origins.clone(),
                cuts: Vec::new(),
                times,
                now: batch.now,
            };
            before.lanes[lane] = take_rows(&mut batch.lanes[lane], rows - done[lane]);
            done[lane] = rows;
            if let Some(origins) = batch.origins.get_mut(lane) {
                *origins = origins.after(count(&before.lanes[lane]));
            }
            self.run_whole(before, memory).await?;
            self.micro_batch.fetch_add(1, Ordering::Relaxed);
        }
        self.run_whole(batch, memory).await
    }

    async fn run_whole(self: &Arc<Self>, mut batch: MicroBatch, memory: &mut Memory) -> Result<()> {
        let rows = |batch: &MicroBatch| batch.lanes.iter().map(|lane| count(lane)).max().unwrap_or(0);
        if self.unfolds() || self.grows() {
            // Time moves with the last slice.
            let still = vec![Watermark::NONE; batch.times.len()];
            loop {
                let most = self.slice_rows(batch.lanes.len());
                if rows(&batch) <= most {
                    break;
                }
                let lanes: Vec<_> = batch.lanes.iter_mut().map(|lane| take_rows(lane, most)).collect();
                let origins = batch.origins.clone();
                for (origins, lane) in batch.origins.iter_mut().zip(&lanes) {
                    *origins = origins.after(count(lane));
                }
                let (cuts, times) = (Vec::new(), still.clone());
                let slice = MicroBatch { source: batch.source, lanes, origins, cuts, times, now: batch.now };
                self.run_slice(slice, memory).await?;
                self.micro_batch.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.run_slice(batch, memory).await
    }

    async fn run_slice(self: &Arc<Self>, batch: MicroBatch, memory: &mut Memory) -> Result<()> {
        let rows = batch.lanes.iter().map(|lane| count(lane)).sum::<usize>();
        let lanes = batch.lanes.len().max(memory.widest()).max(1);
        let lanes: Vec<Arc<Lane>> = (0..lanes).map(|_| Arc::new(self.dataflow.lane())).collect();
        if let Some(source) = batch.source {
            let stream = self.dataflow.sources[source].stream;
            let origins = batch.origins.into_iter().chain(std::iter::repeat_with(Origins::default));
            for ((lane, rows), origins) in lanes.iter().zip(batch.lanes).zip(origins) {
                lane.read(stream, rows, origins)?;
            }
        }
        let now = Now { source: batch.source, times: &batch.times, now: batch.now };
        self.run_from(Reached { stage: 0, operator: None }, &lanes, now, memory).await?;
        if self.unfolds() || self.grows() {
            let unfolded = lanes.iter().map(|lane| lane.unfolded()).sum::<u64>();
            self.sinks.memory.unfolded(rows as u64, unfolded + self.take_made());
        }
        Ok(())
    }

    /// Runs everything behind `reached`.
    async fn run_from(
        self: &Arc<Self>,
        reached: Reached,
        lanes: &[Arc<Lane>],
        now: Now<'_>,
        memory: &mut Memory,
    ) -> Result<()> {
        for stage in reached.stage..self.dataflow.stages {
            let after = reached.operator.filter(|_| stage == reached.stage);
            if after.is_none() && self.run_stage(stage, now.source, lanes).await? == StageEnd::TooMuch {
                return self.run_halves(stage, lanes, now, memory).await;
            }
            let operators = self.dataflow.operators_of(stage).map(|(index, _)| index);
            let operators: Vec<usize> = operators.filter(|index| after.is_none_or(|after| *index > after)).collect();
            for index in operators {
                self.run_operator(Reached { stage, operator: Some(index) }, index, lanes, now, memory).await?;
            }
        }
        Ok(())
    }

    /// Runs everything from a stage on over each half of the rows.
    fn run_halves<'a>(
        self: &'a Arc<Self>,
        stage: usize,
        lanes: &'a [Arc<Lane>],
        now: Now<'a>,
        memory: &'a mut Memory,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            let [first, second] = halves(&self.dataflow, stage, lanes)?;
            let reached = Reached { stage, operator: None };
            let still = vec![Watermark::NONE; self.dataflow.sources.len()];
            self.run_from(reached, &first, Now { times: &still, ..now }, memory).await?;
            drop(first);
            self.micro_batch.fetch_add(1, Ordering::Relaxed);
            self.run_from(reached, &second, now, memory).await
        }
        .boxed()
    }

    async fn run_stage(self: &Arc<Self>, stage: usize, source: Option<usize>, lanes: &[Arc<Lane>]) -> Result<StageEnd> {
        if self.grows() && rows_before(&self.dataflow, stage, lanes) > 1 {
            return self.run_whole_stage(stage, source, lanes).await;
        }
        let others: Vec<_> = lanes
            .iter()
            .enumerate()
            .skip(1)
            .filter(|(_, lane)| !lane.is_empty())
            .map(|(number, _)| {
                let (outputs, lanes) = (Arc::clone(self), lanes.to_vec());
                tokio::spawn(async move { outputs.run_lane(stage, source, number, &lanes).await })
            })
            .collect();
        if !lanes.is_empty() {
            self.run_lane(stage, source, 0, lanes).await?;
        }
        for task in others {
            task.await.internal(|| "a lane ended abnormally".to_owned())??;
        }
        Ok(StageEnd::Written)
    }

    /// The branches of a stage, those first that are sent at once: before anything that encodes files.
    pub(super) fn of_stage(&self, stage: usize) -> impl Iterator<Item = (usize, &Branch)> {
        let direct = |branch: usize| self.sinks.branches[branch].sends_at_once();
        let of_stage = self.dataflow.branches.iter().enumerate().filter(move |(_, branch)| branch.stage == stage);
        let (first, others): (Vec<_>, Vec<_>) = of_stage.partition(|(branch, _)| direct(*branch));
        first.into_iter().chain(others)
    }

    /// Runs one lane through one stage and writes what comes out.
    async fn run_lane(&self, stage: usize, source: Option<usize>, number: usize, lanes: &[Arc<Lane>]) -> Result<()> {
        let lane = &lanes[number];
        lane.run_fragments(&self.dataflow, stage, |_| true).await?;
        for (index, _) in self.of_stage(stage) {
            let records = RowFinder::new(index, lanes, number);
            lane.run_branch(&self.dataflow, index, |rows| self.write(&records, number, rows)).await?;
        }
        self.refuse_rows(source, lane).await
    }

    /// Gives an operator the rows of all lanes; what its shards give goes back to the lanes.
    async fn run_operator(
        self: &Arc<Self>,
        reached: Reached,
        index: usize,
        lanes: &[Arc<Lane>],
        now: Now<'_>,
        memory: &mut Memory,
    ) -> Result<()> {
        let node = &self.dataflow.operators[index];
        let mut inputs: Vec<Vec<RecordBatch>> = vec![Vec::new(); node.inputs.len()];
        for lane in lanes {
            for (port, rows) in inputs.iter_mut().enumerate() {
                rows.extend(lane.sound_rows(&self.dataflow, index, port).await?);
            }
            self.refuse_rows(now.source, lane).await?;
        }
        let watermark = node.sources.iter().map(|source| now.times[*source]).min().unwrap_or(Watermark::NONE);
        let mut stepped = memory.step(index, inputs, watermark, now.now).await?;
        loop {
            if let Some(pending) = &node.pending {
                self.refuse_pairs(index, pending).await?;
            }
            let rows = self.rows_of(index, (now.source, lanes), stepped).await?;
            let Some(more) = memory.next_part(index).await? else {
                for (lane, rows) in lanes.iter().zip(in_lanes(rows)?) {
                    lane.fill(node.output, rows)?;
                }
                return Ok(());
            };
            self.run_part(reached, index, rows, now, memory).await?;
            stepped = more;
        }
    }

    /// The rows that an operator gave, by shard; those that came too late become dead letters, where they are kept.
    async fn rows_of(
        &self,
        operator: usize,
        lanes: (Option<usize>, &[Arc<Lane>]),
        stepped: Vec<Stepped>,
    ) -> Result<Vec<Vec<RecordBatch>>> {
        let mut of_shards = Vec::with_capacity(stepped.len());
        for out in stepped {
            if self.keep_late {
                self.keep_late_rows(operator, lanes, out.late).await?;
            }
            of_shards.push(out.rows);
        }
        Ok(of_shards)
    }

    /// Runs a part of an operator's rows through all that is behind it, and writes what comes of it.
    fn run_part<'a>(
        self: &'a Arc<Self>,
        reached: Reached,
        index: usize,
        rows: Vec<Vec<RecordBatch>>,
        now: Now<'a>,
        memory: &'a mut Memory,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            let rows = in_lanes(rows)?;
            let lanes: Vec<Arc<Lane>> = rows.iter().map(|_| Arc::new(self.dataflow.lane())).collect();
            for (lane, rows) in lanes.iter().zip(rows) {
                lane.fill(self.dataflow.operators[index].output, rows)?;
            }
            let still = vec![Watermark::NONE; self.dataflow.sources.len()];
            self.run_from(reached, &lanes, Now { times: &still, ..now }, memory).await?;
            self.micro_batch.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        .boxed()
    }
}

fn count(rows: &[RecordBatch]) -> usize {
    rows.iter().map(RecordBatch::num_rows).sum()
}

/// Rows that shards gave, per lane. A few go on in one lane, as one batch: the cost of every batch and every task would be more than
/// what its rows cost, and where processors are busy each task waits for its turn.
fn in_lanes(of_shards: Vec<Vec<RecordBatch>>) -> Result<Vec<Vec<RecordBatch>>> {
    let total: usize = of_shards.iter().flatten().map(RecordBatch::num_rows).sum();
    if total >= SPREAD_ROWS {
        return Ok(of_shards);
    }
    let rows: Vec<RecordBatch> = of_shards.into_iter().flatten().filter(|rows| rows.num_rows() > 0).collect();
    let bytes: u64 = rows.iter().map(size_of_rows).sum();
    if rows.len() < 2 || bytes > JOINED_BYTES {
        return Ok(vec![rows]);
    }
    let joined = concat_batches(&rows[0].schema(), &rows);
    Ok(vec![vec![joined.internal(|| "shards of an operator differ in schema".to_owned())?]])
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn batch(numbers: std::ops::Range<i64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    #[test]
    fn slices_are_the_rows_in_their_order() {
        let mut rows = vec![batch(0..5), batch(5..6), batch(6..20)];
        let mut slices = Vec::new();
        while !rows.is_empty() {
            slices.push(take_rows(&mut rows, 4));
        }
        assert!(slices.iter().all(|slice| count(slice) <= 4));
        let all: Vec<RecordBatch> = slices.into_iter().flatten().collect();
        assert_eq!(concat_batches(&all[0].schema(), &all).unwrap(), batch(0..20));
    }
}
