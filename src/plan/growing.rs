//! Finds plans that may make much data of few rows; their rows are run in slices.
//!
//! A plan grows rows if it calls a function whose result has no bound ([`crate::memory::growth`] lists them, and a test there that every
//! other function of DataFusion's is known), joins texts by `||`, or writes out large constants: `repeat('y', 100000)` is a constant when
//! the plan runs, and a copy of it for each row when it is projected. Everything else makes columns of a width that is known, and
//! costs nothing more than before.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, InListExpr, LikeExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

use crate::memory::bounded::Bounding;
use crate::memory::concat::{bound_concatenations, is_bounded_concatenation};
use crate::memory::slice::SliceBudget;

/// Constants below this weigh no more than other values.
const LARGE_CONSTANT_BYTES: usize = 128;
/// Bytes of a computed column, about, and how many of a row are not worth a slice.
const COLUMN_BYTES: u64 = 16;
const NARROW_ROW_BYTES: u64 = 1 << 10;

/// The growth of rows in a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growing {
    /// Some function makes what it likes of a row.
    pub calls: bool,
    /// Bytes that the plan makes of every row at least, where they are many.
    pub row_bytes: u64,
}

impl Growing {
    /// Of a plan and all below it.
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> Self {
        let mut found = Self::default();
        // The closures never fail.
        let _ = plan.apply(|node| {
            let projected = node.downcast_ref::<ProjectionExec>();
            let computed = projected.iter().flat_map(|projection| projection.expr());
            let computed = computed.filter(|column| column.expr.downcast_ref::<Column>().is_none()).count() as u64;
            found.row_bytes += computed * COLUMN_BYTES;
            let _ = node.apply_expressions(&mut |expr| {
                found = found.and(Self::of_expression(expr));
                Ok(TreeNodeRecursion::Continue)
            });
            Ok(TreeNodeRecursion::Continue)
        });
        if found.row_bytes < NARROW_ROW_BYTES {
            found.row_bytes = 0;
        }
        found
    }

    /// Of an expression.
    pub fn of_expression(expr: &Arc<dyn PhysicalExpr>) -> Self {
        let mut found = Self::default();
        let _ = expr.apply(|part| {
            if let Some(literal) = part.downcast_ref::<Literal>() {
                let bytes = literal.value().size();
                found.row_bytes += if bytes < LARGE_CONSTANT_BYTES { 0 } else { bytes as u64 };
            }
            found.calls |=
                part.downcast_ref::<ScalarFunctionExpr>().is_some_and(|call| Bounding::is_bounded(call.fun()))
                    || is_bounded_concatenation(part);
            // Values that are only compared to are not written out.
            let compares = part.downcast_ref::<InListExpr>().is_some()
                || part.downcast_ref::<LikeExpr>().is_some()
                || part.downcast_ref::<BinaryExpr>().is_some();
            let is_plain = compares && part.children().into_iter().all(|child| child.children().is_empty());
            Ok(if is_plain { TreeNodeRecursion::Jump } else { TreeNodeRecursion::Continue })
        });
        found
    }

    /// Of both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { calls: self.calls || other.calls, row_bytes: self.row_bytes + other.row_bytes }
    }

    /// True when rows are to be run in slices.
    pub fn grows(self) -> bool {
        self.calls || self.row_bytes > 0
    }
}

/// The plan with each `||` bound to `budget`.
pub fn bound(plan: Arc<dyn ExecutionPlan>, budget: &Arc<SliceBudget>) -> Result<Arc<dyn ExecutionPlan>> {
    let bounded = plan.transform_up(|node| {
        if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
            let mut changed = false;
            let mut columns = Vec::with_capacity(projection.expr().len());
            for column in projection.expr() {
                let bounded = bound_concatenations(Arc::clone(&column.expr), budget)?;
                changed |= bounded.transformed;
                columns.push(ProjectionExpr { expr: bounded.data, alias: column.alias.clone() });
            }
            let (input, schema) = (Arc::clone(projection.input()), projection.schema());
            return match changed {
                true => ProjectionExec::try_new_with_schema_metadata(columns, input, &schema).map(changed_plan),
                false => Ok(Transformed::no(node)),
            };
        }
        if let Some(filter) = node.downcast_ref::<FilterExec>() {
            let predicate = bound_concatenations(Arc::clone(filter.predicate()), budget)?;
            if predicate.transformed {
                return FilterExecBuilder::from(filter).with_predicate(predicate.data).build().map(changed_plan);
            }
        }
        Ok(Transformed::no(node))
    })?;
    Ok(bounded.data)
}

fn changed_plan(plan: impl ExecutionPlan + 'static) -> Transformed<Arc<dyn ExecutionPlan>> {
    Transformed::yes(Arc::new(plan))
}
