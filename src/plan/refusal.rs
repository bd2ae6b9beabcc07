//! Refusal, at its place and with a remedy, of syntax that cannot be run incrementally.
//!
//! The planner refuses the rest: what hangs on types, times and changelog modes does not show here.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, GroupByExpr, LimitClause, Query, Select, Spanned, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Span as AstSpan;

use crate::error::Error;

/// A construct that is refused, where it stands, and what to write instead.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub span: AstSpan,
    pub message: String,
    pub hint: String,
}

/// Every refused construct of a query, those of its subqueries too.
pub fn refusals(query: &Query) -> Vec<Refusal> {
    let mut finder = Finder::default();
    let _ = query.visit(&mut finder);
    finder.found
}

/// A query whose rows may be taken back, into a target that cannot.
pub fn takes_back(target: &str) -> Error {
    Error::sql(format!("`{target}` can only be appended to, and the query takes rows back"))
        .with_detail("An aggregate without a window, a Top-N or an outer join without time bounds changes what it said before.")
        .with_hint(format!(
            "Give `{target}` a key, `PRIMARY KEY (…) NOT ENFORCED`, so that its rows are updated; or group by a window, whose result is final."
        ))
}

#[derive(Default)]
struct Finder {
    found: Vec<Refusal>,
}

impl Visitor for Finder {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let counts = matches!(&query.limit_clause, Some(LimitClause::LimitOffset { limit: Some(_), offset: None, .. }))
            || query.fetch.is_some();
        match (&query.order_by, &query.limit_clause) {
            (Some(_), None) if counts => {}
            (Some(order), None) => self.refuse(
                order.span(),
                "ORDER BY without LIMIT",
                "Rows leave a stream as they come: sort when you query the table, or add LIMIT for a Top-N.",
            ),
            (_, Some(limit)) if !counts => self.refuse(
                limit.span(),
                "OFFSET",
                "The rows that are passed over change as rows come: rank them with `row_number() OVER (… ORDER BY …)`.",
            ),
            (None, Some(limit)) => self.refuse(
                limit.span(),
                "LIMIT without ORDER BY",
                "A stream has no end to count towards: add ORDER BY for a Top-N, or limit when you query the table.",
            ),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if let Some(Distinct::On(columns)) = &select.distinct {
            let span = columns.first().map_or_else(|| select.span(), Spanned::span);
            let hint = "Say which row stays: `row_number() OVER (PARTITION BY … ORDER BY …) AS n … WHERE n = 1`.";
            self.refuse(span, "DISTINCT ON", hint);
        }
        if let GroupByExpr::Expressions(keys, modifiers) = &select.group_by {
            let sets = keys.iter().find(|key| matches!(key, Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_)));
            let span = match (sets, modifiers.is_empty()) {
                (Some(sets), _) => Some(sets.span()),
                (None, false) => Some(select.group_by.span()),
                (None, true) => None,
            };
            if let Some(span) = span {
                self.refuse(
                    span,
                    "GROUP BY with several sets",
                    "Write one INSERT for each set of keys, or `UNION ALL`.",
                );
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && function.name.to_string().eq_ignore_ascii_case("current_time")
        {
            self.refuse(
                expr.span(),
                "current_time",
                "Tables have no time of day: take it of `now()`, with `to_char(now(), 'HH24:MI:SS')`.",
            );
        }
        if let Expr::AnyOp { right, .. } = expr
            && matches!(right.as_ref(), Expr::Subquery(_))
        {
            self.refuse(expr.span(), "ANY of a query", "Write `x IN (SELECT …)`.");
        }
        ControlFlow::Continue(())
    }
}

impl Finder {
    fn refuse(&mut self, span: AstSpan, what: &str, hint: &str) {
        self.found.push(Refusal { span, message: format!("{what} cannot run on a stream"), hint: hint.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::embedded;
    use crate::sql::lexer::tokenize;

    fn refused(text: &str) -> Vec<String> {
        let query =
            embedded::query(&tokenize(text, 0, &mut Vec::new())).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        refusals(&query).into_iter().map(|refusal| refusal.message).collect()
    }

    #[test]
    fn what_an_operator_can_do_is_not_refused() {
        for text in [
            "SELECT DISTINCT a FROM t",
            "SELECT a, count(*) FROM t GROUP BY a HAVING count(*) > 1",
            "SELECT * FROM t JOIN u ON t.a = u.a WHERE EXISTS (SELECT 1 FROM v WHERE v.a = t.a)",
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY a ORDER BY b) AS n FROM t) WHERE n <= 3",
            "SELECT a FROM t UNION SELECT a FROM u",
            "SELECT a FROM t ORDER BY a LIMIT 10",
            "SELECT array_agg(a ORDER BY b) FROM t",
        ] {
            assert!(refused(text).is_empty(), "{text}: {:?}", refused(text));
        }
    }

    #[test]
    fn what_has_no_end_to_wait_for_is_refused_wherever_it_stands() {
        for (text, message) in [
            ("SELECT a FROM t ORDER BY a", "ORDER BY without LIMIT"),
            ("SELECT a FROM t LIMIT 10", "LIMIT without ORDER BY"),
            ("SELECT a, CURRENT_TIME FROM t", "current_time"),
            ("WITH x AS (SELECT a FROM t ORDER BY a LIMIT 10 OFFSET 5) SELECT * FROM x", "OFFSET"),
            ("SELECT * FROM TUMBLE((SELECT DISTINCT ON (a) * FROM t), ts, INTERVAL '1 minute')", "DISTINCT ON"),
            ("SELECT a FROM u WHERE a IN (SELECT a FROM t GROUP BY ROLLUP (a, b))", "GROUP BY with several sets"),
        ] {
            assert_eq!(refused(text), [format!("{message} cannot run on a stream")], "{text}");
        }
    }
}
