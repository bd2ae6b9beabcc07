//! Ends a query from outside, even inside operators that compute without pause.
//!
//! Tokio can end only tasks that yield. DataFusion's leaves and exchanges yield, but a join can scan its buffered side for
//! minutes within one poll. So [`guard`] makes every operator that can emit without reading yield between batches, and makes
//! join conditions, which are evaluated for every few thousand pairs, fail once the query was ended.

use std::fmt::{self, Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, PiecewiseMergeJoinExec,
    SortMergeJoinExec, SymmetricHashJoinExec,
};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;

use super::wide::WideRows;
use crate::error::{Error, SqlState};

/// The signal that ends a query. Clones belong to the same query.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ends the query: its next check fails.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Errors: the query was ended.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(DataFusionError::from(ended())) } else { Ok(()) }
    }
}

/// The error of a query that was ended.
pub fn ended() -> Error {
    Error::environment("query was cancelled").with_state(SqlState::CANCELLED)
}

/// `plan` with joins bound to `interrupt` and their rows measured by `wide`, with operators that yield between batches, and
/// with sorts that can spill.
pub fn guard(plan: Arc<dyn ExecutionPlan>, interrupt: &Interrupt, wide: &WideRows) -> Result<Arc<dyn ExecutionPlan>> {
    let guarded = plan.transform_up(|node| {
        if let Some(sorted) = sorted_whole(&node) {
            return Ok(Transformed::yes(sorted));
        }
        let node = if is_join(node.as_ref()) { wide.measure(node)? } else { node };
        let node = match conditioned(&node, interrupt)? {
            Some(conditioned) => conditioned,
            None if emits_without_reading(node.as_ref()) => node,
            None => return Ok(Transformed::no(node)),
        };
        let pausing = PausingExec { inner: node, interrupt: interrupt.clone() };
        Ok(Transformed::yes(Arc::new(pausing) as Arc<dyn ExecutionPlan>))
    })?;
    Ok(guarded.data)
}

/// Batches between two pauses of an operator.
const BATCHES: usize = 8;

/// An operator that yields every few batches, and fails once the query was ended.
///
/// It does not use tokio's budget, as DataFusion's `CooperativeExec` does: more than 128 nested ones would use up the budget
/// before the innermost is reached, in every poll again.
#[derive(Debug)]
struct PausingExec {
    inner: Arc<dyn ExecutionPlan>,
    interrupt: Interrupt,
}

impl DisplayAs for PausingExec {
    fn fmt_as(&self, _form: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("PausingExec")
    }
}

impl ExecutionPlan for PausingExec {
    fn name(&self) -> &'static str {
        "PausingExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.inner]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.inner));
        Ok(Arc::new(Self { inner, interrupt: self.interrupt.clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut batches = self.inner.execute(partition, context)?;
        let (schema, interrupt) = (self.inner.schema(), self.interrupt.clone());
        let mut since_pause = 0;
        let pausing = futures::stream::poll_fn(move |context| {
            if let Err(ended) = interrupt.check() {
                return Poll::Ready(Some(Err(ended)));
            }
            if since_pause >= BATCHES {
                since_pause = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let polled = batches.poll_next_unpin(context);
            since_pause = if polled.is_ready() { since_pause + 1 } else { 0 };
            polled
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, pausing)))
    }
}

/// The largest number of rows of a Top-N sort, which keeps them in memory.
const MAX_TOP_ROWS: usize = 100_000;

/// Replaces a Top-N sort of many rows by a sort of all rows, which can spill, and a limit.
fn sorted_whole(node: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let sort = node.downcast_ref::<SortExec>()?;
    let rows = sort.fetch().filter(|rows| *rows > MAX_TOP_ROWS)?;
    let whole = SortExec::new(sort.expr().clone(), Arc::clone(sort.input()))
        .with_preserve_partitioning(sort.preserve_partitioning());
    Some(Arc::new(LocalLimitExec::new(Arc::new(whole), rows)))
}

fn is_join(node: &dyn ExecutionPlan) -> bool {
    node.is::<NestedLoopJoinExec>()
        || node.is::<HashJoinExec>()
        || node.is::<CrossJoinExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<SymmetricHashJoinExec>()
        || node.is::<PiecewiseMergeJoinExec>()
}

fn emits_without_reading(node: &dyn ExecutionPlan) -> bool {
    is_join(node)
        || node.is::<UnnestExec>()
        || node.is::<RecursiveQueryExec>()
        || node.is::<WindowAggExec>()
        || node.is::<BoundedWindowAggExec>()
}

/// The same join with a condition that checks `interrupt`; `None` if it has no condition.
fn conditioned(node: &Arc<dyn ExecutionPlan>, interrupt: &Interrupt) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        let Some(filter) = join.filter() else { return Ok(None) };
        let filter = interruptible(filter, interrupt);
        return Ok(Some(Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(Some(filter)).build()?)));
    }
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        let Some(filter) = join.filter() else { return Ok(None) };
        let filter = interruptible(filter, interrupt);
        return join.builder().with_filter(Some(filter)).build_exec().map(Some);
    }
    Ok(None)
}

fn interruptible(filter: &JoinFilter, interrupt: &Interrupt) -> JoinFilter {
    let condition =
        Arc::new(Interruptible { condition: Arc::clone(filter.expression()), interrupt: interrupt.clone() });
    JoinFilter::new(condition, filter.column_indices().to_vec(), Arc::clone(filter.schema()))
}

/// A condition that fails once the query was ended.
#[derive(Debug)]
struct Interruptible {
    condition: Arc<dyn PhysicalExpr>,
    interrupt: Interrupt,
}

impl PartialEq for Interruptible {
    fn eq(&self, other: &Self) -> bool {
        self.condition.as_ref() == other.condition.as_ref()
    }
}

impl Eq for Interruptible {}

impl Hash for Interruptible {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.condition.hash(state);
    }
}

impl Display for Interruptible {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.condition, f)
    }
}

impl PhysicalExpr for Interruptible {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.interrupt.check()?;
        self.condition.evaluate(batch)
    }

    fn return_field(&self, input: &Schema) -> Result<FieldRef> {
        self.condition.return_field(input)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.condition]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let condition = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.condition));
        Ok(Arc::new(Self { condition, interrupt: self.interrupt.clone() }))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.condition.fmt_sql(f)
    }
}
