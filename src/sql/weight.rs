//! What a query costs to plan once everything that it names is written out: each use of a view or of a WITH query counts as its
//! whole text, so that forty views that each read the former twice are seen for what they are before anything plans them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, ObjectNamePart, Query, Visit, Visitor};

/// Tables and functions that a query may come to, written out.
pub const MAX_PARTS: usize = 2_000;
/// Views and WITH queries one inside the other.
pub const MAX_LEVELS: usize = 200;

/// What something comes to, written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Tables, subqueries and calls of SQL functions' parts.
    pub parts: usize,
    /// Views and WITH queries one inside the other.
    pub levels: usize,
}

impl Weight {
    /// A table, or a function that is not written in SQL.
    pub const ONE: Self = Self { parts: 1, levels: 0 };

    /// True for what is not planned.
    pub fn is_too_much(self) -> bool {
        self.parts > MAX_PARTS || self.levels > MAX_LEVELS
    }

    /// The same as seen from what uses it.
    #[must_use]
    pub fn nested(self) -> Self {
        Self { levels: self.levels.saturating_add(1), ..self }
    }

    fn add(&mut self, used: Self) {
        self.parts = self.parts.saturating_add(used.parts);
        self.levels = self.levels.max(used.levels);
    }
}

/// Weights of what queries name.
pub struct Known<'a> {
    /// Of a view; `None` = it is no view.
    pub view: &'a dyn Fn(&str) -> Option<Weight>,
    /// Of a function that is written in SQL; `None` = it is not.
    pub function: &'a dyn Fn(&str) -> Option<Weight>,
}

impl Known<'_> {
    /// Nothing but tables and built-in functions.
    pub const NOTHING: Known<'static> = Known { view: &|_| None, function: &|_| None };

    /// What `ast`, a query, a statement or an expression, comes to.
    pub fn weigh(&self, ast: &impl Visit) -> Weight {
        let mut weighing = Weighing { known: self, open: vec![Scope::default()] };
        let _: ControlFlow<()> = ast.visit(&mut weighing);
        weighing.open.first().map_or(Weight::ONE, |scope| scope.weight)
    }
}

/// A query whose parts are being added up.
struct Scope {
    weight: Weight,
    /// Its WITH queries, by where they are in memory, under their names.
    named: Vec<(*const Query, String)>,
    /// Those of them that were added up.
    defined: BTreeMap<String, Weight>,
}

impl Default for Scope {
    fn default() -> Self {
        Self { weight: Weight::ONE, named: Vec::new(), defined: BTreeMap::new() }
    }
}

struct Weighing<'a> {
    known: &'a Known<'a>,
    open: Vec<Scope>,
}

impl Weighing<'_> {
    fn used(&mut self, weight: Weight) {
        if let Some(scope) = self.open.last_mut() {
            scope.weight.add(weight);
        }
    }
}

impl Visitor for Weighing<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        let named = with.map(|cte| (std::ptr::from_ref(&*cte.query), folded(&cte.alias.name))).collect();
        self.open.push(Scope { named, ..Scope::default() });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let Some(closed) = self.open.pop() else { return ControlFlow::Continue(()) };
        let Some(around) = self.open.last_mut() else { return ControlFlow::Continue(()) };
        let name = around.named.iter().find(|(named, _)| std::ptr::eq(*named, query)).map(|(_, name)| name.clone());
        match name {
            // It counts where it is used.
            Some(name) => {
                around.defined.insert(name, closed.weight.nested());
            }
            None => around.weight.add(closed.weight),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let Some(ObjectNamePart::Identifier(name)) = relation.0.last() else { return ControlFlow::Continue(()) };
        let name = folded(name);
        let defined = self.open.iter().rev().find_map(|scope| scope.defined.get(&name).copied());
        let weight = defined.or_else(|| (self.known.view)(&name)).unwrap_or(Weight::ONE);
        self.used(weight);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(call) = expr
            && let Some(ObjectNamePart::Identifier(name)) = call.name.0.last()
            && let Some(weight) = (self.known.function)(&folded(name))
        {
            self.used(weight);
        }
        ControlFlow::Continue(())
    }
}

fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// The weight of everything in `definitions`, each after what it uses; what uses itself counts as one part there.
pub fn weigh_all<'d, D: 'd>(
    definitions: impl Iterator<Item = (&'d str, &'d D)>,
    uses: &dyn Fn(&D) -> Vec<String>,
    weigh: &dyn Fn(&D, &BTreeMap<String, Weight>) -> Weight,
) -> BTreeMap<String, Weight> {
    let definitions: BTreeMap<&str, &D> = definitions.collect();
    let mut done = BTreeMap::new();
    let mut begun = BTreeSet::new();
    for name in definitions.keys() {
        // By hand and not by recursion: a chain of views may be as long as a file.
        let mut open = vec![(*name).to_owned()];
        while let Some(name) = open.last().cloned() {
            let Some(definition) = definitions.get(name.as_str()).filter(|_| !done.contains_key(&name)) else {
                open.pop();
                continue;
            };
            if begun.insert(name.clone()) {
                open.extend(uses(definition).into_iter().filter(|used| !begun.contains(used)));
                continue;
            }
            let weight = weigh(definition, &done);
            done.insert(name, weight);
            open.pop();
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::embedded::query;
    use crate::sql::lexer::tokenize;

    fn weight(text: &str, known: &Known<'_>) -> Weight {
        known.weigh(&*query(&tokenize(text, 0, &mut Vec::new())).unwrap())
    }

    #[test]
    fn a_with_query_counts_wherever_it_is_used() {
        let mut text = "WITH c0 AS (SELECT 1 AS a)".to_owned();
        for n in 1..=30 {
            text += &format!(", c{n} AS (SELECT x.a FROM c{} x, c{} y)", n - 1, n - 1);
        }
        let last = |n: usize| format!("{text} SELECT * FROM c{n}");
        assert!(!weight(&last(5), &Known::NOTHING).is_too_much());
        assert!(weight(&last(30), &Known::NOTHING).is_too_much());
        let unused = weight(&format!("{text} SELECT 1"), &Known::NOTHING);
        assert!(!unused.is_too_much(), "{unused:?}");
    }

    #[test]
    fn views_and_functions_count_as_what_they_are_written_with() {
        let heavy = Weight { parts: MAX_PARTS, levels: 3 };
        let known = Known {
            view: &|name| (name == "v").then_some(heavy),
            function: &|name| (name == "f").then_some(heavy),
        };
        assert!(weight("SELECT * FROM v", &known).is_too_much());
        assert!(weight("SELECT f(1)", &known).is_too_much());
        assert!(!weight("SELECT g(1) FROM \"V\"", &known).is_too_much());
    }

    #[test]
    fn definitions_are_weighed_after_what_they_use() {
        let texts: Vec<(String, Box<Query>)> = (0..50)
            .rev()
            .map(|n| {
                let text = match n {
                    0 => "SELECT 1".to_owned(),
                    n => format!("SELECT 1 FROM v{} a, v{} b", n - 1, n - 1),
                };
                (format!("v{n}"), query(&tokenize(&text, 0, &mut Vec::new())).unwrap())
            })
            .collect();
        let uses = |query: &Query| {
            let mut names = Vec::new();
            let _ = datafusion::sql::sqlparser::ast::visit_relations(query, |name| {
                names.push(name.to_string());
                ControlFlow::<()>::Continue(())
            });
            names
        };
        let weigh = |query: &Query, done: &BTreeMap<String, Weight>| {
            Known { view: &|name| done.get(name).copied(), function: &|_| None }.weigh(query)
        };
        let found = weigh_all(texts.iter().map(|(name, query)| (name.as_str(), &**query)), &uses, &weigh);
        assert_eq!(found.len(), 50);
        assert!(!found["v5"].is_too_much());
        assert!(found["v49"].is_too_much());
    }
}
