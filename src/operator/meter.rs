//! Measures the input of unnests, so that the rows of a micro-batch can be run in slices.
//!
//! `unnest(range(0, 100000))` makes a list of 800 KB of every row, for all rows of a batch at once, before the first element
//! is emitted. Nothing in a plan bounds that; the caller that runs the plan gives it fewer rows when [`Held::unfolded`]
//! reports many bytes.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;

use super::held::Held;

/// Passes rows through and adds their size to the lane's [`Held::unfolded`].
#[derive(Debug)]
pub struct MeterExec {
    input: Arc<dyn ExecutionPlan>,
}

impl MeterExec {
    /// The plan with a meter in front of each of its unnests.
    pub fn before_unnests(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let metered = plan.transform_up(|node| {
            if node.downcast_ref::<UnnestExec>().is_none() {
                return Ok(Transformed::no(node));
            }
            let inputs = node.children().into_iter().map(|input| {
                let input: Arc<dyn ExecutionPlan> = Arc::new(Self { input: Arc::clone(input) });
                input
            });
            let inputs = inputs.collect();
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(node.replace_children(inputs, options)?))
        })?;
        Ok(metered.data)
    }

    /// `true` if the plan has an unnest.
    pub fn is_in(plan: &Arc<dyn ExecutionPlan>) -> bool {
        plan.downcast_ref::<Self>().is_some() || plan.children().into_iter().any(Self::is_in)
    }
}

impl DisplayAs for MeterExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "MeterExec")
    }
}

impl ExecutionPlan for MeterExec {
    fn name(&self) -> &'static str {
        "MeterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) => Ok(Arc::new(Self { input })),
            None => Ok(self),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let held = context.session_config().get_extension::<Held>();
        let schema: SchemaRef = self.input.schema();
        let rows = self.input.execute(partition, context)?.map(move |rows: Result<RecordBatch>| {
            if let (Ok(rows), Some(held)) = (&rows, &held) {
                held.unfold(rows.get_array_memory_size() as u64);
            }
            rows
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
