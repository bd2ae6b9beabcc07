//! Plans that are run again and again.
//!
//! DataFusion's operators add metrics at every execution, some with the text of an expression. A plan that ran for days, or once for
//! every slice of a large micro-batch, would grow. So a copy of it is run, and replaced after some executions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;

use crate::error::Result;

/// A plan that is run, and how often it was.
type Run = (Arc<dyn ExecutionPlan>, usize);

/// The copies of a dataflow's plans that are run. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct RunningPlans {
    /// By the address of the plan, with the number of executions.
    copies: Arc<Mutex<HashMap<usize, Run>>>,
}

impl RunningPlans {
    /// A copy of `plan`, which lives as long as this value, with the metrics of less than `most` executions.
    pub(super) fn copy_of(&self, plan: &Arc<dyn ExecutionPlan>, most: usize) -> Result<Arc<dyn ExecutionPlan>> {
        let address = Arc::as_ptr(plan).cast::<()>().addr();
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((copy, runs)) = copies.get_mut(&address).filter(|(_, runs)| *runs < most) {
            *runs += 1;
            return Ok(Arc::clone(copy));
        }
        let copy = reset_plan_states(Arc::clone(plan))?;
        copies.insert(address, (Arc::clone(&copy), 1));
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use arrow::record_batch::RecordBatch;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn a_plan_that_is_run_again_and_again_does_not_grow() {
        let context = SessionContext::new();
        let planned = context.sql("SELECT column1 * 2 AS twice FROM (VALUES (1), (2), (3))").await.unwrap();
        let plan = planned.create_physical_plan().await.unwrap();
        let running = RunningPlans::default();
        let mut of_one = 0;
        for run in 0..100 {
            let copy = running.copy_of(&plan, 8).unwrap();
            let rows = collect(Arc::clone(&copy), context.task_ctx()).await.unwrap();
            assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
            let metrics = copy.metrics().unwrap().iter().count();
            if run == 0 {
                of_one = metrics;
            }
            assert!((1..=8 * of_one).contains(&metrics), "{metrics} after {run} runs, {of_one} after the first");
        }
        assert_eq!(plan.metrics().unwrap().iter().count(), 0);
    }
}
