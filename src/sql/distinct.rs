//! `SELECT DISTINCT a + 1 … ORDER BY a + 1` with the number of the column, `ORDER BY 1`: DataFusion would sort by what the columns are
//! computed from, which DISTINCT does not keep.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, OrderByKind, Query, Select, SelectItem, SetExpr, Spanned, Value, VisitMut, VisitorMut,
};

/// Rewrites every such order within `ast`, which is a query or a statement.
pub fn rewrite(ast: &mut impl VisitMut) {
    // Never breaks off.
    let _ = ast.visit(&mut Rewriter);
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = query.body.as_ref()
            && matches!(select.distinct, Some(Distinct::Distinct))
            && let Some(order) = &mut query.order_by
            && let OrderByKind::Expressions(keys) = &mut order.kind
        {
            for key in keys {
                if let Some(number) = number_of(&key.expr, select) {
                    let number = Value::Number(number.to_string(), false).with_span(key.expr.span());
                    key.expr = Expr::Value(number);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// The number of the column that is computed by this expression, counted from 1. Names are found without it.
fn number_of(key: &Expr, select: &Select) -> Option<usize> {
    if matches!(key, Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_)) {
        return None;
    }
    let columns = select.projection.iter().map(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    });
    // Behind a `*` nobody knows the number yet.
    let found = columns.take_while(Option::is_some).flatten().position(|column| column == key)?;
    Some(found + 1)
}
