//! Expressions that an operator computes of its input's rows and that may fail.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Schema;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use super::{Guarded, is_fallible};
use crate::evaluate::{evaluate, evaluate_each};

/// An expression that an operator computes of its input's rows; a row for which it fails is kept from the operator.
#[derive(Debug, Clone)]
pub struct Check {
    pub expr: Arc<dyn PhysicalExpr>,
    /// Only rows for which this holds count.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
}

impl Check {
    /// The arguments, orderings and the filter of a call that may fail.
    pub fn of_call(call: &AggregateFunctionExpr, filter: Option<&Arc<dyn PhysicalExpr>>, input: &Schema) -> Vec<Self> {
        let ordering = call.order_bys().iter().map(|sort| Arc::clone(&sort.expr));
        let arguments = call.expressions().into_iter().chain(ordering).map(|expr| (expr, filter.cloned()));
        let all = arguments.chain(filter.cloned().map(|filter| (filter, None)));
        let checks = all.map(|(expr, filter)| {
            let inner = expr.downcast_ref::<Guarded>().map(|guarded| Arc::clone(guarded.inner()));
            Self { expr: inner.unwrap_or(expr), filter }
        });
        checks.filter(|check| is_fallible(&check.expr, input)).collect()
    }

    /// `true` if nothing fails, as far as evaluating all rows at once tells.
    pub fn holds_for(&self, rows: &RecordBatch) -> bool {
        evaluate(&self.expr, rows).is_ok()
    }

    /// The rows for which it fails and that count.
    pub fn failing(&self, rows: &RecordBatch) -> Result<Vec<(usize, DataFusionError)>> {
        let mut failed = evaluate_each(&self.expr, rows)?.failed;
        let Some(filter) = self.filter.as_ref().filter(|_| !failed.is_empty()) else { return Ok(failed) };
        let counts = evaluate_each(filter, rows)?.values;
        let counts = as_boolean_array(&counts)?;
        let counted: BTreeSet<usize> =
            (0..counts.len()).filter(|row| counts.is_valid(*row) && counts.value(*row)).collect();
        failed.retain(|(row, _)| counted.contains(row));
        Ok(failed)
    }
}
