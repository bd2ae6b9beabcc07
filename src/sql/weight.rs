//! The planning cost of a query with everything that it names expanded: each use of a view or of a WITH query counts as its
//! whole text, so that forty views that each read the previous one twice are refused before anything plans them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, TableFactor, Visit, Visitor,
};

/// Tables, calls and grouping sets of an expanded query.
pub const MAX_PARTS: usize = 2_000;
/// Nesting of views and WITH queries.
pub const MAX_LEVELS: usize = 100;
/// Tables that one SELECT joins, with those of its subqueries, views and WITH queries: planning joins costs the cube of
/// their number.
pub const MAX_JOINED: usize = 100;
/// Nesting of subqueries in expressions: each level doubles the cost of planning.
pub const MAX_SUBQUERIES: usize = 10;
/// Nesting of definitions in WITH: DataFusion looks twice at each for the tables that it names, so each level doubles the work.
pub const MAX_DEFINITIONS: usize = 10;
/// Different windows in one SELECT: each is sorted separately, and planning costs the square of their number.
pub const MAX_WINDOWS: usize = 100;

/// `*` and `unnest` in one SELECT: each stands for as many columns as a table or a struct has.
pub const MAX_EXPANDED: usize = 100;

/// The planning cost of a query, view or function when expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Tables, queries, grouping sets, and the parts of SQL functions that are called.
    pub parts: usize,
    /// Nesting of views and WITH queries.
    pub levels: usize,
    /// Tables of the SELECT that joins most.
    pub joined: usize,
    /// Nesting of subqueries in expressions.
    pub subqueries: usize,
    /// Nesting of definitions in WITH.
    pub definitions: usize,
    /// Different windows of the SELECT that has most.
    pub windows: usize,
    /// `*` and `unnest` of the SELECT that has most.
    pub expanded: usize,
}

impl Weight {
    /// A table, or a function that is not written in SQL.
    pub const ONE: Self =
        Self { parts: 1, levels: 0, joined: 1, subqueries: 0, definitions: 0, windows: 0, expanded: 0 };

    /// True if the query is refused.
    pub fn is_too_much(self) -> bool {
        self.excess().is_some()
    }

    /// The limit that is exceeded, as a sentence.
    pub fn excess(self) -> Option<String> {
        let of_all = "each use of a view, a WITH query or a SQL function counts as its text";
        if self.subqueries > MAX_SUBQUERIES {
            return Some(format!("More than {MAX_SUBQUERIES} subqueries in expressions stand one inside the other."));
        }
        if self.definitions > MAX_DEFINITIONS {
            return Some(format!("More than {MAX_DEFINITIONS} definitions in WITH stand one inside the other."));
        }
        if self.joined > MAX_JOINED {
            return Some(format!("One SELECT joins more than {MAX_JOINED} tables; {of_all}."));
        }
        if self.windows > MAX_WINDOWS {
            return Some(format!("One SELECT computes over more than {MAX_WINDOWS} different windows."));
        }
        if self.expanded > MAX_EXPANDED {
            return Some(format!("One SELECT has more than {MAX_EXPANDED} `*` and `unnest`."));
        }
        if self.levels > MAX_LEVELS {
            return Some(format!("More than {MAX_LEVELS} views or WITH queries stand one inside the other."));
        }
        (self.parts > MAX_PARTS)
            .then(|| format!("It comes to more than {MAX_PARTS} tables, calls and grouping sets; {of_all}."))
    }

    /// The weight of a view or WITH query where it is used: one level deeper.
    #[must_use]
    pub fn nested(self) -> Self {
        Self { levels: self.levels.saturating_add(1), ..self }
    }

    fn add(&mut self, used: Self) {
        self.parts = self.parts.saturating_add(used.parts);
        self.levels = self.levels.max(used.levels);
        self.subqueries = self.subqueries.max(used.subqueries);
        self.definitions = self.definitions.max(used.definitions);
        self.windows = self.windows.max(used.windows);
        self.expanded = self.expanded.max(used.expanded);
    }
}

/// Weights of the objects that queries name.
pub struct Known<'a> {
    /// Weight of a view; `None` if the name is not a view's.
    pub view: &'a dyn Fn(&str) -> Option<Weight>,
    /// Weight of a function written in SQL; `None` for other functions.
    pub function: &'a dyn Fn(&str) -> Option<Weight>,
}

impl Known<'_> {
    /// No views and no SQL functions.
    pub const NOTHING: Known<'static> = Known { view: &|_| None, function: &|_| None };

    /// The weight of `ast`: a query, a statement or an expression.
    pub fn weigh(&self, ast: &impl Visit) -> Weight {
        let mut weighing = Weighing { known: self, open: vec![Scope::default()], definitions: 0 };
        let _: ControlFlow<()> = ast.visit(&mut weighing);
        weighing.open.first().map_or(Weight::ONE, Scope::total)
    }
}

/// A query whose weight is being computed.
struct Scope {
    weight: Weight,
    /// Its WITH queries, by their address in the syntax tree, with their names.
    named: Vec<(*const Query, String)>,
    /// Weights of the WITH queries that were computed already.
    defined: BTreeMap<String, Weight>,
    /// Numbers of tables of its SELECTs in progress; they nest only without a query between them.
    selects: Vec<usize>,
    /// `*` and `unnest` of the SELECT in progress.
    expanded: usize,
    /// Windows of the SELECT in progress, as they are written.
    windows: BTreeSet<String>,
    /// Subqueries in expressions that are in progress.
    subqueries: usize,
    /// Grouping sets of its GROUP BY.
    sets: usize,
    /// Table functions in progress: a table argument is written as a subquery but does not count as one.
    table_functions: usize,
}

impl Default for Scope {
    fn default() -> Self {
        let weight = Weight { joined: 0, ..Weight::ONE };
        Self {
            weight,
            named: Vec::new(),
            defined: BTreeMap::new(),
            selects: Vec::new(),
            expanded: 0,
            windows: BTreeSet::new(),
            subqueries: 0,
            sets: 1,
            table_functions: 0,
        }
    }
}

impl Scope {
    /// Adds something used in the query, inside `around` subqueries.
    fn use_of(&mut self, weight: Weight, around: usize) {
        self.weight.add(Weight { subqueries: around.saturating_add(weight.subqueries), ..weight });
        match self.selects.last_mut() {
            Some(tables) => *tables = tables.saturating_add(weight.joined),
            None => self.weight.joined = self.weight.joined.max(weight.joined),
        }
    }

    fn expand(&mut self, more: usize) {
        self.expanded = self.expanded.saturating_add(more);
        self.weight.expanded = self.weight.expanded.max(self.expanded);
    }

    /// The query's weight, once it was read completely.
    fn total(&self) -> Weight {
        Weight { parts: self.weight.parts.saturating_add(self.sets), ..self.weight }
    }
}

struct Weighing<'a> {
    known: &'a Known<'a>,
    open: Vec<Scope>,
    /// Definitions in WITH that are in progress.
    definitions: usize,
}

impl Weighing<'_> {
    fn used(&mut self, weight: Weight) {
        let around: usize = self.open.iter().map(|scope| scope.subqueries).sum();
        if let Some(scope) = self.open.last_mut() {
            scope.use_of(weight, around);
        }
    }
}

impl Visitor for Weighing<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        let named = with.map(|cte| (std::ptr::from_ref(&*cte.query), folded(&cte.alias.name))).collect();
        let defines = |around: &Scope| around.named.iter().any(|(named, _)| std::ptr::eq(*named, query));
        self.definitions += usize::from(self.open.last().is_some_and(defines));
        let weight = Weight { definitions: self.definitions, ..Scope::default().weight };
        self.open.push(Scope { weight, named, ..Scope::default() });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let Some(closed) = self.open.pop() else { return ControlFlow::Continue(()) };
        let closed = closed.total();
        let Some(around) = self.open.last_mut() else { return ControlFlow::Continue(()) };
        let name = around.named.iter().find(|(named, _)| std::ptr::eq(*named, query)).map(|(_, name)| name.clone());
        match name {
            // It counts at each use; only its depth counts by itself.
            Some(name) => {
                self.definitions -= 1;
                around.weight.definitions = around.weight.definitions.max(closed.definitions);
                around.defined.insert(name, closed.nested());
            }
            // Its subqueries were counted at their position.
            None => around.use_of(closed, 0),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let is_star = |item: &&SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        if let Some(scope) = self.open.last_mut() {
            scope.selects.push(0);
            scope.expand(select.projection.iter().filter(is_star).count());
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _select: &Select) -> ControlFlow<()> {
        if let Some(scope) = self.open.last_mut() {
            let tables = scope.selects.pop().unwrap_or_default();
            scope.weight.joined = scope.weight.joined.max(tables);
            scope.windows.clear();
            scope.expanded = 0;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let Some(scope) = self.open.last_mut() {
            scope.table_functions += usize::from(is_table_function(factor));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let Some(scope) = self.open.last_mut() {
            scope.table_functions -= usize::from(is_table_function(factor)).min(scope.table_functions);
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
            self.used(Weight { joined: 0, ..weight });
        }
        let around: usize = self.open.iter().map(|scope| scope.subqueries).sum();
        if let Some(scope) = self.open.last_mut() {
            if let Expr::Function(call) = expr
                && let Some(window) = &call.over
                && scope.windows.len() <= MAX_WINDOWS
            {
                scope.windows.insert(window.to_string());
                scope.weight.windows = scope.weight.windows.max(scope.windows.len());
            }
            match expr {
                Expr::Function(call) if call.name.to_string().eq_ignore_ascii_case("unnest") => scope.expand(1),
                _ if is_subquery(expr) && scope.table_functions == 0 => {
                    scope.subqueries += 1;
                    scope.weight.subqueries = scope.weight.subqueries.max(around + 1);
                }
                Expr::Cube(sets) => {
                    let count = u32::try_from(sets.len()).ok().and_then(|sets| 2_usize.checked_pow(sets));
                    scope.sets = scope.sets.saturating_mul(count.unwrap_or(usize::MAX));
                }
                Expr::Rollup(sets) => scope.sets = scope.sets.saturating_mul(sets.len() + 1),
                Expr::GroupingSets(sets) => scope.sets = scope.sets.saturating_mul(sets.len().max(1)),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if is_subquery(expr)
            && let Some(scope) = self.open.last_mut()
            && scope.table_functions == 0
        {
            scope.subqueries = scope.subqueries.saturating_sub(1);
        }
        ControlFlow::Continue(())
    }
}

fn is_table_function(factor: &TableFactor) -> bool {
    matches!(factor, TableFactor::Table { args: Some(_), .. } | TableFactor::Function { .. })
}

fn is_subquery(expr: &Expr) -> bool {
    matches!(expr, Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. })
}

fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// The weights of `definitions`, each computed after those that it uses; a definition that uses itself counts as one part
/// there.
pub fn weigh_all<'d, D: 'd>(
    definitions: impl Iterator<Item = (&'d str, &'d D)>,
    uses: &dyn Fn(&D) -> Vec<String>,
    weigh: &dyn Fn(&D, &BTreeMap<String, Weight>) -> Weight,
) -> BTreeMap<String, Weight> {
    let definitions: BTreeMap<&str, &D> = definitions.collect();
    let mut done = BTreeMap::new();
    let mut begun = BTreeSet::new();
    for name in definitions.keys() {
        // Iterative, not recursive: a chain of views may be as long as a file.
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
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;
    use crate::sql::embedded::query;
    use crate::sql::lexer::tokenize;

    fn weight(text: &str, known: &Known<'_>) -> Weight {
        let mut parser = Parser::new(&GenericDialect).try_with_sql(text).unwrap();
        known.weigh(&*parser.parse_query().unwrap())
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
    fn joins_subqueries_and_grouping_sets_are_bounded() {
        let join = |tables: usize| format!("SELECT 1 FROM t{}", " JOIN t ON true".repeat(tables - 1));
        let nested = |times: usize| format!("SELECT {}1{}", "(SELECT ".repeat(times), ")".repeat(times));
        let union = vec![join(30); 10].join(" UNION ALL ");
        let defined =
            |times: usize| format!("{}SELECT 1{}", "WITH w AS (".repeat(times), ") SELECT * FROM w".repeat(times));
        let cube = |columns: usize| format!("SELECT 1 FROM t GROUP BY CUBE ({})", vec!["a"; columns].join(", "));
        let windows = |count: usize| {
            let over = |n: usize| format!("sum(a) OVER (ORDER BY a + {n})");
            format!("SELECT {} FROM t", (0..count).map(over).collect::<Vec<_>>().join(", "))
        };
        let through = format!("WITH a AS ({}) SELECT 1 FROM a x, a y", join(60));
        for (text, passes) in [
            (join(100), true),
            (join(101), false),
            (nested(10), true),
            (nested(11), false),
            (union, true),
            (through, false),
            (windows(100), true),
            (windows(101), false),
            (format!("{} UNION ALL {}", windows(60), windows(60)), true),
            (format!("SELECT {} FROM t", vec!["sum(a) OVER (ORDER BY a)"; 400].join(", ")), true),
            (format!("SELECT {} FROM t", vec!["*"; 100].join(", ")), true),
            (format!("SELECT {} FROM t", vec!["t.*"; 101].join(", ")), false),
            (format!("SELECT {} FROM t", vec!["unnest(a)"; 101].join(", ")), false),
            (defined(10), true),
            (defined(11), false),
            (cube(8), true),
            (cube(12), false),
            (cube(300), false),
            ("SELECT 1 FROM t GROUP BY CUBE (a, b, c, d, e, f), CUBE (g, h, i, j, k, l)".to_owned(), false),
            (vec!["SELECT 1 FROM t"; 450].join(" UNION ALL "), true),
        ] {
            let tokens = tokenize(&text, 0, &mut Vec::new());
            assert_eq!(query(&tokens).is_ok(), passes, "{text:.60}");
        }
    }

    #[test]
    fn views_and_functions_count_as_what_they_are_written_with() {
        let heavy = Weight { parts: MAX_PARTS, ..Weight::ONE };
        let known =
            Known { view: &|name| (name == "v").then_some(heavy), function: &|name| (name == "f").then_some(heavy) };
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
