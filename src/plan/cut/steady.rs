//! Rows that are retracted have to be the rows that were emitted.
//!
//! `now()`, `uuid()` and `random()` over a stream that retracts give the retracted row another value. A keyed table does not mind, since its key says
//! which row goes; an operator would never find the row, and a filter might let only one of the two pass.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};

use super::piece::held;
use super::{Cutter, Piece, refused};
use crate::error::Result;

impl Cutter<'_> {
    /// Errors: an operator would read rows that are retracted with other values than they were emitted with.
    pub(super) fn check_steady(&self, piece: &Piece) -> Result<()> {
        match piece.rows.retract.then(|| self.changing(&piece.plan)).transpose()?.flatten() {
            Some(name) => Err(unsteady(&name)),
            None => Ok(()),
        }
    }

    /// Errors: a condition on rows that may be retracted that answers otherwise when they are.
    pub(super) fn check_steady_condition(&self, input: &Piece, condition: &Expr) -> Result<()> {
        let mut found = None;
        if input.rows.retract {
            note_changing(condition, Volatility::Volatile, &mut found)?;
        }
        found.map_or(Ok(()), |name| Err(unsteady(&name)))
    }

    /// The first function in a plan, and in the shared streams that it reads, that does not give the same row the same value later.
    fn changing(&self, plan: &LogicalPlan) -> Result<Option<String>> {
        let (mut found, mut shared) = (None, Vec::new());
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                shared.extend(held(scan));
            }
            node.apply_expressions(|expr| note_changing(expr, Volatility::Stable, &mut found))
        })?;
        let retracting = |cutting: &&super::Cutting| cutting.piece.rows.retract && shared.contains(&cutting.stream);
        for cutting in self.cuttings.iter().filter(retracting) {
            if found.is_none() {
                found = self.changing(&cutting.piece.plan)?;
            }
        }
        Ok(found)
    }
}

/// Notes the name of a function that is `least` as volatile as this.
fn note_changing(
    expr: &Expr,
    least: Volatility,
    found: &mut Option<String>,
) -> datafusion::error::Result<TreeNodeRecursion> {
    expr.apply(|part| {
        if let Expr::ScalarFunction(call) = part
            && call.func.signature().volatility >= least
            // Marks of the planner are no calls.
            && !call.func.name().starts_with("weir_")
        {
            found.get_or_insert_with(|| call.func.name().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })
}

fn unsteady(name: &str) -> crate::error::Error {
    refused(&format!("`{name}()` over rows that may be retracted"))
        .with_detail("The row that is retracted would have another value than the one that was emitted, and stay where it was put.")
        .with_hint(format!("Call `{name}()` in the query that reads the source, before it is aggregated, or when the table is read."))
}
