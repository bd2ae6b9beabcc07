//! Plans with SQL's meaning of numbers and intervals: exact where DataFusion rounds, an error where it wraps.
//!
//! [`as_meant`] belongs right after planning, because it changes the types of columns. [`CheckedPlanner`] makes arithmetic checked in
//! the last step, when nothing looks at a logical plan any more: what state is addressed by does not change because of it.

use std::sync::Arc;

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::expr::BinaryExpr;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use crate::function::{self, checked};

/// The plan as SQL means it; columns keep their names.
///
/// Errors: an operation on constants that overflows, an interval where its length cannot be looked at.
pub fn as_meant(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut changed = false;
    let meant = plan.transform_up_with_subqueries(|node| {
        if !changed && !matches!(node, LogicalPlan::Sort(_)) && !any_expression(&node, has_meaning)? {
            return Ok(Transformed::no(node));
        }
        let schema = schema_below(&node);
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = function::as_meant(expr, &schema)?;
            changed |= expr.transformed;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })?;
        let node = sorted(node.data, &schema, &mut changed)?;
        if !changed {
            return Ok(Transformed::no(node));
        }
        let node = match node {
            LogicalPlan::Extension(_) => {
                let inputs = node.inputs().into_iter().cloned().collect();
                node.with_new_exprs(node.expressions(), inputs)?
            }
            node => node.recompute_schema()?,
        };
        Ok(Transformed::yes(node))
    })?;
    Ok(meant.data)
}

/// Orders by the length of intervals.
fn sorted(mut node: LogicalPlan, schema: &DFSchema, changed: &mut bool) -> Result<LogicalPlan> {
    if let LogicalPlan::Sort(sort) = &mut node {
        for key in &mut sort.expr {
            let meant = function::sorted_as_meant(key.clone(), schema)?;
            *changed |= meant.transformed;
            *key = meant.data;
        }
    }
    Ok(node)
}

/// True when an expression of the node, or a part of one, is of that kind: most of wide plans are plain columns.
fn any_expression(node: &LogicalPlan, is: fn(&Expr) -> bool) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(|expr| {
        found = expr.exists(|part| Ok(is(part)))?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// True for expressions that [`function::as_meant`] may change.
fn has_meaning(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::BinaryExpr(_)
            | Expr::Between(_)
            | Expr::InList(_)
            | Expr::Case(_)
            | Expr::Cast(_)
            | Expr::ScalarFunction(_)
            | Expr::AggregateFunction(_)
    )
}

fn is_arithmetic(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Negative(_)
            | Expr::BinaryExpr(BinaryExpr { op: Operator::Plus | Operator::Minus | Operator::Multiply, .. })
    )
}

/// The input schema of a node's expressions.
fn schema_below(node: &LogicalPlan) -> DFSchema {
    match node {
        LogicalPlan::TableScan(scan) => scan.projected_schema.as_ref().clone(),
        node => merge_schema(&node.inputs()),
    }
}

/// Plans with checked arithmetic on whole numbers.
#[derive(Debug, Default)]
pub struct CheckedPlanner;

#[async_trait]
impl QueryPlanner for CheckedPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.clone().transform_up_with_subqueries(|node| {
            // What a table is asked for has been moved there, and is asked again above it.
            if matches!(node, LogicalPlan::TableScan(_)) || !any_expression(&node, is_arithmetic)? {
                return Ok(Transformed::no(node));
            }
            let schema = schema_below(&node);
            node.map_expressions(|expr| checked_arithmetic(expr, &schema))
        })?;
        DefaultPhysicalPlanner::default().create_physical_plan(&plan.data, session).await
    }
}

/// The expression with checked arithmetic on whole numbers.
pub fn checked_arithmetic(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_whole = |expr: &Expr| expr.get_type(schema).is_ok_and(|kind| is_integer(&kind));
    expr.transform_up(|expr| {
        let made = match &expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_whole(left) && is_whole(right) => {
                checked(Some(left), *op, right)
            }
            Expr::Negative(operand) if is_whole(operand) => checked(None, Operator::Minus, operand),
            _ => None,
        };
        Ok(made.map_or_else(|| Transformed::no(expr), Transformed::yes))
    })
}

fn is_integer(kind: &DataType) -> bool {
    kind.is_integer()
}
