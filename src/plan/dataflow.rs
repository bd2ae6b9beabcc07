//! A planned pipeline.
//!
//! A [`Dataflow`] is inert: plans, schemas, names. It is cut into stages: in each, lanes run side by side through stateless
//! fragments and branches without meeting; between stages stand the operators that remember, which see the rows of all lanes. A pipeline
//! without memory is one stage, which is what makes a micro-batch of a few rows cost microseconds and a large one use every core.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::physical_plan::ExecutionPlan;
use sha2::{Digest, Sha256};

use super::growing::Growing;
use super::operators::{OperatorNode, OperatorSpec};
use super::running::RunningPlans;
use super::watermark::WatermarkExpr;
use crate::catalog::{OnRowError, SourceConnector, SourceDef};
use crate::error::Result;
use crate::memory::slice::SliceBudget;
use crate::operator::spec::{RollingEmit, RollingSpec};
use crate::operator::{HeldExec, MeterExec, StreamId};
use crate::time::Lag;

/// A source as the dataflow reads it.
#[derive(Debug, Clone)]
pub struct SourceInput {
    pub def: SourceDef,
    pub stream: StreamId,
    pub watermark: Option<WatermarkExpr>,
}

/// Rows that are computed once per micro-batch and held: a view that several branches share, or what an operator reads.
#[derive(Debug, Clone)]
pub struct Fragment {
    /// The view's name, or what it feeds.
    pub name: String,
    pub stream: StreamId,
    pub plan: Arc<dyn ExecutionPlan>,
    pub stage: usize,
    /// Streams that it reads.
    pub reads: Vec<StreamId>,
    pub retract: bool,
    /// The stream that it is a copy of, if it is one.
    pub copies: Option<StreamId>,
    /// True for a shared view that its readers compute themselves, by their `unshared` plans, where a row of it fails.
    pub recomputed: bool,
    pub unshared: Option<Unshared>,
}

/// A plan with shared views written into it, as if nothing else read them.
#[derive(Debug, Clone)]
pub struct Unshared {
    pub plan: Arc<dyn ExecutionPlan>,
    pub reads: Vec<StreamId>,
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
    pub unshared: Option<Unshared>,
    pub stage: usize,
    pub reads: Vec<StreamId>,
    /// Per column, weight left out: how far values in rows yet to come may lag behind the watermark.
    pub times: Vec<Option<Lag>>,
    /// Sources of its rows.
    pub sources: BTreeSet<usize>,
}

/// Maker of some streams, by index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Makers {
    pub fragments: BTreeSet<usize>,
    pub operators: BTreeSet<usize>,
}

/// Executions of a plan before its metrics are dropped.
const RUNS_OF_A_COPY: usize = 256;

/// A pipeline, planned once.
#[derive(Debug, Clone)]
pub struct Dataflow {
    pub pipeline: String,
    pub sources: Vec<SourceInput>,
    /// Each after those it reads.
    pub fragments: Vec<Fragment>,
    /// Each after those it reads.
    pub operators: Vec<OperatorNode>,
    pub branches: Vec<Branch>,
    /// Number of stages, at least one.
    pub stages: usize,
    pub on_row_error: OnRowError,
    pub(super) streams: usize,
    pub(super) session: SessionState,
    pub(super) copies: RunningPlans,
    /// The growth of rows over all plans.
    pub growing: Growing,
    /// The budget for results of functions.
    pub budget: Arc<SliceBudget>,
}

impl Dataflow {
    /// A hash of the plans as explained and of the schemas at both ends; the same SQL gives the same fingerprint.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for source in &self.sources {
            hash.update(format!("{}:{:?};", source.def.name, source.def.schema().fields()));
        }
        for operator in &self.operators {
            hash.update(format!("{};", operator.id));
        }
        for (name, plan) in self.plans() {
            let shown = datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string();
            hash.update(format!("{name}:{:?}\n{shown}", plan.schema().fields()));
        }
        hex::encode(&hash.finalize()[..16])
    }

    /// True when what a row sees depends on the watermark before it, not on that before its micro-batch: late rows are computed from what
    /// is still in state.
    pub fn follows_each_row(&self) -> bool {
        let late = |spec: &RollingSpec| spec.emits_late || spec.emit == RollingEmit::OnArrival;
        self.operators.iter().any(|node| matches!(&node.spec, OperatorSpec::Rolling(spec) if late(spec)))
    }

    /// Source name to location, of the sources that read Delta tables.
    pub fn tables_read(&self) -> BTreeMap<String, String> {
        let tables = self.sources.iter().filter_map(|source| match &source.def.connector {
            SourceConnector::Delta(options) => Some((source.def.name.clone(), options.path.clone())),
            _ => None,
        });
        tables.collect()
    }

    /// Every plan with the name of what it makes: views, then targets.
    pub fn plans(&self) -> impl Iterator<Item = (&str, &Arc<dyn ExecutionPlan>)> {
        let computed = self.fragments.iter().filter(|f| f.copies.is_none());
        let fragments = computed.map(|f| (f.name.as_str(), &f.plan));
        fragments.chain(self.branches.iter().map(|b| (b.target.as_str(), &b.plan)))
    }

    /// The copy of one of these plans that is to be run next.
    pub(super) fn running(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        // The text of a large constant is in the metrics of every execution.
        self.copies.copy_of(plan, if self.growing.grows() { 1 } else { RUNS_OF_A_COPY })
    }

    /// DataFusion's runtime that the plans run in.
    pub fn runtime(&self) -> &Arc<datafusion::execution::runtime_env::RuntimeEnv> {
        self.session.runtime_env()
    }

    /// True when some plan may make many rows of one, so that rows are better run in slices.
    pub fn unfolds(&self) -> bool {
        self.plans().any(|(_, plan)| MeterExec::is_in(plan))
    }

    /// The streams that a stage and those behind it read and that it does not make itself.
    pub fn streams_before(&self, stage: usize) -> Vec<StreamId> {
        let made: BTreeSet<usize> = self
            .fragments
            .iter()
            .filter(|fragment| fragment.stage >= stage)
            .map(|fragment| fragment.stream.0)
            .collect();
        (0..self.streams).filter(|stream| !made.contains(stream)).map(StreamId).collect()
    }

    /// The streams whose rows a stage is made from; with those of `unshared` plans if some are `recomputed`.
    pub fn reads_of(&self, stage: usize, recomputed: bool) -> BTreeSet<usize> {
        let fragments = self.fragments.iter().filter(|fragment| fragment.stage == stage);
        let branches = self.branches.iter().filter(|branch| branch.stage == stage);
        let operators = self.operators_of(stage).flat_map(|(_, operator)| &operator.inputs);
        let unshared = |unshared: &Option<Unshared>| {
            unshared.iter().filter(|_| recomputed).flat_map(|u| u.reads.clone()).collect::<Vec<_>>()
        };
        let of_fragments =
            fragments.flat_map(|fragment| fragment.reads.iter().copied().chain(unshared(&fragment.unshared)));
        let of_branches = branches.flat_map(|branch| branch.reads.iter().copied().chain(unshared(&branch.unshared)));
        of_fragments.chain(of_branches).chain(operators.copied()).map(|stream| stream.0).collect()
    }

    /// The operators that follow a stage's fragments.
    pub fn operators_of(&self, stage: usize) -> impl Iterator<Item = (usize, &OperatorNode)> {
        self.operators.iter().enumerate().filter(move |(_, operator)| operator.stage == stage)
    }

    /// Everything that stands between the sources and `streams`.
    pub fn makers(&self, streams: impl IntoIterator<Item = StreamId>) -> Makers {
        let mut makers = Makers::default();
        let mut wanted: Vec<StreamId> = streams.into_iter().collect();
        while let Some(stream) = wanted.pop() {
            let fragments = self.fragments.iter().enumerate().filter(|(_, fragment)| fragment.stream == stream);
            for (index, fragment) in fragments {
                if makers.fragments.insert(index) {
                    wanted.extend(&fragment.reads);
                }
            }
            let operators = self.operators.iter().enumerate().filter(|(_, operator)| operator.output == stream);
            for (index, operator) in operators {
                if makers.operators.insert(index) {
                    wanted.extend(&operator.inputs);
                }
            }
        }
        makers
    }

    /// The columns of a source that `makers` read, by name.
    pub fn columns_read(&self, makers: &Makers, source: &SourceInput) -> BTreeSet<String> {
        let mut columns = BTreeSet::new();
        if makers.operators.iter().any(|operator| self.operators[*operator].inputs.contains(&source.stream)) {
            columns.extend(source.def.columns.iter().map(|column| column.name.clone()));
        }
        let mut plans: Vec<_> = makers.fragments.iter().map(|fragment| &self.fragments[*fragment].plan).collect();
        while let Some(plan) = plans.pop() {
            plans.extend(plan.children());
            if plan.downcast_ref::<HeldExec>().is_some_and(|leaf| leaf.stream() == source.stream) {
                columns.extend(plan.schema().fields().iter().map(|field| field.name().clone()));
            }
        }
        columns
    }

    /// The branches that get rows of what `made` picks.
    pub fn branches_of(&self, made: impl Fn(&Makers) -> bool) -> Vec<usize> {
        let branches = self.branches.iter().enumerate();
        let fed = branches.filter(|(_, branch)| made(&self.makers(branch.reads.iter().copied())));
        fed.map(|(index, _)| index).collect()
    }
}
