//! From logical plans to those that run.

use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;

use super::Compiler;
use crate::error::Result;
use crate::operator::MeterExec;
use crate::plan::cut::{Cutting, streams_read};
use crate::plan::dataflow::{Fragment, Unshared};
use crate::plan::growing::bound;
use crate::sql::Span;

impl Compiler<'_> {
    pub(super) async fn fragments(&mut self, span: Span) -> Vec<Fragment> {
        let mut fragments = Vec::new();
        for Cutting { name, stream, piece, copies, .. } in std::mem::take(&mut self.cutter.cuttings) {
            let Some(plan) = self.physical(&piece.plan, span).await else { continue };
            let reads = streams_read(&piece.plan);
            let recomputed = self.cutter.recomputed.contains_key(&stream);
            let unshared = if recomputed { None } else { self.unshared(&piece.plan).await };
            fragments.push(Fragment {
                name,
                stream,
                plan,
                stage: piece.rows.stage,
                reads,
                retract: piece.rows.retract,
                copies,
                recomputed,
                unshared,
            });
        }
        fragments.iter_mut().for_each(|fragment| fragment.recomputed &= !self.keeps_shared);
        fragments
    }

    pub(super) async fn physical(&mut self, plan: &LogicalPlan, span: Span) -> Option<Arc<dyn ExecutionPlan>> {
        match self.planned(plan).await {
            Ok(plan) => Some(plan),
            Err(error) => self.problem(&error, span),
        }
    }

    /// The plan with shared views written into it, if it reads some. Where one cannot be made, no view of the pipeline is recomputed.
    pub(super) async fn unshared(&mut self, plan: &LogicalPlan) -> Option<Unshared> {
        match self.written_out(plan).await {
            Ok(unshared) => unshared,
            Err(error) => {
                tracing::debug!(%error, "a plan with its shared views written into it cannot be made");
                self.keeps_shared = true;
                None
            }
        }
    }

    async fn written_out(&self, plan: &LogicalPlan) -> Result<Option<Unshared>> {
        let Some(written) = self.cutter.unshared(plan)? else { return Ok(None) };
        Ok(Some(Unshared { plan: self.planned(&written).await?, reads: streams_read(&written) }))
    }

    async fn planned(&self, plan: &LogicalPlan) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let plan = self.session.create_physical_plan(plan).await?;
        bound(MeterExec::before_unnests(plan)?, &self.budget)
    }
}
