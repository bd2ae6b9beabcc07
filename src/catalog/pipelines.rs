//! What INSERTs write to, and that views do not read themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{ObjectNamePart, Query, visit_relations};

use super::definition::{InsertDef, ViewDef};
use super::names::Names;
use super::{Catalog, ColumnDef};
use crate::sql::Diagnostic;
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

/// The target must be a table or sink, and the named columns its columns.
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

/// `seed_from` must name a table.
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

/// Views that read themselves, each reported once; gives their names.
pub fn check_cycles(views: &BTreeMap<String, ViewDef>, errors: &mut Vec<Diagnostic>) -> Vec<String> {
    let mut cyclic = Vec::new();
    let reads: BTreeMap<&str, BTreeSet<String>> =
        views.iter().map(|(name, view)| (name.as_str(), relation_names(&view.query))).collect();
    for (name, view) in views {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = reads[name.as_str()].iter().map(String::as_str).collect();
        while let Some(next) = open.pop() {
            if next == name {
                errors.push(Diagnostic::new(view.span, format!("view `{name}` reads itself")));
                cyclic.push(name.clone());
                break;
            }
            if seen.insert(next)
                && let Some(further) = reads.get(next)
            {
                open.extend(further.iter().map(String::as_str));
            }
        }
    }
    cyclic
}

/// The relations that a query names, folded as SQL folds them, without those that it defines in WITH.
pub fn relation_names(query: &Query) -> BTreeSet<String> {
    let fold = |quoted: bool, value: &str| if quoted { value.to_owned() } else { value.to_lowercase() };
    let mut names = BTreeSet::new();
    let _ = visit_relations(query, |relation| {
        if let Some(ObjectNamePart::Identifier(ident)) = relation.0.last() {
            names.insert(fold(ident.quote_style.is_some(), &ident.value));
        }
        ControlFlow::<()>::Continue(())
    });
    for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
        let name = &cte.alias.name;
        let name = fold(name.quote_style.is_some(), &name.value);
        // A WITH query may read the object that it hides.
        if !relation_names(&cte.query).contains(&name) {
            names.remove(&name);
        }
    }
    names
}
