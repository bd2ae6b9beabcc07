//! `||` in a physical plan, bounded like a function.

use std::fmt::{self, Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::compute::kernels::concat_elements::concat_elements_dyn;
use arrow::datatypes::{FieldRef, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::BinaryExpr;

use super::bounded::Budget;
use super::size::size_of;
use super::slice::SliceBudget;

/// The expression with each `||` of strings asking `budget` before it computes.
pub fn bound_concatenations(
    expr: Arc<dyn PhysicalExpr>,
    budget: &Arc<SliceBudget>,
) -> Result<Transformed<Arc<dyn PhysicalExpr>>> {
    expr.transform_up(|expr| {
        let is_concatenation =
            expr.downcast_ref::<BinaryExpr>().is_some_and(|binary| *binary.op() == Operator::StringConcat);
        if !is_concatenation {
            return Ok(Transformed::no(expr));
        }
        let bounded = Concatenation { binary: expr, budget: Arc::clone(budget) };
        Ok(Transformed::yes(Arc::new(bounded) as Arc<dyn PhysicalExpr>))
    })
}

/// `true` for a `||` that asks its budget.
pub fn is_bounded_concatenation(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<Concatenation>().is_some()
}

/// `left || right`; displays like the expression it wraps.
#[derive(Debug)]
struct Concatenation {
    binary: Arc<dyn PhysicalExpr>,
    budget: Arc<SliceBudget>,
}

impl PartialEq for Concatenation {
    fn eq(&self, other: &Self) -> bool {
        self.binary.eq(&other.binary)
    }
}

impl Eq for Concatenation {}

impl Hash for Concatenation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.binary.hash(state);
    }
}

impl Display for Concatenation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.binary.fmt(f)
    }
}

impl PhysicalExpr for Concatenation {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let children = self.binary.children();
        let rows = batch.num_rows();
        let (Some(left), Some(right)) = (children.first(), children.get(1)) else { return self.binary.evaluate(batch) };
        let (left, right) = (left.evaluate(batch)?, right.evaluate(batch)?);
        let text = |value: &ColumnarValue| match value {
            ColumnarValue::Array(array) => size_of(array),
            ColumnarValue::Scalar(scalar) => (scalar.size() * rows) as u64,
        };
        let is_text = matches!(left.data_type(), arrow::datatypes::DataType::Utf8)
            && left.data_type() == right.data_type()
            && !matches!((&left, &right), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        if !is_text {
            return self.binary.evaluate(batch);
        }
        let bytes = text(&left).saturating_add(text(&right)) as usize;
        let reserved = self.budget.batch("||", bytes, rows)?;
        let joined = concat_elements_dyn(&left.into_array(rows)?, &right.into_array(rows)?)?;
        Ok(ColumnarValue::Array(self.budget.made(joined, reserved, bytes)?))
    }

    fn return_field(&self, input: &Schema) -> Result<FieldRef> {
        self.binary.return_field(input)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.binary.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let binary = Arc::clone(&self.binary).with_new_children(children)?;
        Ok(Arc::new(Self { binary, budget: Arc::clone(&self.budget) }))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.binary.fmt_sql(f)
    }
}
