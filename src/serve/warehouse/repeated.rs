//! Columns of one name in the outermost SELECT of a query: `SELECT id, id`, `SELECT *, id`, `SELECT $1, $1`.
//!
//! DataFusion plans none. So a column that is named like one before it gets a name of its own while the query is planned, and its own name back
//! in the result.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::{Expr as Planned, LogicalPlan};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Ident, Select, SelectItem, SetExpr, Spanned, Statement as SqlStatement};

use crate::sql::lexer::fold;

/// Part of DataFusion's error for names that repeat.
const NAMES_REPEAT: &str = "unique expression names";
/// Begins names that nobody writes.
const MARK: char = '\u{1}';

/// The plan of a statement, and the names of its columns where some repeat.
pub async fn planned(state: &SessionState, statement: Statement) -> (Result<LogicalPlan>, Option<Vec<String>>) {
    let planned = state.statement_to_plan(statement.clone()).await;
    if matches!(&planned, Err(error) if error.to_string().contains(NAMES_REPEAT))
        && let Some(apart) = apart(&statement)
        && let Ok(plan) = state.statement_to_plan(apart).await
    {
        let shown = shown(&plan);
        return (Ok(plan), Some(shown));
    }
    (planned, None)
}

/// The statement with names of their own for columns whose names repeat; `None` where there are none.
fn apart(statement: &Statement) -> Option<Statement> {
    let Statement::Statement(inner) = statement else { return None };
    let SqlStatement::Query(query) = inner.as_ref() else { return None };
    let mut query = query.clone();
    let mut changed = false;
    let mut open = vec![query.body.as_mut()];
    while let Some(body) = open.pop() {
        match body {
            SetExpr::Select(select) => changed |= renamed(select),
            SetExpr::SetOperation { left, right, .. } => open.extend([left.as_mut(), right.as_mut()]),
            SetExpr::Query(query) => open.push(query.body.as_mut()),
            _ => {}
        }
    }
    changed.then(|| Statement::Statement(Box::new(SqlStatement::Query(query))))
}

/// The names of the plan's columns as the result has them.
fn shown(plan: &LogicalPlan) -> Vec<String> {
    let fields = plan.schema().fields();
    fields.iter().map(|field| own_name(plan, field.name()).unwrap_or_else(|| field.name().clone())).collect()
}

fn renamed(select: &mut Select) -> bool {
    let is_star = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    let has_star = select.projection.iter().any(is_star);
    let mut seen = BTreeSet::new();
    let mut changed = false;
    for (number, item) in select.projection.iter_mut().enumerate() {
        let (expr, name, alias) = match &*item {
            SelectItem::UnnamedExpr(expr) => (expr, name_of(expr), None),
            SelectItem::ExprWithAlias { expr, alias } => (expr, folded(alias), Some(alias.value.clone())),
            _ => continue,
        };
        // The star may have a column of that name.
        let is_of_star = has_star && alias.is_none() && is_column(expr);
        if !seen.insert(name) || is_of_star {
            let own = alias.map(|alias| format!("{MARK}{alias}")).unwrap_or_default();
            let alias = Ident::with_quote_and_span('"', expr.span(), format!("{MARK}{number}{own}"));
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            changed = true;
        }
    }
    changed
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

/// The name that tells columns apart.
fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(name) => folded(name),
        Expr::CompoundIdentifier(names) => names.last().map(folded).unwrap_or_default(),
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } | Expr::AtTimeZone { timestamp: inner, .. } => {
            name_of(inner)
        }
        other => other.to_string(),
    }
}

fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { fold(&name.value) }
}

/// The name of a column that was renamed.
fn own_name(plan: &LogicalPlan, renamed: &str) -> Option<String> {
    let rest = renamed.strip_prefix(MARK)?;
    if let Some((_, alias)) = rest.split_once(MARK) {
        return Some(alias.to_owned());
    }
    let mut found = None;
    let visited = plan.apply(|node| {
        if let LogicalPlan::Projection(projection) = node {
            found = projection.expr.iter().find_map(|expr| match expr {
                Planned::Alias(alias) if alias.name == renamed => Some(alias.expr.qualified_name().1),
                _ => None,
            });
        }
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    // Looking cannot fail.
    let _ = visited;
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Position, Span};

    fn rewritten(sql: &str) -> Option<String> {
        let start = Position { line: 1, column: 1 };
        let tokens = super::super::statement::tokens(sql, Span { file: 0, start, end: start }).unwrap();
        let made = apart(&super::super::statement::parse(tokens).unwrap())?;
        Some(made.to_string().replace(MARK, "#"))
    }

    #[test]
    fn only_names_that_repeat_are_changed() {
        for (sql, expected) in [
            ("SELECT a, b AS c FROM t", None),
            ("SELECT t.a, b, A FROM t", Some("SELECT t.a, b, A AS \"#2\" FROM t")),
            ("SELECT 1, 1 UNION ALL SELECT 2, 3", Some("SELECT 1, 1 AS \"#1\" UNION ALL SELECT 2, 3")),
            ("SELECT *, a, a + 1 AS b FROM t", Some("SELECT *, a AS \"#1\", a + 1 AS b FROM t")),
            ("SELECT a AS x, b AS x FROM t", Some("SELECT a AS x, b AS \"#1#x\" FROM t")),
            ("SELECT count(*), count(*) FROM t", Some("SELECT count(*), count(*) AS \"#1\" FROM t")),
        ] {
            assert_eq!(rewritten(sql).as_deref(), expected, "{sql}");
        }
    }
}
