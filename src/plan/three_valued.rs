//! `x IN (SELECT …)` inside of another expression is true, false or null, as in SQL. DataFusion makes a mark join of it, which knows true
//! and false only.
//!
//! Two values are enough where a condition asks for nothing but true: `x IN (…)` alone or in an OR. A bare `x NOT IN (…)` becomes an anti
//! join that knows nulls. Everywhere else, and where x and the values may be null, the third value is computed:
//!
//!     CASE WHEN (x IN (SELECT y FROM t)) IS TRUE THEN true
//!          WHEN x IS NULL AND EXISTS (SELECT y FROM t) OR EXISTS (SELECT y FROM t WHERE y IS NULL) THEN null
//!          ELSE false END

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{BinaryExpr, Exists, InSubquery};
use datafusion::logical_expr::expr_fn::{not, when};
use datafusion::logical_expr::{Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Gives IN (SELECT …) its third value in the conditions of a query.
#[derive(Debug, Default)]
pub struct ThreeValuedIn;

impl OptimizerRule for ThreeValuedIn {
    fn name(&self) -> &'static str {
        "three_valued_in"
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Filter(filter) if holds_in(&filter.predicate)? => {
                let predicate = condition(filter.predicate.clone(), false, true, filter.input.schema())?;
                if predicate == filter.predicate {
                    return Ok(Transformed::no(LogicalPlan::Filter(filter)));
                }
                Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
            }
            node => Ok(Transformed::no(node)),
        })
    }
}

fn holds_in(expr: &Expr) -> Result<bool> {
    expr.exists(|part| Ok(matches!(part, Expr::InSubquery(_))))
}

/// An expression that is true for the same rows, for what asks for nothing but true; of its negation if `negated`. `bare`: only ANDs lie
/// above.
fn condition(expr: Expr, negated: bool, bare: bool, schema: &DFSchema) -> Result<Expr> {
    match expr {
        Expr::Not(inner) => condition(*inner, !negated, bare, schema),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let op = match (op, negated) {
                (Operator::And, false) | (Operator::Or, true) => Operator::And,
                _ => Operator::Or,
            };
            let bare = bare && op == Operator::And;
            let left = condition(*left, negated, bare, schema)?;
            let right = condition(*right, negated, bare, schema)?;
            Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::InSubquery(found) => {
            let negated = found.negated != negated;
            let is_anti_join = bare && found.subquery.outer_ref_columns.is_empty();
            if negated && !is_anti_join && may_be_null(&found, schema) {
                return Ok(not(three_valued(found, schema)?));
            }
            Ok(Expr::InSubquery(InSubquery { negated, ..found }))
        }
        other => {
            let value = exact(other, schema)?;
            Ok(if negated { not(value) } else { value })
        }
    }
}

/// The expression with all three values of each IN (SELECT …) in it.
fn exact(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let exact = expr.transform_down(|part| match part {
        // Two values are asked for.
        Expr::IsTrue(inner) if matches!(&*inner, Expr::InSubquery(found) if !found.negated) => {
            Ok(Transformed::new(Expr::IsTrue(inner), false, TreeNodeRecursion::Jump))
        }
        Expr::InSubquery(found) if may_be_null(&found, schema) => {
            let negated = found.negated;
            let value = three_valued(found, schema)?;
            Ok(Transformed::new(if negated { not(value) } else { value }, true, TreeNodeRecursion::Jump))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(exact.data)
}

/// `true` if comparing the value with those of the subquery may give null.
fn may_be_null(found: &InSubquery, schema: &DFSchema) -> bool {
    found.expr.nullable(schema).unwrap_or(true) || values_may_be_null(&found.subquery)
}

fn values_may_be_null(subquery: &Subquery) -> bool {
    subquery.subquery.schema().fields().first().is_none_or(|field| field.is_nullable())
}

/// `x IN (SELECT …)`, negated or not, with its third value.
fn three_valued(found: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let InSubquery { expr, subquery, .. } = found;
    let value = exact(*expr, schema)?;
    let asked = Column::from(subquery.subquery.schema().qualified_field(0));
    let mut unknown = lit(false);
    if value.nullable(schema).unwrap_or(true) {
        unknown = value.clone().is_null().and(exists(&subquery, None)?);
    }
    if values_may_be_null(&subquery) {
        unknown = unknown.or(exists(&subquery, Some(Expr::Column(asked).is_null()))?);
    }
    let is_in = Expr::InSubquery(InSubquery { expr: Box::new(value), subquery, negated: false });
    when(is_in.is_true(), lit(true))
        .when(unknown, Expr::Literal(ScalarValue::Boolean(None), None))
        .otherwise(lit(false))
}

/// `true` if a row of the subquery meets `condition`.
fn exists(subquery: &Subquery, condition: Option<Expr>) -> Result<Expr> {
    let mut plan = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone());
    if let Some(condition) = condition {
        plan = plan.filter(condition)?;
    }
    // One row is enough, and cheap to join with every row of the query.
    if subquery.outer_ref_columns.is_empty() {
        plan = plan.limit(0, Some(1))?;
    }
    let subquery = Subquery { subquery: Arc::new(plan.build()?), ..subquery.clone() };
    Ok(Expr::Exists(Exists { subquery, negated: false }))
}
