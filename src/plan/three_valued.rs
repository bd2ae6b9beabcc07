//! `x IN (SELECT y …)` within OR, NOT, CASE and functions has three values in SQL: NULL where no `y` is equal and `x` or a `y` is NULL. DataFusion
//! asks there whether a row has a match, which is true or false.
//!
//! So the condition is written out: `CASE WHEN EXISTS (… y = x) THEN true WHEN x IS NULL AND EXISTS (…) THEN NULL WHEN EXISTS (… y IS NULL) THEN
//! NULL ELSE false END`. It is left as it is where a row that gives NULL is dropped as one that gives false is.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ExprSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::expr_fn::{not, when};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit,
};

/// The plan with three values in its conditions.
pub fn three_valued(plan: LogicalPlan) -> Result<LogicalPlan> {
    let written = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Filter(filter) = node else { return Ok(Transformed::no(node)) };
        let schema = Arc::clone(filter.input.schema());
        let predicate = dropped_alike(filter.predicate.clone(), &schema)?;
        if !predicate.transformed {
            return Ok(Transformed::no(LogicalPlan::Filter(filter)));
        }
        Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate.data, filter.input)?)))
    })?;
    Ok(written.data)
}

/// A condition whose NULL means the same as false.
fn dropped_alike(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ Operator::And, right }) => {
            let (left, right) = (dropped_alike(*left, schema)?, dropped_alike(*right, schema)?);
            Ok(both(left, op, right))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: op @ Operator::Or, right }) => {
            let (left, right) = (within_or(*left, schema)?, within_or(*right, schema)?);
            Ok(both(left, op, right))
        }
        // A join that knows of NULLs.
        Expr::InSubquery(_) => Ok(Transformed::no(expr)),
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(of) => Ok(Transformed::yes(Expr::InSubquery(InSubquery { negated: !of.negated, ..of }))),
            other => everywhere(Expr::Not(Box::new(other)), schema),
        },
        other => everywhere(other, schema),
    }
}

/// A part of an OR, where rows are marked as matching or not.
fn within_or(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (left, right) = (within_or(*left, schema)?, within_or(*right, schema)?);
            Ok(both(left, op, right))
        }
        Expr::InSubquery(InSubquery { negated: false, .. }) => Ok(Transformed::no(expr)),
        other => everywhere(other, schema),
    }
}

fn both(left: Transformed<Expr>, op: Operator, right: Transformed<Expr>) -> Transformed<Expr> {
    let changed = left.transformed || right.transformed;
    let expr = BinaryExpr { left: Box::new(left.data), op, right: Box::new(right.data) };
    Transformed::new_transformed(Expr::BinaryExpr(expr), changed)
}

fn everywhere(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|part| match part {
        Expr::InSubquery(of) => match written_out(&of, schema)? {
            Some(case) => Ok(Transformed::yes(case)),
            None => Ok(Transformed::no(Expr::InSubquery(of))),
        },
        other => Ok(Transformed::no(other)),
    })
}

/// `None` where nothing can be NULL, or the left side is of another query.
fn written_out(of: &InSubquery, schema: &DFSchema) -> Result<Option<Expr>> {
    let plan = of.subquery.subquery.as_ref();
    let Some(found) = plan.schema().columns().into_iter().next() else { return Ok(None) };
    let may_be_null = plan.schema().field(0).is_nullable() || of.expr.nullable(schema)?;
    if !may_be_null || of.expr.contains_outer() {
        return Ok(None);
    }
    let mut outer = Vec::new();
    let asked = of.expr.as_ref().clone().transform_up(|part| match part {
        Expr::Column(column) => {
            let field = Arc::clone(schema.field_from_column(&column)?);
            let reference = Expr::OuterReferenceColumn(field, column);
            outer.push(reference.clone());
            Ok(Transformed::yes(reference))
        }
        other => Ok(Transformed::no(other)),
    })?;
    let among = |condition: Option<Expr>, outer: &[Expr]| -> Result<Expr> {
        let rows = LogicalPlanBuilder::from(plan.clone());
        let rows = match condition {
            Some(condition) => rows.filter(condition)?,
            None => rows,
        };
        let mut outer_ref_columns = of.subquery.outer_ref_columns.clone();
        outer_ref_columns.extend_from_slice(outer);
        let subquery =
            Subquery { subquery: Arc::new(rows.build()?), outer_ref_columns, spans: of.subquery.spans.clone() };
        Ok(Expr::Exists(Exists { subquery, negated: false }))
    };
    let found = Expr::Column(found);
    let unknown = lit(ScalarValue::Boolean(None));
    let case = when(among(Some(asked.data.eq(found.clone())), &outer)?, lit(true))
        .when(of.expr.as_ref().clone().is_null().and(among(None, &[])?), unknown.clone())
        .when(among(Some(found.is_null()), &[])?, unknown)
        .otherwise(lit(false))?;
    Ok(Some(if of.negated { not(case) } else { case }))
}
