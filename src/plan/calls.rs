//! Names that a query calls, for passing over those that could not be made.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArguments, ObjectNamePart, Query, Visit, VisitMut, VisitorMut,
    visit_expressions,
};

/// True when `ast` calls one of `names`.
pub fn calls_any(ast: &impl Visit, names: &BTreeSet<String>) -> bool {
    if names.is_empty() {
        return false;
    }
    let found = visit_expressions(ast, |expr| match expr {
        Expr::Function(call) if called(call).is_some_and(|name| names.contains(&name)) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// Makes the arguments of calls of `names` positional: a stand-in knows no argument by name.
pub fn forget_argument_names(query: &mut Query, names: &BTreeSet<String>) {
    if !names.is_empty() {
        let _ = query.visit(&mut Forgetting { names });
    }
}

struct Forgetting<'a> {
    names: &'a BTreeSet<String>,
}

impl VisitorMut for Forgetting<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(call) = expr
            && called(call).is_some_and(|name| self.names.contains(&name))
            && let FunctionArguments::List(list) = &mut call.args
        {
            for given in &mut list.args {
                if let FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. } = given {
                    *given = FunctionArg::Unnamed(arg.clone());
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// The name that is called, folded as SQL folds it.
pub(super) fn called(call: &Function) -> Option<String> {
    match call.name.0.last()? {
        ObjectNamePart::Identifier(ident) if ident.quote_style.is_some() => Some(ident.value.clone()),
        ObjectNamePart::Identifier(ident) => Some(ident.value.to_lowercase()),
        ObjectNamePart::Function(_) => None,
    }
}
