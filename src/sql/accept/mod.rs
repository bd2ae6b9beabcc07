//! Clauses that the parser accepts and nothing runs: each is refused, by its name and at its place.
//!
//! sqlparser reads many dialects, and DataFusion's planner ignores what it does not know. So every node of a syntax tree is
//! destructured here field by field, without `..`: a field that a new version of sqlparser adds does not compile until it is
//! decided here whether it runs. [`CLAUSES`] lists the decisions; `docs/sql.md` shows them.

mod clauses;
mod expression;
mod function;
mod query;
mod table;

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, Select, Spanned, TableFactor, Visit, Visitor};
use datafusion::sql::sqlparser::tokenizer::{Span as AstSpan, TokenWithSpan};

pub use clauses::{CLAUSES, Clause, Does};

use super::cursor::{Parsed, is_keyword};
use super::{Diagnostic, Span};
use crate::error::SqlState;

/// Errors: the first clause of `ast`, whose text is `tokens`, that does not run.
pub fn check(ast: &impl Visit, tokens: &[TokenWithSpan]) -> Parsed<()> {
    match ast.visit(&mut Walker { tokens }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// A clause that does not run: its first words, its name, and what to write instead.
struct Refusal {
    keywords: String,
    name: String,
    hint: &'static str,
}

type Checked = Result<(), Refusal>;

/// Refuses the clause that begins with `keywords`.
fn refuse(keywords: &'static str, hint: &'static str) -> Checked {
    named(keywords, keywords, hint)
}

/// The same, under another `name`.
fn named(keywords: impl Into<String>, name: impl Into<String>, hint: &'static str) -> Checked {
    Err(Refusal { keywords: keywords.into(), name: name.into(), hint })
}

/// Refuses the clause that begins with `keywords` if it is present.
fn unless(stands: bool, keywords: &'static str, hint: &'static str) -> Checked {
    if stands { refuse(keywords, hint) } else { Ok(()) }
}

struct Walker<'a> {
    tokens: &'a [TokenWithSpan],
}

impl Walker<'_> {
    fn outcome(&self, checked: Checked, within: AstSpan) -> ControlFlow<Diagnostic> {
        let Err(Refusal { keywords, name, hint }) = checked else { return ControlFlow::Continue(()) };
        let error = Diagnostic::new(self.place(&keywords, within), format!("`{name}` is not supported"));
        ControlFlow::Break(error.with_state(SqlState::UNSUPPORTED).with_hint(hint))
    }

    /// The position of `keywords` within a node, else their first position in the statement, else the node's position.
    fn place(&self, keywords: &str, within: AstSpan) -> Span {
        let words: Vec<&str> = keywords.split(' ').collect();
        let matches = |tokens: &&[TokenWithSpan]| {
            tokens.iter().zip(&words).all(|(token, word)| {
                is_keyword(Some(&token.token), word) || token.token.to_string().eq_ignore_ascii_case(word)
            })
        };
        let found = |start| {
            let mut windows = self.tokens.windows(words.len()).filter(matches);
            windows.find(|tokens| tokens[0].span.start >= start)
        };
        let found = found(within.start).or_else(|| found(AstSpan::empty().start));
        match found.and_then(|tokens| Some((tokens.first()?, tokens.last()?))) {
            Some((first, last)) => Span::from(first.span).to(last.span.into()),
            None if within == AstSpan::empty() => whole(self.tokens),
            None => within.into(),
        }
    }
}

fn whole(tokens: &[TokenWithSpan]) -> Span {
    tokens.first().zip(tokens.last()).map(|(a, b)| Span::from(a.span).to(b.span.into())).unwrap_or_default()
}

impl Visitor for Walker<'_> {
    type Break = Diagnostic;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Diagnostic> {
        self.outcome(query::check(query), query.span())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Diagnostic> {
        self.outcome(query::check_select(select), select.span())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Diagnostic> {
        self.outcome(table::check(factor), factor.span())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Diagnostic> {
        self.outcome(expression::check(expr), expr.span())
    }
}

#[cfg(test)]
mod tests;
