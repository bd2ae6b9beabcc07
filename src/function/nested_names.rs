//! Short names for calls inside calls.
//!
//! DataFusion gives a function that is called by another of its names (`ROW` for `struct`, `pow` for `power`) an alias that repeats the
//! arguments, so the made-up name of `ROW(ROW(ROW(x)))` doubles with every level. Only the outermost calls keep their alias: it may
//! be a column's name.

use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, ObjectNamePart, VisitMut, VisitorMut};

/// Calls by another name, one inside the other, that keep it.
const KEPT: usize = 3;

/// Writes the functions' own names where calls by other names are nested deeper than [`KEPT`].
pub fn shorten_names(ast: &mut impl VisitMut, state: &SessionState) {
    let _ = ast.visit(&mut Shortening { state, open: Vec::new() });
}

struct Shortening<'a> {
    state: &'a SessionState,
    /// For each call in progress, whether it is by another name.
    open: Vec<bool>,
}

impl Shortening<'_> {
    /// The own name of the function that is called by `name`, if that is another.
    fn own_name(&self, name: &ObjectName) -> Option<String> {
        let [ObjectNamePart::Identifier(called)] = name.0.as_slice() else { return None };
        let called = if called.quote_style.is_some() { called.value.clone() } else { called.value.to_lowercase() };
        let (scalar, higher) = (self.state.scalar_functions(), self.state.higher_order_functions());
        let own = match (scalar.get(&called), higher.get(&called)) {
            (Some(function), _) => function.name(),
            (None, Some(function)) => function.name(),
            (None, None) => return None,
        };
        // The name may be that of another function here.
        let is_known = scalar.get(own).is_some_and(|known| scalar.get(&called) == Some(known))
            || higher.get(own).is_some_and(|known| higher.get(&called) == Some(known));
        (is_known && !own.eq_ignore_ascii_case(&called)).then(|| own.to_owned())
    }
}

impl VisitorMut for Shortening<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Function(call) = expr else { return ControlFlow::Continue(()) };
        let own = self.own_name(&call.name);
        self.open.push(own.is_some());
        if let Some(own) = own
            && self.open.iter().filter(|by_other| **by_other).count() > KEPT
        {
            let span = match call.name.0.first() {
                Some(ObjectNamePart::Identifier(called)) => called.span,
                _ => return ControlFlow::Continue(()),
            };
            call.name = ObjectName::from(vec![Ident::with_quote_and_span('"', span, own)]);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Function(_)) {
            self.open.pop();
        }
        ControlFlow::Continue(())
    }
}
