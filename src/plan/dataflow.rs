//! A planned pipeline, and how a lane of one micro-batch runs through it.
//!
//! A [`Dataflow`] is inert: plans, schemas, names. A [`Lane`] is one task's part of one micro-batch. It carries its rows
//! through every fragment and every branch without meeting another lane, which is what makes a micro-batch of a few rows
//! cost microseconds and a large one use every core.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;
use sha2::{Digest, Sha256};

use crate::catalog::SourceDef;
use crate::error::Result;
use crate::operator::{Held, StreamId};

/// A source as the dataflow reads it.
#[derive(Debug, Clone)]
pub struct SourceInput {
    pub def: SourceDef,
    pub stream: StreamId,
}

/// A view that several branches share: computed once per micro-batch and held.
#[derive(Debug, Clone)]
pub struct Fragment {
    pub view: String,
    pub stream: StreamId,
    pub plan: Arc<dyn ExecutionPlan>,
}

/// One INSERT.
#[derive(Debug, Clone)]
pub struct Branch {
    /// The table or sink, by name.
    pub target: String,
    /// Rows as the target wants them, without the weight.
    pub schema: SchemaRef,
    /// True when the rows carry [`crate::operator::WEIGHT`] as their last column.
    pub retract: bool,
    pub plan: Arc<dyn ExecutionPlan>,
}

/// A pipeline, planned once.
#[derive(Debug, Clone)]
pub struct Dataflow {
    pub pipeline: String,
    pub sources: Vec<SourceInput>,
    /// Each after those it reads.
    pub fragments: Vec<Fragment>,
    pub branches: Vec<Branch>,
    pub(super) streams: usize,
    pub(super) session: SessionState,
}

impl Dataflow {
    /// A hash of the plans as explained and of the schemas at both ends; the same SQL gives the same fingerprint.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for source in &self.sources {
            hash.update(format!("{}:{:?};", source.def.name, source.def.schema().fields()));
        }
        for (name, plan) in self.plans() {
            let shown = datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string();
            hash.update(format!("{name}:{:?}\n{shown}", plan.schema().fields()));
        }
        hex::encode(&hash.finalize()[..16])
    }

    /// Every plan with the name of what it makes: views, then targets.
    pub fn plans(&self) -> impl Iterator<Item = (&str, &Arc<dyn ExecutionPlan>)> {
        let fragments = self.fragments.iter().map(|f| (f.view.as_str(), &f.plan));
        fragments.chain(self.branches.iter().map(|b| (b.target.as_str(), &b.plan)))
    }

    /// Gives every plan fresh run-time state. DataFusion's operators add metrics at each execution; a stream that ran
    /// the same plan for days would otherwise grow.
    pub fn reset(&mut self) -> Result<()> {
        for fragment in &mut self.fragments {
            fragment.plan = reset_plan_states(Arc::clone(&fragment.plan))?;
        }
        for branch in &mut self.branches {
            branch.plan = reset_plan_states(Arc::clone(&branch.plan))?;
        }
        Ok(())
    }

    /// Begins a lane with the decoded rows of some sources.
    pub fn lane(&self, inputs: Vec<(StreamId, Vec<RecordBatch>)>) -> Result<Lane<'_>> {
        let held = Arc::new(Held::new(self.streams));
        for (stream, rows) in inputs {
            held.fill(stream, rows)?;
        }
        let config = self.session.config().clone().with_extension(Arc::clone(&held));
        let context = TaskContext::new(
            None,
            self.session.session_id().to_owned(),
            config,
            std::collections::HashMap::new(),
            std::collections::HashMap::new(),
            std::collections::HashMap::new(),
            std::collections::HashMap::new(),
            Arc::clone(self.session.runtime_env()),
        );
        Ok(Lane { dataflow: self, held, context: Arc::new(context) })
    }
}

/// One task's part of one micro-batch.
#[derive(Debug)]
pub struct Lane<'a> {
    dataflow: &'a Dataflow,
    held: Arc<Held>,
    context: Arc<TaskContext>,
}

impl Lane<'_> {
    /// Runs the fragments in order, then every branch; returns the rows of each branch, in the order of
    /// [`Dataflow::branches`]. Memory: a lane's rows, input and output, are held until it ends.
    pub async fn run(self) -> Result<Vec<Vec<RecordBatch>>> {
        for fragment in &self.dataflow.fragments {
            let rows = self.collect(&fragment.plan).await?;
            self.held.fill(fragment.stream, rows)?;
        }
        let mut out = Vec::with_capacity(self.dataflow.branches.len());
        for branch in &self.dataflow.branches {
            out.push(self.collect(&branch.plan).await?);
        }
        Ok(out)
    }

    async fn collect(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<RecordBatch>> {
        let mut rows = Vec::new();
        for partition in 0..plan.output_partitioning().partition_count() {
            let mut stream = plan.execute(partition, Arc::clone(&self.context))?;
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                if batch.num_rows() > 0 {
                    rows.push(batch);
                }
            }
        }
        Ok(rows)
    }
}
