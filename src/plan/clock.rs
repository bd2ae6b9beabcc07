//! The clock in conditions, which a materialized view cannot follow: its rows change when input comes, not when time passes.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, JoinConstraint, JoinOperator, Query, Select, Spanned, TableWithJoins, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Span as AstSpan;

use super::calls::calls_any;
use crate::catalog::Catalog;

/// Functions that answer with the time.
pub const CLOCKS: [&str; 6] = ["now", "current_timestamp", "current_date", "current_time", "localtimestamp", "today"];

/// The names of functions that ask the clock: the built-in ones, and SQL functions that call them.
pub fn clocks(catalog: &Catalog) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = CLOCKS.iter().map(|name| (*name).to_owned()).collect();
    // A function may call one that was written before it.
    loop {
        let more = catalog.functions.values().filter(|def| !names.contains(&def.name) && calls_any(&def.body, &names));
        let more: Vec<String> = more.map(|def| def.name.clone()).collect();
        if more.is_empty() {
            return names;
        }
        names.extend(more);
    }
}

/// The first condition of a query that calls one of `clocks`: WHERE, HAVING, QUALIFY, ON, FILTER.
pub fn asks_clock(query: &Query, clocks: &BTreeSet<String>) -> Option<AstSpan> {
    match query.visit(&mut Finder { clocks }) {
        ControlFlow::Break(span) => Some(span),
        ControlFlow::Continue(()) => None,
    }
}

struct Finder<'a> {
    clocks: &'a BTreeSet<String>,
}

impl Finder<'_> {
    fn look<'e>(&self, conditions: impl IntoIterator<Item = &'e Expr>) -> ControlFlow<AstSpan> {
        match conditions.into_iter().find(|condition| calls_any(*condition, self.clocks)) {
            Some(condition) => ControlFlow::Break(condition.span()),
            None => ControlFlow::Continue(()),
        }
    }
}

impl Visitor for Finder<'_> {
    type Break = AstSpan;

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<AstSpan> {
        self.look(select.selection.iter().chain(&select.having).chain(&select.qualify))?;
        self.look(select.from.iter().flat_map(conditions))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<AstSpan> {
        match expr {
            Expr::Function(Function { filter: Some(filter), .. }) => self.look([filter.as_ref()]),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The conditions of joins to a table.
fn conditions(from: &TableWithJoins) -> impl Iterator<Item = &Expr> {
    from.joins.iter().filter_map(|join| match &join.join_operator {
        JoinOperator::Join(JoinConstraint::On(on))
        | JoinOperator::Inner(JoinConstraint::On(on))
        | JoinOperator::Left(JoinConstraint::On(on))
        | JoinOperator::LeftOuter(JoinConstraint::On(on))
        | JoinOperator::Right(JoinConstraint::On(on))
        | JoinOperator::RightOuter(JoinConstraint::On(on))
        | JoinOperator::FullOuter(JoinConstraint::On(on))
        | JoinOperator::LeftSemi(JoinConstraint::On(on))
        | JoinOperator::RightSemi(JoinConstraint::On(on))
        | JoinOperator::LeftAnti(JoinConstraint::On(on))
        | JoinOperator::RightAnti(JoinConstraint::On(on)) => Some(on),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::embedded;
    use crate::sql::lexer::tokenize;

    #[test]
    fn the_clock_is_found_in_conditions_and_only_there() {
        let clocks = clocks(&Catalog::default());
        for (text, column) in [
            ("SELECT a FROM t WHERE ts > now() - INTERVAL '1 hour'", Some(23)),
            ("SELECT a, count(*) FROM t GROUP BY a HAVING max(ts) > current_timestamp", Some(45)),
            ("SELECT t.a FROM t JOIN u ON t.a = u.a AND u.ts < now()", Some(29)),
            ("SELECT a FROM (SELECT a FROM t WHERE d = current_date)", Some(38)),
            ("SELECT count(*) FILTER (WHERE ts > now()) FROM t", Some(31)),
            ("SELECT a, now() AS at FROM t WHERE a > 1", None),
        ] {
            let query = embedded::query(&tokenize(text, 0, &mut Vec::new())).unwrap();
            let found = asks_clock(&query, &clocks).map(|span| span.start.column);
            assert_eq!(found, column, "{text}");
        }
    }
}
