//! Checks that declarations are small enough to plan: views and functions are expanded wherever they are used, so a chain in
//! which each uses the previous one twice doubles with every link.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, ObjectNamePart, Query, visit_expressions};

use super::Catalog;
use super::pipelines::relation_names;
use crate::error::SqlState;
use crate::sql::weight::{Known, Weight, weigh_all};
use crate::sql::{Diagnostic, Span};

/// Refuses functions, views and INSERTs that are too large when expanded; these count as broken.
pub fn check_weights(catalog: &mut Catalog, errors: &mut Vec<Diagnostic>) {
    let functions = weigh_all(
        catalog.functions.iter().map(|(name, function)| (name.as_str(), &function.body)),
        &calls,
        &|body: &Expr, done| Known { view: &|_| None, function: &|name| done.get(name).copied() }.weigh(body).nested(),
    );
    let weigh = |query: &Query, views: &BTreeMap<String, Weight>| {
        Known { view: &|name| views.get(name).copied(), function: &|name| functions.get(name).copied() }.weigh(query)
    };
    let views = weigh_all(
        catalog.views.iter().map(|(name, view)| (name.as_str(), view.query.as_ref())),
        &|query: &Query| relation_names(query).into_iter().collect(),
        &|query, done| weigh(query, done).nested(),
    );
    let is_too_much = |weights: &BTreeMap<String, Weight>, name: &String| {
        weights.get(name).is_some_and(|weight| weight.is_too_much())
    };
    // A function or view that uses a refused one is as large; only the first in such a chain is reported.
    for (name, function) in catalog.functions.iter().filter(|(name, _)| is_too_much(&functions, name)) {
        if !calls(&function.body).iter().any(|called| is_too_much(&functions, called)) {
            errors.push(refusal(function.span, &format!("function `{name}`"), functions.get(name)));
        }
        catalog.broken.callables.insert(name.clone());
    }
    for (name, view) in catalog.views.iter().filter(|(name, _)| is_too_much(&views, name)) {
        if !relation_names(&view.query).iter().any(|read| is_too_much(&views, read)) {
            errors.push(refusal(view.span, &format!("view `{name}`"), views.get(name)));
        }
        catalog.broken.relations.insert(name.clone());
    }
    for insert in catalog.pipelines.iter().flat_map(|pipeline| &pipeline.inserts) {
        let reads_refused = catalog.broken.reads_any(&relation_names(&insert.query));
        let weight = weigh(&insert.query, &views);
        if !reads_refused && weight.is_too_much() {
            errors.push(refusal(insert.target_span, &format!("the INSERT into `{}`", insert.target), Some(&weight)));
            catalog.broken.inserts.push(insert.target_span);
        }
    }
    catalog.functions.retain(|name, _| !is_too_much(&functions, name));
}

fn refusal(span: Span, what: &str, weight: Option<&Weight>) -> Diagnostic {
    Diagnostic::new(span, format!("{what} comes to too much when it is written out"))
        .with_state(SqlState::TOO_COMPLEX)
        .with_detail(weight.and_then(|weight| weight.excess()).unwrap_or_default())
        .with_hint("Write what is used many times to a table, `CREATE MATERIALIZED VIEW`, and read that.")
}

/// The names of the functions that an expression calls.
fn calls(body: &Expr) -> Vec<String> {
    let mut names = Vec::new();
    let _ = visit_expressions(body, |expr| {
        if let Expr::Function(call) = expr
            && let Some(ObjectNamePart::Identifier(name)) = call.name.0.last()
        {
            names.push(if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() });
        }
        ControlFlow::<()>::Continue(())
    });
    names
}
