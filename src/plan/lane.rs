//! A lane: one task's part of a micro-batch, on its way through the plans of a dataflow.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;

use super::dataflow::{Branch, Dataflow};
use crate::error::Result;
use crate::memory::slice::{SliceBudget, size_of_rows};
use crate::operator::{Held, StreamId};

/// A branch's rows are handed out when they have this many bytes.
const PIECE_BYTES: usize = 16 << 20;

/// One task's part of one micro-batch: the rows of its streams.
#[derive(Debug)]
pub struct Lane {
    held: Arc<Held>,
    context: Arc<TaskContext>,
    budget: Arc<SliceBudget>,
}

impl Lane {
    pub(super) fn new(held: Arc<Held>, context: Arc<TaskContext>, budget: Arc<SliceBudget>) -> Self {
        Self { held, context, budget }
    }

    /// Puts rows into a stream; once per stream.
    pub fn fill(&self, stream: StreamId, rows: Vec<RecordBatch>) -> Result<()> {
        Ok(self.held.fill(stream, rows)?)
    }

    /// What a stream holds.
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

    /// Runs a branch and hands its rows out in pieces, each as soon as it is large enough to be worth it. Memory: one piece.
    pub async fn run_branch<T: Future<Output = Result<()>>>(
        &self,
        branch: &Branch,
        mut take: impl FnMut(Vec<RecordBatch>) -> T,
    ) -> Result<()> {
        if !self.has_rows(&branch.reads) {
            return Ok(());
        }
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for partition in 0..branch.plan.output_partitioning().partition_count() {
            let mut stream = branch.plan.execute(partition, Arc::clone(&self.context))?;
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                if batch.num_rows() > 0 {
                    bytes += batch.get_array_memory_size();
                    rows.push(batch);
                }
                if bytes >= PIECE_BYTES {
                    bytes = 0;
                    take(std::mem::take(&mut rows)).await?;
                }
            }
        }
        if rows.is_empty() { Ok(()) } else { take(rows).await }
    }

    /// Runs a branch and returns all its rows. Errors: they are more than the budget allows.
    pub async fn make_branch(&self, branch: &Branch) -> Result<Vec<RecordBatch>> {
        if self.has_rows(&branch.reads) { self.collect(&branch.plan).await } else { Ok(Vec::new()) }
    }

    /// Runs those fragments of a stage that are wanted, by index, in order.
    pub async fn run_fragments(&self, dataflow: &Dataflow, stage: usize, wanted: impl Fn(usize) -> bool) -> Result<()> {
        let of_stage = dataflow.fragments.iter().enumerate().filter(|(_, fragment)| fragment.stage == stage);
        for (_, fragment) in of_stage.filter(|(index, _)| wanted(*index)) {
            if self.has_rows(&fragment.reads) {
                let rows = self.collect(&fragment.plan).await?;
                self.fill(fragment.stream, rows)?;
            }
        }
        Ok(())
    }

    fn has_rows(&self, streams: &[StreamId]) -> bool {
        streams.iter().any(|stream| !self.rows(*stream).is_empty())
    }

    async fn collect(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<RecordBatch>> {
        let mut rows = Vec::new();
        for partition in 0..plan.output_partitioning().partition_count() {
            let mut stream = plan.execute(partition, Arc::clone(&self.context))?;
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                if batch.num_rows() > 0 {
                    self.budget.count(size_of_rows(&batch))?;
                    rows.push(batch);
                }
            }
        }
        Ok(rows)
    }
}
