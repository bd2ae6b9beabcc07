//! What cannot be run incrementally, refused with its place and a remedy.
//!
//! Refusals are read off the syntax tree, where positions are, before planning; [`check_plan`] is the backstop over the
//! logical plan, so that nothing that needs memory slips through in a form the first pass does not know.

use std::ops::ControlFlow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier, Spanned, visit_expressions,
};
use datafusion::sql::sqlparser::tokenizer::Span as AstSpan;

use crate::error::{Error, Result};

/// A construct that is refused, where it stands, and what to write instead.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub span: AstSpan,
    pub message: String,
    pub hint: String,
}

/// Every refused construct of a query.
pub fn refusals(query: &Query) -> Vec<Refusal> {
    let mut found = Vec::new();
    visit_query(query, &mut found);
    found
}

fn visit_query(query: &Query, found: &mut Vec<Refusal>) {
    if let Some(order) = &query.order_by {
        found.push(refusal(
            order.span(),
            "ORDER BY",
            "Rows leave a stream as they come; sort when you query the table.",
        ));
    }
    if let Some(limit) = &query.limit_clause {
        found.push(refusal(
            limit.span(),
            "LIMIT",
            "A stream has no end to count towards; limit when you query the table.",
        ));
    }
    if let Some(with) = &query.with {
        for cte in &with.cte_tables {
            visit_query(&cte.query, found);
        }
    }
    visit_set(&query.body, found);
}

fn visit_set(body: &SetExpr, found: &mut Vec<Refusal>) {
    match body {
        SetExpr::Select(select) => visit_select(select, found),
        SetExpr::Query(query) => visit_query(query, found),
        SetExpr::SetOperation { op, set_quantifier, left, right } => {
            if *op != SetOperator::Union || !matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName) {
                found.push(refusal(
                    body.span(),
                    format!("{op} {set_quantifier}").trim(),
                    "Only UNION ALL needs no memory of earlier rows.",
                ));
            }
            visit_set(left, found);
            visit_set(right, found);
        }
        _ => {}
    }
}

fn visit_select(select: &Select, found: &mut Vec<Refusal>) {
    const LATER: &str = "Keyed state is not built yet: write the rows to a table and aggregate when you query it.";
    if let Some(distinct) = &select.distinct {
        let span = select.projection.first().map_or_else(|| select.span(), Spanned::span);
        found.push(refusal(span, &distinct.to_string(), LATER));
    }
    match &select.group_by {
        GroupByExpr::Expressions(keys, _) if keys.is_empty() => {}
        group => found.push(refusal(group.span(), "GROUP BY", LATER)),
    }
    for from in &select.from {
        for join in &from.joins {
            found.push(refusal(join.relation.span(), "a join", "Joins are not built yet: read one stream."));
        }
    }
    if let [_, second, ..] = select.from.as_slice() {
        found.push(refusal(second.span(), "a join", "Joins are not built yet: read one stream."));
    }
    for item in &select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            visit_scalar(expr, found);
        }
    }
    if let Some(filter) = &select.selection {
        visit_scalar(filter, found);
    }
}

fn visit_scalar(expr: &Expr, found: &mut Vec<Refusal>) {
    let _ = visit_expressions(expr, |inner| {
        match inner {
            Expr::Function(function) if function.over.is_some() => found.push(refusal(
                inner.span(),
                "a window function",
                "Rolling windows are not built yet: compute it when you query the table.",
            )),
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
                found.push(refusal(inner.span(), "a subquery", "Filter or compute with the stream's own columns."));
            }
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
}

fn refusal(span: AstSpan, what: &str, hint: &str) -> Refusal {
    Refusal { span, message: format!("{what} cannot run on a stream in this version"), hint: hint.to_owned() }
}

/// Refuses any node of a logical plan that is not known to be stateless.
pub fn check_plan(plan: &LogicalPlan) -> Result<()> {
    let mut culprit = None;
    plan.apply_with_subqueries(|node| {
        let stateless = matches!(
            node,
            LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::TableScan(_)
                | LogicalPlan::Union(_)
                | LogicalPlan::Unnest(_)
        );
        if stateless {
            return Ok(TreeNodeRecursion::Continue);
        }
        culprit = Some(match node {
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => "a query that reads no source",
            LogicalPlan::Aggregate(_) => "an aggregate",
            LogicalPlan::Window(_) => "a window function",
            LogicalPlan::Join(_) => "a join",
            LogicalPlan::Sort(_) => "ORDER BY",
            LogicalPlan::Limit(_) => "LIMIT",
            LogicalPlan::Distinct(_) => "DISTINCT",
            LogicalPlan::Subquery(_) => "a subquery",
            _ => "this construct",
        });
        Ok(TreeNodeRecursion::Stop)
    })?;
    match culprit {
        None => Ok(()),
        Some(what) => Err(Error::sql(format!("{what} cannot run on a stream in this version")).with_hint(
            "A pipeline may filter, project, call functions and models, UNION ALL and unnest; do the rest when you query the table.",
        )),
    }
}
