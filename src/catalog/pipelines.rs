//! Checks the targets of INSERTs, and that views do not read themselves.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::sqlparser::ast::Query;

use super::definition::{InsertDef, ViewDef};
use super::names::Names;
use super::{Catalog, ColumnDef};
use crate::sql::Diagnostic;
use crate::sql::relations::relations;
use crate::sql::statement::{Insert, ObjectKind};
use crate::sql::suggest::did_you_mean;

impl From<Insert> for InsertDef {
    fn from(insert: Insert) -> Self {
        Self {
            target: insert.target.value,
            target_span: insert.target.span,
            columns: insert.columns.into_iter().map(|column| column.value).collect(),
            query: insert.query,
            span: insert.span,
        }
    }
}

/// Errors: the target is not a table or sink; a named column is not one of its columns.
pub fn check_insert(insert: &Insert, catalog: &Catalog, names: &Names, errors: &mut Vec<Diagnostic>) {
    let target = insert.target.value.as_str();
    if names.is_broken(target) {
        return;
    }
    let kind = names.relation(target);
    match kind {
        Some(ObjectKind::Table | ObjectKind::Sink) => {}
        Some(kind) => {
            let message = format!("`{target}` is a {} and cannot be written", kind.word());
            let error = Diagnostic::new(insert.target.span, message);
            errors.push(error.with_hint("INSERT writes to a table or a sink."));
            return;
        }
        None => {
            let targets = catalog.tables.keys().chain(catalog.sinks.keys()).map(String::as_str);
            let error = Diagnostic::new(insert.target.span, format!("unknown table or sink `{target}`"));
            errors.push(
                error.or_hint(did_you_mean(target, targets)).or_hint(Some(format!(
                    "Declare it: `CREATE TABLE {target} (…)` or `CREATE SINK {target} WITH (…)`."
                ))),
            );
            return;
        }
    }
    let columns: Option<&[ColumnDef]> = match (catalog.tables.get(target), catalog.sinks.get(target)) {
        (Some(table), _) => Some(&table.columns),
        (_, Some(sink)) => Some(&sink.columns),
        _ => None,
    };
    if let Some(columns) = columns {
        super::columns::known(&insert.columns, columns, errors);
    }
}

/// Errors: `seed_from` does not name a table.
pub fn check_seeds(catalog: &Catalog, names: &Names, errors: &mut Vec<Diagnostic>) {
    for seed in catalog.pipelines.iter().filter_map(|pipeline| pipeline.options.seed_from.as_ref()) {
        if catalog.tables.contains_key(&seed.table) || names.is_broken(&seed.table) {
            continue;
        }
        let error = Diagnostic::new(seed.span, format!("unknown table `{}`", seed.table));
        let error = error.with_detail("`seed_from` names the table that holds the history of the pipeline's input.");
        errors.push(error.or_hint(did_you_mean(&seed.table, catalog.tables.keys().map(String::as_str))));
    }
}

/// Reports each view that reads itself, once; returns their names.
///
/// A view reads itself if it is in a strongly connected component of several views, or names itself: Tarjan's algorithm
/// ("Depth-first search and linear graph algorithms", 1972), in time linear in the views and what they name. Iterative, not
/// recursive: a chain of views may be as long as a file.
pub fn check_cycles(views: &BTreeMap<String, ViewDef>, errors: &mut Vec<Diagnostic>) -> Vec<String> {
    let index_of: BTreeMap<&str, usize> =
        views.keys().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
    let reads: Vec<Vec<usize>> = views
        .values()
        .map(|view| {
            relation_names(&view.query).iter().filter_map(|name| index_of.get(name.as_str()).copied()).collect()
        })
        .collect();
    let is_cyclic = cyclic(&reads);
    let mut names = Vec::new();
    for ((name, view), _) in views.iter().zip(is_cyclic).filter(|(_, is_cyclic)| *is_cyclic) {
        errors.push(Diagnostic::new(view.span, format!("view `{name}` reads itself")));
        names.push(name.clone());
    }
    names
}

/// `true` for each node of a graph that lies on a cycle. `edges` lists the successors of each node.
fn cyclic(edges: &[Vec<usize>]) -> Vec<bool> {
    const UNSEEN: usize = usize::MAX;
    let mut found = vec![false; edges.len()];
    // The order in which a node was reached, and the lowest order of a node that it is known to reach.
    let mut order = vec![UNSEEN; edges.len()];
    let mut lowest = vec![UNSEEN; edges.len()];
    let mut is_on_stack = vec![false; edges.len()];
    let (mut stack, mut reached) = (Vec::new(), 0);
    for start in 0..edges.len() {
        // Nodes on the path from `start`, each with the number of its edges that were followed.
        let mut way = if order[start] == UNSEEN { vec![(start, 0)] } else { Vec::new() };
        while let Some((node, followed)) = way.last_mut() {
            let node = *node;
            if *followed == 0 && order[node] == UNSEEN {
                (order[node], lowest[node]) = (reached, reached);
                reached += 1;
                stack.push(node);
                is_on_stack[node] = true;
            }
            if let Some(next) = edges[node].get(*followed).copied() {
                *followed += 1;
                if order[next] == UNSEEN {
                    way.push((next, 0));
                } else if is_on_stack[next] {
                    lowest[node] = lowest[node].min(order[next]);
                }
                continue;
            }
            way.pop();
            if let Some((before, _)) = way.last() {
                lowest[*before] = lowest[*before].min(lowest[node]);
            }
            if lowest[node] == order[node] {
                let from = stack.iter().rposition(|other| *other == node).unwrap_or_default();
                let component = stack.split_off(from);
                let is_cycle = component.len() > 1 || edges[node].contains(&node);
                for member in component {
                    is_on_stack[member] = false;
                    found[member] = is_cycle;
                }
            }
        }
    }
    found
}

/// The relations that a query names, folded as SQL folds them, without those that it defines by WITH.
pub fn relation_names(query: &Query) -> BTreeSet<String> {
    let fold = |quoted: bool, value: &str| if quoted { value.to_owned() } else { value.to_lowercase() };
    let mut names: BTreeSet<String> = relations(query).into_iter().collect();
    for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
        let name = &cte.alias.name;
        let name = fold(name.quote_style.is_some(), &name.value);
        // A WITH query may read the object whose name it hides.
        if !relation_names(&cte.query).contains(&name) {
            names.remove(&name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_on_a_cycle_are_found_and_those_that_lead_to_one_are_not() {
        // 0 -> 1 -> 2 -> 1, 3 -> 3, 4 -> 0, 5.
        let edges = [vec![1], vec![2], vec![1], vec![3], vec![0, 3], vec![]];
        assert_eq!(cyclic(&edges), [false, true, true, true, false, false]);
    }

    #[test]
    fn long_chains_and_wide_graphs_take_linear_time() {
        let count = 200_000;
        let mut chain: Vec<Vec<usize>> =
            (0..count).map(|node| Vec::from_iter((node + 1 < count).then_some(node + 1))).collect();
        assert!(!cyclic(&chain).contains(&true));
        chain[count - 1].push(0);
        assert!(!cyclic(&chain).contains(&false));
        let wide: Vec<Vec<usize>> = (0..2_000).map(|node| (0..node).collect()).collect();
        assert!(!cyclic(&wide).contains(&true));
    }
}
