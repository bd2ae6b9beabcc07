//! Temporal joins, rewritten so that DataFusion can plan them: ordinary joins whose condition carries a mark.
//!
//! - `JOIN c FOR SYSTEM_TIME AS OF t.ts ON cond` becomes `JOIN c ON cond AND weir_system_time(t.ts, cond)`; with `OR FIRST`
//!   after the time, which uses the first version for times before it, the mark is `weir_system_time_or_first(t.ts, cond)`;
//! - `t ASOF JOIN r MATCH_CONDITION (t.ts >= r.ts) ON cond` becomes `t LEFT JOIN r ON cond AND weir_asof(t.ts >= r.ts)` (as
//!   in Snowflake, a left row without a match is kept).
//!
//! A mark names columns of both sides, so that no optimiser moves it out of its join: the planner finds it in the join's
//! filter and removes it. The functions are in `crate::function`.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, Join,
    JoinConstraint, JoinOperator, ObjectName, Select, Spanned, TableFactor, TableVersion, TableWithJoins, VisitMut,
    VisitorMut,
};

use super::Diagnostic;
use super::cursor::Parsed;

/// Marks a join to the right table's version at a given time: `weir_system_time(time, condition)`; always true.
pub const SYSTEM_TIME: &str = "weir_system_time";
/// The same, except that times before the table's first version use that version.
pub const SYSTEM_TIME_OR_FIRST: &str = "weir_system_time_or_first";
/// Marks the match condition of an ASOF join: `weir_asof(left >= right)`; returns its argument.
pub const ASOF: &str = "weir_asof";

/// Rewrites every temporal join within `ast`, which is a query or a statement.
pub fn mark_joins(ast: &mut impl VisitMut) -> Parsed<()> {
    match ast.visit(&mut Marker) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Marker;

impl VisitorMut for Marker {
    type Break = Diagnostic;

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Diagnostic> {
        for from in &mut select.from {
            if let Err(error) = mark(from) {
                return ControlFlow::Break(error);
            }
        }
        ControlFlow::Continue(())
    }
}

fn mark(from: &mut TableWithJoins) -> Parsed<()> {
    if let Some(time) = system_time(&mut from.relation)? {
        return Err(Diagnostic::new(time.span().into(), "`FOR SYSTEM_TIME AS OF` belongs to a joined table").with_hint(
            "Join the table to the stream whose time it follows: `… t JOIN c FOR SYSTEM_TIME AS OF t.ts AS c ON …`.",
        ));
    }
    from.joins.iter_mut().try_for_each(mark_join)
}

fn mark_join(join: &mut Join) -> Parsed<()> {
    if let Some(time) = system_time(&mut join.relation)? {
        let Some(condition) = condition(&mut join.join_operator) else {
            return Err(Diagnostic::new(time.span().into(), "a join `FOR SYSTEM_TIME AS OF` needs an `ON` condition")
                .with_hint("Write `… AS c ON c.key = t.key`."));
        };
        let given = Expr::Nested(Box::new(condition.clone()));
        let (name, time) = or_first(time);
        let mark = call(name, vec![time, condition.clone()]);
        *condition = and(given, mark);
    }
    if let JoinOperator::AsOf { match_condition, constraint } = &mut join.join_operator {
        let mark = call(ASOF, vec![match_condition.clone()]);
        let condition = match constraint {
            JoinConstraint::On(condition) => and(Expr::Nested(Box::new(condition.clone())), mark),
            JoinConstraint::None => mark,
            JoinConstraint::Using(_) | JoinConstraint::Natural => {
                return Err(Diagnostic::new(match_condition.span().into(), "an ASOF join needs an `ON` condition")
                    .with_hint("Write `… MATCH_CONDITION (t.ts >= r.ts) ON t.key = r.key`."));
            }
        };
        join.join_operator = JoinOperator::Left(JoinConstraint::On(condition));
    }
    Ok(())
}

/// The function that marks the join, and the time without `OR FIRST`.
fn or_first(time: Expr) -> (&'static str, Expr) {
    match time {
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } if is_first(&right) => (SYSTEM_TIME_OR_FIRST, *left),
        other => (SYSTEM_TIME, other),
    }
}

fn is_first(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(name) if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("first"))
}

/// Removes `FOR SYSTEM_TIME AS OF time` from a table and returns the time; joins inside parentheses are marked too.
fn system_time(relation: &mut TableFactor) -> Parsed<Option<Expr>> {
    match relation {
        TableFactor::NestedJoin { table_with_joins, .. } => mark(table_with_joins).map(|()| None),
        TableFactor::Table { version, .. } => match version.take() {
            Some(TableVersion::ForSystemTimeAsOf(time)) => Ok(Some(time)),
            other => {
                *version = other;
                Ok(None)
            }
        },
        _ => Ok(None),
    }
}

/// The ON condition of an inner or left join.
fn condition(operator: &mut JoinOperator) -> Option<&mut Expr> {
    match operator {
        JoinOperator::Join(JoinConstraint::On(condition))
        | JoinOperator::Inner(JoinConstraint::On(condition))
        | JoinOperator::Left(JoinConstraint::On(condition))
        | JoinOperator::LeftOuter(JoinConstraint::On(condition)) => Some(condition),
        _ => None,
    }
}

fn and(left: Expr, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) }
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use crate::sql::embedded::query;
    use crate::sql::lexer::tokenize;

    fn marked(text: &str) -> Result<String, String> {
        let query = query(&tokenize(text, 0, &mut Vec::new()));
        query.map(|query| query.to_string()).map_err(|error| error.message)
    }

    #[test]
    fn joins_in_time_carry_their_marks() {
        for (text, expected) in [
            (
                "SELECT * FROM t LEFT JOIN c FOR SYSTEM_TIME AS OF t.ts AS d ON d.a = t.a",
                "SELECT * FROM t LEFT JOIN c AS d ON (d.a = t.a) AND weir_system_time(t.ts, d.a = t.a)",
            ),
            (
                "SELECT * FROM t JOIN c FOR SYSTEM_TIME AS OF t.ts OR FIRST AS d ON d.a = t.a",
                "SELECT * FROM t JOIN c AS d ON (d.a = t.a) AND weir_system_time_or_first(t.ts, d.a = t.a)",
            ),
            (
                "SELECT * FROM t ASOF JOIN r MATCH_CONDITION (t.ts >= r.ts) ON t.id = r.id",
                "SELECT * FROM t LEFT JOIN r ON (t.id = r.id) AND weir_asof(t.ts >= r.ts)",
            ),
            (
                "SELECT * FROM (SELECT * FROM t ASOF JOIN r MATCH_CONDITION (t.ts >= r.ts)) AS x",
                "SELECT * FROM (SELECT * FROM t LEFT JOIN r ON weir_asof(t.ts >= r.ts)) AS x",
            ),
        ] {
            assert_eq!(marked(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn joins_in_time_without_a_condition_are_refused() {
        for text in [
            "SELECT * FROM c FOR SYSTEM_TIME AS OF now()",
            "SELECT * FROM t JOIN c FOR SYSTEM_TIME AS OF t.ts USING (a)",
            "SELECT * FROM t CROSS JOIN c FOR SYSTEM_TIME AS OF t.ts",
            "SELECT * FROM t ASOF JOIN r MATCH_CONDITION (t.ts >= r.ts) USING (a)",
        ] {
            assert!(marked(text).is_err(), "{text}");
        }
    }
}
