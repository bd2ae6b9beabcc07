//! Rewrites `EXCEPT ALL` and `INTERSECT ALL` so that they can be planned: `a EXCEPT ALL b` becomes `SELECT * FROM "EXCEPT
//! ALL"((a), (b))`, a table function that `crate::plan` knows. DataFusion would plan them as EXCEPT and INTERSECT that keep
//! repeated rows.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, Query, SetExpr, SetOperator, SetQuantifier,
    TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// The names of the functions; they need quotes, so that no user writes them by accident.
pub const EXCEPT_ALL: &str = "EXCEPT ALL";
pub const INTERSECT_ALL: &str = "INTERSECT ALL";

/// Rewrites every such operation within `ast`, which is a query or a statement.
pub fn rewrite(ast: &mut impl VisitMut) {
    // The visitor never breaks.
    let _ = ast.visit(&mut Rewriter);
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        within(&mut query.body);
        ControlFlow::Continue(())
    }
}

/// Iterative, not recursive: a chain of UNIONs may be long.
fn within(body: &mut SetExpr) {
    let mut open = vec![body];
    while let Some(body) = open.pop() {
        if let Some(call) = called(body) {
            *body = call;
        } else if let SetExpr::SetOperation { left, right, .. } = body {
            open.extend([left.as_mut(), right.as_mut()]);
        }
    }
}

/// The call that replaces a set operation.
fn called(body: &SetExpr) -> Option<SetExpr> {
    let SetExpr::SetOperation { op, set_quantifier: SetQuantifier::All, left, right } = body else { return None };
    match op {
        SetOperator::Except => filled(template()?, EXCEPT_ALL, left, right),
        SetOperator::Intersect => filled(template()?, INTERSECT_ALL, left, right),
        _ => None,
    }
}

/// `SELECT * FROM f((SELECT 1), (SELECT 1))`.
fn template() -> Option<Query> {
    let parser = Parser::new(&GenericDialect {}).try_with_sql("SELECT * FROM f((SELECT 1), (SELECT 1))");
    parser.and_then(|mut parser| parser.parse_query()).ok().map(|query| *query)
}

/// The template's body with this function and these arguments.
fn filled(template: Query, function: &str, left: &SetExpr, right: &SetExpr) -> Option<SetExpr> {
    let mut body = template.body;
    let SetExpr::Select(select) = body.as_mut() else { return None };
    let TableFactor::Table { name, args: Some(args), .. } = &mut select.from.first_mut()?.relation else { return None };
    let span = datafusion::sql::sqlparser::ast::Spanned::span(left);
    *name = ObjectName(vec![ObjectNamePart::Identifier(Ident::with_span(span, function))]);
    for (arg, side) in args.args.iter_mut().zip([left, right]) {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Subquery(query))) = arg else { return None };
        *query.body = side.clone();
    }
    Some(*body)
}
